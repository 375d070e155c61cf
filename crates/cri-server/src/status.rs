//! Errors to gRPC codes: the one place that decides.

use std::io;

use tonic::{Code, Status};

use crate::convert::check::Invalid;

/// Longest message. It travels in a header, percent-encoded, and clients limit those.
const MESSAGE_BYTES: usize = 8 * 1024;

impl From<Invalid> for Status {
    fn from(error: Invalid) -> Self {
        status(Code::InvalidArgument, error.to_string())
    }
}

/// The status of a lifecycle error.
pub(crate) fn lifecycle(error: &lifecycle::Error) -> Status {
    use lifecycle::Error;
    let code = match error {
        Error::NotFound { .. } => Code::NotFound,
        Error::AlreadyExists { .. } => Code::AlreadyExists,
        Error::Invalid { .. } => Code::InvalidArgument,
        Error::Precondition(_) => Code::FailedPrecondition,
        Error::Busy(_) => Code::Aborted,
        Error::Denied(_) => Code::PermissionDenied,
        Error::Exhausted(_) => Code::ResourceExhausted,
        Error::Deadline(_) => Code::DeadlineExceeded,
        Error::Cancelled(_) => Code::Cancelled,
        Error::ShuttingDown => Code::Unavailable,
        // `Failed`, and what this crate does not know yet.
        _ => Code::Internal,
    };
    status(code, lifecycle::error::chain(error))
}

/// The status of an image store error.
pub(crate) fn images(error: &images::Error) -> Status {
    use images::Error;
    let code = match error {
        Error::NotPresent { .. } | Error::NoRootfs { .. } => Code::NotFound,
        Error::Reference { .. }
        | Error::Malformed { .. }
        | Error::DigestMismatch { .. }
        | Error::Limit { .. } => Code::InvalidArgument,
        Error::Platform { .. } => Code::FailedPrecondition,
        Error::Io { source, .. } if is_out_of_space(source) => Code::ResourceExhausted,
        // `Io`, `Read`, `Records`, `Record`, `Worker`, and what this crate does not know yet.
        _ => Code::Internal,
    };
    status(code, lifecycle::error::chain(error))
}

/// The status of an RPC that is part of the interface but not of thawd.
pub(crate) fn unimplemented(rpc: &str) -> Status {
    status(
        Code::Unimplemented,
        format!("thawd does not implement {rpc} yet"),
    )
}

fn is_out_of_space(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

fn status(code: Code, mut message: String) -> Status {
    if message.len() > MESSAGE_BYTES {
        let starts = message.char_indices().map(|(start, _)| start);
        let end = starts
            .take_while(|start| *start <= MESSAGE_BYTES)
            .last()
            .unwrap_or(0);
        message.truncate(end);
        message.push_str(" (cut)");
    }
    Status::new(code, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every variant that there is, by its name; a new one must be given a code above.
    fn every_lifecycle_error() -> Vec<(lifecycle::Error, Code)> {
        use lifecycle::Error;
        let text = || "text".to_owned();
        vec![
            (
                Error::NotFound {
                    kind: "container",
                    id: text(),
                },
                Code::NotFound,
            ),
            (Error::AlreadyExists { what: text() }, Code::AlreadyExists),
            (Error::invalid("field", "problem"), Code::InvalidArgument),
            (Error::Precondition(text()), Code::FailedPrecondition),
            (Error::Busy(text()), Code::Aborted),
            (Error::Denied(text()), Code::PermissionDenied),
            (Error::Exhausted(text()), Code::ResourceExhausted),
            (Error::Deadline(text()), Code::DeadlineExceeded),
            (Error::Cancelled(text()), Code::Cancelled),
            (Error::ShuttingDown, Code::Unavailable),
            (
                Error::failed("context", io::Error::other("cause")),
                Code::Internal,
            ),
        ]
    }

    #[test]
    fn every_lifecycle_error_has_its_code() {
        for (error, code) in every_lifecycle_error() {
            assert_eq!(lifecycle(&error).code(), code, "{error:?}");
        }
    }

    #[test]
    fn a_status_tells_the_whole_chain() {
        let cause = io::Error::new(io::ErrorKind::PermissionDenied, "dump refused");
        let inner = lifecycle::Error::failed("run criu", cause);
        let status = lifecycle(&lifecycle::Error::failed("checkpoint c1", inner));
        assert_eq!(status.message(), "checkpoint c1: run criu: dump refused");
    }

    #[test]
    fn image_errors_have_their_codes() {
        use images::Error;
        let io = |kind: io::ErrorKind| Error::Io {
            action: "write",
            path: "/x".into(),
            source: kind.into(),
        };
        let cases = [
            (
                Error::NotPresent {
                    reference: "a".into(),
                },
                Code::NotFound,
            ),
            (
                Error::Reference {
                    reference: "A".into(),
                    problem: "p",
                },
                Code::InvalidArgument,
            ),
            (
                Error::Malformed {
                    entry: "e".into(),
                    problem: "p".into(),
                },
                Code::InvalidArgument,
            ),
            (
                Error::DigestMismatch {
                    entry: "e".into(),
                    expected: "x".into(),
                    actual: "y".into(),
                },
                Code::InvalidArgument,
            ),
            (
                Error::Limit {
                    entry: "e".into(),
                    what: "entries",
                    limit: 1,
                },
                Code::InvalidArgument,
            ),
            (
                Error::Platform {
                    wanted: "linux/amd64".into(),
                    found: "linux/arm".into(),
                },
                Code::FailedPrecondition,
            ),
            (io(io::ErrorKind::StorageFull), Code::ResourceExhausted),
            (io(io::ErrorKind::QuotaExceeded), Code::ResourceExhausted),
            (io(io::ErrorKind::PermissionDenied), Code::Internal),
            (
                Error::Read(io::ErrorKind::BrokenPipe.into()),
                Code::Internal,
            ),
        ];
        for (error, code) in cases {
            assert_eq!(images(&error).code(), code, "{error:?}");
        }
    }

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let status = lifecycle(&lifecycle::Error::Busy("é".repeat(MESSAGE_BYTES)));
        assert!(status.message().len() <= MESSAGE_BYTES + " (cut)".len());
        assert!(status.message().ends_with("é (cut)"));
    }
}
