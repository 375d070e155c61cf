//! Waiting for many descriptors at once (epoll(7)), level-triggered.
//!
//! Each descriptor is registered with a number of the caller's choice, its *token*; events carry it
//! back. Registrations end with their descriptor's last copy, so a token must not be reused while
//! events of the same [`Epoll::wait`] are still being handled.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::event::{Timespec, epoll};

/// What to be told about. Errors and hang-ups are always told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Data or end of file to read, a connection to accept.
    Readable,
    /// Room to write.
    Writable,
    /// Both.
    Both,
    /// A change that a file of the kernel's announces (`EPOLLPRI`), such as `memory.events` of a cgroup.
    /// It stays until the file is read through this descriptor.
    Change,
}

impl Interest {
    fn flags(self) -> epoll::EventFlags {
        match self {
            Self::Readable => epoll::EventFlags::IN,
            Self::Writable => epoll::EventFlags::OUT,
            Self::Both => epoll::EventFlags::IN | epoll::EventFlags::OUT,
            Self::Change => epoll::EventFlags::PRI,
        }
    }
}

/// One ready descriptor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Event {
    /// The number it was registered with.
    pub token: u64,
    /// A read would not block: there is data, an end of file, or an error to fetch.
    pub readable: bool,
    /// A write would not block.
    pub writable: bool,
    /// The other side is gone (`EPOLLHUP`) or the descriptor failed (`EPOLLERR`).
    pub hung_up: bool,
}

/// A set of descriptors that are waited for together.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    ///
    /// What epoll_create1(2) returns.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(epoll::CreateFlags::CLOEXEC)?,
        })
    }

    /// Registers a descriptor.
    ///
    /// # Errors
    ///
    /// `EEXIST` when it is registered, `EPERM` for a regular file (which is always ready).
    pub fn add(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::add(
            &self.fd,
            fd,
            epoll::EventData::new_u64(token),
            interest.flags(),
        )?)
    }

    /// Changes what a registered descriptor is waited for.
    ///
    /// # Errors
    ///
    /// `ENOENT` when it is not registered.
    pub fn modify(&self, fd: impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        Ok(epoll::modify(
            &self.fd,
            fd,
            epoll::EventData::new_u64(token),
            interest.flags(),
        )?)
    }

    /// Takes a descriptor out.
    ///
    /// # Errors
    ///
    /// `ENOENT` when it is not registered.
    pub fn delete(&self, fd: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, fd)?)
    }

    /// Waits for at least one event, at most for `limit` (`None`: as long as it takes), and gives up
    /// to 16 of them; none when the time passed or a signal came.
    ///
    /// # Errors
    ///
    /// What epoll_pwait2(2) returns except `EINTR`.
    pub fn wait(&self, limit: Option<Duration>) -> io::Result<Vec<Event>> {
        let limit = limit.map(|limit| Timespec::try_from(limit).unwrap_or(LONGEST));
        let mut ready = [epoll::Event {
            flags: epoll::EventFlags::empty(),
            data: epoll::EventData::new_u64(0),
        }; 16];
        let count = match epoll::wait(&self.fd, &mut ready, limit.as_ref()) {
            Ok(count) => count,
            Err(rustix::io::Errno::INTR) => 0,
            Err(error) => return Err(error.into()),
        };
        Ok(ready
            .iter()
            .take(count)
            .map(|event| {
                let (flags, data) = (event.flags, event.data);
                let hung_up = flags.intersects(epoll::EventFlags::HUP | epoll::EventFlags::ERR);
                Event {
                    token: data.u64(),
                    readable: flags.contains(epoll::EventFlags::IN) || hung_up,
                    writable: flags.contains(epoll::EventFlags::OUT),
                    hung_up,
                }
            })
            .collect())
    }
}

/// Stands for any limit beyond what a timespec holds.
const LONGEST: Timespec = Timespec {
    tv_sec: i64::MAX,
    tv_nsec: 0,
};

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_what_is_ready() {
        let epoll = Epoll::new().unwrap();
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        epoll.add(&reader, 7, Interest::Readable).unwrap();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), []);

        rustix::io::write(&writer, b"x").unwrap();
        let readable = Event {
            token: 7,
            readable: true,
            writable: false,
            hung_up: false,
        };
        assert_eq!(epoll.wait(None).unwrap(), [readable]);

        drop(writer);
        rustix::io::read(&reader, &mut [0_u8; 8]).unwrap();
        assert_eq!(
            epoll.wait(None).unwrap(),
            [Event {
                hung_up: true,
                ..readable
            }]
        );

        epoll.delete(&reader).unwrap();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), []);
    }

    #[test]
    fn interest_can_be_changed() {
        let epoll = Epoll::new().unwrap();
        let (_reader, writer) = rustix::pipe::pipe().unwrap();
        epoll.add(&writer, 1, Interest::Readable).unwrap();
        assert_eq!(epoll.wait(Some(Duration::ZERO)).unwrap(), []);
        epoll.modify(&writer, 1, Interest::Both).unwrap();
        let events = epoll.wait(None).unwrap();
        assert_eq!(
            events,
            [Event {
                token: 1,
                readable: false,
                writable: true,
                hung_up: false
            }]
        );
    }
}
