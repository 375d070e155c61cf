//! A mount namespace in which cgroup v2 is all there is, on whatever host.
//!
//! ```text
//!  test program (arena)
//!    └─ unshare --mount ── sh: /sys/fs/cgroup taken away whole, a cgroup2 mount in its place
//!         └─ cat: holds the namespace until its input ends with the test program
//!  nsenter ── thawd ── monitors, crun or runc, CRIU
//! ```
//!
//! All of `/sys/fs/cgroup` goes: with the cgroup2 mount alone away, CRIU would walk a tree that it
//! cannot see, and make it again in the wrong place.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// The namespace. Dropping it ends it, once nothing else is inside.
pub(crate) struct Unified {
    holder: Child,
}

impl Unified {
    /// Makes one.
    ///
    /// # Errors
    /// When the mounts cannot be changed.
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness runs ordinary programs"
    )]
    pub(crate) fn new() -> Result<Self> {
        let script = "umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup \
                      && echo ready && exec cat";
        let holder = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .args(["sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("starting unshare")?;
        let mut unified = Self { holder };
        let output = unified.holder.stdout.as_mut().context("no output")?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        ensure!(line == "ready\n", "/sys/fs/cgroup cannot be replaced");
        Ok(unified)
    }

    /// A file of the process that holds it, below /proc.
    pub(crate) fn proc(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.holder.id()))
    }

    /// A command that begins inside; nsenter(1) becomes the program.
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness runs ordinary programs"
    )]
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--mount={}", self.proc("ns/mnt").display()))
            .args(["--", program]);
        command
    }
}

impl Drop for Unified {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}
