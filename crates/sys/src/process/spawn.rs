//! posix_spawn(3) with everything decided: descriptors, signals, group, directory, environment.
#![expect(unsafe_code, reason = "posix_spawn has no safe wrapper")]

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{CString, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::ptr;

use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};

use super::command::{Command, Group, Stdio};
use super::{Child, ExitStatus};

/// Highest number a descriptor may be mapped to; keeps the list of closed gaps short.
const MAX_TARGET: i32 = 1024;

/// What the child keeps, what the parent keeps.
struct StdioEnds {
    child: OwnedFd,
    parent: Option<OwnedFd>,
}

pub(super) fn spawn(command: Command) -> io::Result<Child> {
    let argv: Vec<CString> = command
        .argv()
        .into_iter()
        .map(c_string)
        .collect::<io::Result<_>>()?;
    let envp = environment(&command)?;
    let cwd = command
        .cwd
        .as_deref()
        .map(|dir| c_string(dir.into()))
        .transpose()?;
    let targets = check_targets(&command.fds)?;
    let floor = targets.last().copied().unwrap_or(2).saturating_add(1);

    let [stdin, stdout, stderr] = command.stdio;
    let stdin = ends(stdin, io::stdin().as_fd(), Direction::ToChild)?;
    let stdout = ends(stdout, io::stdout().as_fd(), Direction::FromChild)?;
    let stderr = ends(stderr, io::stderr().as_fd(), Direction::FromChild)?;

    // Sources above every target: no dup2 in the child overwrites a later one's source.
    let mut lifted = Vec::new();
    let standard = [(&stdin.child, 0), (&stdout.child, 1), (&stderr.child, 2)];
    let mapped = command.fds.iter().map(|(fd, target)| (fd, *target));
    for (fd, target) in standard.into_iter().chain(mapped) {
        lifted.push((rustix::io::fcntl_dupfd_cloexec(fd, floor)?, target));
    }

    let mut actions = FileActions::new()?;
    if let Some(dir) = &cwd {
        actions.change_dir(dir)?;
    }
    for (source, target) in &lifted {
        actions.dup2(source.as_fd(), *target)?;
    }
    for gap in (3..floor).filter(|fd| !targets.contains(fd)) {
        actions.close(gap)?;
    }
    actions.close_from(floor)?;
    let attributes = Attributes::new(command.group)?;

    let pid = exec(&argv, &envp, &actions, &attributes)?;
    // Not yet reaped, so the number is still this child's.
    let pidfd = match rustix::process::pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => pidfd,
        Err(error) => {
            abandon(pid);
            return Err(error.into());
        }
    };
    Ok(Child::started(
        pid,
        pidfd,
        [stdin.parent, stdout.parent, stderr.parent],
    ))
}

/// Ends a child that cannot be handed out.
fn abandon(pid: Pid) {
    // Nothing more can be done about a failure here: the caller gets the first error.
    if rustix::process::kill_process_group(pid, rustix::process::Signal::KILL).is_ok() {
        rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).ok();
    }
}

fn check_targets(fds: &[(OwnedFd, i32)]) -> io::Result<BTreeSet<i32>> {
    let mut targets = BTreeSet::new();
    for (_, target) in fds {
        if !(3..=MAX_TARGET).contains(target) || !targets.insert(*target) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("descriptor number {target} is below 3, above {MAX_TARGET} or given twice"),
            ));
        }
    }
    Ok(targets)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToChild,
    FromChild,
}

fn ends(stdio: Stdio, own: BorrowedFd<'_>, direction: Direction) -> io::Result<StdioEnds> {
    let child = match stdio {
        Stdio::Null => {
            rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?
        }
        Stdio::Inherit => own.try_clone_to_owned()?,
        Stdio::Fd(fd) => fd,
        Stdio::Pipe => {
            let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
            let (child, parent) = match direction {
                Direction::ToChild => (reader, writer),
                Direction::FromChild => (writer, reader),
            };
            return Ok(StdioEnds {
                child,
                parent: Some(parent),
            });
        }
    };
    Ok(StdioEnds {
        child,
        parent: None,
    })
}

fn environment(command: &Command) -> io::Result<Vec<CString>> {
    let mut all: BTreeMap<OsString, OsString> = BTreeMap::new();
    if !command.env_clear {
        all.extend(std::env::vars_os());
    }
    all.extend(
        command
            .env
            .iter()
            .map(|(key, value)| (key.clone(), value.clone())),
    );
    all.into_iter()
        .map(|(key, value)| {
            if key.is_empty() || key.as_bytes().contains(&b'=') {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} is no name of a variable", key.display()),
                ));
            }
            let mut entry = key;
            entry.push("=");
            entry.push(value);
            c_string(entry)
        })
        .collect()
}

fn c_string(text: OsString) -> io::Result<CString> {
    CString::new(text.into_vec()).map_err(|error| {
        let text = String::from_utf8_lossy(&error.into_vec()).into_owned();
        io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{text:?} contains a NUL byte"),
        )
    })
}

/// Pointers to the strings, and the null that ends them.
fn pointers(strings: &[CString]) -> Vec<*mut libc::c_char> {
    strings
        .iter()
        .map(|string| string.as_ptr().cast_mut())
        .chain(std::iter::once(ptr::null_mut()))
        .collect()
}

fn exec(
    argv: &[CString],
    envp: &[CString],
    actions: &FileActions,
    attributes: &Attributes,
) -> io::Result<Pid> {
    let (argv, envp) = (pointers(argv), pointers(envp));
    let program = argv.first().copied().unwrap_or(ptr::null_mut());
    let mut pid: libc::pid_t = 0;
    // SAFETY: `argv` and `envp` are arrays of pointers to NUL-terminated strings that the caller
    // borrows to us for the whole call, each ended by a null; `program` is the first of them, not
    // null because `Command::argv` always has one; `actions` and `attributes` are initialised; `pid`
    // is a valid place to write to. posix_spawnp writes to none of the strings.
    let errno = unsafe {
        libc::posix_spawnp(
            &raw mut pid,
            program,
            &raw const actions.0,
            &raw const attributes.0,
            argv.as_ptr(),
            envp.as_ptr(),
        )
    };
    check(errno)?;
    Pid::from_raw(pid).ok_or_else(|| io::Error::other("posix_spawn returned no process"))
}

/// For [`crate::kernel`]: whether the kernel has close_range(2), which posix_spawn(3) closes descriptors
/// with.
pub(crate) fn try_close_range() -> io::Result<()> {
    let none = libc::c_uint::MAX;
    // SAFETY: it closes the descriptors from `none` to `none`, a number that no descriptor can have
    // (they end at the largest `c_int`), and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, none, none, 0) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// These functions return an error number instead of setting `errno`.
fn check(errno: libc::c_int) -> io::Result<()> {
    if errno == 0 {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(errno))
    }
}

struct FileActions(libc::posix_spawn_file_actions_t);

impl FileActions {
    fn new() -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: `raw` is valid for writes; init has no other precondition.
        check(unsafe { libc::posix_spawn_file_actions_init(raw.as_mut_ptr()) })?;
        // SAFETY: init succeeded, so it has been initialised.
        Ok(Self(unsafe { raw.assume_init() }))
    }

    fn dup2(&mut self, source: BorrowedFd<'_>, target: i32) -> io::Result<()> {
        // SAFETY: `self.0` is initialised; the numbers are only recorded.
        check(unsafe {
            libc::posix_spawn_file_actions_adddup2(&raw mut self.0, source.as_raw_fd(), target)
        })
    }

    /// Closes a number in the child; one that is not open there is no error.
    fn close(&mut self, fd: i32) -> io::Result<()> {
        // SAFETY: `self.0` is initialised; the number is only recorded.
        check(unsafe { libc::posix_spawn_file_actions_addclose(&raw mut self.0, fd) })
    }

    fn close_from(&mut self, fd: i32) -> io::Result<()> {
        // SAFETY: `self.0` is initialised; the number is only recorded.
        check(unsafe { libc::posix_spawn_file_actions_addclosefrom_np(&raw mut self.0, fd) })
    }

    fn change_dir(&mut self, dir: &CString) -> io::Result<()> {
        // SAFETY: `self.0` is initialised; the path is NUL-terminated and copied by the call.
        check(unsafe { libc::posix_spawn_file_actions_addchdir_np(&raw mut self.0, dir.as_ptr()) })
    }
}

impl Drop for FileActions {
    fn drop(&mut self) {
        // SAFETY: `self.0` is initialised and not used afterwards. The call cannot fail.
        unsafe { libc::posix_spawn_file_actions_destroy(&raw mut self.0) };
    }
}

struct Attributes(libc::posix_spawnattr_t);

/// `POSIX_SPAWN_SETSID` of glibc's `spawn.h`.
const SETSID: i32 = 0x80;

impl Attributes {
    fn new(group: Group) -> io::Result<Self> {
        let mut raw = MaybeUninit::uninit();
        // SAFETY: `raw` is valid for writes; init has no other precondition.
        check(unsafe { libc::posix_spawnattr_init(raw.as_mut_ptr()) })?;
        // SAFETY: init succeeded, so it has been initialised.
        let mut this = Self(unsafe { raw.assume_init() });

        let (none, all) = signal_sets();
        // SAFETY: both are initialised; the set is copied by the call.
        check(unsafe { libc::posix_spawnattr_setsigmask(&raw mut this.0, &raw const none) })?;
        // SAFETY: both are initialised; the set is copied by the call.
        check(unsafe { libc::posix_spawnattr_setsigdefault(&raw mut this.0, &raw const all) })?;
        let group = match group {
            Group::Own => libc::POSIX_SPAWN_SETPGROUP,
            Group::Session => SETSID,
        };
        // A process group of 0, which init set, means one of the child's own.
        let flags = libc::POSIX_SPAWN_SETSIGMASK | libc::POSIX_SPAWN_SETSIGDEF | group;
        let flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
        // SAFETY: `this.0` is initialised; the flags are only recorded.
        check(unsafe { libc::posix_spawnattr_setflags(&raw mut this.0, flags) })?;
        Ok(this)
    }
}

impl Drop for Attributes {
    fn drop(&mut self) {
        // SAFETY: `self.0` is initialised and not used afterwards. The call cannot fail.
        unsafe { libc::posix_spawnattr_destroy(&raw mut self.0) };
    }
}

/// The empty set of signals and the full one.
///
/// The full one holds the two signals that glibc keeps for itself as well, which sigfillset(3)
/// leaves out: posix_spawn would otherwise start programs that ignore them, and container
/// processes inherit that.
fn signal_sets() -> (libc::sigset_t, libc::sigset_t) {
    let (mut none, mut all) = (MaybeUninit::uninit(), MaybeUninit::uninit());
    // SAFETY: `none` is valid for writes of one element.
    unsafe { ptr::write_bytes(none.as_mut_ptr(), 0x00, 1) };
    // SAFETY: `all` is valid for writes of one element.
    unsafe { ptr::write_bytes(all.as_mut_ptr(), 0xff, 1) };
    // SAFETY: a `sigset_t` is an array of integers: every pattern of bits is one, and all of them
    // have been written.
    let none = unsafe { none.assume_init() };
    // SAFETY: as above.
    (none, unsafe { all.assume_init() })
}

/// Waits for a child by its descriptor. Must be called at most once with success.
pub(super) fn reap(pidfd: BorrowedFd<'_>) -> io::Result<ExitStatus> {
    let status = rustix::io::retry_on_intr(|| {
        rustix::process::waitid(
            rustix::process::WaitId::PidFd(pidfd),
            rustix::process::WaitIdOptions::EXITED,
        )
    })?;
    status
        .as_ref()
        .and_then(ExitStatus::from_waitid)
        .ok_or_else(|| io::Error::other("waitid told of a process that has not ended"))
}
