//! Streams of bits, the lowest of a byte first. Sections begin at whole bytes.

/// What is written and read at once, at any byte.
const WORD: usize = 8;
/// Most bits written at once: up to 7 of the byte before wait for them in a word.
pub(super) const MOST_BITS: u32 = 57;

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
    /// Lets `write` append at most so many bits. Where they stand is in local variables meanwhile, which stay in registers.
    #[inline(always)]
    pub(super) fn batch(&mut self, bits: u64, write: impl FnOnce(&mut Batch<'_>)) {
        let most = self.length + bits.div_ceil(8) as usize + WORD;
        if most > self.memory.len() {
            self.memory.resize(most + self.memory.len() / 2, 0);
        }
        let rest = &mut self.memory[self.length..];
        let mut batch = Batch { rest, length: 0, pending: self.pending, num_pending: self.num_pending };
        write(&mut batch);
        self.length += batch.length;
        (self.pending, self.num_pending) = (batch.pending, batch.num_pending);
    }

    /// Fills the last byte up with zeros.
    pub(super) fn align(&mut self) {
        self.batch(8, |batch| batch.write(0, batch.num_pending.wrapping_neg() % 8));
    }

    /// The bytes, the last filled up with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.align();
        self.memory.truncate(self.length);
        self.memory
    }
}

/// Bits on their way to a [`BitWriter`].
pub(super) struct Batch<'a> {
    rest: &'a mut [u8],
    length: usize,
    pending: u64,
    num_pending: u32,
}

impl Batch<'_> {
    /// Appends the lowest `count` bits of `value`, whose others are zero; at most [`MOST_BITS`].
    #[inline(always)]
    pub(super) fn write(&mut self, value: u64, count: u32) {
        self.pending |= value << self.num_pending;
        self.num_pending += count;
        // Without a branch that depends on the bits: whole bytes are let go, the rest is written again with what follows.
        self.rest[self.length..self.length + WORD].copy_from_slice(&self.pending.to_le_bytes());
        let bytes = self.num_pending / 8;
        self.length += bytes as usize;
        self.pending >>= bytes * 8;
        self.num_pending %= 8;
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
