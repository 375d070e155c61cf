# The story: everything that must hold on a node. Sourced by main.sh in a shell of its own, whose
# exit status tells whether it held.
# shellcheck shell=bash disable=SC2154 # apparmor, cgroup, sections: the machine's settings
# shellcheck source=/dev/null
. /lane/guest/lib.sh
for part in basics checkpoint security slices apparmor layers survival kubelet leftovers; do
    # shellcheck source=/dev/null
    . "/lane/guest/$part.sh"
done

# Each runtime's parts; those of them that look at the whole node; and those that are told once.
beside=(basics checkpoint security)
alone=()
once=(layers survival)
# A kubelet does not start without a memory controller.
[ "$memory" = no ] || once+=(kubelet)
[ "$apparmor" = off ] || beside+=(apparmor)
# cgroup v1 has no slices of thawd's.
[ "$cgroup" = v1 ] || alone+=(slices)

# tell TITLE PART: unless this run is about others; and how long it took.
tell() {
    local began=$SECONDS
    [ -z "$sections" ] || [[ " $sections " = *" $2 "* ]] || return 0
    at="$1: "
    "story_$2"
    printf '     %s: %d s\n' "$1" "$((SECONDS - began))"
}

# tell_beside: what the runtime $handler does beside the other one; in a shell of its own.
tell_beside() {
    work=$work/$handler
    mkdir -p "$work"
    for part in "${beside[@]}"; do tell "$handler, $part" "$part"; done
    [ "$failed" = 0 ]
}

mkdir -p "$work"
handler=
remember_node
at="node: "
check "thawd runs as a unit" start_thawd || exit 1
check "the images are loaded" load_images || exit 1
node_facts

# The machine has two processors, and one runtime alone keeps one of them busy.
both=()
for handler in crun runc; do
    (tell_beside) &
    both+=("$!")
done
for one in "${both[@]}"; do
    wait "$one" || failed=$((failed + 1))
done
for handler in crun runc; do
    for part in "${alone[@]}"; do tell "$handler, $part" "$part"; done
done
handler=
for part in "${once[@]}"; do tell "$part" "$part"; done
at="leftovers: "
story_leftovers
[ "$failed" = 0 ]
