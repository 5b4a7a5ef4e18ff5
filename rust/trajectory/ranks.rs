//! Frequency ranks of tokens: numbers that are small where a token is frequent, whatever its id.

use std::cmp::Reverse;
use std::collections::HashMap;

use super::bytes::{Cursor, Damage, put_varint};

/// Most tokens that have a rank: as many as LEB128 writes in two bytes.
pub const MAX_RANKED: usize = 1 << 14;
/// Tokens from here on get no rank: bounds the table that finds the rank of a token.
const MAX_RANKED_TOKEN: usize = 1 << 20;
const UNRANKED: u16 = u16::MAX;

/// What turns tokens into codes and back: a ranked token's code is its rank, another's is its id behind all ranks.
pub struct Ranks {
    tokens: Vec<i32>,
    /// Rank by token; only where it is needed, to encode.
    codes: Vec<u16>,
}

impl Ranks {
    /// The ranks of tokens that came so often.
    pub fn of(counts: &HashMap<i32, u32>) -> Self {
        // What came only once may never come again.
        let often = counts.iter().filter(|&(&token, &count)| count > 1 && (token as usize) < MAX_RANKED_TOKEN);
        let mut often: Vec<(u32, i32)> = often.map(|(&token, &count)| (count, token)).collect();
        often.sort_unstable_by_key(|&(count, token)| (Reverse(count), token));
        let tokens: Vec<i32> = often.into_iter().take(MAX_RANKED).map(|(_, token)| token).collect();
        let size = tokens.iter().max().map_or(0, |&token| token as usize + 1);
        let mut codes = vec![UNRANKED; size];
        for (rank, &token) in tokens.iter().enumerate() {
            codes[token as usize] = rank as u16;
        }
        Ranks { tokens, codes }
    }

    /// The code of a token.
    #[inline]
    pub fn code(&self, token: i32) -> u32 {
        match self.codes.get(token as usize) {
            Some(&code) if code != UNRANKED => u32::from(code),
            _ => self.tokens.len() as u32 + token as u32,
        }
    }

    /// How many tokens have one.
    pub fn count(&self) -> usize {
        self.tokens.len()
    }

    /// The token of a code; negative if it exceeds 31 bits.
    #[inline]
    pub fn token(&self, code: u32) -> i32 {
        // Without a branch that depends on whether it has a rank: that is not to be predicted.
        let ranked =
            self.tokens.get((code as usize).min(self.tokens.len().saturating_sub(1))).copied().unwrap_or_default();
        let beyond = code.wrapping_sub(self.tokens.len() as u32) as i32;
        if (code as usize) < self.tokens.len() { ranked } else { beyond }
    }

    /// As bytes.
    pub fn put(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(3 * self.tokens.len() + 3);
        put_varint(&mut out, self.tokens.len() as u64);
        for &token in &self.tokens {
            put_varint(&mut out, token as u64);
        }
        out
    }

    /// From bytes; it decodes only.
    pub fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(bytes);
        let count = cursor.length(MAX_RANKED, "count of ranks")?;
        let mut tokens = Vec::with_capacity(count);
        for _ in 0..count {
            tokens.push(cursor.length(MAX_RANKED_TOKEN, "token")? as i32);
        }
        cursor.finish("the last rank")?;
        Ok(Ranks { tokens, codes: Vec::new() })
    }
}
