//! `proto/` says what the published interfaces say: every service, method, message, field and enum
//! value, by name, number, type, label and default.
//!
//! The published side comes from Go modules, the form in which both projects release their
//! descriptors; `integration/tools/descriptors` pins and prints them. Go 1.26 or newer is needed,
//! and the network the first time. Comments and the order within a file are ours and not compared.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorProto,
    ServiceDescriptorProto,
};

/// Fields of CRIU's images that hold what belongs to processors thawd does not run on.
const OTHER_PROCESSORS: [&str; 8] = [
    "core_entry.ti_arm",
    "core_entry.ti_loongarch64",
    "core_entry.ti_mips",
    "core_entry.ti_ppc64",
    "core_entry.ti_riscv64",
    "core_entry.ti_s390",
    "cpuinfo_entry.ppc64_entry",
    "cpuinfo_entry.s390_entry",
];

/// Every declaration of a file by its full name, and all that is to be said of it.
type Declarations = BTreeMap<String, String>;

#[test]
fn the_container_runtime_interface_is_the_published_one() {
    let ours = declarations(&[compile("proto/cri/v1/api.proto")]);
    let methods = |service: &str| {
        let prefix = format!("{service}.");
        ours.keys().filter(|name| name.starts_with(&prefix)).count()
    };
    assert_eq!(
        (methods("RuntimeService"), methods("ImageService")),
        (37, 6)
    );
    assert_eq!(differences(&ours, &published("cri")), "");
}

#[test]
fn criu_s_requests_are_the_published_ones() {
    let ours = declarations(&[compile("proto/criu/rpc.proto")]);
    assert_eq!(differences(&ours, &published("criu")), "");
}

/// thawd reads some of CRIU's images only, but what it reads it must know in full.
#[test]
fn criu_s_images_that_thawd_reads_are_the_published_ones() {
    let ours = declarations(&compile_all(&root().join("proto/criu/images")));
    let module = "github.com/checkpoint-restore/go-criu/v8";
    go(&["mod", "download", module]);
    let directory = go(&["list", "-m", "-f", "{{.Dir}}", module]);
    let directory = Path::new(String::from_utf8(directory).unwrap().trim()).join("crit/images");
    let mut published = declarations(&compile_all(&directory));
    for field in OTHER_PROCESSORS {
        assert!(
            published.remove(field).is_some(),
            "{field} is not published"
        );
    }
    // Of a message or enumeration that we have, everything counts.
    published.retain(|name, _| {
        ours.contains_key(
            name.rsplit_once('.')
                .map_or(name.as_str(), |(parent, _)| parent),
        )
    });
    assert_eq!(differences(&ours, &published), "");
}

#[test]
fn any_change_of_a_declaration_is_a_difference() {
    let published = declarations(&[compile("proto/cri/v1/api.proto")]);
    type Change = fn(&mut FileDescriptorProto);
    let cases: [(&str, Change); 7] = [
        ("Mount.host_path: ", |file| {
            message(file, "Mount").field[1].number = Some(20)
        }),
        ("Mount.readonly: ", |file| {
            message(file, "Mount").field[2].set_type(Type::String)
        }),
        ("Mount.image: ", |file| {
            message(file, "Mount").field[8].set_label(Label::Repeated)
        }),
        ("Mount.image: missing", |file| {
            drop(message(file, "Mount").field.remove(8))
        }),
        ("Protocol.TCP: ", |file| {
            file.enum_type[0].value[0].number = Some(9)
        }),
        ("RuntimeService.Exec: missing", |file| {
            file.service[0]
                .method
                .retain(|method| method.name() != "Exec");
        }),
        ("RuntimeService.Version: ", |file| {
            file.service[0].method[0].server_streaming = Some(true);
        }),
    ];
    for (said, change) in cases {
        let mut file = compile("proto/cri/v1/api.proto");
        change(&mut file);
        let differences = differences(&declarations(&[file]), &published);
        assert!(
            differences.starts_with(said),
            "{differences:?} is not {said:?}"
        );
    }
}

fn message<'a>(file: &'a mut FileDescriptorProto, name: &str) -> &'a mut DescriptorProto {
    file.message_type
        .iter_mut()
        .find(|message| message.name() == name)
        .unwrap()
}

/// A line for each declaration that is not the same in both.
fn differences(ours: &Declarations, published: &Declarations) -> String {
    assert!(
        published.len() > 100,
        "only {} declarations were published",
        published.len()
    );
    let mut lines = Vec::new();
    for (name, theirs) in published {
        match ours.get(name) {
            Some(ours) if ours == theirs => {}
            Some(ours) => lines.push(format!("{name}: {ours}, published as {theirs}")),
            None => lines.push(format!("{name}: missing, published as {theirs}")),
        }
    }
    for (name, ours) in ours {
        if !published.contains_key(name) {
            lines.push(format!("{name}: {ours}, not published"));
        }
    }
    lines.join("\n")
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of ours.
fn compile(path: &str) -> FileDescriptorProto {
    let path = root().join(path);
    let mut set = protox::compile([&path], [path.parent().unwrap()])
        .unwrap_or_else(|error| panic!("{}: {error:?}", path.display()));
    // What it imports comes before it.
    set.file.pop().unwrap()
}

/// All files of a directory.
fn compile_all(directory: &Path) -> Vec<FileDescriptorProto> {
    let files = directory
        .read_dir()
        .unwrap()
        .map(|file| file.unwrap().path());
    let files: Vec<_> = files
        .filter(|file| file.extension() == Some("proto".as_ref()))
        .collect();
    protox::compile(&files, [directory])
        .unwrap_or_else(|error| panic!("{}: {error:?}", directory.display()))
        .file
}

/// What is declared on their side, from the Go program.
fn published(which: &str) -> Declarations {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    let output = run(PROGRAM.get_or_init(program), &[which]);
    declarations(&[FileDescriptorProto::decode(output.as_slice()).unwrap()])
}

/// Builds the Go program; quick when it is up to date.
fn program() -> PathBuf {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("descriptors");
    go(&[
        "build",
        "-mod=readonly",
        "-buildvcs=false",
        "-o",
        program.to_str().unwrap(),
    ]);
    program
}

fn go(arguments: &[&str]) -> Vec<u8> {
    run(Path::new("go"), arguments)
}

/// Runs a program in the Go module that pins what is published.
fn run(program: &Path, arguments: &[&str]) -> Vec<u8> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the Go tool is what knows Go modules"
    )]
    let mut command = std::process::Command::new(program);
    let module = root().join("integration/tools/descriptors");
    let output = command.args(arguments).current_dir(module).output();
    let output = output.unwrap_or_else(|error| {
        panic!(
            "{}: {error}; is Go 1.26 or newer installed?",
            program.display()
        )
    });
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{} {arguments:?}: {stderr}",
        program.display()
    );
    output.stdout
}

/// Flattens files. The package's name is left out of names, as not every file has one.
fn declarations(files: &[FileDescriptorProto]) -> Declarations {
    let mut all = Declarations::new();
    for file in files {
        for service in &file.service {
            service_declarations(service, file, &mut all);
        }
        for message in &file.message_type {
            message_declarations(message, message.name(), file, &mut all);
        }
        for one in &file.enum_type {
            enum_declarations(one, one.name(), &mut all);
        }
    }
    all
}

fn service_declarations(
    service: &ServiceDescriptorProto,
    file: &FileDescriptorProto,
    all: &mut Declarations,
) {
    all.insert(service.name().to_owned(), "service".to_owned());
    for method in &service.method {
        let stream = |streams: bool| if streams { "stream " } else { "" };
        let said = format!(
            "rpc ({}{}) returns ({}{})",
            stream(method.client_streaming()),
            plain(method.input_type(), file),
            stream(method.server_streaming()),
            plain(method.output_type(), file),
        );
        all.insert(format!("{}.{}", service.name(), method.name()), said);
    }
}

fn message_declarations(
    message: &DescriptorProto,
    name: &str,
    file: &FileDescriptorProto,
    all: &mut Declarations,
) {
    all.insert(name.to_owned(), "message".to_owned());
    for field in &message.field {
        let said = field_declaration(field, message, file);
        all.insert(format!("{name}.{}", field.name()), said);
    }
    for inner in &message.nested_type {
        message_declarations(inner, &format!("{name}.{}", inner.name()), file, all);
    }
    for inner in &message.enum_type {
        enum_declarations(inner, &format!("{name}.{}", inner.name()), all);
    }
}

fn enum_declarations(one: &EnumDescriptorProto, name: &str, all: &mut Declarations) {
    all.insert(name.to_owned(), "enum".to_owned());
    for value in &one.value {
        all.insert(
            format!("{name}.{}", value.name()),
            format!("value {}", value.number()),
        );
    }
}

fn field_declaration(
    field: &FieldDescriptorProto,
    message: &DescriptorProto,
    file: &FileDescriptorProto,
) -> String {
    let proto3 = file.syntax() == "proto3";
    let label = match field.label() {
        Label::Repeated => "repeated ",
        Label::Required => "required ",
        Label::Optional => "",
    };
    let kind = match field.r#type() {
        Type::Message | Type::Group | Type::Enum => plain(field.type_name(), file).to_owned(),
        scalar => scalar.as_str_name().to_owned(),
    };
    let mut said = format!("field {}: {label}{kind}", field.number());
    if let Some(default) = &field.default_value {
        said.push_str(&format!(" = {default}"));
    }
    if let Some(index) = field.oneof_index {
        let oneof = usize::try_from(index)
            .ok()
            .and_then(|index| message.oneof_decl.get(index));
        said.push_str(&format!(" in oneof {}", oneof.unwrap().name()));
    }
    let options = field.options.clone().unwrap_or_default();
    if options.deprecated() {
        said.push_str(" deprecated");
    }
    // Packing is on the wire: proto3 has it unless told otherwise, proto2 only when told.
    if options.packed.unwrap_or(proto3) != proto3 {
        said.push_str(&format!(" packed={}", !proto3));
    }
    said
}

/// A type's name without its package: `.runtime.v1.Mount` is `Mount`.
fn plain<'a>(name: &'a str, file: &FileDescriptorProto) -> &'a str {
    let name = name.trim_start_matches('.');
    let inside = name
        .strip_prefix(file.package())
        .and_then(|name| name.strip_prefix('.'));
    if file.package().is_empty() {
        name
    } else {
        inside.unwrap_or(name)
    }
}
