//! The sparse coding of changes: the gap to the last changed element, and how far the value moved (see `steps`).
//!
//! Gaps are Rice-coded with a parameter for each chunk: a gap's higher bits in unary, `k` lower ones as they are. Where changes
//! fall at random that is within 0.03 bits of the entropy, and reading a gap takes a few instructions. Both streams run over
//! all sparse chunks of a patch; gaps start anew in each.

use super::CHUNK_ELEMENTS;
use super::bits::{BitReader, BitWriter};
use super::patch::Change;
use super::steps::{self, StepReader, StepWriter};
use crate::Result;

/// Bits of a place within a chunk.
const PLACE_BITS: u32 = CHUNK_ELEMENTS.ilog2();
/// Largest Rice parameter.
pub(super) const MAX_RICE: u32 = PLACE_BITS - 1;
/// So many ones say that the gap follows as it is: the quotient would take more.
const ESCAPE: u32 = 32;
/// How far below and above the first guess a parameter is looked for: uneven gaps want a smaller one.
const GUESSES: (u32, u32) = (4, 1);

/// How the gaps of a chunk are best coded.
#[derive(Clone, Copy)]
pub(super) struct Rice {
    pub(super) parameter: u32,
    /// What the gaps take then.
    pub(super) bits: u64,
}

impl Rice {
    /// The best parameter for these changes, of which there is one at least.
    pub(super) fn best(changes: &[Change]) -> Self {
        let span = changes.last().map_or(0, |&(place, _)| place + 1) as usize;
        // For gaps of a random walk, 2^k is near the median.
        let guess = (span * 7 / (10 * changes.len().max(1))).max(1).ilog2();
        let candidates = guess.saturating_sub(GUESSES.0)..=MAX_RICE.min(guess + GUESSES.1);
        let costs = candidates.map(|parameter| {
            let bits = gaps(changes).map(|gap| {
                let quotient = gap >> parameter;
                u64::from(if quotient < ESCAPE { quotient + 1 + parameter } else { ESCAPE + PLACE_BITS })
            });
            Rice { parameter, bits: bits.sum() }
        });
        costs.min_by_key(|rice| rice.bits).unwrap_or(Rice { parameter: 0, bits: 0 })
    }
}

fn gaps(changes: &[Change]) -> impl Iterator<Item = u32> {
    let mut next = 0;
    changes.iter().map(move |&(place, _)| place - std::mem::replace(&mut next, place + 1))
}

/// Gathers the changes of sparse chunks.
#[derive(Default)]
pub(super) struct SparseWriter {
    gaps: BitWriter,
    steps: StepWriter,
}

impl SparseWriter {
    /// About how many bytes the changes of a chunk will take, whose content was `old`.
    pub(super) fn estimate_bytes(old: &[u16], changes: &[Change], rice: Rice) -> usize {
        let steps = changes.iter().map(|&(place, new)| steps::estimate_bits(old[place as usize], new));
        (rice.bits + steps.map(u64::from).sum::<u64>()).div_ceil(8) as usize
    }

    /// Appends the changes of one chunk, whose content was `old`.
    pub(super) fn write(&mut self, old: &[u16], changes: &[Change], rice: Rice) {
        let parameter = rice.parameter;
        for gap in gaps(changes) {
            let quotient = gap >> parameter;
            if quotient < ESCAPE {
                self.gaps.write((1 << quotient) - 1, quotient + 1);
                self.gaps.write(gap & ((1 << parameter) - 1), parameter);
            } else {
                self.gaps.write(u32::MAX, ESCAPE);
                self.gaps.write(gap, PLACE_BITS);
            }
        }
        changes.iter().for_each(|&(place, new)| self.steps.push(old[place as usize], new));
    }

    /// The streams: gaps, then those of the steps.
    pub(super) fn finish(self) -> Result<[Vec<u8>; 5]> {
        let [scales, bits, highs, longs] = self.steps.finish()?;
        Ok([self.gaps.finish(), scales, bits, highs, longs])
    }
}

/// Reads the changes of sparse chunks back.
pub(super) struct SparseReader {
    gaps: BitReader,
    steps: StepReader,
}

impl SparseReader {
    /// Opens the streams of a patch with at most `changes` changes.
    pub(super) fn new([gaps, steps @ ..]: [&[u8]; 5], changes: u64) -> Result<Self, String> {
        Ok(SparseReader { gaps: BitReader::new(gaps), steps: StepReader::new(steps, changes)? })
    }

    /// The next `count` changes, which belong to a chunk whose content is `old`.
    pub(super) fn read(&mut self, old: &[u16], count: u64, parameter: u32) -> Result<Vec<Change>, String> {
        let count = usize::try_from(count).ok().filter(|&count| count <= old.len() && parameter <= MAX_RICE);
        let count = count.ok_or_else(|| format!("a chunk of {} elements with other changes", old.len()))?;
        let mut changes: Vec<Change> = Vec::with_capacity(count);
        let mut next = 0;
        for _ in 0..count {
            let place = next + self.read_gap(parameter)? as usize;
            changes.push((place as u32, 0));
            next = place + 1;
        }
        if next > old.len() {
            return Err("a change beyond its chunk".into()); // places ascend, so the last one speaks for all
        }
        // A loop of its own, short enough for many of its scattered reads to be under way at once.
        for (place, value) in &mut changes {
            *value = old[*place as usize];
        }
        for (_, value) in &mut changes {
            *value = self.steps.next(*value)?;
        }
        Ok(changes)
    }

    #[inline(always)]
    fn read_gap(&mut self, parameter: u32) -> Result<u32, String> {
        let word = self.gaps.peek()?;
        let quotient = word.trailing_ones();
        if quotient < ESCAPE {
            self.gaps.skip(quotient + 1 + parameter);
            return Ok(quotient << parameter | (word >> (quotient + 1)) as u32 & ((1 << parameter) - 1));
        }
        self.gaps.skip(ESCAPE + PLACE_BITS);
        Ok((word >> ESCAPE) as u32 & ((1 << PLACE_BITS) - 1))
    }

    /// Makes sure that nothing is left.
    pub(super) fn finish(self) -> Result<(), String> {
        if self.gaps.is_at_end() && self.steps.is_at_end() {
            return Ok(());
        }
        Err("changes left over behind the last chunk".into())
    }
}
