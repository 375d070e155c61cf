#!/usr/bin/env bash
# Installs what thawd needs to be built and run on Debian 12 or 13, and CRIU where the
# distribution's is too old for the kernel. With --tests also what the tests need, a crun that can
# restore among it.
# Does nothing, quickly, when nothing is missing.
. "$(dirname "$0")/lib/common.sh"

tests=no
for arg in "$@"; do
    case $arg in
    --tests) tests=yes ;;
    -h | --help)
        echo "usage: scripts/install-deps.sh [--tests]"
        exit 0
        ;;
    *) die "unknown option $arg; usage: scripts/install-deps.sh [--tests]" ;;
    esac
done

# package: a file or program that shows that it is there, however it was installed.
runtime_packages=(
    runc:runc
    containernetworking-plugins:/usr/lib/cni/bridge,/opt/cni/bin/bridge
    iptables:iptables
    apparmor:apparmor_parser
    iproute2:ip
    util-linux:unshare
    jq:jq
    gcc:cc
    libc6-dev:/usr/include/stdlib.h
    dpkg:dpkg-deb
    ca-certificates:/etc/ssl/certs/ca-certificates.crt
)
test_packages=(
    nftables:nft
    busybox:busybox
    python3:python3
    curl:curl
    openssl:openssl
    qemu-system-x86:qemu-system-x86_64
    mmdebstrap:mmdebstrap
    e2fsprogs:mke2fs
    debian-archive-keyring:/usr/share/keyrings/debian-archive-keyring.gpg
)

# present WITNESS: whether one of the comma-separated programs or absolute paths exists.
present() {
    local one
    IFS=, read -ra all <<<"$1"
    for one in "${all[@]}"; do
        case $one in
        /*) [ -e "$one" ] && return 0 ;;
        *) command -v "$one" >/dev/null 2>&1 && return 0 ;;
        esac
    done
    return 1
}

wanted=("${runtime_packages[@]}")
[ "$tests" = no ] || wanted+=("${test_packages[@]}")
missing=()
for entry in "${wanted[@]}"; do
    present "${entry#*:}" || missing+=("${entry%%:*}")
done

if [ "${#missing[@]}" -gt 0 ]; then
    command -v apt-get >/dev/null ||
        die "missing: ${missing[*]}; this script installs them on Debian only, install them by hand"
    need_root "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    # A container host must not find new services running because of a test package.
    install=(apt-get -o Dpkg::Use-Pty=0 install -y --no-install-recommends "${missing[@]}")
    # apt-cache succeeds for a package that another one only names, on a system without lists.
    if ! "${install[@]}" --dry-run >/dev/null 2>&1; then
        quietly "reading the package lists" apt-get update
    fi
    quietly "installing ${missing[*]}" "${install[@]}"
    for entry in "${wanted[@]}"; do
        present "${entry#*:}" || die "package ${entry%%:*} was installed but ${entry#*:} is still missing"
    done
fi

rust=$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
if [ -z "$rust" ] || ! at_least "$rust" 1.90; then
    die "Rust 1.90 or newer is needed, found ${rust:-none}. Get it with:
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal -c rustfmt -c clippy
or, on Debian 13:
    apt-get install rustup && rustup default stable
then run this again."
fi

if [ "$tests" = yes ]; then
    go=$(go version 2>/dev/null | sed -n 's/^go version go\([0-9.]*\).*/\1/p' || true)
    if [ -z "$go" ] || ! at_least "$go" 1.26; then
        die "Go 1.26 or newer is needed for the test programs (crictl, kubelet), found ${go:-none}. Get it from
    https://go.dev/dl/ (unpack to /usr/local/go), then run this again."
    fi
fi

"$repo/scripts/install-criu.sh"
[ "$tests" = no ] || "$repo/scripts/install-crun.sh"
