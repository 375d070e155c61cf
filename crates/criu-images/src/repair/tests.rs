//! Edits of real images.

use super::{CoreEdits, RepairError, SkipError, edit_core, rearm_timers, skip_header_page};
use crate::proto::{CoreEntry, FileEntry, PagemapEntry};
use crate::testing;

#[test]
fn a_periodic_timer_with_an_unread_expiry_is_armed_again() {
    let mut set = testing::images("python");
    testing::edit(&mut set, "files.img", |files: &mut Vec<FileEntry>| {
        let timer = files.iter_mut().find_map(|file| file.tfd.as_mut()).unwrap();
        assert_eq!((timer.isec, timer.insec), (1, 0));
        (timer.ticks, timer.vsec, timer.vnsec) = (3, 0, 0);
    });
    let (repaired, count) = rearm_timers(&set.0["files.img"]).unwrap();
    assert_eq!(count, 1);
    set.0.insert("files.img".into(), repaired.clone());
    let images = testing::decode(&set);
    let timer = images
        .files
        .values()
        .find_map(|file| file.tfd.as_ref())
        .unwrap();
    assert_eq!(
        (timer.ticks, timer.vsec, timer.vnsec, timer.isec),
        (3, 0, 1, 1)
    );
    assert_eq!(
        rearm_timers(&repaired).unwrap(),
        (repaired, 0),
        "a second time does nothing"
    );
}

#[test]
fn other_timers_stay_as_they_are() {
    for (ticks, vnsec, isec) in [(0, 0, 1), (3, 5, 1), (3, 0, 0)] {
        let mut set = testing::images("python");
        testing::edit(&mut set, "files.img", |files: &mut Vec<FileEntry>| {
            let timer = files.iter_mut().find_map(|file| file.tfd.as_mut()).unwrap();
            (timer.ticks, timer.vsec, timer.vnsec, timer.isec) = (ticks, 0, vnsec, isec);
        });
        let files = &set.0["files.img"];
        assert_eq!(rearm_timers(files).unwrap(), (files.clone(), 0));
    }
}

#[test]
fn fields_from_the_future_survive_an_edit() {
    let mut set = testing::images("python");
    testing::edit(&mut set, "files.img", |files: &mut Vec<FileEntry>| {
        let timer = files.iter_mut().find_map(|file| file.tfd.as_mut()).unwrap();
        (timer.ticks, timer.vsec, timer.vnsec) = (1, 0, 0);
    });
    let (header, mut entries) = testing::split("files.img", &set.0["files.img"]);
    for entry in &mut entries {
        entry.extend([0xf8, 0x3f, 7]); // field 1023, a number
    }
    let bytes = super::join(&header, &entries).unwrap();
    let (repaired, count) = rearm_timers(&bytes).unwrap();
    let (_, entries) = testing::split("files.img", &repaired);
    assert_eq!(count, 1);
    assert!(
        entries
            .iter()
            .all(|entry| entry.ends_with(&[0xf8, 0x3f, 7]))
    );
}

#[test]
fn node_specific_values_of_a_core_are_adapted() {
    let mut set = testing::images("python");
    testing::edit(&mut set, "core-1.img", |cores: &mut Vec<CoreEntry>| {
        let task = cores[0].tc.as_mut().unwrap();
        task.loginuid = Some(1000);
        task.oom_score_adj = Some(-997);
    });
    let edits = CoreEdits {
        oom_score_adj_at_least: Some(-500),
        forget_login: true,
        rlimits_at_most: [(7, 1024)].into(),
    };
    let core = edit_core(&set.0["core-1.img"], &edits).unwrap();
    set.0.insert("core-1.img".into(), core.clone());
    let images = testing::decode(&set);
    let task = images.cores[&1].tc.as_ref().unwrap();
    assert_eq!((task.loginuid, task.oom_score_adj), (None, Some(-500)));
    let limits = &task.rlimits.as_ref().unwrap().rlimits;
    assert_eq!((limits[7].cur, limits[7].max), (1024, 1024));
    assert_eq!(limits[6].max, 96_365, "others stay");
    assert_eq!(edit_core(&core, &edits).unwrap(), core);
    assert_eq!(edit_core(&core, &CoreEdits::default()).unwrap(), core);
}

#[test]
fn the_header_page_is_skipped_by_one_entry_in_front() {
    let mut set = testing::images("python");
    let before = testing::decode(&set).pagemaps[&1].clone();
    let bytes = skip_header_page(&set.0["pagemap-1.img"], true).unwrap();
    set.0.insert("pagemap-1.img".into(), bytes);
    let after = testing::decode(&set).pagemaps[&1].clone();
    assert_eq!(after.pages_id, before.pages_id);
    assert_eq!(after.entries[1..], before.entries);
    let first = PagemapEntry {
        vaddr: before.entries[0].vaddr,
        compat_nr_pages: 1,
        in_parent: None,
        flags: Some(4),
        nr_pages: Some(1),
    };
    assert_eq!(after.entries[0], first);
}

#[test]
fn page_maps_that_cannot_skip_are_told() {
    let mut set = testing::images("python");
    let change = |set: &mut crate::MemoryImages, flags| {
        testing::edit(set, "pagemap-1.img", |entries: &mut Vec<PagemapEntry>| {
            entries[0].flags = Some(flags);
        });
        set.0["pagemap-1.img"].clone()
    };
    let lazy = change(&mut set, 6);
    assert_eq!(skip_header_page(&lazy, true), Err(SkipError::FirstIsLazy));
    assert!(skip_header_page(&lazy, false).is_ok());
    let absent = change(&mut set, 0);
    assert_eq!(
        skip_header_page(&absent, false),
        Err(SkipError::FirstIsAbsent)
    );
    let empty = &set.0["pagemap-shmem-0.img"];
    assert_eq!(skip_header_page(empty, false), Err(SkipError::Empty));
}

#[test]
fn broken_images_are_refused() {
    let files = &testing::images("python").0["files.img"];
    for end in [0, 7, 9, files.len() - 1] {
        assert!(
            matches!(rearm_timers(&files[..end]), Err(RepairError::Malformed(_))),
            "{end}"
        );
    }
    assert!(rearm_timers(&[0; 8]).is_err());
    assert!(edit_core(files, &CoreEdits::default()).is_err());
    assert!(skip_header_page(files, false).is_err());
}
