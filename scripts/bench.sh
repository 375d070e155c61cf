#!/usr/bin/env bash
# Compares thawd with plain runc, CRIU and tar: checkpoint, time frozen, bytes written, restore; side
# by side, as ratios. Prints Markdown on standard output and its progress on standard error.
#
#   scripts/bench.sh                              16 MiB, 256 MiB, 1 GiB and 4 GiB, three times each
#   scripts/bench.sh --sizes 16,256 --repetitions 5
#   scripts/bench.sh --check                      fails when a ratio is worse than expected
#
# The daemon and the containers are private (own directories, cgroups, network and mount namespace)
# and are removed at the end, also after Ctrl-C. Both sides run at nice -20, the containers at 0, so
# that other programs of the machine disturb them less. What is measured how:
# integration/bench/mod.rs.
. "$(dirname "$0")/lib/common.sh"

case ${1:-} in
-h | --help)
    sed -n '2,12s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac
need_root "the benchmark (namespaces, mounts, CRIU)"

say "checking what is installed"
"$repo/scripts/install-deps.sh"

cd "$repo"
quietly "building thawd (a first build takes some minutes, the next one seconds)" \
    cargo build --locked --release --bins \
    -p thawd -p monitor -p criu-rpc -p integration
exec nice -n -20 "${CARGO_TARGET_DIR:-$repo/target}/release/bench" "$@"
