//! Namespaces, users, profiles and capabilities, of sandboxes and containers alike.

use lifecycle::model::{
    CapabilityChange, ContainerId, NamespaceMode, NamespaceOptions, RequestedUser, SecurityContext,
    SecurityProfile, SelinuxOptions, SupplementalGroupsPolicy,
};
use lifecycle::spec::caps::NAMES;

use super::check::{Checked, container_path, enumeration, id, invalid, no_nul, text, user_id};
use crate::v1;

/// Whose namespaces are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Of {
    /// A sandbox: there is no container yet whose namespace could be joined.
    Sandbox,
    /// A container.
    Container,
}

/// Namespaces; absent is "of the pod" for all.
pub(crate) fn namespaces(from: Option<v1::NamespaceOption>, of: Of) -> Checked<NamespaceOptions> {
    let Some(from) = from else {
        return Ok(NamespaceOptions::default());
    };
    if let Some(user) = from.userns_options {
        let mode: v1::NamespaceMode = enumeration("userns_options.mode", user.mode)?;
        if mode != v1::NamespaceMode::Node {
            let problem = "user namespaces are not supported; only NODE is";
            return Err(invalid("userns_options.mode", problem));
        }
    }
    let pid = match enumeration("pid", from.pid)? {
        v1::NamespaceMode::Pod => NamespaceMode::Pod,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Node,
        v1::NamespaceMode::Target if of == Of::Container => {
            NamespaceMode::Target(ContainerId::new(id("target_id", from.target_id)?))
        }
        v1::NamespaceMode::Target => {
            return Err(invalid(
                "pid",
                "TARGET is for containers, not for sandboxes",
            ));
        }
    };
    let ipc = match enumeration("ipc", from.ipc)? {
        v1::NamespaceMode::Pod => NamespaceMode::Pod,
        v1::NamespaceMode::Container => NamespaceMode::Container,
        v1::NamespaceMode::Node => NamespaceMode::Node,
        v1::NamespaceMode::Target => return Err(invalid("ipc", "TARGET is for pid only")),
    };
    Ok(NamespaceOptions {
        network: network(from.network)?,
        pid,
        ipc,
    })
}

fn network(value: i32) -> Checked<NamespaceMode> {
    match enumeration("network", value)? {
        v1::NamespaceMode::Pod => Ok(NamespaceMode::Pod),
        v1::NamespaceMode::Node => Ok(NamespaceMode::Node),
        other => Err(invalid(
            "network",
            format!("{} is not possible; POD and NODE are", other.as_str_name()),
        )),
    }
}

/// Namespaces as a status shows them.
pub(crate) fn show_namespaces(from: &NamespaceOptions) -> v1::NamespaceOption {
    let mode = |mode: &NamespaceMode| match mode {
        NamespaceMode::Pod => v1::NamespaceMode::Pod,
        NamespaceMode::Container => v1::NamespaceMode::Container,
        NamespaceMode::Node => v1::NamespaceMode::Node,
        NamespaceMode::Target(_) => v1::NamespaceMode::Target,
    };
    v1::NamespaceOption {
        network: mode(&from.network).into(),
        pid: mode(&from.pid).into(),
        ipc: mode(&from.ipc).into(),
        target_id: match &from.pid {
            NamespaceMode::Target(id) => id.to_string(),
            _ => String::new(),
        },
        userns_options: None,
    }
}

/// The parts of a security context that say who runs.
#[derive(Debug, Default)]
pub(crate) struct UserFields {
    /// `run_as_user`.
    pub(crate) uid: Option<v1::Int64Value>,
    /// `run_as_username`; sandboxes have none.
    pub(crate) name: String,
    /// `run_as_group`.
    pub(crate) gid: Option<v1::Int64Value>,
    /// `supplemental_groups`.
    pub(crate) groups: Vec<i64>,
    /// `supplemental_groups_policy`.
    pub(crate) policy: i32,
}

/// The user of a container or sandbox.
pub(crate) fn user(from: UserFields) -> Checked<RequestedUser> {
    let uid = from
        .uid
        .map(|uid| user_id("run_as_user", uid.value))
        .transpose()?;
    let gid = from
        .gid
        .map(|gid| user_id("run_as_group", gid.value))
        .transpose()?;
    text("run_as_username", &from.name, 256)?;
    let name = Some(from.name).filter(|name| !name.is_empty());
    if uid.is_some() && name.is_some() {
        return Err(invalid(
            "run_as_username",
            "must not be set together with run_as_user",
        ));
    }
    if gid.is_some() && uid.is_none() && name.is_none() {
        return Err(invalid(
            "run_as_group",
            "needs run_as_user or run_as_username",
        ));
    }
    let groups = from.groups.into_iter().enumerate();
    Ok(RequestedUser {
        uid,
        name,
        gid,
        supplemental_groups: groups
            .map(|(index, group)| user_id(&format!("supplemental_groups[{index}]"), group))
            .collect::<Checked<_>>()?,
        policy: match enumeration("supplemental_groups_policy", from.policy)? {
            v1::SupplementalGroupsPolicy::Merge => SupplementalGroupsPolicy::Merge,
            v1::SupplementalGroupsPolicy::Strict => SupplementalGroupsPolicy::Strict,
        },
    })
}

/// An SELinux label; one without any part is none.
pub(crate) fn selinux(from: Option<v1::SeLinuxOption>) -> Checked<Option<SelinuxOptions>> {
    let Some(from) = from.filter(|from| *from != v1::SeLinuxOption::default()) else {
        return Ok(None);
    };
    for (part, value) in [
        ("user", &from.user),
        ("role", &from.role),
        ("type", &from.r#type),
        ("level", &from.level),
    ] {
        text(&format!("selinux_options.{part}"), value, 256)?;
    }
    Ok(Some(SelinuxOptions {
        user: from.user,
        role: from.role,
        kind: from.r#type,
        level: from.level,
    }))
}

/// Which kind of profile; they name a profile on the node differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A JSON file by its absolute path.
    Seccomp,
    /// A profile loaded into the kernel, by its name.
    AppArmor,
}

/// A profile from its field, or else from the older field of text.
pub(crate) fn profile(
    kind: Kind,
    from: Option<v1::SecurityProfile>,
    older: &str,
) -> Checked<Option<SecurityProfile>> {
    let field = match kind {
        Kind::Seccomp => "seccomp",
        Kind::AppArmor => "apparmor",
    };
    let (profile_type, reference) = match (from, older) {
        (Some(from), _) => {
            let field = format!("{field}.profile_type");
            (enumeration(&field, from.profile_type)?, from.localhost_ref)
        }
        (None, "") => return Ok(None),
        (None, "unconfined") => (v1::security_profile::ProfileType::Unconfined, String::new()),
        (None, "runtime/default" | "docker/default") => (
            v1::security_profile::ProfileType::RuntimeDefault,
            String::new(),
        ),
        (None, other) => {
            let reference = other.strip_prefix("localhost/").ok_or_else(|| {
                let problem = "is none of runtime/default, unconfined, localhost/...";
                invalid(field, format!("{other:?} {problem}"))
            })?;
            (
                v1::security_profile::ProfileType::Localhost,
                reference.to_owned(),
            )
        }
    };
    Ok(Some(match profile_type {
        v1::security_profile::ProfileType::RuntimeDefault => SecurityProfile::RuntimeDefault,
        v1::security_profile::ProfileType::Unconfined => SecurityProfile::Unconfined,
        v1::security_profile::ProfileType::Localhost => {
            let field = format!("{field}.localhost_ref");
            match kind {
                Kind::Seccomp => drop(super::check::host_path(&field, &reference)?),
                Kind::AppArmor if reference.is_empty() => {
                    return Err(invalid(&field, "must name a profile"));
                }
                Kind::AppArmor => text(&field, &reference, 4096)?,
            }
            SecurityProfile::Localhost(reference)
        }
    }))
}

/// Capability changes, their names in capitals and without `CAP_`.
pub(crate) fn capabilities(from: v1::Capability) -> Checked<CapabilityChange> {
    Ok(CapabilityChange {
        add: capability_names("add_capabilities", &from.add_capabilities)?,
        drop: capability_names("drop_capabilities", &from.drop_capabilities)?,
        add_ambient: capability_names("add_ambient_capabilities", &from.add_ambient_capabilities)?,
    })
}

fn capability_names(field: &str, names: &[String]) -> Checked<Vec<String>> {
    let known = |(index, given): (usize, &String)| {
        let upper = given.to_ascii_uppercase();
        let plain = upper.strip_prefix("CAP_").unwrap_or(&upper);
        if plain == "ALL" || NAMES.contains(&plain) {
            return Ok(plain.to_owned());
        }
        Err(invalid(
            &format!("{field}[{index}]"),
            format!("{given:?} is no capability of Linux"),
        ))
    };
    names.iter().enumerate().map(known).collect()
}

/// A container's security context.
pub(crate) fn context(from: v1::LinuxContainerSecurityContext) -> Checked<SecurityContext> {
    #[expect(deprecated, reason = "older clients still send the fields of text")]
    let (older_seccomp, older_apparmor) = (&from.seccomp_profile_path, &from.apparmor_profile);
    Ok(SecurityContext {
        privileged: from.privileged,
        seccomp: profile(Kind::Seccomp, from.seccomp, older_seccomp)?,
        apparmor: profile(Kind::AppArmor, from.apparmor, older_apparmor)?,
        capabilities: capabilities(from.capabilities.unwrap_or_default())
            .map_err(|error| error.within("capabilities"))?,
        namespaces: namespaces(from.namespace_options, Of::Container)
            .map_err(|error| error.within("namespace_options"))?,
        user: user(UserFields {
            uid: from.run_as_user,
            name: from.run_as_username,
            gid: from.run_as_group,
            groups: from.supplemental_groups,
            policy: from.supplemental_groups_policy,
        })?,
        readonly_rootfs: from.readonly_rootfs,
        no_new_privs: from.no_new_privs,
        masked_paths: paths("masked_paths", &from.masked_paths)?,
        readonly_paths: paths("readonly_paths", &from.readonly_paths)?,
        selinux: selinux(from.selinux_options)?,
    })
}

fn paths(field: &str, paths: &[String]) -> Checked<Vec<String>> {
    let clean = |(index, path): (usize, &String)| {
        let field = format!("{field}[{index}]");
        no_nul(&field, path)?;
        Ok(container_path(&field, path)?.to_string_lossy().into_owned())
    };
    paths.iter().enumerate().map(clean).collect()
}
