//! The baseline: what an engine does without help, in its shortest form. runc checkpoints with its
//! own options to files, tar makes one archive of them; tar unpacks it, runc restores.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::measure::{Job, Side};
use super::meter;
use crate::harness::{arena, cgroups, needs, wait};

/// Where the scripts put the CRIU that thawd uses too.
const CRIU: &str = "/opt/thawd/criu/bin";

const ORIGINAL: &str = "original";
const RESTORED: &str = "restored";

/// A runc of its own. Dropping it removes its containers.
pub(super) struct Baseline {
    directory: TempDir,
    cgroup: String,
    network: Network,
}

/// A network namespace for the container, as a pod would have one: not the one that CRIU runs in.
/// A process that sleeps holds it.
struct Network(Child);

impl Network {
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness runs ordinary programs"
    )]
    fn make() -> Result<Self> {
        let holder = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--", "unshare", "--net", "--"])
            .args(["sleep", "infinity"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("starting unshare")?;
        let network = Self(holder);
        let own = std::fs::read_link("/proc/self/ns/net")?;
        wait::until("a network namespace", wait::PATIENCE, || {
            Ok((std::fs::read_link(network.path())? != own).then_some(()))
        })?;
        Ok(network)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Baseline {
    /// Unpacks the image that holds the program.
    pub(super) fn start(program: &Path) -> Result<Self> {
        let directory = tempfile::Builder::new()
            .prefix("thawd-bench-")
            .tempdir_in("/var/tmp")?;
        // thawd's instances count from 1.
        let baseline = Self {
            directory,
            cgroup: cgroups::name(0),
            network: Network::make()?,
        };
        for name in ["bundle", "bundle/rootfs", "image", "archives"] {
            std::fs::create_dir(baseline.path(name))?;
        }
        let image = needs::program_image(&program.display().to_string())?;
        baseline.unpack(&image).context("unpacking the image")?;
        Ok(baseline)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn blob(&self, descriptor: &Value) -> Result<String> {
        let digest = descriptor.pointer("/digest").and_then(Value::as_str);
        let hex = digest.and_then(|digest| digest.strip_prefix("sha256:"));
        Ok(self.text(&format!("image/blobs/sha256/{}", hex.context("digest")?)))
    }

    /// Our own images have no whiteouts: their layers lie on each other.
    fn unpack(&self, image: &Path) -> Result<()> {
        let layout = self.text("image");
        arena::run("tar", &["-xf", &image.display().to_string(), "-C", &layout])?;
        let index = parse(&self.text("image/index.json"))?;
        let manifest = index.pointer("/manifests/0").context("manifest")?;
        let manifest = parse(&self.blob(manifest)?)?;
        let layers = manifest.pointer("/layers").and_then(Value::as_array);
        for layer in layers.context("layers")? {
            let rootfs = self.text("bundle/rootfs");
            arena::run("tar", &["-xf", &self.blob(layer)?, "-C", &rootfs])?;
        }
        Ok(())
    }

    /// runc's own example of a configuration, with our program in a network namespace by path.
    fn configure(&self, job: &Job<'_>) -> Result<()> {
        let path = self.path("bundle/config.json");
        if path.exists() {
            std::fs::remove_file(&path)?;
        }
        arena::run("runc", &["spec", "--bundle", &self.text("bundle")])?;
        let mut spec = parse(&path.display().to_string())?;
        let (mib, seed) = (job.mib.to_string(), job.seed.to_string());
        let network = self.network.path();
        let mount = json!({
            "destination": meter::INSIDE, "type": "bind", "source": job.meter,
            "options": ["rbind", "rw"],
        });
        let part = |spec: &mut Value, pointer: &str, value: Value| -> Result<()> {
            *spec
                .pointer_mut(pointer)
                .with_context(|| pointer.to_owned())? = value;
            Ok(())
        };
        part(
            &mut spec,
            "/process/args",
            json!(["/bin/bench", "workload", mib, seed]),
        )?;
        part(&mut spec, "/process/terminal", json!(false))?;
        part(&mut spec, "/root/readonly", json!(false))?;
        let mounts = spec.pointer_mut("/mounts").and_then(Value::as_array_mut);
        mounts.context("mounts")?.push(mount);
        let linux = spec
            .get_mut("linux")
            .and_then(Value::as_object_mut)
            .context("linux")?;
        linux.insert(
            "cgroupsPath".into(),
            json!(format!("{}/baseline", self.cgroup)),
        );
        let namespaces = linux.get_mut("namespaces").and_then(Value::as_array_mut);
        for namespace in namespaces.context("namespaces")? {
            if namespace.get("type") == Some(&json!("network")) {
                *namespace = json!({"type": "network", "path": network});
            }
        }
        let file = OpenOptions::new().write(true).truncate(true).open(&path)?;
        Ok(serde_json::to_writer(file, &spec)?)
    }

    /// Runs runc. A detached container inherits its standard streams, and CRIU must know what is
    /// behind them: /dev/null. So runc says in a log what went wrong.
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness runs ordinary programs"
    )]
    fn runc(&self, arguments: &[&str]) -> Result<()> {
        let path = std::env::var("PATH").unwrap_or_default();
        let log = self.path("runc.log");
        let status = Command::new("runc")
            .env("PATH", format!("{CRIU}:{path}"))
            .arg("--root")
            .arg(self.path("state"))
            .arg("--log")
            .arg(&log)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("starting runc")?;
        if status.success() {
            return Ok(());
        }
        let mut said = std::fs::read_to_string(&log).unwrap_or_default();
        for name in ["work/dump.log", "work/restore.log"] {
            let log = std::fs::read(self.path(name)).unwrap_or_default();
            let log = String::from_utf8_lossy(&log);
            said.extend(
                log.lines()
                    .filter(|line| line.contains("Error"))
                    .map(|line| format!("\n{line}")),
            );
        }
        anyhow::bail!("runc {}: {status}\n{said}", arguments.join(" "))
    }

    fn remove_images(&self) -> Result<()> {
        for name in ["images", "work"] {
            let path = self.path(name);
            if path.exists() {
                std::fs::remove_dir_all(&path).with_context(|| path.display().to_string())?;
            }
            std::fs::create_dir(&path)?;
        }
        Ok(())
    }

    /// The two options that say where; all others are runc's defaults.
    fn places(&self) -> [String; 4] {
        let (images, work) = (self.text("images"), self.text("work"));
        [
            "--image-path".to_owned(),
            images,
            "--work-path".to_owned(),
            work,
        ]
    }
}

impl Side for Baseline {
    fn start(&mut self, job: &Job<'_>) -> Result<()> {
        self.configure(job)?;
        self.remove_images()?;
        self.runc(&[
            "run",
            "--detach",
            "--bundle",
            &self.text("bundle"),
            ORIGINAL,
        ])
    }

    fn checkpoint(&mut self) -> Result<()> {
        let [a, b, c, d] = self.places();
        self.runc(&["checkpoint", "--leave-running", &a, &b, &c, &d, ORIGINAL])?;
        let (archive, images) = (self.text("archives/baseline.tar"), self.text("images"));
        arena::run("tar", &["-cf", &archive, "-C", &images, "."]).map(drop)
    }

    fn sync(&mut self) -> Result<()> {
        arena::run("sync", &["--data", &self.text("archives/baseline.tar")]).map(drop)
    }

    fn replace(&mut self) -> Result<()> {
        self.runc(&["delete", "--force", ORIGINAL])?;
        self.remove_images()
    }

    fn restore(&mut self) -> Result<()> {
        let (archive, images) = (self.text("archives/baseline.tar"), self.text("images"));
        arena::run("tar", &["-xf", &archive, "-C", &images])?;
        let [a, b, c, d] = self.places();
        let bundle = self.text("bundle");
        self.runc(&[
            "restore", "--detach", "--bundle", &bundle, &a, &b, &c, &d, RESTORED,
        ])
    }

    /// Of this process, which has waited for runc and tar, as runc has for CRIU.
    fn written(&self) -> Result<u64> {
        write_bytes_of("self")
    }

    fn clear(&mut self) -> Result<()> {
        self.runc(&["delete", "--force", RESTORED])?;
        self.remove_images()?;
        std::fs::remove_file(self.path("archives/baseline.tar"))?;
        Ok(())
    }
}

impl Drop for Baseline {
    fn drop(&mut self) {
        for id in [ORIGINAL, RESTORED] {
            // It succeeds when there is none.
            drop(self.runc(&["delete", "--force", id]));
        }
        if let Err(error) = cgroups::remove(&self.cgroup) {
            drop(writeln!(std::io::stderr(), "cleaning up: {error:#}"));
        }
    }
}

fn parse(path: &str) -> Result<Value> {
    let text = std::fs::read_to_string(path).with_context(|| path.to_owned())?;
    serde_json::from_str(&text).with_context(|| path.to_owned())
}

/// `write_bytes` of a process and of the children that it has waited for.
pub(super) fn write_bytes_of(process: &str) -> Result<u64> {
    let path = format!("/proc/{process}/io");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let mut values = text
        .lines()
        .filter_map(|line| line.strip_prefix("write_bytes: "));
    let value = values
        .next()
        .with_context(|| format!("no write_bytes in {path}"))?;
    let bytes = value.parse().with_context(|| path.clone())?;
    ensure!(
        text.contains("rchar: "),
        "{path} is no account of a process"
    );
    Ok(bytes)
}
