//! Holding a program: it stands, and then runs on as if nothing had been.

use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use monitor::{Error, Holder};
use sys::cgroup::{Hierarchies, write_value};
use sys::process::{Child, Command, Stdio};

use crate::fuse::FuseFile;
use crate::support::{PATIENCE, deadline, monitor, until};

/// Variable that turns the next test into the program that is held.
const SPINNER: &str = "MONITOR_TEST_COUNTS";
/// Its threads that count.
const THREADS: usize = 4;

#[test]
fn spinning_process() {
    let Some(path) = std::env::var_os(SPINNER) else {
        return;
    };
    let counts = OpenOptions::new().write(true).open(path).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let counts = &counts;
            scope.spawn(move || spin(counts, thread));
        }
        // Nothing is ever written, and nobody closes the other end.
        let read = std::io::stdin().read(&mut [0; 8]);
        complain(&counts, &format!("reading came back with {read:?}"));
    });
}

/// Computes the same thing again and again, in general and vector registers, and counts.
fn spin(counts: &File, thread: usize) {
    let begin = u64::try_from(thread).unwrap();
    let wanted = computed(begin);
    for count in 1_u64.. {
        let found = computed(begin);
        if found != wanted {
            return complain(counts, &format!("{found:?} instead of {wanted:?}"));
        }
        counts
            .write_all_at(&count.to_le_bytes(), 8 * begin)
            .unwrap();
    }
}

fn computed(begin: u64) -> (u64, f64) {
    let (mut digest, mut sum) = (begin, 1.0_f64);
    for round in 0..20_000_u64 {
        digest = (digest ^ round).wrapping_mul(0x0000_0100_0000_01b3);
        sum = (sum * 1.000_1 + 0.5).sqrt() + 1.0;
    }
    (digest, sum)
}

/// Says what is wrong, after the counts.
fn complain(counts: &File, what: &str) {
    counts
        .write_all_at(what.as_bytes(), after_counts())
        .unwrap();
}

fn after_counts() -> u64 {
    u64::try_from(8 * THREADS).unwrap()
}

/// A freezer cgroup. Dropping it thaws it, kills what is in it and removes it.
struct Freezer(PathBuf);

impl Freezer {
    /// One of v1 and one of v2, as far as there are both.
    fn all() -> Vec<Self> {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let hierarchies = Hierarchies::detect().unwrap();
        let name = format!("monitor-test-{}", sys::sysinfo::random_hex(8).unwrap());
        let mounts = hierarchies.mounts().iter();
        let found: Vec<_> = mounts
            .filter(|mount| mount.unified || mount.controllers.iter().any(|c| c == "freezer"))
            .map(|mount| {
                let directory = mount.mount_point.join(&name);
                std::fs::create_dir(&directory).unwrap();
                Self(directory)
            })
            .collect();
        assert!(!found.is_empty(), "these tests need a freezer");
        found
    }

    fn one() -> Self {
        Self::all().swap_remove(0)
    }

    fn add(&self, pid: u32) {
        write_value(&self.0.join("cgroup.procs"), &pid.to_string()).unwrap();
    }

    fn is_frozen(&self) -> bool {
        let read = |name| std::fs::read_to_string(self.0.join(name)).unwrap_or_default();
        match read("freezer.state").trim() {
            "" => read("cgroup.events").lines().any(|line| line == "frozen 1"),
            state => state == "FROZEN",
        }
    }

    fn set(&self, frozen: bool) {
        let (state, number) = if frozen {
            ("FROZEN", "1")
        } else {
            ("THAWED", "0")
        };
        // One of them is there.
        write_value(&self.0.join("freezer.state"), state)
            .or_else(|_| write_value(&self.0.join("cgroup.freeze"), number))
            .unwrap();
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        self.set(false);
        let procs = self.0.join("cgroup.procs");
        until(|| {
            for pid in std::fs::read_to_string(&procs).unwrap().lines() {
                // It may have ended since.
                sys::pidfd::open(pid.parse().unwrap())
                    .and_then(|process| sys::pidfd::send_signal(process, sys::signal::KILL))
                    .unwrap_or_default();
            }
            std::fs::remove_dir(&self.0).is_ok()
        });
    }
}

/// The program that is held, in a freezer.
struct Program {
    /// Thawed first, for what is frozen cannot be killed.
    freezer: Freezer,
    child: Child,
    temp: tempfile::TempDir,
    _stdin: std::io::PipeWriter,
}

impl Program {
    fn start(freezer: Freezer) -> Self {
        Self::start_with(freezer, Stdio::Null)
    }

    fn start_with(freezer: Freezer, stdout: Stdio) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("counts");
        File::create_new(&path).unwrap();
        let (reader, writer) = std::io::pipe().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "hold::spinning_process"])
            .env(SPINNER, path)
            .stdin(Stdio::Fd(reader.into()))
            .stdout(stdout)
            .new_process_group()
            .spawn()
            .unwrap();
        freezer.add(child.pid());
        let program = Self {
            freezer,
            child,
            temp,
            _stdin: writer,
        };
        program.goes_on();
        program
    }

    fn counts(&self) -> Vec<u64> {
        let mut bytes = [0; 8 * THREADS];
        let file = File::open(self.temp.path().join("counts")).unwrap();
        let read = file.read_at(&mut bytes, 0).unwrap();
        let mut wrong = [0; 200];
        let length = file.read_at(&mut wrong, after_counts()).unwrap();
        assert_eq!(length, 0, "{}", String::from_utf8_lossy(&wrong));
        bytes[..read]
            .chunks_exact(8)
            .map(|count| u64::from_le_bytes(count.try_into().unwrap()))
            .collect()
    }

    /// Every thread counts.
    fn goes_on(&self) {
        let before = self.counts();
        until(|| {
            let now = self.counts();
            now.len() == THREADS && before.iter().zip(&now).all(|(before, now)| before < now)
        });
    }

    /// No thread is on its way to where it stands.
    fn has_arrived(&self) {
        for tid in sys::proc::threads(self.child.pid()).unwrap() {
            let state = sys::proc::status(tid).unwrap().state;
            assert_ne!(state, 'R', "thread {tid}");
        }
    }

    /// No thread counts.
    fn stands(&self) {
        let before = self.counts();
        pause();
        assert_eq!(before, self.counts());
    }

    /// Nobody traces it, and it has no child.
    fn is_its_own(&self) {
        let pid = self.child.pid();
        for tid in sys::proc::threads(pid).unwrap() {
            let read = |name| std::fs::read_to_string(format!("/proc/{pid}/task/{tid}/{name}"));
            let status = read("status").unwrap();
            assert!(status.contains("\nTracerPid:\t0\n"), "{status}");
            assert_eq!(read("children").unwrap(), "");
        }
    }

    fn holder(&self) -> Holder {
        self.holder_of(&self.freezer.0)
    }

    fn holder_of(&self, freezer: &Path) -> Holder {
        Holder::start(monitor(), self.child.pid(), freezer).unwrap()
    }

    /// It cannot be held for this reason, and then goes on.
    fn is_refused(&self, freezer: &Path, reason: &str) {
        refused(self.holder_of(freezer), reason);
        assert!(!self.freezer.is_frozen());
        self.goes_on();
        self.is_its_own();
    }
}

fn refused(mut holder: Holder, reason: &str) {
    let answer = holder.freeze(deadline());
    let said = matches!(&answer, Err(Error::Refused { message }) if message.contains(reason));
    assert!(said, "{answer:?}");
}

/// Long enough for a thread to count.
fn pause() {
    let (never, _writer) = std::io::pipe().unwrap();
    sys::socket::poll_readable(&never, Some(Duration::from_millis(3))).unwrap();
}

#[test]
fn a_held_program_stands_and_then_runs_on_unharmed() {
    for freezer in Freezer::all() {
        let program = Program::start(freezer);
        for round in 0..50 {
            let mut holder = program.holder();
            let written = holder.freeze(deadline()).unwrap();
            program.has_arrived();
            assert!(program.freezer.is_frozen(), "round {round}");
            assert_eq!(written.len(), 1, "one process has a restartable sequence");
            assert_eq!(written[0].pid, program.child.pid());
            program.stands();
            program.is_its_own();
            drop(holder);
            assert!(!program.freezer.is_frozen(), "round {round}");
            program.goes_on();
            program.is_its_own();
        }
    }
}

#[test]
fn no_file_of_a_held_program_is_flushed() {
    let temp = tempfile::tempdir().unwrap();
    let file = FuseFile::mount(temp.path());
    let program = Program::start_with(Freezer::one(), Stdio::Fd(file.open().into()));
    // The program has its output open, and this test nothing of it.
    let before = file.flushes();
    for _ in 0..3 {
        let mut holder = program.holder();
        holder.freeze(deadline()).unwrap();
        drop(holder);
        program.goes_on();
        assert_eq!(file.flushes(), before);
    }
    drop(program);
    until(|| file.flushes() > before);
}

#[test]
fn a_kernel_that_lacks_what_this_needs_is_found_out_before_anything_is_frozen() {
    use sys::testing::{Argument, Refusal, libc, refusing};
    // PTRACE_SETOPTIONS and PTRACE_GET_RSEQ_CONFIGURATION.
    for (call, request, errno, reason) in [
        (
            libc::SYS_vmsplice,
            None,
            libc::EINVAL,
            "try copy-on-write: ",
        ),
        (
            libc::SYS_ptrace,
            Some(0x4200),
            libc::EINVAL,
            "suspend seccomp",
        ),
        (
            libc::SYS_ptrace,
            Some(0x420f),
            libc::EIO,
            "restartable sequence",
        ),
    ] {
        let argument = request.map(|value| Argument {
            index: 0,
            mask: u32::MAX,
            value,
        });
        let refusal = Refusal {
            call,
            argument,
            errno,
        };
        for freezer in Freezer::all() {
            let program = Program::start(freezer);
            let held = refusing(&[refusal], || {
                Holder::start(monitor(), program.child.pid(), &program.freezer.0)
                    .and_then(|mut holder| holder.freeze(deadline()))
            });
            let held = held.unwrap();
            let said = matches!(&held, Err(Error::Refused { message }) if message.contains(reason));
            assert!(said, "{held:?}");
            assert!(!program.freezer.is_frozen());
            program.goes_on();
            program.is_its_own();
        }
    }
}

#[test]
fn what_was_released_stays_frozen_until_somebody_thaws_it() {
    for freezer in Freezer::all() {
        let program = Program::start(freezer);
        let mut holder = program.holder();
        holder.freeze(deadline()).unwrap();
        holder.release().unwrap();
        drop(holder);
        assert!(program.freezer.is_frozen());
        program.stands();
        program.freezer.set(false);
        program.goes_on();
        program.is_its_own();
    }
}

#[test]
fn another_thread_can_end_it_at_any_time() {
    let program = Program::start(Freezer::one());
    let holder = program.holder();
    holder.stopper().unwrap().stop();
    drop(holder);
    program.goes_on();
    let mut holder = program.holder();
    holder.freeze(deadline()).unwrap();
    holder.stopper().unwrap().stop();
    until(|| !program.freezer.is_frozen());
    program.goes_on();
    program.is_its_own();
    drop(holder);
}

#[test]
fn a_stopped_program_is_refused_and_stays_stopped() {
    let program = Program::start(Freezer::one());
    let pid = program.child.pid();
    let state = || sys::proc::status(pid).unwrap().state;
    program.child.kill_group(sys::signal::STOP).unwrap();
    until(|| state() == 'T');
    let before = program.counts();
    refused(program.holder(), "stopped");
    assert!(!program.freezer.is_frozen());
    // Who is let go of stops again, without a step in between.
    until(|| state() == 'T');
    program.stands();
    assert_eq!(program.counts(), before);
    let process = sys::pidfd::open(pid).unwrap();
    sys::pidfd::send_signal(&process, rustix::process::Signal::CONT.as_raw()).unwrap();
    program.goes_on();
    program.is_its_own();
}

#[test]
fn a_stopped_program_beside_it_in_the_cgroup_is_refused() {
    let program = Program::start(Freezer::one());
    let beside = Command::new("sleep")
        .arg("600")
        .new_process_group()
        .spawn()
        .unwrap();
    program.freezer.add(beside.pid());
    beside.kill_group(sys::signal::STOP).unwrap();
    until(|| sys::proc::status(beside.pid()).unwrap().state == 'T');
    program.is_refused(&program.freezer.0, "is stopped");
}

#[test]
fn a_traced_program_is_refused() {
    let program = Program::start(Freezer::one());
    let pid = program.child.pid();
    let last = *sys::proc::threads(pid).unwrap().last().unwrap();
    sys::ptrace::seize(last).unwrap();
    refused(program.holder(), "seize thread");
    assert!(!program.freezer.is_frozen());
    program.goes_on();
    sys::ptrace::interrupt(last).unwrap();
    until(|| sys::ptrace::wait(last).unwrap().is_some());
    sys::ptrace::detach(last).unwrap();
    program.goes_on();
    program.is_its_own();
}

#[test]
fn a_program_outside_of_the_freezer_is_refused() {
    let program = Program::start(Freezer::one());
    let other = Freezer::one();
    program.is_refused(&other.0, "is outside of the cgroup");
    let directory = program.temp.path();
    program.is_refused(directory, "is no freezer");
}

#[test]
fn what_somebody_else_froze_is_left_frozen() {
    let program = Program::start(Freezer::one());
    program.freezer.set(true);
    until(|| program.freezer.is_frozen());
    refused(program.holder(), "");
    assert!(program.freezer.is_frozen());
    program.freezer.set(false);
    program.goes_on();
    program.is_its_own();
}

#[test]
fn a_program_that_has_ended_is_refused() {
    let mut program = Program::start(Freezer::one());
    let holder = program.holder();
    program.child.kill_group(sys::signal::KILL).unwrap();
    program.child.wait(Some(PATIENCE)).unwrap();
    let mut holder = holder;
    assert!(holder.freeze(deadline()).is_err());
    assert!(!program.freezer.is_frozen());
}
