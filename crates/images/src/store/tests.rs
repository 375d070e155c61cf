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
fn a_root_filesystem_shows_the_image_and_keeps_changes_to_itself() {
    check(|root| async move {
        let store = open(&root).await;
        let image = load(&store, &root, &image("two"), &["a"]).await;
        let rootfs = store.prepare_rootfs("c1", &image.id).await.unwrap();
        assert_eq!(rootfs.merged, root.join("snapshots/c1/merged"));
        assert_eq!(tree(&rootfs.merged), ["etc/", "etc/motd", "new"]);
        assert_eq!(
            fs::read_to_string(rootfs.merged.join("etc/motd")).unwrap(),
            "two"
        );
        let mode = fs::metadata(&rootfs.merged).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o751, "the root directory is the image's");
        fs::rename(rootfs.merged.join("new"), rootfs.merged.join("moved")).unwrap();
        assert_eq!(store.prepare_rootfs("c1", &image.id).await.unwrap(), rootfs);
        assert_eq!(store.rootfs("c1").await.unwrap(), rootfs);
        let other = store.prepare_rootfs("c2", "a").await.unwrap();
        assert!(other.merged.join("new").exists());
        assert_eq!(other.lower.len(), 2);
        assert_eq!(store.rootfs_ids().await.unwrap(), ["c1", "c2"]);
        for id in ["c1", "c1", "c2"] {
            store.remove_rootfs(id).await.unwrap();
        }
        assert_eq!(fs::read_dir(root.join("snapshots")).unwrap().count(), 0);
        let gone = store.rootfs("c1").await.unwrap_err();
        assert!(matches!(gone, Error::NoRootfs { id } if id == "c1"));
        for bad in ["", "..", "a/b", "../../etc"] {
            assert!(store.prepare_rootfs(bad, "a").await.is_err(), "{bad:?}");
            assert!(store.remove_rootfs(bad).await.is_err(), "{bad:?}");
        }
        let absent = store.prepare_rootfs("c3", "sha256:00").await.unwrap_err();
        assert!(matches!(absent, Error::NotPresent { .. }));
    });
}

#[test]
fn an_image_in_use_loses_its_names_and_its_layers_go_with_the_last_user() {
    check(|root| async move {
        let store = open(&root).await;
        load(&store, &root, &image("x"), &["a"]).await;
        let rootfs = store.prepare_rootfs("c", "a").await.unwrap();
        store.remove("a").await.unwrap();
        assert_eq!(store.list().await.unwrap(), []);
        assert_eq!(content(&root), (0, 2));
        assert_eq!(fs::read_to_string(rootfs.merged.join("new")).unwrap(), "n");
        drop(store);
        let store = open(&root).await;
        assert_eq!(store.rootfs("c").await.unwrap(), rootfs);
        assert_eq!(content(&root), (0, 2));
        store.remove_rootfs("c").await.unwrap();
        assert_eq!(content(&root), (0, 0));
    });
}

#[test]
fn a_root_filesystem_is_mounted_again_after_a_reboot() {
    check(|root| async move {
        let store = open(&root).await;
        load(&store, &root, &image("x"), &["a"]).await;
        let rootfs = store.prepare_rootfs("c", "a").await.unwrap();
        sys::fs::replace_path(&rootfs.merged.join("written"), 0o600, b"kept").unwrap();
        drop(store);
        sys::mount::unmount(&rootfs.merged, true).unwrap();
        let store = open(&root).await;
        assert_eq!(store.rootfs("c").await.unwrap(), rootfs);
        assert_eq!(fs::read(rootfs.merged.join("written")).unwrap(), b"kept");
    });
}

#[test]
fn an_image_without_layers_has_an_empty_root_filesystem() {
    check(|root| async move {
        let store = open(&root).await;
        load(
            &store,
            &root,
            &TestImage::new(&[], plain),
            &["scratch-like"],
        )
        .await;
        let rootfs = store.prepare_rootfs("c", "scratch-like").await.unwrap();
        assert_eq!(tree(&rootfs.merged), Vec::<String>::new());
        store.remove_rootfs("c").await.unwrap();
    });
}

#[test]
fn what_a_crash_left_is_cleaned_when_the_store_is_opened() {
    check(|root| async move {
        let store = open(&root).await;
        load(&store, &root, &image("x"), &["a"]).await;
        drop(store);
        // Killed while unpacking, before a record was stored, while making a root filesystem.
        let layers = root.join("images/layers");
        sys::fs::make_dir_all(&layers.join(".tmp-1234/fs/half"), 0o700).unwrap();
        sys::fs::make_dir_all(&layers.join("0".repeat(64)).join("fs/x"), 0o700).unwrap();
        Blobs::at(&root.join("images")).put(b"orphan").unwrap();
        sys::fs::make_dir_all(&root.join("snapshots/lost/merged"), 0o700).unwrap();
        let lost = root.join("snapshots/lost/merged");
        sys::mount::attach(sys::mount::tmpfs(None, 0o700).unwrap(), &lost).unwrap();
        let store = open(&root).await;
        assert_eq!(content(&root), (4, 2));
        assert_eq!(fs::read_dir(root.join("snapshots")).unwrap().count(), 0);
        assert_eq!(store.list().await.unwrap().len(), 1);
    });
}

#[test]
fn a_pull_that_was_cut_short_is_done_again_by_the_next_one() {
    check(|root| async move {
        let test = image("x");
        prepare(&root, &test, &["a"]);
        {
            // As far as the daemon came before it was killed: content, but no record.
            let images = root.join("images");
            let blobs = Blobs::at(&images);
            blobs.make().unwrap();
            let layers =
                Layers::open(&images, Limits::default(), &Trash::open(&images).unwrap()).unwrap();
            let all = import::complete(&root).unwrap();
            adopt::records(&all[0].0, &all[0].1, &blobs, &layers).unwrap();
        }
        let store = open(&root).await;
        assert_eq!(
            content(&root),
            (0, 0),
            "content without a record is removed"
        );
        assert_eq!(store.pull("a").await.unwrap().id, test.id().to_string());
        assert_eq!(content(&root), (4, 2));
    });
}

#[test]
fn a_spoiled_import_is_refused_removed_and_leaves_the_store_as_it_was() {
    check(|root| async move {
        let store = open(&root).await;
        let good = load(&store, &root, &image("good"), &["a"]).await;
        let bad = image("bad");
        for spoil in [0, 1, 2] {
            let lie = match spoil {
                // A layer that is not what its digest says.
                0 => Digest::of(&bad.layers[1].1),
                // The same length, another configuration.
                1 => bad.id(),
                _ => Digest::of(bad.manifest().as_bytes()),
            };
            prepare(&root, &bad, &["a"]);
            let dir = import::complete(&root).unwrap().remove(0).0;
            let path = Blobs::at(&dir).path(&lie);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            sys::fs::replace_path(&path, 0o600, &bytes).unwrap();
            let error = store.pull("a").await.unwrap_err();
            let told = matches!(
                error,
                Error::DigestMismatch { .. } | Error::Malformed { .. }
            );
            assert!(told, "{error:?}");
            assert_eq!(fs::read_dir(root.join("imports")).unwrap().count(), 0);
            assert_eq!(store.pull("a").await.unwrap(), good);
            assert_eq!(content(&root), (4, 2));
        }
    });
}

#[test]
fn a_layer_whose_tar_is_not_the_configurations_is_refused() {
    check(|root| async move {
        let store = open(&root).await;
        let mut lying = image("x");
        let other = Tar::new().file("evil", "evil").bytes();
        lying.layers[1].1 = gzip(&other);
        prepare(&root, &lying, &["a"]);
        let error = store.pull("a").await.unwrap_err();
        let Error::DigestMismatch { entry, actual, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(
            (entry.as_str(), actual.as_str()),
            ("the layer's tar", Digest::of(&other).as_str())
        );
        assert_eq!(content(&root), (0, 0));
    });
}

#[test]
fn a_hostile_layer_is_refused_naming_its_entry() {
    check(|root| async move {
        let store = open(&root).await;
        let layer = Tar::new().symlink("x", "../../..").file("x/escaped", "");
        prepare(&root, &TestImage::new(&[layer], zstd), &["a"]);
        let error = store.pull("a").await.unwrap_err();
        assert!(
            matches!(&error, Error::Malformed { entry, .. } if entry == "x/escaped"),
            "{error:?}"
        );
        assert_eq!(content(&root), (0, 0));
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

#[test]
fn pulls_and_removals_at_the_same_time_end_in_a_clean_store() {
    check(|root| async move {
        let store = open(&root).await;
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..12 {
            let (store, root) = (store.clone(), root.clone());
            tasks.spawn(async move {
                let name = format!("app{}:1", number % 3);
                prepare(&root, &image(&format!("{}", number % 3)), &[&name]);
                match store.pull(&name).await {
                    // Another task may have removed what this one had prepared.
                    Ok(_) | Err(Error::NotPresent { .. }) => {}
                    Err(error) => panic!("{error}"),
                }
                if number >= 3 {
                    store.remove(&name).await.unwrap();
                }
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        for number in 0..3 {
            store.remove(&format!("app{number}:1")).await.unwrap();
        }
        assert_eq!(store.list().await.unwrap(), []);
        assert_eq!(content(&root), (0, 0));
    });
}

#[test]
fn a_record_of_a_later_version_is_not_shown_and_its_content_stays() {
    check(|root| async move {
        let store = open(&root).await;
        let image = load(&store, &root, &image("x"), &["a"]).await;
        drop(store);
        {
            let records = Records::open(&root.join("images/images.redb")).unwrap();
            let mut record: serde_json::Value = records.get("images", &image.id).unwrap().unwrap();
            record["version"] = 99.into();
            records.put("images", &image.id, &record).unwrap();
        }
        let store = open(&root).await;
        assert_eq!(store.list().await.unwrap(), []);
        assert_eq!(content(&root), (4, 2));
    });
}
