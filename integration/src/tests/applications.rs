//! Real servers under load: their clients' connections to the original are not cut, and copies hold
//! exactly what was acknowledged before the freeze.

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;

use super::Test;
use crate::harness::arena;
use crate::harness::containers::{Container, Pod, container_config};
use crate::harness::daemon::Thawd;
use crate::harness::load::{Client, Load, Protocol};
use crate::harness::needs;

pub(super) const TESTS: &[(&str, Test)] = &[
    ("applications::redis", redis_under_load),
    ("applications::sqlite_in_wal_mode", sqlite_under_load),
    ("applications::a_go_server", go_server_under_load),
    (
        "applications::redis_survives_kills_of_thawd_between_any_two_steps",
        |thawd| redis(thawd)?.survives_kills(thawd),
    ),
    (
        "applications::sqlite_survives_kills_of_thawd_between_any_two_steps",
        |thawd| {
            let server = sqlite(thawd)?;
            server.survives_kills(thawd)?;
            sound(thawd)
        },
    ),
    (
        "applications::a_go_server_survives_kills_of_thawd_between_any_two_steps",
        |thawd| go_server(thawd)?.survives_kills(thawd),
    ),
];

/// A server to test.
struct Server {
    config: v1::ContainerConfig,
    port: u16,
    protocol: Protocol,
}

/// Connections that a copy is asked over, one after the other.
const CLIENTS: usize = 4;

impl Server {
    /// Freezes the container under load from outside; between which counts that was.
    fn freeze(&self, container: &Container, ip: &str, archive: &str) -> Result<(u64, u64)> {
        let load = Load::start(ip, self.port, self.protocol, CLIENTS)?;
        load.wait_for(1)?;
        load.wait_for(load.highest() + 200)?;
        let before = load.highest();
        let outcome = container.checkpoint(archive.as_ref());
        let after = load.highest();
        outcome.context("CheckpointContainer")?;
        load.wait_for(after + 100)?;
        let answers = load
            .finish()
            .context("a connection to the original was cut")?;
        ensure!(answers >= 200, "only {answers} answers");
        Ok((before, after))
    }

    /// Thaws a copy in a pod of its own, which must know all that was acknowledged at the freeze.
    fn thaw(
        &self,
        thawd: &Thawd,
        original: &Container,
        archive: &str,
        frozen: (u64, u64),
        name: &str,
    ) -> Result<(Pod, Container)> {
        let pod = Pod::run(thawd, name)?;
        let copy = pod.start(original.restored_config(archive, name))?;
        self.counts_on(&pod.ip()?, frozen)
            .context(name.to_owned())?;
        Ok((pod, copy))
    }

    /// A copy's first answer follows a count between the two, and the next ones that; the
    /// connection, which is left open.
    fn counts_on(&self, ip: &str, (before, after): (u64, u64)) -> Result<Client> {
        let mut client = Client::connect(ip, self.port, self.protocol)?;
        let count = client.ask("to the copy")?;
        // One request of each client may have been under way.
        let most = after + u64::try_from(CLIENTS)? + 1;
        ensure!(
            (before + 1..=most).contains(&count),
            "frozen between {before} and {after}, now {count}"
        );
        goes_on(&mut client, count)?;
        Ok(client)
    }

    fn story(&self, thawd: &Thawd) -> Result<()> {
        let pod = Pod::run(thawd, "original")?;
        let original = pod.start(self.config.clone())?;
        let archive = thawd.path("archives/one.tar").display().to_string();
        let frozen = self.freeze(&original, &pod.ip()?, &archive)?;
        let (one_pod, one) = self.thaw(thawd, &original, &archive, frozen, "one")?;
        let (_two_pod, _two) = self.thaw(thawd, &original, &archive, frozen, "two")?;
        // A copy is frozen again, under load, and thawed again.
        let again = thawd.path("archives/two.tar").display().to_string();
        let frozen = self
            .freeze(&one, &one_pod.ip()?, &again)
            .context("the copy")?;
        one_pod.remove()?;
        self.thaw(thawd, &one, &again, frozen, "three")?;
        // The original never noticed.
        Client::connect(&pod.ip()?, self.port, self.protocol)?
            .ask("at the end")
            .map(drop)
    }

    /// thawd is killed and started again between any two steps, under load: no connection to the
    /// original is cut, no answer is lost in either of the two.
    fn survives_kills(&self, thawd: &mut Thawd) -> Result<()> {
        crash(thawd)?;
        let pod = Pod::run(thawd, "original")?;
        crash(thawd)?;
        let original = pod.create(self.config.clone())?;
        crash(thawd)?;
        original.start()?;
        crash(thawd)?;
        let load = Load::start(&pod.ip()?, self.port, self.protocol, CLIENTS)?;
        load.wait_for(200)?;
        thawd.kill()?;
        load.wait_for(load.highest() + 100)
            .context("without thawd")?;
        thawd.launch()?;
        let archive = thawd.path("archives/one.tar");
        let before = load.highest();
        original
            .checkpoint(&archive)
            .context("CheckpointContainer")?;
        let frozen = (before, load.highest());
        crash(thawd)?;
        load.wait_for(load.highest() + 100)?;
        let highest = load
            .finish_at()
            .context("a connection to the original was cut")?;

        let other = Pod::run(thawd, "copy")?;
        crash(thawd)?;
        let source = archive.display().to_string();
        let copy = other.create(original.restored_config(&source, "copy"))?;
        crash(thawd)?;
        copy.start()?;
        crash(thawd)?;
        let mut client = self.counts_on(&other.ip()?, frozen).context("the copy")?;
        thawd.kill()?;
        let count = client.ask("without thawd")?;
        let count = goes_on(&mut client, count).context("the copy without thawd")?;
        thawd.launch()?;
        ensure!(
            client.ask("with thawd")? == count + 1,
            "the copy lost something"
        );
        let status = copy.status()?;
        ensure!(
            status.state() == v1::ContainerState::ContainerRunning,
            "{status:?}"
        );
        let mut client = Client::connect(&pod.ip()?, self.port, self.protocol)?;
        let count = client.ask("at the end")?;
        ensure!(
            count == highest + 1,
            "the original counted to {highest}, then {count}"
        );
        goes_on(&mut client, count)
            .context("the original")
            .map(drop)
    }
}

/// Nothing was lost: the next answers count on from that one.
fn goes_on(client: &mut Client, count: u64) -> Result<u64> {
    for further in 1..50 {
        let next = client.ask("more")?;
        ensure!(
            next == count + further,
            "{next} follows {}",
            count + further - 1
        );
    }
    Ok(count + 49)
}

/// thawd is killed and started again.
fn crash(thawd: &mut Thawd) -> Result<()> {
    thawd.kill()?;
    thawd.launch()
}

/// Redis through the whole story.
pub(super) fn redis_under_load(thawd: &mut Thawd) -> Result<()> {
    redis(thawd)?.story(thawd)
}

/// SQLite in WAL mode through the whole story.
pub(super) fn sqlite_under_load(thawd: &mut Thawd) -> Result<()> {
    let server = sqlite(thawd)?;
    server.story(thawd)?;
    sound(thawd)
}

/// A server in Go through the whole story.
pub(super) fn go_server_under_load(thawd: &mut Thawd) -> Result<()> {
    go_server(thawd)?.story(thawd)
}

fn redis(thawd: &mut Thawd) -> Result<Server> {
    let image = thawd.load("redis")?;
    let command = [
        "redis-server",
        "--bind",
        "0.0.0.0",
        "--protected-mode",
        "no",
        "--save",
        "",
        "--appendonly",
        "yes",
    ];
    let mut config = container_config("redis", &image, &command);
    config.working_dir = "/var/tmp".to_owned();
    Ok(Server {
        config,
        port: 6379,
        protocol: Protocol::Redis,
    })
}

fn sqlite(thawd: &mut Thawd) -> Result<Server> {
    let image = thawd.load("python")?;
    let program = include_str!("../workloads/sqlite_server.py");
    let config = container_config("sqlite", &image, &["python3", "-u", "-c", program]);
    Ok(Server {
        config,
        port: 7100,
        protocol: Protocol::Lines,
    })
}

/// Every database that is still open is sound.
fn sound(thawd: &Thawd) -> Result<()> {
    for pod in thawd
        .cri()
        .list_pod_sandbox(v1::ListPodSandboxRequest::default())?
        .items
    {
        let pod_sandbox_id = pod.id;
        let request = v1::PodSandboxStatusRequest {
            pod_sandbox_id,
            verbose: false,
        };
        let status = thawd
            .cri()
            .pod_sandbox_status(request)?
            .status
            .context("status")?;
        let ip = status.network.context("network")?.ip;
        let verdict = Client::connect(&ip, 7100, Protocol::Lines)?.say("check")?;
        ensure!(verdict == "0 ok", "SQLite says {verdict:?}");
    }
    Ok(())
}

fn go_server(thawd: &mut Thawd) -> Result<Server> {
    let program = needs::target().join("images/goserver");
    let source = needs::repository().join("integration/src/workloads/goserver");
    ensure!(
        needs::on_path("go"),
        "Go is missing; run: scripts/install-deps.sh --tests"
    );
    let (program, source) = (program.display().to_string(), source.display().to_string());
    let build = [
        "CGO_ENABLED=0",
        "GOFLAGS=-mod=mod",
        "go",
        "build",
        "-C",
        &source,
        "-o",
        &program,
    ];
    arena::run("env", &[&build[..], &["."]].concat()).context("building the Go server")?;
    let image = thawd.load_program(&program)?;
    let config = container_config("go", &image, &["/bin/goserver"]);
    Ok(Server {
        config,
        port: 7100,
        protocol: Protocol::Lines,
    })
}
