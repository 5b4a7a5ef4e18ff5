//! A batch: drawn trajectories packed into rows, as flat row-major arrays that numpy takes over without a copy.

use std::sync::Once;

use super::Item;
use crate::error::Result;
use crate::packing::{Layout, pack};
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
        let layout = pack(&lengths, token_budget, row_multiple)?;
        let page = Page::new(&items, &layout, token_budget);
        Ok(Batch {
            tokens: page.filled(0, |array, _, trajectory| {
                array.extend_from_slice(&trajectory.prompt_tokens);
                array.extend_from_slice(&trajectory.response_tokens);
            }),
            position_ids: page.filled(0, |array, _, trajectory| array.extend(0..trajectory.num_tokens() as i32)),
            segment_ids: page.filled(PADDING, |array, at, trajectory| {
                array.resize(array.len() + trajectory.num_tokens(), at as i32);
            }),
            response_mask: page.filled(false, |array, _, trajectory| {
                array.resize(array.len() + trajectory.prompt_tokens.len(), false);
                array.resize(array.len() + trajectory.response_tokens.len(), true);
            }),
            behavior_logprobs: page.logprobs(|trajectory| trajectory.behavior_logprobs.as_deref()),
            reference_logprobs: page.logprobs(|trajectory| trajectory.reference_logprobs.as_deref()),
            rows: layout.rows,
            width: token_budget,
            places: layout.places,
            items,
        })
    }
}

/// Has the C library keep the memory of arrays that are freed. As it is, it gives megabytes back to the system, and to map
/// them anew for the next batch takes several times as long as to fill them. Once a block as large as this was
/// freed, it keeps twice as much (`M_MMAP_THRESHOLD` in mallopt(3)); nothing is touched for it.
fn keep_freed_memory() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LEARNT_BYTES)));
}

/// What all arrays of a batch have in common: which trajectories lie where.
struct Page<'a> {
    /// `[B]`: index in the batch, first element and trajectory, in the order in which they lie.
    order: Vec<(usize, usize, &'a Trajectory)>,
    /// R·T.
    size: usize,
}

impl<'a> Page<'a> {
    fn new(items: &'a [(Item, u32)], layout: &Layout, width: usize) -> Self {
        let starts = layout.places.iter().map(|place| place.row * width + place.start);
        let placed = items.iter().zip(starts).enumerate();
        let mut order: Vec<_> = placed.map(|(at, ((item, _), start))| (at, start, &*item.trajectory)).collect();
        // Empty trajectories lie where others begin, and come before them.
        order.sort_unstable_by_key(|&(at, start, trajectory)| (start, trajectory.num_tokens(), at));
        Page { order, size: layout.rows * width }
    }

    /// An array that is written once, from front to back, rather than cleared first: `put` appends what it has of a
    /// trajectory, `padding` is what lies between.
    fn filled<T: Copy>(&self, padding: T, put: impl Fn(&mut Vec<T>, usize, &Trajectory)) -> Vec<T> {
        let mut array = Vec::with_capacity(self.size);
        for &(at, start, trajectory) in &self.order {
            array.resize(start, padding);
            put(&mut array, at, trajectory);
        }
        array.resize(self.size, padding);
        array
    }

    /// A column of log-probabilities, if every trajectory has it.
    fn logprobs(&self, of: fn(&Trajectory) -> Option<&[f32]>) -> Option<Vec<f32>> {
        let all = !self.order.is_empty() && self.order.iter().all(|(.., trajectory)| of(trajectory).is_some());
        all.then(|| {
            self.filled(0.0, |array, _, trajectory| {
                array.resize(array.len() + trajectory.prompt_tokens.len(), 0.0);
                array.extend_from_slice(of(trajectory).unwrap_or_default());
            })
        })
    }
}
