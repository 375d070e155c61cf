//! Reading single entries, and files with raw data between them.

use prost::Message;

use super::{LoadError, Loader, Strictness};
use crate::image::Entries;
use crate::names::ImageName;
use crate::{proto, wire};

impl Loader<'_> {
    /// Files whose entries are followed by raw data.
    pub(super) fn contents(
        &mut self,
        image: ImageName,
        entries: &mut Entries<'_>,
    ) -> Result<(), LoadError> {
        let message = image.message().unwrap_or_default();
        match image {
            ImageName::PipesData | ImageName::FifoData => {
                while let Some(entry) = self.next::<proto::PipeDataEntry>(message, entries)? {
                    entries.skip(entry.bytes.into())?;
                }
            }
            ImageName::SocketQueues => {
                while let Some(entry) = self.next::<proto::SkPacketEntry>(message, entries)? {
                    entries.skip(entry.length.into())?;
                    let rights = entry.scm.into_iter().flat_map(|scm| scm.rights);
                    self.images.rights_in_flight.extend(rights);
                }
            }
            ImageName::TcpStream(id) => {
                let entry: proto::TcpStreamEntry = self.first(message, entries)?;
                entries.skip(u64::from(entry.inq_len) + u64::from(entry.outq_len))?;
                self.images.tcp_streams.insert(id);
                self.end(entries)?;
            }
            ImageName::Ghost(id) => self.ghost(id, message, entries)?,
            ImageName::IpcShm(_) => {
                self.images.ipc_segments = self.many(message, entries, self.limits.max_files)?;
            }
            ImageName::IpcSem(_) => {
                while let Some(entry) = self.next::<proto::IpcSemEntry>(message, entries)? {
                    entries.skip((u64::from(entry.nsems) * 2).next_multiple_of(8))?;
                }
            }
            _ => {
                while let Some(queue) = self.next::<proto::IpcMsgEntry>(message, entries)? {
                    for _ in 0..queue.qnum {
                        let text: proto::IpcMsg = self.first("ipc_msg", entries)?;
                        entries.skip(u64::from(text.msize).next_multiple_of(8))?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A deleted file: whole content, chunks, or none.
    fn ghost(
        &mut self,
        id: u32,
        message: &str,
        entries: &mut Entries<'_>,
    ) -> Result<(), LoadError> {
        const FORMAT: u32 = 0o170_000;
        const REGULAR: u32 = 0o100_000;
        let entry: proto::GhostFileEntry = self.first(message, entries)?;
        let size = entry.size.unwrap_or(0);
        if entry.mode & FORMAT != REGULAR {
            self.end(entries)?;
        } else if entry.chunks == Some(true) {
            while let Some(chunk) =
                self.next::<proto::GhostChunkEntry>("ghost_chunk_entry", entries)?
            {
                if chunk
                    .off
                    .checked_add(chunk.len)
                    .is_none_or(|end| end > size)
                {
                    return Err(LoadError::Value(
                        "off",
                        format!("chunk ends after {size} bytes"),
                    ));
                }
                entries.skip(chunk.len)?;
            }
        } else {
            entries.skip_rest()?;
        }
        self.images.ghosts.insert(id, entry);
        Ok(())
    }

    /// The next entry, if any.
    pub(super) fn next<M: Message + Default>(
        &self,
        message: &str,
        entries: &mut Entries<'_>,
    ) -> Result<Option<M>, LoadError> {
        let Some(bytes) = entries.next()? else {
            return Ok(None);
        };
        if self.strictness == Strictness::Strict {
            wire::check(message, &bytes).map_err(LoadError::Field)?;
        }
        M::decode(bytes.as_slice())
            .map(Some)
            .map_err(|error| LoadError::Decode(error.to_string()))
    }

    /// An entry that must be there.
    pub(super) fn first<M: Message + Default>(
        &self,
        message: &str,
        entries: &mut Entries<'_>,
    ) -> Result<M, LoadError> {
        self.next(message, entries)?
            .ok_or_else(|| LoadError::Count(format!("holds no {message}")))
    }

    /// The only entry.
    pub(super) fn one<M: Message + Default>(
        &self,
        message: &str,
        entries: &mut Entries<'_>,
    ) -> Result<M, LoadError> {
        let entry = self.first(message, entries)?;
        self.end(entries)?;
        Ok(entry)
    }

    /// All entries, at most `limit`.
    pub(super) fn many<M: Message + Default>(
        &self,
        message: &str,
        entries: &mut Entries<'_>,
        limit: usize,
    ) -> Result<Vec<M>, LoadError> {
        let mut all = Vec::new();
        while let Some(entry) = self.next(message, entries)? {
            if all.len() >= limit {
                return Err(LoadError::Count(format!("more than {limit} entries")));
            }
            all.push(entry);
        }
        Ok(all)
    }

    /// The end of the file, when strict.
    pub(super) fn end(&self, entries: &mut Entries<'_>) -> Result<(), LoadError> {
        let rest = entries.skip_rest()?;
        if rest > 0 && self.strictness == Strictness::Strict {
            return Err(LoadError::Count(format!(
                "{rest} bytes after its last entry"
            )));
        }
        Ok(())
    }
}
