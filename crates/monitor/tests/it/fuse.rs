//! A file of FUSE, which is told each time that a descriptor table lets go of it (fuse(4), `FUSE_FLUSH`;
//! messages and numbers as in `<linux/fuse.h>`).

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Request numbers.
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const FLUSH: u32 = 25;
const INIT: u32 = 26;
const BATCH_FORGET: u32 = 42;

/// Bytes of a request before its own part.
const HEADER: usize = 40;

/// The mounted file. It takes what is written and forgets it.
pub(crate) struct FuseFile {
    path: PathBuf,
    flushes: Arc<AtomicU32>,
    server: Option<JoinHandle<()>>,
}

impl FuseFile {
    /// Mounts it over a new file in `directory`.
    pub(crate) fn mount(directory: &Path) -> Self {
        let path = directory.join("fuse");
        File::create_new(&path).unwrap();
        let device = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/fuse")
            .unwrap();
        let options = format!(
            "fd={},rootmode=100644,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let options = std::ffi::CString::new(options).unwrap();
        let flags = MountFlags::NOSUID | MountFlags::NODEV;
        mount("fuse", &path, "fuse", flags, options.as_c_str()).unwrap();
        let flushes = Arc::new(AtomicU32::new(0));
        let counter = Arc::clone(&flushes);
        Self {
            path,
            flushes,
            server: Some(std::thread::spawn(move || serve(device, &counter))),
        }
    }

    pub(crate) fn open(&self) -> File {
        OpenOptions::new().write(true).open(&self.path).unwrap()
    }

    pub(crate) fn flushes(&self) -> u32 {
        self.flushes.load(Ordering::SeqCst)
    }
}

impl Drop for FuseFile {
    fn drop(&mut self) {
        unmount(&self.path, UnmountFlags::DETACH).unwrap();
        self.server.take().unwrap().join().unwrap();
    }
}

/// Answers requests until the file is not mounted any more.
fn serve(mut device: File, flushes: &AtomicU32) {
    let mut buffer = vec![0; 256 << 10];
    while let Ok(length) = device.read(&mut buffer) {
        let request = &buffer[..length];
        let number = |at: usize| u32::from_le_bytes(request[at..at + 4].try_into().unwrap());
        let opcode = number(4);
        let answer = match opcode {
            FORGET | BATCH_FORGET => continue,
            INIT => words(&[7, 31, 0, 0, 0, 64 << 10, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            GETATTR => {
                // Valid for no time; inode 1, a file of mode 0644 with one link.
                let mut answer = words(&[0; 26]);
                answer[16] = 1;
                answer[76..80].copy_from_slice(&0o100_644_u32.to_le_bytes());
                answer[80] = 1;
                answer
            }
            // Without a cache of its content.
            OPEN => words(&[0, 0, 1, 0]),
            WRITE => words(&[number(HEADER + 16), 0]),
            RELEASE => Vec::new(),
            FLUSH => {
                flushes.fetch_add(1, Ordering::SeqCst);
                Vec::new()
            }
            _ => {
                reply(
                    &mut device,
                    request,
                    -rustix::io::Errno::NOSYS.raw_os_error(),
                    &[],
                );
                continue;
            }
        };
        reply(&mut device, request, 0, &answer);
    }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn reply(device: &mut File, request: &[u8], error: i32, answer: &[u8]) {
    let length = u32::try_from(16 + answer.len()).unwrap();
    let mut message = length.to_le_bytes().to_vec();
    message.extend(error.to_le_bytes());
    message.extend(&request[8..16]);
    message.extend(answer);
    // The request may have been given up meanwhile.
    drop(device.write_all(&message));
}
