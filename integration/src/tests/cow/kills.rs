//! thawd is killed while it takes a checkpoint: the container runs on without it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use tonic::Code;

use super::{complete_round, free_family, freeze, freezer, thaw};
use crate::harness::containers::{Container, Pod, workload_config};
use crate::harness::daemon::Thawd;
use crate::harness::wait;

/// Command lines of processes that hold a container of this thawd.
fn holders(thawd: &Thawd) -> Result<Vec<String>> {
    let below = format!("{}/", thawd.cgroup());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let bytes = std::fs::read(entry?.path().join("cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes).replace('\0', " ");
        if text.contains("thawd-monitor hold ") && text.contains(&below) {
            found.push(text);
        }
    }
    Ok(found)
}

/// When thawd is killed.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// So long after the request.
    Request(Duration),
    /// So long after CRIU has come to a stage.
    Stage(&'static str, Duration),
}

/// Moments after the request, and the time between them.
const REQUESTS: u32 = 12;
const BETWEEN: Duration = Duration::from_millis(18);
/// Stages of CRIU's dump, and times in milliseconds after each. Between `query-ext-files` and
/// `post-dump` it opens the page images, one after the other.
const STAGES: &[(&str, &[u64])] = &[
    ("pre-dump", &[0, 5]),
    ("query-ext-files", &[0, 2]),
    ("post-dump", &[0]),
];
/// Time for the container to run on without thawd.
const RUNS_ON: Duration = Duration::from_secs(10);

fn moments() -> impl Iterator<Item = Moment> {
    let requests = (0..REQUESTS).map(|number| Moment::Request(BETWEEN * number));
    let stages = STAGES.iter().flat_map(|(stage, times)| {
        let after = |time: &u64| Moment::Stage(stage, Duration::from_millis(*time));
        times.iter().map(after)
    });
    requests.chain(stages)
}

impl Moment {
    /// Waits for it; `log` is what thawd had written before.
    fn wait(self, thawd: &Thawd, log: &str) -> Result<()> {
        let time = match self {
            Self::Request(time) => time,
            Self::Stage(stage, time) => {
                let word = format!("stage={stage} ");
                let before = log.matches(&word).count();
                let deadline = Instant::now() + wait::PATIENCE;
                while thawd.log().matches(&word).count() == before {
                    ensure!(Instant::now() < deadline, "CRIU does not come to {stage}");
                    wait::pause(Duration::from_micros(50));
                }
                time
            }
        };
        wait::pause(time);
        Ok(())
    }
}

pub(super) fn at_any_moment(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let original = pod.start(workload_config("writers", &["writers=208"]))?;
    complete_round(&original)?;
    let freezer = freezer(&pod, &original)?;
    let family = free_family(&freezer)?;
    let archive = thawd.path("archives/one.tar");
    for moment in moments() {
        // The one of the kill before.
        drop(std::fs::remove_file(&archive));
        let log = thawd.log();
        let begun = original.begin_checkpoint(&archive, None);
        moment.wait(thawd, &log)?;
        thawd.kill()?;
        // It may have finished before; it must not have been refused.
        if let Err(status) = thawd.cri().finish(begun) {
            ensure!(
                matches!(status.code(), Code::Unavailable | Code::Unknown),
                "{status:?}"
            );
        }
        runs_on(thawd, &original, &freezer, &family)
            .with_context(|| format!("thawd was killed at {moment:?}"))?;
        thawd.launch()?;
        // Only a finished one has a name.
        drop(std::fs::remove_file(&archive));
        let left = std::fs::read_dir(thawd.path("archives"))?.count();
        ensure!(
            left == 0,
            "{left} files are left after a kill at {moment:?}"
        );
        freeze(thawd, &original, &archive)
            .with_context(|| format!("after a kill at {moment:?}"))?;
    }
    complete_round(&original)?;
    thaw(&pod, &original, &archive, "copy").map(drop)
}

/// Without thawd: the container counts, nothing holds it, and it is as it was.
fn runs_on(
    thawd: &Thawd,
    container: &Container,
    freezer: &Path,
    family: &BTreeMap<i32, Vec<String>>,
) -> Result<()> {
    let deadline = Instant::now() + RUNS_ON;
    let mut last = anyhow!("not looked at");
    wait::until("nobody to hold the container", RUNS_ON, || {
        let holders = holders(thawd)?;
        match free_family(freezer) {
            Ok(_) if !holders.is_empty() => last = anyhow!("{holders:?}"),
            Ok(now) if now != *family => last = anyhow!("{family:?} became {now:?}"),
            Ok(_) => return Ok(Some(())),
            Err(error) => last = error,
        }
        Ok(None)
    })
    .with_context(|| format!("{last:#}"))?;
    let count = container.log.count()?;
    container.log.wait_count(count + 2)?;
    ensure!(Instant::now() < deadline, "it took longer than {RUNS_ON:?}");
    Ok(())
}
