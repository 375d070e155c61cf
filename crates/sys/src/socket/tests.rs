use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;

use super::*;

#[test]
fn packets_keep_their_borders_and_carry_descriptors() {
    let (left, right) = seqpacket_pair().unwrap();
    let (mut reader, mut writer) = std::io::pipe().unwrap();
    send(&left, b"one", &[]).unwrap();
    send(&left, b"second", &[writer.as_fd(), reader.as_fd()]).unwrap();
    let first = recv(&right, 1024).unwrap();
    assert_eq!(first.bytes, b"one");
    assert!(first.fds.is_empty() && !first.truncated);
    let second = recv(&right, 1024).unwrap();
    assert_eq!(second.bytes, b"second");
    let [theirs, _]: [OwnedFd; 2] = second.fds.try_into().unwrap();
    let flags = rustix::io::fcntl_getfd(&theirs).unwrap();
    assert!(flags.contains(rustix::io::FdFlags::CLOEXEC));
    File::from(theirs).write_all(b"through").unwrap();
    writer.write_all(b"!").unwrap();
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(text, "through!");
}

#[test]
fn a_packet_beyond_the_limit_is_cut_and_the_next_one_is_whole() {
    let (left, right) = seqpacket_pair().unwrap();
    send(&left, &[7; 5000], &[]).unwrap();
    send(&left, b"next", &[]).unwrap();
    let cut = recv(&right, 1000).unwrap();
    assert!(cut.truncated);
    assert_eq!(cut.bytes, vec![7; 1000]);
    assert_eq!(recv(&right, 1000).unwrap().bytes, b"next");
}

#[test]
fn the_end_of_the_stream_is_seen_and_sending_there_fails() {
    let (left, right) = seqpacket_pair().unwrap();
    assert!(!poll_readable(&right, Some(Duration::from_millis(1))).unwrap());
    drop(left);
    assert!(poll_readable(&right, None).unwrap());
    assert!(recv(&right, 10).unwrap().is_end());
    let error = send(&right, b"x", &[]).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn what_the_peer_sent_is_received_although_it_closed_with_our_packet_unread() {
    let (left, right) = seqpacket_pair().unwrap();
    send(&right, b"never read", &[]).unwrap();
    send(&left, b"last words", &[]).unwrap();
    drop(left);
    assert_eq!(recv(&right, 100).unwrap().bytes, b"last words");
    assert!(recv(&right, 100).unwrap().is_end());
}

#[test]
fn a_large_packet_passes_once_the_buffer_is_forced() {
    let (left, right) = seqpacket_pair().unwrap();
    let large = vec![1; 1 << 20];
    let error = send(&left, &large, &[]).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::MSGSIZE.raw_os_error()));
    force_send_buffer(&left, 2 << 20).unwrap();
    let sent = send(&left, &large, &[]);
    if sent.is_ok() {
        assert_eq!(recv(&right, 1 << 21).unwrap().bytes.len(), 1 << 20);
    } else {
        assert_ne!(
            rustix::process::geteuid().as_raw(),
            0,
            "root can force it: {sent:?}"
        );
    }
}

#[test]
fn a_socket_deep_in_the_tree_is_reached_through_its_directory() {
    let temp = tempfile::tempdir().unwrap();
    let deep = temp.path().join("d".repeat(200)).join("e".repeat(200));
    std::fs::create_dir_all(&deep).unwrap();
    let dir = File::open(&deep).unwrap();
    let listener = seqpacket_listen(dir.as_fd(), "monitor.sock", 0o600).unwrap();
    let mode = std::fs::metadata(deep.join("monitor.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7777, 0o600);
    let client = seqpacket_connect(dir.as_fd(), "monitor.sock").unwrap();
    let server = seqpacket_accept(&listener).unwrap();
    assert_eq!(peer_cred(&server).unwrap().pid, std::process::id());
    send(&client, b"hello", &[]).unwrap();
    assert_eq!(recv(&server, 100).unwrap().bytes, b"hello");
    let taken = seqpacket_listen(dir.as_fd(), "monitor.sock", 0o600).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
    drop(listener);
    let refused = seqpacket_connect(dir.as_fd(), "monitor.sock").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
}

#[test]
fn names_with_a_path_in_them_are_refused() {
    let temp = tempfile::tempdir().unwrap();
    let dir = File::open(temp.path()).unwrap();
    for name in ["", ".", "..", "a/b", "/a", "a/"] {
        let error = seqpacket_connect(dir.as_fd(), name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
    }
}
