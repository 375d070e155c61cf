# Who a container is, and what it may do to the host, before and after a checkpoint. Sourced by story.sh.
# shellcheck shell=bash disable=SC2154 # handler, pod, id, log, archives, cgroup: lib.sh's

# status_of ID FIELD: a line of /proc/PID/status, one space between its words.
status_of() { sed -n "s/^$2:\s*//p" "/proc/$(pid "$1")/status" | xargs; }

# refrozen WHAT NAME POD-FILTER FILTER: freezes the running container, removes its pod and thaws it in a
# new one.
refrozen() {
    check "$1 is frozen" freeze "$id" "$2" || return
    drop "$pod"
    opens "another pod comes up" "$2-thawed" "$3" || return
    thaws "$1 thaws" "$2" "$2" "$4"
}

story_security() {
    story_user
    story_privileged
    story_host_network
}

user='.linux.security_context = {
    run_as_user: {value: 1000}, run_as_group: {value: 1000}, supplemental_groups: [2000]}'

is_user() {
    is "$1 is user and group 1000" "1000 1000 1000 1000, 1000 1000 1000 1000" \
        "$(status_of "$id" Uid), $(status_of "$id" Gid)"
    is "$1 has the groups 1000 and 2000" "1000 2000" \
        "$(status_of "$id" Groups | tr ' ' '\n' | sort -n | xargs)"
    is "$1 has no capability" 0000000000000000 "$(status_of "$id" CapEff)"
}

story_user() {
    opens "a pod comes up" user || return
    starts "a container of user 1000 runs" user "$base" "$user" sh -c "$shell_counter" || return
    check "it counts" counts_on "$log"
    is_user "it"
    refrozen "the user's container" user . "$user" && is_user "thawed, it"
    drop "$pod"
}

# host_options: how the host's cgroups are mounted.
host_options() { findmnt -rno TARGET,OPTIONS -t cgroup,cgroup2; }

# writes_cgroup WHAT: the container can make a cgroup.
writes_cgroup() {
    local folder
    folder=$(cgroup_root)
    is "$1 can write to its cgroups" 'done' \
        "$(crictl exec -s "$id" sh -c "mkdir $folder/lane-$handler && rmdir $folder/lane-$handler && echo done" 2>&1)"
}

story_privileged() {
    local all before privileged='.linux.security_context.privileged = true'
    all=$(sed -n 's/^CapBnd:\s*//p' /proc/1/status)
    before=$(host_options)
    opens "a privileged pod comes up" privileged "$privileged" || return
    starts "a privileged container runs" privileged "$base" "$privileged" \
        sh -c "$shell_counter" || return
    is "the host's cgroup mounts are as before" "$before" "$(host_options)"
    is "it has all capabilities" "$all" "$(status_of "$id" CapEff)"
    writes_cgroup "it"
    check "it counts" counts_on "$log"
    restore_options "$before"
    if refrozen "the privileged container" privileged "$privileged" "$privileged"; then
        is "the host's cgroup mounts are as before it thawed" "$before" "$(host_options)"
        is "thawed, it has all capabilities" "$all" "$(status_of "$id" CapEff)"
        writes_cgroup "thawed, it"
    fi
    drop "$pod"
    restore_options "$before"
}

# restore_options OPTIONS: puts the host's cgroup2 back, so that a failed check has one cause only.
restore_options() {
    [ "$cgroup" = v2 ] && [ "$(host_options)" != "$1" ] || return 0
    mount -o "remount,${1#* }" /sys/fs/cgroup
}

story_host_network() {
    local host='.linux.security_context.namespace_options.network = 2'
    opens "a pod on the host's network comes up" host "$host" || return
    starts "a container in it runs" host "$base" "$host" \
        sh -c "$shell_counter" || return
    is "it is in the host's network namespace" "$(readlink /proc/1/ns/net)" \
        "$(readlink "/proc/$(pid "$id")/ns/net")"
    check "it counts" counts_on "$log"
    refrozen "the container on the host's network" host "$host" "$host" &&
        is "thawed, it is in the host's network namespace" "$(readlink /proc/1/ns/net)" \
            "$(readlink "/proc/$(pid "$id")/ns/net")"
    drop "$pod"
}
