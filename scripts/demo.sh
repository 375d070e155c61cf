#!/usr/bin/env bash
# Shows thawd at work on real runc, CRIU and CNI: a pod comes up, a container in it counts, it is
# frozen to an archive while it runs on, everything is killed, and a new container in a new pod
# counts on from where it was frozen.
#
# Installs and builds what is missing first. The daemon is private (own directories, socket, network
# and mount namespace, cgroup) and everything it made is removed at the end, however that comes.
# The exit status tells whether the story held.
. "$(dirname "$0")/lib/common.sh"

inner=$repo/scripts/lib/demo-story.sh
began=$(date +%s)
need_root "the demonstration (namespaces, mounts, CRIU)"

say "checking what is installed"
"$repo/scripts/install-deps.sh"

cd "$repo"
quietly "building thawd (a first build takes some minutes, the next one seconds)" \
    cargo build --locked --release --bins \
    -p thawd -p monitor -p criu-rpc -p integration
"$repo/scripts/build-image.sh" base "${CARGO_TARGET_DIR:-$repo/target}/images/base.tar"

# The story's mounts and interfaces end with these namespaces.
unshare --net --mount --propagation private -- "$inner"
say "the whole demonstration took $(elapsed "$began")"
