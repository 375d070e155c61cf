# One run of a virtual machine. Sourced after common.sh and vm-disk.sh by vm.sh.
# shellcheck shell=bash disable=SC2154 # suite, work, logs: vm.sh's
#
# Three channels lead out of the machine, each a virtio port of that name:
#
#   lane.out       what the checks or the command print; shown here as it comes
#   lane.journal   what thawd wrote, sent at the end
#   lane.status    the exit status, sent last: without it the machine did not get so far

machine=
machine_status=
passed=0
failed=0

# end_machine: ends the machine and removes what belongs to this run, however it ends.
end_machine() {
    local status=$?
    trap - EXIT
    if [ -n "$machine" ]; then
        kill -TERM "$machine" 2>/dev/null || true
        wait "$machine" 2>/dev/null || true
    fi
    rm -rf "$work"
    exit "$status"
}

# port NAME OUTPUT: QEMU's options for one channel.
port() {
    printf '%s\n' -chardev "$2,id=$1" -device "virtserialport,chardev=$1,name=lane.$1"
}

# count_line LINE: shows a line that the machine printed, and counts it where it is a check.
count_line() {
    printf '%s\n' "$1"
    case $1 in
    'ok   '*) passed=$((passed + 1)) ;;
    'FAIL '*) failed=$((failed + 1)) ;;
    esac
}

# boot KERNEL-LINE: runs the machine until it is off; sets machine_status, passed and failed.
boot() {
    local options line half= start minutes=${THAWD_VM_MINUTES:-30}
    passed=0 failed=0 machine_status=
    rm -f "$logs"/*.log "$work/status" "$work/out"
    mkfifo "$work/out"
    mapfile -t options < <(
        port out "file,path=$work/out"
        port journal "file,path=$logs/thawd.log"
        port status "file,path=$work/status"
    )
    if [ -n "${THAWD_VM_DISK:-}" ]; then
        options+=(-drive "file=$THAWD_VM_DISK,format=raw,if=virtio,snapshot=on")
    fi
    start=$(date +%s)
    # The disk is never written to: changes go to a file that has no name and ends with QEMU. The
    # machine ends with this script, even where that has no time to do anything.
    TMPDIR=$work setpriv --pdeathsig TERM timeout --kill-after=10 "$minutes"m \
        qemu-system-x86_64 -accel tcg,thread=multi -smp 2 -m 3G -nodefaults -nic none -display none \
        -no-reboot -kernel "$vm_cache/$suite/vmlinuz" -initrd "$vm_cache/$suite/initrd" -append "$1" \
        -drive "file=$vm_cache/$suite/disk.ext4,format=raw,if=virtio,snapshot=on" \
        -drive "file=$work/lane.ext4,format=raw,if=virtio,readonly=on" \
        -device virtio-rng-pci -serial "file:$logs/console.log" -device virtio-serial \
        "${options[@]}" </dev/null >"$logs/qemu.log" 2>&1 &
    machine=$!
    # QEMU opens the pipe when it starts; where it does not start, nobody else would.
    exec 8<>"$work/out"
    while :; do
        # A read whose time is over may have got half a line.
        if IFS= read -r -t 1 -u 8 line; then
            count_line "$half$line"
            half=
            continue
        fi
        half+=$line
        if ! kill -0 "$machine" 2>/dev/null; then
            # What it printed last may still be in the pipe.
            while IFS= read -r -t 0.1 -u 8 line; do
                count_line "$half$line"
                half=
            done
            break
        fi
    done
    exec 8<&-
    if ! wait "$machine" && [ "$(($(date +%s) - start))" -ge "$((minutes * 60))" ]; then
        count_line "FAIL the machine ended within $minutes minutes: it was stopped"
    fi
    machine=
    rm -f "$work/out"
    [ ! -s "$logs/qemu.log" ] || sed 's/^/qemu: /' "$logs/qemu.log" >&2
    machine_status=$(cat "$work/status" 2>/dev/null || true)
}

# panicked: whether the machine's kernel gave up by a fault of the emulator: before anything was checked,
# or at an instruction that another processor was just patching.
panicked() {
    [ -z "$machine_status" ] && grep -q 'Kernel panic' "$logs/console.log" &&
        { [ "$((passed + failed))" = 0 ] || grep -q 'int3: 0000' "$logs/console.log"; }
}
