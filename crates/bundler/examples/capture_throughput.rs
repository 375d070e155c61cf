//! Measures how fast memory goes from named pipes into an archive.
//!
//! `capture_throughput DIRECTORY MIB [direct|buffered] [split]`: a thread plays CRIU and splices MIB MiB of
//! a memory file into `pages-1.img` (with `split`: a quarter of it, then the rest into
//! `pages-2.img`, which is expected to be the largest). No byte is copied on its side. Prints the
//! time until everything is in the file, until it is digested and laid out, and until it is
//! published.
#![expect(clippy::print_stdout, reason = "the figures are its output")]
#![expect(clippy::unwrap_used, reason = "a measurement that fails panics")]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bundler::{ArchiveWriter, CaptureOptions, Manifest, Sink};
use rustix::fs::{Mode, OFlags};
use rustix::pipe::SpliceFlags;
use sys::process::Deadline;

fn play_criu(memory: &File, images: &Path, parts: &[u64]) -> Duration {
    let begin = Instant::now();
    let mut at = 0;
    for (index, length) in parts.iter().enumerate() {
        let path = images.join(format!("pages-{}.img", index + 1));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let pipe: OwnedFd = rustix::fs::open(&path, flags, Mode::RUSR).unwrap();
        let end = at + length;
        while at < end {
            let most = usize::try_from(end - at).unwrap().min(1 << 20);
            let moved =
                rustix::pipe::splice(memory, Some(&mut at), &pipe, None, most, SpliceFlags::MOVE);
            assert!(moved.unwrap() > 0);
        }
    }
    begin.elapsed()
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [directory, mebibytes, options @ ..] = arguments.as_slice() else {
        println!("usage: capture_throughput DIRECTORY MIB [direct|buffered] [split]");
        return;
    };
    let bytes = mebibytes.parse::<u64>().unwrap() << 20;
    let has = |option: &str| options.iter().any(|given| given == option);
    let parts = if has("split") {
        vec![bytes / 4, bytes - bytes / 4]
    } else {
        vec![bytes]
    };

    let memory = sys::pipe::memfd("memory").unwrap();
    let block: Vec<u8> = (0_u32..1 << 18)
        .flat_map(|at| at.wrapping_mul(2_654_435_761).to_le_bytes())
        .collect();
    for at in (0..bytes).step_by(1 << 20) {
        memory.write_all_at(&block, at).unwrap();
    }
    let images = sys::mount::tmpfs(None, 0o700).unwrap();
    let images_path = {
        use std::os::fd::AsRawFd as _;
        PathBuf::from(format!("/proc/self/fd/{}", images.as_raw_fd()))
    };
    let location = Path::new(directory).join("throughput.tar");
    let writer = ArchiveWriter::create(&location).unwrap();
    let options = CaptureOptions {
        max_files: 8,
        expected: &parts,
        sink: match (has("direct"), has("buffered")) {
            (true, _) => Sink::Direct,
            (_, true) => Sink::Buffered,
            _ => Sink::Adaptive,
        },
        protection_expected: has("parked"),
    };
    let begin = Instant::now();
    let mut capture = writer.capture_pages(&images, &options).unwrap();
    capture.protect();
    let criu = std::thread::scope(|scope| {
        scope
            .spawn(|| play_criu(&memory, &images_path, &parts))
            .join()
            .unwrap()
    });
    let drained = capture
        .drained(Deadline::after(Duration::from_secs(600)))
        .unwrap();
    let in_file = begin.elapsed();
    let (writer, entries) = capture.finish().unwrap();
    let digested = begin.elapsed();
    let complete = writer.finish(Manifest::default()).unwrap();
    complete.sync().unwrap().publish().unwrap();
    let published = begin.elapsed();
    let speed = |time: Duration| drained.bytes as f64 / time.as_secs_f64() / 1e9;
    println!(
        "{} MiB in {} images, first at {}: writer {:?}; in the file {:?} ({:.2} GB/s); digested \
         {:?} ({:.2} GB/s); published {:?} ({:.2} GB/s)",
        drained.bytes >> 20,
        drained.files,
        entries.first().map_or(0, |entry| entry.offset),
        criu,
        in_file,
        speed(in_file),
        digested,
        speed(digested),
        published,
        speed(published),
    );
    std::fs::remove_file(&location).unwrap();
}
