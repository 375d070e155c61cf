//! criu-rpc
