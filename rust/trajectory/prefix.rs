//! Prefix codes that are learned once and kept beside what they code, so that a short column needs no table of its own:
//! coding one is a look-up a number. Columns are cut into four streams, which are decoded in turns, for one step of a
//! stream has to wait for the step before.
//!
//! ```text
//! column   4 × { bytes of the stream:varint }  4 × stream    each of a quarter of the numbers, rounded up
//! stream   per number: its symbol's word, then its extra bits; from the lowest bit of a byte on; zeros to a whole byte
//! ```

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::bytes::{Cursor, Damage, put_varint};

/// Most bits of a word: the table to decode with has an entry for each value of so many bits.
const MAX_WORD_BITS: u32 = 11;
const TABLE: usize = 1 << MAX_WORD_BITS;
const STREAMS: usize = 4;
/// Bytes that are loaded at a time: a word and its extra bits, wherever they begin in a byte.
const LOAD: usize = 8;
/// Words without extra bits that a load is enough for.
const BYTES_A_LOAD: usize = 5;
/// Most bytes of a coded number: a word and 29 extra bits.
const MAX_CODED_BYTES: usize = 5;
/// Most bytes of a stream.
const MAX_STREAM_BYTES: usize = MAX_CODED_BYTES * super::MAX_TOKENS;

/// What the symbols of a code mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alphabet {
    /// Each symbol is a byte.
    Bytes,
    /// Numbers by size, four symbols for each power of two; what tells the numbers of a symbol apart are extra bits.
    Numbers,
}

impl Alphabet {
    fn symbols(self) -> usize {
        match self {
            Alphabet::Bytes => 256,
            Alphabet::Numbers => 120,
        }
    }

    /// The symbol of a number, and its extra bits.
    #[inline]
    fn symbol(self, number: u32) -> (usize, Word) {
        match self {
            Alphabet::Bytes => (number as usize, Word::default()),
            Alphabet::Numbers => {
                let shifted = u64::from(number) + 4;
                let length = shifted.ilog2() - 2;
                let symbol = 4 * length as usize + (shifted >> length) as usize - 4;
                (symbol, Word { bits: shifted & ((1 << length) - 1), length })
            }
        }
    }

    /// How many extra bits follow a symbol's word.
    #[inline(always)]
    fn extra_bits(self, symbol: u8) -> u32 {
        match self {
            Alphabet::Bytes => 0,
            Alphabet::Numbers => u32::from(symbol / 4),
        }
    }

    /// The number of a symbol with these extra bits.
    #[inline(always)]
    fn number(self, symbol: u8, extra: u32) -> u32 {
        match self {
            Alphabet::Bytes => u32::from(symbol),
            Alphabet::Numbers => ((4 + u32::from(symbol % 4)) << (symbol / 4)).wrapping_add(extra).wrapping_sub(4),
        }
    }
}

/// A complete prefix code for every symbol of an alphabet.
pub struct Code {
    alphabet: Alphabet,
    words: Vec<Word>,
    table: Box<[Entry; TABLE]>,
}

/// Bits of a stream, the first one lowest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Word {
    /// The bits; zeros above them.
    pub bits: u64,
    /// How many they are, at most 40.
    pub length: u32,
}

/// What the next bits of a stream begin with: a symbol, by a word of this length. Small, for the table is read all over.
#[derive(Clone, Copy, Default)]
struct Entry {
    symbol: u8,
    length: u8,
}

impl Code {
    /// The code for numbers that are as frequent as these, each with its count.
    pub fn learn(alphabet: Alphabet, numbers: impl Iterator<Item = (u32, u64)>) -> Self {
        // One of each more, so that every symbol has a word.
        let mut counts = vec![1; alphabet.symbols()];
        numbers.for_each(|(number, count)| counts[alphabet.symbol(number).0] += count);
        loop {
            let lengths = word_lengths(&counts);
            if lengths.iter().all(|&length| u32::from(length) <= MAX_WORD_BITS) {
                return Self::of(alphabet, &lengths);
            }
            counts.iter_mut().for_each(|count| *count = count.div_ceil(2));
        }
    }

    /// From the bytes of [`Self::put`].
    pub fn read(alphabet: Alphabet, lengths: &[u8]) -> Result<Self, Damage> {
        let damage = |what: &str| Damage { offset: 0, what: what.to_owned() };
        if lengths.len() != alphabet.symbols() {
            return Err(damage("a prefix code for another number of symbols"));
        }
        if lengths.iter().any(|&length| length == 0 || u32::from(length) > MAX_WORD_BITS) {
            return Err(damage("a prefix code with a word of no bits or too many"));
        }
        let filled: u32 = lengths.iter().map(|&length| 1 << (MAX_WORD_BITS - u32::from(length))).sum();
        match filled == 1 << MAX_WORD_BITS {
            true => Ok(Self::of(alphabet, lengths)),
            false => Err(damage("a prefix code with words that are missing or begin one another")),
        }
    }

    /// As bytes: the length of each symbol's word, which tell the words.
    pub fn put(&self) -> Vec<u8> {
        self.words.iter().map(|word| word.length as u8).collect()
    }

    /// The code with words of these lengths, which fill it.
    fn of(alphabet: Alphabet, lengths: &[u8]) -> Self {
        let mut order: Vec<usize> = (0..lengths.len()).collect();
        order.sort_by_key(|&symbol| lengths[symbol]);
        let mut words = vec![Word::default(); lengths.len()];
        let mut table = Box::new([Entry::default(); TABLE]);
        let mut next = 0u32;
        for symbol in order {
            let length = lengths[symbol];
            // Words are counted up from their highest bit, and stand in a stream with that bit first.
            let bits = next.reverse_bits() >> (u32::BITS - MAX_WORD_BITS);
            next += 1 << (MAX_WORD_BITS - u32::from(length));
            words[symbol] = Word { bits: u64::from(bits), length: u32::from(length) };
            for entry in table.iter_mut().skip(bits as usize).step_by(1 << length) {
                *entry = Entry { symbol: symbol as u8, length };
            }
        }
        Code { alphabet, words, table }
    }

    /// What stands for a number in a stream.
    #[inline]
    pub fn word(&self, number: u32) -> Word {
        let (symbol, extra) = self.alphabet.symbol(number);
        let Word { bits, length } = self.words[symbol];
        Word { bits: bits | extra.bits << length, length: length + extra.length }
    }

    /// Decodes as many numbers as there are in `out`, each by way of `item`; returns how many bytes they took.
    pub fn decode<T>(&self, bytes: &[u8], out: &mut [T], item: impl Fn(u32) -> T) -> Result<usize, Damage> {
        let mut cursor = Cursor::new(bytes);
        let mut lengths = [0; STREAMS];
        for length in &mut lengths {
            *length = cursor.length(MAX_STREAM_BYTES, "length of a stream")?;
        }
        let begin = cursor.offset();
        let coded = &bytes[begin..];
        cursor.take(lengths.iter().sum(), "streams")?;
        let mut ends = lengths;
        (1..STREAMS).for_each(|at| ends[at] += ends[at - 1]);
        let mut at = [0, ends[0], ends[1], ends[2]].map(|begin| 8 * begin);
        match self.alphabet {
            Alphabet::Bytes => self.decode_streams::<T, BYTES_A_LOAD>(Alphabet::Bytes, coded, &mut at, out, item),
            Alphabet::Numbers => self.decode_streams::<T, 1>(Alphabet::Numbers, coded, &mut at, out, item),
        }
        match at.map(|bits| bits.div_ceil(8)) == ends {
            true => Ok(begin + ends[STREAMS - 1]),
            false => Err(Damage { offset: begin, what: "coded numbers do not end where their stream does".to_owned() }),
        }
    }

    /// The streams in turns, `N` numbers each, while all have so many left. The alphabet is a constant where this is called.
    #[inline(always)]
    fn decode_streams<T, const N: usize>(
        &self,
        alphabet: Alphabet,
        coded: &[u8],
        at: &mut [usize; STREAMS],
        out: &mut [T],
        item: impl Fn(u32) -> T,
    ) {
        let quarter = out.len().div_ceil(STREAMS);
        let (a, rest) = out.split_at_mut(quarter.min(out.len()));
        let (b, rest) = rest.split_at_mut(quarter.min(rest.len()));
        let (c, d) = rest.split_at_mut(quarter.min(rest.len()));
        let together = d.len() / N * N;
        let ((a, more_a), (b, more_b)) = (a.split_at_mut(together), b.split_at_mut(together));
        let ((c, more_c), (d, more_d)) = (c.split_at_mut(together), d.split_at_mut(together));
        let [mut at_a, mut at_b, mut at_c, mut at_d] = *at;
        let turns = a.chunks_exact_mut(N).zip(b.chunks_exact_mut(N));
        for ((a, b), (c, d)) in turns.zip(c.chunks_exact_mut(N).zip(d.chunks_exact_mut(N))) {
            self.decode_load::<T, N>(alphabet, coded, &mut at_a, a, &item);
            self.decode_load::<T, N>(alphabet, coded, &mut at_b, b, &item);
            self.decode_load::<T, N>(alphabet, coded, &mut at_c, c, &item);
            self.decode_load::<T, N>(alphabet, coded, &mut at_d, d, &item);
        }
        *at = [at_a, at_b, at_c, at_d];
        for (more, at) in [more_a, more_b, more_c, more_d].into_iter().zip(at) {
            more.chunks_exact_mut(1).for_each(|slot| self.decode_load::<T, 1>(alphabet, coded, at, slot, &item));
        }
    }

    /// The `N` numbers from bit `at` on, which moves behind them.
    #[inline(always)]
    fn decode_load<T, const N: usize>(
        &self,
        alphabet: Alphabet,
        coded: &[u8],
        at: &mut usize,
        out: &mut [T],
        item: &impl Fn(u32) -> T,
    ) {
        let mut bits = load(coded, *at / 8) >> (*at % 8);
        for slot in &mut out[..N] {
            let Entry { symbol, length } = self.table[bits as usize % TABLE];
            let extra = alphabet.extra_bits(symbol);
            bits >>= length;
            *slot = item(alphabet.number(symbol, bits as u32 & ((1 << extra) - 1)));
            bits >>= extra;
            *at += (u32::from(length) + extra) as usize;
        }
    }
}

/// Appends a column of words.
pub fn put_words<T: Copy>(column: &[T], word: impl Fn(T) -> Word, out: &mut Vec<u8>) {
    let mut bytes = vec![0; MAX_CODED_BYTES * column.len() + STREAMS * LOAD];
    let (mut at, mut rest) = (0, column);
    for _ in 0..STREAMS {
        let (part, others) = rest.split_at(rest.len().min(column.len().div_ceil(STREAMS)));
        let length = put_stream(part, &word, &mut bytes[at..]);
        put_varint(out, length as u64);
        (at, rest) = (at + length, others);
    }
    out.extend_from_slice(&bytes[..at]);
}

fn put_stream<T: Copy>(part: &[T], word: &impl Fn(T) -> Word, bytes: &mut [u8]) -> usize {
    // Bits not yet written, and how many; below eight after each number.
    let (mut bits, mut filled, mut at) = (0u64, 0u32, 0);
    for &item in part {
        let word = word(item);
        bits |= word.bits << filled;
        filled += word.length;
        bytes[at..at + LOAD].copy_from_slice(&bits.to_le_bytes());
        at += filled as usize / 8;
        bits >>= filled & !7;
        filled &= 7;
    }
    at + usize::from(filled > 0)
}

/// Eight bytes; zeros behind the end.
#[inline(always)]
fn load(bytes: &[u8], at: usize) -> u64 {
    match bytes.get(at..).and_then(<[u8]>::first_chunk) {
        Some(whole) => u64::from_le_bytes(*whole),
        None => load_end(bytes, at),
    }
}

#[cold]
fn load_end(bytes: &[u8], at: usize) -> u64 {
    let left = bytes.get(at..).unwrap_or_default();
    left.iter().rev().fold(0, |all, &byte| all << 8 | u64::from(byte))
}

/// Huffman's code for these counts: how long the word of each is.
fn word_lengths(counts: &[u64]) -> Vec<u8> {
    let mut parents = vec![0; 2 * counts.len() - 1];
    let mut roots: BinaryHeap<_> = counts.iter().copied().enumerate().map(|(at, count)| Reverse((count, at))).collect();
    let mut next = counts.len();
    while let (Some(Reverse((one, first))), Some(Reverse((other, second)))) = (roots.pop(), roots.pop()) {
        (parents[first], parents[second]) = (next, next);
        roots.push(Reverse((one + other, next)));
        next += 1;
        if next == parents.len() {
            break;
        }
    }
    let mut depths = vec![0u8; parents.len()];
    for at in (0..parents.len() - 1).rev() {
        depths[at] = depths[parents[at]] + 1;
    }
    depths.truncate(counts.len());
    depths
}
