//! End-to-end tests of thawd, and the programs that they checkpoint.
//!
//! Everything outside thawd is real: runc or crun, CRIU, CNI plugins, the kernel. Each test has a
//! thawd of its own with its own root, run directory and cgroup parent, inside a network and mount
//! namespace that ends with the test program, so that a run leaves nothing behind on the host.
//!
//! ```text
//!  tests/e2e.rs ─▶ run() ─▶ unshare ─▶ harness: thawd, pods, containers, logs
//!                                 └──▶ tests: one function each, by name
//!  bin/workload ─▶ workloads: what runs inside the containers and can prove it survived
//!  bin/cri-call ─▶ cri: the calls of the demonstration, from a shell
//! ```

#[path = "../bench/mod.rs"]
mod bench;
pub mod cri;
mod harness;
mod tests;
pub mod workloads;

pub use bench::main as bench;
pub use tests::run;
