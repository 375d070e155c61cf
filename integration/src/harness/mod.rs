//! What the tests stand on: a private thawd, images, logs, and the removal of all of it.

pub(crate) mod arena;
pub(crate) mod cgroups;
pub(crate) mod containers;
pub(crate) mod daemon;
pub(crate) mod forge;
pub(crate) mod kubelet;
pub(crate) mod load;
pub(crate) mod log;
pub(crate) mod needs;
pub(crate) mod unified;
pub(crate) mod wait;
