//! Namespaces.

use super::{Malformed, Privilege, passes, refused, refused_by};
use crate::policy::Namespace;
use crate::proto::{
    InventoryEntry, IpcVarEntry, NetnsEntry, PidnsEntry, SysctlEntry, TaskKobjIdsEntry,
    TimensEntry, UtsnsEntry,
};
use crate::{MemoryImages, testing};

fn ids(set: &mut MemoryImages, pid: u32, change: impl Fn(&mut TaskKobjIdsEntry)) {
    let name = format!("ids-{pid}.img");
    testing::edit(set, &name, |all: &mut Vec<TaskKobjIdsEntry>| {
        change(&mut all[0])
    });
}

#[test]
fn the_hosts_namespaces_cannot_be_claimed() {
    type Forge = fn(&mut TaskKobjIdsEntry, &TaskKobjIdsEntry);
    let cases: [(Forge, &str); 5] = [
        (|own, host| own.mnt_ns_id = host.mnt_ns_id, "mnt_ns_id"),
        (|own, host| own.pid_ns_id = host.pid_ns_id, "pid_ns_id"),
        (|own, host| own.net_ns_id = host.net_ns_id, "net_ns_id"),
        (|own, host| own.ipc_ns_id = host.ipc_ns_id, "ipc_ns_id"),
        (|own, host| own.uts_ns_id = host.uts_ns_id, "uts_ns_id"),
    ];
    for (forge, field) in cases {
        // By the inventory, which says what CRIU's own were.
        refused(
            |images| {
                let own = testing::decode(images).ids[&1];
                testing::edit(images, "inventory.img", |all: &mut Vec<InventoryEntry>| {
                    forge(all[0].root_ids.as_mut().unwrap(), &own);
                });
            },
            (Privilege, Some(1), "ids-1.img", field),
        );
    }
    refused(
        |images| ids(images, 1, |own| own.mnt_ns_id = None),
        (Malformed, Some(1), "ids-1.img", "mnt_ns_id"),
    );
    refused(
        |images| {
            ids(images, 1, |own| own.user_ns_id = Some(77));
            ids(images, 7, |own| own.user_ns_id = Some(77));
        },
        (Privilege, Some(1), "ids-1.img", "user_ns_id"),
    );
}

#[test]
fn all_tasks_share_the_root_tasks_namespaces() {
    refused(
        |images| ids(images, 7, |own| own.mnt_ns_id = Some(77)),
        (Privilege, Some(7), "ids-7.img", "mnt_ns_id"),
    );
    refused(
        |images| {
            let table = images.0["mountpoints-13.img"].clone();
            images.0.insert("mountpoints-77.img".into(), table);
        },
        (Privilege, None, "mountpoints-77.img", ""),
    );
}

#[test]
fn a_host_name_of_an_own_namespace_is_the_requests() {
    let rename = |images: &mut MemoryImages| {
        testing::edit(images, "utsns-12.img", |all: &mut Vec<UtsnsEntry>| {
            all[0].nodename = b"forged".to_vec();
        });
    };
    refused(rename, (Privilege, None, "utsns-12.img", "nodename"));
    let mut request = testing::request("python");
    request.namespaces.uts = Namespace::External { key: String::new() };
    passes(&request, rename);
    refused(
        |images| {
            testing::edit(images, "utsns-12.img", |all: &mut Vec<UtsnsEntry>| {
                all[0].domainname = vec![b'a'; 65];
            });
        },
        (Malformed, None, "utsns-12.img", "nodename"),
    );
}

#[test]
fn the_network_is_external_and_brings_no_settings() {
    let network = |images: &mut MemoryImages, change: fn(&mut NetnsEntry)| {
        testing::edit(images, "netns-10.img", |all: &mut Vec<NetnsEntry>| {
            change(&mut all[0])
        });
    };
    refused(
        |images| network(images, |n| n.ext_key = None),
        (Privilege, None, "netns-10.img", "ext_key"),
    );
    refused(
        |images| network(images, |n| n.ext_key = Some(b"other".to_vec())),
        (Privilege, None, "netns-10.img", "ext_key"),
    );
    refused(
        |images| {
            network(images, |n| {
                n.ipv4_sysctl.push(SysctlEntry {
                    r#type: 6,
                    iarg: Some(1),
                    sarg: None,
                });
            });
        },
        (Privilege, None, "netns-10.img", ""),
    );
    refused(
        |images| drop(images.0.remove("netns-10.img")),
        (Malformed, None, "inventory.img", ""),
    );
    let mut request = testing::request("python");
    request.namespaces.network = Namespace::Host;
    refused_by(
        &request,
        |_| {},
        (Privilege, Some(1), "ids-1.img", "net_ns_id"),
    );
}

#[test]
fn a_shared_pid_namespace_is_the_requests() {
    let share = |images: &mut MemoryImages| {
        let id = testing::decode(images).ids[&1].pid_ns_id.unwrap();
        let entry = PidnsEntry {
            ext_key: Some(b"extRootPidNS".to_vec()),
        };
        let mut bytes = [0x5456_4319u32.to_le_bytes(), 0x6115_7326u32.to_le_bytes()].concat();
        let message = prost::Message::encode_to_vec(&entry);
        bytes.extend(u32::try_from(message.len()).unwrap().to_le_bytes());
        bytes.extend(message);
        images.0.insert(format!("pidns-{id}.img"), bytes);
    };
    let mut request = testing::request("python");
    request.namespaces.pid = Namespace::External {
        key: "extRootPidNS".into(),
    };
    passes(&request, share);
    refused_by(&request, |_| {}, (Privilege, None, "inventory.img", ""));
    let mut set = testing::images("python");
    share(&mut set);
    let name = set
        .0
        .keys()
        .find(|name| name.starts_with("pidns-"))
        .unwrap()
        .clone();
    refused(share, (Privilege, None, &name, "ext_key"));
}

#[test]
fn settings_have_their_shape() {
    refused(
        |images| {
            testing::edit(images, "ipcns-var-11.img", |all: &mut Vec<IpcVarEntry>| {
                all[0].sem_ctls.push(1);
            });
        },
        (Malformed, None, "ipcns-var-11.img", "sem_ctls"),
    );
    refused(
        |images| {
            testing::edit(images, "timens-0.img", |all: &mut Vec<TimensEntry>| {
                all[0].boottime.tv_nsec = 1_000_000_000;
            });
        },
        (Malformed, None, "timens-0.img", "tv_nsec"),
    );
}
