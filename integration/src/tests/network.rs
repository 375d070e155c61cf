//! What of a pod's network is in an archive, and what is not.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::Test;
use super::cow::freezer;
use crate::harness::containers::{Container, Pod, workload_config};
use crate::harness::daemon::Thawd;
use crate::harness::load::{Client, Protocol};
use crate::harness::{arena, cgroups};

pub(super) const TESTS: &[(&str, Test)] = &[(
    "network::tracked_connections_stay_with_their_pod",
    tracked_connections,
)];

const PORT: u16 = 7000;

/// Runs a program in the pod's network, in which the container is.
fn within(pod: &Pod, container: &Container, words: &[&str]) -> Result<String> {
    let members = cgroups::members(&freezer(pod, container)?);
    let pid = members.first().context("no process")?.as_raw_nonzero();
    let enter = ["--target", &pid.to_string(), "--net", "--"];
    arena::run("nsenter", &[&enter[..], words].concat())
}

/// The kernel tracks a pod's connections when one of its rules asks for it, as those of a service mesh's
/// sidecars do. CRIU dumps what is tracked also of a namespace that it is told to leave alone, as messages
/// to the kernel, and would send whatever an image has in their place.
fn tracked_connections(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "tracked")?;
    let original = pod.start(workload_config("server", &["tcp"]))?;
    let rule = "-A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT";
    let rule: Vec<&str> = ["iptables"].into_iter().chain(rule.split(' ')).collect();
    within(&pod, &original, &rule)?;
    let mut client = Client::connect(&pod.ip()?, PORT, Protocol::Lines)?;
    let count = client.ask("before")?;
    let tracked = within(&pod, &original, &["cat", "/proc/net/nf_conntrack"])?;
    ensure!(tracked.contains("dport=7000"), "tracked: {tracked}");

    let archive = thawd.path("archives/tracked.tar");
    original
        .checkpoint(&archive)
        .context("CheckpointContainer")?;
    ensure!(client.ask("after")? > count, "the connection lives on");
    has_none(&archive)?;

    let pod = Pod::run(thawd, "thawed")?;
    let source = archive.display().to_string();
    let copy = pod.start(original.restored_config(&source, "thawed"))?;
    let mut client = Client::connect(&pod.ip()?, PORT, Protocol::Lines)?;
    ensure!(client.ask("to the copy")? > count, "the copy counts on");
    drop(client);
    copy.check()
}

fn has_none(archive: &Path) -> Result<()> {
    let listing = arena::run("tar", &["-tf", &archive.display().to_string()])?;
    ensure!(!listing.contains("netns-ct"), "{listing}");
    ensure!(!listing.contains("netns-exp"), "{listing}");
    Ok(())
}
