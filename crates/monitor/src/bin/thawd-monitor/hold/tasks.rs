//! All threads of a container, seized and stopped.

use std::collections::BTreeMap;

use monitor::WrittenArea;
use sys::process::Deadline;
use sys::ptrace::{self, Stop};

use super::{Daemon, Refusal};

/// How often new threads are looked for: each round stops everything that could make more.
const ROUNDS: u32 = 16;
/// Most processes: what is told about them has to fit into one message.
const MOST_PROCESSES: usize = 400;
/// Most threads: the container stands while they are seized one by one.
const MOST_THREADS: usize = 4000;

/// Stopped threads, by process. Dropping lets go of them.
#[derive(Debug)]
pub(super) struct Tasks {
    processes: BTreeMap<u32, Vec<u32>>,
    /// Seized, but not known to stand.
    moving: Vec<(u32, u32)>,
}

impl Tasks {
    /// Seizes and stops every thread from process `init` down.
    pub(super) fn seize(daemon: &Daemon<'_>, init: u32, until: Deadline) -> Result<Self, Refusal> {
        let mut tasks = Self {
            processes: BTreeMap::new(),
            moving: Vec::new(),
        };
        for _ in 0..ROUNDS {
            tasks.seize_new(init)?;
            if tasks.moving.is_empty() {
                return Ok(tasks);
            }
            tasks.wait(daemon, until)?;
        }
        Err(Refusal::new("the container makes new threads all the time"))
    }

    /// Processes and their threads.
    pub(super) fn processes(&self) -> impl Iterator<Item = (u32, &[u32])> {
        self.processes
            .iter()
            .map(|(pid, threads)| (*pid, threads.as_slice()))
    }

    /// Whether this thread stands here.
    pub(super) fn contains(&self, tid: u32) -> bool {
        self.processes
            .values()
            .any(|threads| threads.contains(&tid))
    }

    /// Lets go of all, and returns their ids.
    pub(super) fn let_go(self) -> Vec<u32> {
        self.processes.values().flatten().copied().collect()
    }

    fn count(&self) -> usize {
        let standing: usize = self.processes.values().map(Vec::len).sum();
        standing + self.moving.len()
    }

    fn seize_new(&mut self, init: u32) -> Result<(), Refusal> {
        let pids = sys::proc::tree(init).map_err(Refusal::because("look for processes"))?;
        if pids.len() > MOST_PROCESSES {
            return Err(Refusal(format!("more than {MOST_PROCESSES} processes")));
        }
        for pid in pids {
            for tid in sys::proc::threads(pid).unwrap_or_default() {
                if self.count() > MOST_THREADS {
                    return Err(Refusal(format!("more than {MOST_THREADS} threads")));
                }
                if !self.contains(tid) {
                    self.seize_one(pid, tid)?;
                }
            }
        }
        Ok(())
    }

    fn seize_one(&mut self, pid: u32, tid: u32) -> Result<(), Refusal> {
        if let Err(error) = ptrace::seize(tid) {
            // One that has ended needs nothing.
            return match sys::proc::status(tid) {
                Ok(status) if !matches!(status.state, 'Z' | 'X') => {
                    Err(Refusal(format!("seize thread {tid}: {error}")))
                }
                _ => Ok(()),
            };
        }
        self.moving.push((pid, tid));
        // It may have ended since.
        ptrace::interrupt(tid).unwrap_or_default();
        Ok(())
    }

    /// Waits until all that were seized stand.
    fn wait(&mut self, daemon: &Daemon<'_>, until: Deadline) -> Result<(), Refusal> {
        while let Some((pid, tid)) = self.moving.last().copied() {
            if stopped(daemon, tid, until)? {
                self.processes.entry(pid).or_default().push(tid);
            }
            self.moving.pop();
        }
        for threads in self.processes.values_mut() {
            threads.sort_unstable();
        }
        Ok(())
    }

    /// Places that the kernel writes to whenever a thread returns to user space, as the first threads of
    /// processes do for the dump: their restartable sequences.
    pub(super) fn written(&self) -> Result<Vec<WrittenArea>, Refusal> {
        let mut written = Vec::new();
        for (pid, threads) in self.processes() {
            let Some(leader) = threads.iter().find(|tid| **tid == pid) else {
                return Err(Refusal(format!("process {pid} has lost its first thread")));
            };
            let sequence = ptrace::sequence(*leader)
                .map_err(Refusal::because("find restartable sequences"))?;
            let inner = sys::proc::status(pid)
                .map_err(Refusal::because("look at a process"))?
                .ns_pids
                .pop();
            if sequence.address != 0 {
                written.push(WrittenArea {
                    pid: inner.unwrap_or(pid),
                    address: sequence.address,
                    length: sequence.length.max(1).into(),
                });
            }
        }
        Ok(written)
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        for tid in self.processes.values().flatten() {
            // It may have been killed. Those that still move are let go of when this process ends.
            ptrace::detach(*tid).unwrap_or_default();
        }
    }
}

/// Waits until the thread stands; false when it ended instead.
fn stopped(daemon: &Daemon<'_>, tid: u32, until: Deadline) -> Result<bool, Refusal> {
    loop {
        match next_stop(daemon, tid, until)? {
            Stop::Interrupted => return Ok(true),
            Stop::Gone => return Ok(false),
            Stop::Group(_) => {
                return Err(Refusal(format!("thread {tid} is stopped by job control")));
            }
            // It gets its signal first; the interruption comes after.
            Stop::Signal(signal) => ptrace::resume(tid, signal).unwrap_or_default(),
            Stop::Cloned | Stop::Event(_) => ptrace::resume(tid, 0).unwrap_or_default(),
        }
    }
}

/// The thread's next stop.
pub(super) fn next_stop(daemon: &Daemon<'_>, tid: u32, until: Deadline) -> Result<Stop, Refusal> {
    loop {
        let stop = ptrace::wait(tid).map_err(Refusal::because("wait for a thread"))?;
        if let Some(stop) = stop {
            return Ok(stop);
        }
        daemon.pause(until, &format_args!("stopping thread {tid}"))?;
    }
}
