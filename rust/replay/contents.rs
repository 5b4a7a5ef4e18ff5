//! What is in the buffer: window, pools, and the trajectories that are in memory.

use std::collections::{BTreeMap, HashSet};

use super::card::Card;
use super::memory::Memory;
use super::order::Order;
use super::plan::Plan;
use super::pool::Pool;
use super::random::Random;
use super::window::{Bounds, Entry, MAX_CAPACITY, Window};
use super::{Counters, ONLINE, state};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// All that a buffer holds.
pub struct Contents {
    pub seed: u64,
    pub computed_orders: bool,
    pub window: Window,
    pub pools: BTreeMap<String, Pool>,
    /// Of all that is in window and pools.
    pub ids: HashSet<u64>,
    pub memory: Memory,
    pub counters: Counters,
    /// Tokens that each source is behind its share, where shares are counted in tokens.
    pub owed: BTreeMap<String, f64>,
}

impl Contents {
    /// Nothing yet. Fails if a bound is impossible.
    pub fn new(bounds: Bounds, seed: u64, computed_orders: bool) -> Result<Self> {
        check(&bounds)?;
        let window = Window { bounds, entries: Default::default(), random: Random::new(seed, ONLINE) };
        Ok(Contents {
            seed,
            computed_orders,
            window,
            pools: BTreeMap::new(),
            ids: HashSet::new(),
            memory: Memory::default(),
            counters: Counters::default(),
            owed: BTreeMap::new(),
        })
    }

    /// Fails if one of the ids is there already, or comes twice.
    pub fn check_new(&self, ids: impl Iterator<Item = u64>) -> Result<()> {
        let mut new = HashSet::new();
        for id in ids {
            if self.ids.contains(&id) || !new.insert(id) {
                return Err(Error::invalid(format!("the trajectory with the id {id} is in the buffer already")));
            }
        }
        Ok(())
    }

    /// Takes in a card whose id is new.
    pub fn add(&mut self, card: Card, source: &str) {
        self.ids.insert(card.id);
        if source == ONLINE {
            let priority = self.window.first_priority();
            self.add_online(Entry::new(card, 0, priority));
            return;
        }
        if !self.pools.contains_key(source) {
            self.pools.insert(source.to_owned(), Pool::new(self.seed, source, self.computed_orders));
        }
        if let Some(pool) = self.pools.get_mut(source) {
            pool.add(card);
        }
    }

    /// Takes in an entry of the window, which may push out its oldest.
    pub fn add_online(&mut self, entry: Entry) {
        if let Some(evicted) = self.window.add(entry) {
            self.ids.remove(&evicted.card.id);
            self.memory.remove(evicted.card.id);
            self.counters.evicted += 1;
            self.counters.evicted_unused += u64::from(evicted.uses == 0);
        }
    }

    /// Makes a plan happen.
    pub fn apply(&mut self, plan: Plan, policy_version: u64) {
        for id in self.window.apply(plan.window, policy_version, &mut self.counters) {
            self.ids.remove(&id);
            self.memory.remove(id);
        }
        for (source, draw) in plan.pools {
            if let Some(pool) = self.pools.get_mut(&source) {
                pool.apply(draw);
            }
        }
        self.owed = plan.owed;
        self.memory.shrink();
    }

    /// Cards of stored trajectories, for a pool.
    pub fn described(&self, ids: &[u64], interrupt: Interrupt<'_>) -> Result<Vec<Card>> {
        let store = self.memory.store().ok_or_else(|| {
            Error::Store("the replay buffer has no store to read trajectories from: give it one".to_owned())
        })?;
        state::described(ids, store, interrupt)
    }

    /// How many trajectories each source could give for a step at this policy version.
    pub fn available(&self, policy_version: u64) -> BTreeMap<String, usize> {
        let mut available = BTreeMap::from([(ONLINE.to_owned(), self.window.available(policy_version))]);
        available.extend(self.pools.iter().map(|(source, pool)| (source.clone(), pool.cards.len())));
        available
    }
}

fn check(bounds: &Bounds) -> Result<()> {
    if bounds.capacity == 0 || bounds.max_uses == 0 {
        return Err(Error::invalid("capacity and max_uses must be at least 1"));
    }
    if bounds.capacity > MAX_CAPACITY {
        return Err(Error::invalid(format!("capacity must be at most {MAX_CAPACITY}, got {}", bounds.capacity)));
    }
    match bounds.order {
        Order::Recent { half_life } if !(half_life.is_finite() && half_life > 0.0) => {
            Err(Error::invalid(format!("half_life must be above 0, got {half_life}")))
        }
        Order::Priority { exponent } if !(exponent.is_finite() && exponent >= 0.0) => {
            Err(Error::invalid(format!("priority_exponent must be at least 0, got {exponent}")))
        }
        _ => Ok(()),
    }
}
