//! How much a thread counts for the scheduler.
#![expect(unsafe_code, reason = "rustix has no sched_setscheduler")]

use std::io;

/// See [`set_weight`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// As much as its nice value says (`SCHED_OTHER`).
    Usual,
    /// It runs where no other thread would, and gives way at once (`SCHED_IDLE`).
    Idle,
}

/// Sets the calling thread's weight (sched(7)); its nice value stays.
///
/// # Errors
///
/// `EPERM` for who may not go back to the usual one.
pub fn set_weight(weight: Weight) -> io::Result<()> {
    let policy = match weight {
        Weight::Usual => libc::SCHED_OTHER,
        Weight::Idle => libc::SCHED_IDLE,
    };
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread; `parameter` lives across the call, which reads it only.
    if unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) } == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_gives_way_and_comes_back() {
        let policy = || {
            let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
            let (_, rest) = stat.rsplit_once(')').unwrap();
            rest.split_whitespace().nth(38).unwrap().to_owned()
        };
        std::thread::spawn(move || {
            set_weight(Weight::Idle).unwrap();
            assert_eq!(policy(), libc::SCHED_IDLE.to_string());
            match set_weight(Weight::Usual) {
                Ok(()) => assert_eq!(policy(), libc::SCHED_OTHER.to_string()),
                // Without CAP_SYS_NICE and with a nice value that RLIMIT_NICE does not allow.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
            }
        })
        .join()
        .unwrap();
    }
}
