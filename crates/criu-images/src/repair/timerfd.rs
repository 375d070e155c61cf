//! Periodic timers with an unread expiry.
//!
//! CRIU writes the time until the next expiry of a timerfd as the kernel shows it. The kernel shows
//! 0 for a periodic timer whose expiry nobody has read yet, and setting 0 disarms: the restored
//! timer would never fire again. One nanosecond in its place makes it fire at once and go on.

use super::splice::Fields;
use super::{RepairError, entries, join};

const FILES_MAGIC: u32 = 0x5630_3138;
/// `file_entry.tfd`.
const TIMERFD: u32 = 12;
/// Fields of `timerfd_entry`.
const TICKS: u32 = 5;
const VALUE_SECONDS: u32 = 7;
const VALUE_NANOSECONDS: u32 = 8;
const INTERVAL_SECONDS: u32 = 9;
const INTERVAL_NANOSECONDS: u32 = 10;

/// Repairs `files.img`. Returns the image and how many timers were repaired.
///
/// # Errors
///
/// [`RepairError::Malformed`] when it is not a `files.img`.
pub fn rearm_timers(files: &[u8]) -> Result<(Vec<u8>, usize), RepairError> {
    let (header, old) = entries(files, FILES_MAGIC)?;
    let mut repaired = 0;
    let mut new = Vec::with_capacity(old.len());
    for entry in old {
        let mut file = Fields::read(entry)?;
        let mut timer = match file.bytes(TIMERFD) {
            Some(bytes) => Fields::read(bytes)?,
            None => {
                new.push(entry.to_vec());
                continue;
            }
        };
        let zero = |number| timer.number(number).unwrap_or(0) == 0;
        let periodic = !(zero(INTERVAL_SECONDS) && zero(INTERVAL_NANOSECONDS));
        let expired = !zero(TICKS) && zero(VALUE_SECONDS) && zero(VALUE_NANOSECONDS);
        if periodic && expired {
            timer.set_number(VALUE_NANOSECONDS, 1);
            file.set_bytes(TIMERFD, &timer.write());
            repaired += 1;
        }
        new.push(file.write());
    }
    Ok((join(header, &new)?, repaired))
}
