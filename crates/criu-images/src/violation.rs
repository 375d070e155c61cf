//! What is wrong with a set of images, said so that the caller can answer with the right code.

use std::fmt;

use serde::{Deserialize, Serialize};

/// How a violation is to be answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ViolationKind {
    /// The images ask for more than the request grants.
    Privilege,
    /// The images are not what CRIU writes: broken, incomplete or beyond the limits.
    Malformed,
    /// The images could not be read here; they may be fine.
    Unreadable,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    /// The task, by its pid in the images, where one is concerned.
    pub task: Option<u32>,
    /// File name of the image.
    pub image: String,
    /// Field in CRIU's own words (`thread_core.creds.cap_eff`), or empty.
    pub field: String,
    /// What it says and what was expected.
    pub detail: String,
    /// How to answer.
    pub kind: ViolationKind,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(task) = self.task {
            write!(f, "task {task}: ")?;
        }
        f.write_str(&self.image)?;
        if !self.field.is_empty() {
            write!(f, ": {}", self.field)?;
        }
        write!(f, ": {}", self.detail)
    }
}

/// Collects violations up to a limit.
#[derive(Debug)]
pub(crate) struct Report {
    violations: Vec<Violation>,
    limit: usize,
}

/// Where a violation was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) task: Option<u32>,
    pub(crate) image: &'a str,
}

impl<'a> Place<'a> {
    /// In an image that belongs to no task.
    pub(crate) fn image(image: &'a str) -> Self {
        Self { task: None, image }
    }

    /// In an image of the task `pid`.
    pub(crate) fn task(pid: u32, image: &'a str) -> Self {
        Self {
            task: Some(pid),
            image,
        }
    }
}

impl Report {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            violations: Vec::new(),
            limit: limit.max(1),
        }
    }

    /// Notes something beyond the request.
    pub(crate) fn privilege(&mut self, place: Place<'_>, field: &str, detail: impl Into<String>) {
        self.push(place, field, detail.into(), ViolationKind::Privilege);
    }

    /// Notes something broken.
    pub(crate) fn malformed(&mut self, place: Place<'_>, field: &str, detail: impl Into<String>) {
        self.push(place, field, detail.into(), ViolationKind::Malformed);
    }

    /// Notes something that could not be read.
    pub(crate) fn unreadable(&mut self, place: Place<'_>, detail: impl Into<String>) {
        self.push(place, "", detail.into(), ViolationKind::Unreadable);
    }

    /// Whether nothing was noted.
    pub(crate) fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// Whether there is no room for more.
    pub(crate) fn is_full(&self) -> bool {
        self.violations.len() >= self.limit
    }

    pub(crate) fn into_violations(self) -> Vec<Violation> {
        self.violations
    }

    fn push(&mut self, place: Place<'_>, field: &str, detail: String, kind: ViolationKind) {
        if !self.is_full() {
            self.violations.push(Violation {
                task: place.task,
                image: place.image.to_owned(),
                field: field.to_owned(),
                detail,
                kind,
            });
        }
    }
}
