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

/// Sets the weight of a thread of this process, the calling one without a number (sched(7)); its nice
/// value stays.
///
/// # Errors
///
/// `EPERM` for who may not go back to the usual one, `ESRCH` when there is no such thread.
pub fn set_weight(thread: Option<u32>, weight: Weight) -> io::Result<()> {
    let thread = libc::pid_t::try_from(thread.unwrap_or(0)).map_err(io::Error::other)?;
    let policy = match weight {
        Weight::Usual => libc::SCHED_OTHER,
        Weight::Idle => libc::SCHED_IDLE,
    };
    let parameter = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameter` lives across the call, which reads it only; the kernel checks the numbers.
    if unsafe { libc::sched_setscheduler(thread, policy, &raw const parameter) } == 0 {
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
            set_weight(None, Weight::Idle).unwrap();
            assert_eq!(policy(), libc::SCHED_IDLE.to_string());
            let own = rustix::thread::gettid().as_raw_nonzero().get();
            match set_weight(u32::try_from(own).ok(), Weight::Usual) {
                Ok(()) => assert_eq!(policy(), libc::SCHED_OTHER.to_string()),
                // Without CAP_SYS_NICE and with a nice value that RLIMIT_NICE does not allow.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EPERM)),
            }
        })
        .join()
        .unwrap();
    }
}
