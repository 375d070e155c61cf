//! Seccomp profiles of the OCI runtime specification, and what they allow at least.

use serde::{Deserialize, Deserializer, Serialize};

use super::arch::{Arch, Entry, IPC, SOCKETCALL};
use super::facts::Facts;

/// `linux.seccomp` of an OCI spec, as far as it decides what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompProfile {
    /// For calls that no rule matches.
    pub default_action: Action,
    /// Error of `SCMP_ACT_ERRNO` as default.
    #[serde(default)]
    pub default_errno_ret: Option<u32>,
    /// System call conventions that may be used; empty means the machine's own only.
    #[serde(default, deserialize_with = "or_default")]
    pub architectures: Vec<Arch>,
    /// Rules.
    #[serde(default, deserialize_with = "or_default")]
    pub syscalls: Vec<Rule>,
}

/// One rule: names, and what happens when the arguments match.
///
/// Where rules for one call contradict each other, runc and libseccomp 2.5 do this (seen in their
/// filters): rules that say what the default says are dropped; of those without conditions the
/// first counts, and then none with conditions does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Names of system calls.
    pub names: Vec<String>,
    /// What happens.
    pub action: Action,
    /// Error of `SCMP_ACT_ERRNO`.
    #[serde(default)]
    pub errno_ret: Option<u32>,
    /// Conditions, all of which must hold; where an argument is named twice, any.
    #[serde(default, deserialize_with = "or_default")]
    pub args: Vec<Condition>,
}

/// A condition on one argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Number of the argument, from 0.
    pub index: u8,
    /// What it is compared with; the mask of `SCMP_CMP_MASKED_EQ`.
    pub value: u64,
    /// What the masked argument is compared with.
    #[serde(default, deserialize_with = "or_default")]
    pub value_two: u64,
    /// How.
    pub op: Comparison,
}

/// Comparisons of an argument with a value, unsigned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Comparison {
    /// Not equal.
    #[serde(rename = "SCMP_CMP_NE")]
    NotEqual,
    /// Less.
    #[serde(rename = "SCMP_CMP_LT")]
    Less,
    /// Less or equal.
    #[serde(rename = "SCMP_CMP_LE")]
    AtMost,
    /// Equal.
    #[serde(rename = "SCMP_CMP_EQ")]
    Equal,
    /// Greater or equal.
    #[serde(rename = "SCMP_CMP_GE")]
    AtLeast,
    /// Greater.
    #[serde(rename = "SCMP_CMP_GT")]
    Greater,
    /// Equal under a mask.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEqual,
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Action {
    /// The call is made.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// It is made and logged.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// A tracer decides.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// A listener decides.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
    /// It fails.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// It raises SIGSYS.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// The thread is killed.
    #[serde(rename = "SCMP_ACT_KILL_THREAD", alias = "SCMP_ACT_KILL")]
    KillThread,
    /// The process is killed.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
}

/// Absent and `null` are the same in OCI specs.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// How much an outcome lets through; greater is more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    Denied,
    Delegated,
    Logged,
    Allowed,
}

impl Action {
    fn level(self) -> Level {
        match self {
            Self::Allow => Level::Allowed,
            Self::Log => Level::Logged,
            Self::Trace | Self::Notify => Level::Delegated,
            Self::Errno | Self::Trap | Self::KillThread | Self::KillProcess => Level::Denied,
        }
    }
}

impl SeccompProfile {
    /// Reads `linux.seccomp` of an OCI spec. Keys that decide nothing here are passed over.
    ///
    /// # Errors
    ///
    /// When it is not JSON of that form, or names an unknown action or comparison.
    pub fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(json)
    }

    /// The least that the profile lets through of every call `number` that fits `facts`.
    pub(crate) fn least(&self, entry: &Entry, number: u32, facts: &Facts) -> Level {
        let (arch, number) = entry.convention(number);
        let listed = self.architectures.contains(&arch)
            || arch == entry.first() && self.architectures.is_empty() && !entry.narrow;
        if !listed {
            return Level::Denied;
        }
        let names = arch.names(number);
        let level = self.least_of(names, facts);
        let behind = match (arch, names) {
            (Arch::X86, ["socketcall"]) => facts.exact(0).and_then(|call| {
                let index = usize::try_from(call).ok()?.checked_sub(1)?;
                SOCKETCALL.get(index).copied()
            }),
            (Arch::X86, ["ipc"]) => facts.exact(0).and_then(|call| {
                IPC.into_iter()
                    .find(|(number, _)| u64::from(*number) == call)
                    .map(|(_, name)| name)
            }),
            _ => None,
        };
        // libseccomp opens the multiplexer for each call behind it; the arguments lie elsewhere.
        match behind {
            Some(name) => level.max(self.least_of(&[name], &Facts::new(true))),
            None => level,
        }
    }

    fn least_of(&self, names: &[&str], facts: &Facts) -> Level {
        let rules: Vec<&Rule> = self
            .syscalls
            .iter()
            .filter(|rule| rule.names.iter().any(|name| names.contains(&name.as_str())))
            .filter(|rule| !self.is_default(rule))
            .collect();
        if let Some(rule) = rules.iter().find(|rule| rule.args.is_empty()) {
            return rule.action.level();
        }
        let mut level = self.default_action.level();
        for rule in &rules {
            if rule.action.level() > level && rule.matches_always(facts) {
                level = rule.action.level();
            }
        }
        for rule in &rules {
            if rule.action.level() < level && rule.may_match(facts) {
                level = rule.action.level();
            }
        }
        level
    }

    fn is_default(&self, rule: &Rule) -> bool {
        rule.action == self.default_action
            && (rule.action != Action::Errno || rule.errno_ret == self.default_errno_ret)
    }
}

impl Rule {
    /// The alternatives of conditions: runc makes one rule of each condition when an argument is
    /// named more than once.
    fn alternatives(&self) -> Vec<&[Condition]> {
        let twice = self.args.iter().enumerate().any(|(at, arg)| {
            self.args
                .iter()
                .skip(at + 1)
                .any(|other| other.index == arg.index)
        });
        if twice {
            self.args.chunks(1).collect()
        } else {
            vec![self.args.as_slice()]
        }
    }

    fn matches_always(&self, facts: &Facts) -> bool {
        self.alternatives()
            .iter()
            .any(|all| all.iter().all(|arg| facts.implies(arg)))
    }

    fn may_match(&self, facts: &Facts) -> bool {
        self.alternatives()
            .iter()
            .any(|all| !all.iter().any(|arg| facts.refutes(arg)))
    }
}
