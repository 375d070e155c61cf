//! Deletions, and device nodes, some of which are deletions.

use std::ffi::OsStr;
use std::hash::BuildHasher as _;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{Dir, OFlags};

use super::super::Dialect;
use super::super::paths::{join, open, parent_error};
use super::super::place::{self, Place};
use super::super::report::Devices;
use super::{Applier, WHITEOUT};
use crate::error::{Error, Problem};
use crate::format::Kind;
use crate::format::decode::Member;

/// Name that hides what the layers below have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

impl Applier<'_> {
    pub(super) fn device(
        &mut self,
        member: &Member,
        path: &[u8],
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), Error> {
        let whiteout = member.kind() == Kind::CharDevice && member.device == (0, 0);
        if whiteout && self.dialect == Dialect::Overlay {
            return self.delete(member, parent, name);
        }
        match self.limits.devices {
            Devices::Skip => {
                self.skip(path, "devices come from the container's request");
                Ok(())
            }
            Devices::Refuse => {
                let found = member.kind().word();
                Err(Error::invalid(&member.name, Problem::WrongType { found }))
            }
        }
    }

    pub(super) fn whiteout_entry(
        &mut self,
        member: &Member,
        parent: &[u8],
        name: &[u8],
    ) -> Result<(), Error> {
        if member.kind() != Kind::Regular || member.size != 0 {
            return Err(Error::invalid(&member.name, Problem::Whiteout));
        }
        if name == OPAQUE {
            return self.opaque(member, parent);
        }
        let deleted = name.strip_prefix(WHITEOUT).unwrap_or_default();
        if matches!(deleted, b"" | b"." | b"..") || deleted.starts_with(WHITEOUT) {
            return Err(Error::invalid(&member.name, Problem::Whiteout));
        }
        self.delete(member, parent, deleted)
    }

    /// Deletes `name`, which belongs to the layers below.
    fn delete(&mut self, member: &Member, parent: &[u8], name: &[u8]) -> Result<(), Error> {
        let path = join(parent, name);
        if self.made.contains(&self.hasher.hash_one(&path)) {
            return Err(Error::invalid(&member.name, Problem::Duplicate));
        }
        let dir = self.open_parent(parent, &member.name)?;
        self.clear(Place {
            dir: dir.as_fd(),
            name: OsStr::from_bytes(name),
            path: &path,
        })?;
        self.report.deleted += 1;
        Ok(())
    }

    /// Deletes everything in a directory that this tar has not made.
    fn opaque(&mut self, member: &Member, path: &[u8]) -> Result<(), Error> {
        let failed = |error: io::Error| place::failed(&member.name, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let dir =
            open(self.root, path, flags).map_err(|error| parent_error(&member.name, error))?;
        let mut names = Vec::new();
        for entry in Dir::read_from(&dir).map_err(|error| failed(error.into()))? {
            let entry = entry.map_err(|error| failed(error.into()))?;
            let name = entry.file_name().to_bytes();
            let made = || self.made.contains(&self.hasher.hash_one(join(path, name)));
            if name != b"." && name != b".." && !made() {
                names.push(name.to_vec());
            }
        }
        for name in names {
            let path = join(path, &name);
            self.clear(Place {
                dir: dir.as_fd(),
                name: OsStr::from_bytes(&name),
                path: &path,
            })?;
            self.report.deleted += 1;
        }
        Ok(())
    }
}
