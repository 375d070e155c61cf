#!/usr/bin/env bash
# usage: scripts/install-criu.sh [PREFIX]
#
# Puts a CRIU that this kernel can be used with under PREFIX (default /opt/thawd/criu), and
# checkpointctl beside it: PREFIX/bin/criu, PREFIX/bin/checkpointctl. Does nothing, quickly, when
# they are there.
#
# The distribution's CRIU is used where it is new enough: kernels from 6.16 on need CRIU 4.2.
# Where it is not, Debian unstable's package and the libraries it needs are unpacked under PREFIX,
# with their own libc and loader, so that nothing of the host is replaced. apt fetches them, by
# name, with a configuration and lists of its own in a folder that is removed at the end; Debian's
# keyring on this host verifies the signatures. THAWD_DEBIAN_MIRROR names another mirror.
. "$(dirname "$0")/lib/common.sh"

case ${1:-} in
-h | --help)
    sed -n '2,3s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
-*) die "unknown option $1; usage: scripts/install-criu.sh [PREFIX]" ;;
esac
prefix=${1:-/opt/thawd/criu}
case $prefix in
/) die "PREFIX must not be /" ;;
/*) prefix=${prefix%/} ;;
*) die "PREFIX must be an absolute path, got $prefix" ;;
esac

# CRIU before 4.2 cannot dump any inet socket on kernels from 6.16 on.
kernel=$(uname -r | grep -oE '^[0-9]+\.[0-9]+')
if at_least "$kernel" 6.16; then want=4.2; else want=4.1; fi

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
mkdir -p "$prefix/bin"
# flock holds the lock, not its children: an orphaned one could keep it for long.
[ -n "${THAWD_CRIU_LOCKED:-}" ] ||
    THAWD_CRIU_LOCKED=1 exec flock --close "$prefix/.lock" "$0" "$prefix"
if complete; then exit 0; fi

# candidate PACKAGE: the version apt would install, without epoch and Debian revision.
candidate() {
    command -v apt-cache >/dev/null || return 0
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}\([0-9][0-9.]*\).*/\2/p'
}

# wrap NAME LINE...: publishes the program PREFIX/bin/NAME, a shell script of these lines.
wrap() {
    local target=$prefix/bin/$1
    shift
    printf '%s\n' '#!/bin/sh' "$@" >"$target.new"
    chmod 0755 "$target.new"
    mv -f "$target.new" "$target"
}

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
        host_criu=
        unstable+=(criu)
    fi
fi
host_checkpointctl=$(type -P checkpointctl || true)
case $host_checkpointctl in "$prefix"/*) host_checkpointctl= ;; esac
[ -n "$host_checkpointctl" ] || unstable+=(checkpointctl)

# fetch DIR PACKAGE...: downloads the packages and what they need into DIR/cache/archives.
fetch() {
    local dir=$1 keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    shift
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        die "CRIU $want or newer is needed for kernel $kernel, found ${host_criu:-none}; this script gets it on Debian only: build it from source and put it on PATH"
    [ -e "$keyring" ] || die "$keyring is missing; run: apt-get install debian-archive-keyring"
    mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial" "$dir/etc/none"
    # An empty list of installed packages makes apt fetch every library, the libc too.
    : >"$dir/status"
    echo "deb [signed-by=$keyring] ${THAWD_DEBIAN_MIRROR:-http://deb.debian.org/debian} sid main" \
        >"$dir/etc/sources.list"
    cat >"$dir/apt.conf" <<EOF
Dir "$dir";
Dir::State "state";
Dir::State::status "$dir/status";
Dir::Cache "cache";
Dir::Etc "etc";
Dir::Etc::sourcelist "sources.list";
Dir::Etc::sourceparts "none";
Dir::Etc::parts "none";
Dir::Etc::preferencesparts "none";
Dir::Log "$dir";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
Debug::NoLocking "true";
EOF
    APT_CONFIG=$dir/apt.conf quietly "reading Debian unstable's package list" \
        apt-get -o APT::Update::Error-Mode=any update
    APT_CONFIG=$dir/apt.conf quietly "downloading $* and libraries from Debian unstable" \
        apt-get install --download-only -y "$@"
}

# unpack: makes PREFIX/sysroot anew from the downloaded packages of $1.
unpack() {
    local package next=$prefix/sysroot.new
    rm -rf "$next"
    mkdir -p "$next"
    for package in "$1"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -C "$next" -x --no-same-owner \
            --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale' \
            --exclude='./usr/share/bash-completion' --exclude='./etc'
        dpkg-deb --show --showformat='${Package} ${Version}\n' "$package" >>"$next/packages"
    done
    mkdir -p "$next/plugins"
    # Two renames: a program that starts in between finds no CRIU, never half of one.
    rm -rf "$prefix/sysroot.old"
    [ ! -e "$prefix/sysroot" ] || mv "$prefix/sysroot" "$prefix/sysroot.old"
    mv "$next" "$prefix/sysroot"
    rm -rf "$prefix/sysroot.old"
}

# wrap_unstable NAME: publishes a program of the sysroot, started through the sysroot's loader.
wrap_unstable() {
    local name=$1 program= loader= libraries= dir
    for dir in usr/sbin usr/bin sbin bin; do
        [ ! -x "$prefix/sysroot/$dir/$name" ] || program=$prefix/sysroot/$dir/$name
    done
    [ -n "$program" ] || die "Debian unstable's package has no program $name"
    loader=$(find "$prefix/sysroot" \( -type f -o -type l \) -name 'ld-linux*.so.*' -print -quit)
    [ -n "$loader" ] || die "no loader found in $prefix/sysroot"
    for dir in "$prefix"/sysroot/usr/lib/*-linux-gnu* "$prefix"/sysroot/lib/*-linux-gnu*; do
        [ ! -d "$dir" ] || libraries=${libraries:+$libraries:}$dir
    done
    # Plugins of the host's CRIU, if there are any, belong to another version.
    wrap "$name" "# Written by scripts/install-criu.sh: Debian unstable's $name with its own libraries." \
        "CRIU_LIBS_DIR='$prefix/sysroot/plugins' exec '$loader' --argv0 '$program' --library-path '$libraries' '$program' \"\$@\""
}

if [ "${#unstable[@]}" -gt 0 ]; then
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    fetch "$scratch" "${unstable[@]}"
    unpack "$scratch"
    for name in "${unstable[@]}"; do wrap_unstable "$name"; done
fi
[ -z "$host_criu" ] || wrap criu "exec '$host_criu' \"\$@\""
[ -z "$host_checkpointctl" ] || wrap checkpointctl "exec '$host_checkpointctl' \"\$@\""

usable "$prefix/bin/criu" ||
    die "$prefix/bin/criu is version $(criu_version "$prefix/bin/criu"), kernel $kernel needs $want or newer"
"$prefix/bin/checkpointctl" help >/dev/null || die "$prefix/bin/checkpointctl does not run"
say "CRIU $(criu_version "$prefix/bin/criu") is at $prefix/bin/criu"
