//! A description as text for a terminal.
//!
//! Everything in it comes from a stranger's archive: control characters are written as escapes.

use std::fmt::{self, Display, Formatter, Write as _};

use super::{Description, Process, ProcessState, Socket, SocketKind};

/// Longest command line that is shown whole.
const MAX_COMMAND: usize = 160;
/// Deepest level of the process tree that is still indented.
const MAX_DEPTH: usize = 40;

impl Display for Description {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.overview(f)?;
        writeln!(f, "\nProcesses ({})", self.processes.len())?;
        self.tree(f)?;
        if !self.sockets.is_empty() {
            writeln!(f, "\nSockets ({})", self.sockets.len())?;
            for socket in &self.sockets {
                line(f, socket)?;
            }
        }
        writeln!(f, "\nMounts ({})", self.mounts.len())?;
        for mount in &self.mounts {
            write!(
                f,
                "  {:<28} {:<9} {}",
                clean(&mount.mountpoint),
                clean(&mount.filesystem),
                mount.flags.join(",")
            )?;
            if let Some(key) = mount
                .external_key
                .as_ref()
                .filter(|key| **key != mount.mountpoint)
            {
                write!(f, " key {}", clean(key))?;
            }
            writeln!(f)?;
        }
        if !self.problems.is_empty() {
            writeln!(f, "\nNot readable")?;
            for problem in &self.problems {
                writeln!(f, "  {}", clean(problem))?;
            }
        }
        Ok(())
    }
}

impl Description {
    fn overview(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if let Some(hostname) = &self.hostname {
            writeln!(f, "Host name     {}", clean(hostname))?;
        }
        if let Some(machine) = &self.machine {
            writeln!(f, "Machine       {}", clean(machine))?;
        }
        let memory = &self.memory;
        writeln!(
            f,
            "Memory        {} private, {} shared",
            size(memory.private_bytes),
            size(memory.shared_bytes)
        )?;
        writeln!(
            f,
            "Images        {} pages, {} other",
            size(memory.page_image_bytes),
            size(memory.other_image_bytes)
        )?;
        if let Some(dump) = &self.dump {
            writeln!(
                f,
                "Frozen        {:.1} ms (after {:.1} ms of freezing), {} pages written",
                dump.frozen.as_secs_f64() * 1e3,
                dump.freezing.as_secs_f64() * 1e3,
                dump.pages_written
            )?;
        }
        let files: Vec<String> = self
            .files
            .iter()
            .map(|(kind, count)| format!("{count} {kind}"))
            .collect();
        writeln!(f, "Open files    {}", files.join(", "))?;
        if self.deleted_files > 0 {
            writeln!(
                f,
                "Deleted files {} with {}",
                self.deleted_files,
                size(self.deleted_bytes)
            )?;
        }
        if self.file_locks > 0 {
            writeln!(f, "File locks    {}", self.file_locks)?;
        }
        if self.tcp_close {
            writeln!(
                f,
                "TCP           established connections are closed in the copy"
            )?;
        }
        Ok(())
    }

    /// Children below parents. Parents come first in the list, so that one pass has their depths.
    fn tree(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut order: Vec<(usize, &Process)> = Vec::with_capacity(self.processes.len());
        for process in &self.processes {
            let parent = order
                .iter()
                .position(|(_, other)| other.pid == process.ppid);
            let Some(parent) = parent else {
                order.push((0, process));
                continue;
            };
            let depth = order.get(parent).map_or(0, |(depth, _)| depth + 1);
            let below = order
                .iter()
                .skip(parent + 1)
                .take_while(|(other, _)| *other >= depth)
                .count();
            order.insert(parent + 1 + below, (depth, process));
        }
        for (depth, process) in order {
            let indent = "  ".repeat(depth.min(MAX_DEPTH));
            write!(f, "  {indent}{} {}", process.pid, command(process))?;
            let mut notes = Vec::new();
            if process.state != ProcessState::Alive {
                notes.push(format!("{:?}", process.state).to_lowercase());
            }
            if process.threads > 1 {
                notes.push(format!("{} threads", process.threads));
            }
            if process.descriptors > 0 {
                notes.push(format!("{} descriptors", process.descriptors));
            }
            if process.memory_bytes > 0 {
                notes.push(size(process.memory_bytes));
            }
            if let Some(uid) = process.uid.filter(|uid| *uid != 0) {
                notes.push(format!("uid {uid}"));
            }
            if notes.is_empty() {
                writeln!(f)?;
            } else {
                writeln!(f, "  ({})", notes.join(", "))?;
            }
        }
        Ok(())
    }
}

fn command(process: &Process) -> String {
    if process.command_line.is_empty() {
        return format!("[{}]", clean(&process.name));
    }
    let words: Vec<String> = process
        .command_line
        .iter()
        .map(|word| quote(word))
        .collect();
    let line = words.join(" ");
    if line.chars().count() <= MAX_COMMAND {
        return line;
    }
    line.chars()
        .take(MAX_COMMAND)
        .chain("...".chars())
        .collect()
}

/// A word as one would type it, roughly.
fn quote(word: &str) -> String {
    let plain = !word.is_empty()
        && word
            .chars()
            .all(|c| c.is_alphanumeric() || "-_./:=@%+,".contains(c));
    if plain {
        word.to_owned()
    } else {
        format!("'{}'", clean(word))
    }
}

fn line(f: &mut Formatter<'_>, socket: &Socket) -> fmt::Result {
    let kind = match socket.kind {
        SocketKind::Tcp => "tcp",
        SocketKind::Udp => "udp",
        SocketKind::Raw => "raw",
        SocketKind::UnixStream => "unix",
        SocketKind::UnixDatagram => "unix-dgram",
        SocketKind::Netlink => "netlink",
        SocketKind::Packet => "packet",
    };
    let local = if socket.local.is_empty() {
        "-".into()
    } else {
        clean(&socket.local)
    };
    write!(f, "  {kind:<10} {:<11} {local}", socket.state)?;
    if let Some(remote) = &socket.remote {
        write!(f, " -> {}", clean(remote))?;
    }
    for (at, (pid, fd)) in socket.owners.iter().enumerate() {
        write!(f, "{}{pid}/{fd}", if at == 0 { "  pid/fd " } else { ", " })?;
    }
    writeln!(f)
}

/// Text without control characters.
fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() || is_direction(c) {
            // Writing to a string does not fail.
            if write!(out, "{}", c.escape_unicode()).is_err() {
                break;
            }
        } else {
            out.push(c);
        }
    }
    out
}

/// Characters that turn the direction of the text around them.
fn is_direction(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A size in the largest unit that leaves at least one.
fn size(bytes: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    for (shift, unit) in units {
        let whole = bytes >> shift;
        if whole > 0 {
            let tenths = (bytes >> (shift - 10) & 1023) * 10 / 1024;
            return format!("{whole}.{tenths} {unit}");
        }
    }
    format!("{bytes} B")
}
