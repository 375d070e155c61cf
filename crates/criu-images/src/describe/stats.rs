//! `stats-dump`: what CRIU measured.

use std::time::Duration;

use prost::Message as _;
use serde::{Deserialize, Serialize};

use crate::image::{Entries, ImageError};
use crate::limits::Limits;
use crate::names::ImageName;
use crate::proto;

/// Measurements of one dump.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DumpStats {
    /// Until all tasks stood still.
    pub freezing: Duration,
    /// While they stood still, as CRIU saw it.
    pub frozen: Duration,
    /// Collecting pages.
    pub memory_dump: Duration,
    /// Writing pages.
    pub memory_write: Duration,
    /// Pages looked at.
    pub pages_scanned: u64,
    /// Pages written.
    pub pages_written: u64,
}

/// Why `stats-dump` could not be read.
#[derive(Debug, thiserror::Error)]
pub enum StatsError {
    /// Not an image of that kind.
    #[error("malformed stats-dump: {0}")]
    Malformed(String),
    /// It holds no measurements of a dump.
    #[error("stats-dump has no dump entry")]
    NoDump,
}

impl DumpStats {
    /// Reads the content of a `stats-dump` file.
    ///
    /// # Errors
    ///
    /// [`StatsError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, StatsError> {
        let malformed = |error: ImageError| StatsError::Malformed(error.to_string());
        let mut entries = Entries::open(Box::new(bytes), ImageName::StatsDump, &Limits::default())
            .map_err(malformed)?;
        let entry = entries
            .next()
            .map_err(malformed)?
            .ok_or(StatsError::NoDump)?;
        let entry = proto::StatsEntry::decode(entry.as_slice())
            .map_err(|error| StatsError::Malformed(error.to_string()))?;
        Self::new(&entry).ok_or(StatsError::NoDump)
    }

    pub(super) fn new(entry: &proto::StatsEntry) -> Option<Self> {
        let dump = entry.dump.as_ref()?;
        let micros = |value: u32| Duration::from_micros(value.into());
        Some(Self {
            freezing: micros(dump.freezing_time),
            frozen: micros(dump.frozen_time),
            memory_dump: micros(dump.memdump_time),
            memory_write: micros(dump.memwrite_time),
            pages_scanned: dump
                .pages_scanned
                .saturating_add(dump.shpages_scanned.unwrap_or(0)),
            pages_written: dump
                .pages_written
                .saturating_add(dump.shpages_written.unwrap_or(0)),
        })
    }
}
