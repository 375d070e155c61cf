//! Times and time spans of the interface.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tonic::metadata::MetadataMap;

use super::check::{Checked, invalid};

/// Longest time that a checkpoint may be given.
const CHECKPOINT: Duration = Duration::from_secs(24 * 60 * 60);
/// What longer grace periods and time limits are cut to: nobody waits for more, and it can be
/// added to any clock.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Nanoseconds since 1970; 0 for times before.
pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// A time span in seconds.
pub(crate) fn seconds(field: &str, value: i64) -> Checked<Duration> {
    match u64::try_from(value) {
        Ok(seconds) => Ok(Duration::from_secs(seconds).min(YEAR)),
        Err(_) => Err(invalid(field, format!("{value} is negative"))),
    }
}

/// A time limit in seconds; 0 is none.
pub(crate) fn limit(field: &str, value: i64) -> Checked<Option<Duration>> {
    Ok(Some(seconds(field, value)?).filter(|limit| !limit.is_zero()))
}

/// The time limit of a checkpoint.
pub(crate) fn checkpoint_limit(field: &str, value: i64) -> Checked<Option<Duration>> {
    let limit = limit(field, value)?;
    if limit.is_some_and(|limit| limit > CHECKPOINT) {
        let most = CHECKPOINT.as_secs();
        return Err(invalid(
            field,
            format!("{value} exceeds the limit of {most} s (a day)"),
        ));
    }
    Ok(limit)
}

/// How long the caller of an RPC will wait, from the header `grpc-timeout` (gRPC over HTTP/2,
/// "Requests": up to eight digits and a unit).
///
/// It is shortened a little, so that an answer made at the deadline still reaches the caller with
/// its reason.
pub(crate) fn rpc_deadline(metadata: &MetadataMap) -> Checked<Option<Duration>> {
    let Some(header) = metadata.get("grpc-timeout") else {
        return Ok(None);
    };
    let bad = || invalid("grpc-timeout", format!("{header:?} is no timeout"));
    let text = header.to_str().map_err(|_| bad())?;
    let (digits, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(bad)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(bad());
    }
    let count: u64 = digits.parse().map_err(|_| bad())?;
    let limit = match unit {
        "H" => Duration::from_secs(count * 60 * 60),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return Err(bad()),
    };
    let margin = (limit / 10).min(Duration::from_secs(1));
    Ok(Some(limit.saturating_sub(margin).min(YEAR)))
}
