//! Threads of other programs, stopped and made to run a system call (ptrace(2)); x86-64 only.
//!
//! A tracer is a thread, not a process: one thread makes all calls for the threads that it seized. They
//! run on when it ends, but a thread that was to run a system call then has the wrong registers: who
//! uses this lives on until everything is undone.
//!
//! ```text
//!  running ──seize, interrupt──▶ Stop::Interrupted ──step──▶ Stop::Cloned ──step──▶ Stop::Signal(TRAP)
//!     ▲                                 │                                                │
//!     └───────────────detach────────────┴──────────────set_registers─────────────────────┘
//! ```
#![expect(unsafe_code, reason = "rustix has no ptrace")]

use std::io;

/// `SIGTRAP`: what a single step ends with.
pub const TRAP: i32 = libc::SIGTRAP;
/// Every signal there is.
pub const ALL_SIGNALS: u64 = u64::MAX;

/// A child that the thread makes by clone(2) is seized and stopped at its first instruction.
pub const TRACE_CLONE: i32 = libc::PTRACE_O_TRACECLONE;
/// The thread's seccomp filters do not see system calls; needs CAP_SYS_ADMIN.
pub const SUSPEND_SECCOMP: i32 = libc::PTRACE_O_SUSPEND_SECCOMP;

/// `PTRACE_GET_RSEQ_CONFIGURATION` of `<linux/ptrace.h>`, Linux 5.13.
const GET_RSEQ_CONFIGURATION: libc::c_uint = 0x420f;
/// Size of a signal mask in the kernel.
const MASK_BYTES: usize = 8;

/// Why a thread stands, or that it is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// It was interrupted, or stands at its first instruction.
    Interrupted,
    /// Its process is stopped by this signal (job control).
    Group(i32),
    /// This signal is about to be delivered to it.
    Signal(i32),
    /// It is about to return from clone(2); [`event_message`] is the child.
    Cloned,
    /// Another event.
    Event(i32),
    /// It exited or was killed, and has been waited for.
    Gone,
}

/// A thread's registers.
#[derive(Debug, Clone, Copy)]
pub struct Registers(libc::user_regs_struct);

/// Where a restartable sequence is registered (`struct ptrace_rseq_configuration`).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sequence {
    /// Address of its `struct rseq`, to which the kernel writes; 0 when there is none.
    pub address: u64,
    /// Length of it in bytes.
    pub length: u32,
    /// What precedes abort handlers.
    pub signature: u32,
    /// None defined.
    pub flags: u32,
    padding: u32,
}

impl Registers {
    /// Selector of 64-bit code in user space (`__USER_CS`, arch/x86/include/asm/segment.h).
    const USER_CODE: u64 = 0x33;
    /// No system call is to be restarted.
    const NO_CALL: u64 = u64::MAX;

    /// Whether the thread runs 64-bit code.
    #[must_use]
    pub fn is_64_bit(&self) -> bool {
        self.0.cs == Self::USER_CODE
    }

    /// Whether the thread stands in a system call.
    #[must_use]
    pub fn in_system_call(&self) -> bool {
        self.0.orig_rax != Self::NO_CALL
    }

    /// The same, about to run system call `number` by the instruction at `instruction`.
    #[must_use]
    pub fn calling(&self, instruction: u64, number: i64, arguments: [u64; 6]) -> Self {
        let mut registers = *self;
        let [first, second, third, fourth, fifth, sixth] = arguments;
        registers.0.rip = instruction;
        registers.0.rax = number.cast_unsigned();
        registers.0.orig_rax = Self::NO_CALL;
        (registers.0.rdi, registers.0.rsi, registers.0.rdx) = (first, second, third);
        (registers.0.r10, registers.0.r8, registers.0.r9) = (fourth, fifth, sixth);
        registers
    }

    /// What the system call returned: the error's number below 0.
    #[must_use]
    pub fn result(&self) -> i64 {
        self.0.rax.cast_signed()
    }
}

/// Number of clone(2).
pub const CLONE: i64 = libc::SYS_clone;
/// clone(2)'s first argument for a child that shares its parent's descriptors and directories, whose end
/// sends no signal.
#[expect(clippy::as_conversions, reason = "positive, and of fewer bits")]
pub const SHARES_FILES: u64 = (libc::CLONE_FILES | libc::CLONE_FS) as u64;
/// Number of wait4(2).
pub const WAIT4: i64 = libc::SYS_wait4;
/// `__WALL | WNOHANG` of wait4(2): any child, at once.
pub const ANY_CHILD_AT_ONCE: i32 = libc::__WALL | libc::WNOHANG;

fn thread(tid: u32) -> io::Result<libc::pid_t> {
    libc::pid_t::try_from(tid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))
}

fn checked(result: libc::c_long) -> io::Result<()> {
    if result == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// A request whose address and data are numbers.
fn plain(request: libc::c_uint, tid: u32, address: usize, data: i64) -> io::Result<()> {
    let tid = thread(tid)?;
    // SAFETY: the requests made through here (SEIZE, INTERRUPT, CONT, SINGLESTEP, DETACH, SETOPTIONS)
    // take numbers and touch no memory of the caller; the kernel checks the thread and the numbers.
    checked(unsafe { libc::ptrace(request, tid, address, data) })
}

/// Begins to trace a thread, which runs on.
///
/// # Errors
///
/// `EPERM` for one that is traced, has ended, or may not be traced; `ESRCH`.
pub fn seize(tid: u32) -> io::Result<()> {
    plain(libc::PTRACE_SEIZE, tid, 0, 0)
}

/// Stops a seized thread as soon as it would return to user space; see [`wait`].
///
/// # Errors
///
/// `ESRCH` once it is gone.
pub fn interrupt(tid: u32) -> io::Result<()> {
    plain(libc::PTRACE_INTERRUPT, tid, 0, 0)
}

/// Sets the options of a stopped thread: [`TRACE_CLONE`], [`SUSPEND_SECCOMP`], or 0.
///
/// # Errors
///
/// `EPERM`, `ESRCH`, `EINVAL` where the kernel lacks one.
pub fn set_options(tid: u32, options: i32) -> io::Result<()> {
    plain(libc::PTRACE_SETOPTIONS, tid, 0, options.into())
}

/// Lets a stopped thread run on, with `signal` delivered unless it is 0.
///
/// # Errors
///
/// `ESRCH` unless it is stopped.
pub fn resume(tid: u32, signal: i32) -> io::Result<()> {
    plain(libc::PTRACE_CONT, tid, 0, signal.into())
}

/// Lets a stopped thread run one instruction.
///
/// # Errors
///
/// `ESRCH` unless it is stopped.
pub fn step(tid: u32) -> io::Result<()> {
    plain(libc::PTRACE_SINGLESTEP, tid, 0, 0)
}

/// Ends the tracing of a stopped thread, which runs on.
///
/// # Errors
///
/// `ESRCH` unless it is stopped.
pub fn detach(tid: u32) -> io::Result<()> {
    plain(libc::PTRACE_DETACH, tid, 0, 0)
}

/// What the last event told: the child's pid after [`Stop::Cloned`].
///
/// # Errors
///
/// `ESRCH` unless it is stopped.
pub fn event_message(tid: u32) -> io::Result<u64> {
    let (tid, mut message) = (thread(tid)?, 0_u64);
    // SAFETY: GETEVENTMSG writes one unsigned long, which `message` is and which lives across the call.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETEVENTMSG, tid, 0, &raw mut message) };
    checked(result).map(|()| message)
}

/// The registers of a stopped thread.
///
/// # Errors
///
/// `ESRCH` unless it is stopped.
pub fn registers(tid: u32) -> io::Result<Registers> {
    let tid = thread(tid)?;
    // SAFETY: the structure consists of integers, for which zero is a value.
    let mut registers = unsafe { std::mem::zeroed::<libc::user_regs_struct>() };
    // SAFETY: GETREGS writes a user_regs_struct, which `registers` is and which lives across the call.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETREGS, tid, 0, &raw mut registers) };
    checked(result).map(|()| Registers(registers))
}

/// Sets the registers of a stopped thread.
///
/// # Errors
///
/// `ESRCH` unless it is stopped, `EIO` for values that user space cannot have.
pub fn set_registers(tid: u32, registers: &Registers) -> io::Result<()> {
    let tid = thread(tid)?;
    // SAFETY: SETREGS reads a user_regs_struct, which the borrowed value is.
    checked(unsafe { libc::ptrace(libc::PTRACE_SETREGS, tid, 0, &raw const registers.0) })
}

/// The signals that a stopped thread has blocked: bit n - 1 for signal n.
///
/// # Errors
///
/// `ESRCH` unless it is stopped.
pub fn signal_mask(tid: u32) -> io::Result<u64> {
    let (tid, mut mask) = (thread(tid)?, 0_u64);
    // SAFETY: GETSIGMASK writes as many bytes as the address argument says, which are those of `mask`.
    let result = unsafe { libc::ptrace(libc::PTRACE_GETSIGMASK, tid, MASK_BYTES, &raw mut mask) };
    checked(result).map(|()| mask)
}

/// Blocks these signals, and no others, in a stopped thread.
///
/// # Errors
///
/// `ESRCH` unless it is stopped.
pub fn set_signal_mask(tid: u32, mask: u64) -> io::Result<()> {
    let tid = thread(tid)?;
    // SAFETY: SETSIGMASK reads as many bytes as the address argument says, which are those of `mask`.
    let result = unsafe { libc::ptrace(libc::PTRACE_SETSIGMASK, tid, MASK_BYTES, &raw const mask) };
    checked(result)
}

/// The restartable sequence of a stopped thread; its address is 0 when none is registered.
///
/// # Errors
///
/// `EIO` where the kernel cannot tell (before 5.13), `ESRCH` unless it is stopped.
pub fn sequence(tid: u32) -> io::Result<Sequence> {
    let (tid, mut sequence) = (thread(tid)?, Sequence::default());
    let length = size_of::<Sequence>();
    // SAFETY: the request writes at most `length` bytes of a structure whose layout `Sequence` has.
    let result = unsafe { libc::ptrace(GET_RSEQ_CONFIGURATION, tid, length, &raw mut sequence) };
    checked(result).map(|()| sequence)
}

/// Looks whether a traced thread, or a child, has stopped or ended since the last look; `None` when not.
///
/// # Errors
///
/// `ECHILD` when it is neither traced nor a child.
pub fn wait(tid: u32) -> io::Result<Option<Stop>> {
    let (tid, mut status) = (thread(tid)?, 0);
    let options = libc::__WALL | libc::WNOHANG;
    let found = loop {
        // SAFETY: waitpid(2) writes one int, which `status` is and which lives across the call.
        let found = unsafe { libc::waitpid(tid, &raw mut status, options) };
        let error = io::Error::last_os_error();
        match found {
            -1 if error.kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(error),
            found => break found,
        }
    };
    Ok((found != 0).then(|| decode(status)))
}

/// What a status of waitpid(2) says of a seized thread.
fn decode(status: libc::c_int) -> Stop {
    if !libc::WIFSTOPPED(status) {
        return Stop::Gone;
    }
    match (status >> 16, libc::WSTOPSIG(status)) {
        (0, signal) => Stop::Signal(signal),
        (libc::PTRACE_EVENT_STOP, libc::SIGTRAP) => Stop::Interrupted,
        (libc::PTRACE_EVENT_STOP, signal) => Stop::Group(signal),
        (libc::PTRACE_EVENT_CLONE, _) => Stop::Cloned,
        (event, _) => Stop::Event(event),
    }
}

#[cfg(test)]
mod tests;
