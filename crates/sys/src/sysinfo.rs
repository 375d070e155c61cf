//! Facts about this host that go into manifests and status.

/// What uname(2) tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kernel {
    /// Release, for instance `6.12.1-amd64`.
    pub release: String,
    /// Machine, for instance `x86_64`.
    pub machine: String,
}

/// The running kernel.
#[must_use]
pub fn kernel() -> Kernel {
    let uname = rustix::system::uname();
    Kernel {
        release: uname.release().to_string_lossy().into_owned(),
        machine: uname.machine().to_string_lossy().into_owned(),
    }
}

/// CPU feature flags of the first processor (`flags` on x86, `Features` on arm64), sorted; empty
/// when `/proc/cpuinfo` has none.
#[must_use]
pub fn cpu_features() -> Vec<String> {
    parse_cpu_features(&std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default())
}

fn parse_cpu_features(text: &str) -> Vec<String> {
    let line = text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then_some(value)
    });
    let mut features: Vec<String> = line
        .unwrap_or_default()
        .split_ascii_whitespace()
        .map(str::to_owned)
        .collect();
    features.sort_unstable();
    features.dedup();
    features
}

/// `(major, minor)` of a kernel release; `None` when it does not begin with two numbers.
#[must_use]
pub fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// `bytes` random bytes from the kernel as lower-case hexadecimal digits.
///
/// # Errors
///
/// What reading /dev/urandom returns.
pub fn random_hex(bytes: usize) -> std::io::Result<String> {
    use std::fmt::Write as _;
    use std::io::Read as _;
    let mut buffer = vec![0_u8; bytes];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut buffer)?;
    let mut text = String::with_capacity(bytes * 2);
    for byte in buffer {
        write!(text, "{byte:02x}").map_err(std::io::Error::other)?;
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_and_versions_are_parsed() {
        assert_eq!(
            parse_cpu_features("model\t: x\nflags\t\t: sse avx sse\n"),
            ["avx", "sse"]
        );
        assert_eq!(kernel_version("6.18.44-fc"), Some((6, 18)));
        assert_eq!(kernel_version("six"), None);
        assert_eq!(random_hex(32).unwrap().len(), 64);
    }
}
