#!/usr/bin/env bash
# Builds the Go programs that the tests drive thawd with, from the modules in integration/tools:
# crictl and critest 1.36.0, and the kubelet 1.37.0. Prints the path of each on standard output.
#
# They are kept in a cache outside the tree ($THAWD_TOOLS, by default /var/cache/thawd-tools) and
# built again only when the module files, the flags or the Go release change.
. "$(dirname "$0")/lib/common.sh"

usage="usage: scripts/build-tools.sh [crictl] [critest] [kubelet] [all]
  all (also without arguments): crictl and kubelet"

wanted=()
for arg in "$@"; do
    case $arg in
    crictl | critest | kubelet) wanted+=("$arg") ;;
    all) wanted+=(crictl kubelet) ;;
    -h | --help)
        echo "$usage"
        exit 0
        ;;
    *) die "unknown tool $arg; $usage" ;;
    esac
done
[ "${#wanted[@]}" -gt 0 ] || wanted=(crictl kubelet)

cache=${THAWD_TOOLS:-/var/cache/thawd-tools}
mkdir -p "$cache/bin" ||
    die "cannot make $cache: run as root, or set THAWD_TOOLS to a folder of your own"

command -v go >/dev/null ||
    die "Go 1.26 or newer is needed (https://go.dev/dl, unpacked to /usr/local/go)"
# An older go command fetches the release that the modules ask for, unless that is forbidden.
go=$(GOTOOLCHAIN=auto go -C "$repo/integration/tools/cri" env GOVERSION) ||
    die "$(go version) cannot build integration/tools: Go 1.26 or newer is needed"

# The programs have their versions told by the linker.
crictl_flags="-s -w -X sigs.k8s.io/cri-tools/pkg/version.Version=v1.36.0"
kubernetes=v1.37.0
version=k8s.io/component-base/version
kubernetes_flags="-s -w -X $version.gitVersion=$kubernetes -X $version.gitMajor=1 -X $version.gitMinor=37"

# build NAME MODULE PACKAGE COMMAND...: builds the package with the command, in the module's folder,
# unless what it would make is there already.
build() {
    local name=$1 folder=$repo/integration/tools/$2 package=$3 stamp
    shift 3
    stamp=$(cat "$folder/go.mod" "$folder/go.sum" <(echo "$go $package $*") | sha256sum |
        cut -d' ' -f1)
    if [ ! -x "$cache/bin/$name" ] || [ "$(cat "$cache/$name.stamp" 2>/dev/null)" != "$stamp" ]; then
        rm -f "$cache/$name.stamp"
        # What quietly leaves behind must hold neither the lock nor a caller's pipe.
        quietly "building $name (once; kept in $cache)" \
            env -C "$folder" CGO_ENABLED=0 GOFLAGS=-mod=readonly GOTOOLCHAIN=auto \
            "$@" -trimpath -buildvcs=false -o "$cache/$name.new" "$package" >&2 9>&-
        mv "$cache/$name.new" "$cache/bin/$name"
        echo "$stamp" >"$cache/$name.stamp"
    fi
    echo "$cache/bin/$name"
}

# Two test runs at once share one build.
exec 9>"$cache/lock"
flock 9
for tool in "${wanted[@]}"; do
    case $tool in
    crictl) build crictl cri sigs.k8s.io/cri-tools/cmd/crictl go build -ldflags "$crictl_flags" ;;
    critest) build critest cri sigs.k8s.io/cri-tools/cmd/critest go test -c -ldflags "-s -w" ;;
    kubelet)
        build kubelet k8s k8s.io/kubernetes/cmd/kubelet go build -ldflags "$kubernetes_flags"
        ;;
    esac
done
