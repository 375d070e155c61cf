//! Seccomp profiles: thawd's default one, and those that nodes bring (`Localhost`).
//!
//! Both are JSON as in the OCI runtime specification (config-linux, "Seccomp"), with what other
//! engines' profile files add to it: `archMap` in place of `architectures`, and rules that hold
//! only with certain capabilities, on certain machines, or from a kernel on:
//!
//! ```text
//! {"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
//!  "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]}],
//!  "syscalls": [{"names": ["chroot"], "action": "SCMP_ACT_ALLOW",
//!                "includes": {"caps": ["CAP_SYS_CHROOT"], "arches": ["amd64"], "minKernel": "4.8"},
//!                "excludes": {"caps": []}}]}
//! ```
//!
//! The result holds no such condition: they are decided here, for the container's capabilities.
//!
//! The default profile (`seccomp_default.json`) allows what is of use without privilege and refuses
//! the rest with EPERM. io_uring and memfd_secret get ENOSYS: CRIU cannot dump them, and programs
//! that find them missing do without.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompFilterFlag,
    LinuxSeccompOperator, LinuxSyscall,
};
use serde::Deserialize;
use std::path::PathBuf;

use super::caps::CapabilitySets;
use super::host::HostFacts;
use crate::error::Error;

/// thawd's own profile.
const DEFAULT: &[u8] = include_bytes!("../seccomp_default.json");

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    default_action: LinuxSeccompAction,
    default_errno_ret: Option<u32>,
    #[serde(default)]
    architectures: Option<Vec<Arch>>,
    #[serde(default)]
    arch_map: Option<Vec<ArchMap>>,
    #[serde(default)]
    flags: Option<Vec<LinuxSeccompFilterFlag>>,
    listener_path: Option<PathBuf>,
    listener_metadata: Option<String>,
    #[serde(default)]
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchMap {
    architecture: Arch,
    #[serde(default)]
    sub_architectures: Option<Vec<Arch>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    #[serde(default)]
    names: Option<Vec<String>>,
    name: Option<String>,
    action: LinuxSeccompAction,
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<Argument>>,
    #[serde(default)]
    includes: Option<Condition>,
    #[serde(default)]
    excludes: Option<Condition>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Argument {
    index: usize,
    #[serde(default)]
    value: u64,
    #[serde(default)]
    value_two: u64,
    op: LinuxSeccompOperator,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Condition {
    #[serde(default)]
    caps: Option<Vec<String>>,
    #[serde(default)]
    arches: Option<Vec<String>>,
    min_kernel: Option<String>,
}

/// The default profile for a container with these capabilities on this host.
///
/// # Errors
///
/// [`Error::Invalid`] never in a build whose tests passed: the profile is part of the program.
pub fn runtime_default(caps: &CapabilitySets, host: &HostFacts) -> Result<LinuxSeccomp, Error> {
    parse("the default seccomp profile", DEFAULT, caps, host)
}

/// A profile file's bytes for a container with these capabilities on this host.
///
/// # Errors
///
/// [`Error::Invalid`] naming `origin` when the bytes are no profile, or a rule names no system
/// call or has an argument beyond the sixth.
pub fn parse(
    origin: &str,
    bytes: &[u8],
    caps: &CapabilitySets,
    host: &HostFacts,
) -> Result<LinuxSeccomp, Error> {
    let invalid = |problem: String| Error::invalid("seccomp", format!("{origin}: {problem}"));
    let profile: Profile =
        serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
    let mut rules = Vec::new();
    for rule in profile.syscalls.unwrap_or_default() {
        let applies = rule
            .includes
            .as_ref()
            .is_none_or(|wanted| wanted.included(caps, host))
            && rule
                .excludes
                .as_ref()
                .is_none_or(|unwanted| !unwanted.excluded(caps, host));
        if applies {
            rules.push(rule.resolved().map_err(&invalid)?);
        }
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(profile.default_action)
        .set_default_errno_ret(profile.default_errno_ret)
        .set_architectures(architectures(profile.architectures, profile.arch_map, host))
        .set_flags(profile.flags.filter(|flags| !flags.is_empty()))
        .set_listener_path(profile.listener_path)
        .set_listener_metadata(profile.listener_metadata)
        .set_syscalls((!rules.is_empty()).then_some(rules));
    Ok(seccomp)
}

/// `None` leaves the choice to the OCI runtime: its own architecture.
fn architectures(
    plain: Option<Vec<Arch>>,
    map: Option<Vec<ArchMap>>,
    host: &HostFacts,
) -> Option<Vec<Arch>> {
    if let Some(plain) = plain.filter(|list| !list.is_empty()) {
        return Some(plain);
    }
    let native = native_arch(&host.machine)?;
    let entry = map?
        .into_iter()
        .find(|entry| entry.architecture == native)?;
    let mut all = vec![native];
    all.extend(entry.sub_architectures.unwrap_or_default());
    Some(all)
}

fn native_arch(machine: &str) -> Option<Arch> {
    match machine {
        "x86_64" => Some(Arch::ScmpArchX86_64),
        "aarch64" => Some(Arch::ScmpArchAarch64),
        _ => None,
    }
}

/// The name that profile files use for the machine that uname(2) tells.
fn profile_arch(machine: &str) -> &str {
    match machine {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

impl Condition {
    /// All capabilities are there, the machine is one of the list, the kernel is new enough.
    fn included(&self, caps: &CapabilitySets, host: &HostFacts) -> bool {
        let arches = self.arches.as_deref().unwrap_or_default();
        self.caps.iter().flatten().all(|name| caps.bounds(name))
            && (arches.is_empty()
                || arches
                    .iter()
                    .any(|arch| arch == profile_arch(&host.machine)))
            && self
                .min_kernel
                .as_deref()
                .is_none_or(|wanted| kernel_is(host, wanted))
    }

    /// One of the capabilities is there, or the machine is one of the list, or the kernel is as
    /// new as said.
    fn excluded(&self, caps: &CapabilitySets, host: &HostFacts) -> bool {
        self.caps.iter().flatten().any(|name| caps.bounds(name))
            || self
                .arches
                .iter()
                .flatten()
                .any(|arch| arch == profile_arch(&host.machine))
            || self
                .min_kernel
                .as_deref()
                .is_some_and(|wanted| kernel_is(host, wanted))
    }
}

fn kernel_is(host: &HostFacts, wanted: &str) -> bool {
    sys::sysinfo::kernel_version(wanted).is_some_and(|wanted| host.kernel >= wanted)
}

impl Rule {
    fn resolved(self) -> Result<LinuxSyscall, String> {
        let mut names = self.names.unwrap_or_default();
        names.extend(self.name);
        if names.is_empty() || names.iter().any(String::is_empty) {
            return Err("a rule without a system call's name".to_owned());
        }
        let mut args = Vec::new();
        for argument in self.args.unwrap_or_default() {
            if argument.index > 5 {
                return Err(format!("{names:?}: argument {} of six", argument.index));
            }
            let arg = LinuxSeccompArgBuilder::default()
                .index(argument.index)
                .value(argument.value)
                .value_two(argument.value_two)
                .op(argument.op)
                .build()
                .map_err(|error| error.to_string())?;
            args.push(arg);
        }
        let mut syscall = LinuxSyscall::default();
        syscall
            .set_names(names)
            .set_action(self.action)
            .set_errno_ret(self.errno_ret)
            .set_args((!args.is_empty()).then_some(args));
        Ok(syscall)
    }
}
