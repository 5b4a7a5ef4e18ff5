//! What the index alone knows of records, without reading them.

use super::Store;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// A record as the index has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Description {
    /// Its problem.
    pub problem_id: String,
    /// Its source.
    pub source: String,
    /// Tokens of prompt and response.
    pub num_tokens: usize,
}

impl Store {
    /// Describes the records, in the order of `ids`; an unknown id is an [`Error::Store`] that names it.
    pub fn describe(&self, ids: &[u64], interrupt: Interrupt<'_>) -> Result<Vec<Description>> {
        self.refresh(interrupt)?;
        let state = self.state();
        let describe = |&id: &u64| {
            let (_, row) = state
                .find(id)
                .ok_or_else(|| Error::Store(format!("{} has no record {id}", self.directory().display())))?;
            Ok(Description {
                problem_id: state.names.name(row.problem).to_owned(),
                source: state.names.name(row.source).to_owned(),
                num_tokens: row.prompt as usize + row.response as usize,
            })
        };
        ids.iter().map(describe).collect()
    }
}
