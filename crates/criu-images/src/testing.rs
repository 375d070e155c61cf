//! Images and requests for tests.
//!
//! `tests/fixtures` holds images of two containers that runc 1.1.5 made and CRIU 4.2.1 dumped, but
//! for their page images, which are filled with zeros here: `python`, a program with one of nearly
//! everything that can be open, and `terminal`, a shell with a terminal, dumped by runc itself.

use std::path::{Path, PathBuf};

use prost::Message;

use crate::load::{self, Strictness};
use crate::model::Images;
use crate::names::{Header, ImageName};
use crate::policy::{
    Credentials, ExpectedMount, Filesystem, Label, MountOrigin, Namespace, Namespaces, PartRoot,
    Presence, Propagation, Request, Restrictions,
};
use crate::seccomp::SeccompProfile;
use crate::violation::Report;
use crate::{Limits, MemoryImages};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The images of one container, with page images of the right sizes.
pub(crate) fn images(container: &str) -> MemoryImages {
    let mut set = MemoryImages::default();
    for entry in fixtures().join(container).read_dir().unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        set.0.insert(name, std::fs::read(entry.path()).unwrap());
    }
    let mut report = Report::new(10);
    let parsed = load::load(&set, &Limits::default(), Strictness::Strict, &mut report);
    assert_eq!(report.into_violations(), []);
    for map in parsed
        .pagemaps
        .values()
        .chain(parsed.shmem_pagemaps.values())
    {
        let pages: u64 = map.entries.iter().map(crate::policy::pages_of).sum();
        let size = usize::try_from(pages * 4096).unwrap();
        set.0
            .insert(format!("pages-{}.img", map.pages_id), vec![0; size]);
    }
    set
}

/// The profile that the containers had.
pub(crate) fn profile() -> SeccompProfile {
    let json = std::fs::read_to_string(fixtures().join("seccomp.json")).unwrap();
    SeccompProfile::from_json(&json).unwrap()
}

/// The whole set, decoded.
pub(crate) fn decode(set: &MemoryImages) -> Images {
    let mut report = Report::new(10);
    let images = load::load(set, &Limits::default(), Strictness::Strict, &mut report);
    assert_eq!(report.into_violations(), []);
    images
}

/// Changes every entry of one image (of a page map: not the head) and writes it back.
pub(crate) fn edit<M: Message + Default>(
    set: &mut MemoryImages,
    name: &str,
    mut change: impl FnMut(&mut Vec<M>),
) {
    let bytes = set.0.get(name).unwrap();
    let (header, entries) = split(name, bytes);
    let mut messages: Vec<M> = entries
        .iter()
        .map(|entry| M::decode(entry.as_slice()).unwrap())
        .collect();
    change(&mut messages);
    let mut bytes = header;
    for message in messages {
        bytes.extend(u32::try_from(message.encoded_len()).unwrap().to_le_bytes());
        bytes.extend(message.encode_to_vec());
    }
    set.0.insert(name.to_owned(), bytes);
}

/// Adds an image of these entries; of a page map, the first is its head.
pub(crate) fn add(set: &mut MemoryImages, name: &str, entries: &[Vec<u8>]) {
    let mut bytes = match ImageName::parse(name).unwrap().header() {
        Header::None => panic!("{name} has no entries"),
        Header::One(magic) => magic.to_le_bytes().to_vec(),
        Header::Two(first, second) => [first.to_le_bytes(), second.to_le_bytes()].concat(),
    };
    for entry in entries {
        bytes.extend(u32::try_from(entry.len()).unwrap().to_le_bytes());
        bytes.extend(entry);
    }
    set.0.insert(name.to_owned(), bytes);
}

/// Header (with a page map's head) and entries of an image without raw data.
pub(crate) fn split(name: &str, bytes: &[u8]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let kind = ImageName::parse(name).unwrap();
    let mut at = match kind.header() {
        Header::None => panic!("{name} has no entries"),
        Header::One(_) => 4,
        Header::Two(..) => 8,
    };
    if matches!(kind, ImageName::Pagemap(_) | ImageName::ShmemPagemap(_)) {
        at += 4 + usize::try_from(word(&bytes[at..])).unwrap();
    }
    let header = bytes[..at].to_vec();
    let mut entries = Vec::new();
    while at < bytes.len() {
        let length = usize::try_from(word(&bytes[at..])).unwrap();
        entries.push(bytes[at + 4..at + 4 + length].to_vec());
        at += 4 + length;
    }
    (header, entries)
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes[..4].try_into().unwrap())
}

/// Capabilities of the containers, as a mask.
const CAPABILITIES: u64 = 0xa804_25fb;

/// The request that the containers were made from, seccomp profile included.
pub(crate) fn confined(container: &str) -> Request {
    Request {
        seccomp: Some(profile()),
        ..request(container)
    }
}

/// The same without the profile, whose proof takes most of the time of a check.
pub(crate) fn request(container: &str) -> Request {
    let set = |bits| if bits { CAPABILITIES } else { 0 };
    Request {
        credentials: Credentials {
            uid: 0,
            gid: 0,
            groups: Vec::new(),
            bounding: CAPABILITIES,
            effective: CAPABILITIES,
            permitted: set(true),
            inheritable: set(false),
            ambient: set(false),
            no_new_privs: true,
        },
        seccomp: None,
        label: Label::Exactly(None),
        rlimits: [(7, 20_000), (6, 96_365)].into(),
        oom_score_adj: 0,
        nice: 0,
        namespaces: Namespaces {
            pid: Namespace::Own,
            network: Namespace::External {
                key: "extRootNetNS".into(),
            },
            ipc: Namespace::Own,
            uts: Namespace::Own,
            hostname: Some("pod-a".into()),
        },
        mounts: mounts(container),
        tmpfs_archives: true,
        limits: Limits::default(),
    }
}

fn mount(point: &str, origins: Vec<MountOrigin>, options: &[&str]) -> ExpectedMount {
    ExpectedMount {
        mountpoint: point.into(),
        origins,
        restrictions: Restrictions::from_options(options),
        propagation: Propagation::Private,
        presence: Presence::Required,
    }
}

fn new(point: &str, filesystem: Filesystem, options: &[&str]) -> ExpectedMount {
    let options_of = options.iter().map(|&option| option.to_owned()).collect();
    mount(
        point,
        vec![MountOrigin::New {
            filesystem,
            options: options_of,
        }],
        options,
    )
}

fn external(point: &str, keys: &[&str], within: Option<&str>, options: &[&str]) -> ExpectedMount {
    let keys = keys.iter().map(|&key| key.to_owned()).collect();
    mount(
        point,
        vec![MountOrigin::External {
            keys,
            within: within.map(Into::into),
        }],
        options,
    )
}

fn mounts(container: &str) -> Vec<ExpectedMount> {
    let strict = ["nosuid", "noexec", "nodev"];
    let strict_ro = ["nosuid", "noexec", "nodev", "ro"];
    let mut all = vec![
        mount("/", vec![MountOrigin::Root], &[]),
        new("/proc", Filesystem::Proc, &strict),
        new(
            "/dev",
            Filesystem::Tmpfs,
            &["nosuid", "strictatime", "mode=755", "size=65536k"],
        ),
        new(
            "/dev/pts",
            Filesystem::Devpts,
            &["nosuid", "noexec", "newinstance", "gid=5"],
        ),
        new("/dev/mqueue", Filesystem::Mqueue, &strict),
        new("/sys", Filesystem::Sysfs, &strict_ro),
        new("/sys/fs/cgroup", Filesystem::Tmpfs, &strict),
        new("/tmp", Filesystem::Tmpfs, &["nosuid", "nodev", "size=16m"]),
        external("/var/cfg", &["/var/cfg"], None, &["ro"]),
        ExpectedMount {
            presence: Presence::EachChild,
            ..external("/sys/fs/cgroup", &[], None, &strict_ro)
        },
    ];
    let files = [
        "/etc/hosts",
        "/etc/hostname",
        "/etc/resolv.conf",
        "/dev/termination-log",
        "/dev/shm",
    ];
    all.extend(files.map(|path| external(path, &[path], None, &[])));
    for path in ["bus", "fs", "irq", "sys"] {
        let root = PartRoot::Exactly(format!("/{path}"));
        let part = MountOrigin::Part {
            of: "/proc".into(),
            root,
        };
        all.push(mount(&format!("/proc/{path}"), vec![part], &strict_ro));
    }
    for path in ["/proc/keys", "/proc/timer_list"] {
        all.push(external(path, &["/dev/null", path], Some("/dev"), &[]));
    }
    for path in ["/proc/acpi", "/sys/firmware"] {
        all.push(new(path, Filesystem::Tmpfs, &["ro"]));
    }
    if container == "python" {
        all.extend(["/usr", "/root"].map(|path| external(path, &[path], None, &["ro"])));
    } else {
        let part = MountOrigin::Part {
            of: "/dev/pts".into(),
            root: PartRoot::Number,
        };
        all.push(mount("/dev/console", vec![part], &[]));
    }
    all
}
