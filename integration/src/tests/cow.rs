//! Copy-on-write capture: containers run on while their memory is written down, and what is thawed from
//! that is of one moment (see `workloads::writers`).

mod kills;
mod together;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use cri_server::v1;
use rustix::process::{Pid, Signal, kill_process};

use super::Test;
use crate::cri::Cri;
use crate::harness::containers::{Container, Pod, workload_config};
use crate::harness::daemon::Thawd;
use crate::harness::{cgroups, wait};

pub(super) const TESTS: &[(&str, Test)] = &[
    ("cow::what_is_frozen_is_of_one_moment", |thawd| {
        one_moment(thawd, 4)
    }),
    ("cow::the_original_is_not_disturbed", undisturbed),
    ("cow::a_command_runs_through_a_checkpoint", command),
    (
        "cow::too_little_room_for_copies_is_seen_before",
        little_room,
    ),
    ("cow::a_stopped_child_stays_stopped", stopped_child),
    (
        "cow::containers_stand_where_it_turns_out_to_be_impossible",
        late_refusal,
    ),
    ("cow::it_can_be_switched_off", switched_off),
    (
        "cow::containers_run_on_whenever_thawd_is_killed",
        kills::at_any_moment,
    ),
    (
        "cow::checkpoints_at_once_touch_nothing_of_each_other",
        together::frozen_at_once,
    ),
];

/// What the workload `writers` names its threads.
const WRITERS: [&str; 5] = ["private", "huge", "small", "unprotected", "child"];

/// Waits until each writer has begun a round and completed it: until all memory was found to be of one
/// moment.
fn complete_round(container: &Container) -> Result<()> {
    let deadline = Instant::now() + wait::PATIENCE;
    let begin = container.log.wait_more(1)?;
    let mut line = begin.clone();
    for name in WRITERS {
        let wanted = begin.number(name)? + 2;
        while line.number(name)? < wanted {
            ensure!(
                Instant::now() < deadline,
                "{name} is not in round {wanted}: {line:?}"
            );
            line = container.log.wait_count(line.count + 1)?;
        }
    }
    Ok(())
}

/// The last line about this archive in thawd's log.
fn told(thawd: &Thawd, archive: &Path) -> Result<String> {
    let location = format!("location={}", archive.display());
    let log = thawd.log();
    let mut lines = log.lines().rev();
    let found = lines.find(|line| {
        line.contains("checkpoint written") && line.split(' ').any(|word| word == location)
    });
    found
        .map(str::to_owned)
        .with_context(|| format!("no checkpoint at {location} is in the log"))
}

/// Freezes the container, which runs on while its memory is written down.
fn freeze(thawd: &Thawd, container: &Container, archive: &Path) -> Result<()> {
    container
        .checkpoint(archive)
        .context("CheckpointContainer")?;
    protected(thawd, archive)
}

/// The archive was written while the container ran on.
fn protected(thawd: &Thawd, archive: &Path) -> Result<()> {
    let line = told(thawd, archive)?;
    ensure!(line.contains("copy_on_write=true"), "{line}");
    Ok(())
}

/// Freezes the container, which stands until its memory is in the archive; the log tells why.
fn freeze_standing(thawd: &Thawd, container: &Container, reason: Option<&str>) -> Result<PathBuf> {
    let archive = thawd.path("archives/standing.tar");
    container
        .checkpoint(&archive)
        .context("CheckpointContainer")?;
    let line = told(thawd, &archive)?;
    ensure!(line.contains("copy_on_write=false"), "{line}");
    let log = thawd.log();
    let said = log
        .lines()
        .find(|line| line.contains("memory is copied while the container stands"));
    match (said, reason) {
        (Some(line), Some(reason)) => ensure!(line.contains(reason), "{line}"),
        (None, None) => {}
        other => return Err(anyhow!("said and expected: {other:?}")),
    }
    Ok(archive)
}

/// A file of a process below /proc.
fn proc(pid: Pid, name: &str) -> Result<String> {
    let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
    std::fs::read_to_string(&path).context(path)
}

/// Where a container is frozen.
pub(super) fn freezer(pod: &Pod, container: &Container) -> Result<PathBuf> {
    let linux = pod.config.linux.as_ref().context("a pod without linux")?;
    cgroups::freezer(&format!("{}/{}", linux.cgroup_parent, container.id))
}

/// Children of each process in a cgroup. Each of its threads is without a tracer, and it is not frozen.
fn free_family(freezer: &Path) -> Result<BTreeMap<i32, Vec<String>>> {
    let state = [("freezer.state", "THAWED"), ("cgroup.events", "frozen 0")]
        .into_iter()
        .find(|(file, _)| freezer.join(file).exists());
    let (file, thawed) = state.context("no freezer")?;
    let text = std::fs::read_to_string(freezer.join(file))?;
    ensure!(text.lines().any(|line| line == thawed), "{file}: {text}");
    let mut family = BTreeMap::new();
    for pid in cgroups::members(freezer) {
        let pid = pid.as_raw_nonzero().get();
        let children: &mut Vec<String> = family.entry(pid).or_default();
        for thread in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let thread = thread?.path();
            let status = std::fs::read_to_string(thread.join("status"))?;
            let tracer = status.lines().find(|line| line.starts_with("TracerPid:"));
            ensure!(
                tracer == Some("TracerPid:\t0"),
                "{}: {tracer:?}",
                thread.display()
            );
            let text = std::fs::read_to_string(thread.join("children"))?;
            children.extend(text.split_ascii_whitespace().map(str::to_owned));
        }
    }
    ensure!(!family.is_empty(), "{} is empty", freezer.display());
    Ok(family)
}

/// Thaws a copy beside the original; it is to be of one moment.
fn thaw(pod: &Pod, original: &Container, archive: &Path, name: &str) -> Result<Container> {
    let source = archive.display().to_string();
    let copy = pod.start(original.restored_config(&source, name))?;
    complete_round(&copy).context("the copy")?;
    copy.check()?;
    Ok(copy)
}

/// Freezes the container and thaws a copy beside it; both are to be of one moment.
fn freeze_and_thaw(thawd: &Thawd, pod: &Pod, from: &Container, name: &str) -> Result<Container> {
    complete_round(from).context("before the freeze")?;
    let archive = thawd.path(&format!("archives/{name}.tar"));
    freeze(thawd, from, &archive)?;
    let copy = thaw(pod, from, &archive, name)?;
    std::fs::remove_file(&archive)?;
    Ok(copy)
}

pub(super) fn one_moment(thawd: &mut Thawd, times: usize) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let original = pod.start(workload_config("writers", &["writers=128", "stack"]))?;
    for number in 1..times {
        let name = format!("copy-{number}");
        let copy = freeze_and_thaw(thawd, &pod, &original, &name).context(name)?;
        copy.stop_well()?;
        copy.remove()?;
    }
    let copy = freeze_and_thaw(thawd, &pod, &original, "copy").context("the last copy")?;
    complete_round(&original).context("the original")?;
    original.stop_well()?;
    freeze_and_thaw(thawd, &pod, &copy, "again")
        .context("a copy of a copy")
        .map(drop)
}

/// The container's first process.
fn first_process(freezer: &Path) -> Result<Pid> {
    let is_first = |pid: &Pid| {
        proc(*pid, "status").is_ok_and(|text| {
            text.lines()
                .any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
        })
    };
    let mut members = cgroups::members(freezer).into_iter();
    members.find(is_first).context("no first process")
}

/// Whether SIGUSR1 waits to be delivered to the process.
fn is_pending(pid: Pid) -> Result<bool> {
    let status = proc(pid, "status")?;
    let set = status
        .lines()
        .find_map(|line| line.strip_prefix("ShdPnd:\t"))
        .context("no ShdPnd line")?;
    let bit = 1 << (Signal::USR1.as_raw() - 1);
    Ok(u64::from_str_radix(set, 16)? & bit != 0)
}

/// A signal that is sent when none is pending is counted once, whatever else happens.
fn undisturbed(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let features = ["caught", "asleep", "stack", "writers=64"];
    let original = pod.start(workload_config("workload", &features))?;
    complete_round(&original)?;
    let freezer = freezer(&pod, &original)?;
    let first = first_process(&freezer)?;
    let family = free_family(&freezer)?;
    let archive = thawd.path("archives/one.tar");
    let mut sent = 0;
    for number in 1..=4 {
        let begun = original.begin_checkpoint(&archive, None);
        while !begun.is_finished() {
            if !is_pending(first)? {
                kill_process(first, Signal::USR1)?;
                sent += 1;
            }
            wait::pause(Duration::from_micros(200));
        }
        thawd.cri().finish(begun).context("CheckpointContainer")?;
        protected(thawd, &archive)?;
        let after = free_family(&freezer)?;
        ensure!(after == family, "{family:?} became {after:?}");
        complete_round(&original).with_context(|| format!("after checkpoint {number}"))?;
        if number < 4 {
            std::fs::remove_file(&archive)?;
        }
    }
    ensure!(sent > 20, "only {sent} signals were sent");
    let caught = original.log.wait_more(2)?.number("signals")?;
    ensure!(caught == sent, "{sent} signals were sent, {caught} arrived");
    thaw(&pod, &original, &archive, "copy")?;
    original.check()
}

/// A command in a container that runs until it is told to end.
struct Command {
    caller: JoinHandle<Result<i32>>,
    process: Pid,
}

impl Command {
    fn begin(thawd: &Thawd, container: &Container, freezer: &Path) -> Result<Self> {
        let socket = thawd.path("run/thawd.sock");
        let request = v1::ExecSyncRequest {
            container_id: container.id.clone(),
            cmd: ["sleep", "1000"].map(str::to_owned).into(),
            timeout: 60,
        };
        let call = move || Ok(Cri::new(&socket)?.exec_sync(request)?.exit_code);
        let caller = std::thread::spawn(call);
        let process = wait::until("the command to run", wait::PATIENCE, || {
            let mut members = cgroups::members(freezer).into_iter();
            Ok(members.find(|pid| proc(*pid, "comm").is_ok_and(|name| name == "sleep\n")))
        })?;
        Ok(Self { caller, process })
    }

    /// It has run up to now.
    fn end(self) -> Result<()> {
        ensure!(!self.caller.is_finished(), "the command ended too early");
        kill_process(self.process, Signal::TERM)?;
        let joined = self.caller.join();
        let code = joined.map_err(|_| anyhow!("a thread panicked"))??;
        ensure!(code == 128 + 15, "the command's exit code is {code}");
        Ok(())
    }
}

fn command(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let original = pod.start(workload_config("writers", &["writers=64"]))?;
    complete_round(&original)?;
    let command = Command::begin(thawd, &original, &freezer(&pod, &original)?)?;
    let archive = thawd.path("archives/one.tar");
    freeze(thawd, &original, &archive)?;
    command.end()?;
    original.check()?;
    thaw(&pod, &original, &archive, "copy").map(drop)
}

/// What stands in the way is seen when everything is ready: a command that is stopped.
fn late_refusal(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let original = pod.start(workload_config("writers", &["writers=64"]))?;
    complete_round(&original)?;
    let command = Command::begin(thawd, &original, &freezer(&pod, &original)?)?;
    kill_process(command.process, Signal::STOP)?;
    let is_stopped = || Ok::<_, anyhow::Error>(proc(command.process, "stat")?.contains(") T "));
    wait::until("the command to stop", wait::PATIENCE, || {
        Ok(is_stopped()?.then_some(()))
    })?;
    let archive = freeze_standing(thawd, &original, Some("is stopped"))?;
    ensure!(is_stopped()?, "the command runs");
    kill_process(command.process, Signal::CONT)?;
    command.end()?;
    complete_round(&original)?;
    thaw(&pod, &original, &archive, "copy").map(drop)
}

fn little_room(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let mut config = workload_config("limited", &["memory=96"]);
    config.linux.get_or_insert_default().resources = Some(v1::LinuxContainerResources {
        memory_limit_in_bytes: (96 + 32) << 20,
        ..Default::default()
    });
    let container = pod.start(config)?;
    container.log.wait_count(10)?;
    freeze_standing(thawd, &container, Some("bytes of room"))?;
    container.log.wait_more(10)?;
    container.check()?;
    let state = container.status()?.state();
    ensure!(
        state == v1::ContainerState::ContainerRunning,
        "state {state:?}"
    );
    Ok(())
}

/// The workload looks at each step whether its child is still stopped.
fn stopped_child(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(workload_config("family", &["memory=64", "stopped"]))?;
    container.log.wait_count(2)?;
    freeze_standing(thawd, &container, Some("is stopped"))?;
    container.log.wait_more(20)?;
    container.check()
}

fn switched_off(thawd: &mut Thawd) -> Result<()> {
    thawd.refuse_copy_on_write()?;
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let container = pod.start(workload_config("memory", &["memory=64"]))?;
    container.log.wait_count(2)?;
    freeze_standing(thawd, &container, None)?;
    container.log.wait_more(2)?;
    container.check()
}
