//! Which images there are: records on disk, and the same in memory for readers.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{PoisonError, RwLock};

use crate::content::Blobs;
use crate::digest::Digest;
use crate::error::Error;
use crate::image::{Image, ImageRecord, VERSION};
use crate::records::Records;
use crate::reference::Reference;

const IMAGES: &str = "images";
/// Shortest prefix of an id that names an image.
const MIN_PREFIX: usize = 4;

/// A record and what callers see of it.
#[derive(Debug, Clone)]
struct Known {
    record: ImageRecord,
    image: Image,
}

/// All images.
#[derive(Debug)]
pub(crate) struct Catalog {
    records: Records,
    known: RwLock<BTreeMap<Digest, Known>>,
}

impl Catalog {
    /// Opens `images.redb` and reads every image; one that cannot be read is logged and kept on
    /// disk, but not shown.
    pub(crate) fn open(images: &Path, blobs: &Blobs) -> Result<Self, Error> {
        let records = Records::open(&images.join("images.redb"))?;
        let mut known = BTreeMap::new();
        for (key, value) in records.list::<serde_json::Value>(IMAGES)? {
            match load(value, blobs) {
                Ok(found) => drop(known.insert(found.record.id.clone(), found)),
                Err(error) => {
                    tracing::warn!(image = %key, %error, "an image cannot be used; load it again");
                }
            }
        }
        Ok(Self {
            records,
            known: RwLock::new(known),
        })
    }

    /// The database, for other tables.
    pub(crate) fn records(&self) -> &Records {
        &self.records
    }

    /// Every image, sorted by id.
    pub(crate) fn list(&self) -> Vec<Image> {
        self.read(|known| known.values().map(|known| known.image.clone()).collect())
    }

    /// Every record, also those of images that are not shown: their content must stay.
    ///
    /// # Errors
    ///
    /// [`Error::Record`] for one that cannot be read, so that nobody takes its content for unused.
    pub(crate) fn stored(&self) -> Result<Vec<ImageRecord>, Error> {
        Ok(self
            .records
            .list(IMAGES)?
            .into_iter()
            .map(|(_, record)| record)
            .collect())
    }

    fn all_records(&self) -> Vec<ImageRecord> {
        self.read(|known| known.values().map(|known| known.record.clone()).collect())
    }

    /// Finds an image as containerd does: by name, else by id or an unambiguous prefix of one. A
    /// digest finds the image whose configuration or manifest has it.
    pub(crate) fn find(&self, reference: &str) -> Option<(ImageRecord, Image)> {
        self.read(|known| {
            let found = by_name(known, reference).or_else(|| by_id(known, reference))?;
            Some((found.record.clone(), found.image.clone()))
        })
    }

    /// Adds images, each under its names, which other images lose.
    pub(crate) fn add(&self, added: Vec<ImageRecord>, blobs: &Blobs) -> Result<Vec<Image>, Error> {
        let mut changed: BTreeMap<Digest, ImageRecord> = BTreeMap::new();
        let mut order = Vec::new();
        let mut all: BTreeMap<Digest, ImageRecord> = self
            .all_records()
            .into_iter()
            .map(|record| (record.id.clone(), record))
            .collect();
        for mut new in added {
            for other in all.values_mut().filter(|other| other.id != new.id) {
                let before = other.tags.len();
                other.tags.retain(|tag| !new.tags.contains(tag));
                if other.tags.len() != before {
                    changed.insert(other.id.clone(), other.clone());
                }
            }
            if let Some(old) = all.get(&new.id) {
                merge(&mut new.tags, &old.tags);
                merge(&mut new.digests, &old.digests);
                new.pinned |= old.pinned;
            }
            order.push(new.id.clone());
            all.insert(new.id.clone(), new.clone());
            changed.insert(new.id.clone(), new);
        }
        self.store(&changed, blobs)?;
        Ok(self.read(|known| {
            order
                .iter()
                .filter_map(|id| known.get(id))
                .map(|known| known.image.clone())
                .collect()
        }))
    }

    /// Forgets an image and all of its names.
    pub(crate) fn remove(&self, id: &Digest) -> Result<(), Error> {
        self.records.remove(IMAGES, id.as_str())?;
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        Ok(())
    }

    fn store(&self, changed: &BTreeMap<Digest, ImageRecord>, blobs: &Blobs) -> Result<(), Error> {
        let mut loaded = Vec::new();
        for record in changed.values() {
            let image = record.image(blobs.document(&record.id)?)?;
            loaded.push((
                record.id.clone(),
                Known {
                    record: record.clone(),
                    image,
                },
            ));
        }
        self.records.transaction(|transaction| {
            for (id, record) in changed {
                transaction.put(IMAGES, id.as_str(), record)?;
            }
            Ok::<_, Error>(())
        })?;
        self.known
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(loaded);
        Ok(())
    }

    fn read<T>(&self, work: impl FnOnce(&BTreeMap<Digest, Known>) -> T) -> T {
        work(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn load(value: serde_json::Value, blobs: &Blobs) -> Result<Known, Error> {
    let record: ImageRecord = serde_json::from_value(value)
        .map_err(|error| Error::malformed("the record", error.to_string()))?;
    if record.version != VERSION {
        return Err(Error::malformed(
            "the record",
            format!("has version {}", record.version),
        ));
    }
    let image = record.image(blobs.document(&record.id)?)?;
    Ok(Known { record, image })
}

fn merge(into: &mut Vec<String>, from: &[String]) {
    into.extend(from.iter().cloned());
    into.sort();
    into.dedup();
}

fn by_name<'a>(known: &'a BTreeMap<Digest, Known>, reference: &str) -> Option<&'a Known> {
    let name = Reference::parse(reference).ok()?.to_string();
    known
        .values()
        .find(|known| known.record.tags.contains(&name) || known.record.digests.contains(&name))
}

fn by_id<'a>(known: &'a BTreeMap<Digest, Known>, reference: &str) -> Option<&'a Known> {
    let hex = reference.strip_prefix("sha256:").unwrap_or(reference);
    if hex.len() < MIN_PREFIX || !hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    let mut matching = known.iter().filter(|(id, _)| id.hex().starts_with(hex));
    match (matching.next(), matching.next()) {
        (Some((_, only)), None) => Some(only),
        (Some(_), Some(_)) => None,
        (None, _) => known.values().find(|known| {
            let suffix = format!("@{reference}");
            known.record.manifest.as_str() == reference
                || known
                    .record
                    .digests
                    .iter()
                    .any(|name| name.ends_with(&suffix))
        }),
    }
}
