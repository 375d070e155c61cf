//! Root filesystems and the layers that they hold.

use super::*;

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
