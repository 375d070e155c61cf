#!/usr/bin/env bash
# Builds an OCI layout tar from the distribution's own packages, without any registry.
#
#   scripts/build-image.sh VARIANT OUTPUT.tar
#
# VARIANT   image name                         contents
# base      localhost/thawd/busybox:latest     dynamic busybox with every applet, libc6
# workload  localhost/thawd/workload:latest    base + /bin/workload (target/release/workload)
# redis     localhost/thawd/redis:latest       base + redis-server, redis-cli
# python    localhost/thawd/python:latest      base + python3 with its sqlite3 module
# layers    localhost/thawd/layers:latest      base + 499 layers, each with one file in /layers
# file      localhost/thawd/NAME:latest        base + one program: file=PATH in the environment,
#                                              installed as /bin/NAME (its file name)
#
# The same packages give the same bytes. Packages are kept in target/packages, so that only the
# first build needs the network; an OUTPUT.tar that is up to date is left alone.
. "$(dirname "$0")/lib/common.sh"

[ $# = 2 ] || die "usage: scripts/build-image.sh base|workload|redis|python|layers|file OUTPUT.tar"
variant=$1
output=$2
cache=$repo/target/packages
program=
case $variant in
base) name=busybox packages=() ;;
workload) name=workload packages=() program=${workload:-$repo/target/release/workload} ;;
redis) name=redis packages=(redis-server redis-tools) ;;
python) name=python packages=(python3) ;;
layers) name=layers packages=() ;;
file) program=${file:?} name=$(basename "$program") packages=() ;;
*) die "unknown image variant $variant; known are base, workload, redis, python, layers and file" ;;
esac
[ -z "$program" ] || [ -x "$program" ] ||
    die "$program is not there; build it with: cargo build --release -p integration"

stamp=$(cat "$0" "$(dirname "$0")/lib/common.sh" ${program:+"$program"} | sha256sum | cut -d' ' -f1)
if [ -f "$output" ] && [ "$(cat "$output.stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 022
mkdir -p "$cache" "$(dirname "$output")"

# A fresh machine may have no package lists yet.
[ -n "$(apt-cache madison busybox)" ] || quietly "reading the package lists" apt-get update

# closure PACKAGE...: the packages and the libraries they need, each name once. Only libraries and
# Python's own parts are followed: an image has no use for maintainer scripts' helpers.
closure() {
    {
        printf '%s\n' "$@"
        apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks \
            --no-replaces --no-enhances "$@" |
            grep -E '^(lib|lua|python3|zlib1g)' | grep -vE '^(libpam|libdebian|libelogind|libnewt|libperl|libselinux|libsemanage|libsepol|libaudit)|-perl$'
    } | cut -d: -f1 | sort -u
}

# kept PACKAGE: prints the path of its .deb, if it is kept.
kept() { find "$cache" -maxdepth 1 -name "$1_*.deb" | sort -V | tail -n 1; }

# fetch PACKAGE...: downloads those that are not kept yet.
fetch() {
    local package missing=()
    for package in "$@"; do
        [ -n "$(kept "$package")" ] || missing+=("$package")
    done
    [ "${#missing[@]}" = 0 ] ||
        (cd "$cache" && apt-get -qq -o APT::Sandbox::User=root download "${missing[@]}" >&2) ||
        die "packages ${missing[*]} could not be downloaded; try: apt-get update"
}

# unpack ROOT PACKAGE...: their files, without what a container never reads.
unpack() {
    local root=$1 package
    shift
    fetch "$@"
    mkdir -p "$root"/usr/{bin,sbin,lib,lib64}
    for dir in bin sbin lib lib64; do ln -s "usr/$dir" "$root/$dir"; done
    for package in "$@"; do
        dpkg-deb --fsys-tarfile "$(kept "$package")" |
            tar -x --keep-directory-symlink --no-same-owner -C "$root"
    done
    rm -rf "$root"/usr/share/{doc,man,lintian,bug,locale,info,initramfs-tools} \
        "$root"/usr/lib/*/gconv "$root"/usr/lib/systemd "$root"/etc/init.d "$root"/etc/default
}

# The archive's bytes depend on the files' contents only.
pack() {
    tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner --format=gnu -C "$1" -cf "$2" .
}

# base_layer ROOT: the recipe that the conformance suite's shell tests need as well.
base_layer() {
    local root=$1 applet
    mapfile -t all < <(closure busybox)
    unpack "$root" "${all[@]}"
    # Hard links: a mask over /bin/ls must hide ls and nothing else.
    while read -r applet; do
        [ -e "$root/usr/bin/$applet" ] || ln "$root/usr/bin/busybox" "$root/usr/bin/$applet"
    done < <("$root/usr/bin/busybox" --list)
    mkdir -p "$root"/{dev,proc,sys,run,root,home,tmp,etc,var/log,var/tmp,srv/data}
    ln -s ../run "$root/var/run"
    chmod 1777 "$root/tmp" "$root/var/tmp"
    cat >"$root/etc/passwd" <<'PASSWD'
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
PASSWD
    cat >"$root/etc/group" <<'GROUP'
root:x:0:
daemon:x:1:
wheel:x:10:root
www-data:x:33:
nogroup:x:65534:
GROUP
    printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$root/etc/nsswitch.conf"
    # Files for the workload that changes and deletes what the image brought.
    printf 'keep\n' >"$root/srv/data/keep"
    printf 'change me\n' >"$root/srv/data/change"
    printf 'delete me\n' >"$root/srv/data/delete"
    mkdir "$root/srv/data/replace"
    printf 'hidden\n' >"$root/srv/data/replace/hidden"
}

# blob FILE: moves it under its digest, prints "DIGEST SIZE".
blob() {
    local digest size
    digest=$(sha256sum "$1" | cut -d' ' -f1)
    size=$(stat -c %s "$1")
    mv "$1" "$work/layout/blobs/sha256/$digest"
    printf '%s %s\n' "$digest" "$size"
}

say "building image localhost/thawd/$name:latest from Debian packages"
mkdir -p "$work/layout/blobs/sha256" "$work/base"
base_layer "$work/base"
pack "$work/base" "$work/base.tar"
layers=("$(blob "$work/base.tar")")
if [ "${#packages[@]}" -gt 0 ] || [ -n "$program" ]; then
    mkdir "$work/extra"
    if [ "${#packages[@]}" -gt 0 ]; then
        mapfile -t all < <(closure "${packages[@]}" | grep -vxE 'libc6|libgcc-s1|libcrypt1')
        unpack "$work/extra" "${all[@]}"
        # The base layer has these links already.
        rm "$work"/extra/{bin,sbin,lib,lib64}
        find "$work/extra/usr" -mindepth 1 -maxdepth 1 -type d -empty -delete
    fi
    if [ -n "$program" ]; then
        mkdir -p "$work/extra/usr/bin"
        install -m 0755 "$program" "$work/extra/usr/bin/$(basename "$program")"
    fi
    pack "$work/extra" "$work/extra.tar"
    layers+=("$(blob "$work/extra.tar")")
fi
# As many as a kernel stacks, with the base.
if [ "$variant" = layers ]; then
    mkdir -p "$work/deep/layers"
    for number in $(seq 499); do
        : >"$work/deep/layers/$number"
        pack "$work/deep" "$work/deep.tar"
        rm "$work/deep/layers/$number"
        layers+=("$(blob "$work/deep.tar")")
    done
fi

diff_ids=$(printf '%s\n' "${layers[@]}" | cut -d' ' -f1 | jq -R '"sha256:" + .' | jq -sc .)
architecture=$(dpkg --print-architecture)
jq -cn --arg architecture "$architecture" --argjson diff_ids "$diff_ids" '{
    created: "1970-01-01T00:00:00Z", architecture: $architecture, os: "linux",
    config: {
        Env: ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        Cmd: ["sh"], WorkingDir: "/"
    },
    rootfs: {type: "layers", diff_ids: $diff_ids},
    history: [$diff_ids[] | {created: "1970-01-01T00:00:00Z", created_by: "scripts/build-image.sh"}]
}' >"$work/config.json"
read -r config_digest config_size < <(blob "$work/config.json")

descriptors=$(printf '%s\n' "${layers[@]}" | jq -R 'split(" ") | {
    mediaType: "application/vnd.oci.image.layer.v1.tar",
    digest: ("sha256:" + .[0]), size: (.[1] | tonumber)}' | jq -sc .)
jq -cn --arg digest "sha256:$config_digest" --argjson size "$config_size" \
    --argjson layers "$descriptors" '{
    schemaVersion: 2, mediaType: "application/vnd.oci.image.manifest.v1+json",
    config: {mediaType: "application/vnd.oci.image.config.v1+json", digest: $digest, size: $size},
    layers: $layers
}' >"$work/manifest.json"
read -r manifest_digest manifest_size < <(blob "$work/manifest.json")

jq -cn --arg digest "sha256:$manifest_digest" --argjson size "$manifest_size" \
    --arg architecture "$architecture" --arg name "localhost/thawd/$name:latest" '{
    schemaVersion: 2, mediaType: "application/vnd.oci.image.index.v1+json",
    manifests: [{
        mediaType: "application/vnd.oci.image.manifest.v1+json", digest: $digest, size: $size,
        platform: {architecture: $architecture, os: "linux"},
        annotations: {"io.containerd.image.name": $name, "org.opencontainers.image.ref.name": $name}
    }]
}' >"$work/layout/index.json"
printf '{"imageLayoutVersion":"1.0.0"}' >"$work/layout/oci-layout"

pack "$work/layout" "$work/image.tar"
mv "$work/image.tar" "$output"
printf '%s\n' "$stamp" >"$output.stamp"
say "$output: $(stat -c %s "$output") bytes, $(jq '.layers | length' "$work/layout/blobs/sha256/$manifest_digest") layer(s), manifest sha256:${manifest_digest:0:12}"
