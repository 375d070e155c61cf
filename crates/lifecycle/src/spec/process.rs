//! The `process` part of a spec: arguments, environment, user, limits.

use std::path::PathBuf;

use oci_spec::runtime::{PosixRlimitBuilder, PosixRlimitType, Process, User};

use super::SpecInput;
use super::caps::CapabilitySets;
use crate::error::Error;
use crate::model::SelinuxOptions;

/// Where programs are looked for when the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Range of `oom_score_adj` (proc_pid_oom_score_adj(5)).
const OOM_RANGE: std::ops::RangeInclusive<i64> = -1000..=1000;

pub(super) fn build(input: &SpecInput<'_>, caps: &CapabilitySets) -> Result<Process, Error> {
    let security = &input.config.security;
    let mut user = User::default();
    user.set_uid(input.user.uid)
        .set_gid(input.user.gid)
        .set_additional_gids(Some(input.user.groups.clone()));
    let files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(input.host.open_files.soft)
        .hard(input.host.open_files.hard)
        .build()
        .map_err(|error| Error::failed("limit the number of open files", error))?;
    let mut process = Process::default();
    process
        .set_terminal(Some(input.config.tty))
        .set_user(user)
        .set_args(Some(arguments(input)?))
        .set_env(Some(environment(input)?))
        .set_cwd(working_dir(input)?)
        .set_capabilities(Some(caps.to_oci()))
        .set_no_new_privileges(Some(security.no_new_privs))
        .set_oom_score_adj(Some(oom_score_adj(input)?))
        .set_rlimits(Some(vec![files]))
        .set_apparmor_profile(input.apparmor_profile.map(str::to_owned))
        .set_selinux_label(selinux(input).map(|label| label.process));
    Ok(process)
}

/// The request's command replaces the image's entry point and, without arguments of its own, its
/// arguments too (Kubernetes, "Define a Command and Arguments for a Container").
fn arguments(input: &SpecInput<'_>) -> Result<Vec<String>, Error> {
    let (config, image) = (input.config, input.image);
    let mut words = config.command.clone();
    if words.is_empty() {
        // `[""]` is how images say that they have none though their base has.
        if image.entrypoint != [""] {
            words.clone_from(&image.entrypoint);
        }
        let arguments = if config.args.is_empty() {
            &image.cmd
        } else {
            &config.args
        };
        words.extend(arguments.iter().cloned());
    } else {
        words.extend(config.args.iter().cloned());
    }
    if words.is_empty() {
        let problem = "neither the request nor the image names a program";
        return Err(Error::invalid("command", problem));
    }
    if let Some(word) = words.iter().find(|word| word.contains('\0')) {
        return Err(Error::invalid(
            "command",
            format!("{word:?} holds a NUL byte"),
        ));
    }
    Ok(words)
}

/// Defaults, the image's, the pod's host name, the request's: later ones win, each name once and
/// in the place where it first came.
fn environment(input: &SpecInput<'_>) -> Result<Vec<String>, Error> {
    let mut variables: Vec<(String, String)> = vec![("PATH".into(), DEFAULT_PATH.into())];
    let mut put = |name: &str, value: &str| match variables.iter_mut().find(|(n, _)| n == name) {
        Some((_, old)) => value.clone_into(old),
        None => variables.push((name.to_owned(), value.to_owned())),
    };
    if input.config.tty {
        put("TERM", "xterm");
    }
    put("HOME", input.user.home.as_deref().unwrap_or("/"));
    for line in &input.image.env {
        // Without `=` it is no assignment; there is nothing that a process could make of it.
        if let Some((name, value)) = line.split_once('=').filter(|(name, _)| !name.is_empty()) {
            put(name, value);
        }
    }
    if !input.hostname.is_empty() {
        put("HOSTNAME", input.hostname);
    }
    for (name, value) in &input.config.env {
        if name.is_empty() || name.contains('=') {
            let problem = format!("{name:?} is no name of a variable");
            return Err(Error::invalid("envs", problem));
        }
        put(name, value);
    }
    if let Some((name, _)) = variables
        .iter()
        .find(|(n, v)| n.contains('\0') || v.contains('\0'))
    {
        return Err(Error::invalid("envs", format!("{name:?} holds a NUL byte")));
    }
    Ok(variables
        .into_iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect())
}

fn working_dir(input: &SpecInput<'_>) -> Result<PathBuf, Error> {
    let requested = &input.config.working_dir;
    if !requested.is_empty() {
        return if requested.starts_with('/') {
            Ok(PathBuf::from(requested))
        } else {
            Err(Error::invalid(
                "working_dir",
                format!("{requested:?} is not absolute"),
            ))
        };
    }
    // An image's relative directory is relative to its root.
    Ok(PathBuf::from("/").join(&input.image.working_dir))
}

/// What is asked for, or this daemon's own where it may not go lower: the kernel would refuse, and
/// the OCI runtime dies of that with a message about a pipe.
fn oom_score_adj(input: &SpecInput<'_>) -> Result<i32, Error> {
    let wanted = input.config.resources.oom_score_adj;
    if !OOM_RANGE.contains(&wanted) {
        let problem = format!("{wanted} is not between -1000 and 1000");
        return Err(Error::invalid("linux.resources.oom_score_adj", problem));
    }
    let host = input.host;
    let score = if host.may_lower_oom {
        wanted
    } else {
        wanted.max(host.oom_score_adj)
    };
    i32::try_from(score)
        .map_err(|error| Error::invalid("linux.resources.oom_score_adj", error.to_string()))
}

/// The two labels of a container.
pub(super) struct SelinuxLabels {
    pub(super) process: String,
    pub(super) mount: String,
}

/// The request's label, parts that it leaves out as in the reference policy for containers; `None`
/// where SELinux is off or nothing is asked for.
pub(super) fn selinux(input: &SpecInput<'_>) -> Option<SelinuxLabels> {
    let security = &input.config.security;
    let options = security
        .selinux
        .as_ref()
        .or(input.sandbox.selinux.as_ref())?;
    if !input.host.selinux || *options == SelinuxOptions::default() {
        return None;
    }
    let part = |given: &str, default: &str| {
        if given.is_empty() {
            default.to_owned()
        } else {
            given.to_owned()
        }
    };
    let (user, level) = (part(&options.user, "system_u"), part(&options.level, "s0"));
    let kind = part(
        &options.kind,
        if security.privileged {
            "spc_t"
        } else {
            "container_t"
        },
    );
    let role = part(&options.role, "system_r");
    Some(SelinuxLabels {
        process: format!("{user}:{role}:{kind}:{level}"),
        mount: format!("{user}:object_r:container_file_t:{level}"),
    })
}
