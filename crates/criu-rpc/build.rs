//! Compiles `proto/criu/rpc.proto`.

use prost_types::field_descriptor_proto::Type;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=../../proto/criu/rpc.proto");
    let mut set = protox::compile(["criu/rpc.proto"], ["../../proto"])?;
    strings_are_bytes(&mut set);
    prost_build::Config::new()
        .disable_comments(["."])
        .compile_fds(set)?;
    Ok(())
}

/// CRIU's strings are C strings: paths and messages with any bytes but zero. prost refuses a whole
/// message in which one is not UTF-8.
fn strings_are_bytes(set: &mut prost_types::FileDescriptorSet) {
    let fields = set
        .file
        .iter_mut()
        .flat_map(|file| &mut file.message_type)
        .flat_map(|message| &mut message.field);
    for field in fields {
        if field.r#type() == Type::String {
            field.set_type(Type::Bytes);
        }
    }
}
