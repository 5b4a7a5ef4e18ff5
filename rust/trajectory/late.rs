//! What is known of a trajectory only after it was stored: the reference's logprobs, outcomes of continuations sampled
//! from within the response (Monte-Carlo counts), a revised reward. Each is a column of the trajectory as well, so that a
//! copied trajectory takes it along.

use super::bytes::{Cursor, Damage, put_varint};
use super::{MAX_TOKENS, Trajectory, check_logprobs};
use crate::error::{Error, Result};

/// How often continuations from within a response were accepted, at a few places of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MonteCarlo {
    /// How many response tokens come before each place; rising.
    pub positions: Vec<u32>,
    /// Accepted continuations from there.
    pub successes: Vec<u32>,
    /// Sampled continuations from there, at least one.
    pub trials: Vec<u32>,
}

impl MonteCarlo {
    /// Checks the counts against the length of the response.
    pub fn validate(&self, response: usize) -> Result<()> {
        let count = self.positions.len();
        if self.successes.len() != count || self.trials.len() != count {
            let (successes, trials) = (self.successes.len(), self.trials.len());
            return Err(Error::invalid(format!(
                "mc_successes has {count} positions, {successes} successes and {trials} trials; there must be one of each"
            )));
        }
        if let Some(at) = self.positions.windows(2).position(|pair| pair[0] >= pair[1]) {
            return Err(Error::invalid(format!("mc_successes: positions[{}] must exceed the one before", at + 1)));
        }
        if let Some(last) = self.positions.last().filter(|&&last| last as usize > response) {
            return Err(Error::invalid(format!("mc_successes has position {last} for {response} response tokens")));
        }
        let wrong = |at: &usize| self.trials[*at] == 0 || self.successes[*at] > self.trials[*at];
        match (0..count).find(wrong) {
            None => Ok(()),
            Some(at) => Err(Error::invalid(format!(
                "mc_successes has {} successes in {} trials at positions[{at}]",
                self.successes[at], self.trials[at]
            ))),
        }
    }

    pub(super) fn put(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1 + 4 * self.positions.len());
        put_varint(&mut out, self.positions.len() as u64);
        let mut before = 0;
        for (&position, (&successes, &trials)) in self.positions.iter().zip(self.successes.iter().zip(&self.trials)) {
            put_varint(&mut out, u64::from(position - before));
            put_varint(&mut out, u64::from(successes));
            put_varint(&mut out, u64::from(trials));
            before = position;
        }
        out
    }

    pub(super) fn read(bytes: &[u8]) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(bytes);
        let count = cursor.length(MAX_TOKENS + 1, "count of positions")?;
        let mut counts = MonteCarlo::default();
        let mut position = 0usize;
        let most = u32::MAX as usize;
        for _ in 0..count {
            position += cursor.length(MAX_TOKENS - position, "position")?;
            counts.positions.push(position as u32);
            counts.successes.push(cursor.length(most, "successes")? as u32);
            counts.trials.push(cursor.length(most, "trials")? as u32);
        }
        cursor.finish("the last position")?;
        Ok(counts)
    }
}

/// Late columns of one trajectory; those that are absent stay as they are.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Late {
    /// Log-probability of each response token under the reference policy.
    pub reference_logprobs: Option<Vec<f32>>,
    /// Outcomes of continuations from within the response.
    pub mc_successes: Option<MonteCarlo>,
    /// A revised reward.
    pub reward: Option<f64>,
}

impl Late {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        *self == Late::default()
    }

    /// Checks the columns against the length of the response.
    pub fn validate(&self, response: usize) -> Result<()> {
        check_logprobs("reference_logprobs", &self.reference_logprobs, response)?;
        if let Some(counts) = &self.mc_successes {
            counts.validate(response)?;
        }
        match self.reward {
            Some(reward) if !reward.is_finite() => Err(Error::invalid(format!("reward must be finite, got {reward}"))),
            _ => Ok(()),
        }
    }

    /// Puts the columns that are there into the trajectory.
    pub fn apply(self, trajectory: &mut Trajectory) {
        let Late { reference_logprobs, mc_successes, reward } = self;
        trajectory.reference_logprobs = reference_logprobs.or(trajectory.reference_logprobs.take());
        trajectory.mc_successes = mc_successes.or(trajectory.mc_successes.take());
        trajectory.reward = reward.unwrap_or(trajectory.reward);
    }
}
