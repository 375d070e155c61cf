//! Other people's programs, and `thaw`, on what thawd wrote.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::Test;
use crate::harness::arena::run;
use crate::harness::containers::{Pod, workload_config};
use crate::harness::daemon::{Thawd, write};
use crate::harness::log::Log;
use crate::harness::needs;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("tools::thaw_inspect_shows_what_is_in_an_archive", inspect),
    (
        "tools::thaw_finds_the_socket_by_its_environment",
        environment,
    ),
    ("tools::checkpointctl_reads_the_archive", checkpointctl),
    ("tools::the_story_with_crictl", crictl_story),
];

/// A frozen counter with children, files and a listener.
fn frozen(thawd: &Thawd) -> Result<PathBuf> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let features = ["counter", "memory=8", "children=2", "tcp=7000"];
    let container = pod.start(workload_config("counter", &features))?;
    container.log.wait_count(3)?;
    let archive = thawd.path("archives/checkpoint-counter.tar");
    container
        .checkpoint(&archive)
        .context("CheckpointContainer")?;
    Ok(archive)
}

fn inspect(thawd: &mut Thawd) -> Result<()> {
    let archive = frozen(thawd)?.display().to_string();
    let text = thawd.thaw_ok(&["inspect", &archive])?;
    let wanted = [
        "counter",
        "localhost/thawd/workload:latest",
        "/bin/workload",
        "echo",
        "7000",
        "/dev/shm",
    ];
    for word in wanted {
        ensure!(text.contains(word), "no {word:?} in\n{text}");
    }
    let json: Value = serde_json::from_str(&thawd.thaw_ok(&["inspect", "--json", &archive])?)?;
    ensure!(json.is_object(), "{json}");
    let json = json.to_string();
    for word in [
        "counter",
        "localhost/thawd/workload:latest",
        "/bin/workload",
    ] {
        ensure!(json.contains(word), "no {word:?} in {json}");
    }
    let verdict = thawd.thaw(&["verify", &archive])?;
    ensure!(
        verdict.status.success(),
        "{}",
        String::from_utf8_lossy(&verdict.stderr)
    );
    let absent = thawd.thaw(&["inspect", "/no/such/archive.tar"])?;
    ensure!(!absent.status.success(), "an absent archive was inspected");
    let message = String::from_utf8_lossy(&absent.stderr).into_owned();
    ensure!(message.contains("/no/such/archive.tar"), "{message}");
    Ok(())
}

fn environment(thawd: &mut Thawd) -> Result<()> {
    let thaw = needs::program("thaw")?.display().to_string();
    let address = format!(
        "THAWD_ADDRESS=unix://{}",
        thawd.path("run/thawd.sock").display()
    );
    let image = needs::image("base")?.display().to_string();
    run("env", &[&address, &thaw, "image", "load", &image])?;
    let images = thawd
        .cri()
        .list_images(cri_server::v1::ListImagesRequest::default())?
        .images;
    ensure!(images.len() == 1, "{} images", images.len());
    Ok(())
}

fn checkpointctl(thawd: &mut Thawd) -> Result<()> {
    let archive = frozen(thawd)?.display().to_string();
    let program = needs::tool("checkpointctl", "scripts/install-criu.sh")?
        .display()
        .to_string();
    let shown = run(&program, &["show", &archive])?;
    ensure!(shown.contains("counter"), "{shown}");
    let inspected = run(&program, &["inspect", "--all", &archive])?;
    for word in ["counter", "localhost/thawd/workload:latest", "workload"] {
        ensure!(inspected.contains(word), "no {word:?} in {inspected}");
    }
    let memory = run(&program, &["memparse", &archive])?;
    ensure!(memory.contains("workload"), "{memory}");
    let folder = thawd.path("archives").display().to_string();
    let listed = run(&program, &["list", &folder])?;
    ensure!(listed.contains("counter"), "{listed}");
    Ok(())
}

/// crictl against one thawd.
struct Crictl {
    program: String,
    address: String,
}

impl Crictl {
    fn call(&self, arguments: &[&str]) -> Result<String> {
        let fixed = ["-r", &self.address, "-i", &self.address, "-t", "60s"];
        Ok(run(&self.program, &[&fixed, arguments].concat())?
            .trim()
            .to_owned())
    }
}

/// Requests as files, in the JSON form of the protocol's messages.
fn crictl_requests(thawd: &Thawd, name: &str, image: &str) -> Result<(String, String, Log)> {
    let logs = thawd.path("logs").join(name);
    std::fs::create_dir_all(&logs)?;
    let pod = json!({
        "metadata": {"name": name, "namespace": "default", "uid": name, "attempt": 0},
        "hostname": name,
        "log_directory": logs,
        "linux": {
            "cgroup_parent": format!("{}/{name}", thawd.cgroup()),
            "security_context": {"namespace_options": {"pid": 1}},
        },
    });
    let container = json!({
        "metadata": {"name": "counter", "attempt": 0},
        "image": {"image": image},
        "command": ["/bin/workload", "counter"],
        "log_path": "counter.log",
        "linux": {"security_context": {"namespace_options": {"pid": 1}}},
    });
    let pod_file = thawd.path(&format!("{name}-pod.json"));
    let container_file = thawd.path(&format!("{name}-container.json"));
    write(&pod_file, &pod.to_string())?;
    write(&container_file, &container.to_string())?;
    Ok((
        pod_file.display().to_string(),
        container_file.display().to_string(),
        Log::new(logs.join("counter.log")),
    ))
}

fn crictl_story(thawd: &mut Thawd) -> Result<()> {
    let image = thawd.load("workload")?;
    let crictl = Crictl {
        program: needs::tool("crictl", "scripts/build-tools.sh")?
            .display()
            .to_string(),
        address: format!("unix://{}", thawd.path("run/thawd.sock").display()),
    };
    ensure!(crictl.call(&["version"])?.contains("thawd"), "version");
    ensure!(crictl.call(&["info"])?.contains("RuntimeReady"), "info");
    ensure!(
        crictl
            .call(&["images"])?
            .contains("localhost/thawd/workload"),
        "images"
    );
    ensure!(
        crictl.call(&["inspecti", &image])?.contains("sha256:"),
        "inspecti"
    );
    crictl.call(&["imagefsinfo"])?;
    crictl.call(&["pull", &image])?;

    let (pod_file, container_file, log) = crictl_requests(thawd, "first", &image)?;
    let pod = crictl.call(&["runp", &pod_file])?;
    let container = crictl.call(&["create", &pod, &container_file, &pod_file])?;
    crictl.call(&["start", &container])?;
    log.wait_count(5)?;
    ensure!(crictl.call(&["pods"])?.contains("first"), "pods");
    ensure!(crictl.call(&["ps"])?.contains("counter"), "ps");
    ensure!(
        crictl.call(&["inspectp", &pod])?.contains("10.77."),
        "inspectp"
    );
    ensure!(
        crictl
            .call(&["inspect", &container])?
            .contains("CONTAINER_RUNNING"),
        "inspect"
    );
    let ran = crictl.call(&["exec", "-s", &container, "/bin/workload", "check"])?;
    ensure!(ran.contains("ok counter"), "exec: {ran}");
    ensure!(
        crictl
            .call(&["logs", "--tail", "1", &container])?
            .contains("count="),
        "logs"
    );

    let archive = thawd.path("archives/crictl.tar").display().to_string();
    let before = log.count()?;
    crictl.call(&["checkpoint", &format!("--export={archive}"), &container])?;
    let after = log.wait_more(2)?.count;
    crictl.call(&["stop", "-t", "2", &container])?;
    crictl.call(&["rm", &container])?;
    crictl.call(&["stopp", &pod])?;
    crictl.call(&["rmp", &pod])?;

    let (pod_file, container_file, log) = crictl_requests(thawd, "second", &archive)?;
    let pod = crictl.call(&["runp", &pod_file])?;
    let container = crictl.call(&["create", &pod, &container_file, &pod_file])?;
    crictl.call(&["start", &container])?;
    log.wait_thawed((before, after))?;
    crictl.call(&["rmp", "-f", &pod])?;
    crictl.call(&["rmi", &image])?;
    ensure!(
        !crictl
            .call(&["images"])?
            .contains("localhost/thawd/workload"),
        "rmi"
    );
    Ok(())
}
