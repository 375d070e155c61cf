//! The set as a whole: unknown files, entries and fields, the process tree, sizes of lists.

use super::{Malformed, Privilege, core, passes, refused, refused_by};
use crate::proto::{InventoryEntry, PluginsEntry, PstreeEntry, SiginfoEntry};
use crate::{MemoryImages, testing};

fn append(set: &mut MemoryImages, name: &str, bytes: &[u8]) {
    set.0.get_mut(name).unwrap().extend(bytes);
}

#[test]
fn unknown_files_are_refused() {
    for name in [
        "rlimit-1.img",
        "iptables-10.img",
        "netns-ct-10.img",
        "netns-exp-10.img",
        "apparmor.img",
        "parent",
        "x",
        "core-01.img",
    ] {
        refused(
            |images| drop(images.0.insert(name.into(), vec![0; 100])),
            (Malformed, None, name, ""),
        );
    }
}

#[test]
fn unknown_fields_and_values_are_refused() {
    // Field 15 of fs_entry, which ends the file.
    refused(
        |images| {
            let mut bytes = images.0["fs-1.img"].clone();
            bytes[8] += 2;
            bytes.extend([15 << 3, 1]);
            images.0.insert("fs-1.img".into(), bytes);
        },
        (Malformed, None, "fs-1.img", ""),
    );
    // A descriptor of the type 99.
    refused(
        |images| {
            append(
                images,
                "fdinfo-2.img",
                &[8, 0, 0, 0, 8, 1, 16, 0, 24, 99, 32, 90],
            )
        },
        (Malformed, None, "fdinfo-2.img", "type"),
    );
    refused(
        |images| append(images, "pstree.img", &[9]),
        (Malformed, None, "pstree.img", ""),
    );
    refused(
        |images| append(images, "mm-1.img", &[1, 0, 0, 0, 0]),
        (Malformed, None, "mm-1.img", ""),
    );
    refused(
        |images| images.0.get_mut("files.img").unwrap()[0] ^= 1,
        (Malformed, None, "files.img", ""),
    );
}

#[test]
fn missing_images_are_named() {
    for (name, task) in [
        ("core-1.img", Some(1)),
        ("core-6.img", Some(1)),
        ("mm-7.img", Some(7)),
        ("pagemap-7.img", Some(7)),
        ("fs-1.img", Some(1)),
        ("fdinfo-2.img", Some(1)),
        ("inventory.img", None),
    ] {
        refused(
            |images| drop(images.0.remove(name)),
            (Malformed, task, name, ""),
        );
    }
    refused(
        |images| drop(images.0.remove("mountpoints-13.img")),
        (Malformed, None, "mountpoints-*.img", ""),
    );
}

#[test]
fn images_that_belong_to_nobody_are_refused() {
    for (from, name) in [
        ("core-1.img", "core-99.img"),
        ("mm-1.img", "mm-99.img"),
        ("fs-1.img", "fs-99.img"),
        ("fdinfo-2.img", "fdinfo-99.img"),
        ("pages-1.img", "pages-99.img"),
        ("pagemap-1.img", "pagemap-99.img"),
        ("pagemap-shmem-0.img", "pagemap-shmem-99.img"),
        ("tmpfs-dev-FIRST", "tmpfs-dev-999.tar.gz.img"),
    ] {
        refused(
            |images| {
                let bytes = images.0.get(from).cloned().unwrap_or_default();
                images.0.insert(name.into(), bytes);
            },
            (Malformed, None, name, ""),
        );
    }
}

#[test]
fn the_tree_has_one_root_and_no_cycle() {
    type Forge = fn(&mut Vec<PstreeEntry>);
    let cases: [(Forge, Option<u32>, &str); 6] = [
        (|p| p[1].ppid = 7, Some(7), "ppid"),
        (|p| p[1].ppid = 99, Some(7), "ppid"),
        (|p| p[0].ppid = 7, Some(1), "ppid"),
        (|p| p[1].pid = 1, Some(1), "pid"),
        (|p| p[0].threads.push(7), Some(7), "threads"),
        (|p| p.clear(), None, ""),
    ];
    for (forge, task, field) in cases {
        refused(
            |images| testing::edit(images, "pstree.img", forge),
            (Malformed, task, "pstree.img", field),
        );
    }
}

#[test]
fn lists_of_fixed_size_have_it() {
    let field = "thread_info.fpregs.xmm_space";
    refused(
        |images| {
            core(images, 1, |core| {
                core.thread_info.as_mut().unwrap().fpregs.xmm_space.push(0);
            });
        },
        (Malformed, Some(1), "core-1.img", field),
    );
    refused(
        |images| {
            core(images, 1, |core| {
                let queue = core.tc.as_mut().unwrap().signals_s.as_mut().unwrap();
                queue.signals.push(SiginfoEntry {
                    siginfo: vec![0; 129],
                });
            });
        },
        (Malformed, Some(1), "core-1.img", "tc.signals_s"),
    );
    refused(
        |images| core(images, 1, |core| core.mtype = 3),
        (Malformed, Some(1), "core-1.img", "mtype"),
    );
    refused(
        |images| {
            core(images, 1, |core| {
                core.tc.as_mut().unwrap().comm = vec![b'a'; 16]
            })
        },
        (Malformed, Some(1), "core-1.img", "tc.comm"),
    );
}

#[test]
fn the_inventory_asks_for_nothing_special() {
    let inventory = |images: &mut MemoryImages, change: fn(&mut InventoryEntry)| {
        testing::edit(images, "inventory.img", |all: &mut Vec<InventoryEntry>| {
            change(&mut all[0])
        });
    };
    refused(
        |images| {
            inventory(images, |i| {
                i.plugins_entry = Some(PluginsEntry {
                    plugins: vec![b"amdgpu_plugin".to_vec()],
                });
            });
        },
        (Privilege, None, "inventory.img", "plugins_entry"),
    );
    refused(
        |images| {
            inventory(images, |i| {
                i.dump_criu_run_id = Some(b"x; flush ruleset".to_vec())
            })
        },
        (Privilege, None, "inventory.img", "dump_criu_run_id"),
    );
    refused(
        |images| inventory(images, |i| i.img_version = 1),
        (Malformed, None, "inventory.img", "img_version"),
    );
    refused(
        |images| inventory(images, |i| i.fdinfo_per_id = None),
        (Malformed, None, "inventory.img", "fdinfo_per_id"),
    );
}

#[test]
fn everything_is_bounded() {
    let mut request = testing::request("python");
    passes(&request, |_| {});
    request.limits.max_tasks = 2;
    refused_by(&request, |_| {}, (Malformed, None, "pstree.img", ""));
    let mut request = testing::request("python");
    request.limits.max_mounts = 20;
    refused_by(
        &request,
        |_| {},
        (Malformed, None, "mountpoints-13.img", ""),
    );
    let mut request = testing::request("python");
    request.limits.max_images = 10;
    refused_by(&request, |_| {}, (Malformed, None, "images", ""));
    let mut request = testing::request("python");
    request.limits.max_image_bytes = 4000;
    refused_by(&request, |_| {}, (Malformed, None, "seccomp.img", ""));
    let mut request = testing::request("python");
    request.limits.max_page_bytes = 1 << 20;
    refused_by(&request, |_| {}, (Malformed, None, "pages-3.img", ""));
    let mut request = testing::request("python");
    request.limits.max_fd = 3;
    refused_by(&request, |_| {}, (Malformed, None, "fdinfo-2.img", "fd 3"));
    let mut request = testing::confined("python");
    request.limits.max_filter_steps = 10;
    refused_by(
        &request,
        |_| {},
        (
            Privilege,
            Some(1),
            "core-1.img",
            "thread_core.seccomp_filter",
        ),
    );
    let mut request = testing::request("python");
    request.limits.max_violations = 3;
    request.mounts.clear();
    let violations = crate::policy::check(&testing::images("python"), &request).unwrap_err();
    assert_eq!(violations.len(), 3);
}

#[test]
fn names_of_the_standard_descriptors_are_three() {
    const NAME: &str = "descriptors.json";
    passes(&testing::request("python"), |images| {
        images.0.insert(
            NAME.into(),
            br#"["/dev/null","pipe:[1]","pipe:[2]"]"#.to_vec(),
        );
    });
    let long = format!(r#"["{}","",""]"#, "a".repeat(20_000)).into_bytes();
    for bytes in [
        &b"{}"[..],
        br#"["a","b"]"#,
        br#"["a","b","c","d"]"#,
        b"[1,2,3]",
        &long,
    ] {
        refused(
            |images| drop(images.0.insert(NAME.into(), bytes.to_vec())),
            (Malformed, None, NAME, ""),
        );
    }
}

/// A source whose files cannot be read.
struct Broken(MemoryImages);

impl crate::ImageSource for Broken {
    fn list(&self) -> std::io::Result<Vec<(String, u64)>> {
        self.0.list()
    }

    fn open(&self, name: &str) -> std::io::Result<Option<Box<dyn std::io::Read + '_>>> {
        if name == "mm-1.img" {
            Err(std::io::ErrorKind::Other.into())
        } else {
            self.0.open(name)
        }
    }
}

#[test]
fn what_cannot_be_read_is_not_called_malformed() {
    let source = Broken(testing::images("python"));
    let violations = crate::policy::check(&source, &testing::request("python")).unwrap_err();
    let [violation] = violations.as_slice() else {
        panic!("{violations:#?}")
    };
    assert_eq!(violation.kind, crate::ViolationKind::Unreadable);
    assert_eq!(violation.to_string(), "mm-1.img: open: other error");
    let gone = testing::images("python");
    assert_eq!(
        crate::ImageSource::read_at(&gone, "pstree.img", 4, 2).unwrap(),
        [0x30, 0x30]
    );
    assert_eq!(
        crate::ImageSource::read_at(&gone, "pstree.img", 9999, 2).unwrap(),
        [0u8; 0]
    );
    let missing = crate::ImageSource::read_at(&gone, "none.img", 0, 2).unwrap_err();
    assert_eq!(missing.kind(), std::io::ErrorKind::NotFound);
}
