//! Encoding what is to be appended: before and outside the writer's lock.

use std::sync::{Arc, Mutex, PoisonError};

use super::MAX_APPEND_BYTES;
use super::shard::MAX_SEGMENT_RECORDS;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::parallel;
use crate::trajectory::Trajectory;
use crate::trajectory::columns::Precision;
use crate::trajectory::record::{Coding, Encoded, Prompts};
use crate::trajectory::tables::{Sample, Tables};

/// How this writer encodes. It learns its tables from what is appended first.
pub struct Encoder {
    /// How exactly logprobs are kept.
    pub precision: Precision,
    prompts: Prompts,
    tables: Mutex<Learned>,
}

enum Learned {
    NotYet(Box<Sample>),
    Frozen(Arc<Tables>),
}

impl Encoder {
    /// An encoder that has not seen anything.
    pub fn new(precision: Precision) -> Self {
        Encoder { precision, prompts: Prompts::default(), tables: Mutex::new(Learned::NotYet(Box::default())) }
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
        let coding = Coding { tables: self.learn(trajectories), precision: self.precision };
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

    fn learn<T: AsRef<Trajectory>>(&self, trajectories: &[T]) -> Option<Arc<Tables>> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *tables {
            Learned::Frozen(tables) => Some(tables.clone()),
            Learned::NotYet(sample) => {
                let frozen = Arc::new(sample.add(trajectories.iter().map(T::as_ref), self.precision)?);
                *tables = Learned::Frozen(frozen.clone());
                Some(frozen)
            }
        }
    }
}
