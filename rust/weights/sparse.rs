//! The sparse coding of changes: the gap to the last changed element, and how many steps the value moved in the monotone
//! order of bfloat16 (where neighbours differ by one unit in the last place, and −0 stands just below +0).
//!
//! Each change gives one symbol, the gap's bit length and the step's class together, and the bits of the gap below its
//! highest. Symbols are skewed, so zstd's entropy coder shortens them; the gaps' lower bits are noise and stay as they are;
//! steps beyond ±4 go to a stream of their own. The streams run over all sparse chunks of a patch; gaps start anew in each.

use super::patch::Change;
use crate::{Error, Result};

/// Steps 1, −1, 2, −2, 3, −3, 4, −4, and all others.
const CLASSES: u8 = 9;
const LONG_STEP: u8 = CLASSES - 1;
/// Bit lengths of a gap within a chunk: 0 to 18.
const GAP_LENGTHS: u8 = super::CHUNK_ELEMENTS.ilog2() as u8 + 1;
const ZSTD_LEVEL: i32 = 1;
/// Zeros behind the gap bits.
const PADDING: usize = 8;
/// Marks a long step that takes two more bytes.
const THREE_BYTES: u8 = 255;
/// Bits that a symbol costs after coding, about; for choosing between codings.
const SYMBOL_BITS: u32 = 4;
/// Bits that a long step costs beyond its symbol, at most.
const LONG_STEP_BITS: u32 = 24;

/// A bit pattern's place in the monotone order of bfloat16: a bijection of 16-bit numbers.
pub(super) fn monotone(pattern: u16) -> u16 {
    if pattern & 0x8000 != 0 { !pattern } else { pattern | 0x8000 }
}

/// The inverse of [`monotone`].
pub(super) fn from_monotone(place: u16) -> u16 {
    if place & 0x8000 != 0 { place & 0x7fff } else { !place }
}

/// How many places `new` stands above `old` in the monotone order, modulo 2^16.
pub(super) fn step_between(old: u16, new: u16) -> u16 {
    monotone(new).wrapping_sub(monotone(old))
}

fn class_of(step: u16) -> u8 {
    match step as i16 {
        magnitude @ 1..=4 => (magnitude as u8 - 1) * 2,
        magnitude @ -4..=-1 => (-magnitude) as u8 * 2 - 1,
        _ => LONG_STEP,
    }
}

fn step_of(class: u8) -> u16 {
    let magnitude = i16::from(class / 2 + 1);
    (if class & 1 == 0 { magnitude } else { -magnitude }) as u16
}

fn bit_length(gap: u32) -> u32 {
    u32::BITS - gap.leading_zeros()
}

/// Gathers the changes of sparse chunks.
#[derive(Default)]
pub(super) struct SparseWriter {
    symbols: Vec<u8>,
    gap_bits: Vec<u8>,
    long_steps: Vec<u8>,
    pending: u64,
    num_pending: u32,
}

impl SparseWriter {
    /// About how many bytes the changes of a chunk will take, whose content was `old`.
    pub(super) fn estimate_bytes(old: &[u16], changes: &[Change]) -> usize {
        let mut next = 0;
        let bits = changes.iter().map(|&(place, new)| {
            let gap = place - std::mem::replace(&mut next, place + 1);
            let long = class_of(step_between(old[place as usize], new)) == LONG_STEP;
            bit_length(gap).saturating_sub(1) + SYMBOL_BITS + if long { LONG_STEP_BITS } else { 0 }
        });
        bits.map(u64::from).sum::<u64>().div_ceil(8) as usize
    }

    /// Appends the changes of one chunk, whose content was `old`.
    pub(super) fn write(&mut self, old: &[u16], changes: &[Change]) {
        let mut next = 0;
        for &(place, new) in changes {
            let gap = place - next;
            next = place + 1;
            let step = step_between(old[place as usize], new);
            let class = class_of(step);
            if class == LONG_STEP {
                write_long_step(&mut self.long_steps, step);
            }
            let length = bit_length(gap);
            self.symbols.push(length as u8 * CLASSES + class);
            let bits = length.saturating_sub(1);
            self.write_bits(gap & !(u32::MAX << bits), bits);
        }
    }

    fn write_bits(&mut self, value: u32, count: u32) {
        self.pending |= u64::from(value) << self.num_pending;
        self.num_pending += count;
        if self.num_pending >= 32 {
            self.gap_bits.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.num_pending -= 32;
        }
    }

    /// The three streams: symbols, gap bits, long steps.
    pub(super) fn finish(mut self) -> Result<[Vec<u8>; 3]> {
        let left = self.num_pending.div_ceil(8) as usize;
        self.gap_bits.extend_from_slice(&self.pending.to_le_bytes()[..left]);
        Ok([compress(&self.symbols)?, self.gap_bits, compress(&self.long_steps)?])
    }
}

/// Reads the changes of sparse chunks back.
pub(super) struct SparseReader {
    symbols: Vec<u8>,
    next_symbol: usize,
    /// With [`PADDING`] behind, so that eight bytes can be read anywhere.
    gap_bits: Vec<u8>,
    next_bit: usize,
    long_steps: std::vec::IntoIter<u8>,
}

impl SparseReader {
    /// Opens the three streams of a patch for `elements` elements.
    pub(super) fn new(symbols: &[u8], gap_bits: &[u8], long_steps: &[u8], elements: u64) -> Result<Self, String> {
        let cap = usize::try_from(elements).map_err(|error| error.to_string())?;
        let symbols = decompress(symbols, cap)?;
        let long_steps = decompress(long_steps, symbols.len() * 3)?.into_iter();
        let gap_bits = [gap_bits, &[0; PADDING]].concat();
        Ok(SparseReader { symbols, next_symbol: 0, gap_bits, next_bit: 0, long_steps })
    }

    /// The next `count` changes, which belong to a chunk whose content is `old`.
    pub(super) fn read(&mut self, old: &[u16], count: u64) -> Result<Vec<Change>, String> {
        let end = usize::try_from(count).ok().and_then(|count| self.next_symbol.checked_add(count));
        let symbols = end.and_then(|end| self.symbols.get(self.next_symbol..end));
        let symbols = symbols.filter(|symbols| symbols.len() <= old.len());
        let symbols = symbols.ok_or_else(|| format!("a chunk of {} elements with {count} changes", old.len()))?;
        let mut changes: Vec<Change> = Vec::with_capacity(symbols.len());
        let mut next = 0;
        for &symbol in symbols {
            let (length, class) = (symbol / CLASSES, symbol % CLASSES);
            if length > GAP_LENGTHS {
                return Err(format!("unknown symbol {symbol}"));
            }
            let place = next + read_gap(&self.gap_bits, &mut self.next_bit, length)?;
            let step = if class == LONG_STEP { read_long_step(&mut self.long_steps)? } else { step_of(class) };
            changes.push((place as u32, step));
            next = place + 1;
        }
        if next > old.len() {
            return Err("a change beyond its chunk".into()); // places ascend, so the last one speaks for all
        }
        self.next_symbol += symbols.len();
        // A loop of its own, short enough for many of its scattered reads to be under way at once.
        for (place, step) in &mut changes {
            *step = from_monotone(monotone(old[*place as usize]).wrapping_add(*step));
        }
        Ok(changes)
    }

    /// Makes sure that nothing is left.
    pub(super) fn finish(self) -> Result<(), String> {
        let gap_bytes = self.next_bit.div_ceil(8) + PADDING;
        if self.next_symbol == self.symbols.len() && self.long_steps.len() == 0 && gap_bytes == self.gap_bits.len() {
            return Ok(());
        }
        Err("changes left over behind the last chunk".into())
    }
}

/// A gap of this bit length, whose bits below the highest come from `padded_bits`.
#[inline(always)]
fn read_gap(padded_bits: &[u8], next_bit: &mut usize, length: u8) -> Result<usize, String> {
    let Some(count) = length.checked_sub(1) else { return Ok(0) };
    let bytes = padded_bits.get(*next_bit / 8..).and_then(|rest| rest.first_chunk::<PADDING>());
    let word = u64::from_le_bytes(*bytes.ok_or("the gaps end early")?) >> (*next_bit % 8);
    *next_bit += usize::from(count);
    Ok(1 << count | word as usize & ((1 << count) - 1))
}

/// One byte where the step is short enough, else three.
fn write_long_step(out: &mut Vec<u8>, step: u16) {
    let coded = zigzag(step);
    if coded < u16::from(THREE_BYTES) {
        out.push(coded as u8);
    } else {
        out.push(THREE_BYTES);
        out.extend_from_slice(&coded.to_le_bytes());
    }
}

fn read_long_step(steps: &mut std::vec::IntoIter<u8>) -> Result<u16, String> {
    let mut next = || steps.next().ok_or("the long steps end early");
    let coded = match next()? {
        THREE_BYTES => u16::from_le_bytes([next()?, next()?]),
        short => u16::from(short),
    };
    Ok(unzigzag(coded))
}

/// Small steps of either sign as small numbers.
pub(super) fn zigzag(step: u16) -> u16 {
    let step = step as i16;
    ((step << 1) ^ (step >> 15)) as u16
}

pub(super) fn unzigzag(coded: u16) -> u16 {
    (coded >> 1) ^ (coded & 1).wrapping_neg()
}

/// zstd, but nothing stays nothing.
pub(super) fn compress(bytes: &[u8]) -> Result<Vec<u8>> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    zstd::bulk::compress(bytes, ZSTD_LEVEL).map_err(|error| Error::io("compressing a patch", error))
}

/// Decompresses at most `cap` bytes.
pub(super) fn decompress(bytes: &[u8], cap: usize) -> Result<Vec<u8>, String> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let length = zstd::zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let length = length.filter(|&length| length <= cap as u64).ok_or("a stream of impossible length")?;
    zstd::bulk::decompress(bytes, length as usize).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_monotone_order_is_a_bijection_that_sorts_all_numbers() {
        let places: Vec<u16> = (0..=u16::MAX).map(monotone).collect();
        assert!((0..=u16::MAX).all(|pattern| from_monotone(places[pattern as usize]) == pattern));
        let value = |place: u16| f32::from_bits(u32::from(from_monotone(place)) << 16);
        let numbers: Vec<f32> = (0..=u16::MAX).map(value).filter(|value| !value.is_nan()).collect();
        assert!(numbers.is_sorted());
    }

    #[test]
    fn every_short_step_has_a_class_of_its_own() {
        for step in [1i16, -1, 2, -2, 3, -3, 4, -4] {
            assert_eq!(step_of(class_of(step as u16)) as i16, step);
        }
        assert!([0, 5, -5, i16::MIN, i16::MAX].iter().all(|&step| class_of(step as u16) == LONG_STEP));
    }
}
