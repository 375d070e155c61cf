# The story: everything that must hold on a node. Sourced by main.sh in a shell of its own, whose
# exit status tells whether it held.
# shellcheck shell=bash disable=SC2154 # apparmor, cgroup, sections: the machine's settings
# shellcheck source=/dev/null
. /lane/guest/lib.sh
for part in basics checkpoint security slices apparmor layers survival kubelet leftovers; do
    # shellcheck source=/dev/null
    . "/lane/guest/$part.sh"
done

# Each handler's parts, and those that are told once. cgroup v1 has no slices of thawd's.
each=(basics checkpoint security)
[ "$cgroup" = v1 ] || each+=(slices)
[ "$apparmor" = off ] || each+=(apparmor)
once=(layers survival kubelet)

# wanted PART: whether this run tells it.
wanted() { [ -z "$sections" ] || [[ " $sections " = *" $1 "* ]]; }

# tell TITLE: the part $part; and how long it took.
tell() {
    local began=$SECONDS
    at="$1: "
    "story_$part"
    printf '     %s: %d s\n' "$1" "$((SECONDS - began))"
}

mkdir -p "$work"
handler=
remember_node
at="node: "
check "thawd runs as a unit" start_thawd || exit 1
check "the images are loaded" load_images || exit 1
node_facts
for handler in crun runc; do
    for part in "${each[@]}"; do
        wanted "$part" || continue
        tell "$handler, $part"
    done
done
handler=
for part in "${once[@]}"; do
    wanted "$part" || continue
    tell "$part"
done
part=leftovers
tell leftovers
[ "$failed" = 0 ]
