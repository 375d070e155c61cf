mod checkpoint;

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::*;
use crate::test_support::{Tar, TestImage, blob, describe, gzip, here, index, plain, tree, zstd};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn image(text: &str) -> TestImage {
    TestImage::new(
        &[Tar::new().file("a", text), Tar::new().file("b", text)],
        gzip,
    )
}

fn load(tar: &Tar, names: &[&str]) -> (tempfile::TempDir, Result<Prepared, Error>) {
    let root = tempfile::tempdir().unwrap();
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let result = prepare(root.path(), tar.bytes().as_slice(), &names);
    (root, result)
}

/// Loads and expects one import with these images.
fn check(tar: &Tar, names: &[&str], expected: &[(&TestImage, &[&str])]) {
    let (root, result) = load(tar, names);
    let prepared = result.unwrap();
    let found: Vec<_> = prepared
        .images
        .iter()
        .map(|image| (image.id.clone(), image.names.clone()))
        .collect();
    let expected: Vec<_> = expected
        .iter()
        .map(|(image, names)| {
            (
                image.id().to_string(),
                names.iter().map(|name| (*name).to_owned()).collect(),
            )
        })
        .collect();
    assert_eq!(found, expected);
    let complete = complete(root.path()).unwrap();
    let [(dir, file)] = complete.as_slice() else {
        panic!("{complete:?}")
    };
    assert_eq!(file.images.len(), prepared.images.len());
    for name in tree(dir)
        .iter()
        .filter_map(|name| name.strip_prefix("blobs/sha256/"))
    {
        if !name.is_empty() {
            let bytes = fs::read(dir.join("blobs/sha256").join(name)).unwrap();
            assert_eq!(Digest::of(&bytes).hex(), name);
        }
    }
    assert!(!dir.join("input").exists());
}

/// Loads and expects nothing but the reason.
fn check_refused(tar: &Tar, names: &[&str], parts: &[&str]) {
    let (root, result) = load(tar, names);
    let text = result.unwrap_err().to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} in {text:?}");
    }
    assert_eq!(tree(root.path()), ["imports/"], "nothing is left behind");
}

fn named(mut descriptor: serde_json::Value, key: &str, name: &str) -> serde_json::Value {
    descriptor["annotations"][key] = name.into();
    descriptor
}

fn for_platform(image: &TestImage, architecture: &str) -> serde_json::Value {
    let mut descriptor = describe(MANIFEST, image.manifest().as_bytes());
    descriptor["platform"] = serde_json::json!({"os": "linux", "architecture": architecture});
    descriptor
}

#[test]
fn an_oci_layout_is_prepared_under_its_normalised_name() {
    let image = image("x");
    check(
        &image.layout("busybox:1.35"),
        &[],
        &[(&image, &["docker.io/library/busybox:1.35"])],
    );
    check(
        &image.layout("1.35"),
        &["example.com/b"],
        &[(&image, &["example.com/b:latest"])],
    );
    check(&image.layout("1.35"), &[], &[(&image, &[])]);
    check(
        &image.layout("a:1"),
        &["b:2", "c"],
        &[(
            &image,
            &["docker.io/library/b:2", "docker.io/library/c:latest"],
        )],
    );
}

#[test]
fn a_docker_archive_is_prepared_whatever_its_layers_are_compressed_with() {
    for compress in [plain as fn(&[u8]) -> Vec<u8>, gzip, zstd] {
        let image = TestImage::new(&[Tar::new().file("a", "x")], compress);
        let names: &[&str] = &["docker.io/library/busybox:1", "example.com/b:2"];
        check(
            &image.docker(&["busybox:1", "example.com/b:2"]),
            &[],
            &[(&image, names)],
        );
    }
}

#[test]
fn the_input_itself_may_be_compressed() {
    let root = tempfile::tempdir().unwrap();
    let tar = image("x").layout("a:1").bytes();
    for bytes in [gzip(&tar), zstd(&tar)] {
        let prepared = prepare(root.path(), bytes.as_slice(), &[]).unwrap();
        assert_eq!(prepared.images[0].reference(), "docker.io/library/a:1");
    }
    assert_eq!(complete(root.path()).unwrap().len(), 2);
}

#[test]
fn layers_of_a_docker_archive_may_be_links_within_it() {
    let image = TestImage::new(&[Tar::new().file("a", "x")], plain);
    let list = r#"[{"Config":"c.json","RepoTags":null,"Layers":["1/layer.tar"]}]"#;
    let base = Tar::new()
        .file("c.json", &image.config)
        .file("manifest.json", list);
    let tar = base
        .clone()
        .entry(b'0', "2/layer.tar", "", &image.layers[0].1, |_| {})
        .symlink("1/layer.tar", "../2/layer.tar");
    check(&tar, &["a"], &[(&image, &["docker.io/library/a:latest"])]);
    let escaping = base.clone().symlink("1/layer.tar", "../../etc/passwd");
    check_refused(
        &escaping,
        &["a"],
        &["\"1/layer.tar\"", "out of the archive"],
    );
    let circle = base.symlink("1/layer.tar", "layer.tar");
    check_refused(&circle, &["a"], &["\"1/layer.tar\"", "missing"]);
}

#[test]
fn of_several_platforms_this_one_is_taken() {
    let (mine, other) = (
        image("mine"),
        TestImage::for_architecture(&[Tar::new().file("a", "other")], gzip, "sparc"),
    );
    let inner = serde_json::json!({"schemaVersion": 2, "manifests": [
        for_platform(&other, "sparc"), for_platform(&mine, &here()),
        {"mediaType": MANIFEST, "digest": Digest::of(b"attestation"), "size": 1,
         "platform": {"os": "unknown", "architecture": "unknown"},
         "annotations": {"vnd.docker.reference.type": "attestation-manifest"}},
    ]})
    .to_string();
    let top = named(
        describe(INDEX, inner.as_bytes()),
        "org.opencontainers.image.ref.name",
        "m:1",
    );
    let tar = blob(
        mine.blobs(other.blobs(index(std::slice::from_ref(&top)))),
        inner.as_bytes(),
    );
    check(&tar, &[], &[(&mine, &["docker.io/library/m:1"])]);
    // Only this platform's blobs are there, as docker save has it.
    let partial = blob(
        mine.blobs(index(std::slice::from_ref(&top))),
        inner.as_bytes(),
    );
    check(&partial, &[], &[(&mine, &["docker.io/library/m:1"])]);
    let foreign = blob(other.blobs(index(&[top])), inner.as_bytes());
    check_refused(
        &foreign,
        &[],
        &[&format!("linux/{}", here()), "linux/sparc"],
    );
    // Without platforms in the index the configurations decide.
    check_refused(&other.layout("o:1"), &[], &["linux/sparc"]);
    check_refused(&other.docker(&["o:1"]), &[], &["linux/sparc"]);
}

#[test]
fn several_images_keep_their_names_and_docker_names_bare_tags() {
    let (one, two) = (image("1"), image("2"));
    let full = "io.containerd.image.name";
    let descriptor = |image: &TestImage| describe(MANIFEST, image.manifest().as_bytes());
    let tar = two.blobs(one.blobs(index(&[
        named(descriptor(&one), full, "docker.io/library/one:1"),
        named(descriptor(&two), full, "docker.io/library/two:1"),
    ])));
    check(
        &tar,
        &[],
        &[
            (&one, &["docker.io/library/one:1"]),
            (&two, &["docker.io/library/two:1"]),
        ],
    );
    check_refused(&tar, &["new:1"], &["2 images"]);
    let config = format!("blobs/sha256/{}", one.id().hex());
    let list = serde_json::json!([{"Config": config, "RepoTags": ["x:1", "y:2"], "Layers": []}]);
    let tar = one.layout("1").file("manifest.json", &list.to_string());
    check(
        &tar,
        &[],
        &[(&one, &["docker.io/library/x:1", "docker.io/library/y:2"])],
    );
}

#[test]
fn damaged_inputs_are_refused_by_entry_and_leave_nothing() {
    let image = image("x");
    let wrong = Digest::of(b"something else");
    let entry = format!("blobs/sha256/{}", wrong.hex());
    let spoiled = image.layout("a:1").file(&entry, "spoiled");
    check_refused(&spoiled, &[], &[&entry, "digest", wrong.as_str()]);
    check_refused(
        &Tar::new().file("readme", "hello"),
        &[],
        &["neither", "index.json"],
    );
    check_refused(&index(&[]), &[], &["index.json", "no image"]);
    check_refused(
        &image.layout("a:1").file("../x", ""),
        &[],
        &["\"../x\"", "out of the archive"],
    );
    check_refused(
        &image.layout("a:1").file("/etc/x", ""),
        &[],
        &["\"/etc/x\""],
    );
    check_refused(
        &image.layout("a:1").device(b'3', "dev", (1, 3)),
        &[],
        &["\"dev\""],
    );
    check_refused(
        &image.layout("a:1").file("index.json", "{}"),
        &[],
        &["index.json", "twice"],
    );
    check_refused(&image.layout("UPPER:1"), &[], &["UPPER"]);
    check_refused(&Tar::new().file("index.json", "{"), &[], &["index.json"]);
    let missing = index(&[describe(MANIFEST, image.manifest().as_bytes())]);
    let missing = blob(
        blob(missing, image.manifest().as_bytes()),
        image.config.as_bytes(),
    );
    check_refused(&missing, &["a"], &["a layer is missing"]);
    let by_digest = format!("a@{wrong}");
    check_refused_early(&image.layout("a:1"), &by_digest);
}

fn check_refused_early(tar: &Tar, name: &str) {
    let (root, result) = load(tar, &[name]);
    assert!(matches!(result, Err(Error::Reference { .. })));
    assert_eq!(tree(root.path()), Vec::<String>::new());
}

#[test]
fn an_input_that_is_cut_anywhere_leaves_nothing() {
    let bytes = image("x").layout("a:1").bytes();
    let end = bytes.len() - 1024;
    for cut in (0..end).step_by(700) {
        let root = tempfile::tempdir().unwrap();
        let result = prepare(root.path(), &bytes[..cut], &[]);
        assert!(result.is_err(), "{cut}");
        assert_eq!(tree(root.path()), ["imports/"], "{cut}");
    }
}

#[test]
fn manifests_that_break_rules_are_refused() {
    let image = image("x");
    let layout = |manifest: &serde_json::Value| {
        let text = manifest.to_string();
        blob(
            image.blobs(index(&[describe(MANIFEST, text.as_bytes())])),
            text.as_bytes(),
        )
    };
    let base: serde_json::Value = serde_json::from_str(&image.manifest()).unwrap();
    let with = |pointer: &str, value: serde_json::Value| {
        let mut changed = base.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        layout(&changed)
    };
    check_refused(
        &with("/schemaVersion", 1.into()),
        &["a"],
        &["schema version 2"],
    );
    check_refused(
        &with("/config/mediaType", "application/wasm".into()),
        &["a"],
        &["wasm"],
    );
    check_refused(
        &with("/layers/0/mediaType", "text/plain".into()),
        &["a"],
        &["text/plain"],
    );
    check_refused(
        &with("/layers/0/size", 7.into()),
        &["a"],
        &["7 were announced"],
    );
    check_refused(
        &with("/layers/0/digest", "sha512:00".into()),
        &["a"],
        &["sha256"],
    );
    let fewer = serde_json::json!([base["layers"][0]]);
    check_refused(&with("/layers", fewer), &["a"], &["2 layers", "has 1"]);
    let many = vec![base["layers"][0].clone(); 501];
    check_refused(&with("/layers", many.into()), &["a"], &["500"]);
    let marked = serde_json::json!({"org.criu.checkpoint.container.name": "c"});
    check_refused(
        &with("/annotations", marked),
        &["a"],
        &["checkpoint", "one layer"],
    );
}

#[test]
fn what_a_dead_process_left_is_removed_and_what_a_living_one_prepares_stays() {
    let root = tempfile::tempdir().unwrap();
    let living = Staging::new(root.path()).unwrap();
    let dead = root.path().join("imports/.tmp-dead");
    fs::create_dir(&dead).unwrap();
    let old = rustix::fs::Timespec {
        tv_sec: 1,
        tv_nsec: 0,
    };
    let old = rustix::fs::Timestamps {
        last_access: old,
        last_modification: old,
    };
    rustix::fs::futimens(sys::fs::open_dir(&dead).unwrap(), &old).unwrap();
    sys::fs::make_dir_all(&root.path().join("imports/garbage"), 0o700).unwrap();
    sweep(root.path()).unwrap();
    assert!(!dead.exists() && !root.path().join("imports/garbage").exists());
    assert!(living.dir.exists());
    drop(living);
    assert_eq!(tree(root.path()), ["imports/"]);
}
