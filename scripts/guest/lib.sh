# Checks, and what they ask thawd and the kernel. Sourced by story.sh.
# shellcheck shell=bash disable=SC2034,SC2154 # read by the parts; cgroup is a setting of the machine
#
# A check prints one line: `ok   NAME`, or `FAIL NAME: what was seen`. A part of the story that cannot
# go on returns; the parts are independent of each other. `$at` stands before each name. Pods, containers
# and archives of a part are named by it, so that they differ from those of the others.

at=
work=/root/story
archives=/var/lib/kubelet/checkpoints
base=localhost/thawd/busybox:latest
workload=localhost/thawd/workload:latest
failed=0

# fail NAME SEEN: in one line, not too long.
fail() {
    local seen
    seen=$(tr -s '\n\t ' ' ' <<<"$2")
    printf 'FAIL %s%s: %s\n' "$at" "$1" "${seen:0:700}"
    failed=$((failed + 1))
    return 1
}

ok() { printf 'ok   %s%s\n' "$at" "$1"; }

# check NAME COMMAND...: the command succeeds.
check() {
    local name=$1 seen status=0
    shift
    seen=$("$@" 2>&1) || status=$?
    if [ "$status" = 0 ]; then ok "$name"; else fail "$name" "${seen:-$1 ended with $status}"; fi
}

# is NAME WANTED SEEN: both are the same.
is() { if [ "$2" = "$3" ]; then ok "$1"; else fail "$1" "${3:-nothing}, not ${2:-nothing}"; fi; }

# has NAME PATTERN SEEN: an extended regular expression is found in it.
has() { if grep -qE -- "$2" <<<"$3"; then ok "$1"; else fail "$1" "${3:-nothing}, not like $2"; fi; }

# lacks NAME PATTERN SEEN: it is not found.
lacks() { if grep -qE -- "$2" <<<"$3"; then fail "$1" "$3"; else ok "$1"; fi; }

# soon SECONDS COMMAND...: succeeds as soon as the command does, within that time; otherwise shows what
# it said last.
soon() {
    local until=$((SECONDS + $1))
    shift
    until "$@" >"$work/said" 2>&1; do
        if [ "$SECONDS" -ge "$until" ]; then
            cat "$work/said"
            return 1
        fi
        sleep 0.3
    done
}

# opens WHAT NAME [FILTER]: a check that a pod comes up under the runtime $handler; sets $pod to its id.
# The jq filter changes its configuration.
opens() {
    local folder=$work/$handler-$2
    mkdir -p "$folder"
    jq -n --arg name "$handler-$2" --arg logs "$folder" '{
        metadata: {name: $name, uid: "uid-\($name)", namespace: "default", attempt: 0},
        hostname: "pod", log_directory: $logs,
        linux: {security_context: {namespace_options: {pid: 1}}}
    }' | jq "${3:-.}" >"$folder/pod.json"
    if pod=$(crictl runp --runtime "$handler" "$folder/pod.json" 2>"$work/errors"); then
        ln -sfn "$folder" "$work/$pod"
        ok "$1"
    else
        fail "$1" "$(cat "$work/errors")"
    fi
}

# starts WHAT NAME IMAGE FILTER [COMMAND...]: a check that a container of $pod is created and starts;
# sets $id, and $log to its log file.
starts() {
    local what=$1 name=$2 image=$3 filter=$4 folder=$work/$pod
    shift 4
    log=$folder/$name.log
    jq -n --arg name "$name" --arg image "$image" '{
        metadata: {name: $name, attempt: 0}, image: {image: $image},
        command: $ARGS.positional, log_path: "\($name).log", linux: {}
    }' --args -- "$@" | jq "$filter" >"$folder/$name.json"
    if id=$(crictl create "$pod" "$folder/$name.json" "$folder/pod.json" 2>"$work/errors") &&
        crictl start "$id" >/dev/null 2>"$work/errors"; then
        ok "$what"
    else
        fail "$what" "$(cat "$work/errors")"
    fi
}

# drop POD...: stops and removes pods with their containers.
drop() {
    local one
    for one in "$@"; do
        [ -z "$one" ] || { crictl stopp "$one" && crictl rmp "$one"; } >/dev/null || return
    done
}

# drop_all: those that are there, whoever made them.
drop_all() {
    # shellcheck disable=SC2046 # an id a word
    drop $(crictl pods -q)
}

# of ID EXPRESSION: a field of a container's status, such as .status.state.
of() { crictl inspect "$1" | jq -r "$2"; }

pid() { of "$1" .info.pid; }

in_state() { [ "$(of "$1" .status.state)" = "CONTAINER_$2" ]; }

# cgroup_of ID [CONTROLLER]: the folder of a container's cgroup.
cgroup_of() {
    local line
    if [ "$cgroup" = v2 ]; then
        line=$(sed -n 's/^0:://p' "/proc/$(pid "$1")/cgroup")
        echo "/sys/fs/cgroup$line"
    else
        line=$(grep -E "^[0-9]+:([a-z,]*,)?$2(,[a-z,]*)?:" "/proc/$(pid "$1")/cgroup")
        echo "/sys/fs/cgroup/$2${line##*:}"
    fi
}

# cgroup_root: where a container sees its cgroup; one of them under cgroup v1.
cgroup_root() { if [ "$cgroup" = v2 ]; then echo /sys/fs/cgroup; else echo /sys/fs/cgroup/pids; fi; }

# limits_of ID: its limits on memory, swap, cpu and processes, in the words of cgroup v2; that on memory
# is none where the node has no controller for it.
limits_of() {
    local folder most=none
    if [ "$cgroup" = v2 ]; then
        folder=$(cgroup_of "$1")
        echo "$(cat "$folder/memory.max") $(cat "$folder/memory.swap.max")" \
            "$(cat "$folder/cpu.max") $(cat "$folder/pids.max")"
    else
        [ "$memory" = no ] || most=$(cat "$(cgroup_of "$1" memory)/memory.limit_in_bytes")
        echo "$most 0" \
            "$(cat "$(cgroup_of "$1" cpu)/cpu.cfs_quota_us")" \
            "$(cat "$(cgroup_of "$1" cpu)/cpu.cfs_period_us") 77"
    fi
}

# Debian 13's kernel has no memory controller for cgroup v1.
memory=yes
if [ "$cgroup" = v1 ] && [ ! -e /sys/fs/cgroup/memory/tasks ]; then memory=no; fi

# A container with these limits, and what limits_of says of it. Only cgroup v2 has `unified`.
limits='.linux.resources = {
    memory_limit_in_bytes: 67108864, memory_swap_limit_in_bytes: 67108864,
    cpu_period: 100000, cpu_quota: 50000, unified: {"pids.max": "77"}}'
[ "$cgroup" = v2 ] || limits+=' | del(.linux.resources.unified)'
limited='67108864 0 50000 100000 77'
if [ "$memory" = no ]; then
    limits+=' | del(.linux.resources | .memory_limit_in_bytes, .memory_swap_limit_in_bytes)'
    limited='none 0 50000 100000 77'
fi

# counted LOG: the last number in it, 0 before the first.
counted() { grep -o 'count=[0-9]*' "$1" 2>/dev/null | tail -n 1 | grep -o '[0-9]*$' || echo 0; }

reached() { [ "$(counted "$1")" -ge "$2" ]; }

# counts_on LOG: five more numbers come.
counts_on() {
    local from
    from=$(counted "$1")
    soon 120 reached "$1" $((from + 5)) ||
        { echo "it stands at $(counted "$1"); log ends: $(tail -n 2 "$1")" && return 1; }
}

# gapless LOG: its numbers are 1, 2, 3 and so on, none missing and none twice. A restored container's
# log begins with what its archive holds of the former.
gapless() {
    grep -o 'count=[0-9]*' "$1" | awk -F= '$2 != NR {
        print "line", NR, "has", $2; bad = 1; exit } END { exit bad || NR == 0 }'
}

# Counts as well, for containers whose user may not write /status.
# shellcheck disable=SC2016 # the container's shell expands it
shell_counter='n=0; while :; do n=$((n + 1)); echo "count=$n"; sleep 0.2; done'
