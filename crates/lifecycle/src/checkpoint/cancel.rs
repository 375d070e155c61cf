//! Ending a checkpoint early: by its caller, its deadline, or a stop of the container.

use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;

/// Why a checkpoint was ended early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The caller went away.
    Caller,
    /// Its time is up.
    Deadline,
    /// The container is being stopped, or the daemon ends.
    Stop,
}

impl Reason {
    /// What the caller is told.
    pub(crate) fn error(self, container: &str) -> Error {
        let tail = "it runs on and no archive was written";
        match self {
            Self::Caller => Error::Cancelled(format!(
                "the caller of the checkpoint of {container} went away; {tail}"
            )),
            Self::Deadline => Error::Deadline(format!(
                "the checkpoint of {container} was not finished in time; {tail}"
            )),
            Self::Stop => Error::Cancelled(format!(
                "the checkpoint of {container} was given up because the container is being stopped"
            )),
        }
    }
}

#[derive(Default)]
struct Inner {
    reason: Option<Reason>,
    hooks: Vec<Box<dyn FnOnce() + Send>>,
}

/// A switch that can be thrown once, from anywhere.
#[derive(Clone, Default)]
pub(crate) struct Cancel(Arc<Mutex<Inner>>);

impl std::fmt::Debug for Cancel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Cancel").field(&self.reason()).finish()
    }
}

impl Cancel {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Ends the checkpoint because the container is needed otherwise.
    pub(crate) fn cancel(&self) {
        self.cancel_because(Reason::Stop);
    }

    /// Ends the checkpoint; only the first reason counts.
    pub(crate) fn cancel_because(&self, reason: Reason) {
        let hooks = {
            let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if inner.reason.is_some() {
                return;
            }
            inner.reason = Some(reason);
            std::mem::take(&mut inner.hooks)
        };
        for hook in hooks {
            hook();
        }
    }

    /// Why it was ended, if it was.
    pub(crate) fn reason(&self) -> Option<Reason> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).reason
    }

    /// Runs `hook` when the switch is thrown, at once if it was.
    pub(crate) fn on_cancel(&self, hook: impl FnOnce() + Send + 'static) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.reason.is_none() {
            inner.hooks.push(Box::new(hook));
            return;
        }
        drop(inner);
        hook();
    }
}

/// Throws the switch when it is dropped: the caller's future is gone.
#[derive(Debug)]
pub(crate) struct CancelOnDrop(Option<Cancel>);

impl CancelOnDrop {
    pub(crate) fn new(cancel: Cancel) -> Self {
        Self(Some(cancel))
    }

    /// The answer arrived.
    pub(crate) fn disarm(mut self) {
        self.0 = None;
    }
}

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        if let Some(cancel) = self.0.take() {
            cancel.cancel_because(Reason::Caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn hooks_run_once_and_the_first_reason_counts() {
        let (cancel, count) = (Cancel::new(), Arc::new(AtomicU32::new(0)));
        let add = |count: &Arc<AtomicU32>| {
            let count = Arc::clone(count);
            move || {
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        cancel.on_cancel(add(&count));
        cancel.cancel_because(Reason::Deadline);
        cancel.cancel();
        cancel.on_cancel(add(&count));
        assert_eq!(count.load(Ordering::SeqCst), 2);
        assert_eq!(cancel.reason(), Some(Reason::Deadline));
    }

    #[test]
    fn dropping_the_caller_s_guard_cancels_unless_disarmed() {
        let cancel = Cancel::new();
        CancelOnDrop::new(cancel.clone()).disarm();
        assert_eq!(cancel.reason(), None);
        drop(CancelOnDrop::new(cancel.clone()));
        assert_eq!(cancel.reason(), Some(Reason::Caller));
    }
}
