//! Namespaces of the tasks.
//!
//! CRIU gives the tree a namespace of its own where the root task's number differs from the one
//! that the inventory says CRIU itself had at the dump. A forged inventory could thus leave the
//! container in the host's namespaces: both numbers are held against the request.

use super::Context;
use super::request::Namespace;
use crate::proto::TaskKobjIdsEntry;
use crate::violation::{Place, Report};

const INVENTORY: &str = "inventory.img";
/// Longest host name that the kernel takes.
const HOST_NAME_MAX: usize = 64;

pub(super) fn check(context: &Context<'_>, report: &mut Report) {
    let Some(root) = context.images.root() else {
        return;
    };
    let Some(own) = context.images.ids_of(root.pid) else {
        return;
    };
    let host = context
        .images
        .inventory
        .as_ref()
        .and_then(|inventory| inventory.root_ids.as_ref());
    if let Some(host) = host {
        of_root(context, root.pid, own, host, report);
    }
    nested(context, own, report);
    host_names(context, own, report);
    network(context, own, report);
    pids(context, own, report);
    settings(context, own, report);
}

fn of_root(
    context: &Context<'_>,
    pid: u32,
    own: &TaskKobjIdsEntry,
    host: &TaskKobjIdsEntry,
    report: &mut Report,
) {
    let plan = &context.request.namespaces;
    let image = format!("ids-{pid}.img");
    let place = Place::task(pid, &image);
    let cases = [
        ("mnt_ns_id", own.mnt_ns_id, host.mnt_ns_id, Some(false)),
        ("user_ns_id", own.user_ns_id, host.user_ns_id, Some(true)),
        (
            "pid_ns_id",
            own.pid_ns_id,
            host.pid_ns_id,
            Some(plan.pid == Namespace::Host),
        ),
        (
            "net_ns_id",
            own.net_ns_id,
            host.net_ns_id,
            Some(plan.network == Namespace::Host),
        ),
        (
            "ipc_ns_id",
            own.ipc_ns_id,
            host.ipc_ns_id,
            Some(plan.ipc == Namespace::Host),
        ),
        (
            "uts_ns_id",
            own.uts_ns_id,
            host.uts_ns_id,
            Some(plan.uts == Namespace::Host),
        ),
        // Either is harmless: they show less of the host, or shift clocks.
        ("cgroup_ns_id", own.cgroup_ns_id, host.cgroup_ns_id, None),
        ("time_ns_id", own.time_ns_id, host.time_ns_id, None),
    ];
    for (field, own, host, shared) in cases {
        let (Some(own), Some(host)) = (own, host) else {
            // The user, cgroup and time namespaces are absent where the kernel has none.
            if shared.is_some() && field != "user_ns_id" {
                report.malformed(place, field, "is missing");
            } else if own != host && shared.is_some() {
                report.privilege(place, field, "is in a user namespace");
            }
            continue;
        };
        match shared {
            Some(true) if own != host => {
                report.privilege(
                    place,
                    field,
                    "is a namespace of its own, the request has the host's",
                );
            }
            Some(false) if own == host => {
                report.privilege(
                    place,
                    field,
                    "is the host's namespace, the request has another",
                );
            }
            _ => {}
        }
    }
}

/// All tasks live in the root task's namespaces.
fn nested(context: &Context<'_>, root: &TaskKobjIdsEntry, report: &mut Report) {
    let all = |ids: &TaskKobjIdsEntry| {
        [
            ("pid_ns_id", ids.pid_ns_id),
            ("net_ns_id", ids.net_ns_id),
            ("ipc_ns_id", ids.ipc_ns_id),
            ("uts_ns_id", ids.uts_ns_id),
            ("mnt_ns_id", ids.mnt_ns_id),
            ("user_ns_id", ids.user_ns_id),
            ("cgroup_ns_id", ids.cgroup_ns_id),
            ("time_ns_id", ids.time_ns_id),
        ]
    };
    for process in &context.images.processes {
        let Some(ids) = context.images.ids_of(process.pid) else {
            continue;
        };
        for ((field, own), (_, expected)) in all(ids).into_iter().zip(all(root)) {
            if own != expected {
                let image = format!("ids-{}.img", process.pid);
                let detail = "is another namespace than the root task's";
                report.privilege(Place::task(process.pid, &image), field, detail);
            }
        }
    }
    let stray = |id: &u32| Some(*id) != root.mnt_ns_id;
    for id in context.images.mounts.keys().filter(|id| stray(id)) {
        let image = format!("mountpoints-{id}.img");
        report.privilege(
            Place::image(&image),
            "",
            "is no mount namespace of the root task",
        );
    }
}

fn host_names(context: &Context<'_>, root: &TaskKobjIdsEntry, report: &mut Report) {
    let plan = &context.request.namespaces;
    for (id, names) in &context.images.hostnames {
        let image = format!("utsns-{id}.img");
        let place = Place::image(&image);
        if Some(*id) != root.uts_ns_id {
            report.privilege(place, "", "is no namespace of the root task");
        }
        if names.nodename.len() > HOST_NAME_MAX || names.domainname.len() > HOST_NAME_MAX {
            report.malformed(place, "nodename", "is too long");
        }
        let expected = plan.hostname.as_deref().map(str::as_bytes);
        if plan.uts == Namespace::Own && expected.is_some_and(|name| name != names.nodename) {
            let detail = format!(
                "{:?}, the request has {:?}",
                String::from_utf8_lossy(&names.nodename),
                plan.hostname.as_deref().unwrap_or_default()
            );
            report.privilege(place, "nodename", detail);
        }
    }
}

fn network(context: &Context<'_>, root: &TaskKobjIdsEntry, report: &mut Report) {
    let images = context.images;
    for (id, entry) in &images.net_namespaces {
        let image = format!("netns-{id}.img");
        let place = Place::image(&image);
        if Some(*id) != root.net_ns_id {
            report.privilege(place, "", "is no namespace of the root task");
        }
        let external = crate::proto::NetnsEntry {
            ext_key: entry.ext_key.clone(),
            ..crate::proto::NetnsEntry::default()
        };
        if *entry != external {
            report.privilege(place, "", "has network settings");
        }
        match &context.request.namespaces.network {
            Namespace::External { key } if entry.ext_key.as_deref() == Some(key.as_bytes()) => {}
            Namespace::External { key } => {
                report.privilege(place, "ext_key", format!("is not {key:?}"));
            }
            Namespace::Host | Namespace::Own => {
                report.privilege(place, "", "the request has no network namespace for it");
            }
        }
    }
    if matches!(
        context.request.namespaces.network,
        Namespace::External { .. }
    ) && images.net_namespaces.is_empty()
    {
        report.malformed(
            Place::image(INVENTORY),
            "",
            "the network namespace's image is missing",
        );
    }
}

fn pids(context: &Context<'_>, root: &TaskKobjIdsEntry, report: &mut Report) {
    for (id, entry) in &context.images.pid_namespaces {
        let image = format!("pidns-{id}.img");
        let place = Place::image(&image);
        if Some(*id) != root.pid_ns_id {
            report.privilege(place, "", "is no namespace of the root task");
        }
        let Some(found) = &entry.ext_key else {
            continue;
        };
        match &context.request.namespaces.pid {
            Namespace::External { key } if found == key.as_bytes() => {}
            _ => report.privilege(place, "ext_key", "is not the request's pid namespace"),
        }
    }
    let Namespace::External { key } = &context.request.namespaces.pid else {
        return;
    };
    if context
        .images
        .pid_namespaces
        .values()
        .all(|entry| entry.ext_key.is_none())
    {
        let detail = format!("no image says that the pid namespace is {key:?}");
        report.privilege(Place::image(INVENTORY), "", detail);
    }
}

/// Lengths in the images of IPC and time namespaces.
fn settings(context: &Context<'_>, root: &TaskKobjIdsEntry, report: &mut Report) {
    for (id, entry) in &context.images.ipc_settings {
        let image = format!("ipcns-var-{id}.img");
        let place = Place::image(&image);
        if Some(*id) != root.ipc_ns_id {
            report.privilege(place, "", "is no namespace of the root task");
        }
        if entry.sem_ctls.len() != 4 {
            report.malformed(place, "sem_ctls", "has not four elements");
        }
    }
    for segment in &context.images.ipc_segments {
        let place = Place::image("ipcns-shm-*.img");
        if segment.in_pagemaps != Some(true) {
            report.malformed(
                place,
                "in_pagemaps",
                "is not set; only old versions leave it out",
            );
        }
        if segment.size > context.request.limits.max_page_bytes {
            report.malformed(place, "size", segment.size.to_string());
        }
    }
    for (id, clocks) in &context.images.clocks {
        if clocks.monotonic.tv_nsec >= 1_000_000_000 || clocks.boottime.tv_nsec >= 1_000_000_000 {
            let image = format!("timens-{id}.img");
            report.malformed(Place::image(&image), "tv_nsec", "is a second or more");
        }
    }
}
