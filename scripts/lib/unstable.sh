# Debian unstable's packages under a prefix of their own. Sourced after common.sh, never run.
# shellcheck shell=bash
#
#   PREFIX/sysroot/    the packages and every library they need, the libc and its loader too
#   PREFIX/bin/NAME    a shell script that starts the sysroot's NAME through the sysroot's loader
#
# Nothing of the host is replaced. apt fetches the packages, by name, with a configuration and lists
# of its own in a folder that is removed at the end; Debian's keyring on this host verifies the
# signatures. THAWD_DEBIAN_MIRROR names another mirror.

# prefix_of ARGUMENT DEFAULT: the folder to install to, checked.
prefix_of() {
    local prefix=${1:-$2}
    case $prefix in
    /) die "PREFIX must not be /" ;;
    /*) echo "${prefix%/}" ;;
    *) die "PREFIX must be an absolute path, got $prefix" ;;
    esac
}

# alone PREFIX: one installation at a time; the script starts again with the lock held. flock holds
# the lock, not its children: an orphaned one could keep it for long.
alone() {
    mkdir -p "$1/bin"
    [ "${THAWD_INSTALLING:-}" = "$1" ] ||
        THAWD_INSTALLING=$1 exec flock --close "$1/.lock" "$0" "$1"
}

# candidate PACKAGE: the version apt would install, without epoch and Debian revision.
candidate() {
    command -v apt-cache >/dev/null || return 0
    apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *\([0-9]*:\)\{0,1\}\([0-9][0-9.]*\).*/\2/p'
}

# wrap PREFIX NAME LINE...: publishes the program PREFIX/bin/NAME, a shell script of these lines.
wrap() {
    local target=$1/bin/$2
    shift 2
    printf '%s\n' '#!/bin/sh' "$@" >"$target.new"
    chmod 0755 "$target.new"
    mv -f "$target.new" "$target"
}

# fetch DIR PACKAGE...: downloads the packages and what they need into DIR/cache/archives.
fetch() {
    local dir=$1 keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    shift
    command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
        die "this script gets $* on Debian only: build it from source"
    [ -e "$keyring" ] || die "$keyring is missing; run: apt-get install debian-archive-keyring"
    mkdir -p "$dir/state/lists/partial" "$dir/cache/archives/partial" "$dir/etc/none"
    # An empty list of installed packages makes apt fetch every library, the libc too.
    : >"$dir/status"
    echo "deb [signed-by=$keyring] ${THAWD_DEBIAN_MIRROR:-http://deb.debian.org/debian} sid main" \
        >"$dir/etc/sources.list"
    cat >"$dir/apt.conf" <<CONF
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
CONF
    APT_CONFIG=$dir/apt.conf quietly "reading Debian unstable's package list" \
        apt-get -o APT::Update::Error-Mode=any update
    APT_CONFIG=$dir/apt.conf quietly "downloading $* and libraries from Debian unstable" \
        apt-get install --download-only -y "$@"
}

# unpack PREFIX DIR: makes PREFIX/sysroot anew from what fetch left in DIR.
unpack() {
    local prefix=$1 package next=$1/sysroot.new
    rm -rf "$next"
    mkdir -p "$next"
    for package in "$2"/cache/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -C "$next" -x --no-same-owner \
            --exclude='./usr/share/doc' --exclude='./usr/share/man' --exclude='./usr/share/locale' \
            --exclude='./usr/share/bash-completion' --exclude='./etc'
        dpkg-deb --show --showformat='${Package} ${Version}\n' "$package" >>"$next/packages"
    done
    mkdir -p "$next/plugins"
    # Two renames: a program that starts in between finds nothing there, never half of it.
    rm -rf "$prefix/sysroot.old"
    [ ! -e "$prefix/sysroot" ] || mv "$prefix/sysroot" "$prefix/sysroot.old"
    mv "$next" "$prefix/sysroot"
    rm -rf "$prefix/sysroot.old"
}

# wrap_unstable PREFIX NAME [ASSIGNMENT]: publishes a program of the sysroot, started through the
# sysroot's loader, with a variable in its environment.
wrap_unstable() {
    local prefix=$1 name=$2 program= loader= libraries= dir
    for dir in usr/sbin usr/bin sbin bin; do
        [ ! -x "$prefix/sysroot/$dir/$name" ] || program=$prefix/sysroot/$dir/$name
    done
    [ -n "$program" ] || die "Debian unstable's package has no program $name"
    loader=$(find "$prefix/sysroot" \( -type f -o -type l \) -name 'ld-linux*.so.*' -print -quit)
    [ -n "$loader" ] || die "no loader found in $prefix/sysroot"
    for dir in "$prefix"/sysroot/usr/lib/*-linux-gnu* "$prefix"/sysroot/lib/*-linux-gnu*; do
        [ ! -d "$dir" ] || libraries=${libraries:+$libraries:}$dir
    done
    wrap "$prefix" "$name" \
        "# Written by scripts/${0##*/}: Debian unstable's $name with its own libraries." \
        "${3:+$3 }exec '$loader' --argv0 '$program' --library-path '$libraries' '$program' \"\$@\""
}
