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

/// How many bytes may be dirty in the page cache before the kernel begins to write them out by
/// itself: `vm.dirty_background_bytes`, or `vm.dirty_background_ratio` of the available memory
/// (Documentation/admin-guide/sysctl/vm.rst; proc_meminfo(5), `MemAvailable`). The kernel's own
/// figure differs a little.
///
/// # Errors
///
/// What reading these files returns; `InvalidData` for other text than expected.
pub fn dirty_background_bytes() -> std::io::Result<u64> {
    let setting =
        |name: &str| std::fs::read_to_string(format!("/proc/sys/vm/dirty_background_{name}"));
    background(
        &setting("bytes")?,
        &setting("ratio")?,
        &std::fs::read_to_string("/proc/meminfo")?,
    )
    .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

fn background(bytes: &str, ratio: &str, memory: &str) -> Option<u64> {
    let bytes: u64 = bytes.trim().parse().ok()?;
    if bytes > 0 {
        return Some(bytes);
    }
    let ratio: u64 = ratio.trim().parse().ok()?;
    Some(available(memory)? / 100 * ratio)
}

fn available(memory: &str) -> Option<u64> {
    let available = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available: u64 = available.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(available.saturating_mul(1024))
}

/// Bytes of memory that programs can still take without swapping (proc_meminfo(5), `MemAvailable`).
///
/// # Errors
///
/// What reading the file returns; `InvalidData` for other text than expected.
pub fn available_memory_bytes() -> std::io::Result<u64> {
    available(&std::fs::read_to_string("/proc/meminfo")?)
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// Pages that came back from swap since boot (proc_vmstat(5), `pswpin`).
///
/// # Errors
///
/// What reading the file returns; `InvalidData` for other text than expected.
pub fn pages_swapped_in() -> std::io::Result<u64> {
    swapped_in(&std::fs::read_to_string("/proc/vmstat")?)
        .ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

/// A kernel without swap has no such line, and no such pages.
fn swapped_in(statistics: &str) -> Option<u64> {
    let line = statistics
        .lines()
        .find_map(|line| line.strip_prefix("pswpin "));
    line.map_or(Some(0), |count| count.trim().parse().ok())
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
    fn memory_and_swap_are_told() {
        assert_eq!(available("MemAvailable:     12 kB\n"), Some(12 << 10));
        assert_eq!(swapped_in("a 1\npswpin 7\npswpout 8\n"), Some(7));
        assert_eq!(swapped_in("a 1\n"), Some(0));
        assert!(available_memory_bytes().unwrap() > 1 << 20);
        pages_swapped_in().unwrap();
    }

    #[test]
    fn the_kernel_s_threshold_is_a_number_of_bytes_or_a_part_of_memory() {
        let memory = "MemTotal:       24683932 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(background("0\n", "10\n", memory), Some(2_048_000_000));
        assert_eq!(background("4096\n", "0\n", memory), Some(4096));
        assert_eq!(background("0\n", "10\n", "MemTotal: 1 kB"), None);
        assert_eq!(background("x", "10\n", memory), None);
        assert!(dirty_background_bytes().unwrap() > 0);
    }

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
