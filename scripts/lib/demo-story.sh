#!/usr/bin/env bash
# The story that scripts/demo.sh tells, inside namespaces of its own. Run by demo.sh only.
. "$(dirname "$0")/common.sh"

target=${CARGO_TARGET_DIR:-$repo/target}
bin=$target/release
image=localhost/thawd/busybox:latest
# /var/tmp and not /tmp, which may be a tmpfs: images and root filesystems belong on a disk.
dir=$(mktemp -d /var/tmp/thawd-demo.XXXXXX)
cgroup=thawd-demo-$$
socket=$dir/run/thawd.sock
thawd_pid=

# shows LABEL VALUE: one line of what really happened.
shows() { printf '    %-26s %s\n' "$1" "$2"; }

cri() { "$bin/cri-call" "unix://$socket" "$@"; }

# kills every process below our own cgroups (the pods' and the monitors'), in whichever hierarchies
# the machine has, and removes them.
remove_cgroups() {
    local hierarchy pid round name
    for round in $(seq 50); do
        local left=no
        while read -r hierarchy; do
            for name in "$hierarchy/$cgroup" "$hierarchy/$cgroup-monitors"; do
                [ -d "$name" ] || continue
                left=yes
                while read -r pid; do kill -KILL "$pid" 2>/dev/null || true; done < <(
                    find "$name" -name cgroup.procs -exec cat {} + 2>/dev/null)
                find "$name" -depth -type d -exec rmdir {} + 2>/dev/null || true
            done
        done < <(awk '$3 ~ /^cgroup2?$/ {print $2}' /proc/self/mounts)
        [ "$left" = yes ] || return 0
        [ "$round" = 50 ] || sleep 0.1
    done
    printf 'cgroup %s could not be removed\n' "$cgroup" >&2
    return 1
}

clean_up() {
    local status=$?
    trap - EXIT INT TERM HUP
    if [ "$status" != 0 ]; then
        printf '\033[1;31merror:\033[0m the story broke off; thawd wrote:\n' >&2
        tail -n 30 "$dir/thawd.log" >&2 2>/dev/null || true
    fi
    if [ -n "$thawd_pid" ]; then
        kill -KILL "$thawd_pid" 2>/dev/null || true
        wait "$thawd_pid" 2>/dev/null || true
    fi
    remove_cgroups || status=1
    awk -v dir="$dir/" 'index($2, dir) == 1 {print $2}' /proc/self/mounts | tac |
        while read -r point; do umount -l "$point" 2>/dev/null || true; done
    rm -rf "$dir" || status=1
    exit "$status"
}
trap clean_up EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# start_thawd: starts the private daemon and waits until it answers.
start_thawd() {
    "$bin/thawd" --config "$dir/config.toml" --root "$dir/root" --run "$dir/run" \
        --listen "unix://$socket" 2>>"$dir/thawd.log" &
    thawd_pid=$!
    local round
    for round in $(seq 200); do
        cri version >/dev/null 2>&1 && return 0
        kill -0 "$thawd_pid" 2>/dev/null || die "thawd ended"
        sleep 0.1
    done
    die "thawd does not answer at $socket"
}

# kill_thawd: no warning, as a crash would.
kill_thawd() {
    kill -KILL "$thawd_pid"
    wait "$thawd_pid" 2>/dev/null || true
    thawd_pid=
}

# counted LOG: the last number in it, 0 before the first.
counted() { { grep -o 'count [0-9]*' "$1" 2>/dev/null || true; } | tail -n 1 | tr -dc 0-9 | grep . || echo 0; }

# wait_count LOG N: waits until the container has counted to N.
wait_count() {
    local round
    for round in $(seq 300); do
        [ "$(counted "$1")" -ge "$2" ] && return 0
        sleep 0.1
    done
    die "the container did not count to $2; its log ends: $(tail -n 2 "$1" 2>/dev/null)"
}

# wait_lines LOG N: waits until the log has N lines.
wait_lines() {
    local round
    for round in $(seq 300); do
        [ "$(wc -l <"$1" 2>/dev/null || echo 0)" -ge "$2" ] && return 0
        sleep 0.1
    done
    die "the container did not write a line"
}

ip link set lo up
mkdir -p "$dir"/{cni,logs,archives}
plugins=/usr/lib/cni
[ -x /opt/cni/bin/bridge ] && plugins=/opt/cni/bin
cat >"$dir/cni/10-demo.conflist" <<CNI
{
  "cniVersion": "1.0.0", "name": "demo",
  "plugins": [{
    "type": "bridge", "bridge": "thawd-demo", "isGateway": true,
    "ipam": {
      "type": "host-local", "dataDir": "$dir/ipam",
      "ranges": [[{"subnet": "10.86.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]
    }
  }]
}
CNI
cat >"$dir/config.toml" <<CONFIG
cgroup_driver = "cgroupfs"
cgroup_parent = "/$cgroup"
[cni]
conf_dirs = ["$dir/cni"]
bin_dirs = ["$plugins"]
[checkpoint]
restore_directories = ["$dir/archives"]
CONFIG

say "starting a private thawd"
start_thawd
shows "runtime" "$(cri version), process $thawd_pid"
shows "socket" "unix://$socket"

say "loading the image, built from Debian's busybox, without a registry"
"$bin/thaw" --address "unix://$socket" image load "$target/images/base.tar" >/dev/null
shows "image" "$image, $(stat -c %s "$target/images/base.tar") bytes"

say "a pod comes up, and a container in it counts"
mkdir -p "$dir/logs/first" "$dir/logs/second"
pod=$(cri run-pod first "$dir/logs/first" "/$cgroup/first")
shows "pod" "${pod:0:13}, address $(cri pod-ip "$pod")"
container=$(cri create "$pod" counter "$image" \
    sh -c 'trap "exit 0" TERM; n=0; while :; do n=$((n + 1)); echo "count $n"; sleep 0.1; done')
cri start "$container"
log=$dir/logs/first/counter.log
wait_count "$log" 20
shows "container" "${container:0:13}, $(cri state "$container")"
shows "count" "$(counted "$log")"

say "it is frozen to an archive, and runs on"
archive=$dir/archives/counter.tar
low=$(counted "$log")
start=$(date +%s%N)
cri checkpoint "$container" "$archive"
took=$((($(date +%s%N) - start) / 1000000))
high=$(counted "$log")
frozen=$(tar -xOf "$archive" manifest.json | jq -r '.frozen_ns / 1e6 | . * 10 | round / 10')
shows "checkpoint took" "$took ms, of which the container was frozen $frozen ms"
shows "count meanwhile" "$low to $high"
shows "archive" "$(stat -c '%s bytes, mode %a, owner %U:%G' "$archive")"
[ "$(stat -c '%a %u %g' "$archive")" = "600 0 0" ] || die "the archive is not root's alone"
tar -tvf "$archive" | sed 's/^/        /'
wait_count "$log" $((high + 5))
shows "count of the original" "$(counted "$log") and rising, state $(cri state "$container")"

say "everything is killed: the container, the pod, and thawd itself"
cri stop "$container"
cri remove "$container"
cri stop-pod "$pod"
cri remove-pod "$pod"
kill_thawd
start_thawd
shows "runtime" "$(cri version), process $thawd_pid"

say "a new pod, and in it a container thawed from the archive"
pod=$(cri run-pod second "$dir/logs/second" "/$cgroup/second")
shows "pod" "${pod:0:13}, address $(cri pod-ip "$pod")"
start=$(date +%s%N)
container=$(cri create "$pod" counter "$archive")
cri start "$container"
took=$((($(date +%s%N) - start) / 1000000))
log=$dir/logs/second/counter.log
# The new log begins with what the archive holds of the old one.
old=$(tar -xOf "$archive" container.log | wc -l)
wait_lines "$log" $((old + 1))
first=$(tail -n +$((old + 1)) "$log" | grep -o 'count [0-9]*' | head -n 1 | tr -dc 0-9)
shows "restore took" "$took ms, container ${container:0:13}, $(cri state "$container")"
shows "count at the freeze" "$((first - 1))"
[ "$first" -gt "$low" ] && [ "$first" -le $((high + 1)) ] ||
    die "it was frozen between $low and $high, but its first count is $first"
wait_count "$log" $((first + 20))
shows "count after the restore" "$first to $(counted "$log"), and rising"

say "cleaning up"
cri stop "$container"
cri remove "$container"
cri stop-pod "$pod"
cri remove-pod "$pod"
kill -TERM "$thawd_pid"
wait "$thawd_pid" || die "thawd did not end cleanly"
thawd_pid=
say "frozen, killed, thawed: the container counted on from where it was frozen"
