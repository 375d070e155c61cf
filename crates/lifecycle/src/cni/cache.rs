//! What is remembered of an attachment: `<cache dir>/<id>-<ifname>.json`, mode 0600.
//!
//! ```text
//! {"version": 1, "id": "..", "ifname": "eth0", "config": {the network's file},
//!  "arguments": {"portMappings": [..]}, "result": null | {result of ADD}}
//! ```
//!
//! `result` is null from before the first plugin runs until the last one has succeeded.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::config::is_name;
use super::{CniError, PodNetwork};

/// The only version so far.
const VERSION: u32 = 1;

/// Largest cache file, in bytes: a configuration, a result, and the ports.
const MAX_FILE_BYTES: u64 = 8 << 20;

/// One attachment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    pub(super) id: String,
    pub(super) ifname: String,
    pub(super) config: Value,
    pub(super) arguments: Map<String, Value>,
    pub(super) result: Option<Value>,
}

impl Record {
    pub(super) fn new(pod: &PodNetwork, config: Value, arguments: Map<String, Value>) -> Self {
        Self {
            version: VERSION,
            id: pod.id.clone(),
            ifname: pod.ifname.clone(),
            config,
            arguments,
            result: None,
        }
    }

    pub(super) fn write(&self, pod: &PodNetwork) -> Result<(), CniError> {
        let path = path(pod)?;
        let io = |source| CniError::Io {
            action: "write network record",
            path: path.clone(),
            source,
        };
        sys::fs::make_dir_all(&pod.cache_dir, 0o700).map_err(io)?;
        let bytes = serde_json::to_vec(self).map_err(|error| io(io::Error::other(error)))?;
        sys::fs::replace_path(&path, 0o600, &bytes).map_err(io)
    }
}

/// Whether anything is remembered of the pod.
pub(super) fn exists(pod: &PodNetwork) -> Result<bool, CniError> {
    Ok(path(pod)?.exists())
}

/// The pod's record; `None` when nothing is remembered, [`CniError::Io`] with `InvalidData` when
/// what is remembered is not understood.
pub(super) fn read(pod: &PodNetwork) -> Result<Option<Record>, CniError> {
    let path = path(pod)?;
    let read = || -> io::Result<Record> {
        let mut bytes = Vec::new();
        File::open(&path)?
            .take(MAX_FILE_BYTES)
            .read_to_end(&mut bytes)?;
        let record: Record = serde_json::from_slice(&bytes)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        if record.version != VERSION || record.id != pod.id || record.ifname != pod.ifname {
            let problem = format!(
                "version {} for {} {}; wanted is version {VERSION}",
                record.version, record.id, record.ifname
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        Ok(record)
    };
    match read() {
        Ok(record) => Ok(Some(record)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CniError::Io {
            action: "read network record",
            path,
            source,
        }),
    }
}

/// Forgets the pod; absent is fine.
pub(super) fn remove(pod: &PodNetwork) -> Result<(), CniError> {
    let path = path(pod)?;
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CniError::Io {
            action: "remove network record",
            path,
            source,
        }),
        _ => Ok(()),
    }
}

/// Both parts are checked, so that the name cannot leave the directory.
fn path(pod: &PodNetwork) -> Result<PathBuf, CniError> {
    for (field, value) in [("sandbox id", &pod.id), ("interface name", &pod.ifname)] {
        if !is_name(value) {
            return Err(CniError::Pod {
                field,
                value: value.clone(),
            });
        }
    }
    Ok(pod
        .cache_dir
        .join(format!("{}-{}.json", pod.id, pod.ifname)))
}
