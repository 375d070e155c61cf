//! A real kubelet without a cluster: static pods, its own certificates, thawd as its runtime.

use std::fs::OpenOptions;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use super::arena::run;
use super::daemon::{Thawd, write};
use super::{needs, wait};

/// The node's name, which the kubelet appends to the names of static pods.
pub(crate) const NODE: &str = "node";

/// Kernel settings that a kubelet changes for the whole machine, put back afterwards.
const TUNABLES: &[&str] = &[
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/panic_on_oom",
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/panic_on_oops",
    "/proc/sys/kernel/keys/root_maxkeys",
    "/proc/sys/kernel/keys/root_maxbytes",
];

/// A running kubelet. Dropping it kills it and undoes what it did to the machine.
pub(crate) struct Kubelet {
    directory: PathBuf,
    process: Child,
    tunables: Vec<(&'static str, String)>,
}

/// What an HTTP request was answered with.
#[derive(Debug)]
pub(crate) struct Answer {
    /// Status code.
    pub(crate) code: u16,
    /// Body.
    pub(crate) body: String,
}

/// Makes a certificate authority, and certificates for the server and one client.
fn certificates(directory: &Path) -> Result<()> {
    let at = |name: &str| directory.join(name).display().to_string();
    let key = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
    ];
    let (ca, ca_key) = (at("ca.crt"), at("ca.key"));
    let authority = [
        "req", "-x509", "-days", "2", "-subj", "/CN=ca", "-out", &ca, "-keyout",
    ];
    let extension = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"];
    run(
        "openssl",
        &[&authority[..], &[ca_key.as_str()], &key, &extension].concat(),
    )?;
    for (name, subject, extra) in [
        ("server", "/CN=node", "subjectAltName=IP:127.0.0.1"),
        (
            "client",
            "/O=system:masters/CN=admin",
            "extendedKeyUsage=clientAuth",
        ),
    ] {
        let (crt, private) = (at(&format!("{name}.crt")), at(&format!("{name}.key")));
        let leaf = ["req", "-x509", "-days", "2", "-subj", subject, "-out", &crt];
        let signed = [
            "-keyout", &private, "-CA", &ca, "-CAkey", &ca_key, "-addext", extra,
        ];
        let no_authority = ["-addext", "basicConstraints=critical,CA:FALSE"];
        run(
            "openssl",
            &[&leaf[..], &signed, &key, &no_authority].concat(),
        )?;
    }
    Ok(())
}

/// The kubelet refuses to start without an address and a default route.
fn uplink() -> Result<()> {
    if run("ip", &["link", "show", "uplink"]).is_ok() {
        return Ok(());
    }
    for command in [
        "link add uplink type veth peer name uplink-peer",
        "address add 192.0.2.10/24 dev uplink",
        "link set uplink up",
        "link set uplink-peer up",
        "route add default via 192.0.2.1",
    ] {
        run("ip", &command.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

impl Kubelet {
    /// Starts one over this thawd and waits until it answers.
    ///
    /// # Errors
    /// When it ends or does not answer; with the end of its log.
    #[expect(
        clippy::disallowed_methods,
        reason = "the harness runs the programs under test"
    )]
    pub(crate) fn start(thawd: &Thawd) -> Result<Self> {
        let program = needs::tool("kubelet", "scripts/build-tools.sh")?;
        uplink()?;
        // It links the containers' logs there, whatever its configuration says.
        run("mount", &["-t", "tmpfs", "tmpfs", "/var/log"])?;
        let directory = thawd.path("kubelet");
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(directory.join("pods"))?;
        certificates(&directory)?;
        let config = directory.join("config.json");
        write(&config, &Self::configuration(thawd, &directory).to_string())?;
        let read = |path: &&'static str| Some((*path, std::fs::read_to_string(path).ok()?));
        let tunables = TUNABLES.iter().filter_map(read).collect();
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(directory.join("log"))?;
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .arg("--config")
            .arg(&config)
            .arg("--root-dir")
            .arg(directory.join("root"))
            .args([
                "--hostname-override",
                NODE,
                "--node-ip",
                "192.0.2.10",
                "-v",
                "2",
            ])
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("starting the kubelet")?;
        let mut kubelet = Self {
            directory,
            process,
            tunables,
        };
        let answers = wait::until("the kubelet to answer", wait::PATIENCE * 2, || {
            if let Some(status) = kubelet.process.try_wait()? {
                bail!("the kubelet ended with {status}");
            }
            Ok(kubelet
                .get("healthz")
                .ok()
                .filter(|answer| answer.code == 200))
        });
        match answers {
            Ok(_) => Ok(kubelet),
            Err(error) => Err(error.context(format!("its log ends with:\n{}", kubelet.log_tail()))),
        }
    }

    fn configuration(thawd: &Thawd, directory: &Path) -> Value {
        json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "staticPodPath": directory.join("pods"),
            "podLogsDir": directory.join("logs"),
            "fileCheckFrequency": "1s",
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": thawd.cgroup(),
            "cgroupsPerQOS": false,
            "enforceNodeAllocatable": [],
            "failSwapOn": false,
            "failCgroupV1": false,
            "makeIPTablesUtilChains": false,
            "evictionHard": {},
            "localStorageCapacityIsolation": false,
            "containerRuntimeEndpoint":
                format!("unix://{}", thawd.path("run/thawd.sock").display()),
            "address": "127.0.0.1",
            "tlsCertFile": directory.join("server.crt"),
            "tlsPrivateKeyFile": directory.join("server.key"),
            "authentication": {
                "anonymous": {"enabled": false},
                "webhook": {"enabled": false},
                "x509": {"clientCAFile": directory.join("ca.crt")},
            },
            "authorization": {"mode": "AlwaysAllow"},
        })
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.directory.join("log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines
            .get(lines.len().saturating_sub(30)..)
            .unwrap_or_default()
            .join("\n")
    }

    /// Its root directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// Gives it a pod of one container that runs this command.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn add_pod(&self, name: &str, image: &str, command: &[&str]) -> Result<()> {
        let pod = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 2,
                "containers": [{
                    "name": "c", "image": image, "imagePullPolicy": "Never", "command": command,
                }],
            },
        });
        // Written beside and renamed: it must not be read half.
        let beside = self.directory.join(format!("{name}.json"));
        write(&beside, &pod.to_string())?;
        Ok(std::fs::rename(
            beside,
            self.directory.join("pods").join(format!("{name}.json")),
        )?)
    }

    /// GET with the client's certificate.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) fn get(&self, path: &str) -> Result<Answer> {
        self.request("GET", path, true)
    }

    /// POST, with or without the client's certificate.
    ///
    /// # Errors
    /// When there is no answer.
    pub(crate) fn post(&self, path: &str, certificate: bool) -> Result<Answer> {
        self.request("POST", path, certificate)
    }

    fn request(&self, method: &str, path: &str, certificate: bool) -> Result<Answer> {
        let at = |name: &str| self.directory.join(name).display().to_string();
        let (ca, crt, key) = (at("ca.crt"), at("client.crt"), at("client.key"));
        let url = format!("https://127.0.0.1:10250/{path}");
        let fixed = ["-sS", "--max-time", "90", "--cacert", &ca, "-X", method];
        let own = ["--cert", &crt, "--key", &key];
        let own = if certificate { &own[..] } else { &[] };
        let text = run(
            "curl",
            &[&fixed[..], own, &["-w", "\n%{http_code}", &url]].concat(),
        )?;
        let (body, code) = text.rsplit_once('\n').context("no status code")?;
        Ok(Answer {
            code: code.parse()?,
            body: body.to_owned(),
        })
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
        for (path, value) in &self.tunables {
            drop(write(Path::new(path), value));
        }
        // It mounts volumes below its root directory; the test's thawd removes its own.
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
        let own =
            points.filter(|at| Path::new(at).starts_with(&self.directory) || *at == "/var/log");
        for point in own.collect::<Vec<_>>().into_iter().rev() {
            drop(run("umount", &["-l", point]));
        }
    }
}
