//! What the store remembers besides the rows of records: names, each once, and what was said of records later. And the
//! filters of scans.

use std::collections::HashMap;
use std::sync::Arc;

use super::rows::Row;
use crate::trajectory::record::Present;

/// Late columns of a record, or its deletion: where they are, and what can be said without reading them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LateRow {
    /// When they were appended, in microseconds since 1970.
    pub time_us: u64,
    /// Id of the record, as the store that the frame is in has it.
    pub target: u64,
    /// The revised reward, if it is among the columns.
    pub reward: f64,
    /// Sequence number of the frame in its segment.
    pub sequence: u32,
    /// Offset of the frame.
    pub offset: u32,
    /// Bytes of the frame's payload.
    pub length: u32,
    /// The columns; `None` for a deletion.
    pub columns: Option<Present>,
}

/// Strings by number, each kept once.
#[derive(Default)]
pub struct Names {
    numbers: HashMap<Arc<str>, u32>,
    names: Vec<Arc<str>>,
}

impl Names {
    /// The name's number, given now if it has none.
    pub fn number(&mut self, name: &str) -> u32 {
        if let Some(&number) = self.numbers.get(name) {
            return number;
        }
        let number = self.names.len() as u32;
        let name: Arc<str> = name.into();
        self.names.push(name.clone());
        self.numbers.insert(name, number);
        number
    }

    /// The name's number, if it has one.
    pub fn find(&self, name: &str) -> Option<u32> {
        self.numbers.get(name).copied()
    }

    /// The numbers that all these names, in the order of their own numbers, have among the names of `self`.
    pub fn numbers_of(&mut self, others: &Names) -> Vec<u32> {
        others.names.iter().map(|name| self.number(name)).collect()
    }

    /// The name of a number that [`Self::number`] gave.
    pub fn name(&self, number: u32) -> &str {
        &self.names[number as usize]
    }
}

/// Which records a scan returns; `None` is any.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Filter {
    /// `source` is this.
    pub source: Option<String>,
    /// `problem_id` is this.
    pub problem: Option<String>,
    /// `reward` is this.
    pub reward: Option<f64>,
    /// Appended at this time or later, in microseconds since 1970.
    pub since_us: Option<u64>,
    /// Has all these columns, early or late.
    pub has: Present,
    /// Has none of these columns.
    pub lacks: Present,
}

impl Filter {
    /// Whether the filter's names are known at all, and their numbers.
    pub fn resolve(&self, names: &Names) -> Option<ResolvedFilter> {
        let number = |name: &Option<String>| match name {
            None => Some(None),
            Some(name) => names.find(name).map(Some),
        };
        let (source, problem) = (number(&self.source)?, number(&self.problem)?);
        let Filter { reward, since_us, has, lacks, .. } = *self;
        Some(ResolvedFilter { source, problem, reward, since_us, has, lacks })
    }
}

/// A [`Filter`] with names as numbers.
pub struct ResolvedFilter {
    source: Option<u32>,
    problem: Option<u32>,
    reward: Option<f64>,
    since_us: Option<u64>,
    has: Present,
    lacks: Present,
}

impl ResolvedFilter {
    /// Whether the record passes by what its row alone tells.
    pub fn accepts(&self, row: &Row) -> bool {
        self.source.is_none_or(|source| source == row.source)
            && self.problem.is_none_or(|problem| problem == row.problem)
            && self.since_us.is_none_or(|since| row.time_us >= since)
    }

    /// Whether it passes by its reward, as it was last revised.
    pub fn accepts_reward(&self, reward: f64) -> bool {
        self.reward.is_none_or(|wanted| wanted == reward)
    }

    /// Whether the filter asks for columns at all.
    pub fn asks_for_columns(&self) -> bool {
        self.has != Present::default() || self.lacks != Present::default()
    }

    /// Whether it passes by the columns that it has, early or late.
    pub fn accepts_columns(&self, columns: Present) -> bool {
        columns.has(self.has) && self.lacks.each().all(|column| !columns.has(column))
    }
}
