//! Frequency ranks of tokens: the most frequent 128 take one byte, the next 16,256 two, whatever their ids are. A store
//! counts the tokens of its first records, freezes the ranks, and keeps them beside the records.

use std::collections::HashMap;

use super::bytes::{Cursor, Damage, put_varint};

/// Most tokens that have a rank: as many as LEB128 writes in two bytes.
pub const MAX_RANKED: usize = 1 << 14;
/// Tokens that must be counted before their ranks are frozen.
const COUNTED: u64 = 1 << 16;
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
    /// The code of a token.
    #[inline]
    pub fn code(&self, token: i32) -> u64 {
        match self.codes.get(token as usize) {
            Some(&code) if code != UNRANKED => u64::from(code),
            _ => self.tokens.len() as u64 + token as u64,
        }
    }

    /// The token of a code; `None` if it exceeds 31 bits.
    #[inline]
    pub fn token(&self, code: u64) -> Option<i32> {
        match self.tokens.get(code as usize) {
            Some(&token) => Some(token),
            None => i32::try_from(code - self.tokens.len() as u64).ok(),
        }
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

/// Counts tokens until there are enough of them to freeze their ranks.
#[derive(Default)]
pub struct Counts {
    counts: HashMap<i32, u32>,
    total: u64,
}

impl Counts {
    /// Counts these too; the ranks, once there are enough.
    pub fn add<'a>(&mut self, columns: impl Iterator<Item = &'a [i32]>) -> Option<Ranks> {
        for column in columns {
            for &token in column {
                *self.counts.entry(token).or_default() += 1;
            }
            self.total += column.len() as u64;
            if self.total >= COUNTED {
                return Some(self.freeze());
            }
        }
        None
    }

    fn freeze(&self) -> Ranks {
        // What came only once may never come again.
        let often = self.counts.iter().filter(|&(&token, &count)| count > 1 && (token as usize) < MAX_RANKED_TOKEN);
        let mut often: Vec<(u32, i32)> = often.map(|(&token, &count)| (count, token)).collect();
        often.sort_unstable_by_key(|&(count, token)| (std::cmp::Reverse(count), token));
        let tokens: Vec<i32> = often.into_iter().take(MAX_RANKED).map(|(_, token)| token).collect();
        let size = tokens.iter().max().map_or(0, |&token| token as usize + 1);
        let mut codes = vec![UNRANKED; size];
        for (rank, &token) in tokens.iter().enumerate() {
            codes[token as usize] = rank as u16;
        }
        Ranks { tokens, codes }
    }
}
