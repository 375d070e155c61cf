//! Checkpoints that run at once: none touches the freezer of another's container, nor anything else that
//! has its name.

use anyhow::{Context as _, Result, ensure};

use super::{free_family, freezer, told};
use crate::harness::containers::{Container, Pod, workload_config};
use crate::harness::daemon::{Thawd, write};

/// Checkpoints of each container.
const ROUNDS: u32 = 6;

/// Folders with a link `cgroup.freeze` that a container makes.
const PLANTED: u32 = 300;

/// What the file of the host has that the links lead to.
const MINE: &str = "nobody writes to this\n";

/// Fills folders of the container's root filesystem and /dev/shm with links of the name that CRIU writes to.
fn plant(container: &Container, victim: &str) -> Result<()> {
    let script = format!(
        "for top in /planted /dev/shm/planted; do for n in $(seq {PLANTED}); do
            mkdir -p $top/$n && ln -s {victim} $top/$n/cgroup.freeze || exit 1
        done; done"
    );
    let ran = container.exec(&["sh", "-c", &script])?;
    ensure!(ran.code == 0, "planting links: {}", ran.stderr);
    Ok(())
}

/// Two containers of one pod and one of another, whose directories are full of links to a file of the
/// host, are frozen at once, many times.
pub(super) fn frozen_at_once(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let victim = thawd.path("victim");
    write(&victim, MINE)?;
    let pods = [Pod::run(thawd, "first")?, Pod::run(thawd, "second")?];
    let mut containers = Vec::new();
    for (pod, name) in [(0, "one"), (0, "two"), (1, "three")] {
        let pod = pods.get(pod).context("no such pod")?;
        let container = pod.start(workload_config(name, &["counter", "memory=64"]))?;
        let freezer = freezer(pod, &container)?;
        containers.push((name, container, freezer));
    }
    for (name, container, _) in &containers {
        container.log.wait_count(5)?;
        if *name != "one" {
            plant(container, &victim.display().to_string())?;
        }
    }
    let mut ran_on = 0;
    for round in 0..ROUNDS {
        let mut begun = Vec::new();
        for (name, container, _) in &containers {
            let archive = thawd.path(&format!("archives/{name}-{round}.tar"));
            begun.push((container.begin_checkpoint(&archive, None), archive));
        }
        for (checkpoint, archive) in begun {
            let finished = thawd.cri().finish(checkpoint);
            finished.with_context(|| format!("CheckpointContainer to {}", archive.display()))?;
            ran_on += u32::from(told(thawd, &archive)?.contains("copy_on_write=true"));
            std::fs::remove_file(&archive)?;
        }
        for (name, container, freezer) in &containers {
            free_family(freezer).with_context(|| format!("{name} after round {round}"))?;
            container.log.wait_more(3)?;
        }
        let found = std::fs::read_to_string(&victim)?;
        ensure!(found == MINE, "a file of the host was changed: {found:?}");
    }
    // A machine that has much to do lets one stand at times, and then CRIU is told of no freezer.
    ensure!(ran_on > ROUNDS, "only {ran_on} ran on meanwhile");
    containers
        .iter()
        .try_for_each(|(_, container, _)| container.check())
}
