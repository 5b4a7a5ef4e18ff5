//! The replay buffer: what batches are drawn from. Online trajectories pass through a bounded [`window`] (a few uses each,
//! none too stale); trajectories of any other source stay in a [`pool`] of that source, drawn without replacement.
//!
//! Deterministic: the same seed, additions and samplings give the same batches on every machine, also across
//! [`ReplayBuffer::state`] and [`ReplayBuffer::load_state`]. A sampling that fails takes nothing.
//!
//! Trajectories are decoded in [`memory`], all of them or as many as a bound lets it; the store keeps them for good. It
//! does not wait: who finds too little comes back.

pub mod batch;
mod buffer;
pub mod card;
pub mod columns;
mod contents;
pub mod memory;
pub mod mix;
pub mod order;
mod plan;
pub mod pool;
pub mod random;
pub mod shuffle;
mod smallest;
pub mod state;
pub mod window;

use std::sync::Arc;

use crate::trajectory::Trajectory;
pub use buffer::ReplayBuffer;
pub use order::Order;
pub use plan::Request;

/// The source whose trajectories age.
pub const ONLINE: &str = "online";

/// A trajectory and its id in the store.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// Its id.
    pub id: u64,
    /// The record.
    pub trajectory: Arc<Trajectory>,
}

/// What became of online trajectories that left the window.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Drawn `max_uses` times.
    pub used_up: u64,
    /// Grew too stale.
    pub expired: u64,
    /// Grew too stale without having been drawn once.
    pub expired_unused: u64,
    /// Pushed out by capacity.
    pub evicted: u64,
    /// Pushed out by capacity without having been drawn once.
    pub evicted_unused: u64,
}

/// How many trajectories are to be drawn from one source, in groups of how many.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Trajectories; a multiple of the group's size.
    pub count: usize,
    /// At least 1.
    pub group_size: usize,
}
