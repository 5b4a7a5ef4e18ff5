//! What an open store knows of its directory at the moment: segments, names, late columns.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::attach::{self, Source};
use super::id::{record_id, split_id};
use super::index::{Filter, LateRow, Names, ResolvedFilter, Row};
use super::late::LateIndex;
use super::read::{Prompts, SegmentFile};
use super::recovery::OnDamage;
use super::segment::Segment;
use super::shard::SegmentHeader;
use crate::error::Result;
use crate::interrupt::Interrupt;
use crate::trajectory::Trajectory;
use crate::trajectory::record::{Columns, Present};

/// The segments by number, and what was found in them.
#[derive(Default)]
pub struct State {
    /// The strings that rows have numbers of.
    pub names: Names,
    /// The open segments.
    pub segments: BTreeMap<u32, Segment>,
    /// Which late columns count.
    pub late: LateIndex,
    /// The store itself, then the attached ones.
    pub sources: Vec<Source>,
    /// How many attachments each source had at the last look.
    pub attachments: Vec<usize>,
}

impl State {
    /// Before anything was looked at.
    pub fn new(directory: &Path, identity: &SegmentHeader) -> Self {
        State { sources: vec![Source::own(directory, identity)], ..State::default() }
    }

    /// Looks for what is new: attached stores, segments, appends.
    pub fn refresh(&mut self, on_damage: OnDamage, interrupt: Interrupt<'_>) -> Result<()> {
        let mut changed = false;
        let outcome = self.look(on_damage, &mut changed, interrupt);
        // Also after an error: what is known of late columns must be about the segments that are known.
        if changed {
            self.index_late();
        }
        outcome
    }

    fn look(&mut self, on_damage: OnDamage, changed: &mut bool, interrupt: Interrupt<'_>) -> Result<()> {
        *changed |= attach::refresh(&mut self.sources, &mut self.attachments)?;
        let State { names, segments, late, sources, .. } = self;
        for source in sources.iter() {
            for (name, inode) in source.list()? {
                let number = source.base + name.number;
                match segments.get_mut(&number) {
                    Some(segment) if !name.sealed || segment.inode == inode => segment.extend(names, interrupt)?,
                    known => {
                        let replaced = known.is_some();
                        let opened = source.open(name.number, on_damage, names, interrupt)?;
                        let Some(mut segment) = opened else { continue };
                        segment.inode = inode;
                        segments.insert(number, segment);
                        *changed |= replaced;
                    }
                }
                if let Some(segment) = segments.get_mut(&number) {
                    late.add(number, segment, source);
                }
            }
        }
        Ok(())
    }

    /// Looks for the newest late columns again from the start.
    fn index_late(&mut self) {
        self.late = LateIndex::default();
        for (&number, segment) in &mut self.segments {
            segment.late_indexed = 0;
            let source = self.sources.iter().rev().find(|source| source.base <= number);
            if let Some(source) = source {
                self.late.add(number, segment, source);
            }
        }
    }

    /// The record's segment and row, unless there is none or it was deleted.
    pub fn find(&self, id: u64) -> Option<(&Segment, &Row)> {
        let (number, sequence) = split_id(id)?;
        let segment = self.segments.get(&number)?;
        let row = segment.find(sequence)?;
        (!self.late.is_deleted(id)).then_some((segment, row))
    }

    /// All that is needed to read the record without looking here again.
    pub fn locate(&self, id: u64, columns: Columns) -> Option<Located> {
        let (segment, row) = self.find(id)?;
        let wanted = [
            (Present::REFERENCE, columns.reference),
            (Present::MONTE_CARLO, columns.monte_carlo),
            (Present::REWARD, true),
        ];
        let mut located = Located { file: segment.file.clone(), row: *row, columns, late: Vec::new() };
        for (column, _) in wanted.iter().filter(|(_, wanted)| *wanted && !self.late.is_empty()) {
            let Some((file, row)) = self.newest(id, *column) else { continue };
            if *column == Present::REWARD {
                located.row.reward = row.reward;
                continue;
            }
            // What is known better from elsewhere need not be decoded.
            located.columns.reference &= *column != Present::REFERENCE;
            located.columns.monte_carlo &= *column != Present::MONTE_CARLO;
            located.late.push((file, row, *column));
        }
        Some(located)
    }

    /// Ids of the records that pass, in the order in which they were appended.
    pub fn scan(&self, filter: &Filter, interrupt: Interrupt<'_>) -> Result<Vec<u64>> {
        let Some(filter) = filter.resolve(&self.names) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (&number, segment) in &self.segments {
            interrupt.check()?;
            for row in segment.rows.iter().filter(|row| filter.accepts(row)) {
                let id = record_id(number, row.sequence);
                if !self.late.is_deleted(id) && self.accepts(&filter, id, segment, row, interrupt)? {
                    found.push((row.time_us, id));
                }
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    /// The records that are not deleted: segment, row.
    pub fn live(&self) -> impl Iterator<Item = (&Segment, &Row)> {
        self.segments.iter().flat_map(move |(&number, segment)| {
            let live = move |row: &&Row| !self.late.is_deleted(record_id(number, row.sequence));
            segment.rows.iter().filter(live).map(move |row| (segment, row))
        })
    }

    /// How many records are not deleted.
    pub fn len(&self) -> usize {
        let there = |id: &u64| {
            split_id(*id).and_then(|(number, sequence)| self.segments.get(&number)?.find(sequence)).is_some()
        };
        let rows: usize = self.segments.values().map(|segment| segment.rows.len()).sum();
        rows - self.late.deleted().filter(there).count()
    }

    fn accepts(
        &self,
        filter: &ResolvedFilter,
        id: u64,
        segment: &Segment,
        row: &Row,
        interrupt: Interrupt<'_>,
    ) -> Result<bool> {
        let late = |column| if self.late.is_empty() { None } else { self.late.newest(id, column) };
        let reward = late(Present::REWARD).map_or(row.reward, |(number, at)| self.segments[&number].late[at].reward);
        if !filter.accepts_reward(reward) {
            return Ok(false);
        }
        if !filter.asks_for_columns() {
            return Ok(true);
        }
        let mut columns = match row.present {
            Some(present) => present,
            None => {
                interrupt.check()?;
                segment.file.present(row)?
            }
        };
        for column in [Present::REFERENCE, Present::MONTE_CARLO] {
            columns = columns.with(column, late(column).is_some());
        }
        Ok(filter.accepts_columns(columns))
    }

    fn newest(&self, id: u64, column: Present) -> Option<(Arc<SegmentFile>, LateRow)> {
        let (number, at) = self.late.newest(id, column)?;
        let segment = self.segments.get(&number)?;
        Some((segment.file.clone(), *segment.late.get(at)?))
    }
}

/// Where a record and its late columns are.
pub struct Located {
    file: Arc<SegmentFile>,
    row: Row,
    columns: Columns,
    late: Vec<(Arc<SegmentFile>, LateRow, Present)>,
}

impl Located {
    /// Reads the record as it is now known.
    pub fn read(&self, prompts: &Prompts) -> Result<Trajectory> {
        let mut trajectory = self.file.record(&self.row, self.columns, prompts)?;
        trajectory.reward = self.row.reward;
        for (file, row, column) in &self.late {
            file.late(row, self.row.response, *column)?.apply(&mut trajectory);
        }
        Ok(trajectory)
    }
}
