//! The container's output: pipes or a terminal, read as they become readable.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::pipe::PipeFlags;
use sys::epoll::{Epoll, Interest};

use crate::cri_log::{Log, Stream};

/// What is read at once: half of a pipe's usual capacity.
const CHUNK_BYTES: usize = 32 * 1024;

/// What is kept of the runtime's own words when it fails.
const TAIL_BYTES: usize = 4096;

/// Our ends of the container's standard output and error.
#[derive(Debug, Default)]
pub(crate) struct Outputs {
    stdout: Option<File>,
    stderr: Option<File>,
    buffer: Vec<u8>,
}

/// The container's ends.
#[derive(Debug)]
pub(crate) struct ContainerEnds {
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

impl Outputs {
    /// Two pipes. Reading them never waits; writing to them does, as a container expects.
    pub(crate) fn pipes() -> io::Result<(Self, ContainerEnds)> {
        let (out_reader, out_writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (err_reader, err_writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        for reader in [&out_reader, &err_reader] {
            // The flag belongs to this end's open file; the writers' is another one.
            rustix::io::ioctl_fionbio(reader, true)?;
        }
        let outputs = Self {
            stdout: Some(out_reader.into()),
            stderr: Some(err_reader.into()),
            buffer: Vec::new(),
        };
        Ok((
            outputs,
            ContainerEnds {
                stdout: out_writer,
                stderr: err_writer,
            },
        ))
    }

    /// Replaces the pipes by a terminal's master: the pipes carried the runtime's own words only.
    pub(crate) fn use_terminal(&mut self, master: OwnedFd) {
        self.stdout = Some(master.into());
        self.stderr = None;
    }

    /// Has readable streams reported under these tokens.
    pub(crate) fn register(&self, epoll: &Epoll, stdout: u64, stderr: u64) -> io::Result<()> {
        for (file, token) in [(&self.stdout, stdout), (&self.stderr, stderr)] {
            if let Some(file) = file {
                epoll.add(file, token, Interest::Readable)?;
            }
        }
        Ok(())
    }

    /// Logs one chunk of a stream; at its end, also its unfinished line. Whether there was a chunk.
    pub(crate) fn pump(&mut self, stream: Stream, log: &mut Log) -> bool {
        let slot = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        let Some(file) = slot else { return false };
        self.buffer.resize(CHUNK_BYTES, 0);
        match file.read(&mut self.buffer) {
            Ok(count) if count > 0 => {
                log.append(stream, self.buffer.get(..count).unwrap_or_default());
                true
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            // The end. A terminal says so with EIO, once no process has it open; what other errors
            // there may be end the stream as well, for nothing more will come from it.
            Ok(_) | Err(_) => {
                *slot = None;
                log.finish(stream);
                false
            }
        }
    }

    /// Logs what is there, without waiting, also the beginning of a line.
    pub(crate) fn flush(&mut self, log: &mut Log) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            // Bounded: a writer that does not stop must not keep us here.
            for _ in 0..64 {
                if !self.pump(stream, log) {
                    break;
                }
            }
            log.finish(stream);
        }
    }

    /// Logs what is there, without waiting, and ends both streams. For when somebody who was left
    /// behind by the container holds them.
    pub(crate) fn close(&mut self, log: &mut Log) {
        self.flush(log);
        self.stdout = None;
        self.stderr = None;
    }

    /// Both streams have ended.
    pub(crate) fn ended(&self) -> bool {
        self.stdout.is_none() && self.stderr.is_none()
    }

    /// The end of what the runtime itself wrote to standard error.
    pub(crate) fn runtime_words(&mut self) -> String {
        let mut words = Vec::new();
        if let Some(file) = &mut self.stderr {
            // Ends with an error, for lack of more, when a child of the runtime holds the pipe.
            drop(file.take(64 * 1024).read_to_end(&mut words));
        }
        oci_runtime::log::tail(&words, TAIL_BYTES)
    }
}
