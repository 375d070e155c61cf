//! Compiles `proto/cri/v1/api.proto` with protox; no protoc is needed.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let proto = Path::new("../../proto/cri/v1");
    let file = proto.join("api.proto");
    println!("cargo::rerun-if-changed={}", file.display());
    let descriptors = protox::compile([&file], [proto])?;
    tonic_prost_build::configure()
        // Credentials must not reach a log through `{:?}`; `v1` has its own Debug for it.
        .skip_debug(["AuthConfig"])
        .compile_fds(descriptors)?;
    Ok(())
}
