//! For tests: system calls that fail as they do on another kernel.
//!
//! A seccomp filter (seccomp(2)) cannot be taken away again, so it is put on a thread of its own.
//! Threads and programs that are started there have it too.
#![expect(unsafe_code, reason = "seccomp(2) has no safe wrapper")]

use std::io;

/// Its `SYS_*` and `E*` are the numbers of a [`Refusal`].
pub use libc;

/// A call that the kernel answers with an error instead of doing it.
#[derive(Debug, Clone, Copy)]
pub struct Refusal {
    /// Its number: one of `libc::SYS_*`.
    pub call: libc::c_long,
    /// Refuse it only where this argument has this value; `None` refuses all.
    pub argument: Option<Argument>,
    /// The error number that it returns: one of `libc::E*`.
    pub errno: i32,
}

/// What one argument of a call must be.
#[derive(Debug, Clone, Copy)]
pub struct Argument {
    /// Its place: 0 to 5.
    pub index: u32,
    /// The bits of its lower half that are looked at.
    pub mask: u32,
    /// What these bits must be.
    pub value: u32,
}

/// Runs `work` on a thread for which the `refusals` hold; the first one that fits counts.
///
/// # Errors
///
/// What prctl(2) or seccomp(2) return: `EACCES` without the right to install a filter.
///
/// # Panics
///
/// When `work` does.
pub fn refusing<T: Send>(refusals: &[Refusal], work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let handle = scope.spawn(|| {
            install(refusals)?;
            Ok(work())
        });
        match handle.join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

// Places in `struct seccomp_data` (linux/seccomp.h).
const NUMBER: u32 = 0;
const ARGUMENTS: u32 = 16;

const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const JUMP_IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const RETURN: u32 = libc::BPF_RET | libc::BPF_K;

fn install(refusals: &[Refusal]) -> io::Result<()> {
    let mut program = Vec::new();
    for refusal in refusals {
        refuse(&mut program, refusal)?;
    }
    program.push(statement(RETURN, libc::SECCOMP_RET_ALLOW)?);
    let mut filter = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(io::Error::other)?,
        filter: program.as_mut_ptr(),
    };
    // SAFETY: the mode takes a pointer to a `sock_fprog`, whose `filter` points at `len` instructions;
    // both live until the call returns, which copies them. Without TSYNC it is this thread's alone.
    let result = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw mut filter,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Appends instructions that return the refusal's error where it fits, and else go on behind them.
fn refuse(program: &mut Vec<libc::sock_filter>, refusal: &Refusal) -> io::Result<()> {
    let number = u32::try_from(refusal.call).map_err(io::Error::other)?;
    let errno = u32::try_from(refusal.errno).map_err(io::Error::other)?;
    let answer = libc::SECCOMP_RET_ERRNO | (errno & libc::SECCOMP_RET_DATA);
    program.push(statement(LOAD, NUMBER)?);
    let Some(argument) = refusal.argument else {
        program.push(unless_equal(number, 1)?);
        program.push(statement(RETURN, answer)?);
        return Ok(());
    };
    program.push(unless_equal(number, 4)?);
    // The lower half comes first: both machines that CRIU runs on here are little-endian.
    program.push(statement(LOAD, ARGUMENTS + 8 * argument.index)?);
    program.push(statement(AND, argument.mask)?);
    program.push(unless_equal(argument.value, 1)?);
    program.push(statement(RETURN, answer)?);
    Ok(())
}

/// Leaves out the next `skip` instructions unless the accumulator holds `value`.
fn unless_equal(value: u32, skip: u8) -> io::Result<libc::sock_filter> {
    Ok(libc::sock_filter {
        jf: skip,
        ..statement(JUMP_IF_EQUAL, value)?
    })
}

fn statement(code: u32, k: u32) -> io::Result<libc::sock_filter> {
    Ok(libc::sock_filter {
        code: u16::try_from(code).map_err(io::Error::other)?,
        jt: 0,
        jf: 0,
        k,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_call_fails_on_its_thread_only_and_only_with_its_argument() {
        let none = rustix::process::PidfdFlags::empty();
        let nonblock = rustix::process::PidfdFlags::NONBLOCK;
        let own = rustix::process::getpid();
        let refusal = Refusal {
            call: libc::SYS_pidfd_open,
            argument: Some(Argument {
                index: 1,
                mask: nonblock.bits(),
                value: nonblock.bits(),
            }),
            errno: libc::EINVAL,
        };
        refusing(&[refusal], || {
            rustix::process::pidfd_open(own, none).unwrap();
            let error = rustix::process::pidfd_open(own, nonblock).unwrap_err();
            assert_eq!(error, rustix::io::Errno::INVAL);
        })
        .unwrap();
        rustix::process::pidfd_open(own, nonblock).unwrap();
        let all = Refusal {
            argument: None,
            errno: libc::ENOSYS,
            ..refusal
        };
        let error = refusing(&[all], || rustix::process::pidfd_open(own, none)).unwrap();
        assert_eq!(error.unwrap_err(), rustix::io::Errno::NOSYS);
    }
}
