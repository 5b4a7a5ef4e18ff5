//! The replay buffer: what batches are drawn from. Online trajectories pass through a bounded [`window`] (a few uses each,
//! none too stale); trajectories of any other source stay in a [`pool`] of that source, drawn without replacement.
//!
//! Deterministic: the same seed, additions and samplings give the same batches on every machine, also across
//! [`ReplayBuffer::state`] and [`ReplayBuffer::load_state`]. A sampling that fails takes nothing.
//!
//! Trajectories are decoded in [`memory`], all of them or as many as a bound lets it; the store keeps them for good. It
//! does not wait: who finds too little comes back.

pub mod batch;
pub mod card;
pub mod memory;
pub mod mix;
pub mod order;
pub mod pool;
pub mod random;
pub mod shuffle;
pub mod state;
pub mod window;

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::store::Store;
use crate::trajectory::Trajectory;
use batch::Batch;
use card::Card;
use memory::Memory;
use mix::Unit;
pub use order::Order;
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
    /// Share of each source; the shares sum to 1.
    pub mix: BTreeMap<String, f64>,
    /// What the shares are counted in.
    pub unit: Unit,
    /// So many trajectories of one problem and source come together; 1: groups do not matter.
    pub group_size: usize,
    /// T.
    pub token_budget: usize,
    /// R is a multiple of it.
    pub row_multiple: usize,
}

/// How many trajectories are to be drawn from one source, in groups of how many.
#[derive(Debug, Clone, Copy)]
pub struct Quota {
    /// Trajectories; a multiple of the group's size.
    pub count: usize,
    /// At least 1.
    pub group_size: usize,
}

/// The buffer. All methods may be called from any thread.
pub struct ReplayBuffer(Mutex<Inner>);

struct Inner {
    seed: u64,
    computed_orders: bool,
    window: Window,
    pools: BTreeMap<String, Pool>,
    /// Of all that is in window and pools.
    ids: HashSet<u64>,
    memory: Memory,
    counters: Counters,
    /// Tokens that each source is behind its share, where shares are counted in tokens.
    owed: BTreeMap<String, f64>,
}

/// Plans of all sources; nothing has happened yet.
struct Plan {
    window: window::Draw,
    pools: Vec<(String, pool::Draw)>,
    owed: BTreeMap<String, f64>,
}

impl Plan {
    /// The cards, each with the source that it is drawn from and the number of its use.
    fn cards(&self) -> impl Iterator<Item = (Card, &str, u32)> + Clone {
        let online = self.window.cards.iter().map(|&(card, uses)| (card, ONLINE, uses));
        let others = self
            .pools
            .iter()
            .flat_map(|(source, draw)| draw.cards.iter().map(move |&(card, uses)| (card, source.as_str(), uses)));
        online.chain(others)
    }
}

impl ReplayBuffer {
    /// An empty buffer that keeps all trajectories in memory; see [`pool`] for what computed orders are.
    pub fn new(bounds: Bounds, seed: u64, computed_orders: bool) -> Result<Self> {
        check(&bounds)?;
        let window = Window { bounds, entries: Default::default(), random: Random::new(seed, ONLINE) };
        Ok(ReplayBuffer(Mutex::new(Inner {
            seed,
            computed_orders,
            window,
            pools: BTreeMap::new(),
            ids: HashSet::new(),
            memory: Memory::default(),
            counters: Counters::default(),
            owed: BTreeMap::new(),
        })))
    }

    /// Gives the buffer a store to read from, so that it need keep no more than `memory_bytes` decoded, beside what it
    /// gives out.
    pub fn bind(&self, store: Arc<Store>, memory_bytes: Option<usize>) {
        self.lock().memory.bind(store, memory_bytes);
    }

    /// Lets go of the store; what is in memory can still be drawn.
    pub fn unbind(&self) {
        self.lock().memory.unbind();
    }

    /// Adds trajectories with their ids; all or, if an id is in the buffer already, none. They go where their source
    /// says, or all into the named pool.
    pub fn add(&self, mut items: Vec<Item>, pool: Option<&str>) -> Result<()> {
        let cards: Vec<Card> = items.iter().map(|item| Card::new(item.id, &item.trajectory)).collect::<Result<_>>()?;
        let mut inner = self.lock();
        inner.check_new(cards.iter().map(|card| card.id))?;
        for (item, card) in items.iter_mut().zip(cards) {
            if let Some(pool) = pool
                && item.trajectory.source != pool
            {
                Arc::make_mut(&mut item.trajectory).source = pool.to_owned();
            }
            inner.memory.insert(item.id, item.trajectory.clone());
            inner.add(card, &item.trajectory.source);
        }
        inner.memory.shrink();
        Ok(())
    }

    /// Adds stored trajectories to a pool without reading them; all or, if an id is unknown or in the buffer already, none.
    pub fn add_stored(&self, ids: &[u64], pool: &str, interrupt: Interrupt<'_>) -> Result<()> {
        if pool == ONLINE {
            return Err(Error::invalid("stored trajectories are added to a pool, which must not be named \"online\""));
        }
        let mut inner = self.lock();
        let cards = inner.described(ids, interrupt)?;
        inner.check_new(ids.iter().copied())?;
        for card in cards {
            inner.add(card, pool);
        }
        Ok(())
    }

    /// Draws a batch, or takes nothing: [`Error::NotEnough`] if a source cannot give its part,
    /// [`Error::Invalid`] if a trajectory exceeds the token budget.
    pub fn sample(&self, request: &Request, interrupt: Interrupt<'_>) -> Result<Batch> {
        let shares = mix::shares(&request.mix)?;
        let mut inner = self.lock();
        let plan = inner.plan(request, &shares)?;
        let wanted = plan.cards().map(|(card, source, _)| (card.id, source));
        if let Some((card, source, _)) = plan.cards().find(|(card, ..)| card.num_tokens as usize > request.token_budget)
        {
            return Err(too_long(card, &inner.memory.fetch([(card.id, source)].into_iter(), interrupt)?[0], request));
        }
        let trajectories = inner.memory.fetch(wanted, interrupt)?;
        let uses = plan.cards().map(|(card, _, uses)| (card.id, uses));
        let items = uses.zip(trajectories).map(|((id, uses), trajectory)| (Item { id, trajectory }, uses)).collect();
        inner.apply(plan, request.policy_version);
        drop(inner);
        Batch::pack(items, request.token_budget, request.row_multiple)
    }

    /// Notes the log-probabilities that the reference gives to trajectories in the buffer; others are passed over.
    pub fn set_reference_logprobs(&self, values: Vec<(u64, Vec<f32>)>) -> Result<()> {
        let mut inner = self.lock();
        for (id, logprobs) in values {
            let mut fits = true;
            inner.memory.change(id, |trajectory| {
                fits = logprobs.len() == trajectory.response_tokens.len();
                if fits {
                    trajectory.reference_logprobs = Some(logprobs);
                }
            });
            if !fits {
                return Err(Error::invalid(format!("reference_logprobs of trajectory {id} do not fit its response")));
            }
        }
        inner.memory.shrink();
        Ok(())
    }

    /// Sets priorities, above 0, of online trajectories in the window; others are passed over.
    pub fn set_priorities(&self, priorities: &BTreeMap<u64, f64>) -> Result<()> {
        if let Some((id, value)) = priorities.iter().find(|(_, value)| !(value.is_normal() && **value > 0.0)) {
            return Err(Error::invalid(format!("the priority of trajectory {id} must be above 0, got {value}")));
        }
        for entry in &mut self.lock().window.entries {
            if let Some(&priority) = priorities.get(&entry.card.id) {
                entry.priority = priority;
            }
        }
        Ok(())
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

    /// Bytes of decoded trajectories in memory, about.
    pub fn memory_bytes(&self) -> usize {
        self.lock().memory.bytes()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Inner {
    fn check_new(&self, ids: impl Iterator<Item = u64>) -> Result<()> {
        let mut new = HashSet::new();
        for id in ids {
            if self.ids.contains(&id) || !new.insert(id) {
                return Err(Error::invalid(format!("the trajectory with the id {id} is in the buffer already")));
            }
        }
        Ok(())
    }

    fn add(&mut self, card: Card, source: &str) {
        self.ids.insert(card.id);
        if source == ONLINE {
            let priority = self.window.first_priority();
            self.add_online(Entry { card, uses: 0, priority });
            return;
        }
        if !self.pools.contains_key(source) {
            self.pools.insert(source.to_owned(), Pool::new(self.seed, source, self.computed_orders));
        }
        if let Some(pool) = self.pools.get_mut(source) {
            pool.add(card);
        }
    }

    fn add_online(&mut self, entry: Entry) {
        if let Some(evicted) = self.window.add(entry) {
            self.ids.remove(&evicted.card.id);
            self.memory.remove(evicted.card.id);
            self.counters.evicted += 1;
            self.counters.evicted_unused += u64::from(evicted.uses == 0);
        }
    }

    fn plan(&self, request: &Request, shares: &BTreeMap<String, f64>) -> Result<Plan> {
        let Request { num_trajectories: total, group_size, policy_version, .. } = *request;
        if group_size == 0 || !total.is_multiple_of(group_size) {
            return Err(Error::invalid(format!("num_trajectories {total} is no multiple of group_size {group_size}")));
        }
        let mut owed = self.owed.clone();
        let counts = match request.unit {
            Unit::Trajectories => {
                let counts = mix::counts(total / group_size, shares);
                counts.into_iter().map(|(source, groups)| (source, groups * group_size)).collect()
            }
            Unit::Tokens if group_size > 1 => {
                return Err(Error::invalid("group_size must be 1 where shares are counted in tokens"));
            }
            Unit::Tokens => {
                let most: BTreeMap<String, usize> = shares.keys().map(|source| (source.clone(), total)).collect();
                let plan = self.plan_counts(&most, 1, policy_version, false)?;
                let mut lengths: BTreeMap<String, Vec<u32>> = BTreeMap::new();
                for (card, source, _) in plan.cards() {
                    lengths.entry(source.to_owned()).or_default().push(card.num_tokens);
                }
                mix::counts_by_tokens(total, shares, &lengths, &mut owed)?
            }
        };
        Ok(Plan { owed, ..self.plan_counts(&counts, group_size, policy_version, true)? })
    }

    /// Plans so many of each source; where they must not be `all` there, as many as there are.
    fn plan_counts(
        &self,
        counts: &BTreeMap<String, usize>,
        group_size: usize,
        policy_version: u64,
        all: bool,
    ) -> Result<Plan> {
        let available = self.available(policy_version);
        let mut quotas = BTreeMap::new();
        for (source, &wanted) in counts {
            let there = available.get(source).copied().unwrap_or(0);
            if there < wanted && all {
                return Err(Error::NotEnough { source_name: source.clone(), wanted, available: there });
            }
            quotas.insert(source.as_str(), Quota { count: wanted.min(there), group_size });
        }
        let short = |source: &str, wanted: usize, available: usize| match available < wanted {
            true => Err(Error::NotEnough { source_name: source.to_owned(), wanted, available }),
            false => Ok(()),
        };
        let online = quotas.remove(ONLINE).unwrap_or(Quota { count: 0, group_size });
        let window = self.window.plan(online, policy_version);
        short(ONLINE, online.count, window.cards.len())?;
        let mut pools = Vec::new();
        for (source, quota) in quotas {
            if let Some(pool) = self.pools.get(source) {
                let draw = pool.plan(quota)?;
                short(source, quota.count, draw.cards.len())?;
                pools.push((source.to_owned(), draw));
            }
        }
        Ok(Plan { window, pools, owed: BTreeMap::new() })
    }

    fn apply(&mut self, plan: Plan, policy_version: u64) {
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

    fn described(&self, ids: &[u64], interrupt: Interrupt<'_>) -> Result<Vec<Card>> {
        let store = self.memory.store().ok_or_else(|| {
            Error::Store("the replay buffer has no store to read trajectories from: give it one".to_owned())
        })?;
        state::described(ids, store, interrupt)
    }

    fn available(&self, policy_version: u64) -> BTreeMap<String, usize> {
        let mut available = BTreeMap::from([(ONLINE.to_owned(), self.window.available(policy_version))]);
        available.extend(self.pools.iter().map(|(source, pool)| (source.clone(), pool.cards.len())));
        available
    }
}

fn check(bounds: &Bounds) -> Result<()> {
    if bounds.capacity == 0 || bounds.max_uses == 0 {
        return Err(Error::invalid("capacity and max_uses must be at least 1"));
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

fn too_long(card: Card, trajectory: &Trajectory, request: &Request) -> Error {
    Error::invalid(format!(
        "trajectory {} of problem {:?} has {} tokens, token_budget is {}: raise it or add none so long",
        card.id, trajectory.problem_id, card.num_tokens, request.token_budget
    ))
}
