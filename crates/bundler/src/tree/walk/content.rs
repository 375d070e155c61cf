//! Content of regular files.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, Write};
use std::os::fd::OwnedFd;

use rustix::fs::OFlags;

use super::super::sparse;
use super::{TreeWriter, is_mount_point, reading, writing};
use crate::error::Error;
use crate::format::encode::Header;
use crate::format::{BLOCK, round_up};

impl<W: Write> TreeWriter<W> {
    /// Writes a regular file with its content.
    pub(super) fn content(
        &mut self,
        dir: &OwnedFd,
        name: &OsStr,
        path: &[u8],
        mut header: Header<'_>,
    ) -> Result<(), Error> {
        let failed = |error| reading(path, error);
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOATIME;
        let file = match sys::fs::open_beneath_same_mount(dir, name.as_ref(), flags) {
            Ok(file) => file,
            // Something is mounted over a file, as kubelets do with /dev/termination-log: its
            // content is not this tree's, but the mount needs a file to go to.
            Err(error) if is_mount_point(&error) => {
                return self.mounted_file(path);
            }
            Err(error) => return Err(failed(error)),
        };
        let mut file = File::from(file);
        let status = rustix::fs::fstat(&file).map_err(|error| failed(error.into()))?;
        let size = u64::try_from(status.st_size).unwrap_or(0);
        let stored = u64::try_from(status.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512);
        let Some(segments) = sparse::segments(&file, size, stored).map_err(failed)? else {
            header.size = size;
            self.put(&header, path)?;
            file.rewind().map_err(failed)?;
            self.data(&mut file, size, path)?;
            return self.pad(size, path);
        };
        let map = sparse::encode(&segments);
        let data: u64 = segments.iter().map(|(_, length)| length).sum();
        let map_bytes = u64::try_from(map.len()).unwrap_or(0);
        header.size = map_bytes + data;
        header.name = b"GNUSparseFile.0/data";
        for (key, value) in [
            (&b"GNU.sparse.major"[..], b"1".to_vec()),
            (b"GNU.sparse.minor", b"0".to_vec()),
            (b"GNU.sparse.name", path.to_vec()),
            (b"GNU.sparse.realsize", size.to_string().into_bytes()),
        ] {
            header.records.push((key.to_vec(), value));
        }
        self.put(&header, path)?;
        self.out
            .write_all(&map)
            .map_err(|error| writing(path, error))?;
        for (offset, length) in segments {
            file.seek(io::SeekFrom::Start(offset)).map_err(failed)?;
            self.data(&mut file, length, path)?;
        }
        self.pad(data, path)
    }

    /// Copies exactly `length` bytes; a file that became shorter is filled up with zeros.
    fn data(&mut self, file: &mut File, length: u64, path: &[u8]) -> Result<(), Error> {
        let copied = copy(&mut file.take(length), &mut self.out, path)?;
        copy(
            &mut io::repeat(0).take(length - copied),
            &mut self.out,
            path,
        )?;
        self.report.bytes += length;
        Ok(())
    }

    fn pad(&mut self, length: u64, path: &[u8]) -> Result<(), Error> {
        let padding = usize::try_from(round_up(length, BLOCK) - length).unwrap_or(0);
        self.out
            .write_all(&vec![0; padding])
            .map_err(|error| writing(path, error))
    }
}

/// Copies to the end, telling failures of the two sides apart.
fn copy(from: &mut impl io::Read, to: &mut impl Write, path: &[u8]) -> Result<u64, Error> {
    let mut buffer = vec![0_u8; 128 << 10];
    let mut copied = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(read) => {
                let part = buffer.get(..read).unwrap_or_default();
                to.write_all(part).map_err(|error| writing(path, error))?;
                copied += u64::try_from(read).unwrap_or(0);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(reading(path, error)),
        }
    }
}
