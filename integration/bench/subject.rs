//! thawd's side.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cri_server::v1;

use super::baseline::write_bytes_of;
use super::measure::{Job, Side};
use super::meter;
use crate::harness::containers::{self, Container, Pod};
use crate::harness::daemon::Thawd;

/// Seconds that a checkpoint may take: far more than the largest size needs.
const TIMEOUT: i64 = 300;

/// A private thawd and what runs in it.
pub(super) struct Subject {
    thawd: Thawd,
    image: String,
    archive: PathBuf,
    /// The pods and the containers in them, the original's and the restored one's.
    running: Vec<(Pod, Option<Container>)>,
    number: u64,
}

impl Subject {
    pub(super) fn start(program: &Path) -> Result<Self> {
        let thawd = Thawd::start()?;
        let image = thawd.load_program(&program.display().to_string())?;
        Ok(Self {
            image,
            archive: thawd.path("archives/bench.tar"),
            thawd,
            running: Vec::new(),
            number: 0,
        })
    }

    /// Removes everything and checks that nothing is left.
    ///
    /// # Errors
    /// When something is.
    pub(super) fn finish(self) -> Result<()> {
        self.thawd.finish()
    }

    fn pod(&mut self) -> Result<Pod> {
        self.number += 1;
        Pod::run(&self.thawd, &format!("bench-{}", self.number))
    }

    fn end(&self, container: &Container) -> Result<()> {
        let request = v1::StopContainerRequest {
            container_id: container.id.clone(),
            timeout: 0,
        };
        self.thawd
            .cri()
            .stop_container(request)
            .context("StopContainer")?;
        container.remove().context("RemoveContainer")
    }

    fn explained<T>(&self, outcome: Result<T>) -> Result<T> {
        outcome.with_context(|| format!("thawd's log ends with:\n{}", self.thawd.log_tail()))
    }
}

impl Side for Subject {
    fn start(&mut self, job: &Job<'_>) -> Result<()> {
        let pod = self.pod()?;
        let (mib, seed) = (job.mib.to_string(), job.seed.to_string());
        let command = ["/bin/bench", "workload", &mib, &seed];
        let mut config = containers::container_config("bench", &self.image, &command);
        config.mounts.push(v1::Mount {
            container_path: meter::INSIDE.to_owned(),
            host_path: job.meter.display().to_string(),
            ..Default::default()
        });
        let started = pod.start(config);
        let container = self.explained(started)?;
        self.running.push((pod, Some(container)));
        Ok(())
    }

    fn checkpoint(&mut self) -> Result<()> {
        let (_, container) = self.running.last().context("no pod")?;
        let container = container.as_ref().context("no container")?;
        let request = container.checkpoint_request(&self.archive, TIMEOUT);
        let answer = self.thawd.cri().checkpoint_container(request);
        self.explained(answer.map(drop).context("CheckpointContainer"))
    }

    /// It has its name only when it is synced.
    fn sync(&mut self) -> Result<()> {
        Ok(())
    }

    fn replace(&mut self) -> Result<()> {
        let (_, container) = self.running.last().context("no pod")?;
        self.end(container.as_ref().context("no container")?)?;
        let pod = self.pod()?;
        self.running.push((pod, None));
        Ok(())
    }

    fn restore(&mut self) -> Result<()> {
        let mut pods = self.running.iter_mut().rev();
        let (pod, restored) = pods.next().context("no pod")?;
        let (_, original) = pods.next().context("no original")?;
        let original = original.as_ref().context("no original")?;
        let config = original.restored_config(&self.archive.display().to_string(), "restored");
        let started = pod.start(config);
        let restored_container = match started {
            Ok(container) => container,
            Err(error) => return self.explained(Err(error)),
        };
        *restored = Some(restored_container);
        Ok(())
    }

    fn written(&self) -> Result<u64> {
        write_bytes_of(&self.thawd.pid()?.as_raw_nonzero().to_string())
    }

    fn clear(&mut self) -> Result<()> {
        let mut pods = std::mem::take(&mut self.running);
        if let Some((_, Some(restored))) = pods.last() {
            self.end(restored)?;
        }
        while let Some((pod, _)) = pods.pop() {
            pod.remove()?;
        }
        std::fs::remove_file(&self.archive).with_context(|| self.archive.display().to_string())
    }
}
