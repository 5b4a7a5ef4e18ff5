//! Encoding what is to be appended: before and outside the writer's lock.

use std::sync::{Arc, Mutex, PoisonError};

use super::MAX_APPEND_BYTES;
use super::shard::MAX_SEGMENT_RECORDS;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::parallel;
use crate::trajectory::Trajectory;
use crate::trajectory::columns::Precision;
use crate::trajectory::ranks::{Counts, Ranks};
use crate::trajectory::record::{Coding, Encoded, Prompts};

/// How this writer encodes. It learns the ranks of tokens from what is appended first.
pub struct Encoder {
    /// How exactly logprobs are kept.
    pub precision: Precision,
    prompts: Prompts,
    ranks: Mutex<Learned>,
}

enum Learned {
    NotYet(Counts),
    Frozen(Arc<Ranks>),
}

impl Encoder {
    /// An encoder that has not seen anything.
    pub fn new(precision: Precision) -> Self {
        Encoder { precision, prompts: Prompts::default(), ranks: Mutex::new(Learned::NotYet(Counts::default())) }
    }

    /// Encodes all the trajectories, if all are valid.
    pub fn encode<T: AsRef<Trajectory> + Sync>(
        &self,
        trajectories: &[T],
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Encoded>> {
        for trajectory in trajectories {
            interrupt.check()?;
            trajectory.as_ref().validate()?;
        }
        let coding = Coding { ranks: self.learn(trajectories), precision: self.precision };
        let encode = |trajectory: &T| Encoded::new(trajectory.as_ref(), &coding, &self.prompts);
        let records = parallel::map(trajectories, interrupt, encode)?;
        let bytes: usize = records.iter().map(Encoded::num_bytes).sum();
        if bytes > MAX_APPEND_BYTES || records.len() > MAX_SEGMENT_RECORDS {
            let count = records.len();
            return Err(Error::invalid(format!(
                "{count} trajectories of {bytes} bytes are too many for one append; split them"
            )));
        }
        Ok(records)
    }

    fn learn<T: AsRef<Trajectory>>(&self, trajectories: &[T]) -> Option<Arc<Ranks>> {
        let mut ranks = self.ranks.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *ranks {
            Learned::Frozen(ranks) => Some(ranks.clone()),
            Learned::NotYet(counts) => {
                let responses = trajectories.iter().map(|trajectory| &trajectory.as_ref().response_tokens[..]);
                let frozen = Arc::new(counts.add(responses)?);
                *ranks = Learned::Frozen(frozen.clone());
                Some(frozen)
            }
        }
    }
}
