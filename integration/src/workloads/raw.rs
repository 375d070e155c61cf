//! System calls that no safe wrapper in the dependency tree offers. Test programs only: thawd's own
//! are in `sys`.
#![expect(
    unsafe_code,
    reason = "semaphores, signals, memory mappings and refused features have no safe API"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering, compiler_fence};

/// Turns libc's -1 into the error behind it.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

extern "C" fn terminate(_: libc::c_int) {
    // SAFETY: _exit is async-signal-safe and has no preconditions.
    unsafe { libc::_exit(0) }
}

/// Ends the process at SIGTERM, which the kernel drops for a first process without a handler.
pub(super) fn exit_on_terminate() {
    let handler: extern "C" fn(libc::c_int) = terminate;
    // SAFETY: the handler calls async-signal-safe functions only and lives as long as the program.
    unsafe { libc::signal(libc::SIGTERM, handler as libc::sighandler_t) };
}

/// The set that holds this signal alone.
fn only(signal: libc::c_int) -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset initialises it below.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a live local.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: the pointer is to a live, initialised local and the signal number is valid.
    unsafe { libc::sigaddset(&raw mut set, signal) };
    set
}

/// Changes whether this thread, and those that it starts later, block a signal.
fn change_mask(how: libc::c_int, signal: libc::c_int) -> io::Result<()> {
    let set = only(signal);
    // SAFETY: set is initialised; the old mask is not asked for.
    match unsafe { libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Blocks SIGUSR2 in this thread and all that it starts later.
pub(super) fn block_user_signal() -> io::Result<()> {
    change_mask(libc::SIG_BLOCK, libc::SIGUSR2)
}

/// How often SIGUSR1 was caught.
static CAUGHT: AtomicU64 = AtomicU64::new(0);

extern "C" fn count_signal(_: libc::c_int) {
    CAUGHT.fetch_add(1, Ordering::Relaxed);
}

/// Has SIGUSR1 counted. It is blocked in this thread, and in those that it starts later, until
/// [`take_signals`].
pub(super) fn count_signals() -> io::Result<()> {
    change_mask(libc::SIG_BLOCK, libc::SIGUSR1)?;
    let handler: extern "C" fn(libc::c_int) = count_signal;
    // SAFETY: the handler only changes an atomic and lives as long as the program. signal(3) restarts
    // system calls.
    match unsafe { libc::signal(libc::SIGUSR1, handler as libc::sighandler_t) } {
        libc::SIG_ERR => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// Lets SIGUSR1 interrupt this thread.
pub(super) fn take_signals() -> io::Result<()> {
    change_mask(libc::SIG_UNBLOCK, libc::SIGUSR1)
}

/// How often SIGUSR1 was caught.
pub(super) fn caught_signals() -> u64 {
    CAUGHT.load(Ordering::Relaxed)
}

/// Queues SIGUSR2 with a value for this process.
pub(super) fn queue_user_signal(value: usize) -> io::Result<()> {
    let payload = libc::sigval {
        sival_ptr: std::ptr::without_provenance_mut(value),
    };
    // SAFETY: getpid has no preconditions.
    let own = unsafe { libc::getpid() };
    // SAFETY: the payload is an integer that nobody dereferences.
    checked(unsafe { libc::sigqueue(own, libc::SIGUSR2, payload) }).map(drop)
}

/// Takes the pending SIGUSR2 and returns the value it carries; never waits.
pub(super) fn take_user_signal() -> io::Result<usize> {
    let set = only(libc::SIGUSR2);
    let zero = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: siginfo_t is plain data that the call fills in.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: all three pointers are to live locals.
    checked(unsafe { libc::sigtimedwait(&raw const set, &raw mut info, &raw const zero) })?;
    // SAFETY: the signal was queued with a value (SI_QUEUE), so that field is the valid one.
    Ok(unsafe { info.si_value() }.sival_ptr.addr())
}

/// Tries to take a whole-file write lock of the open file description (`F_OFD_SETLK`).
pub(super) fn try_description_lock(file: impl AsFd) -> io::Result<()> {
    // SAFETY: flock is plain data; zero is a valid value for every field.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = i16::try_from(libc::F_WRLCK).map_err(io::Error::other)?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: the descriptor is open for the duration of the call, the pointer is to a live local.
    checked(unsafe { libc::fcntl(fd, libc::F_OFD_SETLK, &raw const lock) }).map(drop)
}

/// A POSIX named semaphore: a file in /dev/shm mapped into the process.
pub(super) struct Semaphore(*mut libc::sem_t);

impl Semaphore {
    /// Opens, or creates with `value`, the semaphore of that name.
    pub(super) fn open(name: &str, value: libc::c_uint) -> io::Result<Self> {
        let name = CString::new(name)?;
        // SAFETY: the name is a C string; mode and value are passed because O_CREAT is.
        let semaphore = unsafe { libc::sem_open(name.as_ptr(), libc::O_CREAT, 0o600, value) };
        if semaphore == libc::SEM_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(semaphore))
    }

    /// Its value.
    pub(super) fn value(&self) -> io::Result<libc::c_int> {
        let mut value = 0;
        // SAFETY: the semaphore is open as long as self lives.
        checked(unsafe { libc::sem_getvalue(self.0, &raw mut value) })?;
        Ok(value)
    }

    /// Takes one without waiting.
    pub(super) fn try_wait(&self) -> io::Result<()> {
        // SAFETY: the semaphore is open as long as self lives.
        checked(unsafe { libc::sem_trywait(self.0) }).map(drop)
    }

    /// Gives one back.
    pub(super) fn post(&self) -> io::Result<()> {
        // SAFETY: the semaphore is open as long as self lives.
        checked(unsafe { libc::sem_post(self.0) }).map(drop)
    }
}

impl Drop for Semaphore {
    fn drop(&mut self) {
        // SAFETY: opened by sem_open and closed once.
        unsafe { libc::sem_close(self.0) };
    }
}

/// Advice of madvise(2) since Linux 6.13 (`include/uapi/asm-generic/mman-common.h`).
const MADV_GUARD_INSTALL: libc::c_int = 102;
const MADV_GUARD_REMOVE: libc::c_int = 103;
const PAGE: usize = 4096;

/// First address and end of the pages of [`GuardedPages`], for the handler.
static PAGES_START: AtomicUsize = AtomicUsize::new(0);
static PAGES_END: AtomicUsize = AtomicUsize::new(0);
/// How many guard pages were touched.
static TOUCHED: AtomicUsize = AtomicUsize::new(0);

/// Makes a guard page that was touched an ordinary one, so that the access goes on. Anything else
/// ends the process as it would without a handler.
extern "C" fn remove_guard(_: libc::c_int, info: *mut libc::siginfo_t, _: *mut libc::c_void) {
    // SAFETY: the kernel passes a valid siginfo to a handler with SA_SIGINFO.
    let info = unsafe { &*info };
    // SAFETY: a SIGSEGV that the kernel raised has an address.
    let address = unsafe { info.si_addr() };
    let pages = PAGES_START.load(Ordering::Relaxed)..PAGES_END.load(Ordering::Relaxed);
    if pages.contains(&address.addr()) {
        let page = address.map_addr(|address| address - address % PAGE);
        // SAFETY: the page is of the mapping, which is never unmapped; what a guard page held is
        // gone since it became one.
        let removed = unsafe { libc::madvise(page, PAGE, MADV_GUARD_REMOVE) };
        if removed == 0 {
            TOUCHED.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }
    // SAFETY: the default action has no preconditions; it is taken when the access is tried again.
    unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
}

/// Private memory, any page of which may be a guard page. A process has one at most, for it answers
/// SIGSEGV, and keeps it to its end.
pub(super) struct GuardedPages {
    start: *mut libc::c_void,
    pages: usize,
}

impl GuardedPages {
    /// Maps so many pages of zeros, none of them a guard page.
    pub(super) fn map(pages: usize) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                pages * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        PAGES_START.store(start.addr(), Ordering::Relaxed);
        PAGES_END.store(start.addr() + pages * PAGE, Ordering::Relaxed);
        let handler: extern "C" fn(libc::c_int, *mut libc::siginfo_t, *mut libc::c_void) =
            remove_guard;
        // SAFETY: sigaction is plain data; zero is a valid value for every field.
        let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
        action.sa_sigaction = handler as libc::sighandler_t;
        action.sa_flags = libc::SA_SIGINFO;
        // SAFETY: the handler calls async-signal-safe functions only and lives as long as the
        // program; the old action is not asked for.
        checked(unsafe {
            libc::sigaction(libc::SIGSEGV, &raw const action, std::ptr::null_mut())
        })?;
        Ok(Self { start, pages })
    }

    /// First byte of a page, which must be one of them.
    fn page(&self, number: usize) -> io::Result<*mut libc::c_void> {
        if number >= self.pages {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.start.wrapping_byte_add(number * PAGE))
    }

    /// Makes a page a guard page; what it held is gone.
    pub(super) fn guard(&self, number: usize) -> io::Result<()> {
        let page = self.page(number)?;
        // SAFETY: the page is of the mapping, and nothing refers to what it holds.
        checked(unsafe { libc::madvise(page, PAGE, MADV_GUARD_INSTALL) }).map(drop)
    }

    /// The first word of a page, and whether reading it raised SIGSEGV. If so, the page is a guard
    /// page no longer.
    pub(super) fn read(&self, number: usize) -> io::Result<(u64, bool)> {
        let page = self.page(number)?.cast::<u64>();
        let before = TOUCHED.load(Ordering::Relaxed);
        // The handler runs between the two loads.
        compiler_fence(Ordering::SeqCst);
        // SAFETY: the page is of the mapping, which is never unmapped, and aligned; the handler makes
        // a guard page readable; only this thread writes to it.
        let word = unsafe { page.read_volatile() };
        compiler_fence(Ordering::SeqCst);
        Ok((word, TOUCHED.load(Ordering::Relaxed) != before))
    }

    /// Sets the first word of a page that is no guard page.
    pub(super) fn write(&self, number: usize, word: u64) -> io::Result<()> {
        let page = self.page(number)?.cast::<u64>();
        // SAFETY: as for reading; nothing holds a reference to it.
        unsafe { page.write_volatile(word) };
        Ok(())
    }
}

/// How a mapping is treated by fork(2), and of what pages it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Private, of pages of any size.
    Private,
    /// Private, of huge pages where the system has some.
    Huge,
    /// Private, of small pages.
    Small,
    /// Shared with children.
    Shared,
    /// Private; a child finds zeros.
    Wiped,
    /// Private; a child does not have it.
    LeftOut,
}

/// Maps so many bytes of zeros, for as long as the process lives.
pub(super) fn map(bytes: usize, kind: Kind) -> io::Result<&'static [AtomicU64]> {
    let (sharing, advice) = match kind {
        Kind::Private => (libc::MAP_PRIVATE, libc::MADV_NORMAL),
        Kind::Huge => (libc::MAP_PRIVATE, libc::MADV_HUGEPAGE),
        Kind::Small => (libc::MAP_PRIVATE, libc::MADV_NOHUGEPAGE),
        Kind::Shared => (libc::MAP_SHARED, libc::MADV_NORMAL),
        Kind::Wiped => (libc::MAP_PRIVATE, libc::MADV_WIPEONFORK),
        Kind::LeftOut => (libc::MAP_PRIVATE, libc::MADV_DONTFORK),
    };
    // SAFETY: a new mapping at an address of the kernel's choice touches no other memory.
    let start = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            sharing | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the range is the new mapping, to which nothing refers yet. None of the advices changes
    // what this process finds in it.
    checked(unsafe { libc::madvise(start, bytes, advice) })?;
    let words = bytes / size_of::<AtomicU64>();
    // SAFETY: so many words are mapped there, aligned to a page, readable and writable; they are never
    // unmapped, zero is a valid value, and they are accessed as atomics only.
    Ok(unsafe { std::slice::from_raw_parts(start.cast::<AtomicU64>(), words) })
}

/// An io_uring instance.
pub(super) fn io_uring() -> io::Result<OwnedFd> {
    // struct io_uring_params of <linux/io_uring.h> is 120 bytes, all zero for the defaults.
    let mut parameters = [0_u64; 15];
    // SAFETY: the kernel writes at most the size of its structure, which the buffer has.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 8, parameters.as_mut_ptr()) };
    let fd = checked(libc::c_int::try_from(fd).map_err(io::Error::other)?)?;
    // SAFETY: a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Puts children that are started from now on into a pid namespace of their own.
pub(super) fn unshare_pid() -> io::Result<()> {
    // SAFETY: CLONE_NEWPID changes where children go, nothing about this thread.
    checked(unsafe { libc::unshare(libc::CLONE_NEWPID) }).map(drop)
}

/// Becomes the tracer of a process, without stopping it.
pub(super) fn trace(pid: u32) -> io::Result<()> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let none = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: PTRACE_SEIZE takes no address and no data.
    let result = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, none, none) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
