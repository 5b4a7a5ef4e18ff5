//! What an open store knows of its directory at the moment: segments, names, late columns.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::attach::{self, Source};
use super::files::SegmentName;
use super::id::{MAX_SEGMENT_NUMBER, split_id};
use super::index::{Filter, LateRow, Names, ResolvedFilter};
use super::late::LateIndex;
use super::read::{SegmentFile, Shared};
use super::recovery::OnDamage;
use super::rows::Row;
use super::segment::Segment;
use super::shard::SegmentHeader;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::parallel;
use crate::trajectory::Trajectory;
use crate::trajectory::record::{Columns, Present};

/// Bytes between frames that are read over rather than left out.
const MAX_READ_OVER: u64 = 4 << 10;
/// How often segments may be merged by others while one looks at the store.
const MAX_LOOKS: usize = 100;

/// The segments by number, and what was found in them.
#[derive(Default)]
pub struct State {
    /// The strings that rows have numbers of.
    pub names: Names,
    /// The open segments.
    pub segments: BTreeMap<u32, Segment>,
    /// Segments that were merged into another, and the number of that one.
    pub merged: HashMap<u32, u32>,
    /// Which late columns count.
    pub late: LateIndex,
    /// The store itself, then the attached ones.
    pub sources: Vec<Source>,
    /// Segments that cannot be opened or are of another store, where damage is skipped.
    pub unusable: BTreeSet<u32>,
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
        let (mut path, mut absent) = (PathBuf::new(), BTreeSet::new());
        // A listed file that is gone when it is to be opened was sealed and merged into another: then look again.
        for _ in 0..MAX_LOOKS {
            interrupt.check()?;
            let gone = self.look_once(on_damage, changed, interrupt)?;
            let Some((at, name)) = gone.first() else { return Ok(()) };
            path = name.path(&self.sources[*at].directory);
            absent = gone.iter().map(|(at, name)| self.sources[*at].base + name.number).collect();
        }
        if on_damage == OnDamage::Skip {
            self.unusable.append(&mut absent);
            return Ok(());
        }
        let path = path.display();
        Err(Error::Store(format!("{path} is listed, but cannot be opened, time and again: is it a broken link?")))
    }

    /// Takes in what is new; returns the listed segments that were not there any more.
    fn look_once(
        &mut self,
        on_damage: OnDamage,
        changed: &mut bool,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<(usize, SegmentName)>> {
        let mut unknown = Vec::new();
        for (at, source) in self.sources.iter().enumerate() {
            for (name, inode) in source.list()? {
                let number = source.base + name.number;
                if self.merged.contains_key(&number) || self.unusable.contains(&number) {
                    continue;
                }
                match self.segments.get_mut(&number) {
                    Some(segment) if !name.sealed || segment.inode == inode => {
                        segment.extend(&mut self.names, interrupt)?;
                        self.late.add(number, segment, source);
                    }
                    _ => unknown.push((at, name, inode)),
                }
            }
        }
        let open = |(at, name, _): &(usize, SegmentName, u64)| {
            let opened = self.sources[*at].open(name.number, on_damage, interrupt);
            match opened {
                Err(Error::Store(_)) if on_damage == OnDamage::Skip => Ok(None),
                opened => opened.map(Some),
            }
        };
        let opened = parallel::map_large(&unknown, interrupt, open)?;
        let mut gone = Vec::new();
        for ((at, name, inode), opened) in unknown.into_iter().zip(opened) {
            let Some(opened) = opened else {
                self.unusable.insert(self.sources[at].base + name.number);
                continue;
            };
            let Some((mut segment, names)) = opened else {
                gone.push((at, name));
                continue;
            };
            segment.inode = inode;
            segment.rows.rename(&self.names.numbers_of(&names));
            *changed |= self.insert(segment, at);
        }
        Ok(gone)
    }

    /// Takes in a segment that was opened; tells whether it replaces others.
    fn insert(&mut self, mut segment: Segment, source: usize) -> bool {
        let number = segment.number;
        let mut replaces = false;
        for (part, _) in segment.rows.parts().filter(|&(part, _)| part != number) {
            self.merged.insert(part, number);
            replaces |= self.segments.remove(&part).is_some();
        }
        self.late.add(number, &mut segment, &self.sources[source]);
        replaces | self.segments.insert(number, segment).is_some()
    }

    /// Numbers of the store's own segments that ought to be there: numbers are given without gaps.
    pub fn missing(&self) -> Vec<u32> {
        let there = |number: &u32| {
            self.segments.contains_key(number) || self.merged.contains_key(number) || self.unusable.contains(number)
        };
        let last = self.segments.range(..=MAX_SEGMENT_NUMBER).next_back().map_or(0, |(&number, _)| number);
        (1..last).filter(|number| !there(number)).collect()
    }

    /// The segment that has the records with this number in their ids.
    pub fn holder(&self, number: u32) -> Option<&Segment> {
        self.segments.get(self.merged.get(&number).unwrap_or(&number))
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
    pub fn find(&self, id: u64) -> Option<(&Segment, Row)> {
        (!self.late.is_deleted(id)).then(|| self.find_stored(id))?
    }

    /// The same, deleted or not.
    pub fn find_stored(&self, id: u64) -> Option<(&Segment, Row)> {
        let (number, sequence) = split_id(id)?;
        let segment = self.holder(number)?;
        Some((segment, segment.rows.find(number, sequence)?))
    }

    /// All that is needed to read the record without looking here again.
    pub fn locate(&self, id: u64, columns: Columns) -> Option<Located> {
        let (segment, row) = self.find(id)?;
        let wanted = [
            (Present::REFERENCE, columns.reference),
            (Present::MONTE_CARLO, columns.monte_carlo),
            (Present::REWARD, true),
        ];
        let mut located = Located { file: segment.file.clone(), row, columns, late: Vec::new() };
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
        for segment in self.segments.values() {
            interrupt.check()?;
            for row in segment.rows.iter().filter(|row| filter.accepts(row)) {
                if !self.late.is_deleted(row.id) && self.accepts(&filter, segment, &row, interrupt)? {
                    found.push((row.time_us, row.id));
                }
            }
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    /// The rows of the records that are not deleted.
    pub fn live(&self) -> impl Iterator<Item = Row> {
        let rows = self.segments.values().flat_map(|segment| segment.rows.iter());
        rows.filter(|row| !self.late.is_deleted(row.id))
    }

    /// How many records are not deleted.
    pub fn len(&self) -> usize {
        let rows: usize = self.segments.values().map(|segment| segment.rows.len()).sum();
        rows - self.late.deleted().filter(|&id| self.find_stored(id).is_some()).count()
    }

    fn accepts(&self, filter: &ResolvedFilter, segment: &Segment, row: &Row, interrupt: Interrupt<'_>) -> Result<bool> {
        let late = |column| if self.late.is_empty() { None } else { self.late.newest(row.id, column) };
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
    /// How many tokens it has.
    pub fn num_tokens(&self) -> usize {
        self.row.num_tokens()
    }

    /// Reads the tokens of records, of each the prompt and then the response; `out` has room for just them.
    pub fn read_tokens(records: &[Located], shared: &Shared, mut out: &mut [i32]) -> Result<()> {
        for run in records.chunk_by(|one, next| one.is_followed_by(next)) {
            let (tokens, rest) = out.split_at_mut(run.iter().map(Located::num_tokens).sum());
            let rows: Vec<&Row> = run.iter().map(|record| &record.row).collect();
            run[0].file.tokens_of(&rows, shared, tokens)?;
            out = rest;
        }
        Ok(())
    }

    /// Whether the other's frame comes soon behind this one's.
    fn is_followed_by(&self, next: &Located) -> bool {
        let gap = u64::from(next.row.offset).checked_sub(u64::from(self.row.offset) + self.row.frame_bytes() as u64);
        Arc::ptr_eq(&self.file, &next.file) && gap.is_some_and(|gap| gap <= MAX_READ_OVER)
    }

    /// Reads the record as it is now known.
    pub fn read(&self, shared: &Shared) -> Result<Trajectory> {
        let mut trajectory = self.file.record(&self.row, self.columns, shared)?;
        trajectory.reward = self.row.reward;
        for (file, row, column) in &self.late {
            file.late(row, self.row.response, *column)?.apply(&mut trajectory);
        }
        Ok(trajectory)
    }
}
