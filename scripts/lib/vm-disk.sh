# The disk of a virtual machine: a small Debian with a kernel of its own. Sourced after common.sh.
# shellcheck shell=bash
#
#   CACHE/SUITE/disk.ext4    the root file system, never written to: QEMU keeps changes apart
#   CACHE/SUITE/vmlinuz      its kernel
#   CACHE/SUITE/initrd       its first file system
#   CACHE/SUITE/recipe       digest of what made it; it is made anew when that changes
#
# THAWD_VM_CACHE names another CACHE than /var/cache/thawd-vm, THAWD_DEBIAN_MIRROR another mirror.

vm_cache=${THAWD_VM_CACHE:-/var/cache/thawd-vm}

# Beside the base system: what boots, what thawd needs on a node, and what the story asks with.
# The package apparmor is what Debian's kernel recommends; its profiles are part of the story.
vm_packages=(
    systemd systemd-sysv dbus udev kmod linux-image-amd64 initramfs-tools apparmor
    runc crun criu containernetworking-plugins iptables nftables iproute2
    util-linux procps jq curl openssl ca-certificates
)

# vm_digest SUITE: tells whether a disk was made by this recipe.
vm_digest() {
    {
        echo "$1 ${THAWD_DEBIAN_MIRROR:-} ${vm_packages[*]}"
        declare -f vm_before vm_after vm_make debian
        [ "$1" != bookworm ] || cat "$repo"/scripts/install-c*.sh
    } | sha256sum | cut -d' ' -f1
}

# vm_before FOLDER: files that must be in the tree before its packages are installed.
vm_before() {
    # The first file system needs the disk and nothing else. Debian's default makes it 40 MB larger.
    mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
    echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lane"
    printf '%s\n' virtio_pci virtio_blk ext4 >"$1/usr/share/initramfs-tools/modules.d/lane"
}

# vm_after TREE: the unit that runs what the second disk brings, and ends the machine.
vm_after() {
    echo node >"$1/etc/hostname"
    echo '127.0.0.1 localhost node' >"$1/etc/hosts"
    : >"$1/etc/fstab"
    mkdir -p "$1/lane" "$1/etc/systemd/system/multi-user.target.wants"
    cat >"$1/etc/systemd/system/lane.service" <<'UNIT'
[Unit]
Description=What this machine is for
After=apparmor.service systemd-tmpfiles-setup.service dbus.service
Wants=dbus.service

[Service]
Type=oneshot
ExecStart=/bin/mount -o ro LABEL=lane /lane
ExecStart=/lane/guest/main.sh
ExecStopPost=/bin/systemctl poweroff --force --force
TimeoutStartSec=infinity
UNIT
    ln -sf ../lane.service "$1/etc/systemd/system/multi-user.target.wants/lane.service"
    # Nobody looks at a terminal, and timers would only disturb.
    local unit
    for unit in getty.target apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer \
        dpkg-db-backup.timer systemd-firstboot.service; do
        ln -sf /dev/null "$1/etc/systemd/system/$unit"
    done
}

# debian SUITE TREE PACKAGES [OPTION...]: a small Debian in a folder.
debian() {
    local suite=$1 tree=$2 packages=$3
    shift 3
    mmdebstrap --mode=root --variant=minbase --components=main --include="$packages" \
        --aptopt='Acquire::Check-Valid-Until "false"' --aptopt='Acquire::Retries "3"' \
        --aptopt='APT::Sandbox::User "root"' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt=force-unsafe-io \
        "$@" "$suite" "$tree" "${THAWD_DEBIAN_MIRROR:-http://deb.debian.org/debian}"
}

# vm_make SUITE: makes the disk unless it is there.
vm_make() {
    local suite=$1 at=$vm_cache/$1 digest work packages=("${vm_packages[@]}") options name
    digest=$(vm_digest "$suite")
    [ "$(cat "$at/recipe" 2>/dev/null)" != "$digest" ] || return 0
    # What a run that was ended left may have something mounted in it.
    rm -rf --one-file-system "$at" "$at".new.*
    work=$at.new.$$
    mkdir -p "$work/before"
    vm_before "$work/before"
    options=(--setup-hook="sync-in '$work/before' /")
    if [ "$suite" = bookworm ]; then
        # Its crun cannot restore and its CRIU is old. thawd's users get others from these scripts.
        mkdir -p "$work/before/root/thawd"
        cp -r "$repo/scripts" "$work/before/root/thawd/"
        for name in criu crun; do
            options+=(--customize-hook="chroot \"\$1\" env HOME=/root PATH=/usr/sbin:/usr/bin THAWD_KERNEL=6.1 \
                THAWD_DEBIAN_MIRROR='${THAWD_DEBIAN_MIRROR:-http://deb.debian.org/debian}' \
                /root/thawd/scripts/install-$name.sh")
        done
    else
        packages+=(libcriu2)
    fi
    quietly "making a Debian $suite (once; kept in $vm_cache)" \
        debian "$suite" "$work/tree" "$(IFS=, && echo "${packages[*]}")" "${options[@]}"
    vm_after "$work/tree"
    cp "$work"/tree/boot/vmlinuz-* "$work/vmlinuz"
    cp "$work"/tree/boot/initrd.img-* "$work/initrd"
    rm -rf "$work"/tree/var/cache/apt/* "$work"/tree/var/lib/apt/lists/* "$work"/tree/boot/* \
        "$work"/tree/root/thawd
    truncate -s 8G "$work/disk.ext4"
    quietly "writing its disk" mke2fs -q -t ext4 -L root -d "$work/tree" "$work/disk.ext4"
    rm -rf "$work/tree" "$work/before"
    echo "$digest" >"$work/recipe"
    mv "$work" "$at"
}
