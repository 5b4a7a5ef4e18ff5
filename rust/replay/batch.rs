//! A batch: drawn trajectories packed into rows, as flat row-major arrays that numpy takes over without a copy.

use std::sync::Once;

use super::Item;
use crate::error::{Error, Result};
use crate::packing::pack;
use crate::trajectory::Trajectory;

pub use crate::packing::Place;

/// `segment_ids` where there is no trajectory.
pub const PADDING: i32 = -1;

/// The largest block that glibc learns from.
const LEARNT_BYTES: usize = (32 << 20) - (1 << 16);
static KEEPING_MEMORY: Once = Once::new();

/// B trajectories in R rows of T tokens.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// R.
    pub rows: usize,
    /// T.
    pub width: usize,
    /// `[R, T]`; 0 in padding.
    pub tokens: Vec<i32>,
    /// `[R, T]`: place of the token in its trajectory, from 0; 0 in padding.
    pub position_ids: Vec<i32>,
    /// `[R, T]`: which trajectory of the batch, [`PADDING`] where none.
    pub segment_ids: Vec<i32>,
    /// `[R, T]`: whether the token is of a response.
    pub response_mask: Vec<bool>,
    /// `[R, T]`, 0 outside responses; there if every trajectory has them.
    pub behavior_logprobs: Option<Vec<f32>>,
    /// `[R, T]`, 0 outside responses; there if every trajectory has them.
    pub reference_logprobs: Option<Vec<f32>>,
    /// `[B]`: where each trajectory lies.
    pub places: Vec<Place>,
    /// `[B]`: the trajectories with the number of their use, from 1.
    pub items: Vec<(Item, u32)>,
}

impl Batch {
    /// Packs the items. Fails, naming it, on a trajectory longer than `token_budget`.
    pub fn pack(items: Vec<(Item, u32)>, token_budget: usize, row_multiple: usize) -> Result<Self> {
        KEEPING_MEMORY.call_once(keep_freed_memory);
        let lengths: Vec<usize> = items.iter().map(|(item, _)| item.trajectory.num_tokens()).collect();
        if let Some((item, _)) = items.iter().find(|(item, _)| item.trajectory.num_tokens() > token_budget) {
            return Err(too_long(item, token_budget));
        }
        let layout = pack(&lengths, token_budget, row_multiple)?;
        let each =
            |has: fn(&Trajectory) -> bool| !items.is_empty() && items.iter().all(|(item, _)| has(&item.trajectory));
        let size = layout.rows * token_budget;
        let logprobs = |are_there: bool| are_there.then(|| Vec::with_capacity(size));
        let mut batch = Batch {
            rows: layout.rows,
            width: token_budget,
            tokens: Vec::with_capacity(size),
            position_ids: Vec::with_capacity(size),
            segment_ids: Vec::with_capacity(size),
            response_mask: Vec::with_capacity(size),
            behavior_logprobs: logprobs(each(|trajectory| trajectory.behavior_logprobs.is_some())),
            reference_logprobs: logprobs(each(|trajectory| trajectory.reference_logprobs.is_some())),
            places: layout.places,
            items: Vec::new(),
        };
        let starts = batch.places.iter().map(|place| place.row * token_budget + place.start);
        let mut order: Vec<(usize, usize)> = starts.zip(0..).filter(|&(_, at)| lengths[at] > 0).collect();
        order.sort_unstable();
        for (start, at) in order {
            batch.pad(start);
            batch.put(at as i32, &items[at].0.trajectory);
        }
        batch.pad(size);
        Ok(Batch { items, ..batch })
    }

    /// Adds the trajectory `at` behind what is there. The arrays are filled together, once and from front to back, rather
    /// than cleared first.
    fn put(&mut self, at: i32, trajectory: &Trajectory) {
        let response_start = self.tokens.len() + trajectory.prompt_tokens.len();
        let end = response_start + trajectory.response_tokens.len();
        self.tokens.extend_from_slice(&trajectory.prompt_tokens);
        self.tokens.extend_from_slice(&trajectory.response_tokens);
        let columns = [
            (&mut self.behavior_logprobs, &trajectory.behavior_logprobs),
            (&mut self.reference_logprobs, &trajectory.reference_logprobs),
        ];
        for (array, values) in columns {
            if let (Some(array), Some(values)) = (array, values) {
                array.resize(response_start, 0.0);
                array.extend_from_slice(values);
            }
        }
        self.position_ids.extend(0..trajectory.num_tokens() as i32);
        self.segment_ids.resize(end, at);
        self.response_mask.resize(response_start, false);
        self.response_mask.resize(end, true);
    }

    /// Adds padding up to `end`.
    fn pad(&mut self, end: usize) {
        self.tokens.resize(end, 0);
        self.position_ids.resize(end, 0);
        self.segment_ids.resize(end, PADDING);
        self.response_mask.resize(end, false);
        for array in [&mut self.behavior_logprobs, &mut self.reference_logprobs].into_iter().flatten() {
            array.resize(end, 0.0);
        }
    }
}

/// What a trajectory is refused with that fits no row.
pub fn too_long(item: &Item, token_budget: usize) -> Error {
    let (id, problem, tokens) = (item.id, &item.trajectory.problem_id, item.trajectory.num_tokens());
    Error::invalid(format!(
        "trajectory {id} of problem {problem:?} has {tokens} tokens, token_budget is {token_budget}: raise token_budget \
         (batch.token_budget of a run) to {tokens} or more, or leave the trajectory out"
    ))
}

/// Has the C library keep the memory of arrays that are freed. As it is, it gives megabytes back to the system, and to map
/// them anew for the next batch takes several times as long as to fill them. Once a block as large as this was
/// freed, it keeps twice as much (`M_MMAP_THRESHOLD` in mallopt(3)); nothing is touched for it.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LEARNT_BYTES)));
}
