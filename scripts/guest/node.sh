# Makes a node of the machine: programs, network, and thawd as a unit. Sourced by main.sh.
# shellcheck shell=bash

# keep_branches: CRIU's breakpoints are perf events, so that each dump and restore turns a branch of the
# kernel's scheduler on and off by patching its code, and the emulator's second processor may run such
# an instruction half patched: the kernel panics with "int3". One perf event that stays open (of
# perl's own, software, task clock) keeps the branch on.
keep_branches() {
    perl -e '
        my $attributes = pack("L L Q x24 C x71", 1, 112, 1, 1);
        syscall(298, $attributes, 0, -1, -1, 0) < 0 and die "perf_event_open: $!\n";
        sleep' &
}

make_node() {
    local program
    keep_branches
    install -m 0755 /lane/bin/thawd /lane/bin/thaw /lane/bin/thawd-monitor \
        /lane/bin/thawd-criu-relay /usr/local/bin/
    # The large ones stay where they are.
    for program in crictl kubelet; do ln -s "/lane/bin/$program" /usr/local/bin/; done
    cp /lane/thawd.service /etc/systemd/system/
    printf '%s\n' 'runtime-endpoint: unix:///run/thawd/thawd.sock' \
        'image-endpoint: unix:///run/thawd/thawd.sock' 'timeout: 120' >/etc/crictl.yaml
    # Where the suite's crun cannot restore, another lies where scripts/install-crun.sh puts it.
    if [ -x /opt/thawd/crun/bin/crun ]; then
        mkdir -p /etc/thawd
        printf '[[runtime]]\nname = "%s"\npath = "%s"\n' \
            crun /opt/thawd/crun/bin/crun runc runc >/etc/thawd/config.toml
    fi
    mkdir -p /etc/cni/net.d /var/lib/kubelet/checkpoints
    cat >/etc/cni/net.d/10-lane.conflist <<'CNI'
{
  "cniVersion": "1.0.0", "name": "lane",
  "plugins": [
    {
      "type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true,
      "ipam": {
        "type": "host-local", "ranges": [[{"subnet": "10.86.0.0/24"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
CNI
    # A kubelet refuses to start without an address and a default route. This one leads nowhere.
    ip link set lo up
    ip link add uplink type dummy
    ip address add 192.0.2.10/24 dev uplink
    ip link set uplink up
    ip route add default via 192.0.2.1
    systemctl daemon-reload
}

# answers: whether thawd does.
answers() { crictl version >/dev/null 2>&1; }

# start_thawd: starts the unit and waits until thawd answers.
start_thawd() {
    local until=$((SECONDS + 60))
    systemctl start thawd || return 1
    while [ "$SECONDS" -lt "$until" ]; do
        if answers; then return 0; fi
        sleep 0.5
    done
    systemctl status --no-pager thawd
    return 1
}
