//! Streams of bits, the lowest of a byte first. Sections begin at whole bytes.

/// What is written and read at once, at any byte.
const WORD: usize = 8;
/// Bytes that the writer's memory grows by.
const GROWTH: usize = 4096;

/// Gathers bits.
#[derive(Default)]
pub(super) struct BitWriter {
    /// Zeros behind `length`.
    memory: Vec<u8>,
    length: usize,
    pending: u64,
    num_pending: u32,
}

impl BitWriter {
    /// Appends the lowest `count` bits of `value`, whose others are zero; at most 32.
    #[inline(always)]
    pub(super) fn write(&mut self, value: u32, count: u32) {
        self.pending |= u64::from(value) << self.num_pending;
        self.num_pending += count;
        // Without a branch that depends on the bits: whole bytes are let go, the rest is written again with what follows.
        if self.length + WORD > self.memory.len() {
            self.memory.resize(self.memory.len() + self.memory.len() / 2 + GROWTH, 0);
        }
        self.memory[self.length..self.length + WORD].copy_from_slice(&self.pending.to_le_bytes());
        let bytes = self.num_pending / 8;
        self.length += bytes as usize;
        self.pending >>= bytes * 8;
        self.num_pending %= 8;
    }

    /// Fills the last byte up with zeros.
    pub(super) fn align(&mut self) {
        self.write(0, self.num_pending.wrapping_neg() % 8);
    }

    /// The bytes, the last filled up with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.align();
        self.memory.truncate(self.length);
        self.memory
    }
}

/// The 57 bits or more from bit `place` of `bytes` on, lowest first; zeros behind the end.
#[inline(always)]
pub(super) fn bits_at(bytes: &[u8], place: usize) -> u64 {
    word_at(bytes, place / 8) >> (place % 8)
}

/// The 64 bits from byte `place` on; zeros behind the end.
#[inline(always)]
pub(super) fn word_at(bytes: &[u8], place: usize) -> u64 {
    let rest = bytes.get(place..).unwrap_or_default();
    rest.first_chunk().map_or_else(|| last_word(rest), |word| u64::from_le_bytes(*word))
}

#[cold]
fn last_word(rest: &[u8]) -> u64 {
    let mut word = [0; WORD];
    word[..rest.len()].copy_from_slice(rest);
    u64::from_le_bytes(word)
}
