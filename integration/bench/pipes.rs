//! How large a pipe may be.
//!
//! CRIU moves memory through pipes of 2 MiB where it may have them, and thawd through larger ones. A
//! daemon on a node may: it has CAP_SYS_RESOURCE. Where that is missing, as in some containers and
//! virtual machines, `fs.pipe-max-size` is the limit, 1 MiB by default, and everything goes in smaller
//! steps: with 1 GiB both sides stand still for 50 to 80 ms longer. So it is raised, for both sides.

use std::fs::OpenOptions;
use std::io::Write as _;

use anyhow::{Context as _, Result};
use rustix::io::Errno;

use super::progress;

const SYSCTL: &str = "/proc/sys/fs/pipe-max-size";
/// The largest that thawd asks for.
const WANTED_BYTES: usize = 16 << 20;

/// The limit as it was, when it had to be changed. Dropping it restores that.
pub(super) struct Limit(Option<String>);

impl Limit {
    /// Lets the processes of this machine have pipes as large as thawd and CRIU want them.
    ///
    /// # Errors
    /// When it cannot be changed.
    pub(super) fn lift() -> Result<Self> {
        let (_reader, writer) = std::io::pipe()?;
        match rustix::pipe::fcntl_setpipe_size(&writer, WANTED_BYTES) {
            Ok(_) => return Ok(Self(None)),
            Err(Errno::PERM) => {}
            Err(error) => return Err(error).context("making a large pipe"),
        }
        let before = std::fs::read_to_string(SYSCTL).context(SYSCTL)?;
        let before = before.trim().to_owned();
        progress(&format!(
            "no CAP_SYS_RESOURCE: fs.pipe-max-size is {WANTED_BYTES} instead of {before} meanwhile"
        ));
        set(&WANTED_BYTES.to_string())?;
        Ok(Self(Some(before)))
    }
}

impl Drop for Limit {
    fn drop(&mut self) {
        if let Some(before) = &self.0
            && let Err(error) = set(before)
        {
            progress(&format!("cleaning up: {error:#}"));
        }
    }
}

fn set(value: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).open(SYSCTL);
    let mut file = file.context(SYSCTL)?;
    file.write_all(value.as_bytes()).context(SYSCTL)
}
