//! What a path through a filter says about the arguments of the call.
//!
//! Filters see 32 bits at a time. For each such word: bits that are known, an unsigned range, and
//! masked values that it does not have. All statements are sound: what they imply holds for every
//! call that takes the path; they may miss something that holds too.

use super::profile::{Comparison, Condition};

/// Words of `struct seccomp_data`.
const WORDS: usize = 16;
/// Word of the first argument's lower half.
const FIRST_ARGUMENT: usize = 4;

/// Values that a word is known not to have, at most.
const MAX_NOT: usize = 64;

/// Facts about one word.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Word {
    known: u32,
    bits: u32,
    least: u32,
    most: u32,
    not: Vec<(u32, u32)>,
}

impl Default for Word {
    fn default() -> Self {
        Self {
            known: 0,
            bits: 0,
            least: 0,
            most: u32::MAX,
            not: Vec::new(),
        }
    }
}

/// A statement about `word & mask`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Test {
    Equal(u32),
    NotEqual(u32),
    AtLeast(u32),
    Less(u32),
    AnyBit(u32),
    NoBit(u32),
}

/// Facts about all words of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Facts {
    words: [Word; WORDS],
    narrow: bool,
}

impl Facts {
    /// Nothing but that arguments of 32-bit calls have no upper half.
    pub(crate) fn new(narrow: bool) -> Self {
        let mut facts = Self {
            words: std::array::from_fn(|_| Word::default()),
            narrow,
        };
        if narrow {
            for (index, word) in facts.words.iter_mut().enumerate().skip(FIRST_ARGUMENT) {
                if index % 2 == 1 {
                    *word = Word {
                        known: u32::MAX,
                        most: 0,
                        ..Word::default()
                    };
                }
            }
        }
        facts
    }

    /// Adds a statement about a word. `false`: no call fits any more.
    pub(crate) fn assume(&mut self, index: usize, mask: u32, test: Test) -> bool {
        self.words
            .get_mut(index)
            .is_some_and(|word| word.assume(mask, test))
    }

    /// The only value an argument can have.
    pub(crate) fn exact(&self, argument: u8) -> Option<u64> {
        let (least, most) = self.range(argument);
        (least == most).then_some(least)
    }

    /// Whether every call that fits also fits the condition.
    pub(crate) fn implies(&self, condition: &Condition) -> bool {
        let (least, most) = self.range(condition.index);
        let value = self.fit(condition.value);
        match condition.op {
            Comparison::Equal => least == value && most == value,
            Comparison::NotEqual => {
                value < least || value > most || self.differs(condition.index, u64::MAX, value)
            }
            Comparison::Less => most < value,
            Comparison::AtMost => most <= value,
            Comparison::AtLeast => least >= value,
            Comparison::Greater => least > value,
            Comparison::MaskedEqual => {
                self.has(condition.index, value, self.fit(condition.value_two))
            }
        }
    }

    /// Whether no call that fits also fits the condition.
    pub(crate) fn refutes(&self, condition: &Condition) -> bool {
        let opposite = |op| Condition { op, ..*condition };
        match condition.op {
            Comparison::Equal => self.implies(&opposite(Comparison::NotEqual)),
            Comparison::NotEqual => self.implies(&opposite(Comparison::Equal)),
            Comparison::Less => self.implies(&opposite(Comparison::AtLeast)),
            Comparison::AtMost => self.implies(&opposite(Comparison::Greater)),
            Comparison::AtLeast => self.implies(&opposite(Comparison::Less)),
            Comparison::Greater => self.implies(&opposite(Comparison::AtMost)),
            Comparison::MaskedEqual => {
                let (mask, value) = (self.fit(condition.value), self.fit(condition.value_two));
                self.differs(condition.index, mask, value)
            }
        }
    }

    /// A profile's value as libseccomp compiles it: for 32-bit calls, its lower half.
    fn fit(&self, value: u64) -> u64 {
        if self.narrow {
            u64::from(lower(value))
        } else {
            value
        }
    }

    fn halves(&self, argument: u8) -> Option<(&Word, &Word)> {
        let low = FIRST_ARGUMENT.checked_add(usize::from(argument).checked_mul(2)?)?;
        Some((self.words.get(low)?, self.words.get(low + 1)?))
    }

    fn range(&self, argument: u8) -> (u64, u64) {
        self.halves(argument).map_or((0, u64::MAX), |(low, high)| {
            let join = |high: u32, low: u32| u64::from(high) << 32 | u64::from(low);
            (
                join(high.least(), low.least()),
                join(high.most(), low.most()),
            )
        })
    }

    /// Whether `argument & mask` is `value` for certain.
    fn has(&self, argument: u8, mask: u64, value: u64) -> bool {
        self.halves(argument).is_some_and(|(low, high)| {
            value & !mask == 0
                && low.has(lower(mask), lower(value))
                && high.has(upper(mask), upper(value))
        })
    }

    /// Whether `argument & mask` is not `value` for certain.
    fn differs(&self, argument: u8, mask: u64, value: u64) -> bool {
        self.halves(argument).is_some_and(|(low, high)| {
            value & !mask != 0
                || low.differs(lower(mask), lower(value))
                || high.differs(upper(mask), upper(value))
        })
    }
}

fn lower(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

fn upper(value: u64) -> u32 {
    lower(value >> 32)
}

impl Word {
    fn least(&self) -> u32 {
        self.least.max(self.bits)
    }

    fn most(&self) -> u32 {
        self.most.min(self.bits | !self.known)
    }

    fn has(&self, mask: u32, value: u32) -> bool {
        let single = self.least() == self.most();
        value & !mask == 0
            && (self.known & mask == mask && self.bits & mask == value
                || single && self.least() & mask == value)
    }

    fn differs(&self, mask: u32, value: u32) -> bool {
        if value & !mask != 0 || (self.bits ^ value) & mask & self.known != 0 {
            return true;
        }
        if mask == u32::MAX && (value < self.least() || value > self.most()) {
            return true;
        }
        // A known difference under a narrower mask is one under this mask too.
        self.not
            .iter()
            .any(|(other, not)| *other & !mask == 0 && value & other == *not)
    }

    fn assume(&mut self, mask: u32, test: Test) -> bool {
        let possible = match test {
            Test::Equal(value) => self.assume_equal(mask, value),
            Test::NotEqual(value) => self.assume_not(mask, value),
            Test::AtLeast(value) => {
                // The word is at least what its masked part is.
                self.least = self.least.max(value);
                value <= mask
            }
            Test::Less(0) => false,
            Test::Less(value) => {
                if mask == u32::MAX {
                    self.most = self.most.min(value - 1);
                }
                true
            }
            Test::AnyBit(bits) => self.assume_not(mask & bits, 0),
            Test::NoBit(bits) => self.assume_equal(mask & bits, 0),
        };
        possible && self.least() <= self.most()
    }

    fn assume_equal(&mut self, mask: u32, value: u32) -> bool {
        if self.differs(mask, value) {
            return false;
        }
        self.known |= mask;
        self.bits = self.bits & !mask | value;
        true
    }

    fn assume_not(&mut self, mask: u32, value: u32) -> bool {
        if self.has(mask, value) || mask == 0 && value == 0 {
            return false;
        }
        // Forgetting is allowed, growing without bound is not.
        if value & !mask == 0 && self.not.len() < MAX_NOT {
            self.not.push((mask, value));
        }
        if mask == u32::MAX {
            if value == self.least {
                self.least = self.least.saturating_add(1);
            }
            if value == self.most {
                self.most = self.most.saturating_sub(1);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::{Facts, Test};
    use crate::seccomp::profile::{Comparison, Condition};

    fn condition(op: Comparison, value: u64, value_two: u64) -> Condition {
        Condition {
            index: 0,
            value,
            value_two,
            op,
        }
    }

    #[test]
    fn equal_halves_imply_what_holds_of_the_value() {
        let mut facts = Facts::new(false);
        assert!(facts.assume(4, u32::MAX, Test::Equal(8)));
        assert!(
            !facts.implies(&condition(Comparison::Equal, 8, 0)),
            "upper half is open"
        );
        assert!(facts.assume(5, u32::MAX, Test::Equal(0)));
        assert_eq!(facts.exact(0), Some(8));
        assert!(facts.implies(&condition(Comparison::Equal, 8, 0)));
        assert!(facts.refutes(&condition(Comparison::Equal, 9, 0)));
        assert!(facts.implies(&condition(Comparison::Less, 9, 0)));
        assert!(facts.refutes(&condition(Comparison::Greater, 8, 0)));
        assert!(facts.implies(&condition(Comparison::MaskedEqual, 0xc, 8)));
        assert!(!facts.assume(4, u32::MAX, Test::Equal(9)), "contradiction");
    }

    #[test]
    fn masked_bits_and_ranges_are_kept() {
        let mut facts = Facts::new(true);
        assert!(facts.assume(4, 0x7e02_0000, Test::Equal(0)));
        assert!(facts.implies(&condition(Comparison::MaskedEqual, 0x7e02_0000, 0)));
        assert!(!facts.implies(&condition(Comparison::MaskedEqual, 0x7f02_0000, 0)));
        let mut facts = Facts::new(true);
        assert!(facts.assume(4, u32::MAX, Test::AtLeast(10)));
        assert!(facts.assume(4, u32::MAX, Test::Less(20)));
        assert!(facts.implies(&condition(Comparison::AtLeast, 10, 0)));
        assert!(facts.refutes(&condition(Comparison::Equal, 20, 0)));
        assert!(!facts.clone().assume(4, u32::MAX, Test::AtLeast(20)));
        assert!(facts.assume(4, u32::MAX, Test::NotEqual(12)));
        assert!(facts.implies(&condition(Comparison::NotEqual, 12, 0)));
        assert!(!facts.implies(&condition(Comparison::NotEqual, 13, 0)));
        assert!(!facts.assume(4, 0, Test::AnyBit(1)), "no bit is none");
    }
}
