//! Edits of requests, field by field.

use prost::Message;

use super::RelayConfig;
use super::wire::{self, Field, Malformed, Value};
use crate::proto::{self, CriuOpts, CriuReqType};

/// Field numbers of `criu_req` and `criu_opts` that edits look at (`proto/criu/rpc.proto`).
mod number {
    pub(super) const REQ_TYPE: u64 = 1;
    pub(super) const REQ_OPTS: u64 = 2;
    pub(super) const IMAGES_DIR_FD: u64 = 1;
    pub(super) const WORK_DIR_FD: u64 = 17;
    pub(super) const EXT_MNT: u64 = 23;
    pub(super) const CG_ROOT: u64 = 25;
    pub(super) const EXTERNAL: u64 = 37;
    pub(super) const STATUS_FD: u64 = 49;
    pub(super) const CONFIG_FILE: u64 = 51;
    pub(super) const PIDFD_STORE_SK: u64 = 62;
    pub(super) const IMAGES_DIR: u64 = 68;
}

/// Numbers that a request names in the client process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct ClientNumbers {
    pub(super) images_dir: Option<i32>,
    pub(super) work_dir: Option<i32>,
    pub(super) status: Option<i32>,
    pub(super) pidfd_store: Option<i32>,
}

/// A request, taken apart.
#[derive(Debug)]
pub(super) struct Request<'a> {
    pub(super) kind: Option<CriuReqType>,
    /// Numbers in the client process.
    pub(super) numbers: ClientNumbers,
    others: Vec<&'a [u8]>,
    opts: Option<Vec<Field<'a>>>,
}

impl<'a> Request<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut this = Self {
            kind: None,
            numbers: ClientNumbers::default(),
            others: Vec::new(),
            opts: None,
        };
        for field in wire::fields(bytes)? {
            match (field.number, field.value) {
                // Parsers merge a message that comes twice.
                (number::REQ_OPTS, Value::Bytes(opts)) => {
                    this.opts
                        .get_or_insert_default()
                        .extend(wire::fields(opts)?);
                }
                (number::REQ_TYPE, Value::Varint(kind)) => {
                    this.kind = i32::try_from(kind)
                        .ok()
                        .and_then(|kind| kind.try_into().ok());
                    this.others.push(field.whole);
                }
                _ => this.others.push(field.whole),
            }
        }
        for field in this.opts.iter().flatten() {
            let Value::Varint(value) = field.value else {
                continue;
            };
            // An int32 is sent sign-extended; negative ones mean "none".
            let value = i32::try_from(value).ok();
            match field.number {
                number::IMAGES_DIR_FD => this.numbers.images_dir = value,
                number::WORK_DIR_FD => this.numbers.work_dir = value,
                number::STATUS_FD => this.numbers.status = value,
                number::PIDFD_STORE_SK => this.numbers.pidfd_store = value,
                _ => {}
            }
        }
        Ok(this)
    }

    /// Whether CRIU is to restore.
    pub(super) fn is_restore(&self) -> bool {
        self.kind == Some(CriuReqType::Restore)
    }

    /// The request with these numbers in place of the client's, and for a restore with the changes
    /// that `config` tells.
    pub(super) fn edited(&self, numbers: ClientNumbers, config: &RelayConfig) -> Vec<u8> {
        let mut out: Vec<u8> = self.others.concat();
        let Some(opts) = &self.opts else { return out };
        let mut change = CriuOpts {
            images_dir_fd: numbers.images_dir.unwrap_or(-1),
            work_dir_fd: numbers.work_dir,
            status_fd: numbers.status,
            pidfd_store_sk: numbers.pidfd_store,
            ..CriuOpts::default()
        };
        let mut dropped = Vec::new();
        if self.is_restore() {
            dropped = apply(config, &mut change);
        }
        let change = change.encode_to_vec();
        // Ours, encoded a moment ago.
        let change = wire::fields(&change).unwrap_or_default();
        let mut merged = Vec::new();
        for field in opts {
            let replaced = dropped.contains(&field.number)
                || change.iter().any(|change| replaces(change, field));
            if !replaced {
                merged.extend_from_slice(field.whole);
            }
        }
        merged.extend(change.iter().flat_map(|field| field.whole));
        wire::put_bytes(&mut out, number::REQ_OPTS, &merged);
        out
    }
}

/// Puts the configuration's changes into `change`; the numbers of fields to drop in any case.
fn apply(config: &RelayConfig, change: &mut CriuOpts) -> Vec<u64> {
    // What is in the file of the host, or of a pod's annotation, is not ours to pass on.
    let mut dropped = vec![number::CONFIG_FILE];
    if config.tcp_close {
        change.tcp_close = Some(true);
    }
    if config.file_locks {
        change.file_locks = Some(true);
    }
    if config.manage_cgroups_ignore {
        change.manage_cgroups = Some(false);
        change.manage_cgroups_mode = Some(proto::CriuCgMode::Ignore.into());
        dropped.push(number::CG_ROOT);
    }
    if config.images_dir.is_some() {
        dropped.push(number::IMAGES_DIR);
    }
    let bytes = |text: &String| text.clone().into_bytes();
    let path = |path: &std::path::PathBuf| path.clone().into_os_string().into_encoded_bytes();
    change.ext_mnt.extend(
        config
            .ext_mounts
            .iter()
            .map(|(key, val)| proto::ExtMountMap {
                key: bytes(key),
                val: bytes(val),
            }),
    );
    change.external.extend(config.external.iter().map(bytes));
    change.log_file = config.log_file.as_ref().map(bytes);
    change.log_level = config.log_level.map(i32::from);
    change.config_file = config.config_file.as_ref().map(path);
    change.lazy_pages = config.lazy_pages;
    change.evasive_devices = config.evasive_devices;
    dropped
}

/// Whether a field of the change takes the place of one of the request: scalars do, mounts by name.
fn replaces(change: &Field<'_>, field: &Field<'_>) -> bool {
    match (change.number, field.number) {
        (number::EXT_MNT, number::EXT_MNT) => {
            mount_key(change).is_some_and(|key| mount_key(field) == Some(key))
        }
        (number::EXT_MNT, number::EXTERNAL) => match (mount_key(change), field.value) {
            (Some(key), Value::Bytes(external)) => {
                let name = [b"mnt[", key.as_slice(), b"]:"].concat();
                external.starts_with(&name)
            }
            _ => false,
        },
        (number::EXTERNAL, number::EXTERNAL) => change.value == field.value,
        (number::EXTERNAL | number::EXT_MNT, _) => false,
        (a, b) => a == b,
    }
}

fn mount_key(field: &Field<'_>) -> Option<Vec<u8>> {
    let Value::Bytes(bytes) = field.value else {
        return None;
    };
    proto::ExtMountMap::decode(bytes)
        .ok()
        .map(|mount| mount.key)
}

#[cfg(test)]
mod tests;
