//! The mix: which share of a batch's trajectories comes from which source.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// How far from 1 the shares may sum, for those that are no binary fractions.
const TOLERANCE: f64 = 1e-6;

/// How many of `total` trajectories each source gives: its share rounded down, and what is left to the largest
/// remainders (among equal ones to the first by name). Every batch of a size has the same counts.
pub fn counts(total: usize, mix: &BTreeMap<String, f64>) -> Result<BTreeMap<String, usize>> {
    if let Some((source, share)) = mix.iter().find(|(_, share)| !(share.is_finite() && **share >= 0.0)) {
        return Err(Error::invalid(format!("mix[{source:?}] must be at least 0, got {share}")));
    }
    let sum: f64 = mix.values().sum();
    if (sum - 1.0).abs() > TOLERANCE {
        return Err(Error::invalid(format!("the shares of mix must sum to 1, they sum to {sum}")));
    }
    let mut counts = BTreeMap::new();
    let mut remainders = Vec::new();
    for (source, share) in mix.iter().filter(|(_, share)| **share > 0.0) {
        let exact = share / sum * total as f64;
        counts.insert(source.clone(), exact as usize);
        remainders.push((exact.fract(), source));
    }
    // Stable: equal remainders stay in the order of names.
    remainders.sort_by(|left, right| right.0.total_cmp(&left.0));
    let left = total.saturating_sub(counts.values().sum());
    for (_, source) in remainders.iter().cycle().take(left) {
        *counts.entry((*source).clone()).or_insert(0) += 1;
    }
    Ok(counts)
}
