//! What the labels of an archive mean on this node.
//!
//! An image has a label's name and not its mode: `crun` may be a profile with rules on one node, a
//! name without any on the next, and nothing at all on a third.
//!
//! ```text
//!  label   = part *("//&" part)        a stack: all of its parts confine
//!  part    = name | ":" namespace ":" ["//"] name
//!  name    = profile *("//" child)     a child is a profile of its own, and listed as one
//! ```

use std::collections::BTreeMap;

/// Modes without force: `unconfined` has no rules, `complain` only reports
/// (`security/apparmor/include/policy.h`).
const WITHOUT_FORCE: [&str; 2] = ["unconfined", "complain"];

/// Whether a profile in this mode confines.
pub(super) fn confines(mode: &str) -> bool {
    !WITHOUT_FORCE.contains(&mode)
}

/// Profiles by name from lines `NAME (MODE)`; others are passed over. A name may have blanks.
pub(super) fn parse(list: &str) -> BTreeMap<String, String> {
    list.lines()
        .filter_map(|line| {
            let (name, mode) = line.strip_suffix(')')?.rsplit_once(" (")?;
            Some((plain(name), mode.to_owned()))
        })
        .collect()
}

/// One way of writing a name below a namespace of policy; there are two.
fn plain(name: &str) -> String {
    let inner = name.strip_prefix(':').and_then(|rest| rest.split_once(':'));
    match inner {
        Some((namespace, rest)) => {
            format!(":{namespace}:{}", rest.strip_prefix("//").unwrap_or(rest))
        }
        None => name.to_owned(),
    }
}

/// The security labels that mean something here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Labels {
    /// AppArmor's profiles with their modes; `None` when it is on and they cannot be read.
    pub(super) profiles: Option<BTreeMap<String, String>>,
    /// Whether SELinux is on; its policy names too many contexts to list.
    pub(super) selinux: bool,
}

impl Labels {
    /// Those of a node with this list of profiles.
    #[cfg(test)]
    pub(crate) fn of(list: &str) -> Self {
        Self {
            profiles: Some(parse(list)),
            selinux: false,
        }
    }

    /// Whether a label of an archive is to be held against the request: one that confines here, or
    /// of which this cannot be told.
    pub(crate) fn held(&self, label: &[u8]) -> bool {
        if self.selinux {
            return true;
        }
        let (Some(profiles), Ok(label)) = (&self.profiles, std::str::from_utf8(label)) else {
            return true;
        };
        label.split("//&").any(|part| {
            profiles
                .get(&plain(part))
                .is_some_and(|mode| confines(mode))
        })
    }

    /// The label without the parts that confine nothing here: a kernel may stack a profile on
    /// `unconfined` when a process takes it, and the stack is no more than the profile.
    pub(crate) fn is_no_more_than(&self, label: &[u8], granted: &str) -> bool {
        let Ok(label) = std::str::from_utf8(label) else {
            return false;
        };
        let mut forceful = label.split("//&").filter(|part| self.held(part.as_bytes()));
        forceful.next() == Some(granted) && forceful.next().is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "\
crun (unconfined)
busybox (unconfined)
mine (enforce)
mine//hat (enforce)
learning (complain)
/usr/bin/man (enforce)
profile with blanks (enforce)
fatal (kill)
asking (prompt)
:box://inner (enforce)
not a profile
";

    fn labels(selinux: bool) -> Labels {
        Labels {
            profiles: Some(parse(LIST)),
            selinux,
        }
    }

    #[test]
    fn a_label_is_held_when_it_confines_here() {
        let here = labels(false);
        for held in [
            "mine",
            "mine//hat",
            "/usr/bin/man",
            "profile with blanks",
            "fatal",
            "asking",
            ":box:inner",
            ":box://inner",
            "mine//&crun",
            "unconfined//&mine",
            "elsewhere//&mine",
        ] {
            assert!(here.held(held.as_bytes()), "{held}");
        }
        for other in [
            "crun",
            "busybox",
            "unconfined",
            "learning",
            "elsewhere",
            "mine//null-/bin/sh",
            "crun//&busybox",
            ":other:inner",
            "inner",
            "system_u:system_r:container_t:s0:c1,c2",
            "",
            "profile",
        ] {
            assert!(!here.held(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_held() {
        let unread = Labels {
            profiles: None,
            selinux: false,
        };
        assert!(unread.held(b"crun"));
        assert!(labels(false).held(b"\xff"));
        assert!(labels(true).held(b"system_u:system_r:container_t:s0"));
    }

    #[test]
    fn a_stack_is_its_parts_that_confine() {
        let here = labels(false);
        for label in ["mine", "mine//&unconfined", "crun//&mine"] {
            assert!(here.is_no_more_than(label.as_bytes(), "mine"), "{label}");
        }
        for label in ["mine//&fatal", "mine//hat", "fatal", "crun", ""] {
            assert!(!here.is_no_more_than(label.as_bytes(), "mine"), "{label}");
        }
    }
}
