//! The replay buffer: what batches are drawn from. Online trajectories pass through a bounded [`window`] (a few uses each,
//! none too stale); trajectories of any other source stay in a [`pool`] of that source, drawn without replacement.
//!
//! Deterministic: the same seed, additions and samplings give the same batches on every machine, also across
//! [`ReplayBuffer::state`] and [`ReplayBuffer::load_state`]. A sampling that fails takes nothing.
//!
//! It holds decoded trajectories; the store keeps them for good. It does not wait: who finds too little comes back.

pub mod batch;
pub mod mix;
pub mod pool;
pub mod random;
pub mod state;
pub mod window;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::trajectory::Trajectory;
use batch::Batch;
use pool::Pool;
use random::Random;
use window::{Bounds, Entry, Window};

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

/// Which of the equally often used online trajectories are drawn first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Those that came first: none expires while a younger one is used.
    Oldest,
    /// Any, with equal chance.
    Uniform,
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

/// What a batch shall be like.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// B.
    pub num_trajectories: usize,
    /// Version of the weights that will be trained on it: decides staleness.
    pub policy_version: u64,
    /// Share of each source, in trajectories; the shares sum to 1.
    pub mix: BTreeMap<String, f64>,
    /// T.
    pub token_budget: usize,
    /// R is a multiple of it.
    pub row_multiple: usize,
}

/// The buffer. All methods may be called from any thread.
pub struct ReplayBuffer(Mutex<Inner>);

struct Inner {
    seed: u64,
    window: Window,
    pools: BTreeMap<String, Pool>,
    ids: HashSet<u64>,
    counters: Counters,
}

impl ReplayBuffer {
    /// An empty buffer.
    pub fn new(bounds: Bounds, seed: u64) -> Result<Self> {
        if bounds.capacity == 0 || bounds.max_uses == 0 {
            return Err(Error::invalid("capacity and max_uses must be at least 1"));
        }
        let window = Window { bounds, entries: Default::default(), random: Random::new(seed, ONLINE) };
        let (pools, ids, counters) = (BTreeMap::new(), HashSet::new(), Counters::default());
        Ok(ReplayBuffer(Mutex::new(Inner { seed, window, pools, ids, counters })))
    }

    /// Adds trajectories with their ids; all or, if an id is in the buffer already, none.
    pub fn add(&self, items: Vec<Item>) -> Result<()> {
        let mut inner = self.lock();
        let mut new = HashSet::with_capacity(items.len());
        if let Some(item) = items.iter().find(|item| inner.ids.contains(&item.id) || !new.insert(item.id)) {
            return Err(Error::invalid(format!("the trajectory with the id {} is in the buffer already", item.id)));
        }
        for item in items {
            inner.add(item);
        }
        Ok(())
    }

    /// Draws a batch, or takes nothing: [`Error::NotEnough`] if a source cannot give its part,
    /// [`Error::Invalid`] if a trajectory exceeds the token budget.
    pub fn sample(&self, request: &Request) -> Result<Batch> {
        let counts = mix::counts(request.num_trajectories, &request.mix)?;
        let mut inner = self.lock();
        let available = inner.available(request.policy_version);
        for (source, &wanted) in &counts {
            let there = available.get(source).copied().unwrap_or(0);
            if there < wanted {
                return Err(Error::NotEnough { source_name: source.clone(), wanted, available: there });
            }
        }
        let online = counts.get(ONLINE).copied().unwrap_or(0);
        let window_draw = inner.window.plan(online, request.policy_version);
        let pool_counts = counts.iter().filter(|(source, _)| *source != ONLINE);
        let pool_draws: Vec<(String, pool::Draw)> = pool_counts
            .filter_map(|(source, &count)| Some((source.clone(), inner.pools.get(source)?.plan(count))))
            .collect();
        let mut items = window_draw.items.clone();
        items.extend(pool_draws.iter().flat_map(|(_, draw)| draw.items.iter().cloned()));
        for (item, _) in &items {
            check_length(item, request.token_budget)?;
        }
        let Inner { window, counters, ids, pools, .. } = &mut *inner;
        for id in window.apply(window_draw, request.policy_version, counters) {
            ids.remove(&id);
        }
        for (source, draw) in pool_draws {
            pools.entry(source).and_modify(|pool| pool.apply(draw));
        }
        drop(inner);
        Batch::pack(items, request.token_budget, request.row_multiple)
    }

    /// How many trajectories each source could give for a step at this policy version.
    pub fn available(&self, policy_version: u64) -> BTreeMap<String, usize> {
        self.lock().available(policy_version)
    }

    /// What became of online trajectories that left.
    pub fn counters(&self) -> Counters {
        self.lock().counters
    }

    /// How many trajectories it holds.
    pub fn len(&self) -> usize {
        self.lock().ids.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Inner {
    fn add(&mut self, item: Item) {
        self.ids.insert(item.id);
        if item.trajectory.source == ONLINE {
            self.add_online(Entry { item, uses: 0 });
            return;
        }
        let seed = self.seed;
        let source = item.trajectory.source.clone();
        let pool = self.pools.entry(source).or_insert_with_key(|source| Pool::new(Random::new(seed, source)));
        pool.add(item);
    }

    fn add_online(&mut self, entry: Entry) {
        if let Some(evicted) = self.window.add(entry) {
            self.ids.remove(&evicted.item.id);
            self.counters.evicted += 1;
            self.counters.evicted_unused += u64::from(evicted.uses == 0);
        }
    }

    fn available(&self, policy_version: u64) -> BTreeMap<String, usize> {
        let mut available = BTreeMap::from([(ONLINE.to_owned(), self.window.available(policy_version))]);
        available.extend(self.pools.iter().map(|(source, pool)| (source.clone(), pool.items.len())));
        available
    }
}

fn check_length(item: &Item, token_budget: usize) -> Result<()> {
    match item.trajectory.num_tokens() {
        length if length <= token_budget => Ok(()),
        length => Err(Error::invalid(format!(
            "trajectory {} of problem {:?} has {length} tokens, token_budget is {token_budget}: raise it or add none so long",
            item.id, item.trajectory.problem_id
        ))),
    }
}
