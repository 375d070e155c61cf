//! What the relay is told, in a file that one restore uses.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

/// The environment variable that holds the path of the relay's configuration.
pub const CONFIG_VARIABLE: &str = "THAWD_RELAY_CONFIG";

/// Longest configuration: thousands of mounts fit.
const MAX_BYTES: u64 = 16 << 20;

/// The version that this relay writes, and the newest it reads.
const VERSION: u32 = 1;

/// What to change in a RESTORE request on its way to CRIU. JSON; written by one version of thawd
/// and read by the relay of the same installation, or of a newer one after an upgrade.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// 1.
    pub version: u32,
    /// The real CRIU, by path.
    pub criu: PathBuf,
    /// Turn `tcp_close` on; false leaves what the runtime asks for.
    #[serde(default)]
    pub tcp_close: bool,
    /// Turn `file_locks` on; false leaves what the runtime asks for.
    #[serde(default)]
    pub file_locks: bool,
    /// Restore tasks into the cgroup that the relay is in, whatever the runtime asks for.
    #[serde(default)]
    pub manage_cgroups_ignore: bool,
    /// External mounts to add: stored name, path of the host. They replace the runtime's of the
    /// same name.
    #[serde(default)]
    pub ext_mounts: Vec<(String, String)>,
    /// External resources to add, in CRIU's notation.
    #[serde(default)]
    pub external: Vec<String>,
    /// The images, in place of the runtime's directory.
    #[serde(default)]
    pub images_dir: Option<PathBuf>,
    /// The working directory, in place of the runtime's.
    #[serde(default)]
    pub work_dir: Option<PathBuf>,
    /// The log's name in the working directory.
    #[serde(default)]
    pub log_file: Option<String>,
    /// The log's level, 0 to 4.
    #[serde(default)]
    pub log_level: Option<u8>,
    /// CRIU's configuration file, in place of the runtime's; without it there is none.
    #[serde(default)]
    pub config_file: Option<PathBuf>,
    /// A listening sequenced-packet socket: the relay connects to it when all tasks are
    /// rebuilt and waits for the answer before any of them runs; see [`super::HeldRestore`].
    #[serde(default)]
    pub hold_socket: Option<PathBuf>,
    /// Set `lazy_pages`.
    #[serde(default)]
    pub lazy_pages: Option<bool>,
    /// Set `evasive_devices`.
    #[serde(default)]
    pub evasive_devices: Option<bool>,
    /// The cgroup that a restore's tasks are to be born in, where the runtime has not put the relay
    /// there.
    #[serde(default)]
    pub cgroup: Option<CgroupEntry>,
    /// Restore into a new cgroup namespace, whose root is the cgroup that the relay is in: CRIU
    /// makes none when it does not manage cgroups, and tasks would see the host's whole tree.
    #[serde(default)]
    pub cgroup_namespace: bool,
}

/// A cgroup to restore into; see [`RelayConfig::cgroup`]. The runtime has made it when the request
/// comes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CgroupEntry {
    /// Its directories, one a hierarchy. Those that the runtime did not make are passed over.
    pub directories: Vec<PathBuf>,
    /// v2 only: another cgroup, for relay and CRIU once the tasks are rebuilt. The tasks then stand
    /// still until somebody writes 0 into `cgroup.freeze`, which is to be done when the runtime has
    /// set what it sets last.
    #[serde(default)]
    pub wait_outside: Option<PathBuf>,
}

/// A configuration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The environment names none.
    #[error("{CONFIG_VARIABLE} is not set")]
    Unset,
    /// It cannot be read or written.
    #[error("cannot access {}", path.display())]
    Access {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what a relay of this version reads.
    #[error("{} is no configuration of this relay", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Its version is too new.
    #[error("{} has version {version}, this relay reads up to {VERSION}", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
    },
}

impl RelayConfig {
    /// One that changes nothing but the descriptors, and drops the host's CRIU configuration.
    pub fn new(criu: impl Into<PathBuf>) -> Self {
        Self {
            version: VERSION,
            criu: criu.into(),
            tcp_close: false,
            file_locks: false,
            manage_cgroups_ignore: false,
            ext_mounts: Vec::new(),
            external: Vec::new(),
            images_dir: None,
            work_dir: None,
            log_file: None,
            log_level: None,
            config_file: None,
            hold_socket: None,
            lazy_pages: None,
            evasive_devices: None,
            cgroup: None,
            cgroup_namespace: false,
        }
    }

    /// Publishes it at `path`, mode 0600, whole or not at all.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Access`]; [`ConfigError::Format`] when a path is not UTF-8.
    pub fn write(&self, path: &Path) -> Result<(), ConfigError> {
        let bytes = serde_json::to_vec(self).map_err(|source| ConfigError::Format {
            path: path.to_owned(),
            source,
        })?;
        sys::fs::replace_path(path, 0o600, &bytes).map_err(|source| ConfigError::Access {
            path: path.to_owned(),
            source,
        })
    }

    /// Reads it from `path`, through which no link may lead.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Access`], [`ConfigError::Format`] or [`ConfigError::Version`].
    pub fn read(path: &Path) -> Result<Self, ConfigError> {
        let bytes = sys::fs::open_no_symlinks(path, OFlags::RDONLY | OFlags::CLOEXEC)
            .and_then(|file| sys::fs::read_bounded(File::from(file), MAX_BYTES))
            .map_err(|source| ConfigError::Access {
                path: path.to_owned(),
                source,
            })?;
        let format = |source| ConfigError::Format {
            path: path.to_owned(),
            source,
        };
        // The version first: what a newer one added is no reason to complain of an unknown field.
        let version = serde_json::from_slice::<Versioned>(&bytes)
            .map_err(format)?
            .version;
        if version > VERSION {
            return Err(ConfigError::Version {
                path: path.to_owned(),
                version,
            });
        }
        serde_json::from_slice(&bytes).map_err(format)
    }

    /// Reads the one that [`CONFIG_VARIABLE`] names.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Unset`], and as [`Self::read`].
    pub fn from_environment() -> Result<Self, ConfigError> {
        let path: OsString = std::env::var_os(CONFIG_VARIABLE).ok_or(ConfigError::Unset)?;
        Self::read(Path::new(&path))
    }
}

#[derive(Deserialize)]
struct Versioned {
    version: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(dir: &Path, text: &str) -> PathBuf {
        let path = dir.canonicalize().unwrap().join("relay.json");
        sys::fs::replace_path(&path, 0o600, text.as_bytes()).unwrap();
        path
    }

    #[test]
    fn what_is_written_is_read() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().canonicalize().unwrap().join("relay.json");
        let config = RelayConfig {
            tcp_close: true,
            ext_mounts: vec![("/etc/hosts".into(), "/run/pod/hosts".into())],
            hold_socket: Some("/run/thawd/hold.sock".into()),
            lazy_pages: Some(true),
            cgroup: Some(CgroupEntry {
                directories: vec!["/sys/fs/cgroup/pods/a".into()],
                wait_outside: Some("/sys/fs/cgroup/monitors".into()),
            }),
            cgroup_namespace: true,
            ..RelayConfig::new("/usr/sbin/criu")
        };
        config.write(&path).unwrap();
        assert_eq!(RelayConfig::read(&path).unwrap(), config);
    }

    #[test]
    fn the_shortest_configuration_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let path = write(temp.path(), r#"{"version":1,"criu":"/usr/sbin/criu"}"#);
        assert_eq!(
            RelayConfig::read(&path).unwrap(),
            RelayConfig::new("/usr/sbin/criu")
        );
    }

    #[test]
    fn newer_versions_unknown_fields_and_links_are_refused() {
        let temp = tempfile::tempdir().unwrap();
        let path = write(temp.path(), r#"{"version":2,"criu":"/c","more":1}"#);
        assert!(matches!(
            RelayConfig::read(&path),
            Err(ConfigError::Version { version: 2, .. })
        ));
        let path = write(temp.path(), r#"{"version":1,"criu":"/c","more":1}"#);
        assert!(matches!(
            RelayConfig::read(&path),
            Err(ConfigError::Format { .. })
        ));
        let link = path.with_file_name("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        assert!(matches!(
            RelayConfig::read(&link),
            Err(ConfigError::Access { .. })
        ));
        let missing = path.with_file_name("missing");
        assert!(matches!(
            RelayConfig::read(&missing),
            Err(ConfigError::Access { .. })
        ));
    }
}
