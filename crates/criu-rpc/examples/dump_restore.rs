//! Dumps a process that counts, kills it, restores it, and shows that it counts on.
//!
//! Usage, as root: `cargo run -p criu-rpc --example dump_restore [CRIU]`

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use criu_rpc::{CancelToken, Criu, DumpOptions, InheritFd, NotifyReply, RestoreOptions};
use sys::process::{Command, Deadline, Stdio};

#[expect(clippy::print_stdout, reason = "an example shows what it does")]
fn main() -> Result<(), Box<dyn Error>> {
    let binary = std::env::args_os()
        .nth(1)
        .unwrap_or_else(|| "/opt/thawd/criu/bin/criu".into());
    let criu = Criu::new(binary);
    let deadline = Deadline::after(Duration::from_secs(60));
    println!("criu {}", criu.version(deadline)?);

    // A shell that counts the lines it reads. Its pipes' other ends stay open here.
    let (input, mut ask) = std::io::pipe()?;
    let (answers, output) = std::io::pipe()?;
    let (input, output) = (OwnedFd::from(input), OwnedFd::from(output));
    let mut answers = BufReader::new(answers).lines();
    let mut count = || -> Result<String, Box<dyn Error>> {
        ask.write_all(b"\n")?;
        Ok(answers.next().ok_or("the counter is gone")??)
    };
    let mut counter = Command::new("/bin/sh")
        .args(["-c", "n=0; while read x; do n=$((n+1)); echo $n; done"])
        .cwd("/")
        .stdin(Stdio::Fd(input.try_clone()?))
        .stdout(Stdio::Fd(output.try_clone()?))
        .new_session()
        .spawn()?;
    println!("counts {}, {}, {}", count()?, count()?, count()?);

    let dir = std::env::temp_dir().join(format!("criu-example-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let images = File::open(&dir)?;
    let cancel = CancelToken::new()?;
    let dump = DumpOptions::new(counter.pid(), images.as_fd(), images.as_fd());
    let report = criu.dump(&dump, deadline, &cancel, &mut |stage| {
        println!("  dump: {stage}");
        Ok(NotifyReply::Continue)
    })?;
    counter.wait(None)?;
    println!(
        "dumped and killed in {:?}, frozen {:?}",
        report.elapsed, report.frozen
    );

    let restore = RestoreOptions {
        inherit_fds: vec![pipe(&input)?, pipe(&output)?],
        rst_sibling: true,
        ..RestoreOptions::new(images.as_fd(), images.as_fd())
    };
    let restored = criu.restore(&restore, deadline, &cancel, &mut |stage| {
        println!("  restore: {stage}");
        Ok(NotifyReply::Continue)
    })?;
    println!("restored in {:?}", restored.elapsed);
    println!("counts {}, {}, {}", count()?, count()?, count()?);

    std::fs::remove_dir_all(&dir)?;
    // With its input's end the counter ends, and as a sibling it is ours to reap.
    drop(ask);
    let pid = i32::try_from(restored.pid)
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    rustix::process::waitpid(pid, rustix::process::WaitOptions::empty())?;
    Ok(())
}

/// The key under which CRIU knows a pipe that is not its to restore.
fn pipe(end: &OwnedFd) -> Result<InheritFd<'_>, Box<dyn Error>> {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", end.as_raw_fd()))?;
    let fd: BorrowedFd<'_> = end.as_fd();
    Ok(InheritFd {
        key: link.to_string_lossy().into_owned(),
        fd,
    })
}
