# Freezing and thawing. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # handler, pod, id, log, limits, archives: lib.sh's

# freeze ID ARCHIVE: checkpoints a container to $archives/$handler-ARCHIVE.tar.
freeze() { crictl checkpoint --export="$archives/$handler-$2.tar" "$1"; }

# freeze_beside ID ARCHIVE: a checkpoint that lets the container run while its memory is written. Where
# that cannot be had within its time limits thawd lets the container stand, as it does at times on an
# emulated machine that has much to do: so there are three tries.
freeze_beside() {
    local try said
    for try in 1 2 3; do
        rm -f "$archives/$handler-$2.tar"
        freeze "$1" "$2" || return
        said=$(journalctl -u thawd -o cat | sed 's/\x1b\[[0-9;]*m//g' |
            grep "checkpoint written.*$handler-$2.tar" | tail -n 1)
        if [[ $said = *copy_on_write=true* ]]; then return 0; fi
        echo "try $try: $said"
    done
    return 1
}

# thaws WHAT NAME ARCHIVE FILTER: a check that a container is thawed in $pod and counts on. Sets id and
# log as `starts` does.
thaws() {
    starts "$1" "$2" "$archives/$handler-$3.tar" "$4" || return
    check "$1, and counts on" counts_on "$log"
    check "$1, and no number is missing or there twice" gapless "$log"
}

# Two containers, a small one with limits and one with much memory, are frozen, thawed in another pod,
# and that again.
story_checkpoint() {
    local small
    opens "a pod comes up" first || return
    starts "a container runs" small "$workload" "$limits" /bin/workload counter || return
    small=$id
    check "it counts" counts_on "$log"
    check "it is frozen to an archive" freeze "$small" small || return
    check "it runs on" counts_on "$log"
    is "the archive is root's alone" "600 root root" \
        "$(stat -c '%a %U %G' "$archives/$handler-small.tar")"
    check "thaw finds nothing wrong with it" thaw verify "$archives/$handler-small.tar"
    if starts "a container with 256 MiB of memory runs" large "$workload" . \
        /bin/workload memory=256; then
        check "it has filled its memory" soon 120 reached "$log" 3
        check "256 MiB are frozen, and it runs while they are written" freeze_beside "$id" large
        check "it runs on" counts_on "$log"
    fi
    check "the pod is removed" drop "$pod"

    opens "a second pod comes up" second || return
    thaws "256 MiB thaw in it" large large . &&
        has "its memory is what it was" ' ok memory' \
            "$(crictl exec -s "$id" /bin/workload check 2>&1)"
    thaws "the small one thaws in it" small small "$limits" || return
    is "the thawed container's limits are in its cgroup" "$limited" "$(limits_of "$id")"
    has "exec works in it" '^count=[0-9]* ok' "$(crictl exec -s "$id" /bin/workload check 2>&1)"
    check "the thawed container is frozen again" freeze "$id" again
    check "the second pod is removed" drop "$pod"

    opens "a third pod comes up" third || return
    thaws "it thaws a second time" small again "$limits" &&
        is "its limits are there again" "$limited" "$(limits_of "$id")"
    check "the third pod is removed" drop "$pod"
    rm -f "$archives/$handler"-*.tar
}
