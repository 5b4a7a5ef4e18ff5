//! A pool: experience of one source that never ages, drawn without replacement. An epoch is one shuffled pass over it.
//! Either what is added joins the rest of the current epoch at a random place, and the order is kept; or orders are
//! computed when they are needed ([`Shuffle`]), what is added waits for the next epoch, and next to nothing is kept.

use std::collections::HashSet;

use super::card::{Card, whole_groups};
use super::random::Random;
use super::shuffle::Shuffle;
use super::{Quota, state};
use crate::error::{Error, Result};

/// The trajectories of one source.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// The cards: in the order of the epoch, or of their additions where orders are computed.
    pub cards: Vec<Card>,
    /// How many places of the epoch's order have been passed.
    pub cursor: usize,
    /// Whole passes that came before.
    pub epoch: u32,
    /// Where its orders come from.
    pub order: PoolOrder,
}

/// Where a pool's orders come from.
#[derive(Debug, Clone, PartialEq)]
pub enum PoolOrder {
    /// The cards lie in the order of the epoch; the next one is shuffled when it begins.
    Kept(Random),
    /// Orders are functions of the pool's seed and name.
    Computed {
        /// Seed of the buffer.
        seed: u64,
        /// Name of the pool.
        name: String,
        /// How many cards the epoch has.
        length: usize,
        /// Cards whose turn came within a draw that had them already, from the epoch before: they come next.
        waiting: Vec<usize>,
    },
}

/// What a draw would take, and what it would leave; nothing has happened yet.
pub struct Draw {
    /// The cards with the number of their use, from 1.
    pub cards: Vec<(Card, u32)>,
    after: After,
}

enum After {
    /// Everything is another.
    Pool(Box<Pool>),
    /// The order stays.
    Place { cursor: usize, epoch: u32, length: usize, waiting: Vec<usize> },
}

impl Pool {
    /// An empty pool.
    pub fn new(seed: u64, name: &str, computed: bool) -> Self {
        let order = if computed {
            PoolOrder::Computed { seed, name: name.to_owned(), length: 0, waiting: Vec::new() }
        } else {
            PoolOrder::Kept(Random::new(seed, name))
        };
        Pool { cards: Vec::new(), cursor: 0, epoch: 0, order }
    }

    /// Adds a card.
    pub fn add(&mut self, card: Card) {
        self.cards.push(card);
        match &mut self.order {
            PoolOrder::Kept(random) => {
                let place = self.cursor + random.below(self.cards.len() - self.cursor);
                let last = self.cards.len() - 1;
                self.cards.swap(place, last);
            }
            // An epoch of which nothing has been drawn may still grow.
            PoolOrder::Computed { length, waiting, .. } if self.cursor == 0 && waiting.is_empty() => *length += 1,
            PoolOrder::Computed { .. } => (),
        }
    }

    /// Plans to draw different cards, at most as many as there are, in whole groups where asked for.
    pub fn plan(&self, quota: Quota) -> Result<Draw> {
        match &self.order {
            PoolOrder::Kept(random) if quota.group_size == 1 => Ok(self.plan_kept(quota.count, random)),
            PoolOrder::Kept(random) => Ok(self.plan_groups(quota, random)),
            PoolOrder::Computed { seed, name, length, waiting } if quota.group_size == 1 => {
                Ok(self.plan_computed(quota.count, (*seed, name), *length, waiting))
            }
            PoolOrder::Computed { .. } => Err(Error::invalid(
                "group_size must be 1 where the orders of pools are computed: use pool_order=\"kept\" for groups",
            )),
        }
    }

    fn plan_kept(&self, count: usize, random: &Random) -> Draw {
        let rest = &self.cards[self.cursor..];
        let now = rest.len().min(count);
        let mut cards: Vec<_> = rest[..now].iter().map(|&card| (card, self.epoch + 1)).collect();
        if now == count {
            let after = After::Place { cursor: self.cursor + now, epoch: self.epoch, length: 0, waiting: Vec::new() };
            return Draw { cards, after };
        }
        // The next epoch begins within this draw: what was just taken must not come first in it.
        let taken: HashSet<u64> = cards.iter().map(|(card, _)| card.id).collect();
        let mut random = random.clone();
        let mut order = self.cards.clone();
        random.shuffle(&mut order);
        let wanted = count - now;
        let (mut first, mut later) = (Vec::with_capacity(order.len()), Vec::new());
        for card in order {
            let fits = first.len() < wanted && !taken.contains(&card.id);
            if fits { first.push(card) } else { later.push(card) }
        }
        cards.extend(first.iter().map(|&card| (card, self.epoch + 2)));
        first.append(&mut later);
        let pool = Pool { cards: first, cursor: wanted, epoch: self.epoch + 1, order: PoolOrder::Kept(random) };
        Draw { cards, after: After::Pool(Box::new(pool)) }
    }

    /// Whole groups of what is left of the epoch; where that has too few, a new epoch begins, and the rest is left out.
    fn plan_groups(&self, quota: Quota, random: &Random) -> Draw {
        let mut pool = self.clone();
        let mut places = whole_groups(pool.cards[pool.cursor..].iter().copied(), quota.group_size, quota.count);
        if places.len() < quota.count {
            let mut random = random.clone();
            random.shuffle(&mut pool.cards);
            (pool.cursor, pool.epoch, pool.order) = (0, pool.epoch + 1, PoolOrder::Kept(random));
            places = whole_groups(pool.cards.iter().copied(), quota.group_size, quota.count);
        }
        let rest = pool.cards.split_off(pool.cursor);
        let drawn: HashSet<usize> = places.iter().copied().collect();
        let cards: Vec<(Card, u32)> = places.iter().map(|&place| (rest[place], pool.epoch + 1)).collect();
        pool.cards.extend(cards.iter().map(|(card, _)| *card));
        pool.cursor = pool.cards.len();
        pool.cards.extend(rest.iter().enumerate().filter(|(place, _)| !drawn.contains(place)).map(|(_, card)| *card));
        Draw { cards, after: After::Pool(Box::new(pool)) }
    }

    fn plan_computed(&self, count: usize, (seed, name): (u64, &str), length: usize, waiting: &[usize]) -> Draw {
        let (mut cursor, mut epoch, mut length, mut waiting) = (self.cursor, self.epoch, length, waiting.to_vec());
        let mut cards: Vec<(Card, u32)> = Vec::with_capacity(count);
        let mut taken: HashSet<usize> = HashSet::new();
        let mut shuffle = Shuffle::new(seed, name, epoch, length);
        while cards.len() < count {
            let place = if let Some(at) = waiting.iter().position(|place| !taken.contains(place)) {
                waiting.remove(at)
            } else if cursor < length {
                cursor += 1;
                shuffle.at(cursor - 1)
            } else {
                (cursor, epoch, length) = (0, epoch + 1, self.cards.len());
                shuffle = Shuffle::new(seed, name, epoch, length);
                continue;
            };
            if taken.insert(place) { cards.push((self.cards[place], epoch + 1)) } else { waiting.push(place) }
        }
        Draw { cards, after: After::Place { cursor, epoch, length, waiting } }
    }

    /// Makes a planned draw happen.
    pub fn apply(&mut self, draw: Draw) {
        match draw.after {
            After::Pool(pool) => *self = *pool,
            After::Place { cursor, epoch, length: new_length, waiting: new_waiting } => {
                (self.cursor, self.epoch) = (cursor, epoch);
                if let PoolOrder::Computed { length, waiting, .. } = &mut self.order {
                    (*length, *waiting) = (new_length, new_waiting);
                }
            }
        }
    }

    /// Its state.
    pub fn state(&self) -> state::PoolState {
        let order = match &self.order {
            PoolOrder::Kept(random) => state::PoolOrderState::Kept { random: random.state },
            PoolOrder::Computed { length, waiting, .. } => state::PoolOrderState::Computed {
                length: *length as u64,
                waiting: waiting.iter().map(|&place| place as u64).collect(),
            },
        };
        let ids = self.cards.iter().map(|card| card.id).collect();
        state::PoolState { ids, cursor: self.cursor as u64, epoch: self.epoch, order }
    }
}
