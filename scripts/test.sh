#!/usr/bin/env bash
# Everything that must hold before a change lands. Nothing is skipped: as root it installs and builds
# what the tests need; an unmet need fails and says what to do about it. A second run is incremental.
#
#   scripts/test.sh            all of it; root, for real runc, CRIU and CNI in integration/, and a
#                              Debian 13 of its own in an emulated machine (scripts/vm.sh)
#   scripts/test.sh --nodes    also Debian 12 and sid, each with AppArmor on and off, and with cgroup
#                              v1 where there is one: an hour more
#   scripts/test.sh --quick    formatting, lints, unit and in-process tests; as another user than
#                              root, those that need no root
#   scripts/test.sh FILTER     integration tests whose name contains FILTER, and nothing else
. "$(dirname "$0")/lib/common.sh"
cd "$repo"

quick=no
nodes=no
filter=
for arg in "$@"; do
    case $arg in
    --quick) quick=yes ;;
    --nodes) nodes=yes ;;
    -h | --help)
        sed -n '2,11s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    -*) die "unknown option $arg; usage: scripts/test.sh [--quick | --nodes | FILTER]" ;;
    *) filter=$arg ;;
    esac
done

if [ "$nodes" = yes ] && { [ "$quick" = yes ] || [ -n "$filter" ]; }; then
    die "--nodes is for all tests; usage: scripts/test.sh [--quick | --nodes | FILTER]"
fi

# Quick when nothing is missing.
if [ "$(id -u)" = 0 ]; then
    scripts/install-deps.sh --tests
    [ "$quick" = yes ] || scripts/build-tools.sh >/dev/null
fi

passed=0
failed=0
failures=()
log=$(mktemp)
told=$(mktemp)
trap 'rm -f "$log" "$told"' EXIT

# check NAME COMMAND...: one step; counts the tests that it reports, or itself when it reports none.
check() {
    local name=$1 start status=0 ok=0 bad=0 line
    shift
    start=$(date +%s)
    say "$name"
    "$@" 2>&1 | tee "$log" || status=$?
    # "test result: ok. 12 passed; 0 failed; ..." of cargo test and of libtest-mimic, and vm.sh's
    # "12 passed, 0 failed".
    while read -r line; do
        ok=$((ok + $(sed -n 's/^\(.* \)\{0,1\}\([0-9]*\) passed.*/\2/p' <<<"$line")))
        bad=$((bad + $(sed -n 's/.* \([0-9]*\) failed.*/\1/p' <<<"$line")))
    done < <(grep -E '^(test result: .* passed; .*|[0-9]+ passed, [0-9]+) failed' "$log" || true)
    if [ "$status" != 0 ] && [ "$bad" = 0 ]; then
        bad=1
    elif [ "$ok$bad" = 00 ] && grep -q '^test result:' "$log"; then
        printf 'no test was run\n' >&2
        bad=1
    elif [ "$ok$bad" = 00 ]; then
        ok=1
    fi
    passed=$((passed + ok))
    failed=$((failed + bad))
    if [ "$bad" != 0 ]; then
        failures+=("$name")
        tell_again "$name" >>"$told"
    fi
    say "$name: $ok passed, $bad failed, $(elapsed "$start")"
}

# tell_again NAME: what the step said of its failures, for the end of the output: what follows the
# step may be long.
tell_again() {
    printf -- '--- %s\n' "$1"
    # "---- NAME ----" and what follows is how both test programs tell of a failure.
    if ! grep -m1 -A200 -E '^(failures:|---- .* ----)$' "$log"; then
        grep -E '^(FAIL |error|warning)' "$log" || tail -n 40 "$log"
    fi | head -c 20000 || true
}

finish() {
    cat "$told" >&2
    [ "${#failures[@]}" = 0 ] || printf 'failed: %s\n' "${failures[@]}" >&2
    printf '%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" = 0 ] || exit 1
    exit 0
}

if [ -z "$filter" ]; then
    check "formatting" cargo fmt --all --check
    check "lints" cargo clippy --locked --workspace --all-targets -- -D warnings
    if [ "$quick" = yes ]; then
        if [ "$(id -u)" = 0 ]; then
            check "unit and in-process tests" cargo test --locked --no-fail-fast --workspace --exclude integration
        else
            say "left out: tests that mount, trace or change namespaces (bundler, images, lifecycle," \
                "sys, and those on real runc and CRIU); as root --quick runs them too"
            check "tests of cri-server, criu-images and thawd" \
                cargo test --locked -p cri-server -p criu-images -p thawd
            check "tests of criu-rpc, monitor and oci-runtime that need no root" \
                cargo test --locked --lib -p criu-rpc -p monitor -p oci-runtime
        fi
        finish
    fi
fi

if [ "$(id -u)" != 0 ]; then
    printf 'integration tests need root; run: sudo -E scripts/test.sh, or scripts/test.sh --quick\n' >&2
    failed=$((failed + 1))
    failures+=("root")
    finish
fi

if [ -z "$filter" ]; then
    check "unit and in-process tests" cargo test --locked --no-fail-fast --workspace --exclude integration
    check "documentation" env RUSTDOCFLAGS="-D warnings" \
        cargo doc --locked --workspace --no-deps
fi
check "release build" cargo build --locked --release --workspace --bins
if [ -z "$filter" ]; then
    # Not the debug build: the one that stands beside each container.
    check "the monitor's memory" env \
        THAWD_TEST_MONITOR="${CARGO_TARGET_DIR:-$repo/target}/release/thawd-monitor" \
        cargo test --locked -p monitor --test it -- --nocapture 2_mib
fi
check "test images" bash -c '
    set -e
    for variant in base workload redis python; do
        scripts/build-image.sh "$variant" "${CARGO_TARGET_DIR:-target}/images/$variant.tar"
    done'
if [ -n "$filter" ]; then
    check "integration" cargo test --locked -p integration --test e2e -- "$filter"
else
    check "integration" cargo test --locked -p integration --test e2e
    # The machine this runs on may have neither systemd nor AppArmor, and has one kernel.
    check "Debian 13 in a machine" scripts/vm.sh trixie
fi
if [ "$nodes" = yes ]; then
    check "Debian 13 without AppArmor" scripts/vm.sh trixie --apparmor=off
    check "Debian 13 with cgroup v1" scripts/vm.sh trixie --cgroup=v1
    check "Debian 12 in a machine" scripts/vm.sh bookworm
    check "Debian 12 without AppArmor" scripts/vm.sh bookworm --apparmor=off
    check "Debian 12 with cgroup v1" scripts/vm.sh bookworm --cgroup=v1
    check "Debian sid in a machine" scripts/vm.sh sid
    check "Debian sid without AppArmor" scripts/vm.sh sid --apparmor=off
fi
finish
