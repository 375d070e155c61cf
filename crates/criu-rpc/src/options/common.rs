//! What dump and restore have in common, and how values become CRIU's.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::{CgroupMode, CpuCheck, NetworkLock};
use crate::Error;
use crate::proto::{self, CriuOpts};

/// What dump and restore have in common.
pub(super) struct Common<'a> {
    pub(super) images_dir: BorrowedFd<'a>,
    pub(super) work_dir: BorrowedFd<'a>,
    pub(super) root: Option<&'a Path>,
    pub(super) external: &'a [String],
    pub(super) ext_mounts: &'a [(String, String)],
    pub(super) ext_masters: bool,
    pub(super) ext_sharing: bool,
    pub(super) tcp_close: bool,
    pub(super) tcp_established: bool,
    pub(super) file_locks: bool,
    pub(super) orphan_pts_master: bool,
    pub(super) shell_job: bool,
    pub(super) cgroup_mode: CgroupMode,
    pub(super) cgroup_yard: Option<&'a Path>,
    pub(super) network_lock: NetworkLock,
    pub(super) empty_namespaces: u32,
    pub(super) cpu_check: CpuCheck,
    pub(super) log_level: u8,
    pub(super) log_file: &'a str,
    pub(super) config_file: Option<&'a Path>,
}

impl Common<'_> {
    pub(super) fn to_proto(&self) -> Result<CriuOpts, Error> {
        if self.log_level > 4 {
            return Err(refused("log_level", self.log_level));
        }
        if matches!(self.log_file, "" | "." | "..") || self.log_file.contains(['/', '\0']) {
            return Err(refused("log_file", format!("{:?}", self.log_file)));
        }
        let mut ext_mnt = Vec::new();
        for (key, val) in self.ext_mounts {
            let (key, val) = (c_bytes("ext_mounts", key)?, c_bytes("ext_mounts", val)?);
            ext_mnt.push(proto::ExtMountMap { key, val });
        }
        let mut external = Vec::new();
        for item in self.external {
            external.push(c_bytes("external", item)?);
        }
        Ok(CriuOpts {
            images_dir_fd: self.images_dir.as_raw_fd(),
            work_dir_fd: Some(self.work_dir.as_raw_fd()),
            root: path("root", self.root)?,
            external,
            ext_mnt,
            ext_masters: flag(self.ext_masters),
            ext_sharing: flag(self.ext_sharing),
            tcp_close: flag(self.tcp_close),
            tcp_established: flag(self.tcp_established),
            file_locks: flag(self.file_locks),
            orphan_pts_master: flag(self.orphan_pts_master),
            shell_job: flag(self.shell_job),
            manage_cgroups: Some(self.cgroup_mode != CgroupMode::Ignore),
            manage_cgroups_mode: Some(cgroup_mode(self.cgroup_mode).into()),
            cgroup_yard: path("cgroup_yard", self.cgroup_yard)?,
            network_lock: Some(network_lock(self.network_lock).into()),
            empty_ns: (self.empty_namespaces != 0).then_some(self.empty_namespaces),
            cpu_cap: cpu_cap(self.cpu_check),
            notify_scripts: Some(true),
            log_level: Some(self.log_level.into()),
            log_file: Some(self.log_file.as_bytes().to_vec()),
            config_file: path("config_file", self.config_file)?,
            ..CriuOpts::default()
        })
    }
}

fn cgroup_mode(mode: CgroupMode) -> proto::CriuCgMode {
    match mode {
        CgroupMode::Ignore => proto::CriuCgMode::Ignore,
        CgroupMode::None => proto::CriuCgMode::CgNone,
        CgroupMode::Props => proto::CriuCgMode::Props,
        CgroupMode::Soft => proto::CriuCgMode::Soft,
        CgroupMode::Full => proto::CriuCgMode::Full,
        CgroupMode::Strict => proto::CriuCgMode::Strict,
    }
}

fn network_lock(lock: NetworkLock) -> proto::CriuNetworkLockMethod {
    match lock {
        NetworkLock::Iptables => proto::CriuNetworkLockMethod::Iptables,
        NetworkLock::Nftables => proto::CriuNetworkLockMethod::Nftables,
        NetworkLock::Skip => proto::CriuNetworkLockMethod::Skip,
    }
}

/// CRIU's bits: 1 FPU, 2 CPU, 4 instructions.
fn cpu_cap(check: CpuCheck) -> Option<u32> {
    match check {
        CpuCheck::Default => None,
        CpuCheck::None => Some(0),
        CpuCheck::Instructions => Some(1 | 4),
        CpuCheck::Cpu => Some(1 | 2),
    }
}

/// What is false by default is not sent, so that an older CRIU need not know it.
pub(super) fn flag(on: bool) -> Option<bool> {
    on.then_some(true)
}

pub(super) fn refused(option: &'static str, value: impl ToString) -> Error {
    Error::Option {
        option,
        value: value.to_string(),
    }
}

pub(super) fn c_bytes(
    option: &'static str,
    value: &(impl AsRef<OsStr> + ?Sized),
) -> Result<Vec<u8>, Error> {
    let bytes = value.as_ref().as_bytes();
    if bytes.contains(&0) {
        return Err(refused(option, format!("{:?}", value.as_ref())));
    }
    Ok(bytes.to_vec())
}

pub(super) fn path(option: &'static str, value: Option<&Path>) -> Result<Option<Vec<u8>>, Error> {
    value.map(|value| c_bytes(option, value)).transpose()
}

pub(super) fn text(option: &'static str, value: Option<&str>) -> Result<Option<Vec<u8>>, Error> {
    value.map(|value| c_bytes(option, value)).transpose()
}
