//! Network configuration files (CNI specification, section 1).
//!
//! ```text
//! {"cniVersion": "1.0.0", "name": "pods", "disableCheck": false,
//!  "plugins": [{"type": "bridge", "ipam": {...}},
//!              {"type": "portmap", "capabilities": {"portMappings": true}}]}
//! ```
//!
//! A file with one plugin's configuration in place of the list counts as a list of one.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::CniError;
use crate::model::DnsConfig;

/// Largest configuration file, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Most plugins in one network.
const MAX_PLUGINS: usize = 32;

/// Versions whose results are understood here, oldest first.
const VERSIONS: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// One plugin of a network.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Plugin {
    /// The program's name.
    pub(super) kind: String,
    /// Capabilities that it takes arguments for.
    pub(super) capabilities: Vec<String>,
    /// Its configuration as it stands in the file, without `capabilities`.
    pub(super) config: Map<String, Value>,
}

/// A network as configured on this node.
#[derive(Debug, Clone, PartialEq)]
pub struct Network {
    pub(super) name: String,
    /// Index into [`VERSIONS`].
    version: usize,
    pub(super) checked: bool,
    pub(super) plugins: Vec<Plugin>,
    /// The file's content, which goes into the cache.
    pub(super) raw: Value,
    /// Arguments by capability that are not the pod's ports.
    pub(super) arguments: Map<String, Value>,
    pub(super) bin_dirs: Vec<PathBuf>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    cni_version: Option<String>,
    #[serde(default)]
    cni_versions: Vec<String>,
    name: String,
    #[serde(default)]
    disable_check: Flag,
    plugins: Option<Vec<Map<String, Value>>>,
}

/// Written as `true` or, by some, as `"true"`.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Text(String),
}

impl Default for Flag {
    fn default() -> Self {
        Self::Bool(false)
    }
}

impl Flag {
    fn is_set(&self) -> bool {
        match self {
            Self::Bool(set) => *set,
            Self::Text(text) => text.eq_ignore_ascii_case("true"),
        }
    }
}

pub(super) fn load(conf_dirs: &[PathBuf], bin_dirs: &[PathBuf]) -> Result<Network, CniError> {
    for directory in conf_dirs {
        for path in files(directory)? {
            let bytes = match read(&path) {
                Ok(bytes) => bytes,
                // Removed since the directory was listed, or a link to nothing.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => {
                    return Err(CniError::Io {
                        action: "read network configuration",
                        path,
                        source,
                    });
                }
            };
            let network = serde_json::from_slice(&bytes)
                .map_err(|error| error.to_string())
                .and_then(|raw| Network::from_value(raw, bin_dirs));
            return network.map_err(|problem| CniError::Config { path, problem });
        }
    }
    Err(CniError::NoConfig {
        directories: conf_dirs.to_vec(),
    })
}

/// Configuration files of a directory in lexical order; none when it is missing.
fn files(directory: &Path) -> Result<Vec<PathBuf>, CniError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other,
    };
    let paths = entries.and_then(|entries| {
        entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<Vec<_>>>()
    });
    let mut paths = paths.map_err(|source| CniError::Io {
        action: "list network configurations in",
        path: directory.to_path_buf(),
        source,
    })?;
    let known = |path: &PathBuf| {
        path.extension()
            .is_some_and(|e| e == "conflist" || e == "conf" || e == "json")
            && path.is_file()
    };
    paths.retain(known);
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        let problem = format!("more than {MAX_FILE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(bytes)
}

impl Network {
    pub(super) fn from_value(raw: Value, bin_dirs: &[PathBuf]) -> Result<Self, String> {
        let list = List::deserialize(&raw).map_err(|error| error.to_string())?;
        if !is_name(&list.name) {
            return Err(format!(
                "name {:?} is not letters, digits, '.', '_' and '-'",
                list.name
            ));
        }
        let offered: Vec<&String> = list.cni_version.iter().chain(&list.cni_versions).collect();
        let version = offered
            .iter()
            .filter_map(|offered| VERSIONS.iter().position(|known| known == offered))
            .max()
            .ok_or_else(|| {
                let known = VERSIONS.join(", ");
                format!("cniVersion {offered:?} is not understood; these are: {known}")
            })?;
        let configs = match list.plugins {
            Some(plugins) => plugins,
            None => raw.as_object().cloned().into_iter().collect(),
        };
        if configs.is_empty() || configs.len() > MAX_PLUGINS {
            return Err(format!(
                "{} plugins; 1 to {MAX_PLUGINS} are possible",
                configs.len()
            ));
        }
        let plugins = configs
            .into_iter()
            .map(Plugin::new)
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name: list.name,
            version,
            checked: !list.disable_check.is_set(),
            plugins,
            raw,
            arguments: Map::new(),
            bin_dirs: bin_dirs.to_vec(),
        })
    }

    /// Gives plugins that declare `capability` an argument at ADD (CNI's CONVENTIONS.md, "Dynamic
    /// plugin specific fields"); CHECK and DEL repeat it from the cache.
    #[must_use]
    pub fn with_argument(mut self, capability: &str, argument: Value) -> Self {
        self.arguments.insert(capability.to_owned(), argument);
        self
    }

    /// [`Self::with_argument`] for `dns`: the resolver that the pod's files name.
    #[must_use]
    pub fn with_dns(self, dns: &DnsConfig) -> Self {
        let (servers, searches, options) = (&dns.servers, &dns.searches, &dns.options);
        let argument = json!({"servers": servers, "searches": searches, "options": options});
        self.with_argument("dns", argument)
    }

    /// The network's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The version that plugins are spoken to in.
    #[must_use]
    pub fn version(&self) -> &'static str {
        VERSIONS.get(self.version).copied().unwrap_or_default()
    }

    /// CHECK, and the result of ADD at DEL, came with 0.4.0.
    pub(super) fn is_at_least_0_4(&self) -> bool {
        self.version >= 2
    }

    pub(super) fn find_plugins(&self) -> Result<(), CniError> {
        self.plugins
            .iter()
            .try_for_each(|plugin| self.find(plugin).map(drop))
    }

    /// The plugin's program.
    pub(super) fn find(&self, plugin: &Plugin) -> Result<PathBuf, CniError> {
        let candidates = self
            .bin_dirs
            .iter()
            .map(|directory| directory.join(&plugin.kind));
        candidates
            .into_iter()
            .find(|path| path.is_file())
            .ok_or_else(|| CniError::MissingPlugin {
                plugin: plugin.kind.clone(),
                directories: self.bin_dirs.clone(),
            })
    }
}

impl Plugin {
    fn new(mut config: Map<String, Value>) -> Result<Self, String> {
        let kind = match config.get("type") {
            // A plain name: what it names must lie in a plugin directory.
            Some(Value::String(kind)) if is_name(kind) => kind.clone(),
            other => return Err(format!("plugin type {other:?} is no name of a program")),
        };
        let capabilities = match config.remove("capabilities") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Object(all)) => all
                .into_iter()
                .filter(|(_, wanted)| *wanted == Value::Bool(true))
                .map(|(name, _)| name)
                .collect(),
            Some(other) => return Err(format!("capabilities of {kind:?} are no object: {other}")),
        };
        Ok(Self {
            kind,
            capabilities,
            config,
        })
    }
}

/// What CNI allows in names of networks and containers, and what is safe as a file name.
pub(super) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.len() <= 255
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}
