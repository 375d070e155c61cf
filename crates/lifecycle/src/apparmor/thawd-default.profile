# What a container may do that asks for no AppArmor profile, or for the runtime's default.
#
# Users, capabilities, namespaces, mounts and seccomp confine a container already. This stands behind
# them: what no container needs of the kernel's own interfaces stays closed even to one that has
# CAP_SYS_ADMIN, or for which a mount was forgotten to be made read-only.
#
# It names everything itself: nothing is included, so that it does not depend on what the
# distribution's package puts where. Parsers from version 3.0 on take it.

profile thawd-default flags=(attach_disconnected,mediate_deleted) {
  # Files that come from elsewhere (descriptors handed over, deleted files) have no path in the
  # container's tree; the flags above have them judged like all others.
  file,
  network,
  unix,
  dbus,
  # Bounded by what the request grants.
  capability,
  # No mount, remount or pivot_root.
  umount,
@NEWER@
  # Whoever may signal or trace a container is confined by a profile of his own, or not at all: the
  # kubelet's runtime (under the names that distributions give it), CRIU, a debugger.
  signal (receive),
  signal (send) peer=thawd-default,
  ptrace (readby, tracedby),
  ptrace (read, trace) peer=thawd-default,

  # Kernel memory, and the keyboard's emergency keys.
  deny /proc/kcore rwklx,
  deny /proc/kmem rwklx,
  deny /proc/mem rwklx,
  deny /proc/sysrq-trigger rwklx,

  # In /proc, what belongs to no process is for reading.
  deny /proc/* wl,
  deny /proc/[^0-9s]*/** wl,
  deny /proc/s[^y]*/** wl,
  deny /proc/sysv*/** wl,
  # Of the sysctls, System V IPC and message queues have namespaces of their own.
  deny /proc/sys/[^fk]** wl,
  deny /proc/sys/fs/[^m]** wl,
  deny /proc/sys/fs/m[^q]** wl,
  deny /proc/sys/kernel/[^ms]** wl,
  deny /proc/sys/kernel/m[^s]** wl,
  deny /proc/sys/kernel/ms[^g]** wl,
  deny /proc/sys/kernel/s[^eh]** wl,
  deny /proc/sys/kernel/se[^m]** wl,
  deny /proc/sys/kernel/sh[^m]** wl,

  # In /sys, all is for reading but the container's own cgroups; what is denied altogether tells of
  # the machine or steers security modules.
  deny /sys/[^f]*/** wl,
  deny /sys/f[^s]*/** wl,
  deny /sys/fs/[^c]*/** wl,
  deny /sys/fs/c[^g]*/** wl,
  deny /sys/firmware/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
  deny /sys/kernel/debug/** rwklx,
  deny /sys/kernel/security/** rwklx,
  deny /sys/kernel/tracing/** rwklx,
}
