//! Named pipes that CRIU may wait at for a daemon that is gone; see `monitor::PipeWatch`.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use monitor::{PIPES_DIRECTORY, page_image};
use rustix::fs::{AtFlags, Mode};
use sys::signal::{self, SignalFd};

/// `pipes COUNT`, with the channel as standard input and the directory as descriptor 3.
pub(crate) fn run(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let count = args.next().and_then(|word| word.to_str()?.parse().ok());
    let inherited = sys::process::take_inherited().unwrap_or_default();
    let directory = inherited
        .into_iter()
        .find_map(|(number, fd)| (number == PIPES_DIRECTORY).then_some(fd));
    let (Some(count), Some(directory)) = (count, directory) else {
        return ExitCode::from(2);
    };
    // What ends the daemon must not end this one before it.
    let signals = SignalFd::block(&[signal::TERM, signal::INT, signal::HUP]);
    let stdin = io::stdin();
    let packet = sys::socket::recv(stdin.as_fd(), 16);
    if !packet.is_ok_and(|packet| !packet.is_end()) {
        end(&directory, count);
    }
    drop(signals);
    ExitCode::SUCCESS
}

/// Lets everybody in who waits, and takes the names.
fn end(directory: &OwnedFd, count: u32) {
    let mut readers = Vec::new();
    for number in 1..=count {
        let name = page_image(number);
        // Each may be gone, or something else by now: then nobody waits at it.
        if let Ok(reader) = sys::pipe::open_reader(directory, &name) {
            readers.push(reader);
            rustix::fs::unlinkat(directory, &*name, AtFlags::empty()).unwrap_or_default();
            rustix::fs::mkdirat(directory, &*name, Mode::RWXU).unwrap_or_default();
        }
    }
    // Only now do those that came in meanwhile find the pipes broken.
    drop(readers);
}
