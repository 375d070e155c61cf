//! The mounts that a restored container may have: those of its request, and what the OCI runtime adds.

use std::path::{Path, PathBuf};

use criu_images::policy::{
    ExpectedMount, Filesystem, MountOrigin, PartRoot, Presence, Propagation, Restrictions,
};
use serde_json::Value;

use crate::checkpoint::mounts::strings;

/// The mount table that the OCI runtime makes of `spec`.
pub(super) fn expected(spec: &Value) -> Vec<ExpectedMount> {
    let root_options: &[&str] = match spec.pointer("/root/readonly").and_then(Value::as_bool) {
        Some(true) => &["ro"],
        _ => &[],
    };
    let mut expected = vec![ExpectedMount {
        mountpoint: PathBuf::from("/"),
        origins: vec![MountOrigin::Root],
        restrictions: Restrictions::from_options(root_options),
        propagation: root_propagation(spec),
        presence: Presence::Required,
    }];
    for mount in spec
        .get("mounts")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        of_spec(mount, &mut expected);
    }
    parts_and_masks(spec, &mut expected);
    if spec.pointer("/process/terminal").and_then(Value::as_bool) == Some(true) {
        expected.push(ExpectedMount {
            mountpoint: PathBuf::from("/dev/console"),
            origins: vec![MountOrigin::Part {
                of: PathBuf::from("/dev/pts"),
                root: PartRoot::Number,
            }],
            restrictions: Restrictions::default(),
            propagation: Propagation::Private,
            // runc makes it, crun does not.
            presence: Presence::Optional,
        });
    }
    expected
}

fn root_propagation(spec: &Value) -> Propagation {
    match spec
        .pointer("/linux/rootfsPropagation")
        .and_then(Value::as_str)
    {
        Some("shared" | "rshared") => Propagation::Shared,
        Some("slave" | "rslave") => Propagation::Slave,
        _ => Propagation::Private,
    }
}

fn propagation(options: &[String]) -> Propagation {
    let has = |names: [&str; 2]| {
        options
            .iter()
            .any(|option| names.contains(&option.as_str()))
    };
    if has(["shared", "rshared"]) {
        Propagation::Shared
    } else if has(["slave", "rslave"]) {
        Propagation::Slave
    } else {
        Propagation::Private
    }
}

fn of_spec(mount: &Value, expected: &mut Vec<ExpectedMount>) {
    let text = |key: &str| mount.get(key).and_then(Value::as_str).unwrap_or_default();
    let (destination, kind) = (text("destination"), text("type"));
    let options = strings(mount, "/options");
    let bind = kind == "bind" || options.iter().any(|o| o == "bind" || o == "rbind");
    let external = |within: Option<&str>| MountOrigin::External {
        keys: vec![destination.to_owned()],
        within: within.map(PathBuf::from),
    };
    let new = |filesystem| MountOrigin::New {
        filesystem,
        options: options.clone(),
    };
    let origin = if bind {
        external(None)
    } else {
        match kind {
            "proc" => new(Filesystem::Proc),
            "sysfs" => new(Filesystem::Sysfs),
            "devpts" => new(Filesystem::Devpts),
            "mqueue" => new(Filesystem::Mqueue),
            "cgroup2" => new(Filesystem::Cgroup2),
            "cgroup" => return cgroup(destination, &options, expected),
            // thawd keeps the content of every tmpfs itself.
            _ => external(None),
        }
    };
    expected.push(ExpectedMount {
        mountpoint: PathBuf::from(destination),
        origins: vec![origin],
        restrictions: Restrictions::from_options(&options),
        propagation: if bind {
            propagation(&options)
        } else {
            Propagation::Private
        },
        presence: Presence::Required,
    });
}

/// v1: a tmpfs with one external mount a subsystem; v2: one cgroup2.
fn cgroup(destination: &str, options: &[String], expected: &mut Vec<ExpectedMount>) {
    let own = MountOrigin::External {
        keys: vec![destination.to_owned()],
        within: None,
    };
    let unified = MountOrigin::New {
        filesystem: Filesystem::Cgroup2,
        options: options.to_owned(),
    };
    let restrictions = Restrictions::from_options(options);
    expected.push(ExpectedMount {
        mountpoint: PathBuf::from(destination),
        origins: vec![own.clone(), unified],
        // The tmpfs itself is made read-only by some runtimes only.
        restrictions: Restrictions {
            read_only: false,
            ..restrictions
        },
        propagation: Propagation::Private,
        presence: Presence::Required,
    });
    expected.push(ExpectedMount {
        mountpoint: PathBuf::from(destination),
        origins: vec![own],
        restrictions,
        propagation: Propagation::Private,
        presence: Presence::EachChild,
    });
}

fn parts_and_masks(spec: &Value, expected: &mut Vec<ExpectedMount>) {
    for path in strings(spec, "/linux/readonlyPaths") {
        let Some((of, inner)) = part_of(&path) else {
            continue;
        };
        expected.push(ExpectedMount {
            mountpoint: PathBuf::from(&path),
            origins: vec![MountOrigin::Part {
                of: of.into(),
                root: PartRoot::Exactly(inner),
            }],
            restrictions: Restrictions {
                read_only: true,
                ..Restrictions::default()
            },
            propagation: Propagation::Private,
            presence: presence(&path),
        });
    }
    for path in strings(spec, "/linux/maskedPaths") {
        let directory = Path::new(&path).is_dir();
        expected.push(ExpectedMount {
            mountpoint: PathBuf::from(&path),
            origins: vec![
                MountOrigin::External {
                    keys: vec!["/dev/null".into(), path.clone()],
                    within: Some(PathBuf::from("/dev")),
                },
                MountOrigin::External {
                    keys: vec![path.clone()],
                    within: None,
                },
            ],
            restrictions: Restrictions {
                read_only: directory,
                ..Restrictions::default()
            },
            propagation: Propagation::Private,
            presence: presence(&path),
        });
    }
}

/// The mount that a read-only path is bound from, and the path within it.
fn part_of(path: &str) -> Option<(&'static str, String)> {
    ["/proc", "/sys"].into_iter().find_map(|mount| {
        let inner = path.strip_prefix(mount)?;
        inner.starts_with('/').then(|| (mount, inner.to_owned()))
    })
}

/// Paths of proc and sysfs exist in every container or in none, so this host's tell.
fn presence(path: &str) -> Presence {
    if Path::new(path).exists() {
        Presence::Required
    } else {
        Presence::Optional
    }
}
