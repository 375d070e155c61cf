//! The three files that every pod has of its own: `/etc/resolv.conf`, `/etc/hosts`, `/etc/hostname`.
//!
//! ```text
//! search a.example b.example        resolv.conf(5): one `search` line, one line a server,
//! nameserver 10.96.0.10             one `options` line
//! options ndots:5
//! ```
//!
//! Values from a request must be single words, so that none can add a line of its own.

use std::fs::File;
use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::Path;

use crate::error::Error;
use crate::model::DnsConfig;

/// Largest of the host's files that is copied, in bytes.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// The host's resolver configuration, and the one that systemd-resolved keeps for programs that
/// cannot use its stub on loopback (systemd-resolved.service(8), "/etc/resolv.conf").
const HOST_FILES: [&str; 2] = ["/etc/resolv.conf", "/run/systemd/resolve/resolv.conf"];

/// Names that every pod resolves without help.
const BASE_HOSTS: &str = "\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::\tip6-localnet
ff00::\tip6-mcastprefix
ff02::1\tip6-allnodes
ff02::2\tip6-allrouters
";

/// The pod's `/etc/resolv.conf`: what the request asks for, else a copy of the host's.
///
/// A request without any value counts as none, as the peers have it.
///
/// # Errors
///
/// [`Error::Invalid`] for a value with white space or control characters in it, or a server that
/// is no address; [`Error::Failed`] when the host's file exists and cannot be read.
pub fn resolv_conf(config: Option<&DnsConfig>) -> Result<String, Error> {
    match config {
        Some(dns) if !is_empty(dns) => render(dns),
        _ => host_resolv_conf(&HOST_FILES.map(Path::new)),
    }
}

fn is_empty(dns: &DnsConfig) -> bool {
    dns.servers.is_empty() && dns.searches.is_empty() && dns.options.is_empty()
}

fn render(dns: &DnsConfig) -> Result<String, Error> {
    let mut text = String::new();
    let mut list = |key: &str, field: &str, words: &[String]| -> Result<(), Error> {
        if words.is_empty() {
            return Ok(());
        }
        for word in words {
            check_word(field, word)?;
        }
        line(&mut text, &format!("{key} {}", words.join(" ")));
        Ok(())
    };
    list("search", "dns_config.searches", &dns.searches)?;
    for server in &dns.servers {
        // An IPv6 address may carry its scope: fe80::1%eth0 (resolv.conf(5)).
        let address = server
            .split_once('%')
            .map_or(server.as_str(), |(address, _)| address);
        if address.parse::<IpAddr>().is_err() {
            let problem = format!("{server:?} is no IP address");
            return Err(Error::invalid("dns_config.servers", problem));
        }
        list(
            "nameserver",
            "dns_config.servers",
            std::slice::from_ref(server),
        )?;
    }
    list("options", "dns_config.options", &dns.options)?;
    Ok(text)
}

fn check_word(field: &str, word: &str) -> Result<(), Error> {
    let clean = |c: char| !c.is_whitespace() && !c.is_control();
    if word.is_empty() || !word.chars().all(clean) {
        let problem = format!("{word:?} is no single word");
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

/// The first file, unless it only names servers on loopback, which a pod cannot reach, and a later
/// one names others.
fn host_resolv_conf(files: &[&Path]) -> Result<String, Error> {
    let mut first = None;
    for path in files {
        let text = match read_bounded(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) if first.is_none() => return Err(Error::io("read", *path, error)),
            Err(_) => continue,
        };
        if !only_loopback(&text) {
            return Ok(text);
        }
        first.get_or_insert(text);
    }
    Ok(first.unwrap_or_default())
}

fn only_loopback(resolv_conf: &str) -> bool {
    let servers = resolv_conf.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next())
            .flatten()
    });
    let mut servers = servers.map(|server| server.parse::<IpAddr>()).peekable();
    servers.peek().is_some() && servers.all(|server| server.is_ok_and(|ip| ip.is_loopback()))
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        let problem = format!("more than {MAX_FILE_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The pod's `/etc/hosts` before its addresses are known: a copy of the host's for host-network
/// pods, else the names of loopback.
///
/// # Errors
///
/// [`Error::Failed`] when the host's file exists and cannot be read.
pub fn hosts_file(hostname: &str, host_network: bool) -> Result<String, Error> {
    if !host_network {
        return Ok(pod_hosts(hostname, &[]));
    }
    match read_bounded(Path::new("/etc/hosts")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(pod_hosts(hostname, &[])),
        other => other.map_err(|error| Error::io("read", "/etc/hosts", error)),
    }
}

/// The pod's `/etc/hosts` with its own addresses, so that it can resolve its own name.
#[must_use]
pub fn pod_hosts(hostname: &str, ips: &[String]) -> String {
    let mut text = BASE_HOSTS.to_owned();
    if !hostname.is_empty() {
        for ip in ips {
            line(&mut text, &format!("{ip}\t{hostname}"));
        }
    }
    text
}

/// The pod's `/etc/hostname`.
#[must_use]
pub fn hostname_file(hostname: &str) -> String {
    format!("{hostname}\n")
}

fn line(text: &mut String, content: &str) {
    text.push_str(content);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(list: &[&str]) -> Vec<String> {
        list.iter().map(|&word| word.to_owned()).collect()
    }

    fn dns(servers: &[&str], searches: &[&str], options: &[&str]) -> DnsConfig {
        DnsConfig {
            servers: words(servers),
            searches: words(searches),
            options: words(options),
        }
    }

    #[test]
    fn a_request_becomes_one_line_a_kind() {
        let config = dns(
            &["10.96.0.10", "fe80::1%eth0"],
            &["ns.svc", "svc"],
            &["ndots:5", "rotate"],
        );
        let expected = "search ns.svc svc\nnameserver 10.96.0.10\nnameserver fe80::1%eth0\n\
                        options ndots:5 rotate\n";
        assert_eq!(resolv_conf(Some(&config)).unwrap(), expected);
        assert_eq!(
            resolv_conf(Some(&dns(&[], &[], &["rotate"]))).unwrap(),
            "options rotate\n"
        );
    }

    #[test]
    fn a_value_cannot_add_a_line() {
        let hostile = [
            (
                dns(&["1.1.1.1\nnameserver 6.6.6.6"], &[], &[]),
                "dns_config.servers",
            ),
            (dns(&["1.1.1.1%a\nb"], &[], &[]), "dns_config.servers"),
            (dns(&["resolver.example"], &[], &[]), "dns_config.servers"),
            (dns(&[], &["a\noptions x"], &[]), "dns_config.searches"),
            (dns(&[], &["a b"], &[]), "dns_config.searches"),
            (dns(&[], &[], &[""]), "dns_config.options"),
            (dns(&[], &[], &["a\0"]), "dns_config.options"),
        ];
        for (config, wanted) in hostile {
            match resolv_conf(Some(&config)) {
                Err(Error::Invalid { field, .. }) => assert_eq!(field, wanted),
                other => panic!("{config:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn without_values_the_hosts_file_is_copied_unless_it_names_loopback_only() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            sys::fs::replace_path(&path, 0o644, text.as_bytes()).unwrap();
            path
        };
        let stub = write("stub", "nameserver 127.0.0.53\noptions edns0\n");
        let real = write("real", "nameserver 192.0.2.1\n");
        let none = dir.path().join("none");
        let copy = |files: &[&Path]| host_resolv_conf(files).unwrap();
        assert_eq!(copy(&[&real, &stub]), "nameserver 192.0.2.1\n");
        assert_eq!(copy(&[&stub, &real]), "nameserver 192.0.2.1\n");
        assert_eq!(
            copy(&[&stub, &none]),
            "nameserver 127.0.0.53\noptions edns0\n"
        );
        assert_eq!(copy(&[&none, &none]), "");
        let empty = write("empty", "# nothing\n");
        assert_eq!(copy(&[&empty, &real]), "# nothing\n");
        let copied = resolv_conf(Some(&DnsConfig::default())).unwrap();
        assert_eq!(copied, resolv_conf(None).unwrap());
    }

    #[test]
    fn hosts_names_loopback_and_the_pods_own_addresses() {
        let text = pod_hosts("web-1", &words(&["10.4.0.7", "fd00::7"]));
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.4.0.7\tweb-1\nfd00::7\tweb-1\n"));
        assert_eq!(hosts_file("web-1", false).unwrap(), BASE_HOSTS);
        assert_eq!(pod_hosts("", &words(&["10.4.0.7"])), BASE_HOSTS);
        assert_eq!(hostname_file("web-1"), "web-1\n");
    }
}
