//! Which columns are wanted, and which are there.

use super::streams::{BEHAVIOR, MONTE_CARLO, REFERENCE, REWARD};
use crate::trajectory::{Late, Trajectory};

/// Which streams a reader wants; the scalars always come along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Decode the prompt's tokens.
    pub prompt: bool,
    /// Decode the response's tokens.
    pub response: bool,
    /// Decode the logprobs under the behaviour policy.
    pub behavior: bool,
    /// Decode the logprobs under the reference policy.
    pub reference: bool,
    /// Decode the Monte-Carlo counts.
    pub monte_carlo: bool,
}

impl Columns {
    /// Everything.
    pub const ALL: Columns =
        Columns { prompt: true, response: true, behavior: true, reference: true, monte_carlo: true };
    /// Scalars alone.
    pub const SCALARS: Columns =
        Columns { prompt: false, response: false, behavior: false, reference: false, monte_carlo: false };
}

/// Which of the columns that need not be there are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Present(u8);

impl Present {
    /// Logprobs under the behaviour policy.
    pub const BEHAVIOR: Present = Present(1);
    /// Logprobs under the reference policy.
    pub const REFERENCE: Present = Present(2);
    /// Monte-Carlo counts.
    pub const MONTE_CARLO: Present = Present(4);
    /// A revised reward (of [`Late`] alone).
    pub const REWARD: Present = Present(8);

    /// From [`Self::bits`]; `None` for bits of another version.
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits < 16).then_some(Present(bits))
    }

    /// As a number.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether all that `other` has is there.
    pub fn has(self, other: Present) -> bool {
        self.0 & other.0 == other.0
    }

    /// The columns alone that make up a set.
    pub fn each(self) -> impl Iterator<Item = Present> {
        (0..4).map(|bit| Present(1 << bit)).filter(move |&one| self.has(one))
    }

    /// What a trajectory has.
    pub fn of(trajectory: &Trajectory) -> Self {
        Present::default()
            .with(Present::BEHAVIOR, trajectory.behavior_logprobs.is_some())
            .with(Present::REFERENCE, trajectory.reference_logprobs.is_some())
            .with(Present::MONTE_CARLO, trajectory.mc_successes.is_some())
    }

    /// What late columns have.
    pub fn of_late(late: &Late) -> Self {
        Present::default()
            .with(Present::REFERENCE, late.reference_logprobs.is_some())
            .with(Present::MONTE_CARLO, late.mc_successes.is_some())
            .with(Present::REWARD, late.reward.is_some())
    }

    /// What is among the streams of these tags.
    pub(super) fn of_tags(there: impl Fn(u8) -> bool) -> Self {
        Present::default()
            .with(Present::BEHAVIOR, there(BEHAVIOR))
            .with(Present::REFERENCE, there(REFERENCE))
            .with(Present::MONTE_CARLO, there(MONTE_CARLO))
            .with(Present::REWARD, there(REWARD))
    }

    /// With `other` as well, if it is there.
    pub fn with(self, other: Present, there: bool) -> Self {
        Present(self.0 | if there { other.0 } else { 0 })
    }
}
