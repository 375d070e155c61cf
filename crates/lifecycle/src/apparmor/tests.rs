//! Decisions with a parser and a list of profiles that are files of the test.

use std::fs;
use std::path::Path;

use super::*;

/// Keeps what it is told, and puts the profile into the list as the kernel would.
const PARSER: &str = r#"#!/bin/sh
here=$(dirname "$0")
echo "$@" >>"$here/calls"
case $1 in
--version) echo "AppArmor parser version $(cat "$here/version")"; exit 0 ;;
esac
cat >"$here/profile"
if [ -e "$here/broken" ]; then
    echo "AppArmor parser error: no luck" >&2
    exit 1
fi
[ -e "$here/idle" ] || echo "thawd-default (enforce)" >>"$here/profiles"
"#;

struct Lab {
    directory: tempfile::TempDir,
}

impl Lab {
    /// AppArmor is on, and stock profiles are loaded.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let lab = Self { directory };
        lab.put("enabled", "Y\n");
        lab.put("profiles", "crun (unconfined)\nmine (enforce)\n");
        lab.put("version", "3.0.8");
        lab.put("apparmor_parser", PARSER);
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        sys::fs::replace_path(&self.at(name), 0o700, text.as_bytes()).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.at(name)).unwrap_or_default()
    }

    fn apparmor(&self) -> AppArmor {
        AppArmor::at(Places {
            enabled: self.at("enabled"),
            profiles: self.at("profiles"),
            parser: self.at("apparmor_parser"),
        })
    }

    /// How often a profile was handed to the parser.
    fn loads(&self) -> usize {
        self.read("calls").matches("--replace").count()
    }
}

fn asks(apparmor: Option<SecurityProfile>, privileged: bool) -> SecurityContext {
    SecurityContext {
        privileged,
        apparmor,
        ..SecurityContext::default()
    }
}

fn localhost(name: &str) -> SecurityContext {
    asks(Some(SecurityProfile::Localhost(name.into())), false)
}

fn profile(apparmor: &AppArmor, asked: &SecurityContext) -> Option<String> {
    apparmor.profile_for(asked).unwrap()
}

fn refusal(apparmor: &AppArmor, asked: &SecurityContext) -> String {
    match apparmor.profile_for(asked) {
        Err(Error::Precondition(reason)) => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_default_profile_is_for_who_asks_for_it_or_for_nothing() {
    let lab = Lab::new();
    let apparmor = lab.apparmor();
    for asked in [None, Some(SecurityProfile::RuntimeDefault)] {
        let unprivileged = asks(asked.clone(), false);
        let found = profile(&apparmor, &unprivileged);
        assert_eq!(found.as_deref(), Some("thawd-default"), "{asked:?}");
        assert_eq!(profile(&apparmor, &asks(asked, true)), None);
    }
    let unconfined = asks(Some(SecurityProfile::Unconfined), false);
    assert_eq!(profile(&apparmor, &unconfined), None);
    assert_eq!(lab.loads(), 1, "it was there the second time");
}

#[test]
fn without_apparmor_there_is_no_profile_and_one_by_name_is_refused() {
    let lab = Lab::new();
    lab.put("enabled", "N\n");
    let apparmor = lab.apparmor();
    for asked in [None, Some(SecurityProfile::RuntimeDefault)] {
        assert_eq!(profile(&apparmor, &asks(asked, false)), None);
    }
    match apparmor.profile_for(&localhost("mine")) {
        Err(Error::Invalid { field, problem }) => {
            assert_eq!(field, "apparmor");
            assert!(problem.contains("no AppArmor"), "{problem}");
        }
        other => panic!("{other:?}"),
    }
    apparmor.start();
    assert_eq!(lab.read("calls"), "");
    assert_eq!(apparmor.status(), serde_json::json!({"enabled": false}));
}

#[test]
fn a_profile_by_name_must_be_loaded_and_holds_for_a_privileged_container_too() {
    let lab = Lab::new();
    let apparmor = lab.apparmor();
    let mine = SecurityProfile::Localhost("mine".into());
    for privileged in [false, true] {
        let asked = asks(Some(mine.clone()), privileged);
        assert_eq!(profile(&apparmor, &asked).as_deref(), Some("mine"));
    }
    assert_eq!(
        refusal(&apparmor, &localhost("other")),
        "apparmor: profile \"other\" is not loaded on this node: load it with apparmor_parser"
    );
    assert_eq!(lab.loads(), 0);
    // The kernel knows about these; ours is brought also by name.
    for name in ["mine//&crun", ":box:inner", "thawd-default"] {
        assert_eq!(profile(&apparmor, &localhost(name)).as_deref(), Some(name));
    }
    assert_eq!(lab.loads(), 1);
}

#[test]
fn the_default_profile_is_loaded_again_when_it_is_gone_or_has_no_force() {
    let lab = Lab::new();
    let apparmor = lab.apparmor();
    apparmor.start();
    assert_eq!(lab.loads(), 1);
    apparmor.ensure("thawd-default").unwrap();
    assert_eq!(lab.loads(), 1);
    for list in ["mine (enforce)\n", "thawd-default (complain)\n"] {
        lab.put("profiles", list);
        apparmor.ensure("mine").unwrap();
        let before = lab.loads();
        apparmor.ensure("thawd-default").unwrap();
        assert_eq!(lab.loads(), before + 1, "{list}");
    }
}

#[test]
fn a_default_profile_that_cannot_be_loaded_refuses_with_the_reason_and_recovers() {
    let lab = Lab::new();
    let apparmor = lab.apparmor();
    let default = asks(None, false);
    let expect = |part: &str| {
        let reason = refusal(&apparmor, &default);
        let begin = "apparmor: this node cannot load the default profile thawd-default: ";
        assert!(reason.starts_with(begin), "{reason}");
        assert!(reason.contains(part), "{reason}");
        assert!(reason.ends_with("ask for Unconfined"), "{reason}");
        let status = apparmor.status();
        assert_eq!(status["loaded"], false);
        let problem = status["problem"].as_str().unwrap();
        assert!(problem.contains(part), "{problem}");
    };
    fs::rename(lab.at("apparmor_parser"), lab.at("away")).unwrap();
    expect("apparmor_parser was not found: install the package apparmor");
    fs::rename(lab.at("away"), lab.at("apparmor_parser")).unwrap();
    lab.put("broken", "");
    expect("ended with exit code 1: AppArmor parser error: no luck");
    fs::remove_file(lab.at("broken")).unwrap();
    lab.put("idle", "");
    expect("does not have it in force");
    fs::remove_file(lab.at("idle")).unwrap();
    assert_eq!(
        profile(&apparmor, &default).as_deref(),
        Some("thawd-default")
    );
    assert_eq!(
        apparmor.status(),
        serde_json::json!({
            "enabled": true,
            "defaultProfile": "thawd-default",
            "loaded": true,
            "problem": null,
        })
    );
}

#[test]
fn hidden_apparmor_refuses_who_asks_for_a_profile_and_nobody_else() {
    let lab = Lab::new();
    fs::remove_file(lab.at("profiles")).unwrap();
    let apparmor = lab.apparmor();
    assert_eq!(profile(&apparmor, &asks(None, false)), None);
    let default = asks(Some(SecurityProfile::RuntimeDefault), false);
    for asked in [&default, &localhost("mine")] {
        let reason = refusal(&apparmor, asked);
        assert!(reason.contains(HIDDEN), "{reason}");
    }
    assert_eq!(
        apparmor.status(),
        serde_json::json!({"enabled": false, "problem": HIDDEN})
    );
    apparmor.start();
    assert_eq!(lab.read("calls"), "", "nothing is loaded");
    lab.put("profiles", "");
    let found = profile(&apparmor, &asks(None, false));
    assert_eq!(
        found.as_deref(),
        Some("thawd-default"),
        "once it is mounted"
    );
}

#[test]
fn a_container_that_asks_for_unconfined_needs_no_parser() {
    let lab = Lab::new();
    fs::remove_file(lab.at("apparmor_parser")).unwrap();
    fs::remove_file(lab.at("profiles")).unwrap();
    let apparmor = lab.apparmor();
    let unconfined = asks(Some(SecurityProfile::Unconfined), false);
    assert_eq!(profile(&apparmor, &unconfined), None);
    assert_eq!(profile(&apparmor, &asks(None, true)), None);
}

#[test]
fn the_parser_gets_what_its_version_knows() {
    let lab = Lab::new();
    for (version, newer) in [("3.0.8", false), ("4.1.0", true), ("5.0.0~beta1", true)] {
        lab.put("version", version);
        lab.apparmor().start();
        let text = lab.read("profile");
        assert!(text.contains("profile thawd-default flags=("), "{text}");
        assert_eq!(text.contains("  userns,\n  mqueue,\n"), newer, "{version}");
        assert!(!text.contains('@'), "{text}");
    }
    assert_eq!(major("no number"), 0);
    assert_eq!(major("AppArmor parser version x"), 0);
}

#[test]
fn labels_are_read_from_the_list() {
    let lab = Lab::new();
    let here = lab.apparmor().labels(false);
    assert!(here.held(b"mine") && !here.held(b"crun") && !here.held(b"other"));
    fs::remove_file(lab.at("profiles")).unwrap();
    assert!(
        lab.apparmor().labels(false).held(b"crun"),
        "nobody can tell"
    );
    lab.put("enabled", "N\n");
    assert!(!lab.apparmor().labels(false).held(b"mine"), "nothing is on");
}

/// It needs no kernel with AppArmor for this.
#[test]
fn the_real_parser_takes_the_profile() {
    let parser = find_program(Path::new("apparmor_parser"))
        .expect("apparmor_parser is needed: install the package apparmor");
    let run = |arguments: &[&str], stdin: &[u8]| {
        Command::new(&parser)
            .args(arguments)
            .output(stdin, LIMITS, Deadline::after(PATIENCE))
            .unwrap()
    };
    let version = run(&["--version"], b"");
    let text = text(major(&String::from_utf8_lossy(&version.stdout)));
    let parsed = run(&["--skip-kernel-load", "--skip-cache"], text.as_bytes());
    let words = String::from_utf8_lossy(&parsed.stderr_tail).into_owned();
    assert!(parsed.status.success(), "{words}");
    let named = run(&["--names"], text.as_bytes());
    assert_eq!(named.stdout, b"thawd-default\n");
}
