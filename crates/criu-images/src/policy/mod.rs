//! The check of images against the request, made before CRIU sees them.
//!
//! CRIU believes its images: credentials, filters, mounts and paths in them come true, with root's
//! rights. An archive comes from a stranger, so each is held against what the request grants.
//! The rules are in the modules below, one subject each; all of them run, and all violations are
//! reported together.
//!
//! What cannot be seen in images is left to the caller, who has the file systems: every path in
//! [`Summary::paths`] must be reached without symbolic links in the container's root before CRIU
//! runs, for CRIU follows them.

mod credentials;
mod files;
mod fsnotify;
mod guards;
mod memory;
mod mount_options;
mod mounts;
mod namespaces;
mod paths;
mod request;
mod shape;
mod sockets;
mod summary;
mod tasks;
mod threads;

#[cfg(test)]
mod tests;

pub(crate) use memory::{PAGE, PE_PRESENT, pages_of};
pub use paths::{FilePath, PathUse};
pub use request::{
    Credentials, ExpectedMount, Filesystem, Label, MountOrigin, Namespace, Namespaces, PartRoot,
    Presence, Propagation, Request, Restrictions,
};
pub use summary::Summary;

use crate::load::{self, Strictness};
use crate::model::Images;
use crate::seccomp;
use crate::source::ImageSource;
use crate::violation::{Report, Violation};

/// Everything a rule may look at.
struct Context<'a> {
    images: &'a Images,
    request: &'a Request,
}

/// Holds the images of `source` against `request`.
///
/// Run it on exactly the files that CRIU will read, after edits of [`crate::repair`] except the
/// one for in-place restore, and keep them where nobody else can write.
///
/// # Errors
///
/// Everything that is wrong, at most [`crate::Limits::max_violations`]: more rights than the
/// request grants ([`crate::ViolationKind::Privilege`]), images that are not what CRIU writes
/// ([`crate::ViolationKind::Malformed`]), or could not be read.
pub fn check(source: &dyn ImageSource, request: &Request) -> Result<Summary, Vec<Violation>> {
    let mut report = Report::new(request.limits.max_violations);
    let images = load::load(source, &request.limits, Strictness::Strict, &mut report);
    if report.is_clean() {
        run(
            &Context {
                images: &images,
                request,
            },
            &mut report,
        );
    }
    if report.is_clean() {
        Ok(Summary::new(&images))
    } else {
        Err(report.into_violations())
    }
}

fn run(context: &Context<'_>, report: &mut Report) {
    let rules: [fn(&Context<'_>, &mut Report); 8] = [
        tasks::check,
        namespaces::check,
        threads::check,
        seccomp_rule,
        mounts::check,
        files::check,
        sockets::check,
        memory::check,
    ];
    for rule in rules {
        if report.is_full() {
            return;
        }
        rule(context, report);
    }
}

fn seccomp_rule(context: &Context<'_>, report: &mut Report) {
    seccomp::check(context.images, context.request, report);
}
