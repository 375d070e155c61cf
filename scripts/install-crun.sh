#!/usr/bin/env bash
# usage: scripts/install-crun.sh [PREFIX]
#
# Puts a crun that can restore under PREFIX (default /opt/thawd/crun), as PREFIX/bin/crun. Does
# nothing, quickly, when it is there.
#
# crun restores through libcriu.so.2, which it loads while it runs; Debian 12's crun is built without
# that. The host's crun is used where it is new enough and the library is there; otherwise Debian
# unstable's crun and libcriu2 are unpacked under PREFIX; see scripts/lib/unstable.sh.
. "$(dirname "$0")/lib/common.sh"
. "$repo/scripts/lib/unstable.sh"

case ${1:-} in
-h | --help)
    sed -n '2,3s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
-*) die "unknown option $1; usage: scripts/install-crun.sh [PREFIX]" ;;
esac
prefix=$(prefix_of "${1:-}" /opt/thawd/crun)

# The oldest crun that was seen to restore.
want=1.21

crun_version() {
    "$1" --version 2>/dev/null | sed -n 's/^crun version \([0-9][0-9.]*\).*/\1/p'
}

# usable PROGRAM: whether it is a crun, new enough, and built for CRIU.
usable() {
    local have
    have=$(crun_version "$1")
    [ -n "$have" ] && at_least "$have" "$want" && "$1" --version | grep -q '+CRIU'
}

if usable "$prefix/bin/crun"; then exit 0; fi

need_root "installing crun under $prefix"
alone "$prefix"
if usable "$prefix/bin/crun"; then exit 0; fi

host_crun=$(type -P crun || true)
case $host_crun in "$prefix"/*) host_crun= ;; esac
if [ -n "$host_crun" ] && usable "$host_crun" && ldconfig -p | grep -q 'libcriu\.so\.2'; then
    wrap "$prefix" crun "exec '$host_crun' \"\$@\""
else
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    fetch "$scratch" crun libcriu2
    unpack "$prefix" "$scratch"
    wrap_unstable "$prefix" crun
fi

usable "$prefix/bin/crun" ||
    die "$prefix/bin/crun is version $(crun_version "$prefix/bin/crun") $("$prefix/bin/crun" --version | grep -o '+CRIU' || echo without CRIU), needed: $want with CRIU"
say "crun $(crun_version "$prefix/bin/crun") is at $prefix/bin/crun"
