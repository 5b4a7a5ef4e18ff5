//! Saving and loading the buffer: ids, uses and random states, no trajectories. They are read again from the store.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::pool::Pool;
use super::random::Random;
use super::window::Entry;
use super::{Counters, Item, ONLINE, ReplayBuffer};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::store::Store;
use crate::trajectory::record::Columns;

/// All that decides future batches, but the trajectories themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// Seed of pools that are still to come.
    pub seed: u64,
    /// Random state of the window.
    pub window_random: u64,
    /// Ids in the window, oldest first.
    pub window_ids: Vec<u64>,
    /// Uses of each.
    pub window_uses: Vec<u32>,
    /// The pools by source.
    pub pools: BTreeMap<String, PoolState>,
    /// What became of those that left.
    pub counters: Counters,
}

/// The state of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolState {
    /// Its ids in the order of the epoch.
    pub ids: Vec<u64>,
    /// How many have been drawn in this epoch.
    pub cursor: u64,
    /// Whole passes that came before.
    pub epoch: u32,
    /// Random state.
    pub random: u64,
}

impl ReplayBuffer {
    /// The state, to be saved with a checkpoint.
    pub fn state(&self) -> State {
        let inner = self.lock();
        let pool_state = |pool: &Pool| PoolState {
            ids: pool.items.iter().map(|item| item.id).collect(),
            cursor: pool.cursor as u64,
            epoch: pool.epoch,
            random: pool.random.state,
        };
        State {
            seed: inner.seed,
            window_random: inner.window.random.state,
            window_ids: inner.window.entries.iter().map(|entry| entry.item.id).collect(),
            window_uses: inner.window.entries.iter().map(|entry| entry.uses).collect(),
            pools: inner.pools.iter().map(|(source, pool)| (source.clone(), pool_state(pool))).collect(),
            counters: inner.counters,
        }
    }

    /// Replaces everything in the buffer by the state, whose trajectories are read from the store. On an error the
    /// buffer stays as it was.
    pub fn load_state(&self, state: &State, store: &Store, interrupt: Interrupt<'_>) -> Result<()> {
        check(state)?;
        let read = |ids: &[u64]| -> Result<Vec<Item>> {
            let trajectories = store.read_many(ids, Columns::ALL, interrupt)?.into_iter().map(Arc::new);
            Ok(ids.iter().zip(trajectories).map(|(&id, trajectory)| Item { id, trajectory }).collect())
        };
        let window = read(&state.window_ids)?;
        check_sources(&window, ONLINE)?;
        let mut pools = BTreeMap::new();
        for (source, saved) in &state.pools {
            let items = read(&saved.ids)?;
            check_sources(&items, source)?;
            let (cursor, epoch, random) = (saved.cursor as usize, saved.epoch, Random { state: saved.random });
            pools.insert(source.clone(), Pool { items, cursor, epoch, random });
        }
        let mut inner = self.lock();
        inner.seed = state.seed;
        inner.ids = all_ids(state).collect();
        inner.counters = state.counters;
        inner.pools = pools;
        inner.window.random = Random { state: state.window_random };
        inner.window.entries.clear();
        for (item, &uses) in window.into_iter().zip(&state.window_uses) {
            inner.add_online(Entry { item, uses });
        }
        Ok(())
    }
}

fn all_ids(state: &State) -> impl Iterator<Item = u64> {
    state.window_ids.iter().chain(state.pools.values().flat_map(|pool| &pool.ids)).copied()
}

fn check(state: &State) -> Result<()> {
    let mut seen = HashSet::new();
    if let Some(id) = all_ids(state).find(|&id| !seen.insert(id)) {
        return Err(Error::invalid(format!("the buffer's state has the id {id} twice")));
    }
    if state.window_ids.len() != state.window_uses.len() {
        return Err(Error::invalid("the buffer's state has another number of window_uses than of window_ids"));
    }
    match state.pools.iter().find(|(_, pool)| pool.cursor > pool.ids.len() as u64) {
        Some((source, _)) => Err(Error::invalid(format!("the buffer's state has a cursor beyond the pool {source:?}"))),
        None => Ok(()),
    }
}

fn check_sources(items: &[Item], source: &str) -> Result<()> {
    match items.iter().find(|item| item.trajectory.source != source) {
        None => Ok(()),
        Some(item) => Err(Error::invalid(format!(
            "the buffer's state has record {} as {source:?}, in the store it is {:?}: is it another run's store?",
            item.id, item.trajectory.source
        ))),
    }
}
