//! The window: the newest online trajectories, first in first out, each used at most so often and only while its policy
//! version is recent enough. By default those used least are drawn first, so that all are used once before one is used
//! twice; see [`Order`].

use std::collections::VecDeque;

use super::card::{Card, whole_groups};
use super::order::{Order, Standing, ln};
use super::random::Random;
use super::smallest::Smallest;
use super::{Counters, Quota};

/// An online trajectory and how often it has been drawn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Entry {
    /// The trajectory.
    pub card: Card,
    /// Draws so far.
    pub uses: u32,
    /// Decides how soon it is drawn under [`Order::Priority`]; above 0.
    pub priority: f64,
    /// Its logarithm.
    log_priority: f64,
}

impl Entry {
    /// An entry.
    pub fn new(card: Card, uses: u32, priority: f64) -> Self {
        Entry { card, uses, priority, log_priority: ln(priority) }
    }

    fn standing(&self, policy_version: u64) -> Standing {
        let min_policy_version = self.card.min_policy_version;
        let age = policy_version.saturating_sub(min_policy_version);
        Standing { age, min_policy_version, log_priority: self.log_priority }
    }
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
    /// Which go first.
    pub order: Order,
}

/// Most entries that a window may have room for: their places are numbers of 32 bits.
pub const MAX_CAPACITY: usize = u32::MAX as usize;

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
    /// The cards with the number of their use, from 1.
    pub cards: Vec<(Card, u32)>,
    random: Random,
    /// Whether no entry was used up or too stale.
    all_usable: bool,
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

    /// The priority of an entry that is new: the greatest there is, so that each is soon drawn once.
    pub fn first_priority(&self) -> f64 {
        match self.bounds.order {
            Order::Priority { .. } => self.entries.iter().map(|entry| entry.priority).reduce(f64::max).unwrap_or(1.0),
            _ => 1.0,
        }
    }

    /// Plans to draw the first entries of the queue, in whole groups where asked for; fewer, if there are fewer.
    pub fn plan(&self, quota: Quota, policy_version: u64) -> Draw {
        let (mut random, order) = (self.random.clone(), self.bounds.order);
        // Uses where they count, then the turn, then the place, in one number, which is compared faster than three.
        let mut first = Smallest::new(if quota.group_size == 1 { quota.count } else { usize::MAX });
        let mut all_usable = true;
        let (older, newer) = self.entries.as_slices();
        for (place, entry) in older.iter().chain(newer).enumerate() {
            if !self.usable(entry, policy_version) {
                all_usable = false;
                continue;
            }
            let uses = if order.least_used_first() { entry.uses } else { 0 };
            let limit = (first.limit() >> 32) as u64;
            if let Some(turn) = order.turn(entry.standing(policy_version), limit, &mut random) {
                first.offer(u128::from(uses) << 96 | u128::from(turn) << 32 | u128::from(place as u32));
            }
        }
        let mut places: Vec<usize> = first.sorted().into_iter().map(|number| number as u32 as usize).collect();
        if quota.group_size > 1 {
            let cards = places.iter().map(|&place| self.entries[place].card);
            places = whole_groups(cards, quota.group_size, quota.count).into_iter().map(|at| places[at]).collect();
        }
        let taken = |&place: &usize| (self.entries[place].card, self.entries[place].uses + 1);
        Draw { cards: places.iter().map(taken).collect(), places, random, all_usable }
    }

    /// Makes a planned draw happen; entries that can never be drawn again leave, and are returned.
    pub fn apply(&mut self, draw: Draw, policy_version: u64, counters: &mut Counters) -> Vec<u64> {
        let mut all_stay = draw.all_usable;
        for place in draw.places {
            self.entries[place].uses += 1;
            all_stay &= self.entries[place].uses < self.bounds.max_uses;
        }
        self.random = draw.random;
        if all_stay {
            return Vec::new();
        }
        let mut gone = Vec::new();
        let bounds = self.bounds;
        self.entries.retain(|entry| {
            let used_up = entry.uses >= bounds.max_uses;
            let expired = staleness(entry, policy_version) > bounds.max_staleness;
            counters.used_up += u64::from(used_up);
            counters.expired += u64::from(expired && !used_up);
            counters.expired_unused += u64::from(expired && entry.uses == 0);
            if used_up || expired {
                gone.push(entry.card.id);
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
    policy_version.saturating_sub(entry.card.min_policy_version)
}
