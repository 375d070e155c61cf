//! Which blocks are where.

use std::collections::VecDeque;
use std::io;

use super::super::Part;
use super::super::digest::{Block, ImageDigests};
use super::parked::{Parked, touches};

/// Blocks in their pipes, and digests of those that are done.
#[derive(Debug, Default)]
pub(super) struct State {
    /// To be stored.
    pub(super) parked: VecDeque<Parked>,
    /// What threads have in hand.
    pub(super) under_way: Vec<UnderWay>,
    pub(super) pipes: usize,
    /// CRIU has left the processes.
    pub(super) settled: bool,
    pub(super) closed: bool,
    pub(super) digests: ImageDigests,
    pub(super) failed: Option<io::Error>,
}

/// A block in the hand of a thread.
#[derive(Debug)]
pub(super) struct UnderWay {
    pub(super) block: Block,
    pub(super) thread: u32,
    /// The thread has a copy of it.
    pub(super) copied: bool,
}

impl State {
    /// The next block that may be stored: any once there are no pipes left, whatever it costs.
    pub(super) fn take(&mut self, most_pipes: usize) -> Option<Parked> {
        let any = self.settled || self.pipes >= most_pipes;
        let next = self
            .parked
            .iter()
            .position(|parked| any || parked.block.index > 0)?;
        self.parked.remove(next)
    }

    /// Whether references are left to what one of these parts has.
    pub(super) fn has_open(&self, parts: &[Part]) -> bool {
        let in_hand = |own: &UnderWay| !own.copied && touches(&own.block, parts);
        let mut parked = self.parked.iter();
        parked.any(|parked| parked.is_open(parts)) || self.under_way.iter().any(in_hand)
    }
}

/// Copies what has these parts, up to `left` bytes, and puts what could not be copied first.
pub(super) fn urgent(
    queue: &mut VecDeque<Parked>,
    parts: &[Part],
    left: &mut u64,
) -> io::Result<()> {
    let (mut first, mut rest) = (VecDeque::new(), VecDeque::new());
    for mut block in queue.drain(..) {
        if block.copy(parts, left)? {
            rest.push_back(block);
        } else {
            first.push_back(block);
        }
    }
    first.append(&mut rest);
    *queue = first;
    Ok(())
}
