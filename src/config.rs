//! The daemon's configuration: flags before file before defaults.
//!
//! ```toml
//! # /etc/thawd/config.toml; every key may be left out
//! root = "/var/lib/thawd"
//! run = "/run/thawd"
//! listen = "unix:///run/thawd/thawd.sock"
//! log_level = "info"              # or a tracing filter: "info,lifecycle=debug"
//! log_format = "text"             # or "json"
//! cgroup_driver = "auto"          # "systemd", "cgroupfs"; auto: systemd where it manages cgroup v2
//! cgroup_parent = "/thawd"        # for systemd this is thawd.slice
//! mptcp = false                   # CRIU cannot dump MPTCP sockets
//! shm_bytes = 67108864            # of each pod's /dev/shm
//! monitor = "thawd-monitor"       # looked up beside thawd, then on the PATH
//! relay = "thawd-criu-relay"
//!
//! [cni]
//! conf_dirs = ["/etc/cni/net.d"]
//! bin_dirs = ["/opt/cni/bin", "/usr/lib/cni"]
//!
//! [[runtime]]                     # the first one that works and restores is the default
//! name = "runc"
//! path = "/usr/sbin/runc"
//!
//! [checkpoint]
//! criu = ["/opt/thawd/criu/bin/criu", "criu"]
//! default_timeout_seconds = 120
//! restore_timeout_seconds = 120
//! ghost_limit_bytes = 268435456
//! copy_on_write = true            # false: containers stand until their memory is in the archive
//! restore_directories = ["/var/lib/kubelet/checkpoints"]
//! ```

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use lifecycle::cgroups::{CgroupDriver, DriverChoice};
use lifecycle::config::{CheckpointConfig, Handler, NodeConfig};
use serde::Deserialize;

use crate::telemetry::LogFormat;

/// Where the file is looked for when no flag names one.
pub const DEFAULT_FILE: &str = "/etc/thawd/config.toml";
/// The socket's address when nothing names one.
pub const DEFAULT_LISTEN: &str = "unix:///run/thawd/thawd.sock";
/// Largest configuration file, in bytes.
const FILE_LIMIT: u64 = 1024 * 1024;
/// Longest time that the configuration may set, in seconds.
const LONGEST_SECONDS: u64 = 24 * 3600;

/// What flags say; `None` leaves it to the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Flags {
    /// `--config`.
    pub config: Option<PathBuf>,
    /// `--root`.
    pub root: Option<PathBuf>,
    /// `--run`.
    pub run: Option<PathBuf>,
    /// `--listen`.
    pub listen: Option<String>,
    /// `--log-level`.
    pub log_level: Option<String>,
}

/// The checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Path of the socket.
    pub socket: PathBuf,
    /// Log filter.
    pub log_level: String,
    /// Log format.
    pub log_format: LogFormat,
    /// Everything below gRPC.
    pub node: NodeConfig,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    root: Option<PathBuf>,
    run: Option<PathBuf>,
    listen: Option<String>,
    log_level: Option<String>,
    log_format: LogFormat,
    cgroup_driver: Driver,
    cgroup_parent: Option<String>,
    mptcp: bool,
    shm_bytes: Option<u64>,
    monitor: Option<PathBuf>,
    relay: Option<PathBuf>,
    cni: Cni,
    runtime: Vec<Runtime>,
    checkpoint: Checkpoint,
}

/// `cgroup_driver`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Driver {
    #[default]
    Auto,
    Systemd,
    Cgroupfs,
}

impl Driver {
    fn choice(self) -> DriverChoice {
        match self {
            Self::Auto => DriverChoice::Auto,
            Self::Systemd => DriverChoice::Fixed(CgroupDriver::Systemd),
            Self::Cgroupfs => DriverChoice::Fixed(CgroupDriver::Cgroupfs),
        }
    }
}

/// A path does for both drivers, the name of a slice for systemd alone.
fn check_cgroup_parent(parent: &str, driver: Driver) -> anyhow::Result<()> {
    if parent.ends_with(".slice") && !parent.contains('/') {
        ensure!(
            driver == Driver::Systemd,
            "cgroup_parent {parent:?} is a slice, which needs cgroup_driver = \"systemd\""
        );
        sys::systemd::slice_cgroup(parent).context("cgroup_parent")?;
        return Ok(());
    }
    ensure!(
        parent.starts_with('/') && !parent.split('/').any(|part| part == ".."),
        "cgroup_parent {parent:?} must be absolute and without \"..\""
    );
    Ok(())
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Cni {
    conf_dirs: Option<Vec<PathBuf>>,
    bin_dirs: Option<Vec<PathBuf>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Runtime {
    name: String,
    path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Checkpoint {
    criu: Option<Vec<PathBuf>>,
    default_timeout_seconds: Option<u64>,
    restore_timeout_seconds: Option<u64>,
    ghost_limit_bytes: Option<u64>,
    copy_on_write: Option<bool>,
    restore_directories: Option<Vec<PathBuf>>,
}

impl Config {
    /// Reads the file (absent is fine unless a flag names it) and puts the flags over it.
    ///
    /// # Errors
    ///
    /// A file that cannot be read or parsed, an unknown key, a relative path, an address that is
    /// not `unix://`; the message names key and remedy.
    pub fn load(flags: &Flags) -> anyhow::Result<Self> {
        let path = flags
            .config
            .clone()
            .unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let text = match std::fs::File::open(&path) {
            Ok(file) => {
                let bytes = sys::fs::read_bounded(file, FILE_LIMIT)
                    .with_context(|| format!("read {}", path.display()))?;
                String::from_utf8(bytes)
                    .with_context(|| format!("{} is no text", path.display()))?
            }
            Err(error)
                if error.kind() == std::io::ErrorKind::NotFound && flags.config.is_none() =>
            {
                String::new()
            }
            Err(error) => {
                return Err(error)
                    .with_context(|| format!("open configuration {}", path.display()));
            }
        };
        Self::parse(&text, flags).with_context(|| format!("configuration {}", path.display()))
    }

    /// Parses a file's text and puts the flags over it.
    ///
    /// # Errors
    ///
    /// As [`Config::load`], but for the file itself.
    pub fn parse(text: &str, flags: &Flags) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text)?;
        let root = absolute("root", flags.root.clone().or(file.root), "/var/lib/thawd")?;
        let run = absolute("run", flags.run.clone().or(file.run), "/run/thawd")?;
        let listen = flags.listen.clone().or(file.listen);
        let listen = listen.unwrap_or_else(|| format!("unix://{}/thawd.sock", run.display()));
        let cgroup_parent = file.cgroup_parent.unwrap_or_else(|| "/thawd".into());
        check_cgroup_parent(&cgroup_parent, file.cgroup_driver)?;
        let cni_conf = list("cni.conf_dirs", file.cni.conf_dirs, &["/etc/cni/net.d"])?;
        let cni_bin = list(
            "cni.bin_dirs",
            file.cni.bin_dirs,
            &["/opt/cni/bin", "/usr/lib/cni"],
        )?;
        Ok(Self {
            socket: socket_path(&listen)?,
            log_level: flags
                .log_level
                .clone()
                .or(file.log_level)
                .unwrap_or_else(|| "info".into()),
            log_format: file.log_format,
            node: NodeConfig {
                checkpoint: checkpoint(file.checkpoint, &root)?,
                root,
                run,
                handlers: handlers(file.runtime)?,
                monitor: helper(file.monitor, "thawd-monitor"),
                relay: helper(file.relay, "thawd-criu-relay"),
                cni_conf_dirs: cni_conf,
                cni_bin_dirs: cni_bin,
                cgroup_driver: file.cgroup_driver.choice(),
                cgroup_parent,
                mptcp: file.mptcp,
                shm_bytes: file.shm_bytes.unwrap_or(64 * 1024 * 1024),
            },
        })
    }
}

fn handlers(configured: Vec<Runtime>) -> anyhow::Result<Vec<Handler>> {
    if configured.is_empty() {
        let known = ["crun", "runc"];
        return Ok(known
            .map(|name| Handler {
                name: name.into(),
                path: name.into(),
            })
            .into());
    }
    let mut handlers: Vec<Handler> = Vec::new();
    for Runtime { name, path } in configured {
        ensure!(!name.is_empty(), "a [[runtime]] has an empty name");
        ensure!(
            !handlers.iter().any(|handler| handler.name == name),
            "runtime {name:?} stands twice"
        );
        let path = path.unwrap_or_else(|| PathBuf::from(&name));
        handlers.push(Handler { name, path });
    }
    Ok(handlers)
}

fn checkpoint(file: Checkpoint, root: &Path) -> anyhow::Result<CheckpointConfig> {
    let criu = file
        .criu
        .unwrap_or_else(|| vec!["/opt/thawd/criu/bin/criu".into(), "criu".into()]);
    ensure!(!criu.is_empty(), "checkpoint.criu names no program");
    let mut restore_directories = list(
        "checkpoint.restore_directories",
        file.restore_directories,
        &["/var/lib/kubelet/checkpoints"],
    )?;
    restore_directories.push(root.join("checkpoints"));
    let seconds = |key: &str, value: Option<u64>| {
        let value = value.unwrap_or(120);
        ensure!(
            (1..=LONGEST_SECONDS).contains(&value),
            "checkpoint.{key} {value} must be between 1 and {LONGEST_SECONDS}"
        );
        Ok(Duration::from_secs(value))
    };
    Ok(CheckpointConfig {
        criu,
        default_timeout: seconds("default_timeout_seconds", file.default_timeout_seconds)?,
        restore_timeout: seconds("restore_timeout_seconds", file.restore_timeout_seconds)?,
        ghost_limit_bytes: file.ghost_limit_bytes.unwrap_or(256 * 1024 * 1024),
        copy_on_write: file.copy_on_write.unwrap_or(true),
        restore_directories,
    })
}

/// A program of ours: beside this one where it is not configured.
fn helper(configured: Option<PathBuf>, name: &str) -> PathBuf {
    configured.unwrap_or_else(|| {
        let beside = std::env::current_exe()
            .ok()
            .and_then(|own| Some(own.parent()?.join(name)));
        beside
            .filter(|path| path.is_file())
            .unwrap_or_else(|| PathBuf::from(name))
    })
}

fn absolute(key: &str, path: Option<PathBuf>, default: &str) -> anyhow::Result<PathBuf> {
    let path = path.unwrap_or_else(|| PathBuf::from(default));
    ensure!(
        path.is_absolute(),
        "{key} {:?} must be an absolute path",
        path
    );
    Ok(path)
}

fn list(key: &str, paths: Option<Vec<PathBuf>>, defaults: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let paths = paths.unwrap_or_else(|| defaults.iter().map(PathBuf::from).collect());
    for path in &paths {
        ensure!(
            path.is_absolute(),
            "{key}: {path:?} must be an absolute path"
        );
    }
    Ok(paths)
}

/// The path of a `unix://` address.
///
/// # Errors
///
/// Any other scheme, or a relative path.
pub fn socket_path(address: &str) -> anyhow::Result<PathBuf> {
    let Some(path) = address.strip_prefix("unix://") else {
        bail!("address {address:?} must begin with unix://");
    };
    ensure!(
        path.starts_with('/'),
        "address {address:?} must hold an absolute path: unix:///PATH"
    );
    Ok(PathBuf::from(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_file_the_defaults_hold() {
        let config = Config::parse("", &Flags::default()).unwrap();
        assert_eq!(config.socket, PathBuf::from("/run/thawd/thawd.sock"));
        assert_eq!(config.node.root, PathBuf::from("/var/lib/thawd"));
        assert_eq!(
            config.node.checkpoint.restore_directories,
            [
                PathBuf::from("/var/lib/kubelet/checkpoints"),
                PathBuf::from("/var/lib/thawd/checkpoints")
            ]
        );
        assert_eq!(config.node.handlers.len(), 2);
    }

    #[test]
    fn flags_stand_over_the_file() {
        let flags = Flags {
            root: Some("/x".into()),
            ..Flags::default()
        };
        let config = Config::parse("root = \"/y\"\nrun = \"/z\"\n", &flags).unwrap();
        assert_eq!(config.node.root, PathBuf::from("/x"));
        assert_eq!(config.socket, PathBuf::from("/z/thawd.sock"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, part: &str| {
            let error = Config::parse(text, &Flags::default()).unwrap_err();
            assert!(format!("{error:#}").contains(part), "{error:#}");
        };
        check("rot = 1", "rot");
        check("root = \"relative\"", "root");
        check("listen = \"tcp://1\"", "unix://");
        check(
            "[checkpoint]\ndefault_timeout_seconds = 0",
            "default_timeout_seconds",
        );
        check(
            "[[runtime]]\nname = \"a\"\n[[runtime]]\nname = \"a\"",
            "twice",
        );
        check("cgroup_parent = \"/a/../b\"", "cgroup_parent");
        check("cgroup_parent = \"a.slice\"", "needs cgroup_driver");
        check(
            "cgroup_driver = \"systemd\"\ncgroup_parent = \"a--b.slice\"",
            "cgroup_parent",
        );
        check("cgroup_driver = \"other\"", "cgroup_driver");
    }
}
