#!/usr/bin/env bash
# Runs thawd as people's nodes have it: in a virtual machine with a Debian kernel, systemd as its first
# process, cgroup v2 and AppArmor. The machine is emulated, so no KVM is needed; it has no network.
#
#   scripts/vm.sh SUITE [--apparmor=off] [--cgroup=v1] [COMMAND...]
#
# SUITE is bookworm, trixie or sid. The first run of one makes its disk (scripts/lib/vm-disk.sh).
# Without COMMAND the machine runs the story in scripts/guest/: a line a check, and at the end how
# many passed and failed. With COMMAND it runs that instead, on a node that has thawd running.
#
#   --apparmor=off    the kernel starts without AppArmor; otherwise Debian's stock profiles are loaded
#   --cgroup=v1       cgroup v1 alone, where the suite's systemd still has it
#
# What the machine's kernel and thawd wrote is kept in target/vm/. Read from the environment:
#   THAWD_VM_PROGRAMS    a folder with thawd, thaw, thawd-monitor, thawd-criu-relay and workload;
#                        without it they are built
#   THAWD_VM_SECTIONS    parts of the story to tell, such as "basics slices"; all without it
#   THAWD_VM_MINUTES     time for one machine, boot included; 30 without it
#   THAWD_VM_DISK        a file that the machine sees as its disk /dev/vdc; it is not written to
#   THAWD_VM_CACHE, THAWD_DEBIAN_MIRROR    see scripts/lib/vm-disk.sh
. "$(dirname "$0")/lib/common.sh"
. "$repo/scripts/lib/vm-disk.sh"
. "$repo/scripts/lib/vm-boot.sh"

usage="usage: scripts/vm.sh bookworm|trixie|sid [--apparmor=off] [--cgroup=v1] [COMMAND...]"
suite=${1:-}
case $suite in
bookworm | trixie | sid) shift ;;
-h | --help)
    sed -n '2,21s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*) die "unknown suite ${suite:-(none)}; $usage" ;;
esac
apparmor=on
cgroup=v2
while [ $# -gt 0 ]; do
    case $1 in
    --apparmor=off) apparmor=off ;;
    --cgroup=v1) cgroup=v1 ;;
    --) shift && break ;;
    -*) die "unknown option $1; $usage" ;;
    *) break ;;
    esac
    shift
done
need_root "making a machine's disk"
[ "$(uname -m)" = x86_64 ] || die "the machines are made for x86_64 only, this is $(uname -m)"

kernel_line="root=/dev/vda rw console=ttyS0 quiet panic=-1"
[ "$apparmor" = on ] || kernel_line+=" apparmor=0"
if [ "$cgroup" = v1 ]; then
    kernel_line+=" systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1"
    case $suite in
    bookworm) ;;
    trixie) kernel_line+=" SYSTEMD_CGROUP_ENABLE_LEGACY_FORCE=1" ;;
    *) die "systemd of $suite has no cgroup v1 any more; it was taken out in version 258" ;;
    esac
fi

target=${CARGO_TARGET_DIR:-$repo/target}
logs=$target/vm/$suite
[ "$apparmor" = on ] || logs+=-apparmor-off
[ "$cgroup" = v2 ] || logs+=-cgroup-v1

# programs: names the folder of the programs, after building them where nobody else did.
programs() {
    if [ -n "${THAWD_VM_PROGRAMS:-}" ]; then
        echo "$THAWD_VM_PROGRAMS"
        return
    fi
    "$repo/scripts/install-deps.sh" --tests >&2
    (cd "$repo" && quietly "building thawd" cargo build --locked --release --workspace --bins)
    echo "$target/release"
}

# stage FOLDER: what the second disk brings into the machine.
stage() {
    local bin name tools
    bin=$(programs)
    mkdir -p "$1/bin" "$1/images"
    for name in thawd thaw thawd-monitor thawd-criu-relay; do
        [ -x "$bin/$name" ] || die "$bin/$name is not there"
        cp "$bin/$name" "$1/bin/"
    done
    tools=crictl
    # The kubelet takes minutes to build.
    case " ${THAWD_VM_SECTIONS:-kubelet} " in *" kubelet "*) tools+=" kubelet" ;; esac
    # shellcheck disable=SC2086 # a name a word
    tools=$("$repo/scripts/build-tools.sh" $tools)
    # shellcheck disable=SC2086 # a path a line
    cp $tools "$1/bin/"
    for name in base workload layers; do
        workload=$bin/workload "$repo/scripts/build-image.sh" "$name" "$target/images/$name.tar" >&2
        cp "$target/images/$name.tar" "$1/images/"
    done
    cp -r "$repo/scripts/guest" "$1/guest"
    cp "$repo/packaging/thawd.service" "$1/"
    printf '%s=%q\n' suite "$suite" apparmor "$apparmor" cgroup "$cgroup" \
        sections "${THAWD_VM_SECTIONS:-}" >"$1/settings"
    shift
    if [ $# -gt 0 ]; then printf '%q ' "$@"; fi
}

# run COMMAND...: the whole run. In a function, as bash would read the rest of a script that changes
# meanwhile.
run() {
    local began try
    mkdir -p "$vm_cache" "$logs"
    rm -f "$logs"/panic-*
    work=$(mktemp -d /var/tmp/thawd-vm.XXXXXX)
    trap end_machine EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP

    # One machine at a time: two would only wait for each other's processors.
    exec 9>"$vm_cache/lock"
    if ! flock -n 9; then
        say "another machine runs; waiting until it has ended"
        flock 9
    fi
    vm_make "$suite" 9>&-
    stage "$work/lane" "$@" >"$work/command" 9>&-
    mv "$work/command" "$work/lane/command"
    truncate -s 1G "$work/lane.ext4"
    mke2fs -q -t ext4 -L lane -d "$work/lane" "$work/lane.ext4"

    began=$(date +%s)
    for try in 1 2 3; do
        say "booting $suite (AppArmor $apparmor, cgroup $cgroup)"
        boot "$kernel_line" 9>&-
        if [ "$try" = 3 ] || ! panicked; then break; fi
        say "the machine's kernel panicked by a fault of the emulator; everything once more"
        cp "$logs/console.log" "$logs/panic-$try.txt"
    done
    say "the machine ran for $(elapsed "$began")"

    if [ $# -gt 0 ]; then
        [ -n "$machine_status" ] || die "the machine ended before the command did; see $logs/console.log"
        exit "$machine_status"
    fi
    if [ -z "$machine_status" ]; then
        count_line "FAIL the story came to its end: the machine ended before it"
    fi
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" = 0 ] || say "the kernel's log is $logs/console.log, thawd's is $logs/thawd.log"
    [ "$failed" = 0 ]
    exit
}
run "$@"
