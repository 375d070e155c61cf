//! Decodes a whole set of images into [`Images`].
//!
//! Strictly, for the check: everything unknown or out of form is a violation. Leniently, for
//! showing: what prost can read is taken, and problems are notes.

mod entries;

use std::io::Read;

use crate::image::{Entries, ImageError};
use crate::limits::Limits;
use crate::model::{Images, Pagemap};
use crate::names::ImageName;
use crate::proto;
use crate::source::ImageSource;
use crate::violation::{Place, Report};
use crate::wire::FieldFault;

/// How unknown things are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    Strict,
    Lenient,
}

/// Why an image was given up.
#[derive(Debug)]
enum LoadError {
    Image(ImageError),
    Field(FieldFault),
    Decode(String),
    /// Another number of entries than the file must have.
    Count(String),
    /// Something about one field.
    Value(&'static str, String),
}

impl From<ImageError> for LoadError {
    fn from(error: ImageError) -> Self {
        Self::Image(error)
    }
}

/// Reads all images of `source`; problems go to `report`.
pub(crate) fn load(
    source: &dyn ImageSource,
    limits: &Limits,
    strictness: Strictness,
    report: &mut Report,
) -> Images {
    let mut loader = Loader {
        limits,
        strictness,
        images: Images::default(),
        metadata: 0,
        content: 0,
    };
    let mut names = match source.list() {
        Ok(names) => names,
        Err(error) => {
            report.unreadable(Place::image("images"), format!("list: {error}"));
            return loader.images;
        }
    };
    if names.len() > limits.max_images {
        let detail = format!("{} files, limit is {}", names.len(), limits.max_images);
        report.malformed(Place::image("images"), "", detail);
        return loader.images;
    }
    names.sort();
    for (name, size) in names {
        if report.is_full() {
            break;
        }
        loader.file(source, &name, size, report);
    }
    loader.images
}

struct Loader<'l> {
    limits: &'l Limits,
    strictness: Strictness,
    images: Images,
    metadata: u64,
    content: u64,
}

impl Loader<'_> {
    fn file(&mut self, source: &dyn ImageSource, name: &str, size: u64, report: &mut Report) {
        let place = Place::image(name);
        if self.images.sizes.insert(name.to_owned(), size).is_some() {
            report.malformed(place, "", "appears more than once");
            return;
        }
        let Some(image) = ImageName::parse(name) else {
            if self.strictness == Strictness::Strict {
                report.malformed(place, "", "unknown image file");
            }
            return;
        };
        if let Err(detail) = self.account(image, name, size) {
            report.malformed(place, "", detail);
            return;
        }
        if image.message().is_none() && image != ImageName::Descriptors {
            return;
        }
        let reader = match source.open(name) {
            Ok(Some(reader)) => reader,
            Ok(None) => return report.malformed(place, "", "is listed but absent"),
            Err(error) => return report.unreadable(place, format!("open: {error}")),
        };
        match self.entries(image, reader) {
            Ok(()) => {}
            Err(LoadError::Image(ImageError::Read(error))) => {
                report.unreadable(place, format!("read: {error}"));
            }
            Err(LoadError::Image(error)) => report.malformed(place, "", error.to_string()),
            Err(LoadError::Field(fault)) => {
                report.malformed(place, &fault.field, fault.fault.to_string());
            }
            Err(LoadError::Decode(detail) | LoadError::Count(detail)) => {
                report.malformed(place, "", detail);
            }
            Err(LoadError::Value(field, detail)) => report.malformed(place, field, detail),
        }
    }

    /// Holds the sizes of files against the limits.
    fn account(&mut self, image: ImageName, name: &str, size: u64) -> Result<(), String> {
        let (sum, limit, what) = match image {
            ImageName::Pages(id) => {
                self.images.pages.insert(id, size);
                let all = self
                    .images
                    .pages
                    .values()
                    .fold(0u64, |sum, size| sum.saturating_add(*size));
                (all, self.limits.max_page_bytes, "page images")
            }
            ImageName::TmpfsTar(_) | ImageName::TmpfsDevTar(_) => {
                self.images.tmpfs_archives.insert(name.to_owned(), size);
                self.content = self.content.saturating_add(size);
                (
                    self.content,
                    self.limits.max_content_bytes,
                    "content images",
                )
            }
            ImageName::PipesData
            | ImageName::FifoData
            | ImageName::SocketQueues
            | ImageName::TcpStream(_)
            | ImageName::Ghost(_)
            | ImageName::IpcMsg(_) => {
                self.content = self.content.saturating_add(size);
                (
                    self.content,
                    self.limits.max_content_bytes,
                    "content images",
                )
            }
            _ => {
                if size > self.limits.max_image_bytes {
                    return Err(format!(
                        "{size} bytes, limit is {}",
                        self.limits.max_image_bytes
                    ));
                }
                self.metadata = self.metadata.saturating_add(size);
                (
                    self.metadata,
                    self.limits.max_metadata_bytes,
                    "metadata images",
                )
            }
        };
        if sum > limit {
            return Err(format!("{what} of more than {limit} bytes together"));
        }
        Ok(())
    }

    fn entries(&mut self, image: ImageName, reader: Box<dyn Read + '_>) -> Result<(), LoadError> {
        if image == ImageName::Descriptors {
            return descriptors(reader);
        }
        let mut entries = Entries::open(reader, image, self.limits)?;
        match image {
            ImageName::Core(id) => self.core(id, &mut entries),
            ImageName::Pagemap(id) => {
                let map = self.pagemap(&mut entries)?;
                self.images.pagemaps.insert(id, map);
                Ok(())
            }
            ImageName::ShmemPagemap(id) => {
                let map = self.pagemap(&mut entries)?;
                self.images.shmem_pagemaps.insert(id, map);
                Ok(())
            }
            ImageName::Pstree
            | ImageName::Fdinfo(_)
            | ImageName::Files
            | ImageName::Mounts(_)
            | ImageName::RemapPath
            | ImageName::Memfd
            | ImageName::FileLocks
            | ImageName::TtyInfo
            | ImageName::TtyData => self.lists(image, &mut entries),
            ImageName::PipesData
            | ImageName::FifoData
            | ImageName::SocketQueues
            | ImageName::TcpStream(_)
            | ImageName::Ghost(_)
            | ImageName::IpcShm(_)
            | ImageName::IpcSem(_)
            | ImageName::IpcMsg(_) => self.contents(image, &mut entries),
            _ => self.singles(image, &mut entries),
        }
    }

    fn core(&mut self, id: u32, entries: &mut Entries<'_>) -> Result<(), LoadError> {
        if self.images.cores.len() >= self.limits.max_threads {
            return Err(LoadError::Count(format!(
                "more than {} threads",
                self.limits.max_threads
            )));
        }
        let core = self.one("core_entry", entries)?;
        self.images.cores.insert(id, core);
        Ok(())
    }

    /// Files with any number of entries.
    fn lists(&mut self, image: ImageName, entries: &mut Entries<'_>) -> Result<(), LoadError> {
        match image {
            ImageName::Pstree => {
                self.images.processes =
                    self.many("pstree_entry", entries, self.limits.max_tasks)?;
            }
            ImageName::Fdinfo(id) => {
                let list = self.many("fdinfo_entry", entries, self.limits.max_files)?;
                self.images.descriptors.insert(id, list);
            }
            ImageName::Files => {
                let list: Vec<proto::FileEntry> =
                    self.many("file_entry", entries, self.limits.max_files)?;
                for file in list {
                    let id = file.id;
                    if self.images.files.insert(id, file).is_some() {
                        return Err(LoadError::Value("id", format!("{id} appears twice")));
                    }
                }
            }
            ImageName::Mounts(id) => {
                let list = self.many("mnt_entry", entries, self.limits.max_mounts)?;
                self.images.mounts.insert(id, list);
            }
            ImageName::RemapPath => {
                let list = self.many("remap_file_path_entry", entries, self.limits.max_files)?;
                self.images.remaps = list;
            }
            ImageName::Memfd => {
                let list = self.many("memfd_inode_entry", entries, self.limits.max_files)?;
                self.images.memfds = list;
            }
            ImageName::FileLocks => {
                let list = self.many("file_lock_entry", entries, self.limits.max_files)?;
                self.images.locks = list;
            }
            ImageName::TtyInfo => {
                let list: Vec<proto::TtyInfoEntry> =
                    self.many("tty_info_entry", entries, self.limits.max_files)?;
                self.images.terminals = list.into_iter().map(|tty| (tty.id, tty)).collect();
            }
            _ => {
                let limit = self.limits.max_files;
                let _unread: Vec<proto::TtyDataEntry> =
                    self.many("tty_data_entry", entries, limit)?;
            }
        }
        Ok(())
    }

    /// Files with exactly one entry.
    fn singles(&mut self, image: ImageName, entries: &mut Entries<'_>) -> Result<(), LoadError> {
        let message = image.message().unwrap_or_default();
        match image {
            ImageName::Inventory => self.images.inventory = Some(self.one(message, entries)?),
            ImageName::StatsDump => self.images.stats = Some(self.one(message, entries)?),
            ImageName::Ids(id) => {
                let entry = self.one(message, entries)?;
                self.images.ids.insert(id, entry);
            }
            ImageName::Mm(id) => {
                let entry = self.one(message, entries)?;
                self.images.memory.insert(id, entry);
            }
            ImageName::Fs(id) => {
                let entry = self.one(message, entries)?;
                self.images.roots.insert(id, entry);
            }
            ImageName::Utsns(id) => {
                let entry = self.one(message, entries)?;
                self.images.hostnames.insert(id, entry);
            }
            ImageName::IpcVar(id) => {
                let entry = self.one(message, entries)?;
                self.images.ipc_settings.insert(id, entry);
            }
            ImageName::Timens(id) => {
                let entry = self.one(message, entries)?;
                self.images.clocks.insert(id, entry);
            }
            ImageName::Pidns(id) => {
                let entry = self.one(message, entries)?;
                self.images.pid_namespaces.insert(id, entry);
            }
            ImageName::Netns(id) => {
                let entry = self.one(message, entries)?;
                self.images.net_namespaces.insert(id, entry);
            }
            ImageName::Seccomp => {
                let entry: proto::SeccompEntry = self.one(message, entries)?;
                self.images.filters = entry.seccomp_filters;
            }
            ImageName::Cgroup => drop(self.one::<proto::CgroupEntry>(message, entries)?),
            _ => drop(self.one::<proto::CpuinfoEntry>(message, entries)?),
        }
        Ok(())
    }

    fn pagemap(&mut self, entries: &mut Entries<'_>) -> Result<Pagemap, LoadError> {
        let head: proto::PagemapHead = self.first("pagemap_head", entries)?;
        let limit = usize::try_from(self.limits.max_entries).unwrap_or(usize::MAX);
        let entries = self.many("pagemap_entry", entries, limit)?;
        Ok(Pagemap {
            pages_id: head.pages_id,
            entries,
        })
    }
}

/// `descriptors.json`, which the OCI runtime reads: what the first three descriptors were, as
/// `/proc/PID/fd` names them.
fn descriptors(reader: Box<dyn Read + '_>) -> Result<(), LoadError> {
    const MAX_BYTES: u64 = 16_384;
    let mut bytes = Vec::new();
    reader
        .take(MAX_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(ImageError::from)?;
    let names: Option<[String; 3]> = serde_json::from_slice(&bytes).ok();
    match names {
        Some(_) if u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_BYTES) => Ok(()),
        _ => Err(LoadError::Count("is no list of three names".to_owned())),
    }
}
