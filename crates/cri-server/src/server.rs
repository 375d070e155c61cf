//! The socket and what is served on it.

use std::future::Future;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lifecycle::node::Node;
use tokio::net::{UnixListener, UnixSocket, UnixStream};
use tokio::sync::oneshot;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::image_service::ImageService;
use crate::layer::LogLayer;
use crate::runtime_service::RuntimeService;
use crate::v1;

/// Largest message either way, as in the kubelet's own client.
const MESSAGE_BYTES: usize = 16 << 20;
/// Most calls at once on one connection; the kubelet has one connection for all of its pods.
const STREAMS: u32 = 1024;
/// Connections that may wait to be accepted.
const BACKLOG: u32 = 128;
/// Owner and group may connect; the group is root's unless the operator changes it.
const SOCKET_MODE: u32 = 0o660;
/// How long calls that are under way may go on once the server was told to stop.
const DRAIN: Duration = Duration::from_secs(5);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket's path is taken.
    #[error("{} is in use by {by}", path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// By what.
        by: &'static str,
    },
    /// The socket could not be made.
    #[error("{action} the socket {}", path.display())]
    Socket {
        /// What was being done.
        action: &'static str,
        /// Its path.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The transport failed.
    #[error("serve gRPC")]
    Transport(#[source] tonic::transport::Error),
}

/// A listening socket in the filesystem; its file is removed on drop.
#[derive(Debug)]
struct Listener {
    listener: UnixListener,
    file: SocketFile,
}

#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Best effort: the next daemon takes a dead socket's place anyway.
        drop(std::fs::remove_file(&self.0));
    }
}

impl Listener {
    /// Listens at `path`, in the place of a socket that nobody listens at any more.
    async fn bind(path: &Path) -> Result<Self, Error> {
        let failed = |action: &'static str| {
            let path = path.to_owned();
            move |source| Error::Socket {
                action,
                path,
                source,
            }
        };
        remove_dead(path).await?;
        let socket = UnixSocket::new_stream().map_err(failed("make"))?;
        socket.bind(path).map_err(failed("bind"))?;
        let file = SocketFile(path.to_owned());
        // Nobody can connect before listen(2), so the file's first mode does not matter.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(SOCKET_MODE))
            .map_err(failed("set the mode of"))?;
        let listener = socket.listen(BACKLOG).map_err(failed("listen at"))?;
        Ok(Self { listener, file })
    }
}

/// Removes a socket that was left by a daemon that is gone.
async fn remove_dead(path: &Path) -> Result<(), Error> {
    let in_use = |by| {
        Err(Error::InUse {
            path: path.to_owned(),
            by,
        })
    };
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return in_use("something that is not a socket");
        }
        _ => {}
    }
    match UnixStream::connect(path).await {
        Ok(_) => in_use("another process that listens there"),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(|source| Error::Socket {
                action: "remove the dead",
                path: path.to_owned(),
                source,
            })
        }
        Err(source) => Err(Error::Socket {
            action: "look at",
            path: path.to_owned(),
            source,
        }),
    }
}

/// Serves both services at `socket` until `stop` is ready; then refuses new calls and gives those
/// under way five seconds. The directory of the socket must exist.
///
/// # Errors
///
/// [`Error::InUse`] when somebody listens there already or the path is something else than a
/// socket; [`Error::Socket`] when the kernel refuses, for instance a path of more than 107 bytes;
/// [`Error::Transport`] when accepting connections fails for good.
pub async fn serve(
    node: Node,
    socket: &Path,
    stop: impl Future<Output = ()> + Send,
) -> Result<(), Error> {
    let Listener { listener, file } = Listener::bind(socket).await?;
    let runtime =
        v1::runtime_service_server::RuntimeServiceServer::new(RuntimeService::new(node.clone()));
    let images = v1::image_service_server::ImageServiceServer::new(ImageService::new(node));
    let (tell, told) = oneshot::channel::<()>();
    let mut serving = std::pin::pin!(
        Server::builder()
            .max_concurrent_streams(STREAMS)
            .layer(LogLayer)
            .add_service(
                runtime
                    .max_decoding_message_size(MESSAGE_BYTES)
                    .max_encoding_message_size(MESSAGE_BYTES),
            )
            .add_service(
                images
                    .max_decoding_message_size(MESSAGE_BYTES)
                    .max_encoding_message_size(MESSAGE_BYTES),
            )
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
                // An error means that the sender is gone, which is as good as being told.
                drop(told.await);
            })
    );
    tokio::select! {
        outcome = &mut serving => return outcome.map_err(Error::Transport),
        () = stop => drop(tell),
    }
    // Before the drain, so that clients find no socket at which nobody answers.
    drop(file);
    tokio::time::timeout(DRAIN, serving)
        .await
        .unwrap_or(Ok(()))
        .map_err(Error::Transport)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_is_for_owner_and_group_and_goes_with_its_listener() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("t.sock");
        let listener = Listener::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o660);
        drop(listener);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("t.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _live = Listener::bind(&path).await.unwrap();
        let error = Listener::bind(&path).await.unwrap_err();
        let Error::InUse { by, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(*by, "another process that listens there");
    }

    #[tokio::test]
    async fn a_file_in_the_way_is_left_alone() {
        let temp = tempfile::tempdir().unwrap();
        let error = Listener::bind(temp.path()).await.unwrap_err();
        assert!(matches!(error, Error::InUse { .. }), "{error:?}");
        assert!(temp.path().is_dir());
    }

    #[tokio::test]
    async fn a_path_too_long_for_a_socket_is_an_error() {
        let temp = tempfile::tempdir().unwrap();
        let error = Listener::bind(&temp.path().join("x".repeat(120)))
            .await
            .unwrap_err();
        assert!(
            matches!(error, Error::Socket { action: "bind", .. }),
            "{error:?}"
        );
    }
}
