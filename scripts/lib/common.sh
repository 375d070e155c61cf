# Helpers that the scripts share. Sourced, never run.
# shellcheck shell=bash

set -euo pipefail

# Folder of the repository, whatever the caller's working directory is.
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export repo

# rustup puts cargo here, and a login shell may not have read its env file yet.
for dir in "$HOME/.cargo/bin" /usr/local/go/bin; do
    case ":$PATH:" in
    *":$dir:"*) ;;
    *) [ -d "$dir" ] && PATH="$PATH:$dir" ;;
    esac
done
# Debian keeps runc, iptables and ip in sbin, which a user's PATH lacks.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
export PATH

# say TEXT: a progress line.
say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

# die TEXT: an error line; ends the script.
die() {
    printf '\033[1;31merror:\033[0m %s\n' "$*" >&2
    exit 1
}

# need_root WHY: ends the script with the remedy when it is not run by root.
need_root() {
    [ "$(id -u)" = 0 ] || die "$1 needs root; run: sudo -E $0"
}

# at_least HAVE WANT: whether version HAVE (1.95.0) is WANT (1.90) or newer.
at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# elapsed SINCE: seconds since then, for progress lines.
elapsed() { printf '%d s' "$(($(date +%s) - $1))"; }

# quietly WHAT COMMAND...: runs a long command with a heartbeat every 15 s; shows its output only
# when it fails.
quietly() {
    local what=$1 log start beat beats=0 status=0
    shift
    log=$(mktemp)
    start=$(date +%s)
    say "$what"
    (
        # The sleep must end with its loop: it holds the caller's pipe open. And the loop with the
        # script, which nothing else would do: a background job does not get the terminal's Ctrl-C.
        trap 'kill "$!" 2>/dev/null; exit 0' TERM INT
        while sleep 1 & wait "$!"; do
            if ! kill -0 "$$" 2>/dev/null; then
                rm -f "$log"
                exit 0
            fi
            beats=$((beats + 1))
            [ $((beats % 15)) != 0 ] || say "$what: still at it after $(elapsed "$start")"
        done
    ) &
    beat=$!
    "$@" >"$log" 2>&1 || status=$?
    kill "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    if [ "$status" != 0 ]; then
        cat "$log" >&2
        rm -f "$log"
        die "$what failed (exit status $status): $*"
    fi
    rm -f "$log"
}
