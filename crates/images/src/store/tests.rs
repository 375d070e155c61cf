mod faults;
mod rootfs;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use super::*;
use crate::test_support::{Tar, TestImage, gzip, plain, tree, zstd};
use crate::{import, records::Records};

/// Runs `work` with a root directory of its own; mounts stay in a namespace of its own.
fn check<F: Future<Output = ()>>(work: impl FnOnce(PathBuf) -> F + Send) {
    let dir = tempfile::tempdir().unwrap();
    sys::mount::in_private_namespace(|| {
        // The blocking threads are made by this one and share its namespace.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(work(dir.path().to_owned()));
        drop(runtime);
        Ok(())
    })
    .unwrap();
}

async fn open(root: &Path) -> ImageStore {
    ImageStore::open(root).await.unwrap()
}

fn base() -> Tar {
    Tar::new()
        .dir("./", 0o751)
        .dir("etc/", 0o755)
        .file("etc/motd", "one")
}

fn image(text: &str) -> TestImage {
    TestImage::new(
        &[base(), Tar::new().file("etc/motd", text).file("new", "n")],
        gzip,
    )
}

fn prepare(root: &Path, image: &TestImage, names: &[&str]) -> import::Prepared {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    import::prepare(root, image.layout("").bytes().as_slice(), &names).unwrap()
}

async fn load(store: &ImageStore, root: &Path, image: &TestImage, names: &[&str]) -> Image {
    prepare(root, image, names);
    store.pull(names[0]).await.unwrap()
}

fn content(root: &Path) -> (usize, usize) {
    let count = |path: &str| fs::read_dir(root.join(path)).unwrap().count();
    // The layer that stands below images without layers is always there.
    (count("images/blobs/sha256"), count("images/layers") - 1)
}

#[test]
fn a_prepared_image_is_adopted_by_its_pull_and_found_again_after_a_restart() {
    check(|root| async move {
        let test = image("two");
        let store = open(&root).await;
        let missing = store.pull("busybox").await.unwrap_err();
        assert!(matches!(missing, Error::NotPresent { reference } if reference == "busybox"));
        let image = load(&store, &root, &test, &["busybox", "b:2"]).await;
        assert_eq!(image.id, test.id().to_string());
        assert_eq!(
            image.repo_tags,
            ["docker.io/library/b:2", "docker.io/library/busybox:latest"]
        );
        let digest = Digest::of(test.manifest().as_bytes());
        assert_eq!(
            image.repo_digests,
            [
                format!("docker.io/library/b@{digest}"),
                format!("docker.io/library/busybox@{digest}"),
            ]
        );
        assert_eq!(
            (image.size_bytes, image.user.as_str()),
            (test.size(), "1002:1002")
        );
        assert_eq!(&*image.config, test.config.as_bytes());
        let json = serde_json::json!({ "spec": image.config });
        assert_eq!(json["spec"]["config"]["Cmd"][0], "sh");
        assert_eq!(image.checkpoint, None);
        assert_eq!(fs::read_dir(root.join("imports")).unwrap().count(), 0);
        assert_eq!(
            store.pull("busybox:latest").await.unwrap(),
            image,
            "it is there already"
        );
        assert_eq!(content(&root), (4, 2));
        drop(store);
        let store = open(&root).await;
        assert_eq!(store.list().await.unwrap(), std::slice::from_ref(&image));
        for name in [
            "busybox",
            "docker.io/library/b:2",
            &image.id,
            &image.id[7..],
            &image.id[7..20],
            &image.repo_digests[0],
            &format!("b:9@{digest}"),
            digest.as_str(),
        ] {
            assert_eq!(
                store.resolve(name).await.unwrap(),
                Some(image.clone()),
                "{name}"
            );
        }
        for name in [
            "b",
            "other",
            "",
            "sha256:",
            &image.id[7..10],
            "/no/path",
            "UPPER",
        ] {
            assert_eq!(store.resolve(name).await.unwrap(), None, "{name}");
        }
        let bad = store.pull("UPPER").await.unwrap_err();
        assert!(matches!(bad, Error::Reference { .. }));
    });
}

#[test]
fn loading_twice_changes_nothing_and_a_name_moves_to_the_newest_image() {
    check(|root| async move {
        let (one, two) = (image("1"), image("2"));
        let store = open(&root).await;
        let first = load(&store, &root, &one, &["app:1"]).await;
        let again = load(&store, &root, &one, &["app:1"]).await;
        assert_eq!(first, again);
        assert_eq!(content(&root), (4, 2));
        let second = load(&store, &root, &two, &["app:1"]).await;
        assert_eq!(second.id, two.id().to_string());
        assert_eq!(store.resolve("app:1").await.unwrap(), Some(second));
        let old = store.resolve(&first.id).await.unwrap().unwrap();
        assert_eq!(
            (old.repo_tags.len(), &old.repo_digests),
            (0, &first.repo_digests)
        );
        // The common base layer is there once.
        assert_eq!(content(&root), (7, 3));
        let both = load(&store, &root, &one, &["other:1"]).await;
        assert_eq!(both.repo_tags, ["docker.io/library/other:1"]);
        assert_eq!(both.repo_digests.len(), 2);
    });
}

#[test]
fn removing_by_any_reference_removes_all_names_and_frees_the_space() {
    check(|root| async move {
        let test = image("x");
        let store = open(&root).await;
        store.remove("never:there").await.unwrap();
        for by in 0..4 {
            let image = load(&store, &root, &test, &["a:1", "registry.example/b:2"]).await;
            let references = [
                image.repo_tags[1].clone(),
                image.id.clone(),
                image.repo_digests[0].clone(),
                image.id[7..19].to_owned(),
            ];
            let before = store.fs_info().await.unwrap();
            assert!(
                before.used_bytes > test.size() && before.inodes > 6,
                "{before:?}"
            );
            assert!(before.mountpoint.is_dir());
            store.remove(&references[by]).await.unwrap();
            store.remove(&references[by]).await.unwrap();
            assert_eq!(store.list().await.unwrap(), []);
            assert_eq!(content(&root), (0, 0));
            let after = store.fs_info().await.unwrap();
            assert_eq!((after.used_bytes, after.inodes), (0, 0));
        }
    });
}

#[test]
fn a_shared_layer_stays_for_the_image_that_still_needs_it() {
    check(|root| async move {
        let store = open(&root).await;
        load(&store, &root, &image("1"), &["one"]).await;
        load(&store, &root, &image("2"), &["two"]).await;
        store.remove("one").await.unwrap();
        assert_eq!(content(&root), (4, 2));
        let rootfs = store.prepare_rootfs("c", "two").await.unwrap();
        assert_eq!(
            fs::read_to_string(rootfs.merged.join("etc/motd")).unwrap(),
            "2"
        );
        store.remove_rootfs("c").await.unwrap();
    });
}

#[test]
fn a_checkpoint_image_keeps_the_archives_inode_and_has_no_root_filesystem() {
    check(|root| async move {
        let store = open(&root).await;
        let archive = root.join("c.tar");
        let bytes = Tar::new().file("spec.dump", "{}").bytes();
        sys::fs::replace_path(&archive, 0o600, &bytes).unwrap();
        let facts = import::CheckpointFacts {
            container_name: "counter".into(),
            ..import::CheckpointFacts::default()
        };
        import::prepare_checkpoint(&root, &archive, "localhost/c:1", &facts).unwrap();
        let image = store.pull("localhost/c:1").await.unwrap();
        assert_eq!(image.checkpoint.as_ref().unwrap().container_name, "counter");
        let blob = store.checkpoint_blob(&image).unwrap();
        assert_eq!(
            fs::metadata(&blob).unwrap().ino(),
            fs::metadata(&archive).unwrap().ino()
        );
        let refused = store.prepare_rootfs("c", &image.id).await.unwrap_err();
        assert!(refused.to_string().contains("checkpoint"), "{refused}");
        drop(store);
        let store = open(&root).await;
        assert_eq!(store.list().await.unwrap(), [image]);
        assert_eq!(fs::read(&blob).unwrap(), bytes);
        store.remove("localhost/c:1").await.unwrap();
        assert!(!blob.exists());
        assert_eq!(
            fs::read(&archive).unwrap(),
            bytes,
            "the archive itself stays"
        );
    });
}

#[test]
fn a_compressed_checkpoint_layer_is_stored_as_the_plain_archive() {
    check(|root| async move {
        let store = open(&root).await;
        let archive = Tar::new().file("spec.dump", "{}");
        let test = TestImage::new(std::slice::from_ref(&archive), gzip);
        let marked = serde_json::json!({"io.kubernetes.cri-o.annotations.checkpoint.name": "c"});
        let manifest = test.manifest_with(&marked);
        let descriptor = crate::test_support::describe(
            "application/vnd.oci.image.manifest.v1+json",
            manifest.as_bytes(),
        );
        let tar = test.blobs(crate::test_support::index(&[descriptor]));
        let tar = crate::test_support::blob(tar, manifest.as_bytes());
        let names = ["peer:1".to_owned()];
        // Both manifests are there; the index names one.
        import::prepare(&root, tar.bytes().as_slice(), &names).unwrap();
        let image = store.pull("peer:1").await.unwrap();
        let blob = store.checkpoint_blob(&image).unwrap();
        assert_eq!(fs::read(blob).unwrap(), archive.bytes());
        assert_eq!(content(&root), (3, 0));
    });
}
