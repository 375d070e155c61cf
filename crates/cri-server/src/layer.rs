//! One span and one log line for each RPC.
//!
//! The span carries the ids that the RPC is about; handlers record them with [`about`]. What is
//! polled every second is logged at debug level unless it fails.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tonic::codegen::Service;
use tonic::{Code, Status};
use tower::Layer;
use tracing::{Instrument as _, Level, Span, field};

/// Adds [`Logged`] to a service.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LogLayer;

impl<S> Layer<S> for LogLayer {
    type Service = Logged<S>;

    fn layer(&self, inner: S) -> Logged<S> {
        Logged { inner }
    }
}

/// A service that logs every call of the inner one.
#[derive(Debug, Clone)]
pub(crate) struct Logged<S> {
    inner: S,
}

impl<S, Req, Res> Service<http::Request<Req>> for Logged<S>
where
    S: Service<http::Request<Req>, Response = http::Response<Res>>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Req>) -> Self::Future {
        let path = request.uri().path();
        let rpc = path
            .rsplit_once('/')
            .map_or(path, |(_, rpc)| rpc)
            .to_owned();
        let span = tracing::info_span!(
            "rpc",
            rpc,
            sandbox = field::Empty,
            container = field::Empty,
            image = field::Empty
        );
        let answer = span.in_scope(|| self.inner.call(request));
        let mut log = Log {
            rpc,
            begun: Instant::now(),
            done: false,
        };
        let logged = async move {
            let answer = answer.await;
            if let Ok(response) = &answer {
                // Only errors have their status this early; a success ends with trailers.
                log.finish(Status::from_header_map(response.headers()));
            }
            answer
        };
        Box::pin(logged.instrument(span))
    }
}

/// Logs when the call ends, also when nobody waits for it any more.
#[derive(Debug)]
struct Log {
    rpc: String,
    begun: Instant,
    done: bool,
}

impl Log {
    fn finish(&mut self, status: Option<Status>) {
        self.done = true;
        let rpc = self.rpc.as_str();
        let milliseconds = self.milliseconds();
        let Some(status) = status.filter(|status| status.code() != Code::Ok) else {
            if is_polled(rpc) {
                tracing::debug!(milliseconds, "{rpc} answered");
            } else {
                tracing::info!(milliseconds, "{rpc} answered");
            }
            return;
        };
        let (code, error) = (status.code(), status.message());
        match level(code) {
            Level::ERROR => tracing::error!(milliseconds, ?code, error, "{rpc} failed"),
            Level::WARN => tracing::warn!(milliseconds, ?code, error, "{rpc} refused"),
            _ => tracing::info!(milliseconds, ?code, error, "{rpc} refused"),
        }
    }

    fn milliseconds(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        if !self.done {
            let milliseconds = self.milliseconds();
            tracing::info!(milliseconds, "{} abandoned: its caller went away", self.rpc);
        }
    }
}

/// Fields of the span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum About {
    Sandbox,
    Container,
    Image,
}

/// Notes in the current span what the RPC is about.
pub(crate) fn about(what: About, id: &str) {
    let field = match what {
        About::Sandbox => "sandbox",
        About::Container => "container",
        About::Image => "image",
    };
    Span::current().record(field, id);
}

/// What a kubelet asks for all the time.
fn is_polled(rpc: &str) -> bool {
    rpc.starts_with("List")
        || rpc.ends_with("Status")
        || matches!(rpc, "Version" | "ImageFsInfo" | "RuntimeConfig")
}

fn level(code: Code) -> Level {
    match code {
        Code::Internal | Code::Unknown | Code::DataLoss => Level::ERROR,
        // A kubelet asks for what it has just removed, and tries what may not be there.
        Code::NotFound | Code::Unimplemented | Code::Cancelled => Level::INFO,
        _ => Level::WARN,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_polled_is_quiet_and_what_changes_something_is_not() {
        for rpc in [
            "ListContainers",
            "ContainerStatus",
            "Status",
            "Version",
            "ImageFsInfo",
        ] {
            assert!(is_polled(rpc), "{rpc}");
        }
        for rpc in [
            "RunPodSandbox",
            "CheckpointContainer",
            "ExecSync",
            "UpdateRuntimeConfig",
        ] {
            assert!(!is_polled(rpc), "{rpc}");
        }
    }

    #[test]
    fn only_faults_of_the_node_are_errors() {
        assert_eq!(level(Code::Internal), Level::ERROR);
        assert_eq!(level(Code::NotFound), Level::INFO);
        for code in [
            Code::InvalidArgument,
            Code::FailedPrecondition,
            Code::PermissionDenied,
        ] {
            assert_eq!(level(code), Level::WARN);
        }
    }
}
