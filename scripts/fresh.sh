#!/usr/bin/env bash
# Proves the README's two commands on a Debian that has nothing of ours: a minimal tree of the suite,
# with a clone of HEAD in it, and of this machine only Rust, Go and what they have downloaded.
#
#   scripts/fresh.sh bookworm|trixie [COMMAND...]
#
# With COMMAND it runs that in the tree, to look at what fails. Without:
#
# 1. In the tree, on this machine's kernel: scripts/demo.sh, and scripts/test.sh with one integration
#    test, which installs and builds everything that any test needs.
# 2. In a machine with the suite's own kernel (scripts/vm.sh): scripts/demo.sh again, in the same tree.
#    Everything is built by then, so it only tells its story.
#
# The minimal tree is kept in the cache of scripts/lib/vm-disk.sh; each run has a copy, which needs 10
# GB in /var/tmp while it runs. It takes half an hour, most of it for the builds.
. "$(dirname "$0")/lib/common.sh"
. "$repo/scripts/lib/vm-disk.sh"

suite=${1:-}
case $suite in
bookworm | trixie) shift ;;
-h | --help)
    sed -n '2,16s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
*) die "usage: scripts/fresh.sh bookworm|trixie [COMMAND...]" ;;
esac
need_root "making a Debian in a folder"
"$repo/scripts/install-deps.sh" --tests
if [ -n "$(git -C "$repo" status --porcelain)" ]; then
    say "what is not committed is left out: the tree gets a clone of HEAD"
fi

# inside COMMAND...: runs it in the tree as in a machine of its own. What it starts ends with it.
inside() {
    unshare --mount --propagation private --pid --fork --kill-child -- \
        "$repo/scripts/lib/fresh-enter.sh" "$work" "$@"
}

# run COMMAND...: the whole run. In a function, as bash would read the rest of a script that changes
# meanwhile.
run() {
    local base rust go began
    base=$vm_cache/fresh-$suite
    mkdir -p "$vm_cache"
    if [ ! -e "$base" ]; then
        rm -rf --one-file-system "$base".new.*
        quietly "making a minimal Debian $suite (once; kept in $vm_cache)" \
            debian "$suite" "$base.new.$$" ca-certificates
        mv "$base.new.$$" "$base"
    fi

    work=$(mktemp -d /var/tmp/thawd-fresh.XXXXXX)
    trap 'rm -rf "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    cp -a "$base" "$work/tree"
    git clone -q --no-hardlinks "$repo" "$work/tree/root/thawd"
    cp /etc/resolv.conf "$work/tree/etc/"

    # Layers over this machine's folders: they can be written to, and are the same afterwards.
    rust=$(rustc --print sysroot)
    go=$(go env GOROOT)
    {
        echo "$rust /usr/local/rust"
        echo "$go /usr/local/go"
        echo "${CARGO_HOME:-$HOME/.cargo}/registry /root/.cargo/registry"
        echo "$(go env GOMODCACHE) /root/go/pkg/mod"
    } >"$work/layers"

    if [ $# -gt 0 ]; then
        inside "$@"
        exit
    fi

    began=$(date +%s)
    say "scripts/demo.sh on a fresh Debian $suite, on the kernel $(uname -r)"
    inside scripts/demo.sh || die "the demonstration failed on a fresh Debian $suite"
    say "scripts/test.sh on a fresh Debian $suite, with one integration test"
    inside scripts/test.sh story:: || die "the tests failed on a fresh Debian $suite"
    say "both took $(elapsed "$began")"

    say "scripts/demo.sh on a fresh Debian $suite, on the suite's kernel"
    # The Go modules are not asked for any more, and large.
    sed -i '/ \/root\/go\/pkg\/mod$/d; / \/usr\/local\/go$/d' "$work/layers"
    inside --disk || die "the tree could not be made a disk"
    THAWD_VM_DISK=$work/fresh.ext4 THAWD_VM_PROGRAMS=$work/tree/root/thawd/target/release \
        "$repo/scripts/vm.sh" "$suite" bash -c \
        'systemctl stop thawd && mount /dev/vdc /mnt && mkdir /root/fresh && : >/root/fresh/layers &&
        exec unshare --mount --propagation private -- /mnt/root/thawd/scripts/lib/fresh-enter.sh \
            /root/fresh scripts/demo.sh' ||
        die "the demonstration failed on a fresh Debian $suite with its own kernel"
    say "a fresh Debian $suite runs both commands"
    exit
}
run "$@"
