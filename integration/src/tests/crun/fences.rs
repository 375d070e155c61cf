//! What a restored container may not do, and when it may begin.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, ensure};
use cri_server::v1;
use rustix::process::{Signal, kill_process};

use super::{cgroup, thaw};
use crate::harness::containers::{Container, Pod, container_config, workload_config};
use crate::harness::daemon::Thawd;
use crate::harness::needs::CRUN;
use crate::harness::wait;
use crate::tests::bad_input::script;
use crate::tests::pods::BUSYBOX;
use crate::tests::story;

/// All tasks are in the container's cgroup and see no more of the tree; what is masked stays so.
pub(super) fn fenced_in(thawd: &mut Thawd) -> Result<()> {
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let original = pod.start(workload_config("family", &["counter", "children=3"]))?;
    original.log.wait_count(5)?;
    let tasks = |container: &Container| -> Result<Vec<String>> {
        let file = cgroup(thawd, container)?.join("cgroup.procs");
        let text = std::fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        Ok(text.lines().map(str::to_owned).collect())
    };
    let before = tasks(&original)?.len();
    ensure!(before == 4, "{before} tasks before the freeze");
    let restored = thaw(thawd, &pod, &original)?;
    restored.log.wait_more(5)?;
    restored.check()?;
    let after = tasks(&restored)?;
    ensure!(
        after.len() == before,
        "{} tasks are in the cgroup",
        after.len()
    );
    let of = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/cgroup"));
    let own = of("self")?;
    let found: BTreeSet<PathBuf> = after.iter().map(|pid| of(pid)).collect::<Result<_, _>>()?;
    ensure!(
        found.len() == 1 && !found.contains(&own),
        "cgroup namespaces {found:?}"
    );
    let script = "cat /proc/self/cgroup | grep ^0; ls -d /sys/fs/cgroup/*/; \
                  cat /proc/keys /sys/firmware/* /proc/acpi/*; \
                  touch /sys/firmware/x /proc/acpi/x /sys/fs/cgroup/x && echo written";
    let seen = restored.exec(&["sh", "-c", script])?;
    ensure!(seen.stdout.trim() == "0::/", "{seen:?}");
    ensure!(
        seen.stderr.matches("Read-only file system").count() == 3,
        "{seen:?}"
    );
    restored.stop_well()
}

/// Major and minor number of a block device of the host that root may read.
fn disk() -> Result<(u32, u32)> {
    let mut entries = std::fs::read_dir("/sys/class/block")?.flatten();
    let found = entries.find_map(|entry| {
        std::fs::File::open(Path::new("/dev").join(entry.file_name())).ok()?;
        let text = std::fs::read_to_string(entry.path().join("dev")).ok()?;
        let (major, minor) = text.trim().split_once(':')?;
        Some((major.parse().ok()?, minor.parse().ok()?))
    });
    found.context("the test needs a block device that root may read")
}

/// A container that keeps trying to open a disk never can, at no moment of its restore.
pub(super) fn device_rules(thawd: &mut Thawd) -> Result<()> {
    let (major, minor) = disk()?;
    thawd.load("base")?;
    // A restored /dev has the request's devices only: it makes its own again.
    let script = format!(
        "n=0; while :; do n=$((n + 1)); \
         [ -b /dev/disk ] || mknod /dev/disk b {major} {minor} || exit 1; \
         if true 2>/dev/null </dev/disk; then echo opened; fi; \
         [ $((n % 2000)) != 0 ] || echo count=$n ok; done"
    );
    let pod = Pod::run(thawd, "pod")?;
    let config = container_config("opener", BUSYBOX, &["sh", "-c", &script]);
    let original = pod.start(config)?;
    original.log.wait_count(2000)?;
    let restored = thaw(thawd, &pod, &original)?;
    restored.log.wait_more(4000)?;
    let lines = restored.log.lines()?;
    let opened = lines.iter().filter(|line| line.contains("opened")).count();
    ensure!(opened == 0, "the disk was opened {opened} times");
    Ok(())
}

/// The tasks stand still until crun has finished. A thawd that is killed meanwhile finds them again.
pub(super) fn killed_while_they_stand(thawd: &mut Thawd) -> Result<()> {
    let done = thawd.path("restored");
    let text = format!(
        "{CRUN} \"$@\"; code=$?\n\
         case \" $* \" in *' restore '*) touch {done}; sleep 2;; esac\n\
         exit $code\n",
        done = done.display()
    );
    let slow = script(thawd, "slow-crun", &text)?;
    thawd.use_crun(&slow)?;
    thawd.load("workload")?;
    let pod = Pod::run(thawd, "pod")?;
    let original = pod.start(workload_config("family", &["counter", "children=3"]))?;
    original.log.wait_count(5)?;
    let archive = thawd.path("archives/one.tar");
    let frozen = story::freeze(&original, &archive)?;
    let source = archive.display().to_string();
    let restored = pod.create(original.restored_config(&source, "restored"))?;
    let daemon = thawd.pid()?;
    let killer = std::thread::spawn(move || -> Result<()> {
        wait::until("the restore", wait::PATIENCE, || {
            Ok(done.exists().then_some(()))
        })?;
        Ok(kill_process(daemon, Signal::KILL)?)
    });
    let answer = restored.start();
    killer.join().map_err(|_| anyhow!("a thread panicked"))??;
    ensure!(
        answer.is_err(),
        "StartContainer was answered by a killed thawd"
    );
    let switch = cgroup(thawd, &restored)?.join("cgroup.freeze");
    let value = std::fs::read_to_string(&switch)?;
    ensure!(value.trim() == "1", "{} is {value:?}", switch.display());
    thawd.kill()?;
    thawd.launch()?;
    restored.log.wait_thawed(frozen)?;
    restored.check()?;
    let state = restored.status()?.state();
    ensure!(
        state == v1::ContainerState::ContainerRunning,
        "state {state:?}"
    );
    restored.stop_well()
}
