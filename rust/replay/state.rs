//! Saving and loading the buffer: ids, uses and random states, no trajectories. They are read again from the store when
//! they are drawn.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use super::card::{Card, group_of, token_count};
use super::pool::{Pool, PoolOrder};
use super::random::Random;
use super::window::Entry;
use super::{Counters, ONLINE, ReplayBuffer};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::store::Store;
use crate::trajectory::record::Columns;

/// All that decides future batches, but the trajectories themselves.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Seed of pools that are still to come.
    pub seed: u64,
    /// Random state of the window.
    pub window_random: u64,
    /// Ids in the window, oldest first.
    pub window_ids: Vec<u64>,
    /// Uses of each.
    pub window_uses: Vec<u32>,
    /// Priority of each; none: all are 1.
    pub window_priorities: Vec<f64>,
    /// The pools by source.
    pub pools: BTreeMap<String, PoolState>,
    /// What became of those that left.
    pub counters: Counters,
    /// Tokens that each source is behind its share.
    pub owed: BTreeMap<String, f64>,
}

/// The state of one pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolState {
    /// Its ids: in the order of the epoch, or of their additions where orders are computed.
    pub ids: Vec<u64>,
    /// How many places of the epoch's order have been passed.
    pub cursor: u64,
    /// Whole passes that came before.
    pub epoch: u32,
    /// Where its orders come from.
    pub order: PoolOrderState,
}

/// Where a pool's orders come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PoolOrderState {
    /// From a stream of random numbers.
    Kept {
        /// Its state.
        random: u64,
    },
    /// From seed, name and epoch.
    Computed {
        /// Cards in the epoch.
        length: u64,
        /// Places that come next.
        waiting: Vec<u64>,
    },
}

impl ReplayBuffer {
    /// The state, to be saved with a checkpoint.
    pub fn state(&self) -> State {
        let contents = self.lock();
        let entries = &contents.window.entries;
        let priorities: Vec<f64> = entries.iter().map(|entry| entry.priority).collect();
        State {
            seed: contents.seed,
            window_random: contents.window.random.state,
            window_ids: entries.iter().map(|entry| entry.card.id).collect(),
            window_uses: entries.iter().map(|entry| entry.uses).collect(),
            window_priorities: if priorities.iter().all(|&one| one == 1.0) { Vec::new() } else { priorities },
            pools: contents.pools.iter().map(|(source, pool)| (source.clone(), pool.state())).collect(),
            counters: contents.counters,
            owed: contents.owed.clone(),
        }
    }

    /// Replaces everything in the buffer by the state, whose trajectories are in the store; the buffer reads from it from
    /// now on. On an error the buffer stays as it was.
    pub fn load_state(&self, state: &State, store: &Arc<Store>, interrupt: Interrupt<'_>) -> Result<()> {
        check(state)?;
        let window = online_cards(&state.window_ids, store, interrupt)?;
        let mut pools = BTreeMap::new();
        for (source, saved) in &state.pools {
            let cards = described(&saved.ids, store, interrupt)?;
            let order = match &saved.order {
                PoolOrderState::Kept { random } => PoolOrder::Kept(Random { state: *random }),
                PoolOrderState::Computed { length, waiting } => PoolOrder::Computed {
                    seed: state.seed,
                    name: source.clone(),
                    length: *length as usize,
                    waiting: waiting.iter().map(|&place| place as usize).collect(),
                },
            };
            pools.insert(source.clone(), Pool { cards, cursor: saved.cursor as usize, epoch: saved.epoch, order });
        }
        let mut contents = self.lock();
        let bound = contents.memory.bound();
        contents.memory.bind(store.clone(), bound);
        contents.memory.clear();
        contents.seed = state.seed;
        contents.ids = all_ids(state).collect();
        contents.counters = state.counters;
        contents.owed = state.owed.clone();
        contents.pools = pools;
        contents.window.random = Random { state: state.window_random };
        contents.window.entries.clear();
        for (at, card) in window.into_iter().enumerate() {
            let priority = state.window_priorities.get(at).copied().unwrap_or(1.0);
            contents.add_online(Entry::new(card, state.window_uses[at], priority));
        }
        Ok(())
    }
}

/// Cards of stored trajectories for a pool, where versions do not matter: from the index alone.
pub fn described(ids: &[u64], store: &Store, interrupt: Interrupt<'_>) -> Result<Vec<Card>> {
    let cards = ids.iter().zip(store.describe(ids, interrupt)?).map(|(&id, record)| {
        let num_tokens = token_count(record.num_tokens)?;
        Ok(Card { id, min_policy_version: 0, group: group_of(&record.problem_id), num_tokens })
    });
    cards.collect()
}

fn online_cards(ids: &[u64], store: &Store, interrupt: Interrupt<'_>) -> Result<Vec<Card>> {
    let mut cards = described(ids, store, interrupt)?;
    for (card, record) in cards.iter_mut().zip(store.read_many(ids, Columns::SCALARS, interrupt)?) {
        if record.source != ONLINE {
            return Err(Error::invalid(format!(
                "the buffer's state has record {} as {ONLINE:?}, in the store it is {:?}: is it another run's store?",
                card.id, record.source
            )));
        }
        card.min_policy_version = record.min_policy_version;
    }
    Ok(cards)
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
    let priorities = &state.window_priorities;
    if !(priorities.is_empty() || priorities.len() == state.window_ids.len())
        || priorities.iter().any(|value| !(value.is_normal() && *value > 0.0))
    {
        return Err(Error::invalid("the buffer's state has window_priorities that do not fit its window_ids"));
    }
    match state.pools.iter().find(|(_, pool)| !is_possible(pool)) {
        Some((source, _)) => Err(Error::invalid(format!("the buffer's state has a cursor beyond the pool {source:?}"))),
        None => Ok(()),
    }
}

fn is_possible(pool: &PoolState) -> bool {
    let cards = pool.ids.len() as u64;
    match &pool.order {
        PoolOrderState::Kept { .. } => pool.cursor <= cards,
        PoolOrderState::Computed { length, waiting } => {
            pool.cursor <= *length && *length <= cards && waiting.iter().all(|&place| place < cards)
        }
    }
}
