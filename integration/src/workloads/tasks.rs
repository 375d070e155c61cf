//! Timers, children, signals and the terminal.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::fd::OwnedFd;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, timerfd_create, timerfd_settime,
};

use super::Workload;
use super::raw::{queue_user_signal, take_user_signal};

/// A periodic timer of 30 ms that is read every fifth step only, so that an expiry is unread nearly
/// always.
pub(super) struct Timer {
    timer: OwnedFd,
    ticks: u64,
}

impl Timer {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
        let period = Timespec {
            tv_sec: 0,
            tv_nsec: 30_000_000,
        };
        let value = Itimerspec {
            it_interval: period,
            it_value: period,
        };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &value)?;
        Ok(Box::new(Self { timer, ticks: 0 }))
    }
}

impl Workload for Timer {
    fn step(&mut self, count: u64) -> Result<String> {
        if count.is_multiple_of(5) {
            let mut fds = [PollFd::new(&self.timer, PollFlags::IN)];
            let ready = poll(
                &mut fds,
                Some(&Timespec {
                    tv_sec: 2,
                    tv_nsec: 0,
                }),
            )?;
            ensure!(ready == 1, "no expiry within 2 s");
            let mut ticks = [0; 8];
            rustix::io::read(&self.timer, &mut ticks)?;
            self.ticks += u64::from_le_bytes(ticks);
        }
        Ok(format!("ticks={}", self.ticks))
    }
}

/// Another process of this program with pipes to it: a subcommand that answers lines.
pub(super) struct Peer {
    process: std::process::Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts the `echo` subcommand.
    fn echo() -> Result<Self> {
        Self::start(&["echo"])
    }

    /// Starts a subcommand.
    #[expect(
        clippy::disallowed_methods,
        reason = "the workload's children are part of the test"
    )]
    pub(super) fn start(arguments: &[&str]) -> Result<Self> {
        let mut process = Command::new("/proc/self/exe")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting a child")?;
        let stdin = process.stdin.take().context("stdin")?;
        let stdout = BufReader::new(process.stdout.take().context("stdout")?);
        Ok(Self {
            process,
            stdin,
            stdout,
        })
    }

    /// Says a line, and returns the line that it is answered with.
    pub(super) fn say(&mut self, line: &str) -> Result<String> {
        writeln!(self.stdin, "{line}").context("writing to the child")?;
        let mut answer = String::new();
        self.stdout
            .read_line(&mut answer)
            .context("reading from the child")?;
        Ok(answer)
    }

    fn ask(&mut self, question: u64) -> Result<()> {
        let answer = self.say(&question.to_string())?;
        let wanted = format!("{question} {}\n", self.process.id());
        ensure!(
            answer == wanted,
            "the child answered {answer:?}, not {wanted:?}"
        );
        Ok(())
    }

    fn pid(&self) -> Result<Pid> {
        Pid::from_raw(i32::try_from(self.process.id())?).context("pid")
    }

    /// Its state letter in proc_pid_stat(5).
    fn state(&self) -> Result<char> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let after = stat.rsplit_once(") ").context("stat")?.1;
        after.chars().next().context("stat")
    }
}

/// The `echo` subcommand: answers each line with the line and its own pid.
pub(super) fn echo() -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        writeln!(stdout, "{} {}", line?, std::process::id())?;
        stdout.flush()?;
    }
    Ok(())
}

/// Starts a child that only waits; for the features that need a second process.
pub(super) fn idle_child() -> Result<std::process::Child> {
    let Peer {
        process,
        stdin,
        stdout,
    } = Peer::echo()?;
    // Their ends stay open as long as this process lives: else the child would end.
    std::mem::forget((stdin, stdout));
    Ok(process)
}

/// Children that answer.
pub(super) struct Child {
    children: Vec<Peer>,
}

impl Child {
    pub(super) fn setup(value: &str) -> Result<Box<dyn Workload>> {
        let wanted: usize = if value.is_empty() { 2 } else { value.parse()? };
        let children = std::iter::repeat_with(Peer::echo)
            .take(wanted)
            .collect::<Result<_>>()?;
        Ok(Box::new(Self { children }))
    }
}

impl Workload for Child {
    fn step(&mut self, count: u64) -> Result<String> {
        for child in &mut self.children {
            child.ask(count)?;
        }
        Ok(String::new())
    }
}

/// A child that is stopped by a signal, and lives when it is continued.
pub(super) struct Stopped {
    child: Peer,
}

impl Stopped {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let mut child = Peer::echo()?;
        child.ask(0)?;
        kill_process(child.pid()?, Signal::STOP)?;
        Ok(Box::new(Self { child }))
    }
}

impl Workload for Stopped {
    fn step(&mut self, count: u64) -> Result<String> {
        if count > 1 {
            let state = self.child.state()?;
            ensure!(state == 'T', "the stopped child's state is {state}");
        }
        if count.is_multiple_of(20) {
            kill_process(self.child.pid()?, Signal::CONT)?;
            self.child.ask(count)?;
            kill_process(self.child.pid()?, Signal::STOP)?;
        }
        Ok(String::new())
    }
}

/// A blocked signal that is pending, with the value it was queued with.
pub(super) struct Signals {
    value: usize,
}

impl Signals {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        queue_user_signal(4711)?;
        Ok(Box::new(Self { value: 4711 }))
    }
}

impl Workload for Signals {
    fn step(&mut self, count: u64) -> Result<String> {
        // Looking without taking: most steps leave it pending.
        let status = std::fs::read_to_string("/proc/self/status")?;
        let pending = status
            .lines()
            .find_map(|line| line.strip_prefix("ShdPnd:\t"))
            .context("no ShdPnd line")?;
        let pending = u64::from_str_radix(pending, 16)?;
        ensure!(
            pending & (1 << (libc::SIGUSR2 - 1)) != 0,
            "the pending signal is lost"
        );
        if count.is_multiple_of(10) {
            let value = take_user_signal().context("taking the signal")?;
            ensure!(
                value == self.value,
                "the signal carries {value}, not {}",
                self.value
            );
            self.value = usize::try_from(count)?;
            queue_user_signal(self.value)?;
        }
        Ok(String::new())
    }
}

/// The terminal that the container was given.
pub(super) struct Terminal {
    name: Vec<u8>,
}

impl Terminal {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let name = rustix::termios::ttyname(std::io::stdin(), Vec::new())
            .context("standard input is no terminal")?;
        Ok(Box::new(Self {
            name: name.into_bytes(),
        }))
    }
}

impl Workload for Terminal {
    fn step(&mut self, _: u64) -> Result<String> {
        let name = rustix::termios::ttyname(std::io::stdin(), Vec::new()).context("ttyname")?;
        ensure!(name.as_bytes() == self.name, "the terminal is now {name:?}");
        let size = rustix::termios::tcgetwinsize(std::io::stdout()).context("window size")?;
        let group = rustix::termios::tcgetpgrp(std::io::stdin()).context("foreground group")?;
        Ok(format!("rows={} foreground={group}", size.ws_row))
    }
}
