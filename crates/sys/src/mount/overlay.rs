//! Overlay mounts, on every kernel since 5.15.
//!
//! The kernel has learnt to take layers in three ways: all of them in one string of mount(2), one string
//! each (`lowerdir+`, 6.8), and as descriptors (6.13, with `O_PATH` 6.15). The oldest is used, for what
//! the mount table then shows. CRIU reads that table, the whole host's too, into lines of 4095 bytes
//! (`BUF_SIZE` in criu/proc_parse.c), and gives up at a longer one: with either of the other ways, one
//! container of a hundred layers keeps every container of the node from being checkpointed.
//!
//! ```text
//!  lowerdir=14:15:16,upperdir=17,workdir=18,index=off,…      500 layers: 2 to 3 KiB
//! ```
//!
//! # Invariants
//! - Layers are opened once and named by their descriptors' numbers: their names may hold any byte and
//!   have any length, also those that overlayfs would interpret (`,`, `:` and `\`).
//! - No line of the mount table becomes longer than CRIU reads.
//! - A failure leaves nothing mounted.

use std::ffi::CString;
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::MountFlags;

/// The largest number of lower layers that the kernel stacks (`OVL_MAX_STACK` in
/// `fs/overlayfs/params.h`).
pub const MAX_LOWER_LAYERS: usize = 500;

/// Longest options, in bytes. A line of the mount table has some numbers, the mount point and the
/// kernel's own options beside them. mount(2) takes a page.
const MAX_OPTIONS_BYTES: usize = 3584;

/// Off on every overlay, and said so, because a kernel may be built or booted with other defaults.
const OFF: &str = "index=off,metacopy=off,redirect_dir=nofollow";

/// Mounts an overlay of `lowers` (topmost first), `upper` and `work` at `target`.
///
/// `index`, `metacopy` and `redirect_dir` are off: then the upper directory is a plain difference that
/// can be archived, and nothing in a layer can point at another path
/// (`Documentation/filesystems/overlayfs.rst`).
///
/// Takes one descriptor a layer while it runs.
///
/// # Errors
///
/// `EINVAL` without a lower layer or with more than [`MAX_LOWER_LAYERS`]; `InvalidInput` with a text
/// where the layers do not fit into the options; else what open(2) or mount(2) return.
pub fn overlay(lowers: &[&Path], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    if lowers.is_empty() || lowers.len() > MAX_LOWER_LAYERS {
        return Err(Errno::INVAL.into());
    }
    let lowers = lowers.iter().map(|path| open_path(path));
    let layers = Layers {
        lowers: lowers.collect::<Result<_, _>>()?,
        upper: open_path(upper)?,
        work: open_path(work)?,
    };
    let options = options(&layers, MAX_OPTIONS_BYTES)?;
    let options = CString::new(options).map_err(io::Error::other)?;
    // Not followed, and at the caller's working directory.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(target, flags, Mode::empty())?;
    // Numbers are names relative to the list of descriptors, which is a thread's own working directory.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("overlay".into());
        let handle = thread.spawn_scoped(scope, || -> io::Result<()> {
            super::unshare(rustix::thread::UnshareFlags::FS)?;
            rustix::process::chdir(c"/proc/thread-self/fd")?;
            let target = target.as_raw_fd().to_string();
            let none = MountFlags::empty();
            rustix::mount::mount("overlay", target, "overlay", none, options.as_c_str())?;
            Ok(())
        })?;
        handle
            .join()
            .map_err(|_| io::Error::other("the thread that mounts an overlay panicked"))?
    })
}

/// The layers as open directories (`O_PATH`).
struct Layers {
    lowers: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

/// The option string, of at most `limit` bytes.
fn options(layers: &Layers, limit: usize) -> io::Result<String> {
    let mut options = String::from("lowerdir=");
    for (index, lower) in layers.lowers.iter().enumerate() {
        let colon = if index == 0 { "" } else { ":" };
        write!(options, "{colon}{}", lower.as_raw_fd()).map_err(io::Error::other)?;
    }
    let (upper, work) = (layers.upper.as_raw_fd(), layers.work.as_raw_fd());
    write!(options, ",upperdir={upper},workdir={work},{OFF}").map_err(io::Error::other)?;
    if options.len() <= limit {
        return Ok(options);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "{} layers take {} bytes of mount options, of which there may be {limit}",
            layers.lowers.len(),
            options.len(),
        ),
    ))
}

/// For [`crate::kernel`]: whether an overlay can be mounted, in an empty working directory.
pub(crate) fn try_overlay() -> io::Result<()> {
    let names = ["lower", "upper", "work", "merged"].map(Path::new);
    for name in names {
        rustix::fs::mkdir(name, Mode::RWXU)?;
    }
    let [lower, upper, work, merged] = names;
    overlay(&[lower], upper, work, merged)
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

#[cfg(test)]
mod tests;
