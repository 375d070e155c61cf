//! Headers in, from a file that anybody may have made.
//!
//! Nothing here allocates more than [`MAX_RECORDS_BYTES`] for one entry, and nothing is ambiguous:
//! what could be read in two ways (a record given twice, two long names, data behind an entry that
//! has none) is an error.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt as _;

use super::{BLOCK, BLOCK_LEN, Kind, Time, XATTR_PREFIX, round_up};
use crate::error::Problem;

/// Bytes of extended headers that one entry may have: attributes are at most 64 KiB each.
pub(crate) const MAX_RECORDS_BYTES: u64 = 1 << 20;
/// Longest path and link target (`PATH_MAX` of `linux/limits.h`).
pub(crate) const MAX_PATH_BYTES: usize = 4096;

/// Why reading stopped.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The file could not be read.
    Io(io::Error),
    /// The file says something impossible.
    Bad(Problem),
}

impl From<Problem> for Stop {
    fn from(problem: Problem) -> Self {
        Self::Bad(problem)
    }
}

/// One entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Member {
    pub(crate) name: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Option<Kind>,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: Time,
    /// Bytes of data in the archive.
    pub(crate) size: u64,
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Size of the file when the data is a PAX 1.0 sparse map followed by segments.
    pub(crate) sparse_size: Option<u64>,
    /// Where the first header of the entry begins.
    pub(crate) header_offset: u64,
    /// Where the data begins.
    pub(crate) data_offset: u64,
}

impl Member {
    pub(crate) fn kind(&self) -> Kind {
        self.kind.unwrap_or(Kind::Other(0))
    }
}

/// What an archive is read from.
pub(crate) trait Source: Read {
    /// Passes over `bytes`; an end before that is `UnexpectedEof`.
    fn skip(&mut self, bytes: u64) -> io::Result<()>;
}

/// A stream: what is passed over is read and dropped.
#[derive(Debug)]
pub(crate) struct Stream<R>(pub(crate) R);

impl<R: Read> Read for Stream<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: Read> Source for Stream<R> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let skipped = io::copy(&mut (&mut self.0).take(bytes), &mut io::sink())?;
        if skipped == bytes { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// A part of a file, read at offsets, so that others may read it at the same time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FileRange<'a> {
    pub(crate) file: &'a File,
    pub(crate) at: u64,
    pub(crate) end: u64,
}

impl Read for FileRange<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let read = match buffer.get_mut(..length) {
            Some(part) if length > 0 => self.file.read_at(part, self.at)?,
            _ => 0,
        };
        self.at += u64::try_from(read).unwrap_or(0);
        Ok(read)
    }
}

impl Source for FileRange<'_> {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match self.at.checked_add(bytes) {
            Some(at) if at <= self.end => {
                self.at = at;
                Ok(())
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Reads an archive entry by entry. Its [`Read`] gives the current entry's data.
#[derive(Debug)]
pub(crate) struct Reader<S> {
    source: S,
    position: u64,
    /// Data of the current entry that is still to come, and the padding after it.
    data_left: u64,
    padding: u64,
    seen_any: bool,
}

impl<S: Source> Reader<S> {
    pub(crate) fn new(source: S) -> Self {
        Self { source, position: 0, data_left: 0, padding: 0, seen_any: false }
    }

    /// Bytes consumed so far.
    pub(crate) fn position(&self) -> u64 {
        self.position
    }

    /// Passes over what is left of the current entry and reads the next one's headers; `None` at
    /// the end marker. Errors carry the name of the entry as far as it is known.
    pub(crate) fn next(&mut self) -> Result<Option<Member>, (Vec<u8>, Stop)> {
        let mut member = Member::default();
        match self.next_into(&mut member) {
            Ok(true) => Ok(Some(member)),
            Ok(false) => Ok(None),
            Err(stop) => {
                let name = match member.name.is_empty() {
                    true => format!("header at byte {}", self.position).into_bytes(),
                    false => member.name,
                };
                Err((name, stop))
            }
        }
    }

    /// Passes over what is left of the current entry's data.
    pub(crate) fn finish_entry(&mut self) -> Result<(), Stop> {
        let left = self.data_left.checked_add(self.padding).ok_or(Problem::Truncated)?;
        self.source.skip(left).map_err(truncated)?;
        self.position = self.position.saturating_add(left);
        self.data_left = 0;
        self.padding = 0;
        Ok(())
    }

    fn next_into(&mut self, member: &mut Member) -> Result<bool, Stop> {
        self.finish_entry()?;
        member.header_offset = self.position;
        let mut records: Option<Vec<(Vec<u8>, Vec<u8>)>> = None;
        let (mut long_name, mut long_link): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
        loop {
            let extended = records.is_some() || long_name.is_some() || long_link.is_some();
            let Some(header) = self.header(extended)? else { return Ok(false) };
            match header.flag() {
                b'x' if records.is_none() => {
                    let body = self.extension(header.size()?)?;
                    records = Some(parse_records(&body)?);
                }
                b'L' if long_name.is_none() => long_name = Some(self.long(&header)?),
                b'K' if long_link.is_none() => long_link = Some(self.long(&header)?),
                b'x' | b'L' | b'K' => {
                    return Err(bad_extension("given twice for one entry").into());
                }
                _ => {
                    header.fill(member)?;
                    break;
                }
            }
        }
        if let Some(name) = long_name {
            member.name = name;
        }
        if let Some(link) = long_link {
            member.link = link;
        }
        apply_records(member, records.unwrap_or_default())?;
        // Until here a name could be overridden; from here it is the one that errors show.
        if !matches!(member.kind(), Kind::Regular | Kind::Other(_)) && member.size != 0 {
            return Err(Problem::Number { field: "size of an entry without data" }.into());
        }
        member.data_offset = self.position;
        self.data_left = member.size;
        self.padding = round_up(member.size, BLOCK) - member.size;
        Ok(true)
    }

    /// Reads one header; `None` at the end marker.
    fn header(&mut self, extended: bool) -> Result<Option<RawHeader>, Stop> {
        let mut header = RawHeader { block: [0; BLOCK_LEN] };
        self.fill(&mut header.block)?;
        if header.block.iter().all(|byte| *byte == 0) {
            if extended {
                return Err(bad_extension("nothing follows it").into());
            }
            // The marker is two blocks; a single one is an archive cut short.
            let mut second = [0_u8; BLOCK_LEN];
            self.fill(&mut second)?;
            let whole = second.iter().all(|byte| *byte == 0);
            return if whole { Ok(None) } else { Err(Problem::TrailingData.into()) };
        }
        let first = !std::mem::replace(&mut self.seen_any, true);
        header.check(first)?;
        Ok(Some(header))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Stop> {
        let first = self.position == 0;
        self.source.read_exact(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof if first => {
                Stop::Bad(Problem::NotTar { looks_like: Some("shorter than a header") })
            }
            _ => truncated(error),
        })?;
        let length = u64::try_from(buffer.len()).map_err(|_| Problem::Truncated)?;
        self.position = self.position.saturating_add(length);
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>, Stop> {
        if size > MAX_RECORDS_BYTES {
            return Err(bad_extension("longer than 1 MiB").into());
        }
        let length = usize::try_from(size).map_err(|_| bad_extension("longer than 1 MiB"))?;
        let mut body = vec![0_u8; length.next_multiple_of(BLOCK_LEN)];
        self.fill(&mut body)?;
        body.truncate(length);
        Ok(body)
    }

    fn long(&mut self, header: &RawHeader) -> Result<Vec<u8>, Stop> {
        let mut name = self.extension(header.size()?)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }
}

impl<S: Source> Read for Reader<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.data_left).unwrap_or(usize::MAX);
        let length = buffer.len().min(left);
        let Some(part) = buffer.get_mut(..length).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let read = self.source.read(part)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let count = u64::try_from(read).map_err(io::Error::other)?;
        self.data_left = self.data_left.saturating_sub(count);
        self.position = self.position.saturating_add(count);
        Ok(read)
    }
}

fn truncated(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Stop::Bad(Problem::Truncated),
        _ => Stop::Io(error),
    }
}

fn bad_extension(reason: &'static str) -> Problem {
    Problem::ExtendedHeader { reason }
}

/// A block that claims to be a header.
struct RawHeader {
    block: [u8; BLOCK_LEN],
}

impl RawHeader {
    fn field(&self, at: usize, width: usize) -> &[u8] {
        self.block.get(at..at + width).unwrap_or_default()
    }

    fn text(&self, at: usize, width: usize) -> Vec<u8> {
        let field = self.field(at, width);
        field.split(|byte| *byte == 0).next().unwrap_or_default().to_vec()
    }

    fn flag(&self) -> u8 {
        self.field(156, 1).first().copied().unwrap_or(0)
    }

    fn size(&self) -> Result<u64, Problem> {
        unsigned(self.field(124, 12), "size")
    }

    fn check(&self, first: bool) -> Result<(), Problem> {
        let sum: u64 = self
            .block
            .iter()
            .enumerate()
            .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u64::from(*byte) })
            .sum();
        if unsigned(self.field(148, 8), "checksum") == Ok(sum) {
            return Ok(());
        }
        if first {
            return Err(Problem::NotTar { looks_like: self.looks_like() });
        }
        Err(Problem::Checksum)
    }

    fn looks_like(&self) -> Option<&'static str> {
        const MAGICS: [(&[u8], &str); 5] = [
            (&[0x1f, 0x8b], "gzip"),
            (&[0x28, 0xb5, 0x2f, 0xfd], "zstd"),
            (&[0xfd, b'7', b'z', b'X', b'Z'], "xz"),
            (b"BZh", "bzip2"),
            (b"PK\x03\x04", "zip"),
        ];
        MAGICS.iter().find(|(magic, _)| self.block.starts_with(magic)).map(|(_, name)| *name)
    }

    fn fill(&self, member: &mut Member) -> Result<(), Stop> {
        member.name = self.text(0, 100);
        if self.field(257, 6) == b"ustar\0" {
            let prefix = self.text(345, 155);
            if !prefix.is_empty() {
                let rest = std::mem::replace(&mut member.name, prefix);
                member.name.push(b'/');
                member.name.extend_from_slice(&rest);
            }
        }
        member.link = self.text(157, 100);
        let kind = Kind::from_flag(self.flag());
        // Before POSIX a directory was a file whose name ends in a slash.
        let old_directory = self.flag() == 0 && member.name.ends_with(b"/");
        member.kind = Some(if old_directory { Kind::Directory } else { kind });
        member.mode = narrow(unsigned(self.field(100, 8), "mode")?, "mode")? & 0o7777;
        member.uid = narrow(unsigned(self.field(108, 8), "uid")?, "uid")?;
        member.gid = narrow(unsigned(self.field(116, 8), "gid")?, "gid")?;
        member.size = self.size()?;
        member.mtime = Time { seconds: signed(self.field(136, 12), "mtime")?, nanoseconds: 0 };
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            member.device = (
                narrow(unsigned(self.field(329, 8), "device")?, "device")?,
                narrow(unsigned(self.field(337, 8), "device")?, "device")?,
            );
        }
        Ok(())
    }
}

fn narrow(value: u64, field: &'static str) -> Result<u32, Problem> {
    u32::try_from(value).map_err(|_| Problem::Number { field })
}

/// Octal digits, or base-256 when the first bit is set.
fn unsigned(field: &[u8], name: &'static str) -> Result<u64, Problem> {
    u64::try_from(signed(field, name)?).map_err(|_| Problem::Number { field: name })
}

fn signed(field: &[u8], name: &'static str) -> Result<i64, Problem> {
    let bad = Problem::Number { field: name };
    let Some((first, rest)) = field.split_first() else { return Err(bad) };
    if first & 0x80 != 0 {
        let negative = first & 0x40 != 0;
        let start = if negative { i128::from(first | 0x80) - 256 } else { i128::from(first & 0x3f) };
        let mut value = start;
        for byte in rest {
            value = value.checked_mul(256).ok_or(bad.clone())? + i128::from(*byte);
        }
        return i64::try_from(value).map_err(|_| bad);
    }
    let text = field.split(|byte| *byte == 0).next().unwrap_or_default().trim_ascii();
    let mut value = 0_i64;
    for byte in text {
        if !(b'0'..=b'7').contains(byte) {
            return Err(bad);
        }
        let digit = i64::from(byte - b'0');
        value = value.checked_mul(8).and_then(|v| v.checked_add(digit)).ok_or(bad.clone())?;
    }
    Ok(value)
}

/// Splits `LEN KEY=VALUE\n` records; a key that occurs twice is an error.
pub(crate) fn parse_records(mut body: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>, Problem> {
    let mut records: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    let mut keys = std::collections::HashSet::new();
    while !body.is_empty() {
        let space = body.iter().take(9).position(|byte| *byte == b' ');
        let digits = space.and_then(|at| body.get(..at)).filter(|digits| {
            !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
        });
        let length = digits
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| digits.parse::<usize>().ok())
            .ok_or(bad_extension("a record has no length"))?;
        let (whole, rest) =
            body.split_at_checked(length).ok_or(bad_extension("a record is too long"))?;
        let start = digits.map_or(0, |digits| digits.len() + 1);
        let record = whole
            .get(start..)
            .and_then(|record| record.strip_suffix(b"\n"))
            .ok_or(bad_extension("a record does not end"))?;
        let equals = record.iter().position(|byte| *byte == b'=');
        let (key, value) = equals
            .and_then(|at| record.split_at_checked(at))
            .filter(|(key, _)| !key.is_empty())
            .ok_or(bad_extension("a record has no key"))?;
        if key != b"comment" && !keys.insert(key) {
            return Err(bad_extension("a record is given twice"));
        }
        records.push((key.to_vec(), value.get(1..).unwrap_or_default().to_vec()));
        body = rest;
    }
    Ok(records)
}

fn apply_records(member: &mut Member, records: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), Problem> {
    let mut sparse_name = None;
    let (mut major, mut real_size) = (None, None);
    for (key, value) in records {
        match key.as_slice() {
            b"path" => member.name = value,
            b"linkpath" => member.link = value,
            b"size" => member.size = decimal(&value, "size")?,
            b"uid" => member.uid = narrow(decimal(&value, "uid")?, "uid")?,
            b"gid" => member.gid = narrow(decimal(&value, "gid")?, "gid")?,
            b"mtime" => member.mtime = time(&value)?,
            b"GNU.sparse.major" => major = Some((decimal(&value, "sparse version")?, 0)),
            b"GNU.sparse.minor" => {
                let minor = decimal(&value, "sparse version")?;
                major = major.map(|(major, _)| (major, minor));
            }
            b"GNU.sparse.name" => sparse_name = Some(value),
            b"GNU.sparse.realsize" => real_size = Some(decimal(&value, "sparse size")?),
            key if key.starts_with(b"GNU.sparse.") => return Err(Problem::SparseMap),
            key => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    member.xattrs.push((name.to_vec(), value));
                }
            }
        }
    }
    if let Some(name) = sparse_name {
        member.name = name;
    }
    if major.is_some() || real_size.is_some() {
        let regular = member.kind == Some(Kind::Regular);
        let version_1_0 = major == Some((1, 0));
        member.sparse_size = real_size;
        if !regular || !version_1_0 || real_size.is_none() {
            return Err(Problem::SparseMap);
        }
    }
    let long = member.name.len() > MAX_PATH_BYTES || member.link.len() > MAX_PATH_BYTES;
    if long || member.name.contains(&0) || member.link.contains(&0) {
        return Err(Problem::UncleanName);
    }
    Ok(())
}

fn decimal(value: &[u8], field: &'static str) -> Result<u64, Problem> {
    let text = std::str::from_utf8(value).ok().filter(|text| !text.starts_with('+'));
    text.and_then(|text| text.parse().ok()).ok_or(Problem::Number { field })
}

fn time(value: &[u8]) -> Result<Time, Problem> {
    let bad = Problem::Number { field: "mtime" };
    let text = std::str::from_utf8(value).map_err(|_| bad.clone())?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !all_digits(whole) || !all_digits(fraction) {
        return Err(bad);
    }
    let seconds: i64 = whole.parse().map_err(|_| bad.clone())?;
    let nanoseconds: u32 =
        format!("{fraction:0<9.9}").parse().map_err(|_| bad.clone())?;
    Ok(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}
