//! Totals of a store.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::Store;
use super::rows::Row;
use crate::error::Result;
use crate::interrupt::Interrupt;

/// Totals of a store.
#[derive(Debug, Clone, PartialEq)]
pub struct Info {
    /// The store's id, in hexadecimal digits.
    pub store_id: String,
    /// Fingerprint of its tokenizer.
    pub tokenizer: String,
    /// Records in it.
    pub records: u64,
    /// Their prompt tokens.
    pub prompt_tokens: u64,
    /// Their response tokens.
    pub response_tokens: u64,
    /// Bytes of its segments.
    pub bytes: u64,
    /// Its segments.
    pub segments: u64,
    /// Those of them that are sealed.
    pub sealed_segments: u64,
    /// Damaged places that were skipped.
    pub skipped: u64,
    /// Numbers of its own segments that are neither there nor merged into others: their files are lost.
    pub missing: Vec<u32>,
    /// Records by source.
    pub sources: BTreeMap<String, u64>,
    /// Where the attached stores are, whose segments and records count as well.
    pub attached: Vec<PathBuf>,
}

impl Store {
    /// Totals of the store.
    pub fn info(&self, interrupt: Interrupt<'_>) -> Result<Info> {
        self.refresh(interrupt)?;
        let state = self.state();
        let total = |of: fn(&Row) -> u64| state.live().map(|row| of(&row)).sum();
        let segments = || state.segments.values();
        let mut sources = BTreeMap::new();
        for row in state.live() {
            *sources.entry(row.source).or_insert(0u64) += 1;
        }
        Ok(Info {
            store_id: self.identity.store_id.iter().map(|byte| format!("{byte:02x}")).collect(),
            tokenizer: self.identity.tokenizer.clone(),
            records: total(|_| 1),
            prompt_tokens: total(|row| u64::from(row.prompt)),
            response_tokens: total(|row| u64::from(row.response)),
            bytes: segments().map(|segment| segment.end).sum(),
            segments: state.segments.len() as u64,
            sealed_segments: segments().filter(|segment| segment.sealed).count() as u64,
            skipped: u64::from(self.identity_skipped)
                + state.unusable.len() as u64
                + segments().map(|segment| segment.skipped).sum::<u64>(),
            missing: state.missing(),
            sources: sources.into_iter().map(|(name, count)| (state.names.name(name).to_owned(), count)).collect(),
            attached: state.sources.iter().skip(1).map(|source| source.directory.clone()).collect(),
        })
    }
}
