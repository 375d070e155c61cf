//! Dependencies between the workspace's crates point down.
//!
//! ```text
//!  5   thawd (src/)                                     wiring
//!  4   cri-server                                       gRPC: CRI types end here
//!  3   lifecycle ──▶ images                             what exists / content, snapshots
//!  2   monitor                                          what survives the daemon
//!  1   oci-runtime  criu-rpc  criu-images  bundler      one outside thing each
//!  0   sys                                              system calls, the only unsafe
//! ```
//!
//! `integration` stands above all of them and nothing may depend on it.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// Every crate of the workspace and its layer.
const LAYERS: &[(&str, u8)] = &[
    ("integration", 6),
    ("thawd", 5),
    ("cri-server", 4),
    ("lifecycle", 3),
    ("images", 3),
    ("monitor", 2),
    ("oci-runtime", 1),
    ("criu-rpc", 1),
    ("criu-images", 1),
    ("bundler", 1),
    ("sys", 0),
];

/// The only edge within a layer.
const SIDEWAYS: (&str, &str) = ("lifecycle", "images");

/// The crates that may be asynchronous; the rest is called from `spawn_blocking`.
const ASYNCHRONOUS: &[&str] = &["integration", "thawd", "cri-server", "lifecycle", "images"];

/// Crates of our own that are allowed to open `unsafe` file by file, and the one test program.
const UNSAFE: &[&str] = &["crates/sys/", "integration/src/workloads/raw.rs"];

/// What cargo says about the workspace: each crate and all that it depends on, tests included.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    #[expect(
        clippy::disallowed_methods,
        reason = "cargo is the authority on the workspace"
    )]
    let output = std::process::Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--no-deps",
            "--format-version",
            "1",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    packages
        .iter()
        .map(|package| {
            let needs = package["dependencies"].as_array().unwrap();
            let names = needs
                .iter()
                .map(|need| need["name"].as_str().unwrap().to_owned());
            (
                package["name"].as_str().unwrap().to_owned(),
                names.collect(),
            )
        })
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn layer(name: &str) -> Option<u8> {
    LAYERS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, layer)| *layer)
}

/// Whether the edge is one that the layers allow.
fn allowed(from: &str, to: &str) -> bool {
    match (layer(from), layer(to)) {
        (Some(from_layer), Some(to_layer)) => from_layer > to_layer || (from, to) == SIDEWAYS,
        _ => false,
    }
}

#[test]
fn every_crate_has_a_layer() {
    let mut found: Vec<String> = dependencies().into_keys().collect();
    let mut known: Vec<String> = LAYERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    found.sort();
    known.sort();
    assert_eq!(found, known);
}

#[test]
fn no_edge_between_crates_points_up() {
    let crates = dependencies();
    let edges = crates
        .iter()
        .flat_map(|(from, needs)| needs.iter().map(move |to| (from, to)));
    let wrong: Vec<String> = edges
        .filter(|(_, to)| layer(to).is_some())
        .filter(|(from, to)| !allowed(from, to))
        .map(|(from, to)| format!("{from} -> {to}"))
        .collect();
    assert!(
        wrong.is_empty(),
        "edges that point up or sideways: {}",
        wrong.join(", ")
    );
}

#[test]
fn an_edge_that_points_up_or_sideways_is_seen() {
    assert!(allowed("thawd", "cri-server"));
    assert!(allowed("cri-server", "sys"));
    assert!(allowed("lifecycle", "images"));
    assert!(!allowed("images", "lifecycle"));
    assert!(!allowed("sys", "bundler"));
    assert!(!allowed("bundler", "criu-images"));
    assert!(!allowed("monitor", "thawd"));
    assert!(!allowed("thawd", "integration"));
}

#[test]
fn tokio_stays_in_the_asynchronous_crates() {
    let wrong: Vec<String> = dependencies()
        .into_iter()
        .filter(|(name, _)| !ASYNCHRONOUS.contains(&name.as_str()))
        .filter(|(_, needs)| needs.iter().any(|need| need == "tokio"))
        .map(|(name, _)| name)
        .collect();
    assert!(wrong.is_empty(), "tokio in {}", wrong.join(", "));
}

/// All Rust files of the tree that are ours.
fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn unsafe_is_opened_in_sys_only() {
    let mut files = Vec::new();
    for directory in ["src", "crates", "integration", "tests"] {
        sources(&root().join(directory), &mut files);
    }
    assert!(files.len() > 10, "found {} files", files.len());
    // Spelled in two halves, so that this file does not name itself.
    let opening = concat!("expect(unsafe", "_code");
    let wrong: Vec<String> = files
        .iter()
        .filter(|path| std::fs::read_to_string(path).unwrap().contains(opening))
        .map(|path| path.strip_prefix(root()).unwrap().display().to_string())
        .filter(|path| !UNSAFE.iter().any(|place| path.starts_with(place)))
        .collect();
    assert!(wrong.is_empty(), "unsafe in {}", wrong.join(", "));
}
