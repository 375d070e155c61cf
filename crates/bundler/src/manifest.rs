//! `manifest.json`: what the archive holds and where it comes from.
//!
//! It is thawd's own and the last entry, so that it can list all others. Versions: a reader takes
//! any minor version of its major one and of those before it. Versions 2 and 3 brought other digests of
//! page images, without which a reader would take them for damaged. A newer minor version may add keys,
//! which are ignored; under the reader's own or an older minor version an unknown key is an error, since then nobody
//! wrote it by the rules. Another major version is refused.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::blocks::{BLOCK_BYTES, Scheme};

/// Major version written here.
pub const FORMAT_VERSION: u32 = 3;
/// The oldest major version that is read.
const OLDEST_VERSION: u32 = 1;
/// Minor version written here.
pub const FORMAT_MINOR: u32 = 0;
/// The largest manifest that is read.
pub const MAX_MANIFEST_BYTES: u64 = 16 << 20;

/// The whole of `manifest.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Manifest {
    /// Major version of the format; [`FORMAT_VERSION`].
    pub format_version: u32,
    /// Minor version of the format; [`FORMAT_MINOR`].
    pub format_minor: u32,
    /// When the container was frozen, RFC 3339.
    pub created_at: String,
    /// Who wrote the archive.
    pub engine: Engine,
    /// Version of the CRIU that dumped, for instance `4.2.1`.
    pub criu_version: String,
    /// Kernel release of the host.
    pub kernel: String,
    /// Machine of the host, for instance `x86_64`.
    pub arch: String,
    /// CPU features of the host, sorted; the processes may depend on any of them.
    pub cpu_features: Vec<String>,
    /// What ran the container.
    pub runtime: Runtime,
    /// The container.
    pub container: Container,
    /// Its pod.
    pub pod: Pod,
    /// For how long the container stood still, in nanoseconds.
    pub frozen_ns: u64,
    /// Every entry before this one, in the order of the file.
    pub entries: Vec<Entry>,
    /// Sum of the sizes of all page images.
    pub page_bytes: u64,
    /// Mounts that the container needs to be restored.
    pub mounts: Vec<MountNeed>,
    /// Private tmpfs mounts whose content is in the archive.
    pub tmpfs: Vec<TmpfsContent>,
    /// Whether the container had a terminal.
    pub terminal: bool,
    /// Where descriptors 0, 1 and 2 led, as in `descriptors.json`.
    pub descriptors: Vec<String>,
    /// How it was dumped: option and value.
    pub options: BTreeMap<String, String>,
}

/// A program and its version.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Engine {
    /// Name, for instance `thawd`.
    pub name: String,
    /// Version.
    pub version: String,
}

/// The OCI runtime of the container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Runtime {
    /// Name of the runtime handler.
    pub handler: String,
    /// What program it is, for instance `runc`.
    pub kind: String,
    /// Its version.
    pub version: String,
}

/// The container that was frozen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name in the pod.
    pub name: String,
    /// Which attempt it was.
    pub attempt: u32,
    /// Its image.
    pub image: Image,
}

/// The image that the root filesystem is based on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Image {
    /// Image id: the digest of its configuration.
    pub id: String,
    /// Reference with a digest, when it has one.
    #[serde(rename = "ref")]
    pub reference: String,
    /// The name that the user asked for.
    pub name: String,
    /// Digests of its unpacked layers, lowest first.
    pub layers: Vec<String>,
}

/// The pod that the container was in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pod {
    /// Id of the sandbox.
    pub id: String,
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Kubernetes' uid.
    pub uid: String,
}

/// One entry of the archive.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// Bytes of its data.
    pub size: u64,
    /// Where the data begins in the archive.
    pub offset: u64,
    /// SHA-256 of the data, 64 lower-case hexadecimal digits; empty where there is a BLAKE3 digest. See
    /// [`Self::block_bytes`], too.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub sha256: String,
    /// BLAKE3 of the data, 64 lower-case hexadecimal digits, of page images: it is taken by all processors
    /// at once. Since version 3.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub blake3: String,
    /// In version 2, of page images, 4 MiB, otherwise 0: [`Self::sha256`] is of the 32-byte SHA-256
    /// digests of each block of so many bytes, one after the other, the last block being what is left.
    #[serde(skip_serializing_if = "is_zero")]
    pub block_bytes: u64,
}

impl Entry {
    /// How it is digested, where that is not plain SHA-256.
    pub(crate) fn scheme(&self) -> Option<Scheme> {
        if !self.blake3.is_empty() {
            return Some(Scheme::Blake3);
        }
        (self.block_bytes > 0).then_some(Scheme::Sha256OfBlocks)
    }

    /// The digest that its data must have.
    #[must_use]
    pub fn digest(&self) -> &str {
        if self.blake3.is_empty() {
            &self.sha256
        } else {
            &self.blake3
        }
    }

    /// What a version does not know of it.
    fn strange(&self, version: u32) -> Option<String> {
        let blocks = self.block_bytes;
        if blocks != 0 && (blocks != BLOCK_BYTES || version != 2) {
            return Some(format!("block_bytes {blocks}"));
        }
        let blake3 = !self.blake3.is_empty();
        (blake3 && (version < 3 || !self.sha256.is_empty())).then(|| "a BLAKE3 digest".to_owned())
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// A mount that the request for a restore has to have.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MountNeed {
    /// Mount point in the container.
    pub destination: String,
    /// What it is, for instance `bind` or `tmpfs`.
    pub kind: String,
    /// Whether it could not be written through.
    pub readonly: bool,
    /// Whether its root was a directory.
    pub directory: bool,
}

/// Content of one private tmpfs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct TmpfsContent {
    /// Mount point in the container.
    pub destination: String,
    /// The entry that holds the content, a tar.
    pub entry: String,
}

impl Manifest {
    /// Reads a manifest from anybody's archive.
    ///
    /// # Errors
    ///
    /// Says what is wrong: too large, not JSON, a wrong type, another major version, or a key that
    /// this version does not have.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_MANIFEST_BYTES) {
            return Err(format!("larger than {MAX_MANIFEST_BYTES} bytes"));
        }
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        let version = manifest.format_version;
        if !(OLDEST_VERSION..=FORMAT_VERSION).contains(&version) {
            return Err(format!(
                "format version {version}, this is a reader of versions {OLDEST_VERSION} to \
                 {FORMAT_VERSION}"
            ));
        }
        let strange = manifest
            .entries
            .iter()
            .find_map(|entry| Some((entry, entry.strange(version)?)));
        if let Some((entry, what)) = strange {
            return Err(format!(
                "{} has {what}, which format version {version} does not know there",
                crate::error::quoted(entry.name.as_bytes()),
            ));
        }
        let newer = version == FORMAT_VERSION && manifest.format_minor > FORMAT_MINOR;
        if !newer {
            // Written again it has every key of this version: one that is missing there is unknown.
            let given: Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
            let known = serde_json::to_value(&manifest).map_err(|error| error.to_string())?;
            if let Some(key) = unknown_key(&given, &known) {
                return Err(format!(
                    "unknown key {}",
                    crate::error::quoted(key.as_bytes())
                ));
            }
        }
        Ok(manifest)
    }

    /// The manifest as it is written.
    ///
    /// # Errors
    ///
    /// When it is larger than [`MAX_MANIFEST_BYTES`], which no reader would take.
    pub fn to_bytes(&self) -> Result<Vec<u8>, String> {
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| error.to_string())?;
        // Nobody reads that much, and the index of many thousand tasks has to fit.
        if bytes.len() > 1 << 20 {
            bytes = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        }
        bytes.push(b'\n');
        if u64::try_from(bytes.len()).is_ok_and(|length| length <= MAX_MANIFEST_BYTES) {
            Ok(bytes)
        } else {
            Err(format!("larger than {MAX_MANIFEST_BYTES} bytes"))
        }
    }
}

/// The first key of `given` that `known` lacks, at any depth.
fn unknown_key(given: &Value, known: &Value) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => {
            given.iter().find_map(|(key, value)| match known.get(key) {
                None => Some(key.clone()),
                Some(known) => unknown_key(value, known),
            })
        }
        (Value::Array(given), Value::Array(known)) => given
            .iter()
            .zip(known)
            .find_map(|(given, known)| unknown_key(given, known)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        let mut manifest = Manifest {
            format_version: FORMAT_VERSION,
            criu_version: "4.2.1".to_owned(),
            frozen_ns: u64::MAX,
            terminal: true,
            ..Manifest::default()
        };
        manifest.container.image.reference = "registry/name@sha256:00".to_owned();
        manifest.entries.push(Entry {
            name: "spec.dump".to_owned(),
            ..Entry::default()
        });
        manifest
            .options
            .insert("tcp_close".to_owned(), "true".to_owned());
        manifest
    }

    #[test]
    fn manifests_survive_a_round_trip() {
        let bytes = sample().to_bytes().unwrap();
        assert_eq!(Manifest::parse(&bytes).unwrap(), sample());
        let text = String::from_utf8(bytes).unwrap();
        assert!(
            text.contains("\"ref\": \"registry/name@sha256:00\""),
            "{text}"
        );
    }

    #[test]
    fn unknown_keys_are_for_newer_minor_versions() {
        let with = |key: &str, minor: u32| {
            let mut value = serde_json::to_value(sample()).unwrap();
            value["format_minor"] = minor.into();
            value["container"]["image"][key] = 1.into();
            Manifest::parse(value.to_string().as_bytes())
        };
        assert_eq!(with("strange", 0).unwrap_err(), "unknown key strange");
        assert_eq!(with("strange", 9).unwrap().frozen_ns, u64::MAX);
        assert!(with("name", 0).unwrap_err().contains("invalid type"));
        let mut value = serde_json::to_value(sample()).unwrap();
        value["entries"][0]["mode"] = 7.into();
        assert_eq!(
            Manifest::parse(value.to_string().as_bytes()).unwrap_err(),
            "unknown key mode"
        );
    }

    #[test]
    fn each_version_has_its_own_digests_of_page_images() {
        let with = |version: u32, key: &str, value: Value| {
            let mut manifest = serde_json::to_value(sample()).unwrap();
            manifest["format_version"] = version.into();
            manifest["entries"][0][key] = value;
            Manifest::parse(manifest.to_string().as_bytes())
        };
        let blocks = |version, bytes: u64| with(version, "block_bytes", bytes.into());
        let entry = blocks(2, 4 << 20).unwrap().entries.remove(0);
        assert_eq!(entry.scheme(), Some(Scheme::Sha256OfBlocks));
        for (version, bytes) in [(1, 4 << 20), (3, 4 << 20), (2, 1), (2, u64::MAX)] {
            assert_eq!(
                blocks(version, bytes).unwrap_err(),
                format!(
                    "spec.dump has block_bytes {bytes}, which format version {version} does not \
                     know there"
                )
            );
        }
        let entry = with(3, "blake3", "00".into()).unwrap().entries.remove(0);
        assert_eq!(
            (entry.scheme(), entry.digest()),
            (Some(Scheme::Blake3), "00")
        );
        for version in [1, 2] {
            assert_eq!(
                with(version, "blake3", "00".into()).unwrap_err(),
                format!(
                    "spec.dump has a BLAKE3 digest, which format version {version} does not know \
                     there"
                )
            );
        }
        let entry = with(1, "sha256", "11".into()).unwrap().entries.remove(0);
        assert_eq!((entry.scheme(), entry.digest()), (None, "11"));
    }

    #[test]
    fn other_major_versions_and_rubbish_are_refused() {
        for text in [
            "{}",
            "{\"format_version\":4}",
            "[]",
            "nul",
            "{\"format_version\":-1}",
        ] {
            Manifest::parse(text.as_bytes()).unwrap_err();
        }
        let deep = format!("{{\"format_version\":1,\"x\":{}", "[".repeat(100_000));
        Manifest::parse(deep.as_bytes()).unwrap_err();
        let large = vec![b' '; 16 << 20 | 1];
        assert!(Manifest::parse(&large).unwrap_err().contains("larger"));
        let minimal = Manifest::parse(b"{\"format_version\":1}").unwrap();
        assert_eq!(
            minimal,
            Manifest {
                format_version: 1,
                ..Manifest::default()
            }
        );
    }
}
