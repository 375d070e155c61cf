//! Whether two descriptors are one open file (kcmp(2)).
#![expect(unsafe_code, reason = "rustix has no kcmp")]

use std::io;

/// `KCMP_FILE` of `<linux/kcmp.h>`.
const KCMP_FILE: libc::c_int = 0;

/// Whether descriptor `fd` of process `pid` and that of the other process are one open file: inherited
/// or duplicated, not opened twice.
///
/// # Errors
///
/// `ESRCH` once a process is gone, `EBADF` for a descriptor that is not open, `EPERM` without the
/// permission to trace them, `ENOSYS` on a kernel without kcmp(2).
pub fn same_file((pid, fd): (u32, u32), (other, other_fd): (u32, u32)) -> io::Result<bool> {
    let number = |pid: u32| libc::pid_t::try_from(pid).map_err(io::Error::other);
    // SAFETY: kcmp(2) takes numbers only; the kernel checks that they name processes which the caller
    // may trace and descriptors that are open there, and touches no memory of the caller.
    let order = unsafe {
        libc::syscall(
            libc::SYS_kcmp,
            number(pid)?,
            number(other)?,
            KCMP_FILE,
            libc::c_ulong::from(fd),
            libc::c_ulong::from(other_fd),
        )
    };
    match order {
        -1 => Err(io::Error::last_os_error()),
        order => Ok(order == 0),
    }
}

#[cfg(test)]
mod tests {
    use super::same_file;
    use std::fs::File;
    use std::os::fd::AsRawFd;

    #[test]
    fn a_duplicate_is_the_same_file_and_another_opening_is_not() {
        let one = File::open("/dev/null").unwrap();
        let (copy, again) = (one.try_clone().unwrap(), File::open("/dev/null").unwrap());
        let own = |file: &File| {
            let fd = u32::try_from(file.as_raw_fd()).unwrap();
            (std::process::id(), fd)
        };
        assert!(same_file(own(&one), own(&copy)).unwrap());
        assert!(!same_file(own(&one), own(&again)).unwrap());
        let closed = (std::process::id(), 1 << 20);
        let error = same_file(own(&one), closed).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EBADF));
    }
}
