//! The CRIU of this node: found, and proven by a real dump.
//!
//! `criu check` and the version alone say nothing about a kernel: CRIU 4.1 passes both on Linux
//! 6.16 and then cannot dump any container with an inet socket. So a probe dumps a helper process
//! that listens on TCP, in the background when the daemon starts; the answer holds for that file on
//! this boot.
//!
//! ```text
//!             usable()                        outcome
//!  unknown ─────────────▶ probing (a thread) ─────────▶ works ── the file changed ──▶ unknown
//!     ▲                    ▲ others join                  │
//!     └── fails ◀──────────┴──────────────────────────────┘
//! ```
//!
//! One probe runs at a time, in a thread of its own: it belongs to nobody, so that who waits for it
//! may leave at a deadline, and who comes later finds the answer.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use criu_rpc::{Criu, Version};
use sys::process::Deadline;

use crate::checkpoint::{Cancel, Reason};
use crate::config::NodeConfig;
use crate::error::{Error, chain};
use crate::runtimes::find_program;

/// Time for the probe of one candidate.
const PROBE: Duration = Duration::from_secs(15);

/// A CRIU that has dumped here.
#[derive(Debug, Clone)]
pub(crate) struct Usable {
    pub(crate) criu: Criu,
    pub(crate) binary: PathBuf,
    pub(crate) version: String,
    file: FileId,
}

/// Tells a program's file from what replaced it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
    size_bytes: u64,
    changed: (i64, i64),
}

impl FileId {
    fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok().filter(|data| data.is_file())?;
        Some(Self {
            device: data.dev(),
            inode: data.ino(),
            size_bytes: data.size(),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }
}

/// What the last probe found; see the module.
#[derive(Debug, Default)]
pub(crate) struct Engine {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    known: Mutex<Known>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    /// The last probe's answer.
    answer: Option<Result<Usable, String>>,
    probing: bool,
    /// Probes that have ended.
    ended: u64,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// The proven CRIU. A success is kept; a failure is tried again, so that installing CRIU needs
    /// no restart. Waits until the deadline at most, and no longer than the caller does.
    ///
    /// # Errors
    ///
    /// [`Error::Precondition`] that begins `checkpoint/restore requires at least CRIU`, with what
    /// was found where; [`Error::Deadline`]; [`Error::Failed`] when the caller went away.
    pub(crate) fn usable(
        &self,
        config: &NodeConfig,
        deadline: Deadline,
        cancel: &Cancel,
    ) -> Result<Usable, Error> {
        let (candidates, run) = (config.checkpoint.criu.clone(), config.run.clone());
        self.ask(deadline, cancel, move || probe(&candidates, &run))
    }

    fn ask(
        &self,
        deadline: Deadline,
        cancel: &Cancel,
        probe: impl FnOnce() -> Result<Usable, String> + Send + 'static,
    ) -> Result<Usable, Error> {
        let waker = Arc::clone(&self.shared);
        cancel.on_cancel(move || {
            // With the lock, so that it cannot fall between a waiter's look and its wait.
            let _known = waker.lock();
            waker.changed.notify_all();
        });
        let mut known = self.shared.lock();
        if let Some(Ok(usable)) = &known.answer
            && FileId::of(&usable.binary) == Some(usable.file)
        {
            return Ok(usable.clone());
        }
        let round = known.ended;
        if !known.probing {
            known.probing = true;
            let begun = Round {
                shared: Arc::clone(&self.shared),
                answer: Err("the probe of CRIU ended early".to_owned()),
            };
            let thread = std::thread::Builder::new().name("criu-probe".to_owned());
            drop(known);
            thread
                .spawn(move || begun.end_with(probe()))
                .map_err(|error| Error::failed("start a thread", error))?;
            known = self.shared.lock();
        }
        while known.ended == round {
            let Some(left) = deadline.remaining() else {
                return Err(late());
            };
            match cancel.reason() {
                None => {}
                Some(Reason::Deadline) => return Err(late()),
                Some(_) => return Err(Error::failed("wait for the probe of CRIU", "given up")),
            }
            let waited = self.shared.changed.wait_timeout(known, left);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        match &known.answer {
            Some(Ok(usable)) => Ok(usable.clone()),
            Some(Err(problem)) => Err(Error::Precondition(problem.clone())),
            None => Err(Error::failed("probe CRIU", "no answer")),
        }
    }

    /// What is known without probing, for people.
    pub(crate) fn known(&self) -> Option<Result<String, String>> {
        let answer = self.shared.lock().answer.clone()?;
        Some(answer.map(|usable| format!("CRIU {} at {}", usable.version, usable.binary.display())))
    }
}

fn late() -> Error {
    Error::Deadline(
        "CRIU was still being tried out when the time was over; nothing was frozen".to_owned(),
    )
}

/// A probe under way. Dropping it, however the probe ended, publishes the answer and wakes all who
/// wait.
struct Round {
    shared: Arc<Shared>,
    answer: Result<Usable, String>,
}

impl Round {
    fn end_with(mut self, answer: Result<Usable, String>) {
        match &answer {
            Ok(usable) => {
                tracing::info!(criu = %usable.binary.display(), version = usable.version,
                    "checkpoint and restore are available");
            }
            Err(problem) => {
                tracing::warn!(problem, "checkpoint and restore are not available");
            }
        }
        self.answer = answer;
    }
}

impl Drop for Round {
    fn drop(&mut self) {
        let mut known = self.shared.lock();
        known.answer = Some(self.answer.clone());
        known.probing = false;
        known.ended = known.ended.wrapping_add(1);
        self.shared.changed.notify_all();
    }
}

fn probe(candidates: &[PathBuf], run: &Path) -> Result<Usable, String> {
    let mut findings = Vec::new();
    for candidate in candidates {
        let Some(binary) = find_program(candidate) else {
            findings.push(format!("{} was not found", candidate.display()));
            continue;
        };
        match try_binary(&binary, run) {
            Ok(usable) => return Ok(usable),
            Err(finding) => findings.push(format!("{}: {finding}", binary.display())),
        }
    }
    let kernel = sys::sysinfo::kernel().release;
    let requirement = Version::needed_by(&kernel).requirement(&kernel);
    Err(format!("{requirement}; found: {}", findings.join("; ")))
}

fn try_binary(binary: &Path, run: &Path) -> Result<Usable, String> {
    let deadline = Deadline::after(PROBE);
    // Before the probe: a file that replaces this one meanwhile is not the one that was tried.
    let file = FileId::of(binary).ok_or("it is no file")?;
    let criu = Criu::new(binary);
    let version = criu.version(deadline).map_err(|error| chain(&error))?;
    if version < Version::needed_by(&sys::sysinfo::kernel().release) {
        return Err(format!("version {version}, which is too old"));
    }
    let scratch = run.join("criu-probe");
    sys::fs::make_dir_all(&scratch, 0o700).map_err(|error| error.to_string())?;
    let result = criu.probe(&scratch, deadline);
    drop(sys::fs::remove_tree(&scratch));
    result
        .map_err(|error| format!("version {version} cannot dump a process: {}", chain(&error)))?;
    Ok(Usable {
        criu,
        binary: binary.to_path_buf(),
        version: version.to_string(),
        file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::time::Instant;

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(60);

    fn proven(binary: &Path) -> Usable {
        Usable {
            criu: Criu::new(binary),
            binary: binary.to_path_buf(),
            version: "4.2".to_owned(),
            file: FileId::of(binary).unwrap(),
        }
    }

    fn own() -> PathBuf {
        std::env::current_exe().unwrap()
    }

    /// A probe that ends when it is told how.
    fn held() -> (
        mpsc::Sender<Result<Usable, String>>,
        impl FnOnce() -> Result<Usable, String> + Send + 'static,
    ) {
        let (end, told) = mpsc::channel();
        (end, move || {
            told.recv_timeout(LONG).unwrap_or(Err("nobody told".into()))
        })
    }

    fn never() -> Result<Usable, String> {
        panic!("a second probe")
    }

    #[test]
    fn a_waiter_leaves_at_its_deadline_and_the_probe_goes_on() {
        let (engine, none) = (Engine::default(), Cancel::new());
        let (end, probe) = held();
        let began = Instant::now();
        let short = Deadline::after(Duration::from_millis(50));
        let late = engine.ask(short, &none, probe).unwrap_err();
        assert!(matches!(late, Error::Deadline(_)), "{late}");
        // Neither does one that only joins wait longer than it may.
        let short = Deadline::after(Duration::from_millis(50));
        let late = engine.ask(short, &none, never).unwrap_err();
        assert!(matches!(late, Error::Deadline(_)), "{late}");
        assert!(began.elapsed() < Duration::from_secs(20));
        assert!(engine.known().is_none());
        end.send(Ok(proven(&own()))).unwrap();
        let found = engine.ask(Deadline::after(LONG), &none, never).unwrap();
        assert_eq!(found.binary, own());
        assert!(engine.known().unwrap().unwrap().starts_with("CRIU 4.2 at "));
    }

    #[test]
    fn waiters_share_one_probe_and_its_answer() {
        let engine = Engine::default();
        let (end, probe) = held();
        std::thread::scope(|scope| {
            let first = scope.spawn(|| engine.ask(Deadline::after(LONG), &Cancel::new(), probe));
            while !engine.shared.lock().probing {
                std::thread::yield_now();
            }
            let join = || engine.ask(Deadline::after(LONG), &Cancel::new(), never);
            let others: Vec<_> = (0..4).map(|_| scope.spawn(join)).collect();
            end.send(Ok(proven(&own()))).unwrap();
            for waiter in others.into_iter().chain([first]) {
                assert_eq!(waiter.join().unwrap().unwrap().binary, own());
            }
        });
    }

    #[test]
    fn a_caller_that_goes_away_does_not_wait() {
        let (engine, cancel) = (Engine::default(), Cancel::new());
        let (_end, probe) = held();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| engine.ask(Deadline::after(LONG), &cancel, probe));
            while !engine.shared.lock().probing {
                std::thread::yield_now();
            }
            cancel.cancel_because(Reason::Caller);
            let error = waiter.join().unwrap().unwrap_err();
            assert!(matches!(error, Error::Failed { .. }), "{error}");
        });
    }

    #[test]
    fn a_failure_is_tried_again_and_a_success_is_kept_while_the_file_is_the_same() {
        let (engine, none) = (Engine::default(), Cancel::new());
        let directory = tempfile::tempdir().unwrap();
        let binary = directory.path().join("criu");
        let place = |text: &str| sys::fs::replace_path(&binary, 0o700, text.as_bytes()).unwrap();
        place("one");
        let long = || Deadline::after(LONG);
        let broken = engine.ask(long(), &none, || Err("too old".to_owned()));
        assert!(matches!(broken, Err(Error::Precondition(text)) if text == "too old"));
        assert_eq!(engine.known(), Some(Err("too old".to_owned())));
        let path = binary.clone();
        engine
            .ask(long(), &none, move || Ok(proven(&path)))
            .unwrap();
        engine.ask(long(), &none, never).unwrap();
        place("another");
        let replaced = engine.ask(long(), &none, || Err("now it fails".to_owned()));
        assert!(matches!(replaced, Err(Error::Precondition(text)) if text == "now it fails"));
    }

    #[test]
    fn a_probe_that_panics_is_an_answer() {
        let (engine, none) = (Engine::default(), Cancel::new());
        let outcome = engine.ask(Deadline::after(LONG), &none, || panic!("on purpose"));
        assert!(
            matches!(&outcome, Err(Error::Precondition(text)) if text.contains("ended early")),
            "{outcome:?}"
        );
        let found = engine.ask(Deadline::after(LONG), &none, || Ok(proven(&own())));
        assert!(found.is_ok(), "{found:?}");
    }
}
