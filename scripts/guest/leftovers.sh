# What is left on the node when everything is removed: nothing. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # work: lib.sh's

# kernel_objects: what containers and pods are made of, one a line.
kernel_objects() {
    # systemd's own come and go with its units.
    find /sys/fs/cgroup -type d | grep -vE '\.(service|socket|mount|swap)(/|$)|/system-[^/]*\.slice$' |
        sed 's/^/cgroup /'
    findmnt -rno TARGET | sed 's/^/mount /'
    systemctl list-units --all --plain --no-legend --type=scope,slice | awk '{print "unit", $1}' |
        grep -v 'unit system-'
    # The bridge is the CNI plugin's, which leaves it for the next pod.
    ip -o link | awk -F': ' '{print "interface", $2}' | grep -v 'interface cni0$'
    iptables-save 2>/dev/null | grep -vE '^[#:*]|^COMMIT' | sed 's/^/rule /'
    lsns -n -t net -o NS | sort -u | wc -l | sed 's/^ */network namespaces /'
    find /var/lib/cni/networks -type f -name '[0-9]*' 2>/dev/null | sed 's/^/address /'
    # shellcheck disable=SC2009 # pgrep of Debian 12 wants patterns of at most 15 characters
    ps -eo comm=,pid=,args= | grep -E '^(thawd|workload|runc|crun|criu)' | sed 's/^/process /'
}

# remember_node: before thawd has run for the first time.
remember_node() { kernel_objects | sort >"$work/before"; }

# new_objects: those that were not there in the beginning.
new_objects() { kernel_objects | sort | comm -13 "$work/before" -; }

story_leftovers() {
    local kind left
    check "every pod is removed" drop_all
    is "thawd knows no container" "" "$(crictl ps -aq)"
    systemctl stop thawd
    soon 5 nothing_new
    left=$(new_objects)
    for kind in process cgroup mount unit interface rule network address; do
        is "no $kind is left" "" "$(grep "^$kind " <<<"$left")"
    done
    is "thawd ended well" "success" "$(systemctl show -P Result thawd)"
}

nothing_new() { [ -z "$(new_objects)" ]; }
