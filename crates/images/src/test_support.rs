//! Tars and images made by hand for this crate's tests.

use std::io::Write;
use std::path::Path;

use crate::digest::Digest;

/// A tar under construction. `expect`s here are the tests' own.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tar(Vec<u8>);

impl Tar {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.0.clone();
        bytes.extend([0; 1024]);
        bytes
    }

    /// One entry as given; `change` may spoil the header.
    pub(crate) fn entry(
        mut self,
        kind: u8,
        name: &str,
        link: &str,
        data: &[u8],
        change: impl FnOnce(&mut tar::Header),
    ) -> Self {
        let mut header = tar::Header::new_ustar();
        if name.len() > 100 {
            self = self.extension(b'L', &[name.as_bytes(), b"\0"].concat());
        }
        if link.len() > 100 {
            self = self.extension(b'K', &[link.as_bytes(), b"\0"].concat());
        }
        let put = |field: &mut [u8], text: &[u8]| {
            for (slot, byte) in field.iter_mut().zip(text) {
                *slot = *byte;
            }
        };
        let bytes = header.as_mut_bytes();
        put(&mut bytes[..100], name.as_bytes());
        put(&mut bytes[157..257], link.as_bytes());
        bytes[156] = kind;
        header.set_mode(if kind == b'5' { 0o755 } else { 0o644 });
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1_000_000_000);
        header.set_size(data.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend(header.as_bytes());
        self.0.extend(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn extension(self, kind: u8, data: &[u8]) -> Self {
        self.entry(kind, "././@LongLink", "", data, |_| {})
    }

    pub(crate) fn pax(self, records: &[(&str, &[u8])]) -> Self {
        let mut text = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let mut length = rest + rest.to_string().len();
            if length.to_string().len() + rest != length {
                length += 1;
            }
            text.extend(format!("{length} {key}=").bytes());
            text.extend(*value);
            text.push(b'\n');
        }
        self.entry(b'x', "PaxHeaders/x", "", &text, |_| {})
    }

    pub(crate) fn dir(self, name: &str, mode: u32) -> Self {
        self.entry(b'5', name, "", b"", |header| header.set_mode(mode))
    }

    pub(crate) fn file(self, name: &str, text: &str) -> Self {
        self.entry(b'0', name, "", text.as_bytes(), |_| {})
    }

    pub(crate) fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(b'2', name, target, b"", |_| {})
    }

    pub(crate) fn hardlink(self, name: &str, target: &str) -> Self {
        self.entry(b'1', name, target, b"", |_| {})
    }

    pub(crate) fn device(self, kind: u8, name: &str, numbers: (u32, u32)) -> Self {
        self.entry(kind, name, "", b"", |header| {
            header
                .set_device_major(numbers.0)
                .expect("ustar has devices");
            header
                .set_device_minor(numbers.1)
                .expect("ustar has devices");
        })
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).expect("memory takes everything");
    encoder.finish().expect("memory takes everything")
}

pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).expect("memory takes everything")
}

/// An image in memory.
#[derive(Debug, Clone)]
pub(crate) struct TestImage {
    /// Tars of the layers and the same as blobs.
    pub(crate) layers: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) config: String,
}

impl TestImage {
    pub(crate) fn new(layers: &[Tar], compress: fn(&[u8]) -> Vec<u8>) -> Self {
        Self::for_architecture(layers, compress, &here())
    }

    pub(crate) fn for_architecture(
        layers: &[Tar],
        compress: fn(&[u8]) -> Vec<u8>,
        architecture: &str,
    ) -> Self {
        let tars = layers.iter().map(Tar::bytes);
        let layers: Vec<_> = tars.map(|tar| (tar.clone(), compress(&tar))).collect();
        let ids: Vec<Digest> = layers.iter().map(|(tar, _)| Digest::of(tar)).collect();
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux",
            "config": {"User": "1002:1002", "Cmd": ["sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": ids},
        });
        Self {
            layers,
            config: config.to_string(),
        }
    }

    pub(crate) fn id(&self) -> Digest {
        Digest::of(self.config.as_bytes())
    }

    pub(crate) fn size(&self) -> u64 {
        let layers: usize = self.layers.iter().map(|(_, blob)| blob.len()).sum();
        (layers + self.config.len()) as u64
    }

    pub(crate) fn manifest(&self) -> String {
        self.manifest_with(&serde_json::json!({}))
    }

    pub(crate) fn manifest_with(&self, annotations: &serde_json::Value) -> String {
        let layers: Vec<_> = self
            .layers
            .iter()
            .map(|(_, blob)| describe("application/vnd.oci.image.layer.v1.tar+gzip", blob))
            .collect();
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("application/vnd.oci.image.config.v1+json", self.config.as_bytes()),
            "layers": layers, "annotations": annotations,
        });
        manifest.to_string()
    }

    /// Its blobs as entries of a layout.
    pub(crate) fn blobs(&self, mut tar: Tar) -> Tar {
        tar = blob(tar, self.manifest().as_bytes());
        tar = blob(tar, self.config.as_bytes());
        for (_, layer) in &self.layers {
            tar = blob(tar, layer);
        }
        tar
    }

    /// An OCI layout with this image alone.
    pub(crate) fn layout(&self, name: &str) -> Tar {
        let mut descriptor = describe(
            "application/vnd.oci.image.manifest.v1+json",
            self.manifest().as_bytes(),
        );
        descriptor["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": name});
        self.blobs(index(&[descriptor]))
    }

    /// The same as `docker save` writes it.
    pub(crate) fn docker(&self, names: &[&str]) -> Tar {
        let mut tar = Tar::new().file("config.json", &self.config);
        let mut paths = Vec::new();
        for (number, (_, layer)) in self.layers.iter().enumerate() {
            let path = format!("layer-{number}/layer.tar");
            tar = tar.dir(&format!("layer-{number}"), 0o755);
            tar = tar.entry(b'0', &path, "", layer, |_| {});
            paths.push(path);
        }
        let list = serde_json::json!([
            {"Config": "config.json", "RepoTags": names, "Layers": paths}
        ]);
        tar.file("manifest.json", &list.to_string())
    }
}

pub(crate) fn here() -> String {
    crate::documents::Platform::here().architecture
}

pub(crate) fn describe(media_type: &str, blob: &[u8]) -> serde_json::Value {
    serde_json::json!({"mediaType": media_type, "digest": Digest::of(blob), "size": blob.len()})
}

pub(crate) fn index(descriptors: &[serde_json::Value]) -> Tar {
    let index = serde_json::json!({"schemaVersion": 2, "manifests": descriptors});
    Tar::new()
        .file("oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}")
        .dir("blobs/sha256/", 0o755)
        .file("./index.json", &index.to_string())
}

pub(crate) fn blob(tar: Tar, bytes: &[u8]) -> Tar {
    tar.entry(
        b'0',
        &format!("blobs/sha256/{}", Digest::of(bytes).hex()),
        "",
        bytes,
        |_| {},
    )
}

pub(crate) fn plain(bytes: &[u8]) -> Vec<u8> {
    bytes.to_vec()
}

/// Names of everything below a directory, sorted, `/` after directories.
pub(crate) fn tree(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, base: &Path, all: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).expect("a readable directory") {
            let entry = entry.expect("a readable entry");
            let path = entry.path();
            let name = path
                .strip_prefix(base)
                .expect("below")
                .to_string_lossy()
                .into_owned();
            if entry.file_type().expect("a type").is_dir() {
                all.push(format!("{name}/"));
                walk(&path, base, all);
            } else {
                all.push(name);
            }
        }
    }
    let mut all = Vec::new();
    walk(dir, dir, &mut all);
    all.sort();
    all
}
