//! A child for each process, which never runs.
//!
//! The thread that makes it has all its signals blocked and its seccomp filters suspended meanwhile, and
//! gets its registers back afterwards. It runs clone(2) and wait4(2) by a `syscall` instruction that is
//! there already, in the vDSO: no memory of the process is written. The child shares the descriptors, so
//! that its end closes nothing.
//!
//! ```text
//!  clone ─▶ kill ─▶ wait for its end ─▶ wait4 in the parent ─▶ registers and mask as they were
//! ```
//! Each step is made for all processes before the next one, so that they go through it side by side.
//! Once a child exists, everything to the end is done, whatever fails.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;

use sys::process::Deadline;
use sys::ptrace::{self, Registers, Stop};

use super::tasks::{Tasks, next_stop};
use super::{Daemon, Refusal};

/// Time for one step: page tables of a terabyte are copied in it.
const STEP: Duration = Duration::from_secs(30);
/// The `syscall` instruction.
const SYSCALL: [u8; 2] = [0x0f, 0x05];
/// Longest vDSO that is looked into; it has two to four pages.
const MOST_CODE_BYTES: usize = 64 << 10;
/// Where `struct rseq` has the address of the sequence that is running (`rseq_cs`, `<linux/rseq.h>`).
const RUNNING_SEQUENCE: u64 = 8;

/// Makes the memory of all processes copy-on-write.
pub(super) fn all(daemon: &Daemon<'_>, tasks: &Tasks) -> Result<(), Refusal> {
    let mut forks = Vec::new();
    for (pid, threads) in tasks.processes() {
        forks.push(Fork::prepare(pid, threads)?);
    }
    let mut failure = Ok(());
    let mut note = |result: Result<(), Refusal>| {
        if failure.is_ok() {
            failure = result;
        }
    };
    forks.iter_mut().for_each(|fork| note(fork.begin()));
    forks.iter_mut().for_each(|fork| note(fork.cloned()));
    forks.iter_mut().for_each(|fork| note(fork.kill()));
    forks.iter_mut().for_each(|fork| note(fork.ended()));
    forks.iter_mut().for_each(|fork| note(fork.reap()));
    forks.iter_mut().for_each(|fork| note(fork.reaped()));
    forks.iter_mut().for_each(|fork| note(fork.restore()));
    failure?;
    // Only now: a child that exists is done with whether or not the daemon waits.
    daemon.pause(Deadline::after(STEP), &"forking")
}

/// How far one process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its registers are its own.
    Untouched,
    /// It runs clone(2).
    Cloning,
    /// It has a child, by its pid here and there; where it was killed itself, the latter is not known.
    Child { outer: u32, inner: Option<i64> },
    /// It runs wait4(2).
    Reaping { inner: i64 },
    /// It stands after a system call of ours.
    Done,
    /// It was killed meanwhile.
    Gone,
}

#[derive(Debug)]
struct Fork {
    pid: u32,
    /// The thread that makes the child.
    tid: u32,
    instruction: u64,
    registers: Registers,
    mask: u64,
    step: Step,
    /// SIGSTOP reached it, which cannot be blocked: it is sent again.
    stop_again: bool,
}

impl Fork {
    fn prepare(pid: u32, threads: &[u32]) -> Result<Self, Refusal> {
        let failed = |what| Refusal::because(format!("{what} of process {pid}"));
        let memory = File::open(format!("/proc/{pid}/mem")).map_err(failed("open the memory"))?;
        let instruction = instruction(pid, &memory).map_err(failed("find a system call"))?;
        for tid in threads {
            let registers = ptrace::registers(*tid).map_err(failed("read registers"))?;
            if !registers.is_64_bit() {
                return Err(Refusal(format!("process {pid} does not run 64-bit code")));
            }
            if registers.in_system_call() || !in_sequence(*tid, &memory) {
                return Ok(Self {
                    pid,
                    tid: *tid,
                    instruction,
                    registers,
                    mask: ptrace::signal_mask(*tid).map_err(failed("read the signal mask"))?,
                    step: Step::Untouched,
                    stop_again: false,
                });
            }
        }
        Err(Refusal(format!(
            "every thread of process {pid} is in a restartable sequence"
        )))
    }

    fn failed(&self, what: &'static str) -> impl FnOnce(io::Error) -> Refusal + use<> {
        Refusal::because(format!("{what} in process {}", self.pid))
    }

    fn begin(&mut self) -> Result<(), Refusal> {
        let options = ptrace::TRACE_CLONE | ptrace::SUSPEND_SECCOMP;
        ptrace::set_options(self.tid, options).map_err(self.failed("suspend seccomp"))?;
        self.step = Step::Done;
        ptrace::set_signal_mask(self.tid, ptrace::ALL_SIGNALS)
            .map_err(self.failed("block signals"))?;
        // The end of a child with a descriptor table of its own would flush every file: a network or FUSE
        // filesystem may take long for that, or for ever.
        self.call(ptrace::CLONE, [ptrace::SHARES_FILES, 0, 0, 0, 0, 0])?;
        self.step = Step::Cloning;
        Ok(())
    }

    fn call(&self, number: i64, arguments: [u64; 6]) -> Result<(), Refusal> {
        let registers = self.registers.calling(self.instruction, number, arguments);
        ptrace::set_registers(self.tid, &registers)
            .and_then(|()| ptrace::step(self.tid))
            .map_err(self.failed("run a system call"))
    }

    /// Waits for the end of a system call and returns what it gave.
    fn returned(&mut self, child: &mut Option<u32>) -> Result<i64, Refusal> {
        let until = Deadline::after(STEP);
        loop {
            match next_stop(&Daemon::UNHEARD, self.tid, until)? {
                Stop::Signal(ptrace::TRAP) => break,
                Stop::Gone => {
                    self.step = Step::Gone;
                    return Err(Refusal(format!("process {} has ended", self.pid)));
                }
                Stop::Cloned => {
                    let message = ptrace::event_message(self.tid);
                    *child = message.ok().and_then(|pid| u32::try_from(pid).ok());
                }
                Stop::Signal(sys::signal::STOP) => self.stop_again = true,
                // All that can be blocked is: this one says that the call was not made.
                Stop::Signal(signal) => {
                    self.step = Step::Done;
                    let pid = self.pid;
                    return Err(Refusal(format!(
                        "signal {signal} for a system call in process {pid}"
                    )));
                }
                Stop::Interrupted | Stop::Group(_) | Stop::Event(_) => {}
            }
            ptrace::step(self.tid).map_err(self.failed("go on with a system call"))?;
        }
        self.step = Step::Done;
        let registers = ptrace::registers(self.tid).map_err(self.failed("read registers"))?;
        Ok(registers.result())
    }

    fn cloned(&mut self) -> Result<(), Refusal> {
        if self.step != Step::Cloning {
            return Ok(());
        }
        let mut child = None;
        let returned = self.returned(&mut child);
        let Some(outer) = child else {
            let errno = returned?.unsigned_abs();
            let errno = i32::try_from(errno).unwrap_or(0);
            return Err(self.failed("clone")(io::Error::from_raw_os_error(errno)));
        };
        let inner = returned.as_ref().ok().copied().filter(|inner| *inner > 0);
        self.step = Step::Child { outer, inner };
        returned.map(drop)
    }

    fn kill(&mut self) -> Result<(), Refusal> {
        let Step::Child { outer, .. } = self.step else {
            return Ok(());
        };
        sys::pidfd::open(outer)
            .and_then(|child| sys::pidfd::send_signal(&child, sys::signal::KILL))
            .map_err(self.failed("kill the child"))
    }

    fn ended(&mut self) -> Result<(), Refusal> {
        let Step::Child { outer, .. } = self.step else {
            return Ok(());
        };
        let until = Deadline::after(STEP);
        while next_stop(&Daemon::UNHEARD, outer, until)? != Stop::Gone {}
        Ok(())
    }

    fn reap(&mut self) -> Result<(), Refusal> {
        let inner = match self.step {
            Step::Child {
                inner: Some(inner), ..
            } => inner,
            Step::Child { inner: None, .. } => {
                self.step = Step::Gone;
                return Ok(());
            }
            _ => return Ok(()),
        };
        self.step = Step::Done;
        let options = u64::from(ptrace::ANY_CHILD_AT_ONCE.unsigned_abs());
        let child = inner.cast_unsigned();
        self.call(ptrace::WAIT4, [child, 0, options, 0, 0, 0])?;
        self.step = Step::Reaping { inner };
        Ok(())
    }

    fn reaped(&mut self) -> Result<(), Refusal> {
        let Step::Reaping { inner } = self.step else {
            return Ok(());
        };
        let found = self.returned(&mut None)?;
        if found == inner {
            return Ok(());
        }
        let pid = self.pid;
        Err(Refusal(format!(
            "reaping child {inner} of process {pid} gave {found}"
        )))
    }

    /// Gives the thread back what it had.
    fn restore(&mut self) -> Result<(), Refusal> {
        if matches!(self.step, Step::Untouched | Step::Gone) {
            return Ok(());
        }
        let restored = ptrace::set_registers(self.tid, &self.registers)
            .and_then(|()| ptrace::set_signal_mask(self.tid, self.mask))
            .and_then(|()| ptrace::set_options(self.tid, 0))
            .map_err(self.failed("restore registers"));
        if self.stop_again {
            sys::pidfd::open(self.pid)
                .and_then(|process| sys::pidfd::send_signal(&process, sys::signal::STOP))
                .map_err(self.failed("pass SIGSTOP on"))?;
        }
        restored
    }
}

/// Whether the thread may be in a restartable sequence, which must not see other registers.
fn in_sequence(tid: u32, memory: &File) -> bool {
    let Ok(sequence) = ptrace::sequence(tid) else {
        return true;
    };
    let mut running = [0; 8];
    sequence.address != 0
        && (memory
            .read_exact_at(
                &mut running,
                sequence.address.saturating_add(RUNNING_SEQUENCE),
            )
            .is_err()
            || running != [0; 8])
}

/// The address of a `syscall` instruction in the process's vDSO.
fn instruction(pid: u32, memory: &File) -> io::Result<u64> {
    let missing = || io::Error::new(io::ErrorKind::NotFound, "the process has no vDSO");
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?;
    let (begin, length) = maps.lines().find_map(vdso).ok_or_else(missing)?;
    let mut code = vec![0; length];
    memory.read_exact_at(&mut code, begin)?;
    let at = code.windows(SYSCALL.len()).position(|two| two == SYSCALL);
    let at = at
        .and_then(|at| u64::try_from(at).ok())
        .ok_or_else(missing)?;
    Ok(begin + at)
}

/// Where the vDSO begins and how long it is, from its line in maps (proc_pid_maps(5)). A file may have
/// its name, but has an inode.
fn vdso(line: &str) -> Option<(u64, usize)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [range, _, _, _, "0", "[vdso]"] = fields[..] else {
        return None;
    };
    let (begin, end) = range.split_once('-')?;
    let address = |text| u64::from_str_radix(text, 16).ok();
    let (begin, end) = (address(begin)?, address(end)?);
    let length = usize::try_from(end.checked_sub(begin)?).ok()?;
    (length <= MOST_CODE_BYTES).then_some((begin, length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_kernel_s_own_vdso_counts() {
        let line = "7ffd1000-7ffd3000 r-xp 00000000 00:00 0                          [vdso]";
        assert_eq!(vdso(line), Some((0x7ffd_1000, 0x2000)));
        for other in [
            "7ffd1000-7ffd3000 r-xp 00000000 08:01 77                         /tmp/[vdso]",
            "7ffd1000-7ffd3000 r-xp 00000000 08:01 77                         [vdso]",
            "7ffd1000-ffffd3000 r-xp 00000000 00:00 0                         [vdso]",
            "7ffd1000-7ffd3000 r-xp 00000000 00:00 0",
            "",
        ] {
            assert_eq!(vdso(other), None, "{other}");
        }
        let own = File::open("/proc/self/mem").unwrap();
        assert!(instruction(std::process::id(), &own).unwrap() > 0);
    }
}
