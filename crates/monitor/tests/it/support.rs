//! A container of the real OCI runtime beside a real monitor. Needs root and runc; fails without.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use monitor::{Client, ExitRecord, MonitorSpec, Started, VERSION};
use oci_runtime::OciRuntime;
use serde_json::{Value, json};
use sys::process::Deadline;

/// The program under test: the one built with this test, or `THAWD_TEST_MONITOR`, so that a release
/// build's memory is measured without a release build of the tests.
pub(crate) fn monitor() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let chosen = std::env::var_os("THAWD_TEST_MONITOR");
        let program = chosen.unwrap_or_else(|| env!("CARGO_BIN_EXE_thawd-monitor").into());
        let found = std::fs::canonicalize(&program);
        assert!(found.is_ok(), "{program:?}: {found:?}");
        found.unwrap()
    })
}

/// What the program under test may have resident, in KiB: 2 MiB are what a release build may take; a
/// debug build's code is larger.
pub(crate) fn most_kib() -> u64 {
    let chosen = std::env::var_os("THAWD_TEST_MONITOR").is_some();
    if chosen || !cfg!(debug_assertions) {
        2048
    } else {
        3072
    }
}

/// Long enough for a busy machine, short enough to notice.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn deadline() -> Deadline {
    Deadline::after(PATIENCE)
}

/// One container's directories. Dropping it deletes the container.
pub(crate) struct Fixture {
    pub(crate) temp: tempfile::TempDir,
    pub(crate) runtime: OciRuntime,
    pub(crate) spec: MonitorSpec,
    pub(crate) id: String,
}

impl Fixture {
    /// A container that will run `sh -c SCRIPT`.
    pub(crate) fn new(script: &str) -> Self {
        Self::with(script, |_| {})
    }

    /// The same with its OCI spec changed.
    pub(crate) fn with(script: &str, change: impl FnOnce(&mut Value)) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests need root"
        );
        let temp = tempfile::tempdir().unwrap();
        let id = format!("monitor-test-{}", sys::sysinfo::random_hex(8).unwrap());
        let (bundle, run_dir) = (temp.path().join("bundle"), temp.path().join("run"));
        let root = temp.path().join("runtime");
        for directory in [&bundle, &run_dir, &root, &bundle.join("rootfs")] {
            std::fs::create_dir(directory).unwrap();
        }
        let mut config = config(&id, script);
        change(&mut config);
        write(
            &bundle.join("config.json"),
            &serde_json::to_vec(&config).unwrap(),
        );
        let runtime =
            OciRuntime::probe(Path::new("runc"), &root, deadline()).expect("these tests need runc");
        let (pid_file, log) = (run_dir.join("pid"), run_dir.join("runtime.log"));
        let terminal = config["process"]["terminal"] == json!(true);
        let console = terminal.then(|| run_dir.join("console.sock"));
        let argv = runtime.create_args(&id, &bundle, &pid_file, console.as_deref(), &log);
        let cgroup = config["linux"]["cgroupsPath"].as_str().unwrap().to_owned();
        let spec = MonitorSpec {
            version: VERSION,
            container_id: id.clone(),
            runtime_argv: argv
                .into_iter()
                .map(|word| word.into_string().unwrap())
                .collect(),
            runtime_env: Vec::new(),
            runtime_log: log,
            pid_file,
            bundle,
            log_path: Some(temp.path().join("logs").join("0.log")),
            terminal,
            stdin: false,
            run_dir,
            private_mounts: false,
            oom_files: vec![
                PathBuf::from(format!("/sys/fs/cgroup/memory{cgroup}/memory.oom_control")),
                PathBuf::from(format!("/sys/fs/cgroup{cgroup}/memory.events")),
            ],
        };
        Self {
            temp,
            runtime,
            spec,
            id,
        }
    }

    pub(crate) fn spawn(&self) -> Started {
        monitor::spawn(monitor(), &self.spec, deadline()).unwrap()
    }

    pub(crate) fn start(&self) {
        self.runtime.start(&self.id, deadline()).unwrap();
    }

    /// Creates, starts, and waits for the end.
    pub(crate) fn run(&self) -> ExitRecord {
        self.spawn();
        let mut client = self.client();
        self.start();
        wait(&mut client)
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.spec.run_dir).unwrap()
    }

    pub(crate) fn kill(&self, signal: i32) {
        self.runtime
            .kill(&self.id, signal, false, deadline())
            .unwrap();
    }

    pub(crate) fn log_path(&self) -> &Path {
        self.spec.log_path.as_deref().unwrap()
    }

    /// The log's lines without their times, which are checked.
    pub(crate) fn log(&self) -> Vec<String> {
        log_lines(self.log_path())
    }

    /// Waits until the log has this line.
    pub(crate) fn await_line(&self, line: &str) {
        until(|| self.log_path().exists() && self.log().iter().any(|other| other == line));
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Err(error) = self.runtime.delete(&self.id, true, deadline()) {
            eprintln!("{error}");
        }
    }
}

pub(crate) fn log_lines(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.split_terminator('\n')
        .map(|line| {
            let (time, rest) = line.split_once(' ').unwrap();
            assert_eq!(time.len(), "2026-11-21T10:00:00.123456789Z".len(), "{line}");
            assert!(time.starts_with("20") && time.ends_with('Z'), "{line}");
            rest.to_owned()
        })
        .collect()
}

pub(crate) fn wait(client: &mut Client) -> ExitRecord {
    client
        .wait_exit(Some(PATIENCE))
        .unwrap()
        .expect("the container ends")
}

/// Asks again and again, which nothing better exists for: files and processes of others.
pub(crate) fn until(mut done: impl FnMut() -> bool) {
    let limit = deadline();
    let (never, _writer) = std::io::pipe().unwrap();
    while !done() {
        assert!(!limit.passed(), "it did not come to pass");
        sys::socket::poll_readable(&never, Some(Duration::from_millis(5))).unwrap();
    }
}

/// Waits for the end of a process that need not be a child.
pub(crate) fn await_end(pid: u32) {
    if let Ok(pidfd) = sys::pidfd::open(pid) {
        assert!(
            sys::pidfd::wait_exit(&pidfd, Some(PATIENCE)).unwrap(),
            "{pid} does not end"
        );
    }
}

pub(crate) fn write(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(path)
        .unwrap();
    file.write_all(bytes).unwrap();
}

/// A small OCI configuration: the host's programs, bound read-only.
fn config(id: &str, script: &str) -> Value {
    let bind = |path: &str| {
        json!({"destination": path, "source": path, "type": "bind",
               "options": ["rbind", "ro", "nosuid", "nodev"]})
    };
    let mut mounts = vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc"}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
               "options": ["nosuid", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
               "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]}),
        json!({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]}),
    ];
    mounts.extend(
        ["/bin", "/sbin", "/usr", "/lib", "/lib64"]
            .into_iter()
            .map(bind),
    );
    let capabilities = json!(["CAP_KILL", "CAP_SYS_CHROOT", "CAP_SETUID", "CAP_SETGID"]);
    json!({
        "ociVersion": "1.0.2",
        "hostname": "test",
        "root": {"path": "rootfs", "readonly": false},
        "process": {
            "terminal": false,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/sh", "-c", script],
            "env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
            "cwd": "/",
            "noNewPrivileges": true,
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities
            }
        },
        "mounts": mounts,
        "linux": {
            "cgroupsPath": format!("/{id}"),
            "namespaces": [
                {"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"},
                {"type": "network"}
            ],
            "resources": {}
        }
    })
}
