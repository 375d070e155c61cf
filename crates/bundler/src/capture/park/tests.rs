use super::*;
use crate::blocks::{BLOCK_BYTES, BlockHasher, Scheme};
use crate::capture::route::Way;
use std::collections::VecDeque;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

/// A pipe with this content.
fn full(spaces: &Spaces, content: &[u8]) -> Piece {
    let (reader, writer) = rustix::pipe::pipe().unwrap();
    let mut writer = File::from(writer);
    let mut pipe = spaces.pipe().unwrap();
    for page in content.chunks(4096) {
        writer.write_all(page).unwrap();
        let length = page.len() as u64;
        assert_eq!(pipe.fill(&reader, length).unwrap(), length);
    }
    Piece::Pipe(pipe.close())
}

/// A block with these pieces.
fn parked(image: u32, index: usize, pieces: impl IntoIterator<Item = Piece>) -> Parked {
    let pieces: VecDeque<Piece> = pieces.into_iter().collect();
    let block = Block {
        image,
        index,
        offset: u64::from(image) * 16 * BLOCK_BYTES + index as u64 * BLOCK_BYTES,
        length: pieces.iter().map(Piece::length).sum(),
        way: Way::Direct,
    };
    Parked { block, pieces }
}

/// A block of a page in a pipe, and what is in it.
fn block(spaces: &Spaces, image: u32, index: usize) -> (Parked, Vec<u8>) {
    let content: Vec<u8> = (0..=240).cycle().skip(index).take(4096).collect();
    (parked(image, index, [full(spaces, &content)]), content)
}

fn park(spaces: &Spaces, parked: Parked) {
    let pipes = parked.pieces.into_iter().map(|piece| match piece {
        Piece::Pipe(pipe) => pipe,
        Piece::Copy(_) => panic!("it is in a pipe"),
    });
    spaces.park(parked.block, pipes.collect());
}

#[test]
fn few_pipes_are_enough_for_many_images() {
    let file = tempfile::tempfile_in("/var/tmp").unwrap();
    let signal = Arc::new(Signal::new().unwrap());
    // The first block of each image is to stay in its pipe, but then nothing would go on.
    let parking = Parking::with_pipes(2, &file, &signal).unwrap();
    let spaces = parking.spaces();
    let mut expected = Vec::new();
    for image in 0..40 {
        spaces.image(image);
        let (parked, content) = block(&spaces, image, 0);
        expected.push((parked.block.offset, content));
        park(&spaces, parked);
    }
    let digests = parking.finish().unwrap();
    assert_eq!(digests.len(), 40);
    for (offset, content) in expected {
        let mut found = vec![0; content.len()];
        file.read_exact_at(&mut found, offset).unwrap();
        assert!(found == content);
    }
}

#[test]
fn the_first_block_of_an_image_waits_until_criu_is_gone_and_the_others_do_not() {
    let file = tempfile::tempfile_in("/var/tmp").unwrap();
    let signal = Arc::new(Signal::new().unwrap());
    let parking = Parking::with_pipes(1000, &file, &signal).unwrap();
    let spaces = parking.spaces();
    let (first, content) = block(&spaces, 1, 0);
    let first_place = first.block.offset;
    park(&spaces, first);
    spaces.image(1);
    let (second, _) = block(&spaces, 1, 1);
    let place = second.block.offset;
    park(&spaces, second);
    let part = |begin| Part {
        image: 1,
        begin,
        end: begin + 1,
    };
    let begin = Instant::now();
    let soon = Deadline::after(Duration::from_secs(60));
    while file.metadata().unwrap().len() < place + 4096 {
        assert!(begin.elapsed() < Duration::from_secs(60), "the second one");
    }
    let mut found = vec![0; 4096];
    file.read_exact_at(&mut found, first_place).unwrap();
    assert_eq!(found, [0; 4096], "the first one");
    parking.land(&[part(4095)], soon).unwrap();
    parking.land(&[part(1 << 40)], soon).unwrap();
    parking.finish().unwrap();
    file.read_exact_at(&mut found, first_place).unwrap();
    assert!(found == content);
}

#[test]
fn a_block_of_pipes_and_copies_is_stored_whole() {
    let file = tempfile::tempfile_in("/var/tmp").unwrap();
    let signal = Arc::new(Signal::new().unwrap());
    let parking = Parking::start(&file, &signal).unwrap();
    let spaces = parking.spaces();
    spaces.image(1);
    // Longer than what is copied or written at once, and no multiple of either.
    let content: Vec<u8> = (0..=240)
        .cycle()
        .take(usize::try_from(BLOCK_BYTES).unwrap() - 5000)
        .collect();
    let all = Part {
        image: 1,
        begin: 0,
        end: BLOCK_BYTES,
    };
    let mut pieces = Vec::new();
    for (part, copied) in content
        .chunks(700_000)
        .zip([false, true].into_iter().cycle())
    {
        let mut piece = parked(1, 0, [full(&spaces, part)]);
        assert!(!copied || piece.copy(&[all], &mut BLOCK_BYTES.clone()).unwrap());
        pieces.extend(piece.pieces);
    }
    let mut digest = BlockHasher::new(Scheme::Blake3, 0);
    digest.update(&content);
    let expected = Scheme::Blake3.combine(&[digest.finish()]);
    let whole = parked(1, 0, pieces);
    let offset = whole.block.offset;
    parking.shared.lock().parked.push_back(whole);
    assert_eq!(parking.finish().unwrap(), HashMap::from([(1, expected)]));
    let mut found = vec![0; content.len()];
    file.read_exact_at(&mut found, offset).unwrap();
    assert!(found == content);
}

#[test]
fn a_failed_write_is_told_and_nothing_hangs() {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full");
    let signal = Arc::new(Signal::new().unwrap());
    let parking = Parking::start(&full.unwrap(), &signal).unwrap();
    let spaces = parking.spaces();
    let (parked, _) = block(&spaces, 1, 1);
    park(&spaces, parked);
    let error = parking.finish().unwrap_err();
    assert!(
        matches!(error, Error::NoSpace { .. } | Error::Io { .. }),
        "{error}"
    );
    let parking = Parking::start(&tempfile::tempfile().unwrap(), &signal).unwrap();
    let (parked, _) = block(&parking.spaces(), 1, 0);
    park(&parking.spaces(), parked);
    signal.abort();
    let soon = Deadline::after(Duration::from_secs(60));
    assert!(matches!(parking.land(&[], soon), Err(Error::Cancelled)));
    assert!(matches!(parking.finish(), Err(Error::Cancelled)));
}
