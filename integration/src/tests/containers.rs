//! Containers as a kubelet uses them, without any checkpoint.

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use tonic::Code;

use super::Test;
use super::bad_input::refused;
use super::pods::{BUSYBOX, shell};
use crate::harness::containers::{Pod, container_config, security, workload_config};
use crate::harness::daemon::{Thawd, write};
use crate::harness::log::Log;
use crate::harness::wait;

pub(super) const TESTS: &[(&str, Test)] = &[
    (
        "containers::a_container_has_what_its_request_says",
        container_request,
    ),
    ("containers::a_container_is_confined", confinement),
    ("containers::exit_codes_and_streams", exit_codes),
    (
        "containers::long_lines_are_cut_into_partial_entries",
        long_lines,
    ),
    ("containers::a_rotated_log_is_opened_again", rotation),
    ("containers::the_oom_killer_is_noticed", out_of_memory),
    ("containers::an_exec_that_hangs_is_ended", hanging_exec),
    (
        "containers::a_program_that_is_missing_is_named",
        missing_program,
    ),
    (
        "containers::exit_codes_survive_while_thawd_is_away",
        exits_while_away,
    ),
    ("containers::sigterm_ends_thawd_and_no_container", sigterm),
];

fn container_request(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let script = "id -u; id -g; id -G; pwd; echo $GREETING $COLOUR; cat /data/file; \
                  touch /data/new 2>&1; touch /new 2>&1; cat /proc/self/oom_score_adj; \
                  cat /proc/self/cgroup";
    let mut config = container_config("show", BUSYBOX, &["sh", "-c", script]);
    config.working_dir = "/var/tmp".to_owned();
    config.envs.push(v1::KeyValue {
        key: "COLOUR".into(),
        value: "blue".into(),
    });
    write(&thawd.path("data/file"), "from outside\n")?;
    config.mounts.push(v1::Mount {
        container_path: "/data".to_owned(),
        host_path: thawd.path("data").display().to_string(),
        readonly: true,
        ..Default::default()
    });
    config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 64 * 1024 * 1024,
        cpu_shares: 512,
        oom_score_adj: -999,
        ..Default::default()
    });
    let context = security(&mut config);
    context.run_as_username = "www-data".to_owned();
    context.supplemental_groups = vec![1234];
    context.readonly_rootfs = true;
    let container = pod.start(config)?;
    let status = container.wait_exit()?;
    let lines = container.log.lines()?;
    for wanted in ["33", "/var/tmp", "hello, world blue", "from outside"] {
        ensure!(
            lines.iter().any(|line| line == wanted),
            "no {wanted:?} in {lines:?}"
        );
    }
    ensure!(
        lines
            .iter()
            .any(|line| line.split(' ').any(|word| word == "1234")),
        "{lines:?}"
    );
    let refusals = lines
        .iter()
        .filter(|line| line.contains("Read-only file system"))
        .count();
    ensure!(refusals == 2, "{refusals} writes were refused: {lines:?}");
    let cgroup = thawd.cgroup();
    ensure!(
        lines.iter().any(|line| line.contains(&cgroup)),
        "not below {cgroup}: {lines:?}"
    );
    ensure!(status.exit_code == 0, "exit code {}", status.exit_code);
    Ok(())
}

fn confinement(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let script = "grep -E '^(CapEff|CapBnd|Seccomp|NoNewPrivs):' /proc/self/status; \
                  cat /proc/timer_list 2>&1 | head -c 1 | wc -c; \
                  echo 1 2>/dev/null >/proc/sys/kernel/panic && echo written || echo refused; \
                  ls /sys/firmware | wc -l";
    let mut config = container_config("show", BUSYBOX, &["sh", "-c", script]);
    let context = security(&mut config);
    context.no_new_privs = true;
    context.capabilities = Some(v1::Capability {
        drop_capabilities: vec!["ALL".to_owned()],
        add_capabilities: vec!["NET_BIND_SERVICE".to_owned()],
        ..Default::default()
    });
    context.masked_paths = ["/proc/timer_list", "/sys/firmware"]
        .iter()
        .map(|&path| path.to_owned())
        .collect();
    context.readonly_paths = vec!["/proc/sys".to_owned()];
    let container = pod.start(config)?;
    container.wait_exit()?;
    let lines = container.log.lines()?;
    let wanted = [
        "CapEff:\t0000000000000400",
        "CapBnd:\t0000000000000400",
        "NoNewPrivs:\t1",
        "Seccomp:\t2",
        "refused",
    ];
    for wanted in wanted {
        ensure!(
            lines.iter().any(|line| line == wanted),
            "no {wanted:?} in {lines:?}"
        );
    }
    ensure!(
        lines.iter().filter(|line| *line == "0").count() == 2,
        "not masked: {lines:?}"
    );
    Ok(())
}

fn exit_codes(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let (lines, code) = shell(
        &pod,
        "seven",
        "echo out; echo err >&2; printf unfinished; exit 7",
    )?;
    ensure!(code == 7, "exit code {code}");
    for wanted in ["out", "err", "unfinished"] {
        ensure!(
            lines.iter().any(|line| line == wanted),
            "no {wanted:?} in {lines:?}"
        );
    }
    let (_, code) = shell(&pod, "killed", "kill -KILL $$")?;
    // The first process of a pid namespace cannot kill itself; the shell goes on to its end.
    ensure!(code == 0, "exit code {code}");
    let sleeper = pod.start(container_config("sleeper", BUSYBOX, &["sleep", "1000"]))?;
    sleeper.stop()?;
    let status = sleeper.status()?;
    ensure!(status.exit_code == 137, "exit code {}", status.exit_code);
    ensure!(status.finished_at >= status.started_at, "{status:?}");
    Ok(())
}

fn long_lines(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let script = "head -c 50000 /dev/zero | tr '\\0' x; echo; echo short";
    let (lines, _) = shell(&pod, "long", script)?;
    ensure!(
        lines == ["x".repeat(50_000), "short".to_owned()],
        "{} lines",
        lines.len()
    );
    let log = std::fs::read_to_string(thawd.path("logs/pod/long.log"))?;
    let longest = log.lines().map(str::len).max().unwrap_or(0);
    ensure!(log.contains(" stdout P "), "no partial entry");
    ensure!(longest < 17 * 1024, "an entry has {longest} bytes");
    Ok(())
}

fn rotation(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(workload_config("counter", &["counter"]))?;
    container.log.wait_count(3)?;
    let path = container.log.path().to_owned();
    let rotated = path.with_extension("log.1");
    std::fs::rename(&path, &rotated)?;
    let container_id = container.id.clone();
    thawd
        .cri()
        .reopen_container_log(v1::ReopenContainerLogRequest { container_id })?;
    container.log.wait_count(6)?;
    let mut old = Log::new(rotated).statuses()?;
    old.extend(container.log.statuses()?);
    let counts: Vec<u64> = old.iter().map(|line| line.count).collect();
    let expected: Vec<u64> = (1..).take(counts.len()).collect();
    ensure!(counts == expected, "lines were lost: {counts:?}");
    Ok(())
}

fn out_of_memory(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let mut config = workload_config("hungry", &["memory=256"]);
    config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: 32 * 1024 * 1024,
        ..Default::default()
    });
    let status = pod.start(config)?.wait_exit()?;
    ensure!(
        status.reason == "OOMKilled" && status.exit_code == 137,
        "{status:?}"
    );
    Ok(())
}

fn hanging_exec(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(container_config("sleeper", BUSYBOX, &["sleep", "1000"]))?;
    let request = v1::ExecSyncRequest {
        container_id: container.id.clone(),
        cmd: ["sleep", "777"]
            .iter()
            .map(|&word| word.to_owned())
            .collect(),
        timeout: 1,
    };
    refused(thawd.cri().exec_sync(request), Code::DeadlineExceeded, &[])?;
    wait::until("the exec to be ended", wait::PATIENCE, || {
        let seen = container.exec(&["ps"])?.stdout;
        Ok((!seen.contains("sleep 777")).then_some(()))
    })?;
    let ran = container.exec(&["sh", "-c", "echo out; echo err >&2; exit 3"])?;
    ensure!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()) == (3, "out\n", "err\n"),
        "{ran:?}"
    );
    Ok(())
}

fn missing_program(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let outcome = pod.start(container_config("none", BUSYBOX, &["/bin/no-such-program"]));
    let error = outcome.err().context("started")?;
    ensure!(
        format!("{error:#}").contains("no-such-program"),
        "{error:#}"
    );
    Ok(())
}

fn exits_while_away(thawd: &mut Thawd) -> Result<()> {
    thawd.load("base")?;
    let pod = Pod::run(thawd, "pod")?;
    let script = "while [ ! -e /data/go ]; do sleep 0.1; done; echo last words; exit 42";
    let mut config = container_config("away", BUSYBOX, &["sh", "-c", script]);
    config.mounts.push(v1::Mount {
        container_path: "/data".to_owned(),
        host_path: thawd.path("data").display().to_string(),
        ..Default::default()
    });
    let container = pod.start(config)?;
    thawd.kill()?;
    write(&thawd.path("data/go"), "")?;
    container.log.wait_text("last words")?;
    thawd.launch()?;
    let status = container.wait_exit()?;
    ensure!(status.exit_code == 42, "exit code {}", status.exit_code);
    Ok(())
}

fn sigterm(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(workload_config("counter", &["counter"]))?;
    container.log.wait_count(2)?;
    thawd.terminate()?;
    container.log.wait_more(5)?;
    ensure!(
        !thawd.path("run/thawd.sock").exists(),
        "the socket was left"
    );
    thawd.launch()?;
    container.check()
}
