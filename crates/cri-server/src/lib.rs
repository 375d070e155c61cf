//! The Container Runtime Interface over a Unix socket: gRPC messages end here.
//!
//! ```text
//!  kubelet, crictl ──▶ server.rs ──▶ layer.rs ──▶ runtime_service/<rpc>.rs ──▶ lifecycle::Node
//!                      socket        span, log    image_service/<rpc>.rs   ──▶ images::ImageStore
//!                                                    │            ▲
//!                                              convert/*    status.rs
//!                                       request ─▶ domain   error ─▶ gRPC code
//! ```
//!
//! # Invariants
//!
//! - The messages of [`v1`] go no further down than this crate.
//! - A request is converted and checked in full before anything is done; what cannot be taken is
//!   `INVALID_ARGUMENT` and names the field.
//! - A handler changes nothing itself and may be dropped at any `.await`.
//! - Every RPC is logged once, here, with the ids it is about; an error with its whole chain.
//!
//! [`v1`] also holds the generated clients, for tests and for `thaw`.

mod convert;
mod image_service;
mod layer;
mod runtime_service;
mod server;
mod status;

pub use server::{Error, serve};

/// The interface's messages, clients and services, generated from `proto/cri/v1/api.proto`.
pub mod v1 {
    #![expect(
        missing_docs,
        clippy::all,
        clippy::allow_attributes,
        clippy::allow_attributes_without_reason,
        clippy::missing_errors_doc,
        clippy::too_many_lines,
        reason = "generated: what needs saying is said in the .proto file"
    )]

    tonic::include_proto!("runtime.v1");

    /// Shows whom the credentials are for, never what they are.
    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("username", &self.username)
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}
