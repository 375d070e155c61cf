//! Pipes that CRIU waits at when the daemon is gone. A thread plays CRIU.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};

use monitor::{PipeWatch, page_image};

use crate::support::{PATIENCE, monitor};

/// Opens a page image as CRIU does, writes to it, and tells how that went.
fn write(directory: &Path, number: u32) -> Receiver<io::Result<()>> {
    let path = directory.join(page_image(number));
    let (tell, told) = channel();
    std::thread::spawn(move || {
        let open = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(path);
        let written = open.and_then(|mut file: File| {
            // The first bytes may still find the reader that let it in.
            for _ in 0..1000 {
                file.write_all(&[0; 4096])?;
            }
            Ok(())
        });
        tell.send(written).unwrap();
    });
    told
}

#[test]
fn who_waits_for_a_daemon_that_is_gone_is_let_in_and_fails() {
    let directory = tempfile::tempdir().unwrap();
    let fd = sys::fs::open_dir(directory.path()).unwrap();
    for number in 1..=3 {
        sys::pipe::fifo(&fd, &page_image(number), 0o600).unwrap();
    }
    let watch = PipeWatch::start(monitor(), &fd, 4).unwrap();
    let waiting = write(directory.path(), 2);
    assert!(waiting.recv_timeout(PATIENCE / 200).is_err(), "it waits");
    drop(watch);
    let error = waiting.recv_timeout(PATIENCE).unwrap().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    for number in 1..=3 {
        let late = write(directory.path(), number);
        let error = late.recv_timeout(PATIENCE).unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::IsADirectory);
    }
}

#[test]
fn nothing_happens_to_the_pipes_once_criu_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let fd = sys::fs::open_dir(directory.path()).unwrap();
    sys::pipe::fifo(&fd, &page_image(1), 0o600).unwrap();
    PipeWatch::start(monitor(), &fd, 1).unwrap().done();
    sys::pipe::open_reader(&fd, &page_image(1)).unwrap();
}
