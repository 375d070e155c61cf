# Containers, their limits and ends, as every node needs them. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # handler, pod, id, log, cgroup, limits: lib.sh's

load_images() {
    thaw image load /lane/images/base.tar && thaw image load /lane/images/workload.tar
}

# What the node says of itself, and what thawd says no to. Told once.
node_facts() {
    local driver=SYSTEMD said
    [ "$cgroup" = v2 ] || driver=CGROUPFS
    has "thawd tells the kubelet the cgroup driver $driver" "$driver" "$(crictl runtime-config 2>&1)"
    is "thawd's unit is at peace" "active running" \
        "$(systemctl show -P ActiveState thawd) $(systemctl show -P SubState thawd)"
    said=$(handler='' opens "" userns '.linux.security_context.namespace_options.userns_options = {
        mode: 0, uids: [{host_id: 100000, container_id: 0, length: 65536}],
        gids: [{host_id: 100000, container_id: 0, length: 65536}]}' 2>&1)
    has "a pod with a user namespace is refused, and told why" \
        'code = (InvalidArgument|Unimplemented).*user namespaces? ' "$said"
}

story_basics() {
    opens "a pod comes up" basics || return
    starts "a container with limits runs" limits "$workload" "$limits" /bin/workload counter || return
    is "the runtime is $handler" "$handler" "$(crictl inspectp "$pod" | jq -r .status.runtimeHandler)"
    check "it counts" counts_on "$log"
    is "its limits are in its cgroup" "$limited" "$(limits_of "$id")"
    [ "$cgroup" = v1 ] || is "it sees its own cgroup as the root" "0::/" \
        "$(crictl exec -s "$id" cat /proc/self/cgroup)"
    lacks "it cannot write to its cgroup" '^lane-wrote$' \
        "$(crictl exec -s "$id" sh -c "mkdir $(cgroup_root)/x && echo lane-wrote" 2>&1)"
    is "exec has the command's output" "out" "$(crictl exec -s "$id" sh -c 'echo out' 2>&1)"
    has "exec has the command's exit code" '(exit|status|code)[^0-9]*7' \
        "$(crictl exec -s "$id" sh -c 'exit 7' 2>&1; echo "exit $?")"
    check "it stops" crictl stop -t 5 "$id"
    is "it has ended" CONTAINER_EXITED "$(of "$id" .status.state)"
    story_ends
    check "the pod is removed" drop "$pod"
    story_pod_network
}

# How containers end.
story_ends() {
    local small
    if [ "$memory" = no ]; then
        story_memory_refused
        return
    fi
    small='.linux.resources = {memory_limit_in_bytes: 33554432, memory_swap_limit_in_bytes: 33554432}'
    if starts "a container that takes too much memory starts" greedy "$workload" "$small" \
        /bin/workload memory=100; then
        check "it ends" soon 120 in_state "$id" EXITED
        is "the kernel killed it for its memory" "137 OOMKilled" \
            "$(of "$id" '"\(.status.exitCode) \(.status.reason)"')"
    fi
    if starts "a container whose child takes too much memory starts" parent "$workload" "$small" \
        sh -c '/bin/workload memory=100; exit 3'; then
        check "it ends" soon 120 in_state "$id" EXITED
        is "it ended by itself, with its own exit code" "3 Error" \
            "$(of "$id" '"\(.status.exitCode) \(.status.reason)"')"
    fi
}

# A limit that nothing could keep.
story_memory_refused() {
    local folder=$work/$pod
    jq '.metadata.name = "memory" | .linux.resources = {memory_limit_in_bytes: 67108864}' "$folder/limits.json" \
        >"$folder/memory.json"
    has "a limit on memory is refused, and told why" \
        'code = FailedPrecondition.*memory_limit_in_bytes needs the cgroup controller .{0,2}memory' \
        "$(crictl create "$pod" "$folder/memory.json" "$folder/pod.json" 2>&1)"
}

# Two pods reach each other.
story_pod_network() {
    local first address
    opens "the server's pod comes up" server || return
    starts "the server runs" server "$base" . \
        sh -c 'echo hello >/tmp/index.html; exec busybox httpd -f -p 80 -h /tmp' || return
    first=$pod
    address=$(crictl inspectp "$first" | jq -r .status.network.ip)
    has "it has an address" '^10\.86\.0\.' "$address"
    opens "the client's pod comes up" client || return
    if starts "the client runs" client "$base" . sleep 3600; then
        is "the client reaches the server" hello \
            "$(crictl exec -s "$id" wget -qO - "http://$address/" 2>&1)"
    fi
    check "both pods are removed" drop "$pod" "$first"
}
