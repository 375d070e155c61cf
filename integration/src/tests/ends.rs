//! Ends that come early, late or at the wrong moment: of callers, of the daemon, of containers.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;

use super::Test;
use super::pods::BUSYBOX;
use crate::cri::Cri;
use crate::harness::containers::{Container, Pod, container_config, pod_config, security};
use crate::harness::daemon::Thawd;
use crate::harness::{needs, wait};

pub(super) const TESTS: &[(&str, Test)] = &[
    (
        "ends::sigterm_does_not_wait_for_a_command_that_hangs",
        sigterm_during_exec,
    ),
    (
        "ends::a_command_is_killed_when_its_caller_goes_away",
        caller_of_exec,
    ),
    (
        "ends::a_short_program_has_begun_before_it_has_ended",
        short_programs,
    ),
    (
        "ends::the_pods_first_process_outlives_thawd_and_holds_nothing",
        first_process,
    ),
];

fn sleeper(pod: &Pod) -> Result<Container> {
    pod.start(container_config("main", BUSYBOX, &["sleep", "1000"]))
}

/// Begins a command that does not end by itself; returns once it runs.
fn hang(thawd: &Thawd, container: &Container) -> Result<std::thread::JoinHandle<bool>> {
    let socket = thawd.path("run/thawd.sock");
    let request = v1::ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: ["sh", "-c", "echo up >/tmp/up; sleep 4321; true"]
            .map(str::to_owned)
            .into(),
        timeout: 0,
    };
    let caller = std::thread::spawn(move || {
        Cri::new(&socket).is_ok_and(|cri| cri.exec_sync(request).is_ok())
    });
    wait::until("the command to run", wait::PATIENCE, || {
        Ok((container.exec(&["cat", "/tmp/up"])?.code == 0).then_some(()))
    })?;
    Ok(caller)
}

/// How many processes of the hanging command there are.
fn hanging(container: &Container) -> Result<usize> {
    let script = "grep -lE '^sleep.4321' /proc/[0-9]*/cmdline 2>/dev/null | wc -l";
    let found = container.exec(&["sh", "-c", script])?;
    found.stdout.trim().parse().context(found.stderr)
}

fn sigterm_during_exec(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = sleeper(&pod)?;
    let caller = hang(thawd, &container)?;
    let begun = Instant::now();
    thawd.terminate()?;
    let took = begun.elapsed();
    // Calls that are under way have five seconds.
    ensure!(took < Duration::from_secs(9), "thawd took {took:?} to end");
    ensure!(!caller.join().unwrap_or(true), "the command has ended well");
    thawd.launch()?;
    ensure!(hanging(&container)? == 0, "the command runs on");
    container.stop()?;
    Ok(())
}

fn caller_of_exec(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = sleeper(&pod)?;
    let mut caller = crictl_exec(thawd, &container)?;
    let up = wait::until("the command to run", wait::PATIENCE, || {
        Ok((container.exec(&["cat", "/tmp/up"])?.code == 0).then_some(()))
    });
    let running = hanging(&container);
    caller.kill()?;
    caller.wait()?;
    up?;
    ensure!(running? == 1, "the command does not run");
    wait::until("the command to be killed", wait::PATIENCE, || {
        Ok((hanging(&container)? == 0).then_some(()))
    })
}

fn short_programs(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let mut seen = Vec::new();
    for number in 0..12 {
        let name = format!("short-{number}");
        let container = pod.start(container_config(&name, BUSYBOX, &["false"]))?;
        let status = container.wait_exit()?;
        ensure!(status.exit_code == 1, "exit code {}", status.exit_code);
        ensure!(
            status.created_at <= status.started_at && status.started_at <= status.finished_at,
            "created at {}, started at {}, finished at {}",
            status.created_at,
            status.started_at,
            status.finished_at
        );
        seen.push((container, status));
    }
    thawd.kill()?;
    thawd.launch()?;
    for (container, before) in seen {
        let after = container.status()?;
        ensure!(after == before, "{before:?} became {after:?}");
    }
    Ok(())
}

fn first_process(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let mut config = pod_config(thawd, "pod");
    let linux = config.linux.get_or_insert_default();
    let context = linux.security_context.get_or_insert_default();
    context.namespace_options.get_or_insert_default().pid = v1::NamespaceMode::Pod.into();
    let pod = Pod::run_with(thawd, config, "")?;
    let mut config = container_config("debugger", BUSYBOX, &["sleep", "1000"]);
    let context = security(&mut config);
    context.namespace_options.get_or_insert_default().pid = v1::NamespaceMode::Pod.into();
    context.capabilities = Some(v1::Capability {
        add_capabilities: vec!["SYS_PTRACE".to_owned(), "SYS_ADMIN".to_owned()],
        ..Default::default()
    });
    let debugger = pod.start(config)?;
    let script = "tr '\\0' ' ' </proc/1/cmdline; echo; ls -A /proc/1/root/ | wc -l; \
                  [ \"$(readlink /proc/1/ns/net)\" = \"$(readlink /proc/self/ns/net)\" ] && echo same; \
                  grep CapPrm /proc/1/status";
    let seen = debugger.exec(&["sh", "-c", script])?.stdout;
    let lines: Vec<&str> = seen.lines().collect();
    let [command, entries, net, capabilities] = lines.as_slice() else {
        anyhow::bail!("{seen}");
    };
    ensure!(command.contains("pause"), "{command}");
    ensure!(*entries == "0", "{entries} entries in the root directory");
    ensure!(*net == "same", "{net}");
    ensure!(capabilities.ends_with("0000000000000000"), "{capabilities}");

    let info = thawd
        .cri()
        .pod_sandbox_status(v1::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: true,
        })?;
    let info = info.info.get("info").context("no info")?;
    let info: serde_json::Value = serde_json::from_str(info)?;
    let pid = info.get("pid").and_then(serde_json::Value::as_u64);
    let pid = pid.context("no pid")?;
    let cgroups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let monitors = thawd.monitors_cgroup();
    ensure!(cgroups.contains(&monitors), "not in {monitors}: {cgroups}");
    thawd.kill()?;
    thawd.launch()?;
    ensure!(debugger.exec(&["true"])?.code == 0, "no exec");
    pod.remove()?;
    // Nothing, or a zombie's nothing: who was its parent is gone.
    let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    ensure!(command.is_empty(), "process {pid} outlives its pod");
    Ok(())
}

/// crictl, waiting for a command that does not end by itself.
#[expect(
    clippy::disallowed_methods,
    reason = "the caller that goes away is a program of its own"
)]
fn crictl_exec(thawd: &Thawd, container: &Container) -> Result<Child> {
    let socket = thawd.path("run/thawd.sock");
    Command::new(needs::tool("crictl", "scripts/build-tools.sh")?)
        .arg("--runtime-endpoint")
        .arg(format!("unix://{}", socket.display()))
        .args(["--timeout", "100s", "exec", "--sync", &container.id])
        .args(["sh", "-c", "echo up >/tmp/up; sleep 4321; true"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("crictl")
}
