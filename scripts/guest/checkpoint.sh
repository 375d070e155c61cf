# Freezing and thawing. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # handler, pod, id, log, limits, archives: lib.sh's

# freeze ID ARCHIVE: checkpoints a container to a file of this name below $archives.
freeze() { crictl checkpoint --export="$archives/$2" "$1"; }

# thaws WHAT POD-NAME POD-FILTER ARCHIVE FILTER: a check that a container is thawed in a new pod, and
# counts on. Sets pod, id and log as `run` does.
thaws() {
    starts "$1" "$2" "$3" "$archives/$4" "$5" || return
    check "$1, and counts on" counts_on "$log"
    check "$1, and no number is missing or there twice" gapless "$log"
}

story_checkpoint() {
    local archive=$handler-first.tar second=$handler-second.tar first
    starts "a container runs" "$handler-first" . "$workload" "$limits" /bin/workload counter || return
    first=$pod
    counts_on "$log" >/dev/null
    check "it is frozen to an archive" freeze "$id" "$archive" || return
    check "it runs on" counts_on "$log"
    is "the archive is root's alone" "600 root root" "$(stat -c '%a %U %G' "$archives/$archive")"
    check "thaw finds nothing wrong with it" thaw verify "$archives/$archive"
    check "its pod is removed" drop "$first"

    thaws "it thaws in a new pod" "$handler-thawed" . "$archive" "$limits" || return
    is "the thawed container's limits are in its cgroup" "$limited" "$(limits_of "$id")"
    has "exec works in it" '^count=[0-9]* ok' "$(crictl exec -s "$id" /bin/workload check 2>&1)"
    first=$pod
    check "the thawed container is frozen again" freeze "$id" "$second" &&
        drop "$first" &&
        thaws "it thaws a second time" "$handler-again" . "$second" "$limits" &&
        is "its limits are there again" "$limited" "$(limits_of "$id")"
    check "its pod is removed" drop "$pod"
    rm -f "$archives/$archive" "$archives/$second"
    story_memory
}

# Much memory: the container runs while it is written.
story_memory() {
    local archive=$handler-memory.tar
    starts "a container with 256 MiB of memory runs" "$handler-memory" . "$workload" . \
        /bin/workload memory=256 || return
    check "it has filled its memory" soon 120 reached "$log" 3
    check "256 MiB are frozen" freeze "$id" "$archive" || return
    has "it ran while its memory was written" 'copy_on_write=true' \
        "$(journalctl -u thawd -o cat | sed 's/\x1b\[[0-9;]*m//g' | grep 'checkpoint written' | tail -n 1)"
    check "it runs on" counts_on "$log"
    drop "$pod"
    thaws "256 MiB thaw" "$handler-memory-thawed" . "$archive" . &&
        has "its memory is what it was" ' ok memory' \
            "$(crictl exec -s "$id" /bin/workload check 2>&1)"
    drop "$pod"
    rm -f "$archives/$archive"
}
