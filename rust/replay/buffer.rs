//! The buffer as others see it: one lock around its contents.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use super::batch::{Batch, too_long};
use super::card::Card;
use super::contents::Contents;
use super::plan::{Plan, Request};
use super::window::{Bounds, Entry};
use super::{Counters, Item, ONLINE, mix};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::store::Store;

/// The buffer. All methods may be called from any thread.
pub struct ReplayBuffer(Mutex<Contents>);

impl ReplayBuffer {
    /// An empty buffer that keeps all trajectories in memory; see [`super::pool`] for what computed orders are.
    pub fn new(bounds: Bounds, seed: u64, computed_orders: bool) -> Result<Self> {
        Ok(ReplayBuffer(Mutex::new(Contents::new(bounds, seed, computed_orders)?)))
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
        let mut contents = self.lock();
        contents.check_new(cards.iter().map(|card| card.id))?;
        for (item, card) in items.iter_mut().zip(cards) {
            if let Some(pool) = pool
                && item.trajectory.source != pool
            {
                Arc::make_mut(&mut item.trajectory).source = pool.to_owned();
            }
            contents.memory.insert(item.id, item.trajectory.clone());
            contents.add(card, &item.trajectory.source);
        }
        contents.memory.shrink();
        Ok(())
    }

    /// Adds stored trajectories to a pool without reading them; all or, if an id is unknown or in the buffer already, none.
    pub fn add_stored(&self, ids: &[u64], pool: &str, interrupt: Interrupt<'_>) -> Result<()> {
        if pool == ONLINE {
            return Err(Error::invalid("stored trajectories are added to a pool, which must not be named \"online\""));
        }
        let mut contents = self.lock();
        let cards = contents.described(ids, interrupt)?;
        contents.check_new(ids.iter().copied())?;
        for card in cards {
            contents.add(card, pool);
        }
        Ok(())
    }

    /// Draws a batch, or takes nothing: [`Error::NotEnough`] if a source cannot give its part,
    /// [`Error::Invalid`] if a trajectory exceeds the token budget.
    pub fn sample(&self, request: &Request, interrupt: Interrupt<'_>) -> Result<Batch> {
        let shares = mix::shares(&request.mix)?;
        let mut contents = self.lock();
        let plan = Plan::new(&contents, request, &shares)?;
        let wanted = plan.cards().map(|(card, source, _)| (card.id, source));
        if let Some((card, source, _)) = plan.cards().find(|(card, ..)| card.num_tokens as usize > request.token_budget)
        {
            let trajectory = contents.memory.fetch([(card.id, source)].into_iter(), interrupt)?.remove(0);
            return Err(too_long(&Item { id: card.id, trajectory }, request.token_budget));
        }
        let trajectories = contents.memory.fetch(wanted, interrupt)?;
        let uses = plan.cards().map(|(card, _, uses)| (card.id, uses));
        let items = uses.zip(trajectories).map(|((id, uses), trajectory)| (Item { id, trajectory }, uses)).collect();
        contents.apply(plan, request.policy_version);
        drop(contents);
        Batch::pack(items, request.token_budget, request.row_multiple)
    }

    /// Notes the log-probabilities that the reference gives to trajectories in the buffer; others are passed over.
    pub fn set_reference_logprobs(&self, values: Vec<(u64, Vec<f32>)>) -> Result<()> {
        let mut contents = self.lock();
        for (id, logprobs) in values {
            let mut fits = true;
            contents.memory.change(id, |trajectory| {
                fits = logprobs.len() == trajectory.response_tokens.len();
                if fits {
                    trajectory.reference_logprobs = Some(logprobs);
                }
            });
            if !fits {
                return Err(Error::invalid(format!("reference_logprobs of trajectory {id} do not fit its response")));
            }
        }
        contents.memory.shrink();
        Ok(())
    }

    /// Sets priorities, above 0, of online trajectories in the window; others are passed over.
    pub fn set_priorities(&self, priorities: &BTreeMap<u64, f64>) -> Result<()> {
        if let Some((id, value)) = priorities.iter().find(|(_, value)| !(value.is_normal() && **value > 0.0)) {
            return Err(Error::invalid(format!("the priority of trajectory {id} must be above 0, got {value}")));
        }
        for entry in &mut self.lock().window.entries {
            if let Some(&priority) = priorities.get(&entry.card.id) {
                *entry = Entry::new(entry.card, entry.uses, priority);
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

    pub(super) fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
