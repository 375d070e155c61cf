# Containers outlive the daemon, under both runtimes. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # handler, pod, id, log, archives: lib.sh's

# crash: the daemon ends without warning, and its unit starts another.
crash() {
    local before
    before=$(systemctl show -P MainPID thawd)
    systemctl kill --kill-whom=main --signal=KILL thawd
    soon 30 another_daemon "$before" && soon 60 answers
}

# another_daemon PID: whether the unit has a process, and not this one.
another_daemon() {
    local now
    now=$(systemctl show -P MainPID thawd)
    [ "$now" != 0 ] && [ "$now" != "$1" ]
}

# stop_start: the daemon ends as it should, and is away for a while.
stop_start() {
    systemctl stop thawd && sleep 2 && start_thawd
}

# restart: as an update does.
restart() { systemctl restart thawd && soon 60 answers; }

story_survival() {
    local -A pods=() ids=() logs=()
    local event
    for handler in crun runc; do
        opens "a pod under $handler comes up" survivor || continue
        starts "a container in it runs" survivor "$workload" "$limits" /bin/workload counter ||
            continue
        pods[$handler]=$pod ids[$handler]=$id logs[$handler]=$log
        counts_on "$log" >/dev/null
    done
    for event in restart stop_start crash; do
        check "thawd is there again after $event" "$event" || return
        for handler in "${!ids[@]}"; do
            id=${ids[$handler]} log=${logs[$handler]}
            is "after $event, $handler's container runs" CONTAINER_RUNNING "$(of "$id" .status.state)"
            check "after $event, $handler's container counts on" counts_on "$log"
            check "after $event, $handler's container has skipped no number" gapless "$log"
            has "after $event, exec works in $handler's container" '^count=[0-9]* ok' \
                "$(crictl exec -s "$id" /bin/workload check 2>&1)"
            is "after $event, $handler's container has its limits" "$limited" "$(limits_of "$id")"
        done
    done
    for handler in "${!ids[@]}"; do
        pod=${pods[$handler]} id=${ids[$handler]} log=${logs[$handler]}
        refrozen "$handler's survivor" survivor . "$limits"
        check "$handler's survivor is removed" drop "$pod"
    done
}
