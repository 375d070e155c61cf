//! Headers in, from a file that anybody may have made.
//!
//! Nothing here allocates more than [`MAX_RECORDS_BYTES`] for one entry, and nothing is ambiguous:
//! what could be read in two ways (a record given twice, two long names, data behind an entry that
//! has none) is an error.

use std::io::{self, Read};

use super::numbers::{narrow, signed, unsigned};
use super::records::{apply_records, bad_extension, parse_records};
use super::source::Source;
use super::{BLOCK, BLOCK_LEN, Kind, Records, Time, round_up};
use crate::error::Problem;

/// Bytes of extended headers that one entry may have: attributes are at most 64 KiB each.
pub(crate) const MAX_RECORDS_BYTES: u64 = 1 << 20;

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
    pub(crate) xattrs: Records,
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
        Self {
            source,
            position: 0,
            data_left: 0,
            padding: 0,
            seen_any: false,
        }
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
        let left = self
            .data_left
            .checked_add(self.padding)
            .ok_or(Problem::Truncated)?;
        self.source.skip(left).map_err(truncated)?;
        self.position = self.position.saturating_add(left);
        self.data_left = 0;
        self.padding = 0;
        Ok(())
    }

    fn next_into(&mut self, member: &mut Member) -> Result<bool, Stop> {
        self.finish_entry()?;
        member.header_offset = self.position;
        let mut records: Option<Records> = None;
        let (mut long_name, mut long_link): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
        loop {
            let extended = records.is_some() || long_name.is_some() || long_link.is_some();
            let Some(header) = self.header(extended)? else {
                return Ok(false);
            };
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
            return Err(Problem::Number {
                field: "size of an entry without data",
            }
            .into());
        }
        member.data_offset = self.position;
        self.data_left = member.size;
        self.padding = round_up(member.size, BLOCK) - member.size;
        Ok(true)
    }

    /// Reads one header; `None` at the end marker.
    fn header(&mut self, extended: bool) -> Result<Option<RawHeader>, Stop> {
        let mut header = RawHeader {
            block: [0; BLOCK_LEN],
        };
        self.fill(&mut header.block)?;
        if header.block.iter().all(|byte| *byte == 0) {
            if extended {
                return Err(bad_extension("nothing follows it").into());
            }
            // The marker is two blocks; a single one is an archive cut short.
            let mut second = [0_u8; BLOCK_LEN];
            self.fill(&mut second)?;
            let whole = second.iter().all(|byte| *byte == 0);
            return if whole {
                Ok(None)
            } else {
                Err(Problem::TrailingData.into())
            };
        }
        let first = !std::mem::replace(&mut self.seen_any, true);
        header.check(first)?;
        Ok(Some(header))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), Stop> {
        let first = self.position == 0;
        self.source
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof if first => Stop::Bad(Problem::NotTar {
                    looks_like: Some("shorter than a header"),
                }),
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
        field
            .split(|byte| *byte == 0)
            .next()
            .unwrap_or_default()
            .to_vec()
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
            .map(|(at, byte)| {
                if (148..156).contains(&at) {
                    32
                } else {
                    u64::from(*byte)
                }
            })
            .sum();
        if unsigned(self.field(148, 8), "checksum") == Ok(sum) {
            return Ok(());
        }
        if first {
            return Err(Problem::NotTar {
                looks_like: self.looks_like(),
            });
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
        MAGICS
            .iter()
            .find(|(magic, _)| self.block.starts_with(magic))
            .map(|(_, name)| *name)
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
        member.mtime = Time {
            seconds: signed(self.field(136, 12), "mtime")?,
            nanoseconds: 0,
        };
        if matches!(kind, Kind::CharDevice | Kind::BlockDevice) {
            member.device = (
                narrow(unsigned(self.field(329, 8), "device")?, "device")?,
                narrow(unsigned(self.field(337, 8), "device")?, "device")?,
            );
        }
        Ok(())
    }
}
