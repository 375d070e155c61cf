//! The scan against processes of the tests' own.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;

use sys::process::{Command, Stdio};

use super::*;

#[test]
fn protocols_have_names() {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let path = format!("/proc/self/fd/{}", socket.as_raw_fd());
    assert_eq!(socket_protocol(&path).unwrap(), "TCP");
    assert!(socket_protocol("/proc/self/exe").is_err());
}

#[test]
fn a_process_with_a_connection_to_outside_is_refused_by_fd_and_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outside.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let client = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let (server, _) = listener.accept().unwrap();
    let stdin = Stdio::Fd(client.into());
    let child = Command::new("sleep")
        .arg("60")
        .stdin(stdin)
        .spawn()
        .unwrap();
    let error = scan(child.pid()).unwrap_err();
    drop(server);
    let text = error.to_string();
    assert!(matches!(error, Error::Precondition(_)), "{text}");
    assert!(text.contains(&format!("process {}", child.pid())), "{text}");
    assert!(
        text.contains("fd 0") && text.contains("outside.sock"),
        "{text}"
    );
}

#[test]
fn a_datagram_socket_may_have_senders_and_none_outside_to_send_to() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("datagrams.sock");
    let receiver = UnixDatagram::bind(&path).unwrap();
    let sender = UnixDatagram::unbound().unwrap();
    sender.connect(&path).unwrap();
    let holder = |socket: &UnixDatagram| {
        let stdin = Stdio::Fd(socket.try_clone().unwrap().into());
        let command = Command::new("sleep").arg("60").stdin(stdin);
        command.spawn().unwrap()
    };
    scan(holder(&receiver).pid()).unwrap();
    let error = scan(holder(&sender).pid()).unwrap_err().to_string();
    assert!(
        error.contains("fd 0") && error.contains("datagrams.sock"),
        "{error}"
    );
}

#[test]
fn an_ordinary_process_passes() {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    let scan = scan(child.pid()).unwrap();
    assert_eq!(scan.pids, [child.pid()]);
    assert_eq!(scan.memory_bytes.len(), 1);
}

#[test]
fn devices_that_criu_knows_are_told_from_others() {
    assert!(dumpable_device(1, 3) && dumpable_device(136, 4) && dumpable_device(5, 2));
    assert!(!dumpable_device(10, 200) && !dumpable_device(1, 1));
}
