//! A card: what drawing needs to know of a trajectory, which itself need not be in memory.

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64;

use crate::error::{Error, Result};
use crate::trajectory::Trajectory;

/// Stands for a trajectory in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Card {
    /// Its id in the store.
    pub id: u64,
    /// Version of the weights at its first token.
    pub min_policy_version: u64,
    /// Hash of its problem: trajectories of one prompt are a group.
    pub group: u64,
    /// Prompt and response.
    pub num_tokens: u32,
}

impl Card {
    /// The card of a trajectory.
    pub fn new(id: u64, trajectory: &Trajectory) -> Result<Self> {
        let num_tokens = token_count(trajectory.num_tokens())?;
        let group = group_of(&trajectory.problem_id);
        Ok(Card { id, min_policy_version: trajectory.min_policy_version, group, num_tokens })
    }
}

/// The group that trajectories of a problem are in.
pub fn group_of(problem_id: &str) -> u64 {
    xxh3_64(problem_id.as_bytes())
}

/// A length as a card holds it.
pub fn token_count(tokens: usize) -> Result<u32> {
    u32::try_from(tokens).map_err(|_| Error::invalid(format!("a trajectory of {tokens} tokens is too long")))
}

/// Takes whole groups of `size` from cards that are in the order of drawing: the places of the first `count / size`
/// groups, each at the turn of its first member. Fewer, if there are not so many whole groups. A problem may have several.
pub fn whole_groups(cards: impl Iterator<Item = Card>, size: usize, count: usize) -> Vec<usize> {
    let mut open: HashMap<u64, Vec<usize>> = HashMap::new();
    let mut whole: Vec<Vec<usize>> = Vec::new();
    for (place, card) in cards.enumerate() {
        let group = open.entry(card.group).or_default();
        group.push(place);
        if group.len() == size {
            whole.push(std::mem::take(group));
        }
    }
    whole.sort_by_key(|group| group[0]);
    whole.truncate(count / size);
    whole.concat()
}
