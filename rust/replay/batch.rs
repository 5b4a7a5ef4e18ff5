//! A batch: drawn trajectories packed into rows, as flat row-major arrays that numpy takes over without a copy.

use super::Item;
use crate::error::Result;
use crate::packing::{Place, pack};
use crate::trajectory::Trajectory;

/// `segment_ids` where there is no trajectory.
pub const PADDING: i32 = -1;

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
        let lengths: Vec<usize> = items.iter().map(|(item, _)| item.trajectory.num_tokens()).collect();
        let layout = pack(&lengths, token_budget, row_multiple)?;
        let size = layout.rows * token_budget;
        let mut batch = Batch {
            rows: layout.rows,
            width: token_budget,
            tokens: vec![0; size],
            position_ids: vec![0; size],
            segment_ids: vec![PADDING; size],
            response_mask: vec![false; size],
            behavior_logprobs: column(&items, size, |trajectory| &trajectory.behavior_logprobs),
            reference_logprobs: column(&items, size, |trajectory| &trajectory.reference_logprobs),
            places: layout.places,
            items,
        };
        for at in 0..batch.items.len() {
            batch.put(at);
        }
        Ok(batch)
    }

    fn put(&mut self, at: usize) {
        let trajectory = self.items[at].0.trajectory.clone();
        let start = self.places[at].row * self.width + self.places[at].start;
        let response = start + trajectory.prompt_tokens.len();
        let end = response + trajectory.response_tokens.len();
        self.tokens[start..response].copy_from_slice(&trajectory.prompt_tokens);
        self.tokens[response..end].copy_from_slice(&trajectory.response_tokens);
        for (position, place) in self.position_ids[start..end].iter_mut().enumerate() {
            *place = position as i32;
        }
        self.segment_ids[start..end].fill(at as i32);
        self.response_mask[response..end].fill(true);
        let copy = |to: &mut Option<Vec<f32>>, from: &Option<Vec<f32>>| {
            if let (Some(to), Some(from)) = (to, from) {
                to[response..end].copy_from_slice(from);
            }
        };
        copy(&mut self.behavior_logprobs, &trajectory.behavior_logprobs);
        copy(&mut self.reference_logprobs, &trajectory.reference_logprobs);
    }
}

fn column(items: &[(Item, u32)], size: usize, of: fn(&Trajectory) -> &Option<Vec<f32>>) -> Option<Vec<f32>> {
    let all = !items.is_empty() && items.iter().all(|(item, _)| of(&item.trajectory).is_some());
    all.then(|| vec![0.0; size])
}
