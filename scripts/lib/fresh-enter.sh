#!/usr/bin/env bash
# Runs a command of the project in a tree as if it were a machine of its own. Run by fresh.sh only, in
# a mount namespace that ends with it.
#
#   fresh-enter.sh FOLDER COMMAND...    FOLDER/tree is the tree (or /mnt, where there is none);
#                                       FOLDER/layers names the machine's folders to lay into it
#   fresh-enter.sh FOLDER --disk        writes the tree with its layers to FOLDER/fresh.ext4 instead
set -euo pipefail
folder=$1
shift
tree=$folder/tree
[ -d "$tree" ] || tree=/mnt

while read -r lower place; do
    mkdir -p "$lower" "$tree$place" "$folder/upper$place" "$folder/work$place"
    mount -t overlay overlay "$tree$place" \
        -o "lowerdir=$lower,upperdir=$folder/upper$place,workdir=$folder/work$place"
done <"$folder/layers"

if [ "$1" = --disk ]; then
    truncate -s 16G "$folder/fresh.ext4"
    exec mke2fs -q -t ext4 -d "$tree" "$folder/fresh.ext4"
fi

# runc changes its root with pivot_root, which a mere chroot forbids: the tree becomes the root itself.
mount --rbind "$tree" "$tree"
mount -t proc proc "$tree/proc"
mount --rbind /sys "$tree/sys"
mount --rbind /dev "$tree/dev"
mount -t tmpfs tmpfs "$tree/run"
mkdir -p "$tree/old-root"
cd "$tree"
pivot_root . old-root
umount -l /old-root
cd /root/thawd
exec env -i HOME=/root TERM="${TERM:-dumb}" THAWD_DEBIAN_MIRROR="${THAWD_DEBIAN_MIRROR:-}" \
    PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin "$@"
