#!/usr/bin/env bash
# usage: scripts/install-criu.sh [PREFIX]
#
# Puts a CRIU that this kernel can be used with under PREFIX (default /opt/thawd/criu), and
# checkpointctl beside it: PREFIX/bin/criu, PREFIX/bin/checkpointctl. Does nothing, quickly, when
# they are there.
#
# The distribution's CRIU is used where it is new enough for the kernel: Debian 13's is for its own, and
# kernels from 6.16 on need CRIU 4.2. Where it is not, Debian unstable's is unpacked under PREFIX; see
# scripts/lib/unstable.sh. The kernel is the running one; THAWD_KERNEL names another (6.12.117), as for
# a system that is prepared in a chroot.
. "$(dirname "$0")/lib/common.sh"
. "$repo/scripts/lib/unstable.sh"
. "$repo/scripts/lib/criu.sh"

case ${1:-} in
-h | --help)
    sed -n '2,3s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
-*) die "unknown option $1; usage: scripts/install-criu.sh [PREFIX]" ;;
esac
prefix=$(prefix_of "${1:-}" /opt/thawd/criu)

kernel=${THAWD_KERNEL:-$(uname -r)}
want=$(criu_needed "$kernel")

# criu_version PROGRAM: the version it prints, or nothing.
criu_version() {
    "$1" --version 2>/dev/null | sed -n 's/^Version: *\([0-9][0-9.]*\).*/\1/p'
}

# usable PROGRAM: whether it is a CRIU, and new enough.
usable() {
    local have
    have=$(criu_version "$1")
    [ -n "$have" ] && at_least "$have" "$want"
}

complete() {
    usable "$prefix/bin/criu" && "$prefix/bin/checkpointctl" help >/dev/null 2>&1
}
if complete; then exit 0; fi

need_root "installing CRIU under $prefix"
alone "$prefix"
if complete; then exit 0; fi

unstable=()
host_criu=$(type -P criu || true)
case $host_criu in "$prefix"/*) host_criu= ;; esac
if [ -z "$host_criu" ] || ! usable "$host_criu"; then
    offered=$(candidate criu)
    if [ -n "$offered" ] && at_least "$offered" "$want"; then
        DEBIAN_FRONTEND=noninteractive quietly "installing the distribution's criu $offered" \
            apt-get -o Dpkg::Use-Pty=0 install -y --no-install-recommends criu
        host_criu=$(type -P criu)
    else
        say "checkpoint/restore requires at least CRIU $want on kernel $kernel, found ${host_criu:-none}"
        host_criu=
        unstable+=(criu)
    fi
fi
host_checkpointctl=$(type -P checkpointctl || true)
case $host_checkpointctl in "$prefix"/*) host_checkpointctl= ;; esac
[ -n "$host_checkpointctl" ] || unstable+=(checkpointctl)

if [ "${#unstable[@]}" -gt 0 ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    fetch "$scratch" "${unstable[@]}"
    unpack "$prefix" "$scratch"
    # Plugins of the host's CRIU, if there are any, belong to another version.
    for name in "${unstable[@]}"; do
        wrap_unstable "$prefix" "$name" "CRIU_LIBS_DIR='$prefix/sysroot/plugins'"
    done
fi
[ -z "$host_criu" ] || wrap "$prefix" criu "exec '$host_criu' \"\$@\""
[ -z "$host_checkpointctl" ] || wrap "$prefix" checkpointctl "exec '$host_checkpointctl' \"\$@\""

usable "$prefix/bin/criu" ||
    die "checkpoint/restore requires at least CRIU $want on kernel $kernel, found $(criu_version "$prefix/bin/criu") at $prefix/bin/criu"
"$prefix/bin/checkpointctl" help >/dev/null || die "$prefix/bin/checkpointctl does not run"
say "CRIU $(criu_version "$prefix/bin/criu") is at $prefix/bin/criu"
