//! Configurations and results from bytes; plugins that are shell scripts; real plugins.

mod fake;
mod real;

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::config::Network;
use super::*;

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(30))
}

fn write(dir: &Path, name: &str, text: &str) {
    sys::fs::replace_path(&dir.join(name), 0o700, text.as_bytes()).unwrap();
}

fn pod(dir: &Path) -> PodNetwork {
    PodNetwork {
        netns: dir.join("net"),
        id: "5a5a".into(),
        name: "web".into(),
        namespace: "shop".into(),
        uid: "0a1b".into(),
        ifname: "eth0".into(),
        port_mappings: Vec::new(),
        cache_dir: dir.join("cache"),
    }
}

/// Loads one configuration file; plugins need not be there.
fn load(name: &str, text: &str) -> Result<Network, CniError> {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), name, text);
    config::load(&[dir.path().to_path_buf()], &[])
}

#[test]
fn the_first_file_of_the_first_directory_with_one_counts() {
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let one = |name: &str| format!(r#"{{"cniVersion":"1.0.0","name":"{name}","type":"x"}}"#);
    write(second.path(), "20-b.conf", &one("b"));
    write(second.path(), "10-a.conflist", &one("a"));
    write(second.path(), "00-readme.txt", "no configuration");
    std::fs::create_dir(second.path().join("05-dir.conf")).unwrap();
    let missing = first.path().join("missing");
    let dirs = [
        missing.clone(),
        first.path().to_path_buf(),
        second.path().to_path_buf(),
    ];
    assert_eq!(config::load(&dirs, &[]).unwrap().name(), "a");
    std::fs::remove_file(second.path().join("10-a.conflist")).unwrap();
    assert_eq!(config::load(&dirs, &[]).unwrap().name(), "b");
    match config::load(&dirs[..2], &[]) {
        Err(CniError::NoConfig { directories }) => assert_eq!(directories, dirs[..2]),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_highest_version_that_both_know_is_spoken() {
    let version = |text: &str| load("a.conf", text).unwrap().version();
    assert_eq!(
        version(r#"{"cniVersion":"0.3.1","name":"n","type":"x"}"#),
        "0.3.1"
    );
    let both = r#"{"cniVersion":"0.4.0","cniVersions":["9.9.9","1.1.0"],"name":"n","type":"x"}"#;
    assert_eq!(version(both), "1.1.0");
}

#[test]
fn a_bad_configuration_is_refused_with_its_file_and_fault() {
    let many = vec![json!({"type": "x"}); 33];
    let many = json!({"cniVersion": "1.0.0", "name": "n", "plugins": many}).to_string();
    for (text, part) in [
        ("{", "EOF"),
        ("[]", "invalid"),
        (r#"{"cniVersion":"1.0.0","type":"x"}"#, "name"),
        (
            r#"{"cniVersion":"1.0.0","name":"../n","type":"x"}"#,
            "\"../n\"",
        ),
        (
            r#"{"name":"n","type":"x"}"#,
            "cniVersion [] is not understood",
        ),
        (r#"{"cniVersion":"2.0.0","name":"n","type":"x"}"#, "2.0.0"),
        (
            r#"{"cniVersion":"1.0.0","name":"n","plugins":[]}"#,
            "0 plugins",
        ),
        (&many, "33 plugins"),
        (r#"{"cniVersion":"1.0.0","name":"n"}"#, "plugin type None"),
        (
            r#"{"cniVersion":"1.0.0","name":"n","type":"../sh"}"#,
            "../sh",
        ),
        (
            r#"{"cniVersion":"1.0.0","name":"n","type":"x","capabilities":[]}"#,
            "capabilities",
        ),
    ] {
        match load("10-bad.conflist", text) {
            Err(CniError::Config { path, problem }) => {
                assert!(path.ends_with("10-bad.conflist"));
                assert!(problem.contains(part), "{text}: {problem}");
            }
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[test]
fn a_missing_plugin_is_named_with_the_directories() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "a.conf",
        r#"{"cniVersion":"1.0.0","name":"a","type":"nope"}"#,
    );
    let dirs = [dir.path().to_path_buf()];
    match Cni::load(&dirs, &dirs) {
        Err(CniError::MissingPlugin {
            plugin,
            directories,
        }) => {
            assert_eq!(
                (plugin.as_str(), directories.as_slice()),
                ("nope", dirs.as_slice())
            );
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_result_gives_the_pods_own_addresses() {
    let raw = json!({
        "cniVersion": "1.0.0",
        "interfaces": [
            {"name": "cni0", "mac": "aa:bb"},
            {"name": "eth0", "sandbox": "/run/ns", "mtu": 1500},
            {"name": "net1", "sandbox": "/run/ns"},
        ],
        "ips": [
            {"interface": 1, "address": "fd00::2/64"},
            {"interface": 0, "address": "10.1.0.1/24"},
            {"interface": 1, "address": "10.1.0.2/24", "gateway": "10.1.0.1", "version": "4"},
            {"interface": 2, "address": "10.9.0.2/24"},
            {"address": "10.1.0.2/24"},
            {"interface": -1, "address": "10.1.0.3"},
        ],
        "dns": {"nameservers": ["10.1.0.1"], "search": ["a.b"], "domain": "a.b"},
    });
    let result = CniResult::parse(raw.clone(), "eth0").unwrap();
    assert_eq!(result.ips, ["10.1.0.2", "10.1.0.3", "fd00::2"]);
    assert_eq!(result.dns.servers, ["10.1.0.1"]);
    assert_eq!(result.dns.searches, ["a.b"]);
    assert_eq!(result.interfaces.len(), 3);
    assert_eq!(result.raw, raw);
    let empty = CniResult::parse(json!({"cniVersion": "0.3.1", "ips": null}), "eth0").unwrap();
    assert_eq!(empty.ips, Vec::<String>::new());
}

#[test]
fn a_result_that_contradicts_itself_is_refused() {
    for (raw, part) in [
        (json!("text"), "invalid type"),
        (json!({"ips": [{"address": "x/24"}]}), "\"x/24\""),
        (
            json!({"ips": [{"address": "10.1.0.2/24", "interface": 0}]}),
            "interface 0 of 0",
        ),
        (json!({"interfaces": [{"mac": "x"}]}), "name"),
    ] {
        let problem = CniResult::parse(raw, "eth0").unwrap_err();
        assert!(problem.contains(part), "{problem}");
    }
}
