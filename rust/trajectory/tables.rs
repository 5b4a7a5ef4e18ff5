//! What a store learns from its first records and keeps beside them, so that each record is short and quick to code: the
//! ranks of tokens, and prefix codes for ranks and for the first bytes of logprobs.

use std::collections::HashMap;

use super::Trajectory;
use super::columns::{Precision, first_byte};
use super::prefix::{Alphabet, Code, Word};
use super::ranks::Ranks;

/// Response tokens that must be counted before anything is frozen.
const COUNTED: u64 = 1 << 16;
/// Logprobs that must have come with them to be worth a code.
const COUNTED_LOGPROBS: u64 = 1 << 12;

/// Frozen statistics of a store.
pub struct Tables {
    /// Which tokens are how frequent.
    pub ranks: Ranks,
    /// For what [`Ranks::code`] gives; version 4 of the format had none.
    pub tokens: Option<Code>,
    /// For the first byte of logprobs.
    pub logprobs: Option<Code>,
    /// Words by rank, each [`packed`]; only where they are needed, to encode.
    words: Vec<u32>,
}

impl Tables {
    /// Tables as they are kept, to decode with.
    pub fn new(ranks: Ranks, tokens: Option<Code>, logprobs: Option<Code>) -> Self {
        Tables { ranks, tokens, logprobs, words: Vec::new() }
    }

    /// What stands for a token in a stream; `code` is [`Self::tokens`].
    #[inline]
    pub fn word(&self, token: i32, code: &Code) -> Word {
        let number = self.ranks.code(token);
        match self.words.get(number as usize) {
            Some(packed) => Word { bits: u64::from(packed >> LENGTH_BITS), length: packed % (1 << LENGTH_BITS) },
            None => code.word(number),
        }
    }
}

/// The words of ranks have up to 23 bits: one number holds word and length.
const LENGTH_BITS: u32 = 5;

fn packed(word: Word) -> u32 {
    (word.bits as u32) << LENGTH_BITS | word.length
}

/// Counts what comes until it is enough.
pub struct Sample {
    tokens: HashMap<i32, u32>,
    num_tokens: u64,
    logprobs: [u64; 256],
}

impl Default for Sample {
    fn default() -> Self {
        Sample { tokens: HashMap::new(), num_tokens: 0, logprobs: [0; 256] }
    }
}

impl Sample {
    /// Counts these too; the tables, once there is enough.
    pub fn add<'a>(
        &mut self,
        trajectories: impl Iterator<Item = &'a Trajectory>,
        precision: Precision,
    ) -> Option<Tables> {
        for trajectory in trajectories {
            for &token in &trajectory.response_tokens {
                *self.tokens.entry(token).or_default() += 1;
            }
            for &value in trajectory.behavior_logprobs.iter().flatten() {
                self.logprobs[usize::from(first_byte(value, precision))] += 1;
            }
            self.num_tokens += trajectory.response_tokens.len() as u64;
            if self.num_tokens >= COUNTED {
                return Some(self.freeze());
            }
        }
        None
    }

    fn freeze(&self) -> Tables {
        let ranks = Ranks::of(&self.tokens);
        let codes = self.tokens.iter().map(|(&token, &count)| (ranks.code(token), u64::from(count)));
        let tokens = Code::learn(Alphabet::Numbers, codes);
        let words = (0..ranks.count() as u32).map(|rank| packed(tokens.word(rank))).collect();
        let enough = self.logprobs.iter().sum::<u64>() >= COUNTED_LOGPROBS;
        let logprobs = enough.then(|| Code::learn(Alphabet::Bytes, (0..).zip(self.logprobs)));
        Tables { ranks, tokens: Some(tokens), logprobs, words }
    }
}
