//! `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
//!
//! ```text
//! 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue
//! id par dev  root  point  options  optional…  - type source    super options
//! ```

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One line of mountinfo; names are unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Id of the mount, unique while it exists.
    pub mount_id: u32,
    /// Id of the mount that it stands on.
    pub parent_id: u32,
    /// Major device number of the filesystem.
    pub major: u32,
    /// Minor device number of the filesystem.
    pub minor: u32,
    /// What of the filesystem is mounted: a path within it.
    pub root: PathBuf,
    /// Where, relative to the reader's root directory.
    pub mount_point: PathBuf,
    /// Options of this mount (`ro`, `nosuid`, …).
    pub options: Vec<String>,
    /// Propagation: `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub optional_fields: Vec<String>,
    /// Type of the filesystem, such as `overlay`.
    pub fs_type: String,
    /// What the mounter named as the source; any text.
    pub source: String,
    /// Options of the filesystem.
    pub super_options: Vec<String>,
}

/// The mounts of the calling thread's namespace.
///
/// # Errors
///
/// What reading `/proc` returns; `InvalidData` for a line that is not as documented.
pub fn mountinfo() -> io::Result<Vec<MountInfo>> {
    parse_mountinfo(std::fs::read("/proc/thread-self/mountinfo")?)
}

/// The mounts of the namespace of process `pid`.
///
/// # Errors
///
/// `NotFound` when there is no such process; else as [`mountinfo`].
pub fn mountinfo_of(pid: u32) -> io::Result<Vec<MountInfo>> {
    parse_mountinfo(std::fs::read(format!("/proc/{pid}/mountinfo"))?)
}

/// Reads the text of a mountinfo file.
///
/// # Errors
///
/// `InvalidData` for a line that is not as documented; the message quotes the line.
pub fn parse_mountinfo(text: impl AsRef<[u8]>) -> io::Result<Vec<MountInfo>> {
    let lines = text
        .as_ref()
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty());
    lines
        .map(|line| parse_line(line).ok_or_else(|| malformed(line)))
        .collect()
}

fn malformed(line: &[u8]) -> io::Error {
    let line = String::from_utf8_lossy(line);
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed mountinfo line {line:?}"),
    )
}

fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|byte| *byte == b' ');
    let mount_id = number(fields.next()?)?;
    let parent_id = number(fields.next()?)?;
    let mut device = fields.next()?.split(|byte| *byte == b':');
    let (major, minor) = (number(device.next()?)?, number(device.next()?)?);
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = list(fields.next()?);
    let mut optional_fields = Vec::new();
    loop {
        match fields.next()? {
            b"-" => break,
            field => optional_fields.push(text(field)),
        }
    }
    let fs_type = text(fields.next()?);
    let source = text(fields.next()?);
    // Nothing forbids a filesystem to have no options at all.
    let super_options = fields.next().map(list).unwrap_or_default();
    Some(MountInfo {
        mount_id,
        parent_id,
        major,
        minor,
        root,
        mount_point,
        options,
        optional_fields,
        fs_type,
        source,
        super_options,
    })
}

fn number(field: &[u8]) -> Option<u32> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn path(field: &[u8]) -> PathBuf {
    PathBuf::from(OsString::from_vec(unescape(field)))
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn list(field: &[u8]) -> Vec<String> {
    field
        .split(|byte| *byte == b',')
        .filter(|option| !option.is_empty())
        .map(text)
        .collect()
}

/// Undoes `mangle()` of `fs/seq_file.c`: three octal digits after a backslash.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        if *first == b'\\'
            && let Some((digits, after)) = tail.split_first_chunk::<3>()
            && let Some(byte) = octal(*digits)
        {
            out.push(byte);
            rest = after;
        } else {
            out.push(*first);
            rest = tail;
        }
    }
    out
}

fn octal(digits: [u8; 3]) -> Option<u8> {
    let text = std::str::from_utf8(&digits).ok()?;
    u8::from_str_radix(text, 8).ok()
}
