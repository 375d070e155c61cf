//! The headers of an archive, one after the other.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::{Location, ReadLimits};
use crate::error::{Error, Finding, Problem, quoted};
use crate::format::Kind;
use crate::format::decode::{Member, Reader, Stop};
use crate::format::source::FileRange;
use crate::names;

/// Most bytes after the end marker: what fills up a record of GNU tar, and some.
const MAX_TRAILER: u64 = 1 << 20;

/// What the headers say.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Regular files.
    pub(super) entries: Vec<(String, Location)>,
    /// Whether the end marker was reached.
    pub(super) complete: bool,
}

/// Takes what is wrong; answers whether to go on.
pub(super) type Report<'a> = dyn FnMut(Finding) -> bool + 'a;

/// Reads all headers, as far as they can be read and `report` wants to go on.
pub(super) fn scan(
    file: &File,
    limits: &ReadLimits,
    report: &mut Report<'_>,
) -> Result<Scanned, Error> {
    let failed = |error| Error::io("read the archive", error);
    let status = file.metadata().map_err(failed)?;
    let mut scanned = Scanned::default();
    let mut tell = |name: &[u8], problem| {
        report(Finding {
            entry: quoted(name),
            problem,
        })
    };
    if !status.is_file() {
        tell(
            b"archive",
            Problem::WrongType {
                found: "something that is no regular file",
            },
        );
        return Ok(scanned);
    }
    let mut reader = Reader::new(FileRange {
        file,
        at: 0,
        end: status.len(),
    });
    let mut seen = HashSet::new();
    let mut count = 0;
    loop {
        let next = reader.next();
        let member = match next {
            Ok(Some(member)) => member,
            Ok(None) => break,
            Err((_, Stop::Io(error))) => return Err(failed(error)),
            // Where one header ends wrong, the place of the next is not known.
            Err((name, Stop::Bad(problem))) => {
                tell(&name, problem);
                return Ok(scanned);
            }
        };
        count += 1;
        if count > limits.entries {
            tell(
                &member.name,
                Problem::TooManyEntries {
                    limit: limits.entries,
                },
            );
            return Ok(scanned);
        }
        match judge(&member, limits, &mut seen, status.len()) {
            Ok(Some(name)) => {
                let location = Location {
                    offset: member.data_offset,
                    size: member.size,
                };
                scanned.entries.push((name, location));
            }
            Ok(None) => {}
            Err(problem) => {
                let cut = problem == Problem::Truncated;
                let place = format!("header at byte {}", member.header_offset);
                let name = if member.name.is_empty() {
                    place.as_bytes()
                } else {
                    &member.name
                };
                if !tell(name, problem) || cut {
                    return Ok(scanned);
                }
            }
        }
    }
    scanned.complete = true;
    let end = reader.position();
    if !only_zeros(file, end, status.len()).map_err(failed)? {
        tell(b"end of the archive", Problem::TrailingData);
    }
    Ok(scanned)
}

/// The name of a regular file, `None` for a directory.
fn judge(
    member: &Member,
    limits: &ReadLimits,
    seen: &mut HashSet<String>,
    length: u64,
) -> Result<Option<String>, Problem> {
    let name = std::str::from_utf8(&member.name).map_err(|_| Problem::UncleanName)?;
    let (kind, bare) = (member.kind(), name.strip_suffix('/').unwrap_or(name));
    if !matches!(kind, Kind::Regular | Kind::Directory) {
        return Err(Problem::WrongType { found: kind.word() });
    }
    if member.sparse_size.is_some() {
        return Err(Problem::WrongType {
            found: "sparse file",
        });
    }
    if !names::is_clean(bare) || (kind == Kind::Regular && bare != name) {
        return Err(Problem::UncleanName);
    }
    match kind {
        Kind::Regular if names::is_known_directory(bare) => {
            return Err(Problem::WrongType { found: kind.word() });
        }
        Kind::Directory if names::is_known_file(bare) => {
            return Err(Problem::WrongType { found: kind.word() });
        }
        Kind::Regular if !names::is_known_file(name) => return Err(Problem::UnknownName),
        Kind::Directory if !names::is_known_directory(bare) => return Err(Problem::UnknownName),
        _ => {}
    }
    if !seen.insert(bare.to_owned()) {
        return Err(Problem::Duplicate);
    }
    if member
        .data_offset
        .checked_add(member.size)
        .is_none_or(|end| end > length)
    {
        return Err(Problem::Truncated);
    }
    let limit = limits.bytes_of(name);
    if member.size > limit {
        return Err(Problem::TooLarge {
            size_bytes: member.size,
            limit_bytes: limit,
        });
    }
    Ok((kind == Kind::Regular).then(|| name.to_owned()))
}

fn only_zeros(file: &File, from: u64, to: u64) -> io::Result<bool> {
    if to.saturating_sub(from) > MAX_TRAILER {
        return Ok(false);
    }
    let mut buffer = vec![0_u8; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
    file.read_exact_at(&mut buffer, from)?;
    Ok(buffer.iter().all(|byte| *byte == 0))
}
