//! Kernel parameters of a pod.

use std::collections::{BTreeMap, HashMap};

use lifecycle::model::{NamespaceMode, NamespaceOptions};

use super::check::{Checked, invalid, no_nul};

/// Which namespace a parameter belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Network,
    Ipc,
}

/// Sysctls of a pod; only those that the pod's own namespaces keep from the host.
pub(crate) fn sysctls(
    from: HashMap<String, String>,
    namespaces: &NamespaceOptions,
) -> Checked<BTreeMap<String, String>> {
    let mut all = BTreeMap::new();
    for (given, value) in from {
        let field = format!("sysctls[{given:?}]");
        no_nul(&field, &value)?;
        let name = dotted(&given)
            .ok_or_else(|| invalid(&field, "is not a name like \"net.ipv4.ip_forward\""))?;
        let (mode, whose) = match scope(&name) {
            Some(Scope::Network) => (&namespaces.network, "network"),
            Some(Scope::Ipc) => (&namespaces.ipc, "ipc"),
            None => {
                return Err(invalid(
                    &field,
                    "belongs to no namespace of a pod: only net.*, \
                 fs.mqueue.*, kernel.sem, kernel.shm* and kernel.msg* do",
                ));
            }
        };
        if *mode == NamespaceMode::Node {
            let problem =
                format!("the pod uses the host's {whose} namespace, which it must not change");
            return Err(invalid(&field, problem));
        }
        all.insert(name, value);
    }
    Ok(all)
}

/// The spelling with dots between the parts. With slashes between them (`net/ipv4/conf/eth0.1/mtu`)
/// a dot is part of a name, and the two change places (sysctl.d(5)).
fn dotted(given: &str) -> Option<String> {
    let swap = |c: char| match c {
        '/' => '.',
        '.' => '/',
        c => c,
    };
    let name: String = match given.find(['.', '/']).and_then(|at| given.get(at..)) {
        Some(rest) if rest.starts_with('/') => given.chars().map(swap).collect(),
        Some(_) => given.to_owned(),
        None => return None,
    };
    let letter =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'@' | b':');
    let part = |part: &str| {
        // A slash stands for a dot here, so "/" and "//" would be "." and ".." in /proc/sys.
        part.bytes().any(letter) && part.bytes().all(|byte| letter(byte) || byte == b'/')
    };
    (name.len() <= 253 && name.split('.').all(part)).then_some(name)
}

fn scope(name: &str) -> Option<Scope> {
    let ipc = ["fs.mqueue.", "kernel.shm", "kernel.msg"];
    if name.starts_with("net.") {
        Some(Scope::Network)
    } else if name == "kernel.sem" || ipc.iter().any(|prefix| name.starts_with(prefix)) {
        Some(Scope::Ipc)
    } else {
        None
    }
}
