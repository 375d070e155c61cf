//! End-to-end tests of thawd, and the programs that they checkpoint.
//!
//! Everything outside thawd is real: runc or crun, CRIU, CNI plugins, the kernel. Each test has a
//! thawd of its own with its own root, run directory and cgroup parent, inside a network and mount
//! namespace that ends with the test program, so that a run leaves nothing behind on the host.

pub mod workloads;
