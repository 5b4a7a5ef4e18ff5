//! A request for a batch, and the plan that answers it: which trajectories of which source. Planning changes nothing.

use std::collections::BTreeMap;

use super::card::Card;
use super::contents::Contents;
use super::mix::{self, Unit};
use super::{ONLINE, Quota, pool, window};
use crate::error::{Error, Result};

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

/// Draws from all sources; nothing has happened yet.
pub struct Plan {
    pub window: window::Draw,
    pub pools: Vec<(String, pool::Draw)>,
    /// What [`Contents::owed`] will be.
    pub owed: BTreeMap<String, f64>,
}

impl Plan {
    /// A plan that answers the request. Fails if a source cannot give its part.
    pub fn new(contents: &Contents, request: &Request, shares: &BTreeMap<String, f64>) -> Result<Self> {
        let Request { num_trajectories: total, group_size, policy_version, .. } = *request;
        if group_size == 0 || !total.is_multiple_of(group_size) {
            return Err(Error::invalid(format!("num_trajectories {total} is no multiple of group_size {group_size}")));
        }
        if request.token_budget == 0 || request.row_multiple == 0 {
            return Err(Error::invalid("token_budget and row_multiple must be at least 1"));
        }
        let mut owed = contents.owed.clone();
        let counts = match request.unit {
            Unit::Trajectories => {
                let counts = mix::counts(total / group_size, shares);
                counts.into_iter().map(|(source, groups)| (source, groups * group_size)).collect()
            }
            Unit::Tokens if group_size > 1 => {
                return Err(Error::invalid("group_size must be 1 where shares are counted in tokens"));
            }
            Unit::Tokens => {
                let most = shares.keys().map(|source| (source.clone(), total)).collect();
                let plan = Plan::of_counts(contents, &most, 1, policy_version, false)?;
                let mut lengths: BTreeMap<String, Vec<u32>> = BTreeMap::new();
                for (card, source, _) in plan.cards() {
                    lengths.entry(source.to_owned()).or_default().push(card.num_tokens);
                }
                mix::counts_by_tokens(total, shares, &lengths, &mut owed)?
            }
        };
        Ok(Plan { owed, ..Plan::of_counts(contents, &counts, group_size, policy_version, true)? })
    }

    /// The cards, each with the source that it is drawn from and the number of its use.
    pub fn cards(&self) -> impl Iterator<Item = (Card, &str, u32)> + Clone {
        let online = self.window.cards.iter().map(|&(card, uses)| (card, ONLINE, uses));
        let others = self
            .pools
            .iter()
            .flat_map(|(source, draw)| draw.cards.iter().map(move |&(card, uses)| (card, source.as_str(), uses)));
        online.chain(others)
    }

    /// Plans so many of each source; where they must not be `all` there, as many as there are.
    fn of_counts(
        contents: &Contents,
        counts: &BTreeMap<String, usize>,
        group_size: usize,
        policy_version: u64,
        all: bool,
    ) -> Result<Self> {
        let enough = |source: &str, wanted: usize, available: usize| match all && available < wanted {
            true => Err(Error::NotEnough { source_name: source.to_owned(), wanted, available }),
            false => Ok(()),
        };
        let mut pools = Vec::new();
        for (source, &wanted) in counts.iter().filter(|(source, _)| *source != ONLINE) {
            let there = contents.pools.get(source).map_or(0, |pool| pool.cards.len());
            enough(source, wanted, there)?;
            if let Some(pool) = contents.pools.get(source) {
                let draw = pool.plan(Quota { count: wanted.min(there), group_size })?;
                enough(source, wanted, draw.cards.len())?;
                pools.push((source.clone(), draw));
            }
        }
        let count = counts.get(ONLINE).copied().unwrap_or(0);
        let window = contents.window.plan(Quota { count, group_size }, policy_version);
        enough(ONLINE, count, window.cards.len())?;
        Ok(Plan { window, pools, owed: BTreeMap::new() })
    }
}
