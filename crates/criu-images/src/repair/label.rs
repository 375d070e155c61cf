//! Labels of security modules in `core-ID.img`, `fdinfo-ID.img` and `inventory.img`.
//!
//! A label is the name of something that the node of the dump had: an AppArmor profile, an SELinux
//! context. CRIU gives every thread the one of its image again, and leaves a thread without one with
//! what CRIU itself has. What a name means here only this node knows, so the caller says which ones
//! are held; every other is replaced by what the request grants.

use super::splice::Fields;
use super::{RepairError, entries, join};

const CORE_MAGIC: u32 = 0x5505_3847;
const FDINFO_MAGIC: u32 = 0x5621_3732;
const INVENTORY_MAGIC: u32 = 0x5831_3116;
/// `core_entry.thread_core`.
const THREAD: u32 = 5;
/// `thread_core_entry.creds`.
const CREDS: u32 = 10;
/// Fields of `creds_entry`.
const PROFILE: u32 = 15;
const SOCKET: u32 = 16;
/// `fdinfo_entry.xattr_security_selinux`.
const FILE_LABEL: u32 = 5;
/// `inventory_entry.lsmtype`, and its value for no security module.
const MODULE: u32 = 6;
const NO_MODULE: u64 = 0;

/// What becomes of labels.
#[derive(Clone, Copy)]
pub struct Relabel<'a> {
    /// What a thread is to have whose label is not held, or who has none; `None` for no label.
    pub granted: Option<&'a str>,
    /// Whether a label means something on this node. It then stays, for the check of the images to
    /// hold it against the request.
    pub held: &'a dyn Fn(&[u8]) -> bool,
}

impl std::fmt::Debug for Relabel<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relabel")
            .field("granted", &self.granted)
            .finish_non_exhaustive()
    }
}

/// A relabelled image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relabelled {
    /// It.
    pub image: Vec<u8>,
    /// For each thread that has another label now, the one that it had.
    pub replaced: Vec<Option<Vec<u8>>>,
}

/// Labels the threads of one `core-ID.img`.
///
/// # Errors
///
/// [`RepairError::Malformed`] when it is not a `core-ID.img`.
pub fn relabel_core(core: &[u8], relabel: Relabel<'_>) -> Result<Relabelled, RepairError> {
    let (header, old) = entries(core, CORE_MAGIC)?;
    let (mut new, mut replaced) = (Vec::with_capacity(old.len()), Vec::new());
    for entry in old {
        new.push(relabel_entry(entry, relabel, &mut replaced)?);
    }
    Ok(Relabelled {
        image: join(header, &new)?,
        replaced,
    })
}

fn relabel_entry(
    entry: &[u8],
    relabel: Relabel<'_>,
    replaced: &mut Vec<Option<Vec<u8>>>,
) -> Result<Vec<u8>, RepairError> {
    let mut core = Fields::read(entry)?;
    // The dead have no credentials.
    let Some(thread) = core.bytes(THREAD) else {
        return Ok(entry.to_vec());
    };
    let mut thread = Fields::read(thread)?;
    let Some(creds) = thread.bytes(CREDS) else {
        return Ok(entry.to_vec());
    };
    let mut creds = Fields::read(creds)?;
    let held = |label: Option<&[u8]>| label.is_some_and(|label| (relabel.held)(label));
    let old = creds.bytes(PROFILE);
    if !held(old) && old != relabel.granted.map(str::as_bytes) {
        replaced.push(old.map(<[u8]>::to_vec));
        match relabel.granted {
            Some(label) => creds.set_bytes(PROFILE, label.as_bytes()),
            None => creds.remove(PROFILE),
        }
    }
    // No new container has one.
    if !held(creds.bytes(SOCKET)) {
        creds.remove(SOCKET);
    }
    thread.set_bytes(CREDS, &creds.write());
    core.set_bytes(THREAD, &thread.write());
    Ok(core.write())
}

/// Drops the labels of open files in one `fdinfo-ID.img` that are not held.
///
/// # Errors
///
/// [`RepairError::Malformed`] when it is not an `fdinfo-ID.img`.
pub fn relabel_files(fdinfo: &[u8], relabel: Relabel<'_>) -> Result<Vec<u8>, RepairError> {
    let (header, old) = entries(fdinfo, FDINFO_MAGIC)?;
    let mut new = Vec::with_capacity(old.len());
    for entry in old {
        let mut file = Fields::read(entry)?;
        if file
            .bytes(FILE_LABEL)
            .is_some_and(|label| !(relabel.held)(label))
        {
            file.remove(FILE_LABEL);
        }
        new.push(file.write());
    }
    join(header, &new)
}

/// Makes `inventory.img` say nothing of the security module of the dump. CRIU refuses labels that
/// stand beside another module than this node's, whoever gave them.
///
/// # Errors
///
/// [`RepairError::Malformed`] when it is not an `inventory.img`.
pub fn forget_security_module(inventory: &[u8]) -> Result<Vec<u8>, RepairError> {
    // The only image with a single magic number: put in the other's place, it reads like the rest.
    let double = [&[0; 4], inventory].concat();
    let (header, old) = entries(&double, INVENTORY_MAGIC)?;
    let mut new = Vec::with_capacity(old.len());
    for entry in old {
        let mut fields = Fields::read(entry)?;
        if fields
            .number(MODULE)
            .is_some_and(|module| module != NO_MODULE)
        {
            fields.set_number(MODULE, NO_MODULE);
        }
        new.push(fields.write());
    }
    let image = join(header, &new)?;
    Ok(image.get(4..).unwrap_or_default().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MemoryImages;
    use crate::policy::{self, Label};
    use crate::proto::{CoreEntry, CredsEntry, FdinfoEntry, InventoryEntry};
    use crate::{ViolationKind, testing};

    const CORES: [u32; 3] = [1, 6, 7];

    fn labelled(label: Option<&str>) -> MemoryImages {
        let mut set = testing::images("python");
        for tid in CORES {
            creds(&mut set, tid, |creds| {
                creds.lsm_profile = label.map(|label| label.as_bytes().to_vec());
            });
        }
        set
    }

    fn creds(set: &mut MemoryImages, tid: u32, change: impl Fn(&mut CredsEntry)) {
        let name = format!("core-{tid}.img");
        testing::edit(set, &name, |cores: &mut Vec<CoreEntry>| {
            let thread = cores[0].thread_core.as_mut().unwrap();
            change(thread.creds.as_mut().unwrap());
        });
    }

    /// Labels every core; the labels that went.
    fn relabel(
        set: &mut MemoryImages,
        granted: Option<&str>,
        held: &[&str],
    ) -> Vec<Option<String>> {
        let held = |label: &[u8]| held.iter().any(|held| held.as_bytes() == label);
        let relabel = Relabel {
            granted,
            held: &held,
        };
        let mut all = Vec::new();
        for tid in CORES {
            let name = format!("core-{tid}.img");
            let once = relabel_core(&set.0[&name], relabel).unwrap();
            let again = relabel_core(&once.image, relabel).unwrap();
            assert_eq!(again.image, once.image, "a second time");
            assert_eq!(again.replaced, [], "a second time");
            set.0.insert(name, once.image);
            all.extend(once.replaced);
        }
        all.into_iter()
            .map(|label| label.map(|label| String::from_utf8(label).unwrap()))
            .collect()
    }

    fn labels(set: &MemoryImages) -> Vec<Option<String>> {
        let images = testing::decode(set);
        CORES
            .iter()
            .map(|tid| {
                let thread = images.cores[tid].thread_core.as_ref().unwrap();
                let label = thread.creds.as_ref().unwrap().lsm_profile.clone();
                label.map(|label| String::from_utf8(label).unwrap())
            })
            .collect()
    }

    /// Holds the images against a request that grants this label.
    fn checked(set: &MemoryImages, granted: Option<&str>) -> Vec<String> {
        let mut request = testing::request("python");
        request.label = Label::Exactly(granted.map(str::to_owned));
        let found = policy::check(set, &request).err().unwrap_or_default();
        found
            .iter()
            .map(|violation| {
                assert_eq!(violation.kind, ViolationKind::Privilege);
                violation.to_string()
            })
            .collect()
    }

    #[test]
    fn a_label_that_is_not_held_becomes_what_the_request_grants() {
        for (old, granted) in [
            (Some("crun"), None),
            (Some("crun"), Some("thawd-default")),
            (None, Some("thawd-default")),
            (Some("u:r:container_t:s0:c1,c2"), Some("mine")),
        ] {
            let mut set = labelled(old);
            let replaced = relabel(&mut set, granted, &[]);
            let was = old.map(str::to_owned);
            assert_eq!(replaced, [was.clone(), was.clone(), was], "{old:?}");
            let granted_now = granted.map(str::to_owned);
            assert_eq!(
                labels(&set),
                [granted_now.clone(), granted_now.clone(), granted_now],
                "{old:?}"
            );
            assert_eq!(checked(&set, granted), [""; 0], "{old:?}");
        }
    }

    #[test]
    fn threads_that_differ_get_the_same_label() {
        let mut set = labelled(Some("crun"));
        creds(&mut set, 6, |creds| {
            creds.lsm_profile = Some(b"busybox".to_vec());
        });
        creds(&mut set, 7, |creds| creds.lsm_profile = None);
        let replaced = relabel(&mut set, Some("thawd-default"), &[]);
        assert_eq!(
            replaced,
            [Some("crun".into()), Some("busybox".into()), None]
        );
        assert_eq!(checked(&set, Some("thawd-default")), [""; 0]);
    }

    #[test]
    fn a_label_that_is_held_stays_and_is_refused_unless_it_is_the_requests() {
        for granted in [None, Some("mine"), Some("mine//hat")] {
            let mut set = labelled(Some("other"));
            assert_eq!(relabel(&mut set, granted, &["other"]), []);
            let found = checked(&set, granted);
            assert_eq!(found.len(), 3, "{found:?}");
            assert!(
                found[0].contains("thread_core.creds.lsm_profile: other"),
                "{found:?}"
            );
        }
        let mut set = labelled(Some("other"));
        assert_eq!(relabel(&mut set, Some("other"), &["other"]), []);
        assert_eq!(checked(&set, Some("other")), [""; 0]);
    }

    #[test]
    fn a_thread_whose_fields_come_twice_is_refused_whatever_is_held() {
        let mut set = labelled(Some("crun"));
        let (header, mut entries) = testing::split("core-6.img", &set.0["core-6.img"]);
        let twice = entries[0].clone();
        entries[0].extend(twice);
        set.0
            .insert("core-6.img".into(), join(&header, &entries).unwrap());
        let bytes = set.0["core-6.img"].clone();
        let relabel = Relabel {
            granted: None,
            held: &|_| false,
        };
        let once = relabel_core(&bytes, relabel).unwrap();
        set.0.insert("core-6.img".into(), once.image);
        let found = policy::check(&set, &testing::request("python")).unwrap_err();
        assert!(
            found
                .iter()
                .any(|violation| violation.kind == ViolationKind::Malformed
                    && violation.to_string().contains("core-6.img")),
            "{found:?}"
        );
    }

    #[test]
    fn a_label_for_sockets_goes_unless_it_is_held() {
        let socket = |set: &mut MemoryImages| {
            creds(set, 1, |creds| {
                creds.lsm_sockcreate = Some(b"u:r:s:s0".to_vec())
            });
        };
        let mut set = labelled(None);
        socket(&mut set);
        relabel(&mut set, None, &[]);
        assert_eq!(checked(&set, None), [""; 0]);
        let mut set = labelled(None);
        socket(&mut set);
        relabel(&mut set, None, &["u:r:s:s0"]);
        let found = checked(&set, None);
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(found[0].contains("lsm_sockcreate"), "{found:?}");
    }

    #[test]
    fn a_core_without_credentials_stays_as_it_is() {
        let mut set = testing::images("python");
        testing::edit(&mut set, "core-1.img", |cores: &mut Vec<CoreEntry>| {
            cores[0].thread_core = None;
        });
        let relabel = Relabel {
            granted: Some("mine"),
            held: &|_| false,
        };
        let bytes = &set.0["core-1.img"];
        let same = relabel_core(bytes, relabel).unwrap();
        assert_eq!((&same.image, same.replaced), (bytes, Vec::new()));
        assert!(relabel_core(b"no image", relabel).is_err());
    }

    #[test]
    fn labels_of_open_files_go_unless_they_are_held() {
        let mut set = testing::images("python");
        let name = set
            .0
            .keys()
            .find(|name| name.starts_with("fdinfo-"))
            .unwrap()
            .clone();
        let plain = set.0[&name].clone();
        testing::edit(&mut set, &name, |files: &mut Vec<FdinfoEntry>| {
            files[0].xattr_security_selinux = Some(b"u:r:t:s0".to_vec());
        });
        let bytes = &set.0[&name];
        let with = |held| {
            let held = move |_: &[u8]| held;
            let relabel = Relabel {
                granted: None,
                held: &held,
            };
            relabel_files(bytes, relabel).unwrap()
        };
        assert_eq!(with(false), plain);
        assert_eq!(&with(true), bytes);
    }

    #[test]
    fn the_security_module_of_the_dump_is_forgotten() {
        let mut set = testing::images("python");
        let module = |set: &mut MemoryImages, module| {
            testing::edit(set, "inventory.img", |all: &mut Vec<InventoryEntry>| {
                all[0].lsmtype = module;
            });
        };
        for (old, new) in [
            (Some(1), Some(0)),
            (Some(2), Some(0)),
            (Some(0), Some(0)),
            (None, None),
        ] {
            module(&mut set, old);
            let image = forget_security_module(&set.0["inventory.img"]).unwrap();
            set.0.insert("inventory.img".into(), image);
            let inventory = testing::decode(&set).inventory.unwrap();
            assert_eq!(inventory.lsmtype, new, "{old:?}");
        }
        assert!(forget_security_module(b"no image").is_err());
    }
}
