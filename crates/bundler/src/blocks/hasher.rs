//! The digest of one block, and that of a whole from those of its blocks.

use blake3::hazmat::{
    ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root,
};
use sha2::{Digest as _, Sha256};

use super::BLOCK_BYTES;

/// How page images are digested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// BLAKE3 of the whole.
    Blake3,
    /// SHA-256 of the SHA-256 digests of its blocks, one after the other: format version 2.
    Sha256OfBlocks,
}

/// The digest of one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct BlockDigest {
    /// As a part of a whole.
    part: [u8; 32],
    /// Of a first block: when it is the whole.
    whole: [u8; 32],
}

/// The digest of one block in the making.
#[derive(Debug)]
pub(crate) enum BlockHasher {
    Blake3 {
        hasher: Box<blake3::Hasher>,
        first: bool,
    },
    Sha256(Sha256),
}

impl BlockHasher {
    /// Of block `index`, from 0 on, which is not empty.
    pub(crate) fn new(scheme: Scheme, index: u64) -> Self {
        match scheme {
            Scheme::Sha256OfBlocks => Self::Sha256(Sha256::new()),
            Scheme::Blake3 => {
                let mut hasher = Box::new(blake3::Hasher::new());
                hasher.set_input_offset(index.saturating_mul(BLOCK_BYTES));
                let first = index == 0;
                Self::Blake3 { hasher, first }
            }
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(digest) => digest.update(bytes),
            Self::Blake3 { hasher, .. } => {
                hasher.update(bytes);
            }
        }
    }

    pub(crate) fn finish(self) -> BlockDigest {
        match self {
            Self::Sha256(digest) => BlockDigest {
                part: digest.finalize().into(),
                ..BlockDigest::default()
            },
            Self::Blake3 { hasher, .. } if hasher.count() == 0 => BlockDigest::default(),
            Self::Blake3 { hasher, first } => BlockDigest {
                part: hasher.finalize_non_root(),
                whole: if first {
                    hasher.finalize().into()
                } else {
                    [0; 32]
                },
            },
        }
    }
}

impl Scheme {
    /// The digest of a whole from those of all of its blocks, as lower-case hexadecimal digits.
    pub(crate) fn combine(self, blocks: &[BlockDigest]) -> String {
        match (self, blocks) {
            (Self::Sha256OfBlocks, blocks) => {
                let mut whole = Sha256::new();
                for block in blocks {
                    whole.update(block.part);
                }
                hex::encode(whole.finalize())
            }
            (Self::Blake3, []) => blake3::hash(&[]).to_string(),
            (Self::Blake3, [only]) => hex::encode(only.whole),
            (Self::Blake3, blocks) => {
                let (left, right) = blocks.split_at(left_half(blocks.len()));
                merge_subtrees_root(&subtree(left), &subtree(right), Mode::Hash).to_string()
            }
        }
    }
}

/// How many of `blocks` blocks, more than one, are to the left of a node: the largest power of two below
/// (section 2.1 of the BLAKE3 paper; a block is 2 to the 12 chunks).
fn left_half(blocks: usize) -> usize {
    1 << (blocks - 1).ilog2()
}

/// The chaining value of the node above these blocks.
fn subtree(blocks: &[BlockDigest]) -> ChainingValue {
    match blocks {
        [] => ChainingValue::default(),
        [only] => only.part,
        blocks => {
            let (left, right) = blocks.split_at(left_half(blocks.len()));
            merge_subtrees_non_root(&subtree(left), &subtree(right), Mode::Hash)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_of_blocks_gives_the_plain_digest() {
        let block = usize::try_from(BLOCK_BYTES).unwrap();
        let content: Vec<u8> = (0..=240).cycle().take(block * 9 + 5).collect();
        for blocks in 1..=10 {
            let content = &content[..content.len().min(blocks * block)];
            let digests: Vec<_> = (0..)
                .zip(content.chunks(block))
                .map(|(index, block)| {
                    let mut hasher = BlockHasher::new(Scheme::Blake3, index);
                    let (one, other) = block.split_at(block.len() / 3);
                    hasher.update(one);
                    hasher.update(other);
                    hasher.finish()
                })
                .collect();
            assert_eq!(digests.len(), blocks);
            let expected = blake3::hash(content).to_string();
            assert_eq!(Scheme::Blake3.combine(&digests), expected, "{blocks}");
        }
        let empty = blake3::hash(b"").to_string();
        assert_eq!(Scheme::Blake3.combine(&[]), empty);
    }
}
