//! What several tests need: a directory for CRIU's images, and somebody who plays CRIU.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test file uses a part of it"
)]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};
use sys::process::Deadline;

/// A tmpfs that is mounted nowhere, and a path to it.
pub(crate) struct Images {
    pub(crate) fd: OwnedFd,
    pub(crate) path: PathBuf,
}

impl Images {
    pub(crate) fn new() -> Self {
        let fd = sys::mount::tmpfs(Some(64 << 20), 0o700).unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()));
        Self { fd, path }
    }
}

/// Opens a page image as CRIU does.
pub(crate) fn open_page_image(images: &Path, number: usize) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
    let path = images.join(format!("pages-{number}.img"));
    Ok(File::from(rustix::fs::open(
        &path,
        flags,
        Mode::RUSR | Mode::WUSR,
    )?))
}

/// Writes page images one after the other, in pieces of odd sizes.
pub(crate) fn play_criu(images: &Path, contents: &[Vec<u8>]) -> io::Result<()> {
    for (index, content) in contents.iter().enumerate() {
        let mut image = open_page_image(images, index + 1)?;
        let mut piece = 1;
        let mut rest = content.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(piece.min(rest.len()));
            image.write_all(now)?;
            rest = later;
            piece = piece * 3 % 300_007 + 1;
        }
    }
    Ok(())
}

/// Bytes that repeat nowhere within a page.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Names in a directory.
pub(crate) fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
