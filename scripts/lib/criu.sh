# Which CRIU a kernel needs. Sourced, never run.
# shellcheck shell=bash

# criu_needed RELEASE: the oldest CRIU that works on a kernel of this release (6.12.117+deb13-amd64).
# The table is that of crates/criu-rpc/src/version.rs, where the reasons are; a test compares them. A
# release that cannot be read counts as new.
criu_needed() {
    local major minor
    [[ $1 =~ ^([0-9]+)[^0-9]([0-9]+) ]] || {
        echo 4.2
        return
    }
    major=${BASH_REMATCH[1]} minor=${BASH_REMATCH[2]}
    if ((major > 6 || (major == 6 && minor >= 16))); then
        echo 4.2
    else
        echo 4.1
    fi
}
