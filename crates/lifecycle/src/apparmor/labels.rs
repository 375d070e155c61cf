//! The list of profiles that the kernel has.

use std::collections::BTreeMap;

/// Modes without force: `unconfined` has no rules, `complain` only reports
/// (`security/apparmor/include/policy.h`).
const WITHOUT_FORCE: [&str; 2] = ["unconfined", "complain"];

/// Whether a profile in this mode confines.
pub(super) fn confines(mode: &str) -> bool {
    !WITHOUT_FORCE.contains(&mode)
}

/// Profiles by name from lines `NAME (MODE)`; others are passed over. A name may have blanks.
pub(super) fn parse(list: &str) -> BTreeMap<String, String> {
    list.lines()
        .filter_map(|line| {
            let (name, mode) = line.strip_suffix(')')?.rsplit_once(" (")?;
            Some((plain(name), mode.to_owned()))
        })
        .collect()
}

/// One way of writing a name below a namespace of policy; there are two.
fn plain(name: &str) -> String {
    let inner = name.strip_prefix(':').and_then(|rest| rest.split_once(':'));
    match inner {
        Some((namespace, rest)) => {
            format!(":{namespace}:{}", rest.strip_prefix("//").unwrap_or(rest))
        }
        None => name.to_owned(),
    }
}
