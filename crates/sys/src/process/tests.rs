use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use super::*;

const LIMITS: OutputLimits = OutputLimits {
    max_stdout_bytes: 1 << 16,
    max_stderr_bytes: 64,
};

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

fn sh(script: &str) -> Command {
    Command::new("/bin/sh").args(["-c", script])
}

fn lines(output: &Output) -> Vec<&str> {
    std::str::from_utf8(&output.stdout)
        .unwrap()
        .lines()
        .collect()
}

#[test]
fn output_is_collected_with_status_and_the_end_of_stderr() {
    let script = "cat; printf '%0100d' 7 >&2; exit 3";
    let output = sh(script).output(b"to and fro", LIMITS, soon()).unwrap();
    assert_eq!(output.status, ExitStatus::Code(3));
    assert_eq!(output.stdout, b"to and fro");
    assert_eq!(output.stderr_tail, format!("{:064}", 7).as_bytes());
}

#[test]
fn large_input_and_output_pass_each_other() {
    let limits = OutputLimits {
        max_stdout_bytes: 4 << 20,
        max_stderr_bytes: 0,
    };
    let data: Vec<u8> = (0..3_u32 << 20).map(|n| n.to_le_bytes()[1]).collect();
    let output = Command::new("cat").output(&data, limits, soon()).unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, data);
}

#[test]
fn a_program_that_reads_nothing_ends_all_the_same() {
    let output = Command::new("true")
        .output(&vec![0; 1 << 20], LIMITS, soon())
        .unwrap();
    assert!(output.status.success());
}

#[test]
fn too_much_output_is_an_error() {
    let error = sh("yes").output(b"", LIMITS, soon()).unwrap_err();
    assert!(
        matches!(error.kind, RunErrorKind::StdoutLimit { limit_bytes: 65536 }),
        "{error}"
    );
}

#[test]
fn at_the_deadline_the_whole_group_is_killed() {
    let temp = tempfile::tempdir().unwrap();
    let note = temp.path().join("pid");
    let script = format!(
        "sleep 1000 & echo $! >{}; echo waiting >&2; wait",
        note.display()
    );
    let begin = Instant::now();
    let error = sh(&script)
        .output(b"", LIMITS, Deadline::after(Duration::from_millis(300)))
        .unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(5));
    let RunErrorKind::Deadline { stderr_tail } = &error.kind else {
        panic!("{error}")
    };
    assert_eq!(stderr_tail, b"waiting\n");
    let pid: u32 = std::fs::read_to_string(note)
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // The signal has been sent; the end may take a moment. It is not ours to reap.
    if let Ok(pidfd) = crate::pidfd::open(pid) {
        assert!(crate::pidfd::wait_exit(pidfd, Some(Duration::from_secs(10))).unwrap());
    }
}

#[test]
fn a_missing_program_is_the_error_of_spawn() {
    let error = Command::new("/nonexistent/program").spawn().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    let error = Command::new("true")
        .cwd("/nonexistent")
        .spawn()
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
    let error = Command::new("/nonexistent/x")
        .arg("y")
        .output(b"", LIMITS, soon())
        .unwrap_err();
    assert_eq!(error.to_string(), "/nonexistent/x y: cannot be started");
}

#[test]
fn a_descendant_that_keeps_the_pipes_does_not_delay_the_end() {
    let begin = Instant::now();
    let output = sh("sleep 3 & echo done")
        .output(b"", LIMITS, soon())
        .unwrap();
    assert_eq!(output.stdout, b"done\n");
    assert!(begin.elapsed() < Duration::from_secs(2));
}

fn check_descriptors() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let (other, _keep) = std::io::pipe().unwrap();
    // One that would leak: without close-on-exec in this process.
    let leaky = rustix::io::fcntl_dupfd_cloexec(&other, 40).unwrap();
    rustix::io::fcntl_setfd(&leaky, rustix::io::FdFlags::empty()).unwrap();
    let output = sh("for f in /proc/self/fd/*; do [ -e $f ] && echo ${f##*/}; done; echo x >&7")
        .fd(OwnedFd::from(writer), 7)
        .fd(other.as_fd().try_clone_to_owned().unwrap(), 3)
        .output(b"", LIMITS, soon())
        .unwrap();
    assert_eq!(lines(&output), ["0", "1", "2", "3", "7"]);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "x\n");
}

#[test]
fn descriptors_arrive_under_their_numbers_and_no_others_do() {
    check_descriptors();
}

#[test]
fn no_others_do_on_a_kernel_without_close_range_either() {
    let close_range = crate::testing::Refusal {
        call: libc::SYS_close_range,
        argument: None,
        errno: libc::ENOSYS,
    };
    crate::testing::refusing(&[close_range], check_descriptors).unwrap();
}

#[test]
fn swapped_descriptors_do_not_overwrite_each_other() {
    let (mut a_reader, a) = std::io::pipe().unwrap();
    let (mut b_reader, b) = std::io::pipe().unwrap();
    let (a, b) = (OwnedFd::from(a), OwnedFd::from(b));
    let (to_a, to_b) = (b.as_raw_fd(), a.as_raw_fd());
    // Crossed only when both are free to be used as targets in a child, as they always are here.
    let script = format!("echo a >&{to_a}; echo b >&{to_b}");
    // Not sh: dash knows descriptors of one digit only.
    let output = Command::new("/bin/bash")
        .args(["-c", &script])
        .fd(a, to_a)
        .fd(b, to_b)
        .output(b"", LIMITS, soon())
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr_tail)
    );
    let (mut from_a, mut from_b) = (String::new(), String::new());
    a_reader.read_to_string(&mut from_a).unwrap();
    b_reader.read_to_string(&mut from_b).unwrap();
    assert_eq!((from_a.as_str(), from_b.as_str()), ("a\n", "b\n"));
}

#[test]
fn numbers_of_the_standard_descriptors_and_twice_the_same_are_refused() {
    let fd = || File::open("/dev/null").unwrap().into();
    for command in [
        sh("true").fd(fd(), 2),
        sh("true").fd(fd(), 5).fd(fd(), 5),
        sh("true").fd(fd(), 5000),
    ] {
        assert_eq!(
            command.spawn().unwrap_err().kind(),
            std::io::ErrorKind::InvalidInput
        );
    }
}

#[test]
fn signals_are_default_and_unblocked_and_the_group_is_its_own() {
    // The Rust runtime ignores SIGPIPE; a child must not.
    let script = "sed -n '/^SigBlk\\|^SigIgn/s/.*\\t//p' /proc/self/status; cut -d' ' -f5,6 /proc/$$/stat; echo $$";
    let output = sh(script).output(b"", LIMITS, soon()).unwrap();
    let lines = lines(&output);
    assert_eq!(lines[..2], ["0000000000000000", "0000000000000000"]);
    let (group, session) = lines[2].split_once(' ').unwrap();
    assert_eq!(group, lines[3]);
    assert_ne!(session, lines[3]);
    let output = sh("cut -d' ' -f6 /proc/$$/stat; echo $$")
        .new_session()
        .output(b"", LIMITS, soon())
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (session, pid) = text.trim().split_once('\n').unwrap();
    assert_eq!(session, pid);
}

#[test]
fn environment_and_directory_are_as_told() {
    let output = Command::new("/usr/bin/env")
        .env_clear()
        .env("B", "2")
        .env("A", "x=y")
        .cwd("/")
        .output(b"", LIMITS, soon())
        .unwrap();
    assert_eq!(lines(&output), ["A=x=y", "B=2"]);
    let output = Command::new("pwd")
        .cwd("/proc")
        .output(b"", LIMITS, soon())
        .unwrap();
    assert_eq!(lines(&output), ["/proc"]);
    let error = Command::new("true").env("A=B", "c").spawn().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
    let error = Command::new("true").arg("a\0b").spawn().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidInput);
}

#[test]
fn waiting_has_a_limit_and_tells_the_signal() {
    let mut child = Command::new("sleep").arg("1000").spawn().unwrap();
    assert_eq!(child.wait(Some(Duration::from_millis(10))).unwrap(), None);
    child.kill_group(15).unwrap();
    let status = child.wait(None).unwrap().unwrap();
    assert_eq!(status, ExitStatus::Signal(15));
    assert_eq!(status.code_or_128_plus_signal(), 143);
    child.kill_group(9).unwrap();
    assert_eq!(child.wait(None).unwrap(), Some(status));
}

#[test]
fn dropping_a_child_kills_and_reaps_it_and_leaving_it_does_not() {
    let child = Command::new("sleep").arg("1000").spawn().unwrap();
    let proc_dir = format!("/proc/{}", child.pid());
    drop(child);
    assert!(!std::path::Path::new(&proc_dir).exists());

    let mut child = Command::new("cat")
        .stdin(Stdio::Pipe)
        .stdout(Stdio::Pipe)
        .spawn()
        .unwrap();
    let mut stdin = File::from(child.stdin.take().unwrap());
    let mut stdout = File::from(child.stdout.take().unwrap());
    let pidfd = child.leave();
    stdin.write_all(b"alive").unwrap();
    drop(stdin);
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "alive");
    assert_eq!(spawn::reap(pidfd.as_fd()).unwrap(), ExitStatus::Code(0));
}

#[test]
fn deadlines_only_get_shorter() {
    let long = Deadline::after(Duration::MAX);
    let short = Deadline::after(Duration::from_secs(1));
    assert_eq!(long.sooner(short), short);
    assert_eq!(short.sooner(long), short);
    assert!(short.remaining().unwrap() <= Duration::from_secs(1));
    assert_eq!(Deadline::after(Duration::ZERO).remaining(), None);
    assert!(Deadline::at(Instant::now()).passed());
}
