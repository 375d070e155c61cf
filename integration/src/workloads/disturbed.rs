//! What a checkpoint must not disturb: the first thread's stack, sleeping threads, signals.

use std::cell::Cell;
use std::hint::black_box;
use std::io::{PipeReader, PipeWriter};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, epoll, poll};
use rustix::io::Errno;

use super::raw;
use super::{Workload, pause};

/// How long the stack is written in each step.
const BUSY: Duration = Duration::from_millis(100);
/// Several pages of each.
const STACK_WORDS: usize = 4096;
const LOCAL_WORDS: usize = 1024;

thread_local! {
    static LOCAL: [Cell<u64>; LOCAL_WORDS] = const { [const { Cell::new(0) }; LOCAL_WORDS] };
}

/// The first thread's stack and thread-local memory, written without a pause for a part of each step.
/// All words are written in the same order, and each must be found as the round before left it.
pub(super) struct Stack;

impl Stack {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        Ok(Box::new(Self))
    }
}

impl Workload for Stack {
    fn step(&mut self, _: u64) -> Result<String> {
        let begin = Instant::now();
        let mut stack = [0; STACK_WORDS];
        LOCAL.with(|local| {
            local.iter().for_each(|cell| cell.set(0));
            for round in 1.. {
                if begin.elapsed() > BUSY {
                    break;
                }
                for (at, cell) in local.iter().enumerate() {
                    let found = cell.replace(round);
                    ensure!(
                        found == round - 1,
                        "thread-local word {at} is {found} in round {round}"
                    );
                }
                for (at, word) in black_box(&mut stack).iter_mut().enumerate() {
                    let found = std::mem::replace(word, round);
                    ensure!(
                        found == round - 1,
                        "word {at} of the stack is {found} in round {round}"
                    );
                }
            }
            Ok(String::new())
        })
    }
}

/// A thread a system call that waits for something that never comes.
pub(super) struct Asleep {
    told: Arc<Told>,
    _ends: (PipeWriter, mpsc::Sender<()>),
}

#[derive(Default)]
struct Told {
    /// Waits that were interrupted and may be (signal(7)).
    interrupted: AtomicU64,
    /// What came back.
    woken: OnceLock<String>,
}

/// Longer than any test.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

impl Asleep {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let (reader, writer) = std::io::pipe()?;
        let (sender, receiver) = mpsc::channel::<()>();
        let told = Arc::new(Told::default());
        let readers = [reader.try_clone()?, reader.try_clone()?, reader];
        let [reading, polling, waiting] = readers;
        told.spawn("read", move |_| reading_one(&reading))?;
        told.spawn("ppoll", move |_| polling_one(&polling))?;
        told.spawn("epoll", move |told| waiting_one(&waiting, told))?;
        told.spawn("nanosleep", |_| {
            pause(LONG);
            "the time is over".to_owned()
        })?;
        told.spawn("futex", move |_| format!("{:?}", receiver.recv()))?;
        Ok(Box::new(Self {
            told,
            _ends: (writer, sender),
        }))
    }
}

impl Told {
    /// Starts a thread that sleeps; what it returns is what woke it.
    fn spawn(
        self: &Arc<Self>,
        name: &'static str,
        sleep: impl FnOnce(&Self) -> String + Send + 'static,
    ) -> Result<()> {
        let told = Arc::clone(self);
        let thread = std::thread::Builder::new().name(name.to_owned());
        thread.spawn(move || {
            let woken = format!("{name} has come back: {}", sleep(&told));
            // Another one may have been woken before.
            drop(told.woken.set(woken));
        })?;
        Ok(())
    }
}

fn reading_one(pipe: &PipeReader) -> String {
    format!("{:?}", rustix::io::read(pipe, &mut [0; 8]))
}

fn polling_one(pipe: &PipeReader) -> String {
    let mut fds = [PollFd::new(pipe, PollFlags::IN)];
    format!("{:?}", poll(&mut fds, None))
}

fn waiting_one(pipe: &PipeReader, told: &Told) -> String {
    let wait = || -> rustix::io::Result<usize> {
        let set: OwnedFd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let data = epoll::EventData::new_u64(0);
        epoll::add(&set, pipe.as_fd(), data, epoll::EventFlags::IN)?;
        loop {
            let mut events = [epoll::Event {
                flags: epoll::EventFlags::empty(),
                data,
            }];
            match epoll::wait(&set, &mut events, None) {
                Err(Errno::INTR) => told.interrupted.fetch_add(1, Ordering::Relaxed),
                other => return other,
            };
        }
    };
    format!("{:?}", wait())
}

impl Workload for Asleep {
    fn step(&mut self, _: u64) -> Result<String> {
        if let Some(woken) = self.told.woken.get() {
            bail!("{woken}");
        }
        let interrupted = self.told.interrupted.load(Ordering::Relaxed);
        Ok(format!("interrupted={interrupted}"))
    }
}

/// SIGUSR1, which the first thread catches and counts. The other threads block it if they were started
/// later: this is to be the first feature of all.
pub(super) struct Caught {
    taken: bool,
}

impl Caught {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        raw::count_signals()?;
        Ok(Box::new(Self { taken: false }))
    }
}

impl Workload for Caught {
    fn step(&mut self, _: u64) -> Result<String> {
        if !self.taken {
            raw::take_signals()?;
            self.taken = true;
        }
        Ok(format!("signals={}", raw::caught_signals()))
    }
}
