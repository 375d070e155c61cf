//! crun, and runc beside it, where cgroup v2 is all there is: what else the handlers promise there,
//! and which of them is the default.
//!
//! crun refuses a host with v1 and v2 side by side, so these tests give their thawd a view of its own
//! (see `harness::unified`). The story and the survival workloads are those of the other modules.

mod fences;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use cri_server::v1;
use tonic::Code;

use super::bad_input::{refused, script};
use super::{Test, applications, cow, shapes, story, survival};
use crate::harness::containers::{Container, Pod, pod_config, workload_config};
use crate::harness::daemon::{Ground, Thawd};
use crate::harness::needs::CRUN as CRUN_PROGRAM;
use crate::harness::{arena, wait};

/// crun is preferred.
const CRUN: Ground = Ground {
    unified: true,
    handlers: &["crun", "runc"],
};
/// runc alone.
const RUNC: Ground = Ground {
    unified: true,
    handlers: &["runc"],
};
/// The host's own hierarchies.
const HOST: Ground = Ground {
    unified: false,
    handlers: &["crun", "runc"],
};

const ON_CRUN: &[(&str, Test)] = &[
    (
        "crun::counts_on_from_the_freeze",
        story::counts_on_from_the_freeze,
    ),
    (
        "crun::freezes_again_after_the_thaw",
        story::freezes_again_after_the_thaw,
    ),
    (
        "crun::a_restored_container_is_an_ordinary_one",
        story::a_restored_container_is_an_ordinary_one,
    ),
    (
        "crun::survives_a_kill_of_thawd_between_any_two_steps",
        story::survives_kills,
    ),
    (
        "crun::everything_survives_at_once",
        survival::everything_at_once,
    ),
    ("crun::what_is_frozen_is_of_one_moment", |thawd| {
        cow::one_moment(thawd, 1)
    }),
    ("crun::a_bind_mount_survives", survival::a_bind_mount),
    (
        "crun::volumes_behind_links_of_the_image_survive",
        shapes::behind_links,
    ),
    (
        "crun::survives_on_the_host_s_network",
        shapes::on_the_host_s_network,
    ),
    ("crun::ipc_of_its_own_survives", shapes::with_ipc_of_its_own),
    ("crun::a_terminal_survives", survival::a_terminal),
    (
        "crun::tcp_connections_of_the_original_survive",
        survival::tcp_connections_of_the_original,
    ),
    (
        "crun::redis_survives_under_load",
        applications::redis_under_load,
    ),
    (
        "crun::sqlite_survives_under_load",
        applications::sqlite_under_load,
    ),
    (
        "crun::a_go_server_survives_under_load",
        applications::go_server_under_load,
    ),
    (
        "crun::is_the_default_where_cgroup_v2_is_all_there_is",
        default_on_v2,
    ),
    (
        "crun::is_not_the_default_without_its_library",
        without_library,
    ),
    ("crun::restored_tasks_are_fenced_in", fences::fenced_in),
    (
        "crun::no_restored_task_runs_before_the_device_rules",
        fences::device_rules,
    ),
    (
        "crun::no_restored_task_stays_still_when_thawd_is_killed",
        fences::killed_while_they_stand,
    ),
    (
        "crun::archives_go_from_runc_to_crun_and_back",
        between_runtimes,
    ),
    (
        "crun::archives_of_the_other_cgroup_version_are_refused",
        other_version,
    ),
    ("crun::limits_are_set_or_refused_by_name", limits),
];

const ON_RUNC: &[(&str, Test)] = &[
    (
        "cgroup2::runc_counts_on_from_the_freeze",
        story::counts_on_from_the_freeze,
    ),
    (
        "cgroup2::everything_survives_runc_at_once",
        survival::everything_at_once,
    ),
    (
        "cgroup2::restored_tasks_of_runc_are_fenced_in",
        fences::fenced_in,
    ),
];

const ON_HOST: &[(&str, Test)] = &[(
    "crun::is_passed_over_where_v1_and_v2_stand_side_by_side",
    default_on_host,
)];

/// The tests, and what each one's thawd is started on.
pub(super) fn trials() -> impl Iterator<Item = (Ground, &'static (&'static str, Test))> {
    let on = |ground, tests: &'static [_]| tests.iter().map(move |test| (ground, test));
    on(CRUN, ON_CRUN)
        .chain(on(RUNC, ON_RUNC))
        .chain(on(HOST, ON_HOST))
}

/// Where the v2 hierarchy of the test program's own view is: the same tree as in any other.
fn v2() -> Result<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let mut fields = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.get(2) == Some(&"cgroup2"));
    let path = found.and_then(|fields| fields.get(1).map(PathBuf::from));
    path.context("no cgroup2 is mounted: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// The cgroup of a container in a pod of the name "pod".
fn cgroup(thawd: &Thawd, container: &Container) -> Result<PathBuf> {
    let parent = thawd.cgroup();
    Ok(v2()?.join(format!(
        "{}/pod/{}",
        parent.trim_start_matches('/'),
        container.id
    )))
}

/// Whether the host has v1 and v2, with controllers on v2: what crun refuses.
fn hybrid() -> Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let v1 = mounts
        .lines()
        .any(|line| line.split(' ').nth(2) == Some("cgroup"));
    Ok(v1 && !controllers()?.is_empty())
}

fn controllers() -> Result<BTreeSet<String>> {
    let text = std::fs::read_to_string(v2()?.join("cgroup.controllers"))?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

/// The handlers that Status tells, the default one first.
fn handlers(thawd: &Thawd) -> Result<Vec<String>> {
    let status = thawd.cri().status(v1::StatusRequest { verbose: false })?;
    let names = status.runtime_handlers.into_iter();
    Ok(names
        .map(|handler| handler.name)
        .filter(|name| !name.is_empty())
        .collect())
}

/// A pod whose request names no handler is given this one, and its container is in that one's books.
fn the_default_is(thawd: &Thawd, name: &str) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(workload_config("counter", &["counter"]))?;
    let books = thawd.path(&format!("run/runtime/{name}"));
    ensure!(
        books.join(&container.id).is_dir(),
        "{name} does not know the container of a pod without a handler"
    );
    container.log.wait_count(2)?;
    container.check()
}

fn default_on_v2(thawd: &mut Thawd) -> Result<()> {
    let found = handlers(thawd)?;
    ensure!(found == ["crun", "runc"], "{found:?}");
    the_default_is(thawd, "crun")
}

fn default_on_host(thawd: &mut Thawd) -> Result<()> {
    let found = handlers(thawd)?;
    if !hybrid()? {
        ensure!(found == ["crun", "runc"], "{found:?}");
        return the_default_is(thawd, "crun");
    }
    ensure!(found == ["runc"], "{found:?}");
    let named = v1::RunPodSandboxRequest {
        config: Some(pod_config(thawd, "named")),
        runtime_handler: "crun".to_owned(),
    };
    refused(
        thawd.cri().run_pod_sandbox(named),
        Code::FailedPrecondition,
        &["\"crun\"", "hybrid"],
    )?;
    the_default_is(thawd, "runc")
}

/// A crun that finds no libcriu.so.2 runs containers, but is not chosen and not asked to restore.
fn without_library(thawd: &mut Thawd) -> Result<()> {
    let words = "could not load libcriu.so.2";
    let text = format!(
        "case \" $* \" in *' restore '*)\n\
         echo '{{\"msg\":\"{words}\",\"level\":\"error\",\"time\":\"now\"}}' >&2; exit 1;; esac\n\
         exec {CRUN_PROGRAM} \"$@\"\n"
    );
    let lame = script(thawd, "lame-crun", &text)?;
    thawd.use_crun(&lame)?;
    let found = handlers(thawd)?;
    ensure!(found == ["runc", "crun"], "{found:?}");
    the_default_is(thawd, "runc")?;
    let pod = Pod::run_with(thawd, pod_config(thawd, "named"), "crun")?;
    let original = pod.start(workload_config("counter", &["counter"]))?;
    original.log.wait_count(3)?;
    let archive = thawd.path("archives/one.tar");
    let frozen = story::freeze(&original, &archive)?;
    let source = archive.display().to_string();
    let config = original.restored_config(&source, "restored");
    let lame = lame.display().to_string();
    refused(
        pod.create(config.clone()),
        Code::FailedPrecondition,
        &["\"crun\"", &lame, words],
    )?;
    let other = Pod::run(thawd, "other")?;
    let restored = other.start(config)?;
    restored.log.wait_thawed(frozen)?;
    restored.check()
}

/// Freezes a container, removes it and thaws it in the same pod.
fn thaw(thawd: &Thawd, pod: &Pod, original: &Container) -> Result<Container> {
    let archive = thawd.path("archives/one.tar");
    original
        .checkpoint(&archive)
        .context("CheckpointContainer")?;
    original.stop()?;
    original.remove()?;
    let source = archive.display().to_string();
    pod.start(original.restored_config(&source, "restored"))
}

fn between_runtimes(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let features = ["counter", "memory=8", "tmpfs=/dev", "deleted", "pipes"];
    for (from, to) in [("runc", "crun"), ("crun", "runc")] {
        let pod = |handler: &str| {
            let name = format!("{from}-to-{to}-{handler}");
            Pod::run_with(thawd, pod_config(thawd, &name), handler)
        };
        let (first, second) = (pod(from)?, pod(to)?);
        let original = first.start(workload_config("workload", &features))?;
        original.log.wait_count(5)?;
        let archive = thawd.path(&format!("archives/{from}.tar"));
        let frozen = story::freeze(&original, &archive)?;
        let source = archive.display().to_string();
        let moved = second
            .start(original.restored_config(&source, "moved"))
            .with_context(|| format!("from {from} to {to}"))?;
        moved.log.wait_thawed(frozen)?;
        moved.check()?;
        // And home again, from what the other one restored.
        let archive = thawd.path(&format!("archives/{from}-{to}.tar"));
        let frozen = story::freeze(&moved, &archive)?;
        let source = archive.display().to_string();
        let back = first
            .start(original.restored_config(&source, "back"))
            .with_context(|| format!("from {from} to {to} and back"))?;
        back.log.wait_thawed(frozen)?;
        back.check()?;
        for container in [&original, &moved, &back] {
            container.stop()?;
        }
    }
    Ok(())
}

/// Archives of a thawd on the host's own hierarchies, and of this one, each given to the other.
fn other_version(thawd: &mut Thawd) -> Result<()> {
    fn archive(thawd: &Thawd) -> Result<(Pod, Container, PathBuf)> {
        thawd.load("workload")?;
        let pod = Pod::run(thawd, "pod")?;
        let original = pod.start(workload_config("counter", &["counter"]))?;
        original.log.wait_count(3)?;
        let archive = thawd.path("archives/one.tar");
        original.checkpoint(&archive)?;
        Ok((pod, original, archive))
    }
    fn give(
        archive: &Path,
        thawd: &Thawd,
        (pod, original): (&Pod, &Container),
        words: &[&str],
    ) -> Result<()> {
        let foreign = thawd.path("archives/foreign.tar");
        let (from, to) = (archive.display().to_string(), foreign.display().to_string());
        arena::run("cp", &["--preserve=mode", &from, &to])?;
        let config = original.restored_config(&to, "foreign");
        if v1_mounted()? {
            return refused(pod.create(config), Code::FailedPrecondition, words).map(drop);
        }
        let restored = pod.start(config)?;
        restored.log.wait_more(3)?;
        restored.check()
    }
    fn v1_mounted() -> Result<bool> {
        let mounts = std::fs::read_to_string("/proc/self/mounts")?;
        Ok(mounts
            .lines()
            .any(|line| line.split(' ').nth(2) == Some("cgroup")))
    }
    let host = Thawd::start()?;
    let (pod, original, ours) = archive(thawd)?;
    let (host_pod, host_original, theirs) = archive(&host)?;
    let words = ["cgroup v1", "this node has v2"];
    give(&theirs, thawd, (&pod, &original), &words)?;
    let words = ["cgroup v2", "this node has v1"];
    give(&ours, &host, (&host_pod, &host_original), &words)?;
    host.finish()
}

/// With the controller a limit is in force, before and after a thaw; without it, it is refused.
fn limits(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let mut config = workload_config("limited", &["counter"]);
    let limit = 256 << 20;
    config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: limit,
        ..Default::default()
    });
    if !controllers()?.contains("memory") {
        let words = ["linux.resources.memory_limit_in_bytes", "\"memory\""];
        refused(pod.create(config), Code::FailedPrecondition, &words)?;
        // Without limits it works, and nothing of the refused one is in the way.
        let container = pod.start(workload_config("limited", &["counter"]))?;
        container.log.wait_count(3)?;
        return container.check();
    }
    let original = pod.start(config)?;
    original.log.wait_count(3)?;
    let restored = thaw(thawd, &pod, &original)?;
    restored.log.wait_more(3)?;
    let found = wait::until("the limit to be set", wait::PATIENCE, || {
        let ran = restored.exec(&["cat", "/sys/fs/cgroup/memory.max"])?;
        Ok((ran.code == 0).then_some(ran.stdout))
    })?;
    ensure!(found.trim() == limit.to_string(), "memory.max is {found}");
    Ok(())
}
