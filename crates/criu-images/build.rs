//! Compiles CRIU's image messages: Rust types for prost, and the descriptors themselves for the
//! strict reader in `wire.rs`.

use std::io::{self, Write as _};
use std::path::PathBuf;

use prost::Message;
use prost_types::field_descriptor_proto::Type;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = PathBuf::from(std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto/criu/images");
    println!("cargo::rerun-if-changed={}", root.display());
    let mut files: Vec<String> = root
        .read_dir()?
        .map(|entry| entry.map(|entry| entry.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<_>>()?;
    files.retain(|name| name.ends_with(".proto"));
    files.sort();
    let mut set = protox::compile(&files, [&root])?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(out.join("images.fds"))?
        .write_all(&set.encode_to_vec())?;
    strings_are_bytes(&mut set);
    let mut config = prost_build::Config::new();
    // One of twenty kinds is present in an entry: without boxes each would take 2 KiB.
    for message in set.file.iter().flat_map(|file| &file.message_type) {
        if message.name() == "file_entry" {
            for field in message
                .field
                .iter()
                .filter(|field| field.r#type() == Type::Message)
            {
                config.boxed(format!(".criu.images.file_entry.{}", field.name()));
            }
        }
    }
    config.compile_fds(set)?;
    Ok(())
}

/// CRIU's strings are C strings (paths, process names): any bytes but zero. prost refuses what is
/// not UTF-8, so the Rust types hold bytes; the strict reader still knows them as strings.
fn strings_are_bytes(set: &mut prost_types::FileDescriptorSet) {
    for file in &mut set.file {
        for message in &mut file.message_type {
            for field in &mut message.field {
                if field.r#type() == Type::String {
                    field.set_type(Type::Bytes);
                }
            }
        }
    }
}
