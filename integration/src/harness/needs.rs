//! What the tests need from the machine. What is missing fails the run and says how to get it.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::arena;

/// Programs of the system and the package that has them.
const PROGRAMS: &[(&str, &str)] = &[
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("iptables", "iptables"),
    ("jq", "jq"),
    ("tar", "tar"),
    ("unshare", "util-linux"),
    ("nsenter", "util-linux"),
    ("setpriv", "util-linux"),
];

/// Programs of this workspace.
const OWN: &[&str] = &[
    "thawd",
    "thaw",
    "thawd-monitor",
    "thawd-criu-relay",
    "workload",
];

/// Folder of the repository.
pub(crate) fn repository() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Folder of the programs under test: cargo's release folder, or `THAWD_TEST_BIN`.
fn binaries() -> PathBuf {
    match std::env::var_os("THAWD_TEST_BIN") {
        Some(folder) => PathBuf::from(folder),
        None => target().join("release"),
    }
}

/// Cargo's target folder.
pub(crate) fn target() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => repository().join("target"),
    }
}

/// One of the workspace's own programs.
///
/// # Errors
/// When it is not built.
pub(crate) fn program(name: &str) -> Result<PathBuf> {
    let path = binaries().join(name);
    ensure!(
        path.is_file(),
        "{} is not there; run: cargo build --release --workspace --bins",
        path.display()
    );
    Ok(path)
}

/// Folder of the CNI plugins.
pub(crate) fn plugins() -> String {
    let folders = ["/opt/cni/bin", "/usr/lib/cni"];
    let found = folders
        .into_iter()
        .find(|folder| Path::new(folder).join("bridge").exists());
    found.unwrap_or("/usr/lib/cni").to_owned()
}

/// Whether a program is on the PATH.
pub(crate) fn on_path(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}

/// One of the test images as an OCI layout tar, built when it is missing or old.
///
/// # Errors
/// When it cannot be built.
pub(crate) fn image(variant: &str) -> Result<PathBuf> {
    let workload = program("workload")?;
    build_image(
        variant,
        variant,
        &format!("workload={}", workload.display()),
    )
}

/// An image that holds one program, by the program's file name.
///
/// # Errors
/// As [`image`].
pub(crate) fn program_image(path: &str) -> Result<PathBuf> {
    let name = path.rsplit('/').next().unwrap_or(path);
    build_image("file", name, &format!("file={path}"))
}

fn build_image(variant: &str, name: &str, assignment: &str) -> Result<PathBuf> {
    let archive = target().join(format!("images/{name}.tar"));
    let script = repository().join("scripts/build-image.sh");
    let script = script.to_str().context("path of the repository")?;
    let output = archive.to_str().context("path of the target folder")?;
    arena::run("env", &[assignment, script, variant, output])
        .with_context(|| format!("building the test image {name}"))?;
    Ok(archive)
}

/// A test program that a script of ours gets: from the folders where the scripts put it, or the PATH.
///
/// # Errors
/// When it is in none of them.
pub(crate) fn tool(name: &str, script: &str) -> Result<PathBuf> {
    let cache = std::env::var_os("THAWD_TOOLS").unwrap_or_else(|| "/var/cache/thawd-tools".into());
    let mut folders = vec![
        Path::new(&cache).join("bin"),
        PathBuf::from("/opt/thawd/criu/bin"),
    ];
    folders.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let found = folders
        .into_iter()
        .map(|folder| folder.join(name))
        .find(|path| path.is_file());
    found.with_context(|| format!("{name} is missing; run: {script}"))
}

/// The crun that can restore, where scripts/install-crun.sh puts it.
pub(crate) const CRUN: &str = "/opt/thawd/crun/bin/crun";

/// Everything that is missing, each with its remedy.
pub(crate) fn missing() -> Vec<String> {
    let mut missing = Vec::new();
    if !rustix::process::geteuid().is_root() {
        missing.push("the tests need root; run: sudo -E scripts/test.sh".to_owned());
    }
    for (name, package) in PROGRAMS {
        if !on_path(name) {
            missing.push(format!("{name} is missing; run: apt-get install {package}"));
        }
    }
    for plugin in ["bridge", "host-local", "portmap", "loopback"] {
        let path = Path::new(&plugins()).join(plugin);
        if !path.exists() {
            let package = "containernetworking-plugins";
            missing.push(format!(
                "{} is missing; run: apt-get install {package}",
                path.display()
            ));
        }
    }
    let own = OWN.iter().filter_map(|name| program(name).err());
    missing.extend(own.map(|error| error.to_string()));
    if !Path::new("/opt/thawd/criu/bin/criu").exists() && !on_path("criu") {
        missing.push("CRIU is missing; run: scripts/install-criu.sh".to_owned());
    }
    if !Path::new(CRUN).exists() {
        missing.push(format!("{CRUN} is missing; run: scripts/install-crun.sh"));
    }
    missing
}
