# A real kubelet, without a cluster: static pods, and its checkpoint API. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # cgroup, apparmor, limited: lib.sh's and the machine's

manifests=/etc/kubernetes/manifests

# start_kubelet DRIVER: as a unit of its own, and waits until it answers.
start_kubelet() {
    mkdir -p "$manifests" "$work/kubelet"
    jq -n --arg driver "$1" --arg pods "$manifests" '{
        apiVersion: "kubelet.config.k8s.io/v1beta1", kind: "KubeletConfiguration",
        staticPodPath: $pods, fileCheckFrequency: "1s", cgroupDriver: $driver,
        enforceNodeAllocatable: ["pods"], failSwapOn: false, failCgroupV1: false,
        makeIPTablesUtilChains: false, evictionHard: {}, localStorageCapacityIsolation: false,
        containerRuntimeEndpoint: "unix:///run/thawd/thawd.sock", address: "127.0.0.1",
        authentication: {anonymous: {enabled: true}, webhook: {enabled: false}},
        authorization: {mode: "AlwaysAllow"}
    }' >"$work/kubelet/config.json"
    systemd-run --quiet --unit=kubelet --property=KillMode=process kubelet \
        --config "$work/kubelet/config.json" --hostname-override node --node-ip 192.0.2.10 || return
    soon 120 healthy || { journalctl -u kubelet -o cat -n 20 && return 1; }
}

healthy() { [ "$(curl -sk https://127.0.0.1:10250/healthz)" = ok ]; }

# static_pod NAME IMAGE: gives the kubelet a pod of the class Guaranteed. Renamed, so that it is never
# read half.
static_pod() {
    jq -n --arg name "$1" --arg image "$2" '{
        apiVersion: "v1", kind: "Pod", metadata: {name: $name, namespace: "default"},
        spec: {
            restartPolicy: "Never", terminationGracePeriodSeconds: 2,
            containers: [{
                name: "c", image: $image, imagePullPolicy: "Never",
                command: ["/bin/workload", "counter"],
                resources: {limits: {memory: "64Mi", cpu: "500m"}}
            }]
        }
    }' >"$work/kubelet/$1.json"
    mv "$work/kubelet/$1.json" "$manifests/"
}

# find_pod NAME: sets id and log to those of the static pod's running container.
find_pod() {
    id=$(crictl ps -q --label "io.kubernetes.pod.name=$1-node" --state running)
    [ -n "$id" ] && log=$(of "$id" .status.logPath)
}

# runs_pod NAME: a check that it runs within a minute.
runs_pod() {
    if soon 120 find_pod "$1"; then
        ok "the static pod $1 runs"
    else
        fail "the static pod $1 runs" "$(journalctl -u kubelet -o cat | grep -E '^[EW]' | tail -n 4)"
    fi
}

no_pods() { [ -z "$(crictl pods -q)" ]; }

# in_pod_slice WHAT: the container is below the pod's slice, with the limits that the pod asks for.
in_pod_slice() {
    [ "$cgroup" = v2 ] || return 0
    has "$1 is in a scope of the slice that the kubelet made" \
        '^/sys/fs/cgroup/kubepods\.slice/kubepods-pod[0-9a-f_]+\.slice/[^/]*\.scope$' \
        "$(cgroup_of "$id")"
    has "$1 has the pod's limits" '^67108864 [^ ]+ 50000 100000 ' "$(limits_of "$id")"
}

story_kubelet() {
    local driver=systemd answer archive
    [ "$cgroup" = v2 ] || driver=cgroupfs
    check "a kubelet with the cgroup driver $driver starts" start_kubelet "$driver" || return
    has "the kubelet takes the cgroup driver from thawd" "received from the CRI.*$driver" \
        "$(journalctl -u kubelet -o cat | grep -i 'cgroup driver')"
    static_pod counter "$workload"
    if runs_pod counter; then
        check "it counts" counts_on "$log"
        in_pod_slice "its container"
        systemctl daemon-reload
        in_pod_slice "after daemon-reload, its container"
        [ "$apparmor" = off ] ||
            has "its container has thawd's AppArmor profile" "$default_label" "$(label_of "$id")"
        answer=$(curl -sk -X POST "https://127.0.0.1:10250/checkpoint/default/counter-node/c?timeout=60")
        archive=$(jq -r '.items[0] // empty' <<<"$answer" 2>/dev/null)
        has "the kubelet's checkpoint API gives an archive" "^$archives/checkpoint-counter" \
            "${archive:-$answer}"
        check "it runs on" counts_on "$log"
    fi
    rm -f "$manifests/counter.json"
    check "the kubelet ends the pod" soon 120 no_running counter
    if [ -n "${archive:-}" ] && check "the archive becomes an image" \
        thaw image from-checkpoint "$archive" localhost/counter:frozen; then
        static_pod thawed localhost/counter:frozen
        if runs_pod thawed; then
            check "thawed, it counts on" counts_on "$log"
            check "thawed, no number is missing or there twice" gapless "$log"
            in_pod_slice "thawed, its container"
        fi
        rm -f "$manifests/thawed.json"
        check "the kubelet ends the thawed pod" soon 120 no_running thawed
    fi
    stop_kubelet
}

no_running() { ! find_pod "$1"; }

# stop_kubelet: ends it and removes what it leaves on a machine.
stop_kubelet() {
    systemctl stop kubelet
    drop_all
    findmnt -rno TARGET | grep '^/var/lib/kubelet/' | xargs -r umount
    systemctl stop kubepods-besteffort.slice kubepods-burstable.slice kubepods.slice 2>/dev/null
    find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null
    rm -f "$archives"/*
}
