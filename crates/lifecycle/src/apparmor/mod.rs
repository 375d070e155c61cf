//! AppArmor on this node: the profile that a container gets, and the one that thawd brings.
//!
//! ```text
//!  request asks for   privileged   on                              hidden            off
//!  Unconfined         either       none                            none              none
//!  nothing            no           thawd-default, or refused: why  none              none
//!  RuntimeDefault     no           thawd-default, or refused: why  refused: why      none
//!  both of these      yes          none                            none              none
//!  Localhost NAME     either       NAME, or refused: not loaded    refused: why      refused
//! ```
//!
//! On is a kernel with AppArmor whose securityfs is mounted, which is what runc, CRIU and the kubelet
//! look at. Without that mount, as in most containers, it is hidden: nobody can load or give a
//! profile there, so who asks for one is refused, and who asks for nothing is as on a node without
//! AppArmor; thawd says so when it starts, and in its status. Whether the tools are there does not
//! count: a node that has AppArmor and cannot load the profile refuses, and does not run the
//! container without it.
//!
//! As the kubelet has it, who asks for nothing means the default (kubernetes#51746); privileged
//! containers do not have it, and have a profile that they name, as in containerd
//! (`internal/cri/sputil/apparmor_linux.go`).
//!
//! The profile is loaded when thawd starts, whatever version is there, and again when it is missed
//! at the creation of a container or the start of a restored one.

mod labels;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sys::process::{Command, Deadline, OutputLimits};

pub(crate) use labels::Labels;

use crate::error::{Error, chain};
use crate::model::{SecurityContext, SecurityProfile};
use crate::runtimes::find_program;

/// Name of the profile that thawd brings.
pub(crate) const DEFAULT: &str = "thawd-default";

/// Its text; the line that is [`NEWER_MARK`] stands for [`NEWER`].
const PROFILE: &str = include_str!("thawd-default.profile");
const NEWER_MARK: &str = "@NEWER@\n";
/// Rules that parsers know from version 4 on. Older ones cannot close what they are about, so what
/// a container may do is the same.
const NEWER: &str = "  userns,\n  mqueue,\n  io_uring,\n";

/// Time for one call of the parser. It takes well below a second, and under an emulator ten.
const PATIENCE: Duration = Duration::from_secs(30);

const LIMITS: OutputLimits = OutputLimits {
    max_stdout_bytes: 64 << 10,
    max_stderr_bytes: 4096,
};

/// Largest list of profiles that is read, in bytes.
const LIST_BYTES: u64 = 16 << 20;

/// Where things are; tests put others in their place.
#[derive(Debug, Clone)]
struct Places {
    /// `Y` when AppArmor is on (`security/apparmor/lsm.c`, module parameter `enabled`).
    enabled: PathBuf,
    /// One line `NAME (MODE)` a profile (`security/apparmor/apparmorfs.c`).
    profiles: PathBuf,
    /// apparmor_parser(8).
    parser: PathBuf,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            enabled: "/sys/module/apparmor/parameters/enabled".into(),
            profiles: "/sys/kernel/security/apparmor/profiles".into(),
            parser: "apparmor_parser".into(),
        }
    }
}

/// Whether there is AppArmor; see the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Presence {
    On,
    Hidden,
    Off,
}

/// What is wrong where it is hidden.
const HIDDEN: &str =
    "the kernel has AppArmor on, and securityfs is not there: mount it at /sys/kernel/security";

/// AppArmor of this node.
#[derive(Debug)]
pub(crate) struct AppArmor {
    places: Places,
    /// Why the default profile could not be loaded the last time. Who loads holds it.
    problem: Mutex<Option<String>>,
}

impl AppArmor {
    /// This node's; looks at nothing yet.
    pub(crate) fn new() -> Self {
        Self::at(Places::default())
    }

    fn at(places: Places) -> Self {
        Self {
            places,
            problem: Mutex::default(),
        }
    }

    fn presence(&self) -> Presence {
        let enabled = std::fs::read_to_string(&self.places.enabled);
        match enabled.is_ok_and(|text| text.starts_with('Y')) {
            false => Presence::Off,
            true if self.places.profiles.exists() => Presence::On,
            true => Presence::Hidden,
        }
    }

    /// The profile of a container; `None` for none. Loads thawd's own where that is the answer and
    /// it is not there; bounded by [`PATIENCE`] a call of the parser.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for a profile by name on a host without AppArmor; [`Error::Precondition`]
    /// where AppArmor is hidden, for a profile that is not loaded, and for thawd's own when it
    /// cannot be; each with the reason.
    pub(crate) fn profile_for(&self, security: &SecurityContext) -> Result<Option<String>, Error> {
        let privileged = security.privileged;
        match (&security.apparmor, self.presence()) {
            (Some(SecurityProfile::Unconfined), _) => Ok(None),
            (Some(SecurityProfile::Localhost(name)), presence) => {
                self.named(name, presence).map(Some)
            }
            (None | Some(SecurityProfile::RuntimeDefault), _) if privileged => Ok(None),
            (None, Presence::Off | Presence::Hidden)
            | (Some(SecurityProfile::RuntimeDefault), Presence::Off) => Ok(None),
            (None | Some(SecurityProfile::RuntimeDefault), _) => {
                self.ensure_default()?;
                Ok(Some(DEFAULT.to_owned()))
            }
        }
    }

    fn named(&self, name: &str, presence: Presence) -> Result<String, Error> {
        match presence {
            Presence::On => {}
            Presence::Hidden => {
                let problem = format!("apparmor: profile {name:?} is asked for, and {HIDDEN}");
                return Err(Error::Precondition(problem));
            }
            Presence::Off => {
                let problem =
                    format!("profile {name:?} is asked for, and this host has no AppArmor");
                return Err(Error::invalid("apparmor", problem));
            }
        }
        self.ensure(name)?;
        // Whether a stack or a namespace of policy is there is the kernel's to say, and the OCI
        // runtime reports it; so it is where the list cannot be read.
        let plain = !name.contains("//&") && !name.starts_with(':');
        let missing = plain && self.list().is_ok_and(|list| !list.contains_key(name));
        if missing {
            return Err(Error::Precondition(format!(
                "apparmor: profile {name:?} is not loaded on this node: load it with apparmor_parser"
            )));
        }
        Ok(name.to_owned())
    }

    /// Makes sure that a profile which a container was made with is there, as far as it is thawd's.
    ///
    /// # Errors
    ///
    /// As [`AppArmor::profile_for`].
    pub(crate) fn ensure(&self, profile: &str) -> Result<(), Error> {
        if profile == DEFAULT {
            self.ensure_default()?;
        }
        Ok(())
    }

    fn ensure_default(&self) -> Result<(), Error> {
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        if self.default_confines() {
            return Ok(());
        }
        *problem = self.load().err();
        match &*problem {
            None => Ok(()),
            Some(reason) => Err(Error::Precondition(format!(
                "apparmor: this node cannot load the default profile {DEFAULT}: {reason}; \
                 or have the container ask for Unconfined"
            ))),
        }
    }

    /// Loads the default profile, also in the place of another version. Where AppArmor is off, does
    /// nothing.
    pub(crate) fn start(&self) {
        match self.presence() {
            Presence::On => {}
            Presence::Hidden => {
                tracing::warn!("no container is confined by AppArmor: {HIDDEN}");
                return;
            }
            Presence::Off => return,
        }
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        *problem = self.load().err();
        match &*problem {
            None => tracing::info!(profile = DEFAULT, "default AppArmor profile loaded"),
            Some(reason) => tracing::warn!(
                profile = DEFAULT,
                reason,
                "containers that need the default AppArmor profile will be refused"
            ),
        }
    }

    /// Whether it is there and in force: somebody may have set it to complain.
    fn default_confines(&self) -> bool {
        self.list()
            .is_ok_and(|list| list.get(DEFAULT).is_some_and(|mode| labels::confines(mode)))
    }

    fn load(&self) -> Result<(), String> {
        if self.presence() == Presence::Hidden {
            return Err(HIDDEN.to_owned());
        }
        let program = find_program(&self.places.parser).ok_or_else(|| {
            let name = self.places.parser.display();
            format!("{name} was not found: install the package apparmor")
        })?;
        let deadline = Deadline::after(PATIENCE);
        let run = |arguments: &[&str], stdin: &[u8]| {
            let output = Command::new(&program)
                .args(arguments)
                .output(stdin, LIMITS, deadline)
                .map_err(|error| chain(&error))?;
            if output.status.success() {
                return Ok(output.stdout);
            }
            let words = String::from_utf8_lossy(&output.stderr_tail);
            let name = program.display();
            let code = output.status.code_or_128_plus_signal();
            Err(format!(
                "{name} ended with exit code {code}: {}",
                words.trim()
            ))
        };
        let version = run(&["--version"], b"")?;
        let text = text(major(&String::from_utf8_lossy(&version)));
        run(&["--replace", "--skip-cache"], text.as_bytes())?;
        if self.default_confines() {
            return Ok(());
        }
        let path = self.places.profiles.display();
        Err(format!(
            "it was loaded, and {path} does not have it in force"
        ))
    }

    /// Loaded profiles by name, with their modes.
    fn list(&self) -> std::io::Result<BTreeMap<String, String>> {
        let file = std::fs::File::open(&self.places.profiles)?;
        let bytes = sys::fs::read_bounded(file, LIST_BYTES)?;
        Ok(labels::parse(&String::from_utf8_lossy(&bytes)))
    }

    /// What labels mean on this node.
    pub(crate) fn labels(&self, selinux: bool) -> Labels {
        let profiles = match self.presence() {
            Presence::Off => Some(BTreeMap::new()),
            Presence::On | Presence::Hidden => self.list().ok(),
        };
        Labels { profiles, selinux }
    }

    /// For people: whether it is on, and what became of the default profile.
    pub(crate) fn status(&self) -> serde_json::Value {
        match self.presence() {
            Presence::Off => serde_json::json!({ "enabled": false }),
            Presence::Hidden => serde_json::json!({ "enabled": false, "problem": HIDDEN }),
            Presence::On => {
                let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
                serde_json::json!({
                    "enabled": true,
                    "defaultProfile": DEFAULT,
                    "loaded": self.default_confines(),
                    "problem": *problem,
                })
            }
        }
    }
}

/// The profile for a parser of that version.
fn text(major: u32) -> String {
    let newer = if major >= 4 { NEWER } else { "" };
    PROFILE.replace(NEWER_MARK, newer)
}

/// The first number of `AppArmor parser version 4.1.0`; 0 when there is none.
fn major(version: &str) -> u32 {
    let digits = version.split_once("version ").map_or("", |(_, rest)| rest);
    let end = digits
        .find(|letter: char| !letter.is_ascii_digit())
        .unwrap_or(digits.len());
    digits
        .get(..end)
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

/// The profile that a spec names.
pub(crate) fn of_spec(spec: &serde_json::Value) -> Option<&str> {
    spec.pointer("/process/apparmorProfile")
        .and_then(serde_json::Value::as_str)
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests;
