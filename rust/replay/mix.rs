//! The mix: which share of a batch comes from which source, in trajectories or in tokens.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// How far from 1 the shares may sum, for those that are no binary fractions.
const TOLERANCE: f64 = 1e-6;

/// What shares are counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Every batch of a size has the same number of trajectories of each source.
    Trajectories,
    /// Over batches, the tokens of the sources are in proportion, to within a trajectory of each.
    Tokens,
}

/// The shares, which must be sensible, of those sources that have any; they sum to 1.
pub fn shares(mix: &BTreeMap<String, f64>) -> Result<BTreeMap<String, f64>> {
    if let Some((source, share)) = mix.iter().find(|(_, share)| !(share.is_finite() && **share >= 0.0)) {
        return Err(Error::invalid(format!("mix[{source:?}] must be at least 0, got {share}")));
    }
    let sum: f64 = mix.values().sum();
    if (sum - 1.0).abs() > TOLERANCE {
        return Err(Error::invalid(format!("the shares of mix must sum to 1, they sum to {sum}")));
    }
    let some = mix.iter().filter(|(_, share)| **share > 0.0);
    Ok(some.map(|(source, share)| (source.clone(), share / sum)).collect())
}

/// How many of `total` each source gives: its share rounded down, and what is left to the largest remainders (among
/// equal ones to the first by name).
pub fn counts(total: usize, shares: &BTreeMap<String, f64>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    let mut remainders = Vec::new();
    for (source, share) in shares {
        let exact = share * total as f64;
        counts.insert(source.clone(), exact as usize);
        remainders.push((exact.fract(), source));
    }
    // Stable: equal remainders stay in the order of names.
    remainders.sort_by(|left, right| right.0.total_cmp(&left.0));
    let left = total.saturating_sub(counts.values().sum());
    for (_, source) in remainders.iter().cycle().take(left) {
        *counts.entry((*source).clone()).or_insert(0) += 1;
    }
    counts
}

/// How many of `total` trajectories each source gives, so that tokens are in proportion: every trajectory comes from the
/// source that is owed most. `owed` says how many tokens each source is behind its share, and is brought up to date.
/// `lengths` are those of the trajectories that each source would give, in turn. Fails if one has no more to give.
pub fn counts_by_tokens(
    total: usize,
    shares: &BTreeMap<String, f64>,
    lengths: &BTreeMap<String, Vec<u32>>,
    owed: &mut BTreeMap<String, f64>,
) -> Result<BTreeMap<String, usize>> {
    let mut counts: BTreeMap<String, usize> = shares.keys().map(|source| (source.clone(), 0)).collect();
    for _ in 0..total {
        let debt = |source: &String| owed.get(source).copied().unwrap_or(0.0);
        // Among equals the greater share goes first, then the first by name.
        let first = |left: &(&String, &f64), right: &(&String, &f64)| {
            (debt(left.0), left.1).partial_cmp(&(debt(right.0), right.1)).unwrap_or(std::cmp::Ordering::Equal)
        };
        let Some((source, _)) = shares.iter().rev().max_by(first) else { break };
        let given = counts.entry(source.clone()).or_insert(0);
        let planned = lengths.get(source).map_or(&[][..], Vec::as_slice);
        let Some(&length) = planned.get(*given) else {
            return Err(Error::NotEnough { source_name: source.clone(), wanted: *given + 1, available: *given });
        };
        *given += 1;
        let source = source.clone();
        for (other, share) in shares {
            *owed.entry(other.clone()).or_insert(0.0) += share * f64::from(length);
        }
        owed.entry(source).and_modify(|debt| *debt -= f64::from(length));
    }
    Ok(counts)
}
