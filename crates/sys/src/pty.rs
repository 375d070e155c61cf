//! Terminals: receiving the master side from an OCI runtime, and sizing it.
//!
//! An OCI runtime opens the pseudo-terminal inside the container and sends its master to the unix stream
//! socket named by `--console-socket`, as `SCM_RIGHTS` of one message whose text is the terminal's name
//! (runc `docs/terminals.md`).

use std::ffi::OsStr;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use rustix::termios::Winsize;

/// A socket on which one terminal is awaited.
///
/// ```text
///  bind NAME beneath a directory ──▶ runtime connects ──▶ accept ──▶ recvmsg: name + 1 descriptor
/// ```
///
/// Dropping it removes the name.
#[derive(Debug)]
pub struct ConsoleSocket {
    listener: OwnedFd,
    directory: OwnedFd,
    name: String,
}

impl ConsoleSocket {
    /// Listens on `name` in `directory`; a socket left there by an earlier run is removed first.
    ///
    /// # Errors
    ///
    /// What socket(2), bind(2) and listen(2) return; `EADDRINUSE` when `name` exists and is no socket.
    pub fn listen(directory: impl AsFd, name: &str) -> io::Result<Self> {
        let directory = rustix::io::fcntl_dupfd_cloexec(directory.as_fd(), 3)?;
        remove_socket(directory.as_fd(), name)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        // A socket address holds 108 bytes; through the descriptor any directory's name fits.
        let path = format!("/proc/self/fd/{}/{name}", directory.as_raw_fd());
        rustix::net::bind(&listener, &SocketAddrUnix::new(path)?)?;
        rustix::net::listen(&listener, 1)?;
        Ok(Self {
            listener,
            directory,
            name: name.to_owned(),
        })
    }

    /// A path of at most 108 bytes under which other processes of this pid namespace and user can
    /// connect as long as this process lives.
    #[must_use]
    pub fn short_path(&self) -> PathBuf {
        let (pid, fd) = (std::process::id(), self.directory.as_raw_fd());
        PathBuf::from(format!("/proc/{pid}/fd/{fd}/{}", self.name))
    }

    /// Waits for the runtime to connect and send the terminal, at most for `limit`, and gives the
    /// terminal's master, close-on-exec and non-blocking.
    ///
    /// # Errors
    ///
    /// `TimedOut`; `InvalidData` when the message holds no descriptor or one that is no terminal; what
    /// accept(2) and recvmsg(2) return.
    pub fn receive(&self, limit: Duration) -> io::Result<OwnedFd> {
        wait_readable(self.listener.as_fd(), limit)?;
        let peer = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC)?;
        wait_readable(peer.as_fd(), limit)?;
        let master = receive_descriptor(peer.as_fd())?;
        if !rustix::termios::isatty(&master) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the runtime sent a descriptor that is no terminal",
            ));
        }
        rustix::io::ioctl_fionbio(&master, true)?;
        Ok(master)
    }
}

impl Drop for ConsoleSocket {
    fn drop(&mut self) {
        // Nothing can be done about a name that cannot be removed; its directory goes later.
        drop(remove_socket(self.directory.as_fd(), &self.name));
    }
}

impl AsFd for ConsoleSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}

/// Sets the size of a terminal in characters; its foreground processes get `SIGWINCH`.
///
/// # Errors
///
/// `ENOTTY` when it is no terminal.
pub fn set_size(terminal: impl AsFd, columns: u16, rows: u16) -> io::Result<()> {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    Ok(rustix::termios::tcsetwinsize(terminal, size)?)
}

fn remove_socket(directory: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    use rustix::fs::{AtFlags, FileType};
    if name.is_empty() || name.contains('/') || OsStr::new(name) == ".." {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a plain file name",
        ));
    }
    match rustix::fs::statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Socket => {
            Ok(rustix::fs::unlinkat(directory, name, AtFlags::empty())?)
        }
        Ok(_) | Err(rustix::io::Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn wait_readable(fd: BorrowedFd<'_>, limit: Duration) -> io::Result<()> {
    if crate::socket::poll_readable(fd, Some(limit))? {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::TimedOut,
        "no terminal came from the runtime",
    ))
}

fn receive_descriptor(peer: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut name = [0_u8; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::net::recvmsg(
        peer,
        &mut [IoSliceMut::new(&mut name)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut received = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            received.extend(fds);
        }
    }
    let count = received.len();
    let mut received = received.into_iter();
    match (received.next(), received.next()) {
        (Some(master), None) => Ok(master),
        _ => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the runtime sent {count} descriptors where one terminal was expected"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
    use rustix::pty::OpenptFlags;

    fn directory() -> (PathBuf, OwnedFd) {
        // A name beyond what a socket address can hold.
        let path = std::env::temp_dir().join(format!(
            "{:0<120}",
            format!(
                "pty{}-{:?}",
                std::process::id(),
                std::thread::current().id()
            )
        ));
        std::fs::create_dir_all(&path).unwrap();
        let fd = rustix::fs::open(
            &path,
            rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC,
            rustix::fs::Mode::empty(),
        )
        .unwrap();
        (path, fd)
    }

    fn send(path: PathBuf, fds: &[BorrowedFd<'_>]) {
        let peer = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
        rustix::net::connect(&peer, &SocketAddrUnix::new(path).unwrap()).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        let text = [io::IoSlice::new(b"/dev/pts/0")];
        rustix::net::sendmsg(&peer, &text, &mut control, SendFlags::empty()).unwrap();
    }

    #[test]
    fn a_terminal_sent_by_a_runtime_is_received_and_the_name_removed() {
        let (path, fd) = directory();
        let console = ConsoleSocket::listen(&fd, "console.sock").unwrap();
        let sent = rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        send(console.short_path(), &[sent.as_fd()]);
        let master = console.receive(Duration::from_secs(5)).unwrap();
        set_size(&master, 101, 37).unwrap();
        let size = rustix::termios::tcgetwinsize(&sent).unwrap();
        assert_eq!((size.ws_col, size.ws_row), (101, 37));
        drop(console);
        assert!(!path.join("console.sock").exists());
        std::fs::remove_dir(path).unwrap();
    }

    #[test]
    fn anything_else_than_one_terminal_is_refused() {
        let (path, fd) = directory();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        for sent in [
            &[][..],
            &[reader.as_fd()],
            &[reader.as_fd(), writer.as_fd()],
        ] {
            let console = ConsoleSocket::listen(&fd, "console.sock").unwrap();
            send(console.short_path(), sent);
            let error = console.receive(Duration::from_secs(5)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
        let console = ConsoleSocket::listen(&fd, "console.sock").unwrap();
        let error = console.receive(Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        drop(console);
        std::fs::remove_dir(path).unwrap();
    }
}
