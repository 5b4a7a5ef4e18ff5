//! The trajectories that are in memory, within a bound of bytes; the others are read from the store when they are drawn.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::store::Store;
use crate::trajectory::Trajectory;
use crate::trajectory::record::Columns;

/// What a trajectory takes beside its arrays, about.
const OVERHEAD_BYTES: usize = 512;

/// Numbers of four bytes in a memory page.
const PAGE_NUMBERS: usize = 1024;

/// Decoded trajectories by id.
#[derive(Default)]
pub struct Memory {
    records: HashMap<u64, Arc<Trajectory>>,
    /// Ids in the order in which they came; some may have gone.
    order: VecDeque<u64>,
    bytes: usize,
    bound: Option<usize>,
    store: Option<Arc<Store>>,
}

impl Memory {
    /// Keeps at most `bound` bytes, and reads from the store what it has not kept.
    pub fn bind(&mut self, store: Arc<Store>, bound: Option<usize>) {
        self.store = Some(store);
        self.bound = bound;
    }

    /// Lets go of the store: what is not in memory can no longer be drawn.
    pub fn unbind(&mut self) {
        self.store = None;
    }

    /// The store that is read from.
    pub fn store(&self) -> Option<&Arc<Store>> {
        self.store.as_ref()
    }

    /// The most bytes kept.
    pub fn bound(&self) -> Option<usize> {
        self.bound
    }

    /// Bytes kept, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in a trajectory.
    pub fn insert(&mut self, id: u64, trajectory: Arc<Trajectory>) {
        self.bytes += size(&trajectory);
        if let Some(before) = self.records.insert(id, trajectory) {
            self.bytes -= size(&before);
        } else if self.bound.is_some() {
            self.order.push_back(id);
        }
    }

    /// Forgets a trajectory.
    pub fn remove(&mut self, id: u64) {
        if let Some(trajectory) = self.records.remove(&id) {
            self.bytes -= size(&trajectory);
        }
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        (self.records, self.order, self.bytes) = Default::default();
    }

    /// Changes a trajectory, if it is in memory.
    pub fn change(&mut self, id: u64, change: impl FnOnce(&mut Trajectory)) {
        if let Some(record) = self.records.get_mut(&id) {
            self.bytes -= size(record);
            change(Arc::make_mut(record));
            self.bytes += size(record);
        }
    }

    /// The trajectories of the ids, each with the source that it is drawn from.
    pub fn fetch<'a>(
        &mut self,
        wanted: impl Iterator<Item = (u64, &'a str)> + Clone,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Arc<Trajectory>>> {
        let found: Vec<Option<&Arc<Trajectory>>> = wanted.clone().map(|(id, _)| self.records.get(&id)).collect();
        read_ahead(found.iter().flatten().map(|record| &***record));
        let found: Vec<Option<Arc<Trajectory>>> = found.into_iter().map(Option::<&_>::cloned).collect();
        let is_missing = |&(_, record): &((u64, &'a str), &Option<_>)| record.is_none();
        let missing: Vec<(u64, &str)> = wanted.zip(&found).filter(is_missing).map(|(wanted, _)| wanted).collect();
        let mut read = self.read(&missing, interrupt)?.into_iter();
        // Each that was not found has been read.
        Ok(found.into_iter().filter_map(|record| record.or_else(|| read.next())).collect())
    }

    /// Reads trajectories from the store.
    fn read(&mut self, missing: &[(u64, &str)], interrupt: Interrupt<'_>) -> Result<Vec<Arc<Trajectory>>> {
        let Some((first, _)) = missing.first() else { return Ok(Vec::new()) };
        let ids: Vec<u64> = missing.iter().map(|&(id, _)| id).collect();
        let store = self
            .store
            .as_ref()
            .ok_or_else(|| Error::Store(format!("trajectory {first} is not in memory, and the buffer has no store")))?;
        let mut records = Vec::with_capacity(ids.len());
        for (&(id, source), mut trajectory) in missing.iter().zip(store.read_many(&ids, Columns::ALL, interrupt)?) {
            if trajectory.source != source {
                trajectory.source = source.to_owned();
            }
            let record = Arc::new(trajectory);
            self.insert(id, record.clone());
            records.push(record);
        }
        Ok(records)
    }

    /// Forgets those that came first until the bound is kept.
    pub fn shrink(&mut self) {
        let Some(bound) = self.bound else { return };
        while self.bytes > bound
            && let Some(id) = self.order.pop_front()
        {
            self.remove(id);
        }
        if self.order.len() > 2 * self.records.len() + 64 {
            self.order.retain(|id| self.records.contains_key(id));
        }
    }
}

/// Reads a number of each memory page of the records, so that the processor fetches these from memory side by side. When
/// they are copied, it would wait for one after the other.
fn read_ahead<'a>(records: impl Iterator<Item = &'a Trajectory> + Clone) {
    let lengths = records.clone().map(Trajectory::num_tokens).fold(0, usize::wrapping_add);
    let tokens = |tokens: &[i32]| tokens.iter().step_by(PAGE_NUMBERS).fold(0, |sum, &token| sum ^ token as u32);
    let logprobs = |values: &[f32]| values.iter().step_by(PAGE_NUMBERS).fold(0, |sum, value| sum ^ value.to_bits());
    let numbers = records.map(|record| {
        let columns = [&record.behavior_logprobs, &record.reference_logprobs].into_iter().flatten();
        let columns = columns.fold(0, |sum, column| sum ^ logprobs(column));
        tokens(&record.prompt_tokens) ^ tokens(&record.response_tokens) ^ columns
    });
    std::hint::black_box((lengths, numbers.fold(0, |sum, number| sum ^ number)));
}

fn size(trajectory: &Trajectory) -> usize {
    let column = |values: &Option<Vec<f32>>| values.as_ref().map_or(0, Vec::len);
    let numbers =
        trajectory.num_tokens() + column(&trajectory.behavior_logprobs) + column(&trajectory.reference_logprobs);
    let counts = trajectory.mc_successes.as_ref().map_or(0, |counts| 3 * counts.positions.len());
    let texts: usize = trajectory.metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    4 * (numbers + counts) + texts + OVERHEAD_BYTES
}
