use serde::Deserialize;

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Thing {
    version: u32,
    name: String,
}

fn thing(name: &str) -> Thing {
    Thing {
        version: 1,
        name: name.to_owned(),
    }
}

#[test]
fn records_are_found_again_after_reopening_in_the_order_of_their_keys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    {
        let records = Records::open(&path).unwrap();
        assert_eq!(records.get::<Thing>("things", "a").unwrap(), None);
        assert_eq!(records.list::<Thing>("things").unwrap(), []);
        records.put("things", "b", &thing("second")).unwrap();
        records.put("things", "a", &thing("first")).unwrap();
        records.put("things", "a", &thing("replaced")).unwrap();
        records.put("others", "a", &thing("other")).unwrap();
    }
    let records = Records::open(&path).unwrap();
    let all = records.list::<Thing>("things").unwrap();
    assert_eq!(
        all,
        [
            ("a".to_owned(), thing("replaced")),
            ("b".to_owned(), thing("second"))
        ]
    );
    assert!(records.remove("things", "a").unwrap());
    assert!(!records.remove("things", "a").unwrap());
    assert_eq!(records.get::<Thing>("things", "a").unwrap(), None);
    assert_eq!(records.get("others", "a").unwrap(), Some(thing("other")));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
        0o600
    );
}

#[test]
fn a_transaction_takes_effect_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(&dir.path().join("state.redb")).unwrap();
    records.put("things", "kept", &thing("kept")).unwrap();
    let error = records.transaction(|transaction| {
        transaction.put("things", "new", &thing("new"))?;
        assert!(transaction.remove("things", "kept")?);
        assert_eq!(transaction.list::<Thing>("things")?.len(), 1);
        Err::<(), Error>(Error::NotPresent {
            reference: "why".to_owned(),
        })
    });
    assert!(matches!(error, Err(Error::NotPresent { .. })));
    assert_eq!(
        records.list("things").unwrap(),
        [("kept".to_owned(), thing("kept"))]
    );
    let counted = records.transaction(|transaction| {
        transaction.put("things", "new", &thing("new"))?;
        transaction.put("others", "new", &thing("other"))?;
        assert_eq!(transaction.get("things", "new")?, Some(thing("new")));
        Ok::<_, Error>(transaction.list::<Thing>("things")?.len())
    });
    assert_eq!(counted.unwrap(), 2);
    assert_eq!(records.get("others", "new").unwrap(), Some(thing("other")));
}

#[test]
fn what_was_committed_is_in_the_file_before_the_call_returns() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let records = Records::open(&path).unwrap();
    for index in 0..50 {
        records
            .put("things", &format!("{index:02}"), &thing("x"))
            .unwrap();
        // As after a SIGKILL: the file as it is now, opened by another process.
        let copy = dir.path().join(format!("copy-{index}"));
        std::fs::copy(&path, &copy).unwrap();
        let found = Records::open(&copy)
            .unwrap()
            .list::<Thing>("things")
            .unwrap();
        assert_eq!(found.len(), index + 1);
    }
}

#[test]
fn a_second_opener_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    let _records = Records::open(&path).unwrap();
    let error = Records::open(&path).unwrap_err();
    let Error::Records { source, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(matches!(**source, redb::Error::DatabaseAlreadyOpen));
}

#[test]
fn a_creation_that_was_cut_short_is_begun_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.redb");
    drop(
        OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(dir.path().join("state.redb.new")),
    );
    assert!(dir.path().join("state.redb.new").exists());
    let records = Records::open(&path).unwrap();
    records.put("things", "a", &thing("a")).unwrap();
    assert!(!dir.path().join("state.redb.new").exists());
}

#[test]
fn a_full_disk_fails_the_write_and_the_next_one_works_when_there_is_space() {
    let dir = tempfile::tempdir().unwrap();
    let result = sys::mount::in_private_namespace(|| {
        let disk = sys::mount::tmpfs(Some(8 << 20), 0o700)?;
        sys::mount::attach(disk, dir.path())?;
        let records = Records::open(&dir.path().join("state.redb")).unwrap();
        records.put("things", "kept", &thing("kept")).unwrap();
        let filler = dir.path().join("filler");
        let mut file = OpenOptions::new()
            .create_new(true)
            .write(true)
            .open(&filler)?;
        let full = std::io::copy(&mut std::io::repeat(7), &mut file).unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
        let big = thing(&"x".repeat(2 << 20));
        let error = records.put("things", "big", &big).unwrap_err();
        assert!(matches!(error, Error::Records { .. }), "{error:?}");
        drop(file);
        std::fs::remove_file(&filler)?;
        assert_eq!(records.get("things", "kept").unwrap(), Some(thing("kept")));
        assert_eq!(records.get::<Thing>("things", "big").unwrap(), None);
        records.put("things", "small", &thing("small")).unwrap();
        assert_eq!(records.list::<Thing>("things").unwrap().len(), 2);
        Ok(())
    });
    result.unwrap();
}

#[test]
fn records_of_another_shape_and_giants_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let records = Records::open(&dir.path().join("state.redb")).unwrap();
    records.put("things", "odd", &7).unwrap();
    let error = records.get::<Thing>("things", "odd").unwrap_err();
    assert!(
        matches!(&error, Error::Record { table, key, .. } if table == "things" && key == "odd")
    );
    let giant = "x".repeat(MAX_RECORD_BYTES);
    let error = records.put("things", "giant", &giant).unwrap_err();
    assert!(error.to_string().contains("giant"), "{error}");
    assert_eq!(
        records.list::<serde_json::Value>("things").unwrap().len(),
        1
    );
}
