//! How far a value moved in the monotone order of bfloat16, where neighbours differ by one unit in the last place and −0
//! stands just below +0.
//!
//! An optimiser's step is about as long for all weights, so how many places a weight moves follows from its size: for large
//! ones it is one, for small ones a number that is known but for its lower bits. So the number of places, less one, is cut by a
//! scale of the old value's exponent: `scale` lower bits and the sign are kept as they are; what is above is mostly 0 and is
//! compressed. The reader has the old value at hand, since it must know it anyway.

use super::bits::{BitWriter, bits_at};
use super::patch::Change;
use crate::{Error, Result};

const ZSTD_LEVEL: i32 = 1;
/// Exponents of bfloat16.
const EXPONENTS: usize = 256;
/// Most lower bits that are kept.
const MAX_SCALE: u8 = 14;
/// Bit lengths of a distance less one: 0 to 15.
const LENGTHS: usize = 16;
/// A higher part of 3 or more: the whole distance follows in two bytes of their own.
const LONG: u16 = 3;
/// Higher parts are written in two bits each, four a byte.
const HIGHS_A_BYTE: usize = 4;
/// Steps that scales are chosen by, at least, if there are as many.
const SAMPLE: usize = 1 << 16;
/// Steps written before memory is made for more.
const STEPS_A_BATCH: usize = 4096;
/// The sign, above a distance of 15 bits.
const DOWN: u16 = 0x8000;

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

fn exponent(pattern: u16) -> u8 {
    (pattern >> 7) as u8
}

/// The distance less one, with its direction in the highest bit.
fn distance(old: u16, new: u16) -> u16 {
    let step = step_between(old, new) as i16;
    (step.unsigned_abs() - 1) | if step < 0 { DOWN } else { 0 }
}

/// About what a change takes.
pub(super) fn estimate_bits(old: u16, new: u16) -> u32 {
    2 + bit_length(distance(old, new) & !DOWN) as u32
}

fn bit_length(value: u16) -> usize {
    (u16::BITS - value.leading_zeros()) as usize
}

/// What a distance of this bit length costs with this scale, in tenths of a bit and about.
fn cost(length: usize, scale: usize) -> u64 {
    let high = match length.saturating_sub(scale) {
        0 => 4,
        1 => 25,
        2 => 110, // 2 or, just as often, a long one
        _ => 190,
    };
    10 * scale as u64 + high
}

/// Gathers steps.
#[derive(Default)]
pub(super) struct StepWriter {
    /// The old value's exponent, and the distance.
    steps: Vec<(u8, u16)>,
}

impl StepWriter {
    /// Appends the steps of these changes.
    pub(super) fn extend(&mut self, changes: &[Change]) {
        self.steps.extend(changes.iter().map(|change| (exponent(change.old), distance(change.old, change.new))));
    }

    /// The best scale of each exponent, judged by [`SAMPLE`] steps, by up to twice as many, or by all there are.
    fn scales(&self) -> [u8; EXPONENTS] {
        let mut counts = [[0u64; LENGTHS]; EXPONENTS];
        for &(exponent, distance) in self.steps.iter().step_by((self.steps.len() / SAMPLE).max(1)) {
            counts[exponent as usize][bit_length(distance & !DOWN)] += 1;
        }
        counts.map(|counts| {
            let total = |scale: u8| {
                let costs = counts.iter().enumerate().map(|(length, count)| count * cost(length, scale.into()));
                costs.sum::<u64>()
            };
            if counts == [0; LENGTHS] { 0 } else { (0..=MAX_SCALE).min_by_key(|&scale| total(scale)).unwrap_or(0) }
        })
    }

    /// The four streams: scales, signs and lower bits, higher parts, long distances.
    pub(super) fn finish(self) -> Result<[Vec<u8>; 4]> {
        let scales = self.scales();
        let (mut bits, mut longs) = (BitWriter::default(), Vec::new());
        let mut highs = Vec::with_capacity(self.steps.len().div_ceil(HIGHS_A_BYTE));
        for steps in self.steps.chunks(STEPS_A_BATCH) {
            bits.batch(steps.len() as u64 * u64::from(1 + MAX_SCALE), |batch| {
                for steps in steps.chunks(HIGHS_A_BYTE) {
                    let mut byte = 0;
                    for (index, &(exponent, step)) in steps.iter().enumerate() {
                        let (scale, distance) = (scales[exponent as usize], step & !DOWN);
                        let lower = distance & ((1 << scale) - 1);
                        batch.write(u64::from(step >> 15) | u64::from(lower) << 1, 1 + u32::from(scale));
                        let high = (distance >> scale).min(LONG);
                        byte |= (high as u8) << (index * 2);
                        if high == LONG {
                            longs.extend_from_slice(&distance.to_le_bytes());
                        }
                    }
                    highs.push(byte);
                }
            });
        }
        Ok([write_scales(&scales), bits.finish(), compress(&highs)?, longs])
    }
}

/// Reads steps back.
pub(super) struct StepReader<'a> {
    scales: [u8; EXPONENTS],
    bits: &'a [u8],
    /// The next of `bits`.
    next_bit: usize,
    highs: Vec<u8>,
    /// The next step.
    next: usize,
    longs: std::slice::Iter<'a, [u8; 2]>,
}

impl<'a> StepReader<'a> {
    /// Opens the four streams of at most `count` steps.
    pub(super) fn new([scales, bits, highs, longs]: [&'a [u8]; 4], count: u64) -> Result<Self, String> {
        let cap = usize::try_from(count).map_err(|error| error.to_string())?.div_ceil(HIGHS_A_BYTE);
        let (longs, rest) = longs.as_chunks::<2>();
        if !rest.is_empty() {
            return Err("half a long step".into());
        }
        let (scales, highs) = (read_scales(scales)?, decompress(highs, cap)?);
        Ok(StepReader { scales, bits, next_bit: 0, highs, next: 0, longs: longs.iter() })
    }

    /// Replaces each value by where the next step leads from it; `meanwhile` is called for each.
    pub(super) fn read(&mut self, values: &mut [u16], mut meanwhile: impl FnMut()) -> Result<(), String> {
        for value in values {
            meanwhile();
            let old = *value;
            let scale = self.scales[exponent(old) as usize];
            let word = bits_at(self.bits, self.next_bit);
            self.next_bit += 1 + usize::from(scale);
            let four = self.highs.get(self.next / HIGHS_A_BYTE).ok_or("the steps end early")?;
            let high = u16::from(*four >> (self.next % HIGHS_A_BYTE * 2)) & LONG;
            self.next += 1;
            let mut distance = high << scale | (word >> 1) as u16 & ((1 << scale) - 1);
            if high == LONG {
                distance = self.next_long()?;
            }
            let (up, sign) = (distance.wrapping_add(1), (word as u16 & 1).wrapping_neg());
            *value = from_monotone(monotone(old).wrapping_add((up ^ sign).wrapping_sub(sign)));
        }
        Ok(())
    }

    fn next_long(&mut self) -> Result<u16, String> {
        Ok(u16::from_le_bytes(*self.longs.next().ok_or("the long steps end early")?))
    }

    /// Whether all was read, and no more.
    pub(super) fn is_at_end(&self) -> bool {
        let all_highs = self.next.div_ceil(HIGHS_A_BYTE) == self.highs.len();
        all_highs && self.next_bit.div_ceil(8) == self.bits.len() && self.longs.len() == 0
    }
}

/// The first exponent whose scale is not 0, and all from there to the last; nothing if there is none.
fn write_scales(scales: &[u8; EXPONENTS]) -> Vec<u8> {
    let Some(first) = scales.iter().position(|&scale| scale != 0) else { return Vec::new() };
    let last = scales.iter().rposition(|&scale| scale != 0).unwrap_or(first);
    [&[first as u8], &scales[first..=last]].concat()
}

fn read_scales(bytes: &[u8]) -> Result<[u8; EXPONENTS], String> {
    let mut all = [0; EXPONENTS];
    if let Some((&first, scales)) = bytes.split_first() {
        let room = all[first.into()..].get_mut(..scales.len()).ok_or("too many scales")?;
        room.copy_from_slice(scales);
    }
    if all.iter().any(|&scale| scale > MAX_SCALE) {
        return Err("an unknown scale".into());
    }
    Ok(all)
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
    fn every_step_from_every_exponent_is_read_back() {
        let mut writer = StepWriter::default();
        let olds = (0..=u16::MAX).step_by(61);
        let steps = [1u16, 2, 3, 4, 5, 9, 100, 5000, 0x7fff, 0x8000, 0x8001, 0xff00, 0xfffe, 0xffff];
        let pairs: Vec<_> =
            olds.flat_map(|old| steps.map(|step| (old, from_monotone(monotone(old).wrapping_add(step))))).collect();
        writer.extend(&pairs.iter().map(|&(old, new)| Change { place: 0, old, new }).collect::<Vec<_>>());
        let streams = writer.finish().unwrap();
        let mut reader = StepReader::new(streams.each_ref().map(|stream| &stream[..]), pairs.len() as u64).unwrap();
        let (mut values, news): (Vec<u16>, Vec<u16>) = pairs.into_iter().unzip();
        reader.read(&mut values, || ()).unwrap();
        assert!(values == news);
        assert!(reader.is_at_end());
    }

    #[test]
    fn scales_are_read_back_and_bad_ones_refused() {
        let mut scales = [0; EXPONENTS];
        assert_eq!(read_scales(&write_scales(&scales)), Ok(scales));
        (scales[255], scales[100]) = (14, 3);
        assert_eq!(read_scales(&write_scales(&scales)), Ok(scales));
        assert!(read_scales(&[255, 1, 1]).is_err());
        assert!(read_scales(&[3, 15]).is_err());
    }
}
