//! Capabilities: the default set, what a request adds and drops, and what this host can give.

use std::str::FromStr as _;

use oci_spec::runtime::{Capabilities, Capability, LinuxCapabilities};

use crate::error::Error;
use crate::model::{CapabilityChange, SecurityContext};

/// Names by number (capabilities(7), `linux/capability.h`), without `CAP_`.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// What a container has that asks for nothing: the set that every container engine gives.
const DEFAULT: [&str; 14] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "NET_RAW",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// All capabilities that have a name here.
const KNOWN: u64 = (1 << NAMES.len()) - 1;

/// The mask of one capability by its name, with or without `CAP_`; 0 for an unknown one.
#[must_use]
pub fn mask_of(name: &str) -> u64 {
    let short = name.strip_prefix("CAP_").unwrap_or(name);
    NAMES
        .iter()
        .position(|known| *known == short)
        .map_or(0, |bit| 1 << bit)
}

/// The five sets of a process as masks of capability numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CapabilitySets {
    /// Upper bound of what any execve(2) can give.
    pub bounding: u64,
    /// In force at start.
    pub effective: u64,
    /// What may be put in force.
    pub permitted: u64,
    /// Kept over execve(2) for files that ask for it; only what `ambient` needs, because more
    /// would let programs gain what their user has not (CVE-2022-24769).
    pub inheritable: u64,
    /// Kept over execve(2) by users other than root.
    pub ambient: u64,
}

impl CapabilitySets {
    /// What `security` asks for, cut to `host`, the bounding set of this daemon: asking the OCI
    /// runtime for more makes it fail.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a name to add that no kernel knows. Unknown names to drop are
    /// ignored: there is nothing to take away.
    pub fn of(security: &SecurityContext, host: u64) -> Result<Self, Error> {
        if security.privileged {
            let all = host & KNOWN;
            return Ok(Self {
                bounding: all,
                effective: all,
                permitted: all,
                ..Self::default()
            });
        }
        let change = &security.capabilities;
        let ambient = added("capabilities.add_ambient_capabilities", &change.add_ambient)?;
        let ambient = ambient & !dropped(change) & host;
        let bounding = (changed(change)? & host) | ambient;
        Ok(Self {
            bounding,
            effective: bounding,
            permitted: bounding,
            inheritable: ambient,
            ambient,
        })
    }

    /// Whether the bounding set holds the named capability; `CAP_` may be there or not.
    #[must_use]
    pub fn bounds(&self, name: &str) -> bool {
        bit(name).is_some_and(|bit| self.bounding & bit != 0)
    }

    /// As the OCI runtime wants it.
    #[must_use]
    pub fn to_oci(&self) -> LinuxCapabilities {
        let mut sets = LinuxCapabilities::default();
        sets.set_bounding(Some(set(self.bounding)))
            .set_effective(Some(set(self.effective)))
            .set_permitted(Some(set(self.permitted)))
            .set_inheritable(Some(set(self.inheritable)))
            .set_ambient(Some(set(self.ambient)));
        sets
    }
}

/// `ALL` comes first, so that `add: [ALL], drop: [NET_RAW]` and `drop: [ALL], add: [CHOWN]` both
/// mean what they say.
fn changed(change: &CapabilityChange) -> Result<u64, Error> {
    let mut mask = default_mask();
    if change.add.iter().any(|name| is_all(name)) {
        mask = KNOWN;
    }
    if change.drop.iter().any(|name| is_all(name)) {
        mask = 0;
    }
    mask |= added("capabilities.add_capabilities", &change.add)?;
    Ok(mask & !dropped(change))
}

fn default_mask() -> u64 {
    DEFAULT
        .iter()
        .filter_map(|name| bit(name))
        .fold(0, |mask, bit| mask | bit)
}

fn added(field: &str, names: &[String]) -> Result<u64, Error> {
    let mut mask = 0;
    for name in names.iter().filter(|name| !is_all(name)) {
        let known = bit(name).ok_or_else(|| {
            let problem = format!("{name:?} is no capability; see capabilities(7)");
            Error::invalid(field, problem)
        })?;
        mask |= known;
    }
    Ok(mask)
}

/// The names dropped one by one; `ALL` is not among them, since it does not undo what is added.
fn dropped(change: &CapabilityChange) -> u64 {
    change
        .drop
        .iter()
        .filter_map(|name| bit(name))
        .fold(0, |mask, bit| mask | bit)
}

fn is_all(name: &str) -> bool {
    name.eq_ignore_ascii_case("ALL")
}

fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES
        .iter()
        .position(|known| *known == plain)
        .map(|number| 1 << number)
}

fn set(mask: u64) -> Capabilities {
    NAMES
        .iter()
        .enumerate()
        .filter(|(number, _)| mask & (1 << number) != 0)
        .filter_map(|(_, name)| Capability::from_str(name).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This host's usual set: all but CAP_SYS_RESOURCE (24).
    const HOST: u64 = 0x0000_01ff_feff_ffff;
    /// The default set, as /proc/PID/status shows it on every engine.
    const DEFAULT_MASK: u64 = 0xa804_25fb;

    fn sets(add: &[&str], drop: &[&str], ambient: &[&str]) -> Result<CapabilitySets, Error> {
        let list = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        let security = SecurityContext {
            capabilities: CapabilityChange {
                add: list(add),
                drop: list(drop),
                add_ambient: list(ambient),
            },
            ..SecurityContext::default()
        };
        CapabilitySets::of(&security, HOST)
    }

    fn check(add: &[&str], drop: &[&str], bounding: u64) {
        let found = sets(add, drop, &[]).unwrap();
        let case = format!("add {add:?} drop {drop:?}: {:#x}", found.bounding);
        assert_eq!(found.bounding, bounding, "{case}");
        assert_eq!(
            (found.effective, found.permitted),
            (bounding, bounding),
            "{case}"
        );
        assert_eq!((found.inheritable, found.ambient), (0, 0), "{case}");
    }

    #[test]
    fn adding_and_dropping_follow_the_kubelets_meaning() {
        check(&[], &[], DEFAULT_MASK);
        check(&["NET_ADMIN"], &[], DEFAULT_MASK | 1 << 12);
        check(
            &["cap_net_admin"],
            &["CAP_CHOWN"],
            (DEFAULT_MASK | 1 << 12) & !1,
        );
        check(&[], &["ALL"], 0);
        check(&["CHOWN"], &["all"], 1);
        check(&["ALL"], &[], HOST);
        check(&["ALL"], &["NET_RAW"], HOST & !(1 << 13));
        check(&["CHOWN"], &["CHOWN"], DEFAULT_MASK & !1);
        check(&[], &["NO_SUCH"], DEFAULT_MASK);
    }

    #[test]
    fn nothing_goes_beyond_the_hosts_bounding_set() {
        check(&["SYS_RESOURCE"], &[], DEFAULT_MASK);
        let none = CapabilitySets::of(&SecurityContext::default(), 0).unwrap();
        assert_eq!(none, CapabilitySets::default());
        let privileged = SecurityContext {
            privileged: true,
            ..SecurityContext::default()
        };
        let all = CapabilitySets::of(&privileged, u64::MAX).unwrap();
        assert_eq!((all.bounding, all.ambient), (KNOWN, 0));
    }

    #[test]
    fn ambient_capabilities_are_in_every_set_that_they_need() {
        let found = sets(&[], &["ALL"], &["NET_BIND_SERVICE", "SYS_RESOURCE"]).unwrap();
        assert_eq!(found.ambient, 1 << 10);
        assert_eq!((found.inheritable, found.permitted), (1 << 10, 1 << 10));
        let dropped = sets(&[], &["NET_BIND_SERVICE"], &["NET_BIND_SERVICE"]).unwrap();
        assert_eq!(
            (dropped.ambient, dropped.bounding),
            (0, DEFAULT_MASK & !(1 << 10))
        );
    }

    #[test]
    fn an_unknown_capability_is_named() {
        for result in [sets(&["FLY"], &[], &[]), sets(&[], &[], &["FLY"])] {
            match result {
                Err(Error::Invalid { problem, .. }) => assert!(problem.contains("\"FLY\"")),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn every_name_is_known_to_the_runtime() {
        assert_eq!(set(u64::MAX).len(), NAMES.len());
        assert_eq!(default_mask(), DEFAULT_MASK);
        let sets = CapabilitySets {
            bounding: 1 << 21,
            ..CapabilitySets::default()
        };
        assert!(sets.bounds("CAP_SYS_ADMIN") && sets.bounds("SYS_ADMIN") && !sets.bounds("BPF"));
    }
}
