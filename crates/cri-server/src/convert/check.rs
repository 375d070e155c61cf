//! Checks that many requests share.
//!
//! A message names the field as the interface spells it, dotted from the request's top
//! (`config.mounts[2].host_path`): each level of conversion adds its own part with
//! [`Invalid::within`].

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use lifecycle::model::Labels;

/// Longest name of an object, as in Kubernetes (a DNS subdomain).
const NAME_BYTES: usize = 253;
/// Longest path that the kernel takes (`PATH_MAX` with its zero byte).
const PATH_BYTES: usize = 4095;
/// Most bytes of all keys and values of one map of annotations. Kubernetes allows 256 KiB for a
/// pod's, to which the kubelet adds its own.
const ANNOTATIONS_BYTES: usize = 1 << 20;
/// Most bytes of one label, key and value together. Kubernetes allows 380.
const LABEL_BYTES: usize = 4096;

/// A value of a request that cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub(crate) struct Invalid {
    field: String,
    problem: String,
}

impl Invalid {
    /// Puts the name of the enclosing message in front of the field's.
    pub(crate) fn within(mut self, parent: &str) -> Self {
        self.field = format!("{parent}.{}", self.field);
        self
    }
}

/// The outcome of a check.
pub(crate) type Checked<T> = Result<T, Invalid>;

/// An [`Invalid`].
pub(crate) fn invalid(field: &str, problem: impl Into<String>) -> Invalid {
    Invalid {
        field: field.to_owned(),
        problem: problem.into(),
    }
}

/// A message that must be there.
pub(crate) fn required<T>(field: &str, value: Option<T>) -> Checked<T> {
    value.ok_or_else(|| invalid(field, "must be set"))
}

/// An id or its prefix. Whether it exists is for the lifecycle to say, so this only refuses what
/// could never be one.
pub(crate) fn id(field: &str, value: String) -> Checked<String> {
    if value.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    text(field, &value, NAME_BYTES)?;
    Ok(value)
}

/// The name of a pod or container: it becomes part of paths and of log lines.
pub(crate) fn name(field: &str, value: String) -> Checked<String> {
    if value.is_empty() {
        return Err(invalid(field, "must not be empty"));
    }
    optional_name(field, value)
}

/// As [`name`], or empty.
pub(crate) fn optional_name(field: &str, value: String) -> Checked<String> {
    text(field, &value, NAME_BYTES)?;
    if value.contains('/') || value == "." || value == ".." {
        return Err(invalid(
            field,
            format!("{value:?} is not a name: it must not be a path"),
        ));
    }
    Ok(value)
}

/// One line of text of at most `max` bytes.
pub(crate) fn text(field: &str, value: &str, max: usize) -> Checked<()> {
    if value.len() > max {
        return Err(invalid(
            field,
            format!("{} bytes exceed the limit of {max}", value.len()),
        ));
    }
    if value.chars().any(char::is_control) {
        return Err(invalid(
            field,
            format!("{value:?} contains a control character"),
        ));
    }
    Ok(())
}

/// A string that is handed to the kernel, which ends it at the first zero byte.
pub(crate) fn no_nul(field: &str, value: &str) -> Checked<()> {
    if value.contains('\0') {
        return Err(invalid(field, format!("{value:?} contains a zero byte")));
    }
    Ok(())
}

/// An absolute path without `..`: what it would lead to depends on links on the way.
pub(crate) fn host_path(field: &str, value: &str) -> Checked<PathBuf> {
    let path = absolute(field, value)?;
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(invalid(field, format!("{value:?} must not contain \"..\"")));
    }
    Ok(path.components().collect())
}

/// As [`host_path`], or empty.
pub(crate) fn optional_host_path(field: &str, value: &str) -> Checked<PathBuf> {
    if value.is_empty() {
        Ok(PathBuf::new())
    } else {
        host_path(field, value)
    }
}

/// An absolute path inside a container, with `.` and `..` taken out as `path.Clean` of Go does,
/// which is what users of the other runtimes are used to.
pub(crate) fn container_path(field: &str, value: &str) -> Checked<PathBuf> {
    let mut clean = PathBuf::new();
    for part in absolute(field, value)?.components() {
        match part {
            Component::ParentDir => drop(clean.pop()),
            Component::CurDir | Component::Prefix(_) => {}
            Component::RootDir | Component::Normal(_) => clean.push(part),
        }
    }
    Ok(clean)
}

fn absolute<'a>(field: &str, value: &'a str) -> Checked<&'a Path> {
    no_nul(field, value)?;
    if value.len() > PATH_BYTES {
        return Err(invalid(
            field,
            format!("a path has at most {PATH_BYTES} bytes"),
        ));
    }
    if !value.starts_with('/') {
        return Err(invalid(field, format!("{value:?} is not an absolute path")));
    }
    Ok(Path::new(value))
}

/// A relative path that stays below its directory, or empty.
pub(crate) fn relative_path(field: &str, value: &str) -> Checked<PathBuf> {
    no_nul(field, value)?;
    if value.len() > PATH_BYTES {
        return Err(invalid(
            field,
            format!("a path has at most {PATH_BYTES} bytes"),
        ));
    }
    let mut clean = PathBuf::new();
    for part in Path::new(value).components() {
        match part {
            Component::Normal(_) => clean.push(part),
            Component::CurDir => {}
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => {
                let problem = format!("{value:?} must be relative and without \"..\"");
                return Err(invalid(field, problem));
            }
        }
    }
    Ok(clean)
}

/// A number within bounds.
pub(crate) fn within(
    field: &str,
    value: i64,
    bounds: std::ops::RangeInclusive<i64>,
) -> Checked<i64> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    let (least, most) = (bounds.start(), bounds.end());
    Err(invalid(
        field,
        format!("{value} is not between {least} and {most}"),
    ))
}

/// A user or group id; the last one is the kernel's "no id".
pub(crate) fn user_id(field: &str, value: i64) -> Checked<u32> {
    match u32::try_from(value) {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(invalid(
            field,
            format!("{value} is not between 0 and {}", u32::MAX - 1),
        )),
    }
}

/// A value of an enumeration.
pub(crate) fn enumeration<E: TryFrom<i32>>(field: &str, value: i32) -> Checked<E> {
    E::try_from(value).map_err(|_| invalid(field, format!("{value} is none of its values")))
}

/// Labels: searched for, so short ones.
pub(crate) fn labels(field: &str, map: HashMap<String, String>) -> Checked<Labels> {
    for (key, value) in &map {
        if key.len() + value.len() > LABEL_BYTES {
            let shown: String = key.chars().take(64).collect();
            let problem = format!("{shown:?} and its value exceed {LABEL_BYTES} bytes");
            return Err(invalid(field, problem));
        }
    }
    annotations(field, map)
}

/// Annotations: anything, within bounds.
pub(crate) fn annotations(field: &str, map: HashMap<String, String>) -> Checked<Labels> {
    let total: usize = map.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > ANNOTATIONS_BYTES {
        return Err(invalid(
            field,
            format!("{total} bytes exceed the limit of {ANNOTATIONS_BYTES}"),
        ));
    }
    for key in map.keys() {
        if key.is_empty() || key.chars().any(char::is_control) {
            return Err(invalid(field, format!("{key:?} is not a key")));
        }
    }
    Ok(map.into_iter().collect())
}
