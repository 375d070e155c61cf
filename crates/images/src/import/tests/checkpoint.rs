//! Checkpoint images.

use super::*;

#[test]
fn a_checkpoint_image_shares_the_archives_inode() {
    let root = tempfile::tempdir().unwrap();
    let archive = root.path().join("checkpoint.tar");
    sys::fs::replace_path(&archive, 0o600, &Tar::new().file("spec.dump", "{}").bytes()).unwrap();
    let facts = CheckpointFacts {
        container_name: "counter".into(),
        criu_version: "4.2".into(),
        ..CheckpointFacts::default()
    };
    let prepared = prepare_checkpoint(root.path(), &archive, "localhost/c:1", &facts).unwrap();
    assert_eq!(prepared.images[0].names, ["localhost/c:1"]);
    let all = complete(root.path()).unwrap();
    let blobs = Blobs::at(&all[0].0);
    let digest = Digest::of(&fs::read(&archive).unwrap());
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&blobs.path(&digest)), inode(&archive));
    let manifest = blobs.document(&all[0].1.images[0].manifest).unwrap();
    let manifest = Manifest::parse("m", &manifest).unwrap();
    assert_eq!(
        manifest.annotations["org.criu.checkpoint.criu.version"],
        "4.2"
    );
    let key = "io.kubernetes.cri-o.annotations.checkpoint.name";
    assert_eq!(manifest.annotations[key], "counter");
    assert!(
        !manifest
            .annotations
            .contains_key("org.criu.checkpoint.pod.name")
    );
    assert_eq!(container_name(&manifest.annotations), Some("counter"));
}

#[test]
fn a_checkpoint_archive_on_another_filesystem_is_copied() {
    let dir = tempfile::tempdir().unwrap();
    sys::mount::in_private_namespace(|| {
        sys::mount::attach(sys::mount::tmpfs(None, 0o700)?, dir.path())?;
        let archive = dir.path().join("c.tar");
        sys::fs::replace_path(&archive, 0o600, b"archive")?;
        let root = tempfile::tempdir()?;
        let facts = CheckpointFacts {
            container_name: "c".into(),
            ..CheckpointFacts::default()
        };
        prepare_checkpoint(root.path(), &archive, "c", &facts).unwrap();
        let all = complete(root.path()).unwrap();
        let path = Blobs::at(&all[0].0).path(&Digest::of(b"archive"));
        assert_eq!(fs::read(path)?, b"archive");
        Ok(())
    })
    .unwrap();
}

#[test]
fn only_a_regular_file_becomes_a_checkpoint_image() {
    let root = tempfile::tempdir().unwrap();
    let facts = CheckpointFacts {
        container_name: "c".into(),
        ..CheckpointFacts::default()
    };
    let target = root.path().join("target");
    sys::fs::replace_path(&target, 0o600, b"x").unwrap();
    let link = root.path().join("link");
    std::os::unix::fs::symlink(&target, &link).unwrap();
    let attempt = |path: &Path, name: &str, facts: &CheckpointFacts| {
        prepare_checkpoint(root.path(), path, name, facts).unwrap_err()
    };
    assert!(matches!(attempt(&link, "c", &facts), Error::Io { .. }));
    assert!(matches!(
        attempt(root.path(), "c", &facts),
        Error::Malformed { .. }
    ));
    assert!(matches!(
        attempt(&root.path().join("none"), "c", &facts),
        Error::Io { .. }
    ));
    assert!(matches!(
        attempt(&target, "C:", &facts),
        Error::Reference { .. }
    ));
    let nameless = CheckpointFacts::default();
    assert!(matches!(
        attempt(&target, "c", &nameless),
        Error::Malformed { .. }
    ));
}
