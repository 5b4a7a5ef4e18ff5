//! A pool: experience of one source that never ages, drawn without replacement. An epoch is one shuffled pass over it;
//! what is added joins the rest of the current epoch at a random place.

use std::collections::HashSet;

use super::Item;
use super::random::Random;

/// The trajectories of one source, in the order of the current epoch.
#[derive(Clone)]
pub struct Pool {
    /// The items; those before `cursor` have been drawn in this epoch.
    pub items: Vec<Item>,
    /// How many have been drawn in this epoch.
    pub cursor: usize,
    /// Whole passes that came before.
    pub epoch: u32,
    /// Decides the orders.
    pub random: Random,
}

/// What a draw would take, and what it would leave; nothing has happened yet.
pub struct Draw {
    /// The items with the number of their use, from 1.
    pub items: Vec<(Item, u32)>,
    cursor: usize,
    next_epoch: Option<(Vec<Item>, Random)>,
}

impl Pool {
    /// An empty pool.
    pub fn new(random: Random) -> Self {
        Pool { items: Vec::new(), cursor: 0, epoch: 0, random }
    }

    /// Adds an item to the rest of the epoch.
    pub fn add(&mut self, item: Item) {
        self.items.push(item);
        let place = self.cursor + self.random.below(self.items.len() - self.cursor);
        let last = self.items.len() - 1;
        self.items.swap(place, last);
    }

    /// Plans to draw `count` different items, at most as many as there are.
    pub fn plan(&self, count: usize) -> Draw {
        let rest = &self.items[self.cursor..];
        let now = rest.len().min(count);
        let mut items: Vec<_> = rest[..now].iter().map(|item| (item.clone(), self.epoch + 1)).collect();
        if now == count {
            return Draw { items, cursor: self.cursor + now, next_epoch: None };
        }
        // The next epoch begins within this draw: what was just taken must not come first in it.
        let taken: HashSet<u64> = items.iter().map(|(item, _)| item.id).collect();
        let mut random = self.random.clone();
        let mut order = self.items.clone();
        random.shuffle(&mut order);
        let wanted = count - now;
        let (mut first, mut later) = (Vec::with_capacity(order.len()), Vec::new());
        for item in order {
            let fits = first.len() < wanted && !taken.contains(&item.id);
            if fits { first.push(item) } else { later.push(item) }
        }
        items.extend(first.iter().map(|item| (item.clone(), self.epoch + 2)));
        first.append(&mut later);
        Draw { items, cursor: wanted, next_epoch: Some((first, random)) }
    }

    /// Makes a planned draw happen.
    pub fn apply(&mut self, draw: Draw) {
        if let Some((items, random)) = draw.next_epoch {
            (self.items, self.random) = (items, random);
            self.epoch += 1;
        }
        self.cursor = draw.cursor;
    }
}
