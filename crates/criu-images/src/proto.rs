//! The generated message types. Strings are byte vectors (`build.rs` says why).

mod generated {
    #![expect(unreachable_pub, reason = "generated from proto/criu/images")]

    include!(concat!(env!("OUT_DIR"), "/criu.images.rs"));
}

pub(crate) use generated::*;

impl MntEntry {
    /// The file system, `None` for a number that no version of CRIU writes.
    pub(crate) fn filesystem(&self) -> Option<Fstype> {
        i32::try_from(self.fstype)
            .ok()
            .and_then(|number| Fstype::try_from(number).ok())
    }
}
