//! The window: the newest online trajectories, first in first out, each used at most so often and only while its policy
//! version is recent enough. Those used least are drawn first, so that all are used once before one is used twice.

use std::collections::VecDeque;

use super::random::Random;
use super::{Counters, Item, Order};

/// An online trajectory and how often it has been drawn.
#[derive(Clone)]
pub struct Entry {
    /// The trajectory.
    pub item: Item,
    /// Draws so far.
    pub uses: u32,
}

/// What may be drawn, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Most entries; the oldest leave first.
    pub capacity: usize,
    /// Most draws of one entry.
    pub max_uses: u32,
    /// Most versions that an entry's oldest token may be behind.
    pub max_staleness: u64,
    /// Which of the least used go first.
    pub order: Order,
}

/// The entries, oldest first.
pub struct Window {
    /// Its bounds.
    pub bounds: Bounds,
    /// Oldest first.
    pub entries: VecDeque<Entry>,
    /// Decides among equals.
    pub random: Random,
}

/// What a draw would take; nothing has happened yet.
pub struct Draw {
    /// Places in the window.
    places: Vec<usize>,
    /// The items with the number of their use, from 1.
    pub items: Vec<(Item, u32)>,
    random: Random,
}

impl Window {
    /// Adds an entry at the young end and returns what capacity pushed out at the other.
    pub fn add(&mut self, entry: Entry) -> Option<Entry> {
        self.entries.push_back(entry);
        if self.entries.len() > self.bounds.capacity { self.entries.pop_front() } else { None }
    }

    /// How many entries may be drawn for a step at this policy version.
    pub fn available(&self, policy_version: u64) -> usize {
        self.entries.iter().filter(|entry| self.usable(entry, policy_version)).count()
    }

    /// Plans to draw `count` entries, at most [`Self::available`].
    pub fn plan(&self, count: usize, policy_version: u64) -> Draw {
        let mut random = self.random.clone();
        let mut usable: Vec<(u32, u64, usize)> = Vec::new();
        for (place, entry) in self.entries.iter().enumerate() {
            if self.usable(entry, policy_version) {
                let turn = match self.bounds.order {
                    Order::Uniform => random.bits(),
                    Order::Oldest => entry.item.trajectory.min_policy_version,
                };
                usable.push((entry.uses, turn, place));
            }
        }
        usable.sort_unstable();
        let places: Vec<usize> = usable.into_iter().take(count).map(|(.., place)| place).collect();
        let taken = |&place: &usize| (self.entries[place].item.clone(), self.entries[place].uses + 1);
        Draw { items: places.iter().map(taken).collect(), places, random }
    }

    /// Makes a planned draw happen; entries that can never be drawn again leave, and are returned.
    pub fn apply(&mut self, draw: Draw, policy_version: u64, counters: &mut Counters) -> Vec<u64> {
        for place in draw.places {
            self.entries[place].uses += 1;
        }
        self.random = draw.random;
        let mut gone = Vec::new();
        let bounds = self.bounds;
        self.entries.retain(|entry| {
            let used_up = entry.uses >= bounds.max_uses;
            let expired = staleness(entry, policy_version) > bounds.max_staleness;
            counters.used_up += u64::from(used_up);
            counters.expired += u64::from(expired && !used_up);
            counters.expired_unused += u64::from(expired && entry.uses == 0);
            if used_up || expired {
                gone.push(entry.item.id);
            }
            !(used_up || expired)
        });
        gone
    }

    fn usable(&self, entry: &Entry, policy_version: u64) -> bool {
        entry.uses < self.bounds.max_uses && staleness(entry, policy_version) <= self.bounds.max_staleness
    }
}

fn staleness(entry: &Entry, policy_version: u64) -> u64 {
    policy_version.saturating_sub(entry.item.trajectory.min_policy_version)
}
