//! Descriptions of the fixtures.

use std::time::Duration;

use super::{DumpStats, ProcessState, SocketKind, describe};
use crate::testing;

/// Puts text into the page image where the process's memory has it.
fn poke(set: &mut crate::MemoryImages, pid: u32, text: &[u8]) {
    let images = testing::decode(set);
    let memory = &images.memory[&pid];
    let map = &images.pagemaps[&pid];
    let mut offset = 0;
    for entry in &map.entries {
        let size = crate::policy::pages_of(entry) * 4096;
        if (entry.vaddr..entry.vaddr + size).contains(&memory.mm_arg_start) {
            let at = usize::try_from(offset + memory.mm_arg_start - entry.vaddr).unwrap();
            let pages = set
                .0
                .get_mut(&format!("pages-{}.img", map.pages_id))
                .unwrap();
            pages[at..at + text.len()].copy_from_slice(text);
            return;
        }
        offset += size;
    }
    panic!("no page for the arguments");
}

#[test]
fn processes_have_command_lines_from_memory() {
    let mut set = testing::images("python");
    poke(&mut set, 1, b"/usr/bin/python3\0/ri\x1bh.py\0");
    let description = describe(&set);
    assert_eq!(description.problems, Vec::<String>::new());
    let [first, child, zombie] = description.processes.as_slice() else {
        panic!()
    };
    assert_eq!(
        (first.pid, first.ppid, first.name.as_str()),
        (1, 0, "python3")
    );
    assert_eq!(first.command_line, ["/usr/bin/python3", "/ri\u{1b}h.py"]);
    assert_eq!(
        (first.threads, first.state, first.uid),
        (2, ProcessState::Alive, Some(0))
    );
    assert_eq!(first.executable.as_deref(), Some("/usr/bin/python3.11"));
    assert_eq!(first.working_directory.as_deref(), Some("/"));
    assert!(first.seccomp && first.memory_bytes > 5 << 20);
    assert_eq!((child.ppid, child.state), (1, ProcessState::Stopped));
    assert_eq!(zombie.state, ProcessState::Zombie);
    let text = description.to_string();
    assert!(
        text.contains("  1 /usr/bin/python3 '/ri\\u{1b}h.py'  (2 threads,"),
        "{text}"
    );
    assert!(text.contains(&format!("\n    {} [", child.pid)), "{text}");
}

#[test]
fn sockets_have_addresses_states_and_owners() {
    let description = describe(&testing::images("python"));
    let find = |kind, state: &str, local: &str| {
        description
            .sockets
            .iter()
            .find(|s| s.kind == kind && s.state == state && s.local == local)
            .unwrap_or_else(|| panic!("no {state} {local} in {:#?}", description.sockets))
    };
    let listener = find(SocketKind::Tcp, "LISTEN", "127.0.0.1:9090");
    assert_eq!(
        listener
            .owners
            .iter()
            .map(|(pid, _)| *pid)
            .collect::<Vec<_>>(),
        [1, 7]
    );
    find(SocketKind::Tcp, "LISTEN", "[::1]:9091");
    find(SocketKind::Udp, "UNCONN", "0.0.0.0:5353");
    find(SocketKind::UnixStream, "LISTEN", "/tmp/u.sock");
    find(SocketKind::UnixDatagram, "UNCONN", "@abstract");
    assert!(description.tcp_close);
}

#[test]
fn files_mounts_memory_and_times_are_told() {
    let description = describe(&testing::images("python"));
    assert_eq!(description.hostname.as_deref(), Some("pod-a"));
    assert_eq!(description.machine.as_deref(), Some("x86_64"));
    assert_eq!(description.files["timerfd"], 1);
    assert_eq!(description.files["inotify"], 1);
    assert_eq!(
        description.files.get("memfd"),
        Some(&2),
        "its own, and shared memory"
    );
    assert_eq!((description.deleted_files, description.file_locks), (1, 1));
    let hosts = description
        .mounts
        .iter()
        .find(|m| m.mountpoint == "/etc/hosts")
        .unwrap();
    assert_eq!(
        (hosts.filesystem.as_str(), hosts.external_key.as_deref()),
        ("external", Some("/etc/hosts"))
    );
    let proc = description
        .mounts
        .iter()
        .find(|m| m.mountpoint == "/proc/sys")
        .unwrap();
    assert_eq!(
        (proc.filesystem.as_str(), proc.flags[0].as_str()),
        ("proc", "ro")
    );
    assert!(description.memory.shared_bytes >= 8192);
    let dump = description.dump.unwrap();
    assert!(dump.frozen > Duration::from_millis(1) && dump.pages_written > 2000);
    let json = serde_json::to_value(&description).unwrap();
    assert_eq!(json["processes"][0]["pid"], 1);
    assert_eq!(
        serde_json::from_value::<super::Description>(json).unwrap(),
        description
    );
}

#[test]
fn stats_are_read_by_themselves() {
    let set = testing::images("python");
    let stats = DumpStats::parse(&set.0["stats-dump"]).unwrap();
    assert_eq!(Some(stats), describe(&set).dump);
    assert!(DumpStats::parse(b"nothing").is_err());
}

#[test]
fn broken_images_are_notes() {
    let mut set = testing::images("terminal");
    set.0.get_mut("mountpoints-13.img").unwrap().truncate(100);
    set.0.insert("something-new.img".into(), vec![1, 2, 3]);
    let description = describe(&set);
    assert_eq!(
        description.problems,
        ["mountpoints-13.img: ends in the middle of an entry"]
    );
    assert_eq!(description.processes.len(), 2);
    assert!(description.to_string().contains("Not readable"));
}
