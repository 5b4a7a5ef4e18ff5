//! The index rows of a segment's records, column by column: 41 bytes a record, or 45 where a reward needs eight bytes.
//! Enough to find a record and to filter without reading it.

use super::id::{record_id, split_id};
use super::shard::FRAME_HEADER_BYTES;
use crate::trajectory::record::Present;

/// One record's place, and what it can be filtered by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Row {
    /// The record's id.
    pub id: u64,
    /// When it was appended, in microseconds since 1970.
    pub time_us: u64,
    /// `reward` of the trajectory.
    pub reward: f64,
    /// Offset of the record's frame.
    pub offset: u32,
    /// Bytes of the frame's payload.
    pub length: u32,
    /// Number of the trajectory's `source` in [`Names`](super::index::Names).
    pub source: u32,
    /// Number of the trajectory's `problem_id` there.
    pub problem: u32,
    /// Tokens of the prompt.
    pub prompt: u32,
    /// Tokens of the response.
    pub response: u32,
    /// Columns in the record itself; `None` where a footer of version 1 does not tell.
    pub present: Option<Present>,
}

impl Row {
    /// Tokens of prompt and response.
    pub fn num_tokens(&self) -> usize {
        self.prompt as usize + self.response as usize
    }

    /// Bytes of the record's frame.
    pub fn frame_bytes(&self) -> usize {
        FRAME_HEADER_BYTES + self.length as usize
    }
}

/// Rows by rising id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Rows {
    /// Each segment that records were appended to, and the first row of those: more than one after a merge.
    parts: Vec<Part>,
    sequences: Vec<u32>,
    offsets: Vec<u32>,
    lengths: Vec<u32>,
    times_us: Vec<u64>,
    rewards: Rewards,
    sources: Vec<u32>,
    problems: Vec<u32>,
    prompts: Vec<u32>,
    responses: Vec<u32>,
    present: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Part {
    number: u32,
    first: usize,
}

/// Instead of the bits of a [`Present`].
const UNKNOWN: u8 = u8::MAX;

impl Rows {
    /// No rows, with room for so many.
    pub fn with_capacity(count: usize) -> Self {
        Rows {
            parts: Vec::new(),
            sequences: Vec::with_capacity(count),
            offsets: Vec::with_capacity(count),
            lengths: Vec::with_capacity(count),
            times_us: Vec::with_capacity(count),
            rewards: Rewards::Single(Vec::with_capacity(count)),
            sources: Vec::with_capacity(count),
            problems: Vec::with_capacity(count),
            prompts: Vec::with_capacity(count),
            responses: Vec::with_capacity(count),
            present: Vec::with_capacity(count),
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sequences.len()
    }

    /// The segments that the records were appended to, in order, and how many of its records each still has.
    pub fn parts(&self) -> impl Iterator<Item = (u32, usize)> {
        let ends = self.parts.iter().skip(1).map(|part| part.first).chain([self.len()]);
        self.parts.iter().zip(ends).map(|(part, end)| (part.number, end - part.first))
    }

    /// What follows are records of this segment; it may turn out to have none.
    pub fn begin(&mut self, number: u32) {
        if self.parts.last().is_none_or(|part| part.number != number) {
            self.parts.push(Part { number, first: self.len() });
        }
    }

    /// Adds the row of a record behind the others.
    pub fn push(&mut self, row: Row) {
        let Some((number, sequence)) = split_id(row.id) else { return };
        self.begin(number);
        self.sequences.push(sequence);
        self.offsets.push(row.offset);
        self.lengths.push(row.length);
        self.times_us.push(row.time_us);
        self.rewards.push(row.reward);
        self.sources.push(row.source);
        self.problems.push(row.problem);
        self.prompts.push(row.prompt);
        self.responses.push(row.response);
        self.present.push(row.present.map_or(UNKNOWN, Present::bits));
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Row> {
        let mut first = 0;
        self.parts().flat_map(move |(number, count)| {
            let rows = first..first + count;
            first += count;
            rows.map(move |at| self.row(number, at))
        })
    }

    /// The row of the record with this sequence number in this segment.
    pub fn find(&self, number: u32, sequence: u32) -> Option<Row> {
        let at = self.parts.binary_search_by_key(&number, |part| part.number).ok()?;
        let first = self.parts[at].first;
        let end = self.parts.get(at + 1).map_or(self.len(), |next| next.first);
        let place = self.sequences[first..end].binary_search(&sequence).ok()?;
        Some(self.row(number, first + place))
    }

    /// When the newest of them was appended.
    pub fn newest_time_us(&self) -> Option<u64> {
        self.times_us.iter().max().copied()
    }

    /// Gives memory back that was kept for more rows.
    pub fn shrink_to_fit(&mut self) {
        let numbers = [&mut self.sequences, &mut self.offsets, &mut self.lengths, &mut self.sources];
        numbers.into_iter().for_each(Vec::shrink_to_fit);
        let more = [&mut self.problems, &mut self.prompts, &mut self.responses];
        more.into_iter().for_each(Vec::shrink_to_fit);
        self.times_us.shrink_to_fit();
        self.present.shrink_to_fit();
        match &mut self.rewards {
            Rewards::Single(rewards) => rewards.shrink_to_fit(),
            Rewards::Double(rewards) => rewards.shrink_to_fit(),
        }
    }

    /// Gives the names other numbers: `numbers` has the new one at the place of each old one.
    pub fn rename(&mut self, numbers: &[u32]) {
        for name in self.sources.iter_mut().chain(&mut self.problems) {
            *name = numbers[*name as usize];
        }
    }

    /// Takes the rows behind these; they must be of the same segment or of later ones.
    pub fn append(&mut self, rows: &mut Rows) {
        rows.iter().for_each(|row| self.push(row));
        *rows = Rows::default();
    }

    fn row(&self, number: u32, at: usize) -> Row {
        Row {
            id: record_id(number, self.sequences[at]),
            time_us: self.times_us[at],
            reward: self.rewards.get(at),
            offset: self.offsets[at],
            length: self.lengths[at],
            source: self.sources[at],
            problem: self.problems[at],
            prompt: self.prompts[at],
            response: self.responses[at],
            present: Present::from_bits(self.present[at]),
        }
    }
}

/// Rewards; four bytes each while none needs more.
#[derive(Debug, Clone, PartialEq)]
enum Rewards {
    Single(Vec<f32>),
    Double(Vec<f64>),
}

impl Default for Rewards {
    fn default() -> Self {
        Rewards::Single(Vec::new())
    }
}

impl Rewards {
    fn push(&mut self, reward: f64) {
        if let Rewards::Single(rewards) = self {
            let narrow = reward as f32;
            if f64::from(narrow).to_bits() == reward.to_bits() {
                rewards.push(narrow);
                return;
            }
            *self = Rewards::Double(rewards.iter().map(|&reward| f64::from(reward)).collect());
        }
        if let Rewards::Double(rewards) = self {
            rewards.push(reward);
        }
    }

    fn get(&self, at: usize) -> f64 {
        match self {
            Rewards::Single(rewards) => f64::from(rewards[at]),
            Rewards::Double(rewards) => rewards[at],
        }
    }
}
