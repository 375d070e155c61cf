//! A thawd of one test's own.

mod settings;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use cri_server::v1;
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::unified::Unified;
use super::{arena, cgroups, needs, wait};
use crate::cri::Cri;

/// Numbers the daemons of this run: each has its own bridge, subnet and cgroup.
static STARTED: AtomicUsize = AtomicUsize::new(1);

/// What a thawd is started on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Ground {
    /// Whether it sees cgroup v2 and nothing else; the host's mounts otherwise.
    pub(crate) unified: bool,
    /// Its handlers in the order of preference, `crun` and `runc`; its own defaults when empty.
    pub(crate) handlers: &'static [&'static str],
}

/// A private thawd. Dropping it kills it and removes all it made.
pub(crate) struct Thawd {
    cri: Rc<Cri>,
    directory: TempDir,
    process: Option<Child>,
    number: usize,
    criu: Option<PathBuf>,
    crun: PathBuf,
    copy_on_write: bool,
    ground: Ground,
    unified: Option<Unified>,
}

impl Thawd {
    /// Starts one with the default configuration and waits until it answers.
    ///
    /// # Errors
    /// As [`start_on`](Self::start_on).
    pub(crate) fn start() -> Result<Self> {
        Self::start_on(Ground::default())
    }

    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer in time; with the end of its log.
    pub(crate) fn start_on(ground: Ground) -> Result<Self> {
        // Not /tmp: overlayfs wants a file system with extended attributes below it, and /tmp is
        // often a tmpfs.
        let directory = tempfile::Builder::new()
            .prefix("thawd-")
            .tempdir_in("/var/tmp")?;
        let number = STARTED.fetch_add(1, Ordering::Relaxed);
        for name in ["cni", "logs", "archives", "data"] {
            std::fs::create_dir(directory.path().join(name))?;
        }
        let socket = directory.path().join("run/thawd.sock");
        let cri = Rc::new(Cri::new(&socket)?);
        let mut thawd = Self {
            cri,
            directory,
            process: None,
            number,
            criu: None,
            crun: needs::CRUN.into(),
            copy_on_write: true,
            ground,
            unified: ground.unified.then(Unified::new).transpose()?,
        };
        thawd.write_cni()?;
        thawd.launch()?;
        Ok(thawd)
    }

    /// The client of its socket.
    pub(crate) fn cri(&self) -> &Rc<Cri> {
        &self.cri
    }

    /// Its directory, or something in it: `root`, `run`, `cni`, `logs`, `archives` (restorable
    /// from), `data`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The cgroup that its pods are below.
    pub(crate) fn cgroup(&self) -> String {
        cgroups::name(self.number)
    }

    /// The cgroup of its monitors.
    pub(crate) fn monitors_cgroup(&self) -> String {
        format!("{}-monitors", self.cgroup())
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn pid(&self) -> Result<Pid> {
        let process = self.process.as_ref().context("thawd does not run")?;
        Pid::from_raw(i32::try_from(process.id())?).context("pid")
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.path("thawd.log")).unwrap_or_default()
    }

    /// Starts it again with another CRIU.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn use_criu(&mut self, path: &Path) -> Result<()> {
        self.criu = Some(path.to_owned());
        self.terminate()?;
        self.launch()
    }

    /// Starts it again with another program for the handler crun.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn use_crun(&mut self, path: &Path) -> Result<()> {
        path.clone_into(&mut self.crun);
        self.terminate()?;
        self.launch()
    }

    /// Starts it again, told that containers stand until their memory is in the archive.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn refuse_copy_on_write(&mut self) -> Result<()> {
        self.copy_on_write = false;
        self.terminate()?;
        self.launch()
    }

    /// Kills it without warning; its containers go on.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn kill(&mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::KILL)?;
        self.process.take().context("thawd does not run")?.wait()?;
        Ok(())
    }

    /// Asks it to end.
    ///
    /// # Errors
    /// When it does not run, does not end in time, or ends with another status than 0.
    pub(crate) fn terminate(&mut self) -> Result<()> {
        kill_process(self.pid()?, Signal::TERM)?;
        let mut process = self.process.take().context("thawd does not run")?;
        let status = wait::until("thawd to end", Duration::from_secs(20), || {
            process.try_wait().context("waiting for thawd")
        });
        if status.is_err() {
            process.kill()?;
            process.wait()?;
        }
        let status = status?;
        ensure!(status.success(), "thawd ended with {status} after SIGTERM");
        Ok(())
    }

    /// Starts it (again) and waits until it answers.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub(crate) fn launch(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "thawd runs already");
        let config = self.path("config.toml");
        write(&config, &self.configuration())?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.path("thawd.log"))?;
        let socket = format!("unix://{}", self.path("run/thawd.sock").display());
        let mut process = self
            .command("setpriv")
            // A test program that is killed takes its daemon with it.
            .args(["--pdeathsig", "KILL", "--"])
            .arg(needs::program("thawd")?)
            .arg("--config")
            .arg(&config)
            .arg("--root")
            .arg(self.path("root"))
            .arg("--run")
            .arg(self.path("run"))
            .args(["--listen", &socket])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting thawd")?;
        let answered = wait::until("thawd to answer", wait::PATIENCE, || {
            if let Some(status) = process.try_wait()? {
                bail!("thawd ended with {status}");
            }
            Ok(self.cri.version(v1::VersionRequest::default()).ok())
        });
        self.process = Some(process);
        answered
            .map(drop)
            .with_context(|| format!("thawd's log ends with:\n{}", self.log_tail()))
    }

    /// A command that sees what it sees.
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness runs the programs under test"
    )]
    fn command(&self, program: &str) -> Command {
        match &self.unified {
            Some(unified) => unified.command(program),
            None => Command::new(program),
        }
    }

    /// The end of its log, for reports of failures.
    pub(crate) fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(40)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// Runs `thaw` against it.
    ///
    /// # Errors
    /// When it cannot be started; a status other than 0 is no error.
    pub(crate) fn thaw(&self, arguments: &[&str]) -> Result<Output> {
        let program = needs::program("thaw")?;
        self.command(program.to_str().context("path of thaw")?)
            .arg("--address")
            .arg(format!("unix://{}", self.path("run/thawd.sock").display()))
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .context("starting thaw")
    }

    /// Runs `thaw`, which must succeed, and returns what it printed.
    ///
    /// # Errors
    /// When it fails, with its standard error.
    pub(crate) fn thaw_ok(&self, arguments: &[&str]) -> Result<String> {
        let output = self.thaw(arguments)?;
        ensure!(
            output.status.success(),
            "thaw {}: {}: {}",
            arguments.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Loads one of the test images and returns its name.
    ///
    /// # Errors
    /// When the image cannot be built or loaded.
    pub(crate) fn load(&self, variant: &str) -> Result<String> {
        self.load_archive(&needs::image(variant)?)?;
        let name = if variant == "base" {
            "busybox"
        } else {
            variant
        };
        Ok(format!("localhost/thawd/{name}:latest"))
    }

    /// Loads an image that holds this program, and returns the image's name.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) fn load_program(&self, path: &str) -> Result<String> {
        self.load_archive(&needs::program_image(path)?)?;
        let name = path.rsplit('/').next().unwrap_or(path);
        Ok(format!("localhost/thawd/{name}:latest"))
    }

    fn load_archive(&self, archive: &Path) -> Result<()> {
        self.thaw_ok(&["image", "load", &archive.display().to_string()])
            .map(drop)
    }

    /// Removes all pods as a kubelet would, ends the daemon and checks that nothing is left.
    ///
    /// # Errors
    /// When something cannot be removed or was left behind.
    pub(crate) fn finish(mut self) -> Result<()> {
        if self.process.is_none() {
            self.launch()?;
        }
        let pods = self
            .cri
            .list_pod_sandbox(v1::ListPodSandboxRequest::default())?
            .items;
        for pod in pods {
            let pod_sandbox_id = pod.id;
            let id = pod_sandbox_id.clone();
            self.cri
                .stop_pod_sandbox(v1::StopPodSandboxRequest { pod_sandbox_id: id })?;
            self.cri
                .remove_pod_sandbox(v1::RemovePodSandboxRequest { pod_sandbox_id })?;
        }
        self.terminate()?;
        let left = self.mounts()?;
        ensure!(left.is_empty(), "mounts left behind: {left:?}");
        for name in [self.cgroup(), self.monitors_cgroup()] {
            let left = cgroups::directories(&name)?;
            ensure!(left.is_empty(), "cgroups left behind: {left:?}");
        }
        Ok(())
    }

    /// Mount points below its directory, the newest first.
    fn mounts(&self) -> Result<Vec<PathBuf>> {
        let table = match &self.unified {
            Some(unified) => unified.proc("mounts"),
            None => PathBuf::from("/proc/self/mounts"),
        };
        let mounts = std::fs::read_to_string(table)?;
        let points = mounts
            .lines()
            .filter_map(|line| line.split(' ').nth(1))
            .map(PathBuf::from);
        let mut points: Vec<_> = points
            .filter(|at| at.starts_with(self.directory.path()))
            .collect();
        points.reverse();
        Ok(points)
    }
}

impl Drop for Thawd {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            drop(process.kill());
            drop(process.wait());
        }
        let failures = [
            cgroups::remove(&self.cgroup()).err(),
            cgroups::remove(&self.monitors_cgroup()).err(),
            // Those of another namespace end with it.
            self.mounts()
                .map(|mounts| {
                    for mount in mounts.into_iter().filter(|_| self.unified.is_none()) {
                        unmount(mount, UnmountFlags::DETACH).ok();
                    }
                })
                .err(),
        ];
        for failure in failures.into_iter().flatten() {
            drop(writeln!(std::io::stderr(), "cleaning up: {failure:#}"));
        }
        // It exists only when a pod had a network.
        drop(arena::run("ip", &["link", "delete", &self.bridge()]));
    }
}

/// Writes a new file, or over an old one.
pub(crate) fn write(path: &Path, text: &str) -> Result<()> {
    let context = || path.display().to_string();
    let mut file: File = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
        .with_context(context)?;
    file.write_all(text.as_bytes()).with_context(context)
}
