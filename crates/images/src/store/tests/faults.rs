//! Crashes, spoiled content, and everything at once.

use super::*;

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
