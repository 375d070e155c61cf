# systemd's slices as a kubelet with the systemd driver names them. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # handler, pod, id, log, archives, limits: lib.sh's

# The folder that systemd has for a pod's slice of this name.
slice_folder() { echo "/sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/$1"; }

# in_slice WHAT SLICE: the container is in a scope of this slice, and its limits are there, also after
# systemd has gone over what it knows.
in_slice() {
    local folder scope
    folder=$(cgroup_of "$id")
    scope=$(basename "$folder")
    has "$1 is in a scope of the pod's slice" "^$(slice_folder "$2")/[^/]*\.scope$" "$folder"
    is "$1's scope is systemd's" "active $2" \
        "$(systemctl show -P ActiveState "$scope" 2>&1) $(systemctl show -P Slice "$scope" 2>&1)"
    is "$1's limits are in its cgroup" "$limited" "$(limits_of "$id" 2>&1)"
    systemctl daemon-reload
    systemctl set-property --runtime "$2" CPUWeight=50
    is "$1's limits survive daemon-reload and set-property" "$limited" "$(limits_of "$id" 2>&1)"
    lacks "$1's monitor is outside of the pod's slice" "$2" \
        "$(for one in $(pgrep -x thawd-monitor); do cat "/proc/$one/cgroup"; done)"
}

# no_slices: nothing is left of them.
no_slices() {
    local left
    left=$(find /sys/fs/cgroup -type d -name 'kubepods*'
        systemctl list-units --plain --no-legend --state=active 'kubepods*')
    [ -z "$left" ] || { echo "$left" && return 1; }
}

story_slices() {
    local first=kubepods-besteffort-pod${handler}1.slice
    local second=kubepods-besteffort-pod${handler}2.slice
    opens "a pod in a slice that nobody made comes up" slice ".linux.cgroup_parent = \"$first\"" ||
        return
    starts "a container in it runs" slice "$workload" "$limits" /bin/workload counter || return
    check "it counts" counts_on "$log"
    in_slice "the container" "$first"
    check "it is frozen" freeze "$id" slice
    check "it runs on" counts_on "$log"
    check "its pod is removed" drop "$pod"
    check "the slices that thawd made are gone" soon 10 no_slices

    # As a kubelet does: it makes the slice before the pod and removes it after it.
    systemctl start "$second"
    opens "a pod in another slice comes up" slice-thawed ".linux.cgroup_parent = \"$second\""
    if thaws "it thaws in it" slice slice "$limits"; then
        in_slice "the thawed container" "$second"
        check "it is frozen in the slice" freeze "$id" slice-again
    fi
    check "the pod in the other slice is removed" drop "$pod"
    is "the slice that somebody else made stays" active \
        "$(systemctl is-active "$second")"
    systemctl stop "$second" kubepods-besteffort.slice kubepods.slice
    systemctl revert "$first" "$second" 2>/dev/null
    check "no slice is left" soon 10 no_slices
    # What was left has been told; the next runtime begins without it.
    find /sys/fs/cgroup -depth -type d -path '*/kubepods*' -exec rmdir {} + 2>/dev/null
}
