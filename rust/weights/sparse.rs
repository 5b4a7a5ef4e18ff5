//! The sparse coding of changes: the gap to the last changed element, and how far the value moved (see `steps`).
//!
//! Gaps are Rice-coded with a parameter for each chunk: a gap's higher bits in unary, `k` lower ones as they are. Where changes
//! fall at random that is within 0.03 bits of the entropy. Both parts have streams of their own, which run over all sparse
//! chunks of a patch; each chunk begins at a whole byte. So a reader waits for no gap to find the next: the ends of unary
//! numbers are the ones of a word, the lower bits lie at multiples of `k`.

use super::CHUNK_ELEMENTS;
use super::apply::take;
use super::bits::{BitWriter, MOST_BITS, bits_at, word_at};
use super::memory::prefetch;
use super::patch::Change;
use super::steps::{self, StepReader, StepWriter};
use crate::Result;

/// Largest Rice parameter.
const MAX_RICE: u32 = CHUNK_ELEMENTS.ilog2() - 1;
/// How far below and above the first guess a parameter is looked for: uneven gaps want a smaller one.
const GUESSES: (u32, u32) = (4, 1);
/// Gaps that a parameter is chosen by, at least, if there are as many.
const SAMPLE: usize = 256;
/// Parameters tried.
const PARAMETERS: usize = (GUESSES.0 + 1 + GUESSES.1) as usize;

/// The gaps of a chunk and how they are best coded.
#[derive(Default)]
pub(super) struct Rice {
    gaps: Vec<u32>,
    pub(super) parameter: u32,
    /// What the gaps take.
    bits: u64,
}

impl Rice {
    /// Takes the gaps of these changes, of which there is one at least, and finds the best parameter for them.
    pub(super) fn fit(&mut self, changes: &[Change]) {
        let mut next = 0;
        let gap = |change: &Change| change.place - std::mem::replace(&mut next, change.place + 1);
        self.gaps.clear();
        self.gaps.extend(changes.iter().map(gap));
        let count = self.gaps.len() as u64;
        // For gaps of a random walk, 2^k is near the median.
        let guess = (u64::from(next) * 7 / (10 * count.max(1))).max(1).ilog2();
        let first = guess.saturating_sub(GUESSES.0);
        let mut quotients = [0u32; PARAMETERS];
        let sample = self.gaps.iter().step_by((self.gaps.len() / SAMPLE).max(1));
        let sampled = sample.len() as u64;
        for gap in sample {
            for (at, sum) in (first..).zip(&mut quotients) {
                *sum += gap >> at;
            }
        }
        let costs = (first..=MAX_RICE.min(guess + GUESSES.1))
            .zip(quotients)
            .map(|(parameter, quotients)| (u64::from(quotients) + sampled * u64::from(1 + parameter), parameter));
        self.parameter = costs.min().unwrap_or_default().1;
        let quotients: u32 = self.gaps.iter().map(|gap| gap >> self.parameter).sum();
        self.bits = u64::from(quotients) + count * u64::from(1 + self.parameter);
    }
}

/// Gathers the changes of sparse chunks.
#[derive(Default)]
pub(super) struct SparseWriter {
    quotients: BitWriter,
    remainders: BitWriter,
    steps: StepWriter,
}

impl SparseWriter {
    /// About how many bytes the changes of a chunk will take.
    pub(super) fn estimate_bytes(changes: &[Change], rice: &Rice) -> usize {
        let steps = changes.iter().map(|change| steps::estimate_bits(change.old, change.new));
        (rice.bits + steps.map(u64::from).sum::<u64>()).div_ceil(8) as usize
    }

    /// Appends the changes of one chunk.
    pub(super) fn write(&mut self, changes: &[Change], rice: &Rice) {
        let parameter = rice.parameter;
        self.quotients.batch(rice.bits, |batch| {
            for gap in &rice.gaps {
                let mut zeros = gap >> parameter;
                while zeros >= MOST_BITS {
                    batch.write(0, MOST_BITS);
                    zeros -= MOST_BITS;
                }
                batch.write(1 << zeros, zeros + 1);
            }
        });
        self.quotients.align();
        self.remainders.batch(rice.bits, |batch| {
            rice.gaps.iter().for_each(|gap| batch.write((gap & ((1 << parameter) - 1)).into(), parameter));
        });
        self.remainders.align();
        self.steps.extend(changes);
    }

    /// The streams: quotients and remainders of the gaps, then those of the steps.
    pub(super) fn finish(self) -> Result<[Vec<u8>; 6]> {
        let [scales, bits, highs, longs] = self.steps.finish()?;
        Ok([self.quotients.finish(), self.remainders.finish(), scales, bits, highs, longs])
    }
}

/// The changes of a chunk.
#[derive(Clone, Debug, Default)]
pub(super) struct Changes {
    /// Ascending, each below the chunk's length.
    pub(super) places: Vec<u32>,
    pub(super) values: Vec<u16>,
}

/// Reads the changes of sparse chunks back: the places of a chunk first, and its values once the places of the next one are
/// read, so that the processor fetches what lies there from memory meanwhile.
pub(super) struct SparseReader<'a> {
    quotients: &'a [u8],
    remainders: &'a [u8],
    steps: StepReader<'a>,
    /// Places that were read last.
    ahead: Vec<u32>,
    /// Those of the chunk before.
    changes: Changes,
}

impl<'a> SparseReader<'a> {
    /// Opens the streams of a patch with at most `changes` changes.
    pub(super) fn new([quotients, remainders, steps @ ..]: [&'a [u8]; 6], changes: u64) -> Result<Self, String> {
        let steps = StepReader::new(steps, changes)?;
        Ok(SparseReader { quotients, remainders, steps, ahead: Vec::new(), changes: Changes::default() })
    }

    /// Turns to the places that were read last: [`SparseReader::read_values`] is about them, whatever is read ahead.
    pub(super) fn turn(&mut self) {
        std::mem::swap(&mut self.changes.places, &mut self.ahead);
        self.ahead.clear();
    }

    /// The changes of the chunk that was turned to, whose content is `old`. What lies in `next` at the places that were read
    /// ahead is fetched from memory meanwhile.
    pub(super) fn read_values(&mut self, old: &[u16], next: &[u16]) -> Result<&mut Changes, String> {
        let Changes { places, values } = &mut self.changes;
        // A loop of its own, short enough for many of its scattered reads to be under way at once.
        values.clear();
        values.extend(places.iter().map(|&place| old[place as usize]));
        let mut ahead = self.ahead.iter().map(|&place| place as usize);
        self.steps.read(values, || {
            if let Some(place) = ahead.next() {
                prefetch(next, place);
            }
        })?;
        ahead.for_each(|place| prefetch(next, place));
        Ok(&mut self.changes)
    }

    /// The places that were read last.
    pub(super) fn places(&self) -> &[u32] {
        &self.ahead
    }

    /// Reads the next `count` places in a chunk of so many elements.
    pub(super) fn read_places(&mut self, elements: usize, count: u64, parameter: u32) -> Result<(), String> {
        let count = usize::try_from(count).ok().filter(|&count| count <= elements && parameter <= MAX_RICE);
        let count = count.ok_or_else(|| format!("a chunk of {elements} elements with other changes"))?;
        let places = &mut self.ahead;
        places.clear();
        places.reserve(count);
        let (parameter_bits, mask) = (parameter as usize, (1 << parameter) - 1);
        // The sums of quotients and of remainders up to a gap, and so the place behind it.
        let (mut start, mut end, mut remainders) = (0, 0, 0u64);
        while places.len() < count {
            // Each quotient ends in a one, and their sum is at most that of the gaps.
            if start > elements + count || start / 8 >= self.quotients.len() {
                return Err("the gaps of a chunk do not end in it".into());
            }
            let mut word = word_at(self.quotients, start / 8);
            while word != 0 && places.len() < count {
                end = start + word.trailing_zeros() as usize;
                word &= word - 1;
                let index = places.len();
                remainders += bits_at(self.remainders, index * parameter_bits) & mask;
                places.push((((end - index) << parameter) + remainders as usize + index) as u32);
            }
            start += u64::BITS as usize;
        }
        // Places ascend, so the last one speaks for all.
        let last = count.checked_sub(1).map(|index| ((end - index) << parameter) + remainders as usize + index);
        if last.is_some_and(|last| last >= elements) {
            return Err("a change beyond its chunk".into());
        }
        take(&mut self.quotients, if count == 0 { 0 } else { end / 8 + 1 })?;
        take(&mut self.remainders, (count * parameter_bits).div_ceil(8))?;
        Ok(())
    }

    /// Makes sure that nothing is left.
    pub(super) fn finish(self) -> Result<(), String> {
        if self.quotients.is_empty() && self.remainders.is_empty() && self.steps.is_at_end() {
            return Ok(());
        }
        Err("changes left over behind the last chunk".into())
    }
}
