//! Overlay mounts, on every kernel since 5.15.
//!
//! The kernel has learnt to take layers in three ways. The newest one is tried first:
//!
//! | way | how a layer is named | since |
//! |---|---|---|
//! | descriptors | `fsconfig(FSCONFIG_SET_FD)`, `O_PATH` | 6.15 (6.13 takes no `O_PATH`) |
//! | strings | `fsconfig(FSCONFIG_SET_STRING)`: `lowerdir+` and a path, one at a time | 6.8 |
//! | options | mount(2): all of them in one page of text | always |
//!
//! # Invariants
//! - Each way opens the layers and names what was opened: by descriptor, or through /proc. Their names
//!   may hold any byte and have any length.
//! - Only mount(2) needs all of them open at once; a daemon may have as few as 1024 descriptors.
//! - A failure leaves nothing mounted.

use std::ffi::{CStr, CString};
use std::fmt::Write as _;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags};

use super::attach;

/// The largest number of lower layers that the kernel stacks (`OVL_MAX_STACK` in
/// `fs/overlayfs/params.h`).
pub const MAX_LOWER_LAYERS: usize = 500;

/// Off on every overlay, and said so, because a kernel may be built or booted with other defaults.
const OFF: [(&CStr, &CStr); 3] = [
    (c"index", c"off"),
    (c"metacopy", c"off"),
    (c"redirect_dir", c"nofollow"),
];

/// Mounts an overlay of `lowers` (topmost first), `upper` and `work` at `target`.
///
/// The layers are handed over as open directories, so their names may hold any byte and have any
/// length. `index`, `metacopy` and `redirect_dir` are off: then the upper directory is a plain
/// difference that can be archived, and nothing in a layer can point at another path
/// (`Documentation/filesystems/overlayfs.rst`).
///
/// Takes few descriptors while it runs, but one a layer where only mount(2) is left.
///
/// # Errors
///
/// `EINVAL` without a lower layer or with more than [`MAX_LOWER_LAYERS`]; `InvalidInput` with a text
/// where the kernel takes options by mount(2) only and the layers do not fit into them; else what
/// open(2), fsconfig(2), fsmount(2), move_mount(2) or mount(2) return.
pub fn overlay(lowers: &[&Path], upper: &Path, work: &Path, target: &Path) -> io::Result<()> {
    if lowers.is_empty() || lowers.len() > MAX_LOWER_LAYERS {
        return Err(Errno::INVAL.into());
    }
    let layers = Layers {
        lowers,
        upper,
        work,
    };
    match by_descriptor(&layers) {
        Ok(mount) => return attach(mount, target),
        // Before 6.5 an overlay's options are kept as one text, in which `lowerdir+` is no option:
        // the next way would fail too, and write an error to the kernel's log every time.
        Err(Errno::OPNOTSUPP) => return by_options(&layers, target),
        Err(error) if !is_unknown(error) => return Err(error.into()),
        Err(_) => {}
    }
    match by_strings(&layers) {
        Ok(mount) => attach(mount, target),
        Err(error) if !is_unknown(error) => Err(error.into()),
        Err(_) => by_options(&layers, target),
    }
}

#[derive(Clone, Copy)]
struct Layers<'a> {
    lowers: &'a [&'a Path],
    upper: &'a Path,
    work: &'a Path,
}

/// The layers as open directories (`O_PATH`).
struct Opened {
    lowers: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

/// Whether a kernel says by this error that it does not know a way. It may mean a fault of the
/// layers too, which the next way finds as well.
///
/// 6.13 and 6.14 say `EBADF` of a descriptor with `O_PATH`, as does 6.12 of any; those before 6.5
/// `EOPNOTSUPP` of descriptors; all `EINVAL` of an unknown option; and where a filter stands
/// between, `ENOSYS`.
fn is_unknown(error: Errno) -> bool {
    matches!(
        error,
        Errno::INVAL | Errno::BADF | Errno::OPNOTSUPP | Errno::NOSYS
    )
}

fn by_descriptor(layers: &Layers<'_>) -> Result<OwnedFd, Errno> {
    detached(layers, |context, key, layer| {
        rustix::mount::fsconfig_set_fd(context, key, layer)
    })
}

/// A string has at most 255 bytes (`fs/fsopen.c`), which a path in /proc never reaches, and holds none
/// of the characters that overlayfs interprets.
fn by_strings(layers: &Layers<'_>) -> Result<OwnedFd, Errno> {
    detached(layers, |context, key, layer| {
        let name = format!("/proc/thread-self/fd/{}", layer.as_raw_fd());
        rustix::mount::fsconfig_set_string(context, key, name)
    })
}

/// Makes a detached overlay. `set` gives the kernel one layer, which it holds itself from then on.
fn detached(
    layers: &Layers<'_>,
    set: impl Fn(&OwnedFd, &CStr, OwnedFd) -> Result<(), Errno>,
) -> Result<OwnedFd, Errno> {
    let context = rustix::mount::fsopen(c"overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_set_string(&context, c"source", c"overlay")?;
    for lower in layers.lowers {
        set(&context, c"lowerdir+", open_path(lower)?)?;
    }
    set(&context, c"upperdir", open_path(layers.upper)?)?;
    set(&context, c"workdir", open_path(layers.work)?)?;
    for (key, value) in OFF {
        rustix::mount::fsconfig_set_string(&context, key, value)?;
    }
    rustix::mount::fsconfig_create(&context)?;
    rustix::mount::fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
}

/// mount(2) takes a page of options, into which 500 paths in /proc do not fit, but 500 numbers do. So a
/// thread whose working directory is the list of descriptors names them relative to it.
///
/// The mount comes to be complete and at its place in one step, as with move_mount(2), and propagates
/// the same. Its flags are the same: none but `relatime`.
fn by_options(layers: &Layers<'_>, target: &Path) -> io::Result<()> {
    let lowers = layers.lowers.iter().map(|path| open_path(path));
    let opened = Opened {
        lowers: lowers.collect::<Result<_, _>>()?,
        upper: open_path(layers.upper)?,
        work: open_path(layers.work)?,
    };
    let options = options(&opened, rustix::param::page_size())?;
    let options = CString::new(options).map_err(io::Error::other)?;
    // Not followed, and at the caller's working directory.
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let target = rustix::fs::open(target, flags, Mode::empty())?;
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

/// The option string with descriptor numbers for names; `page` is how much mount(2) copies, the NUL
/// byte at the end included (mount(2), `data`; `copy_mount_options` in `fs/namespace.c`).
fn options(layers: &Opened, page: usize) -> io::Result<String> {
    let mut options = String::from("lowerdir=");
    for (index, lower) in layers.lowers.iter().enumerate() {
        let colon = if index == 0 { "" } else { ":" };
        write!(options, "{colon}{}", lower.as_raw_fd()).map_err(io::Error::other)?;
    }
    let (upper, work) = (layers.upper.as_raw_fd(), layers.work.as_raw_fd());
    write!(options, ",upperdir={upper},workdir={work}").map_err(io::Error::other)?;
    for (key, value) in OFF {
        let (key, value) = (key.to_string_lossy(), value.to_string_lossy());
        write!(options, ",{key}={value}").map_err(io::Error::other)?;
    }
    if options.len() < page {
        return Ok(options);
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "{} layers take {} bytes of mount options, and this kernel, older than 6.8, takes {}",
            layers.lowers.len(),
            options.len(),
            page.saturating_sub(1)
        ),
    ))
}

/// For [`crate::kernel`]: whether an overlay can be mounted, in an empty working directory.
pub(crate) fn try_any_overlay() -> io::Result<()> {
    in_trial(|layers| overlay(layers.lowers, layers.upper, layers.work, Path::new(MERGED)))
}

/// The same of the newest way alone, which is mounted nowhere.
pub(crate) fn try_overlay_by_descriptor() -> io::Result<()> {
    in_trial(|layers| by_descriptor(layers).map(drop).map_err(io::Error::from))
}

/// The same of the second way alone.
pub(crate) fn try_overlay_by_strings() -> io::Result<()> {
    in_trial(|layers| by_strings(layers).map(drop).map_err(io::Error::from))
}

const MERGED: &str = "merged";

fn in_trial(work: impl FnOnce(&Layers<'_>) -> io::Result<()>) -> io::Result<()> {
    let names = ["lower", "upper", "work", MERGED].map(Path::new);
    for name in names {
        rustix::fs::mkdir(name, Mode::RWXU)?;
    }
    let [lower, upper, scratch, _] = names;
    work(&Layers {
        lowers: &[lower],
        upper,
        work: scratch,
    })
}

fn open_path(path: &Path) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty())
}

#[cfg(test)]
mod tests;
