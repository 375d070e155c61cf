use super::*;

/// Feeds the chunks, then the end, and compares the lines without their times.
fn check(chunks: &[&str], expected: &str) {
    let mut lines = Lines::new(b" stdout ");
    let mut out = Vec::new();
    for chunk in chunks {
        lines.feed(chunk.as_bytes(), b"T", &mut out);
    }
    lines.finish(b"T", &mut out);
    assert_eq!(String::from_utf8(out).unwrap(), expected, "{chunks:?}");
}

#[test]
fn lines_are_found_however_they_are_cut() {
    check(&["a\nb\n"], "T stdout F a\nT stdout F b\n");
    check(
        &["a", "b", "\n", "c", "\nd\n"],
        "T stdout F ab\nT stdout F c\nT stdout F d\n",
    );
    check(&["\n\n"], "T stdout F \nT stdout F \n");
    check(&["crlf\r\n"], "T stdout F crlf\r\n");
    check(&[], "");
    check(&[""], "");
}

#[test]
fn an_end_without_newline_is_partial() {
    check(&["a\nb"], "T stdout F a\nT stdout P b\n");
}

#[test]
fn lines_beyond_the_limit_are_cut_and_one_of_exactly_the_limit_is_whole() {
    let full = "x".repeat(MAX_LINE_BYTES);
    check(&[&full, "\n"], &format!("T stdout F {full}\n"));
    check(&[&format!("{full}\n")], &format!("T stdout F {full}\n"));
    check(&[&full], &format!("T stdout P {full}\n"));
    check(
        &[&format!("{full}y\n")],
        &format!("T stdout P {full}\nT stdout F y\n"),
    );
    check(
        &[&full, "y", "\n"],
        &format!("T stdout P {full}\nT stdout F y\n"),
    );
    let twice = format!("{full}{full}");
    check(
        &[&twice, "\n"],
        &format!("T stdout P {full}\nT stdout F {full}\n"),
    );
}

#[test]
fn whatever_is_written_can_be_had_back() {
    // Chunk sizes around the limit and its fractions, content with newlines at odd distances.
    let content: Vec<u8> = (0..200_000_u32)
        .map(|n| {
            if n % 17_001 == 0 || n % 997 == 3 {
                b'\n'
            } else {
                b'a'
            }
        })
        .collect();
    for size in [
        1,
        7,
        4096,
        MAX_LINE_BYTES - 1,
        MAX_LINE_BYTES,
        MAX_LINE_BYTES + 1,
        65_536,
    ] {
        let (mut lines, mut out) = (Lines::new(b" stderr "), Vec::new());
        for chunk in content.chunks(size) {
            lines.feed(chunk, b"T", &mut out);
            assert!(lines.pending.len() <= MAX_LINE_BYTES);
        }
        lines.finish(b"T", &mut out);
        let mut back = Vec::new();
        for line in out
            .strip_suffix(b"\n")
            .unwrap()
            .split(|byte| *byte == b'\n')
        {
            let (head, rest) = line.split_at("T stderr F ".len());
            assert!(rest.len() <= MAX_LINE_BYTES);
            back.extend_from_slice(rest);
            match head {
                b"T stderr F " => back.push(b'\n'),
                b"T stderr P " => {}
                _ => panic!("{}", String::from_utf8_lossy(head)),
            }
        }
        assert!(back == content, "chunks of {size}");
    }
}

#[test]
fn times_are_written_as_rfc_3339() {
    for (seconds, nanoseconds, text) in [
        (0, 0, "1970-01-01T00:00:00.000000000Z"),
        (951_782_399, 1, "2000-02-28T23:59:59.000000001Z"),
        (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
        (951_868_800, 0, "2000-03-01T00:00:00.000000000Z"),
        (1_735_689_599, 999_999_999, "2024-12-31T23:59:59.999999999Z"),
        (1_795_255_445, 120_000_000, "2026-11-21T10:04:05.120000000Z"),
        (4_107_542_399, 0, "2100-02-28T23:59:59.000000000Z"),
        (4_107_542_400, 0, "2100-03-01T00:00:00.000000000Z"),
        (253_402_300_799, 0, "9999-12-31T23:59:59.000000000Z"),
    ] {
        let time = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        assert_eq!(rfc3339(time), text);
    }
    let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(rfc3339(before), "1970-01-01T00:00:00.000000000Z");
}

fn contents(path: &std::path::Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines()
        .map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect()
}

#[test]
fn a_reopened_log_goes_on_in_the_new_file_and_loses_nothing() {
    let temp = tempfile::tempdir().unwrap();
    let path = temp.path().join("c").join("0.log");
    let mut log = Log::open(Some(path.clone())).unwrap();
    log.append(Stream::Stdout, b"one\ntw");
    log.append(Stream::Stderr, b"err\n");
    let rotated = temp.path().join("c").join("0.log.1");
    std::fs::rename(&path, &rotated).unwrap();
    log.append(Stream::Stderr, b"before\n");
    log.reopen().unwrap();
    log.append(Stream::Stdout, b"o\nthree");
    log.finish(Stream::Stdout);
    log.finish(Stream::Stderr);
    assert_eq!(
        contents(&rotated),
        ["stdout F one", "stderr F err", "stderr F before"]
    );
    assert_eq!(contents(&path), ["stdout F two", "stdout P three"]);
    let bytes =
        std::fs::metadata(&path).unwrap().len() + std::fs::metadata(&rotated).unwrap().len();
    assert_eq!((log.written_bytes(), log.dropped_bytes()), (bytes, 0));
    use std::os::unix::fs::PermissionsExt;
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o027,
        0
    );
}

#[test]
fn links_and_fifos_are_no_logs_and_a_failed_reopening_keeps_the_old_file() {
    let temp = tempfile::tempdir().unwrap();
    let (link, fifo) = (temp.path().join("link"), temp.path().join("fifo"));
    std::os::unix::fs::symlink("/dev/null", &link).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        &fifo,
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o600),
        0,
    )
    .unwrap();
    for path in [&link, &fifo, &temp.path().to_owned()] {
        assert!(Log::open(Some(path.clone())).is_err(), "{}", path.display());
    }
    let path = temp.path().join("log");
    let mut log = Log::open(Some(path.clone())).unwrap();
    let moved = temp.path().join("moved");
    std::fs::rename(&path, &moved).unwrap();
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    assert!(log.reopen().is_err());
    log.append(Stream::Stdout, b"kept\n");
    assert_eq!(contents(&moved), ["stdout F kept"]);
}

#[test]
fn a_full_disk_costs_whole_lines_and_is_counted() {
    let temp = tempfile::tempdir().unwrap();
    let mount = temp.path().join("small");
    std::fs::create_dir(&mount).unwrap();
    let small = sys::mount::tmpfs(Some(64 * 1024), 0o700).unwrap();
    sys::mount::attach(&small, &mount).unwrap();
    let path = mount.join("log");
    let mut log = Log::open(Some(path.clone())).unwrap();
    let line = [b'x'; 999];
    for _ in 0..200 {
        log.append(Stream::Stdout, &line);
        log.append(Stream::Stdout, b"\n");
    }
    let (written, dropped) = (log.written_bytes(), log.dropped_bytes());
    assert!(written > 50_000 && written <= 64 * 1024, "{written}");
    assert!(dropped > 100_000, "{dropped}");
    assert_eq!(std::fs::metadata(&path).unwrap().len(), written);
    // Room again: the next line stands alone and whole.
    let file = OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    log.append(Stream::Stdout, b"after\n");
    assert_eq!(contents(&path), ["stdout F after"]);
    drop((log, file, small));
    sys::mount::unmount(&mount, false).unwrap();
}

#[test]
fn without_a_path_nothing_is_kept() {
    let mut log = Log::open(None).unwrap();
    log.append(Stream::Stdout, &vec![b'x'; 1 << 20]);
    log.finish(Stream::Stdout);
    log.reopen().unwrap();
    assert_eq!((log.written_bytes(), log.dropped_bytes()), (0, 0));
    assert_eq!(log.stdout.pending.capacity(), 0);
}
