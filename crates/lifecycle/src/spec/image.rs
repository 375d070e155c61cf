//! What an image's configuration says about running it (image-spec, "Image Configuration").

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::mounts;
use crate::error::Error;

/// Most bytes of an image's configuration; registries take no larger manifests either.
const MAX_CONFIG_BYTES: usize = 8 << 20;

/// Defaults that an image brings; each may be empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ImageDefaults {
    /// Program and first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments.
    pub cmd: Vec<String>,
    /// `NAME=value` lines.
    pub env: Vec<String>,
    /// Working directory.
    pub working_dir: String,
    /// `user`, `uid`, `user:group` and so on.
    pub user: String,
    /// Signal that stops it, as text.
    pub stop_signal: String,
    /// Directories that it declares as volumes, cleaned.
    pub volumes: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    config: Option<Config>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    volumes: Option<BTreeMap<String, IgnoredAny>>,
}

impl ImageDefaults {
    /// Reads an image's configuration file. `null` counts as absent everywhere, since builders
    /// write it so. Volumes that are no clean absolute path are left out.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] when it is no such file or larger than 8 MiB.
    pub fn from_json(bytes: &[u8]) -> Result<Self, Error> {
        let invalid = |problem: String| Error::invalid("the image's configuration", problem);
        if bytes.len() > MAX_CONFIG_BYTES {
            let problem = format!("{} bytes; the limit is {MAX_CONFIG_BYTES}", bytes.len());
            return Err(invalid(problem));
        }
        let file: File =
            serde_json::from_slice(bytes).map_err(|error| invalid(error.to_string()))?;
        let config = file.config.unwrap_or_default();
        let volumes = config.volumes.unwrap_or_default();
        Ok(Self {
            entrypoint: config.entrypoint.unwrap_or_default(),
            cmd: config.cmd.unwrap_or_default(),
            env: config.env.unwrap_or_default(),
            working_dir: config.working_dir.unwrap_or_default(),
            user: config.user.unwrap_or_default(),
            stop_signal: config.stop_signal.unwrap_or_default(),
            volumes: volumes
                .keys()
                .filter_map(|path| mounts::clean("volume", Path::new(path)).ok())
                .collect(),
        })
    }
}
