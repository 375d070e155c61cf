//! Labels of security modules in an archive: what they mean on this node, and what becomes of them.
//!
//! Debian and others ship AppArmor profiles without rules for `runc`, `crun`, `busybox` and many
//! more: a container has the name of its runtime's, and an exec changes it, so that two tasks of one
//! container can differ. CRIU writes the names down. A name that confines nothing here, or is not
//! known here, says nothing about the container; the restored task has what a new container of the
//! request would have. One that confines stays, and is held against the request.
//!
//! That a task which the request confines is under its profile follows from the images: CRIU gives
//! each thread the label of its image, and fails when the kernel refuses it.

use std::collections::BTreeMap;

use criu_images::policy::Label;
use criu_images::repair::{self, Relabel, RepairError};

use crate::apparmor::Labels;

/// The labels of one restore.
#[derive(Debug)]
pub(super) struct Relabelling<'a> {
    granted: &'a Label,
    here: Labels,
    /// How many threads lost which label, or had none.
    replaced: BTreeMap<Option<Vec<u8>>, usize>,
}

impl<'a> Relabelling<'a> {
    pub(super) fn new(granted: &'a Label, here: Labels) -> Self {
        Self {
            granted,
            here,
            replaced: BTreeMap::new(),
        }
    }

    /// The changed image, or as it was when CRIU does not look at its labels.
    fn with(
        &self,
        image: &[u8],
        change: impl FnOnce(Relabel<'_>) -> Result<Vec<u8>, RepairError>,
    ) -> Result<Vec<u8>, RepairError> {
        let Label::Exactly(granted) = self.granted else {
            return Ok(image.to_vec());
        };
        let granted = granted.as_deref();
        let held = |label: &[u8]| {
            let same = granted.is_some_and(|granted| self.here.is_no_more_than(label, granted));
            !same && self.here.held(label)
        };
        change(Relabel {
            granted,
            held: &held,
        })
    }

    /// A `core-ID.img`.
    pub(super) fn core(&mut self, image: &[u8]) -> Result<Vec<u8>, RepairError> {
        let mut gone = Vec::new();
        let image = self.with(image, |relabel| {
            let relabelled = repair::relabel_core(image, relabel)?;
            gone = relabelled.replaced;
            Ok(relabelled.image)
        })?;
        for label in gone {
            *self.replaced.entry(label).or_default() += 1;
        }
        Ok(image)
    }

    /// An `fdinfo-ID.img`.
    pub(super) fn files(&self, image: &[u8]) -> Result<Vec<u8>, RepairError> {
        self.with(image, |relabel| repair::relabel_files(image, relabel))
    }

    /// Tells what was replaced, once for each label.
    pub(super) fn report(&self, container: &str) {
        let Label::Exactly(granted) = self.granted else {
            return;
        };
        let granted = granted.as_deref().unwrap_or("none");
        for (label, threads) in &self.replaced {
            let label = label
                .as_deref()
                .map_or("none".into(), String::from_utf8_lossy);
            tracing::info!(container, %label, threads, granted,
                "a security label of the checkpoint confines nothing on this node: \
                 the container has the request's");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = "crun (unconfined)\nmine (enforce)\nyours (enforce)\n";

    fn granted(label: Option<&str>) -> Label {
        Label::Exactly(label.map(str::to_owned))
    }

    /// A real image of one thread, with this label.
    fn core(label: Option<&str>) -> Vec<u8> {
        let path = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../criu-images/tests/fixtures/python/core-1.img"
        );
        let label = granted(label);
        let mut relabelling = Relabelling::new(&label, Labels::of(""));
        relabelling.core(&std::fs::read(path).unwrap()).unwrap()
    }

    #[test]
    fn a_task_has_what_a_new_container_of_the_request_would_have() {
        for (old, asked, new) in [
            (Some("crun"), None, None),
            (Some("crun"), Some("mine"), Some("mine")),
            (Some("elsewhere"), None, None),
            (Some("elsewhere"), Some("mine"), Some("mine")),
            (None, Some("mine"), Some("mine")),
            (None, None, None),
            (Some("mine"), Some("mine"), Some("mine")),
            // The kernel stacks on what confines nothing; the profile is all there is to it.
            (Some("mine//&unconfined"), Some("mine"), Some("mine")),
            // These confine here, so they are left for the check to refuse.
            (Some("mine"), None, Some("mine")),
            (Some("yours"), Some("mine"), Some("yours")),
            (Some("mine//&yours"), Some("mine"), Some("mine//&yours")),
        ] {
            let label = granted(asked);
            let mut relabelling = Relabelling::new(&label, Labels::of(LIST));
            let image = relabelling.core(&core(old)).unwrap();
            assert_eq!(image, core(new), "{old:?} {asked:?}");
            let told = (old != new).then(|| old.map(|label| label.as_bytes().to_vec()));
            let told: Vec<_> = told.into_iter().map(|label| (label, 1)).collect();
            let replaced: Vec<_> = relabelling.replaced.into_iter().collect();
            assert_eq!(replaced, told, "{old:?} {asked:?}");
        }
    }

    #[test]
    fn labels_that_criu_overrides_are_left_alone() {
        let mut relabelling = Relabelling::new(&Label::Overridden, Labels::of(LIST));
        let image = core(Some("crun"));
        assert_eq!(relabelling.core(&image).unwrap(), image);
    }
}
