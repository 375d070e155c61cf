//! Names, numbers and types of CRIU's image messages, from the descriptors that `build.rs` kept.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};

/// How a field lies on the wire, as far as the strict reader cares.
#[derive(Debug, Clone)]
pub(crate) enum Kind {
    /// uint32.
    Unsigned32,
    /// uint64, and sint64 before decoding.
    Word,
    /// sint32 before decoding: any 32-bit pattern.
    ZigZag32,
    /// int32: sign-extended to 64 bits when negative.
    Signed32,
    /// bool.
    Bool,
    /// fixed32.
    Fixed32,
    /// fixed64.
    Fixed64,
    /// string: a C string on CRIU's side.
    Text,
    /// bytes.
    Bytes,
    /// An enumeration and its values.
    Enum(BTreeSet<i32>),
    /// A message, by its name.
    Message(String),
}

/// One field of a message.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) repeated: bool,
    pub(crate) required: bool,
}

/// One message: its fields by number.
#[derive(Debug, Clone, Default)]
pub(crate) struct Message {
    pub(crate) fields: HashMap<u32, Field>,
}

/// All messages by name (`core_entry`, `mnt_entry`, ...).
#[derive(Debug, Default)]
pub(crate) struct Schema {
    messages: HashMap<String, Message>,
}

impl Schema {
    /// The messages that this build knows.
    pub(crate) fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/images.fds"));
            // An empty schema refuses every message; a unit test holds that it is not empty.
            FileDescriptorSet::decode(bytes.as_slice()).map_or_else(|_| Self::default(), Self::new)
        })
    }

    /// The message of that name.
    pub(crate) fn message(&self, name: &str) -> Option<&Message> {
        self.messages.get(name)
    }

    fn new(set: FileDescriptorSet) -> Self {
        let mut enums = HashMap::new();
        for file in &set.file {
            let package = file.package();
            collect_enums(&mut enums, package, &file.enum_type);
            for message in &file.message_type {
                let scope = format!("{package}.{}", message.name());
                collect_enums(&mut enums, &scope, &message.enum_type);
            }
        }
        let messages = set
            .file
            .iter()
            .flat_map(|file| &file.message_type)
            .map(|message| (message.name().to_owned(), Message::new(message, &enums)))
            .collect();
        Self { messages }
    }
}

fn collect_enums(
    into: &mut HashMap<String, BTreeSet<i32>>,
    scope: &str,
    enums: &[EnumDescriptorProto],
) {
    for item in enums {
        let values = item.value.iter().map(|value| value.number()).collect();
        into.insert(format!(".{scope}.{}", item.name()), values);
    }
}

impl Message {
    fn new(descriptor: &DescriptorProto, enums: &HashMap<String, BTreeSet<i32>>) -> Self {
        let fields = descriptor
            .field
            .iter()
            .filter_map(|field| {
                let kind = match field.r#type() {
                    Type::Uint32 => Kind::Unsigned32,
                    Type::Uint64 | Type::Int64 | Type::Sint64 => Kind::Word,
                    Type::Sint32 => Kind::ZigZag32,
                    Type::Int32 => Kind::Signed32,
                    Type::Bool => Kind::Bool,
                    Type::Fixed32 | Type::Sfixed32 | Type::Float => Kind::Fixed32,
                    Type::Fixed64 | Type::Sfixed64 | Type::Double => Kind::Fixed64,
                    Type::String => Kind::Text,
                    Type::Bytes => Kind::Bytes,
                    Type::Enum => {
                        Kind::Enum(enums.get(field.type_name()).cloned().unwrap_or_default())
                    }
                    Type::Message | Type::Group => {
                        let name = field.type_name().rsplit('.').next().unwrap_or_default();
                        Kind::Message(name.to_owned())
                    }
                };
                let number = u32::try_from(field.number()).ok()?;
                let field = Field {
                    name: field.name().to_owned(),
                    kind,
                    repeated: field.label() == Label::Repeated,
                    required: field.label() == Label::Required,
                };
                Some((number, field))
            })
            .collect();
        Self { fields }
    }
}

#[cfg(test)]
mod tests {
    use super::{Kind, Schema};

    #[test]
    fn descriptors_are_loaded_with_labels_types_and_enum_values() {
        let schema = Schema::get();
        let creds = schema.message("creds_entry").unwrap();
        assert_eq!(creds.fields[&9].name, "cap_inh");
        assert!(creds.fields[&9].repeated && creds.fields[&1].required);
        let file = schema.message("file_entry").unwrap();
        let Kind::Enum(values) = &file.fields[&1].kind else {
            panic!("type is an enum")
        };
        assert!(values.contains(&20) && !values.contains(&21));
        let core = schema.message("core_entry").unwrap();
        assert!(matches!(&core.fields[&1].kind, Kind::Enum(values) if values.contains(&3)));
        assert!(matches!(&core.fields[&3].kind, Kind::Message(name) if name == "task_core_entry"));
    }
}
