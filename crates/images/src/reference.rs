//! Names of images, normalised as Docker, containerd and Kubernetes do (distribution's
//! `reference/reference.go`, grammar in its package comment).
//!
//! ```text
//! busybox                     docker.io/library/busybox:latest
//! example/app@sha256:…        docker.io/example/app@sha256:…
//! registry.k8s.io/pause:3.10  as it is
//! localhost/app               localhost/app:latest
//! ```

use std::fmt;

use crate::digest::Digest;
use crate::error::Error;

/// Longest `domain/path` in bytes (`NameTotalLengthMax`).
const MAX_NAME_BYTES: usize = 255;
/// Longest tag in bytes.
const MAX_TAG_BYTES: usize = 128;

/// A normalised reference: a repository and either a tag or a digest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    repository: String,
    version: Version,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Version {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    /// Reads and normalises a reference. A tag beside a digest is dropped, as containerd does.
    ///
    /// # Errors
    ///
    /// [`Error::Reference`] naming the rule that is broken.
    pub fn parse(text: &str) -> Result<Self, Error> {
        parse(text).map_err(|problem| Error::Reference {
            reference: text.to_owned(),
            problem,
        })
    }

    /// `domain/path`.
    #[must_use]
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, unless it is a digest reference.
    #[must_use]
    pub fn tag(&self) -> Option<&str> {
        match &self.version {
            Version::Tag(tag) => Some(tag),
            Version::Digest(_) => None,
        }
    }

    /// The digest, unless it is a tag reference.
    #[must_use]
    pub fn digest(&self) -> Option<&Digest> {
        match &self.version {
            Version::Tag(_) => None,
            Version::Digest(digest) => Some(digest),
        }
    }

    /// The same repository by digest.
    #[must_use]
    pub fn at_digest(&self, digest: &Digest) -> Self {
        Self {
            repository: self.repository.clone(),
            version: Version::Digest(digest.clone()),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.version {
            Version::Tag(tag) => write!(f, "{}:{tag}", self.repository),
            Version::Digest(digest) => write!(f, "{}@{digest}", self.repository),
        }
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if is_hex_id(text) {
        return Err("is an image id, not a name");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = Digest::parse(digest);
            (
                rest,
                Some(digest.map_err(|_| "the digest is not sha256: and 64 hexadecimal digits")?),
            )
        }
        None => (text, None),
    };
    let last_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let tag_colon = rest
        .get(last_slash..)
        .and_then(|last| last.find(':'))
        .map(|at| last_slash + at);
    let (name, tag) = match tag_colon.and_then(|at| rest.split_at_checked(at)) {
        Some((name, tag)) => (name, Some(tag.trim_start_matches(':'))),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let repository = normalise(name)?;
    let version = match (digest, tag) {
        (Some(digest), _) => Version::Digest(digest),
        (None, tag) => Version::Tag(tag.unwrap_or("latest").to_owned()),
    };
    Ok(Reference {
        repository,
        version,
    })
}

fn is_hex_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = tag.bytes().next().is_some_and(word);
    if first
        && tag.len() <= MAX_TAG_BYTES
        && tag.bytes().all(|b| word(b) || matches!(b, b'.' | b'-'))
    {
        Ok(())
    } else {
        Err("a tag is 1 to 128 letters, digits, underscores, periods and dashes")
    }
}

/// `domain/path` with Docker's defaults filled in.
fn normalise(name: &str) -> Result<String, &'static str> {
    let is_domain = |first: &str| {
        first.contains(['.', ':'])
            || first == "localhost"
            || first.bytes().any(|b| b.is_ascii_uppercase())
    };
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if is_domain(first) => (first, path),
        _ => ("docker.io", name),
    };
    check_domain(domain)?;
    if !path.split('/').all(is_path_component) {
        return Err(
            "a path component is lower-case letters and digits, separated by one period, \
             one or two underscores, or dashes",
        );
    }
    let domain = if domain == "index.docker.io" {
        "docker.io"
    } else {
        domain
    };
    let library = if domain == "docker.io" && !path.contains('/') {
        "library/"
    } else {
        ""
    };
    let repository = format!("{domain}/{library}{path}");
    if repository.len() > MAX_NAME_BYTES {
        return Err("the name is longer than 255 bytes");
    }
    Ok(repository)
}

fn check_domain(domain: &str) -> Result<(), &'static str> {
    const PROBLEM: &str = "the registry is not a host name, address or one of them with a port";
    let (host, port) = match domain
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((address, rest)) => {
            if address.parse::<std::net::Ipv6Addr>().is_err() {
                return Err(PROBLEM);
            }
            match rest.strip_prefix(':') {
                Some(port) => (None, Some(port)),
                None if rest.is_empty() => (None, None),
                None => return Err(PROBLEM),
            }
        }
        None => match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        },
    };
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let host_good = host.is_none_or(|host| host.split('.').all(label));
    let port_good = port.is_none_or(|port| {
        !port.is_empty() && port.len() <= 5 && port.bytes().all(|b| b.is_ascii_digit())
    });
    if host_good && port_good {
        Ok(())
    } else {
        Err(PROBLEM)
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(component: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let ends = component.bytes().next().is_some_and(alphanumeric)
        && component.bytes().next_back().is_some_and(alphanumeric);
    ends && component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|gap| matches!(gap, "" | "." | "_" | "__") || gap.bytes().all(|b| b == b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn check(text: &str, expected: &str) {
        let parsed = Reference::parse(text).unwrap();
        assert_eq!(parsed.to_string(), expected);
        assert_eq!(
            Reference::parse(expected).unwrap(),
            parsed,
            "normal forms stay as they are"
        );
    }

    #[test]
    fn short_names_belong_to_docker_and_the_tag_defaults_to_latest() {
        check("busybox", "docker.io/library/busybox:latest");
        check("busybox:1.35", "docker.io/library/busybox:1.35");
        check("a/b", "docker.io/a/b:latest");
        check("docker.io/busybox", "docker.io/library/busybox:latest");
        check(
            "index.docker.io/busybox",
            "docker.io/library/busybox:latest",
        );
        check("localhost/a", "localhost/a:latest");
        check("localhost:5000/a", "localhost:5000/a:latest");
        check("registry.k8s.io/pause:3.10", "registry.k8s.io/pause:3.10");
        check(
            "[::1]:5000/a/b_c__d-e.f:T_1.x-",
            "[::1]:5000/a/b_c__d-e.f:T_1.x-",
        );
        check("Host/a", "Host/a:latest");
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let by_digest = format!("docker.io/library/busybox@sha256:{HEX}");
        check(&format!("busybox@sha256:{HEX}"), &by_digest);
        check(&format!("busybox:1@sha256:{HEX}"), &by_digest);
        let reference = Reference::parse("example.com/a:1").unwrap();
        assert_eq!(
            (reference.repository(), reference.tag()),
            ("example.com/a", Some("1"))
        );
        let at = reference.at_digest(&Digest::of(b""));
        assert_eq!(at.to_string(), format!("example.com/a@sha256:{HEX}"));
        assert_eq!((at.tag(), at.digest()), (None, Some(&Digest::of(b""))));
    }

    #[test]
    fn what_is_no_reference_is_refused() {
        let long = "a".repeat(240);
        let long_tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            "UPPER",
            "a//b",
            "/a",
            "a/",
            "a b",
            "a:",
            "a:-x",
            "-a",
            "a_",
            "a..b",
            "a___b",
            HEX,
            "a@sha256:00",
            "a@md5:00",
            "ex ample.com/a",
            "-x.com/a",
            "a.com:port/a",
            "a:b:c",
            "/var/lib/x.tar",
            "[::1/a",
            "ä",
            "a\0b",
            &long,
            &long_tag,
        ] {
            let result = Reference::parse(text);
            assert!(
                matches!(result, Err(Error::Reference { .. })),
                "{text:?}: {result:?}"
            );
        }
    }
}
