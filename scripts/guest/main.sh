#!/usr/bin/env bash
# The first thing of ours that runs in the machine (see scripts/lib/vm-disk.sh): makes a node of it,
# runs the command or the story, and sends out how that ended.
modprobe -q virtio_console || true
ports=/dev/virtio-ports
until [ -e "$ports/lane.out" ] && [ -e "$ports/lane.status" ]; do sleep 0.1; done
exec >"$ports/lane.out" 2>&1 </dev/null
export HOME=/root LC_ALL=C PATH=/usr/local/bin:/usr/local/sbin:/usr/bin:/usr/sbin:/bin:/sbin
# shellcheck source=/dev/null # suite, apparmor, cgroup, sections
. /lane/settings
# shellcheck source=/dev/null
. /lane/guest/node.sh

make_node
if [ -s /lane/command ]; then
    start_thawd
    (cd /root && bash /lane/command)
    status=$?
else
    # shellcheck source=/dev/null
    (. /lane/guest/story.sh)
    status=$?
fi
journalctl -q -u thawd -o short-monotonic --no-hostname >"$ports/lane.journal"
echo "$status" >"$ports/lane.status"
