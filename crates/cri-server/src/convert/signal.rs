//! Stop signals: the interface has its own numbers, the kernel (signal(7)) others.

use super::check::{Checked, enumeration};
use crate::v1;

/// First and last real-time signal that programs may use; glibc keeps 32 and 33 to itself.
const SIGRTMIN: i32 = 34;
const SIGRTMAX: i32 = 64;

/// Names without `SIG`, by the kernel's number less one; the same on x86, Arm and RISC-V.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2",
    "PIPE", "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG",
    "XCPU", "XFSZ", "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The kernel's number of a requested signal; `None` when none was chosen.
pub(crate) fn signal(field: &str, value: i32) -> Checked<Option<i32>> {
    Ok(kernel_number(enumeration(field, value)?))
}

/// The interface's signal of a kernel number, as a status shows it.
pub(crate) fn show(number: i32) -> v1::Signal {
    // Where two names have one number, the first is the usual one.
    (1..=SIGRTMAX + 1)
        .filter_map(|value| v1::Signal::try_from(value).ok())
        .find(|signal| kernel_number(*signal) == Some(number))
        .unwrap_or(v1::Signal::RuntimeDefault)
}

fn kernel_number(signal: v1::Signal) -> Option<i32> {
    let name = match signal.as_str_name().strip_prefix("SIGNAL_SIG")? {
        "CLD" => "CHLD",
        "IOT" => "ABRT",
        "POLL" => "IO",
        "RTMIN" => return Some(SIGRTMIN),
        "RTMAX" => return Some(SIGRTMAX),
        name => name,
    };
    if let Some(above) = name.strip_prefix("RTMINPLUS") {
        return above.parse::<i32>().ok().map(|above| SIGRTMIN + above);
    }
    if let Some(below) = name.strip_prefix("RTMAXMINUS") {
        return below.parse::<i32>().ok().map(|below| SIGRTMAX - below);
    }
    (1..)
        .zip(NAMES)
        .find_map(|(number, known)| (known == name).then_some(number))
}
