//! CRIU's versions, and which a kernel needs.

use std::fmt;

/// A version of CRIU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Sublevel; 0 when CRIU does not tell one.
    pub sublevel: u32,
}

impl Version {
    /// The oldest that this crate's options are used with.
    pub const OLDEST: Self = Self {
        major: 4,
        minor: 1,
        sublevel: 0,
    };
    /// The oldest that can dump an inet or packet socket on Linux 6.16 and newer, where
    /// `getsockopt(SO_PASSCRED)` fails on them (CRIU issue 2705).
    pub const OLDEST_FOR_6_16: Self = Self {
        major: 4,
        minor: 2,
        sublevel: 0,
    };

    /// The oldest that works on a kernel of this release (`6.18.44-amd64`). A release that cannot
    /// be read counts as new.
    #[must_use]
    pub fn needed_by(kernel_release: &str) -> Self {
        let mut numbers = kernel_release
            .split(|c: char| !c.is_ascii_digit())
            .map(|number| number.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(major), Some(minor)) if (major, minor) < (6, 16) => Self::OLDEST,
            _ => Self::OLDEST_FOR_6_16,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)?;
        if self.sublevel > 0 {
            write!(f, ".{}", self.sublevel)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::Version;

    #[test]
    fn the_kernel_decides_which_version_is_needed() {
        for (release, needed) in [
            ("6.1.0-35-amd64", "4.1"),
            ("5.15.0", "4.1"),
            ("6.15.12", "4.1"),
            ("6.16.0-rc1", "4.2"),
            ("6.18.44-fc-v669", "4.2"),
            ("7.0.1", "4.2"),
            ("unknown", "4.2"),
            ("", "4.2"),
        ] {
            assert_eq!(Version::needed_by(release).to_string(), needed, "{release}");
        }
    }

    #[test]
    fn versions_are_ordered_and_shown_as_criu_shows_them() {
        let version = |major, minor, sublevel| Version {
            major,
            minor,
            sublevel,
        };
        assert!(version(4, 1, 1) < version(4, 2, 0));
        assert!(version(3, 19, 0) < Version::OLDEST);
        assert_eq!(version(4, 2, 1).to_string(), "4.2.1");
    }
}
