//! Pipes, unix sockets and POSIX semaphores.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use rustix::fs::{CWD, FileType, Mode};

use super::raw::Semaphore;
use super::{PEER, Workload};

/// Messages that wait unread at any time.
const BACKLOG: u64 = 100;

/// Messages are read in the order they were written, with a backlog in between.
struct Queue {
    unread: VecDeque<u64>,
}

impl Queue {
    /// Fills the backlog through `write`.
    fn filled(mut write: impl FnMut(&[u8; 8]) -> Result<()>) -> Result<Self> {
        let unread: VecDeque<u64> = (u64::MAX - BACKLOG..u64::MAX).collect();
        for message in &unread {
            write(&message.to_le_bytes())?;
        }
        Ok(Self { unread })
    }

    fn turn(
        &mut self,
        message: u64,
        write: impl FnOnce(&[u8; 8]) -> Result<()>,
        read: impl FnOnce(&mut [u8; 8]) -> Result<()>,
    ) -> Result<()> {
        write(&message.to_le_bytes())?;
        self.unread.push_back(message);
        let mut found = [0; 8];
        read(&mut found)?;
        let found = u64::from_le_bytes(found);
        let wanted = self.unread.pop_front().context("empty backlog")?;
        ensure!(found == wanted, "read {found}, not {wanted}");
        Ok(())
    }
}

/// A pipe and a named pipe, both with unread data.
pub(super) struct Pipes {
    anonymous: (PipeReader, PipeWriter, Queue),
    named: (File, Queue),
}

impl Pipes {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let (reader, mut writer) = std::io::pipe()?;
        let queue = Queue::filled(|bytes| Ok(writer.write_all(bytes)?))?;
        let path = Path::new("/workload.fifo");
        rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .context("/workload.fifo")?;
        let mut fifo = OpenOptions::new().read(true).write(true).open(path)?;
        let named = Queue::filled(|bytes| Ok(fifo.write_all(bytes)?))?;
        Ok(Box::new(Self {
            anonymous: (reader, writer, queue),
            named: (fifo, named),
        }))
    }
}

impl Workload for Pipes {
    fn step(&mut self, count: u64) -> Result<String> {
        let (reader, writer, queue) = &mut self.anonymous;
        queue
            .turn(
                count,
                |bytes| Ok(writer.write_all(bytes)?),
                |bytes| Ok(reader.read_exact(bytes)?),
            )
            .context("pipe")?;
        let (fifo, queue) = &mut self.named;
        let (mut write, mut read) = (&*fifo, &*fifo);
        queue
            .turn(
                count,
                |bytes| Ok(write.write_all(bytes)?),
                |bytes| Ok(read.read_exact(bytes)?),
            )
            .context("named pipe")?;
        Ok(String::new())
    }
}

/// A stream pair and a datagram pair with unread data, and a listener with a connected client.
pub(super) struct UnixSockets {
    stream: (UnixStream, UnixStream, Queue),
    datagram: (UnixDatagram, UnixDatagram, Queue),
    connected: (UnixStream, UnixStream, Queue),
    listener: UnixListener,
}

/// Where the listener is bound.
const SOCKET: &str = "/workload.sock";

impl UnixSockets {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let (mut near, far) = UnixStream::pair()?;
        far.set_read_timeout(Some(PEER))?;
        let queue = Queue::filled(|bytes| Ok(near.write_all(bytes)?))?;
        let (source, sink) = UnixDatagram::pair()?;
        sink.set_read_timeout(Some(PEER))?;
        // A datagram queue holds net.unix.max_dgram_qlen messages only, often ten.
        let datagram = Queue {
            unread: VecDeque::from([7]),
        };
        source.send(&7_u64.to_le_bytes())?;
        let listener = UnixListener::bind(SOCKET).context(SOCKET)?;
        let mut client = UnixStream::connect(SOCKET)?;
        let (server, _) = listener.accept()?;
        let connected = Queue::filled(|bytes| Ok(client.write_all(bytes)?))?;
        Ok(Box::new(Self {
            stream: (near, far, queue),
            datagram: (source, sink, datagram),
            connected: (client, server, connected),
            listener,
        }))
    }
}

impl Workload for UnixSockets {
    fn step(&mut self, count: u64) -> Result<String> {
        for ((write, read, queue), name) in [
            (&mut self.stream, "stream pair"),
            (&mut self.connected, "connection"),
        ] {
            queue
                .turn(
                    count,
                    |bytes| Ok(write.write_all(bytes)?),
                    |bytes| Ok(read.read_exact(bytes)?),
                )
                .context(name)?;
        }
        let (source, sink, queue) = &mut self.datagram;
        queue
            .turn(
                count,
                |bytes| Ok(source.send(bytes).map(drop)?),
                |bytes| {
                    let length = sink.recv(bytes)?;
                    ensure!(length == bytes.len(), "datagram of {length} bytes");
                    Ok(())
                },
            )
            .context("datagram pair")?;
        let _client = UnixStream::connect(SOCKET).context("a new connection")?;
        self.listener.accept().context("accept")?;
        Ok(String::new())
    }
}

/// A named semaphore, by its mapping and by its name.
pub(super) struct NamedSemaphore {
    semaphore: Semaphore,
}

impl NamedSemaphore {
    pub(super) fn setup(_: &str) -> Result<Box<dyn Workload>> {
        let semaphore = Semaphore::open("/thawd-workload", 3)?;
        ensure!(
            semaphore.value()? == 3,
            "a new semaphore has value {}",
            semaphore.value()?
        );
        semaphore.try_wait()?;
        Ok(Box::new(Self { semaphore }))
    }
}

impl Workload for NamedSemaphore {
    fn step(&mut self, _: u64) -> Result<String> {
        ensure!(
            self.semaphore.value()? == 2,
            "value is {}, not 2",
            self.semaphore.value()?
        );
        self.semaphore.try_wait()?;
        // The C library hands out one mapping for one inode: a second name lookup that finds
        // another file would be another semaphore, of value 3.
        let named = Semaphore::open("/thawd-workload", 3)?;
        ensure!(
            named.value()? == 1,
            "by name the value is {}, not 1",
            named.value()?
        );
        named.post()?;
        Ok(String::new())
    }
}
