# AppArmor profiles of containers. Sourced by story.sh where the kernel has AppArmor on.
# shellcheck shell=bash disable=SC2154 # handler, pod, id, log, base: lib.sh's

# The label of the profile that thawd loads for RuntimeDefault, as a regular expression.
default_label='^thawd-default \(enforce\)$'

label_of() { tr -d '\0\n' <"/proc/$(pid "$1")/attr/current"; }

# tries ID: what the container may do of what only AppArmor forbids. It has CAP_SYS_ADMIN, a writable
# /proc/sys, and no seccomp filter.
tries() {
    crictl exec -s "$1" sh -c '
        (echo lane >/proc/sys/kernel/hostname) 2>/dev/null && echo wrote
        mkdir -p /tmp/m && mount -t tmpfs none /tmp/m 2>/dev/null && echo mounted && umount /tmp/m
        cat /srv/data/keep 2>/dev/null
        echo tried' 2>&1 | tr '\n' ' ' | sed 's/ *$//'
}

# profile TYPE [NAME]: a filter that gives the container this profile, and CAP_SYS_ADMIN.
profile() {
    echo ".linux.security_context = {
        capabilities: {add_capabilities: [\"SYS_ADMIN\"]}, seccomp: {profile_type: 1},
        masked_paths: [\"/proc/kcore\"], readonly_paths: [\"/proc/irq\"],
        apparmor: {profile_type: $1, localhost_ref: \"${2:-}\"}}"
}

# labelled WHAT LABEL TRIES: the container $id has a label like this, and what it may do.
labelled() {
    has "$1, its label is right" "$2" "$(label_of "$id")"
    is "$1, it may do what it should" "$3" "$(tries "$id")"
}

# each_profile DO: calls DO with WHAT NAME FILTER LABEL TRIES for each kind of profile.
each_profile() {
    # The first shows that the others' refusals are AppArmor's.
    "$1" "the profile Unconfined" unconfined "$(profile 1)" \
        '^unconfined$|\(unconfined\)$' "wrote mounted keep tried"
    "$1" "the profile RuntimeDefault" default "$(profile 0)" "$default_label" "keep tried"
    "$1" "a Localhost profile" localhost "$(profile 2 lane-deny)" \
        '^lane-deny \(enforce\)$' "wrote mounted tried"
    "$1" "no word about a profile" silent \
        "$(profile 0) | del(.linux.security_context.apparmor)" "$default_label" "keep tried"
}

starts_labelled() {
    starts "a container with $1 runs" "$2" "$base" "$3" sh -c "$shell_counter" || return
    labelled "with $1" "$4" "$5"
    check "with $1, it counts" counts_on "$log"
    check "with $1, it is frozen" freeze "$id" "$2"
}

thaws_labelled() {
    thaws "with $1, it thaws" "$2" "$2" "$3" || return
    labelled "with $1, thawed" "$4" "$5"
    has "with $1, thawed, a command in it has the label too" "$4" \
        "$(crictl exec -s "$id" cat /proc/self/attr/current 2>&1 | tr -d '\0')"
}

story_apparmor() {
    apparmor_parser -r <<'PROFILE' || fail "the test's profile is loaded" "apparmor_parser failed"
profile lane-deny flags=(attach_disconnected, mediate_deleted) {
  file,
  mount,
  umount,
  capability,
  network,
  signal,
  ptrace,
  unix,
  deny /srv/data/keep rw,
}
PROFILE
    opens "a pod comes up" profiles || return
    each_profile starts_labelled
    check "the pod is removed" drop "$pod"
    opens "another pod comes up" profiles-thawed || return
    each_profile thaws_labelled
    check "the other pod is removed" drop "$pod"
}
