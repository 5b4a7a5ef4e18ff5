//! Compaction: what was deleted, superseded or is no longer referred to leaves the disk, and small segments that follow
//! one another become one. Each group of segments is written anew into the file of its last one, which one rename
//! replaces; then the others are removed. Records keep their ids, and open readers their old files. A crash leaves the
//! old files, or the new one and perhaps some old ones, which then count no more and go with the next compaction.
//! Attached stores are not touched.
//!
//! A tombstone stays until the segment with its record was compacted; the compaction after that one drops it.

use super::files::{self, SegmentName};
use super::id::{MAX_SEGMENT_NUMBER, split_id};
use super::index::LateRow;
use super::rewrite::{Part, rewrite};
use super::shard::{MAX_SEGMENT_RECORDS, SegmentHeader};
use super::state::State;
use super::{Store, lock, seal};
use crate::error::Result;
use crate::interrupt::Interrupt;

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Segments that were written anew.
    pub segments: u64,
    /// Segments that became part of another.
    pub merged: u64,
    /// Deleted records that are gone.
    pub records: u64,
    /// Superseded late columns and spent tombstones that are gone.
    pub late: u64,
    /// Bytes of the store before, attached ones not counted.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
}

impl Store {
    /// Seals every segment that nobody else appends to, rewrites those sealed ones that hold what is not needed, and
    /// merges small ones. `progress` is told how many of how many segments were looked at.
    pub fn compact(&self, progress: &mut dyn FnMut(usize, usize), interrupt: Interrupt<'_>) -> Result<Compaction> {
        self.writer()?;
        let _lock = files::lock_for_compaction(&self.directory)?;
        self.seal(interrupt)?;
        // What supersedes must be as durable as what it replaces.
        files::sync_live(&self.directory)?;
        self.refresh(interrupt)?;
        self.remove_merged(interrupt)?;
        let bytes_before = self.own_bytes();
        let groups = self.groups();
        // Records that the late columns just seen are about may have come behind this view of their segment.
        self.refresh(interrupt)?;
        let total = groups.iter().map(Vec::len).sum();
        let (mut done, mut looked_at) = (Compaction { bytes_before, ..Compaction::default() }, 0);
        for group in &groups {
            progress(looked_at, total);
            interrupt.check()?;
            looked_at += group.len();
            let parts: Vec<Part> = group.iter().filter_map(|&number| part(&self.state(), number)).collect();
            let dropped = |of: fn(&Part) -> usize| parts.iter().map(of).sum::<usize>() as u64;
            let (records, late) = (dropped(|part| part.dropped_records), dropped(|part| part.dropped_late));
            if parts.len() < 2 && records + late == 0 {
                continue;
            }
            self.replace(&parts, interrupt)?;
            done.segments += parts.len() as u64;
            done.merged += parts.len() as u64 - 1;
            done.records += records;
            done.late += late;
        }
        progress(total, total);
        self.refresh(interrupt)?;
        Ok(Compaction { bytes_after: self.own_bytes(), ..done })
    }

    /// Seals this writer's segment and those that dead writers left.
    fn seal(&self, interrupt: Interrupt<'_>) -> Result<()> {
        let mut writer = lock(self.writer()?);
        self.poison.check()?;
        self.rotate(&mut writer)?;
        seal::seal_abandoned(&self.directory, &mut self.state_mut(), interrupt)
    }

    fn own_bytes(&self) -> u64 {
        let state = self.state();
        let own = state.segments.range(..=MAX_SEGMENT_NUMBER);
        own.map(|(_, segment)| segment.file.length().unwrap_or(segment.end)).sum()
    }

    /// Sealed segments in groups that are to become one: small ones, with none between them, that fit into one.
    fn groups(&self) -> Vec<Vec<u32>> {
        let state = self.state();
        let mut groups: Vec<Vec<u32>> = Vec::new();
        let mut open: Option<Size> = None;
        for (&number, segment) in state.segments.range(..=MAX_SEGMENT_NUMBER) {
            if !segment.sealed {
                open = None;
                continue;
            }
            let bytes = segment.file.length().unwrap_or(segment.end);
            let size = Size { bytes, records: segment.rows.len(), late: segment.late.len() };
            let is_small = bytes < self.segment_bytes / 2;
            let together = open.as_ref().map(|open| open.with(&size)).filter(|both| is_small && both.fits(self));
            match groups.last_mut().filter(|_| together.is_some()) {
                Some(group) => group.push(number),
                None => groups.push(vec![number]),
            }
            open = together.or(is_small.then_some(size));
        }
        groups
    }

    /// Writes the segments anew, as the last of them.
    fn replace(&self, parts: &[Part], interrupt: Interrupt<'_>) -> Result<()> {
        let [merged @ .., last] = parts else { return Ok(()) };
        let header = SegmentHeader { number: last.number, ..self.identity.clone() };
        let sealed = |number| SegmentName { number, sealed: true }.path(&self.directory);
        files::replace(&sealed(last.number), |out| rewrite(parts, &header, || self.state(), out, interrupt))?;
        for part in merged {
            interrupt.check()?;
            files::remove(&sealed(part.number))?;
        }
        Ok(())
    }

    /// Removes what a compaction that was cut short has merged and left.
    fn remove_merged(&self, interrupt: Interrupt<'_>) -> Result<()> {
        for name in files::list_segments(&self.directory)?.into_iter().filter(|name| name.sealed) {
            interrupt.check()?;
            if self.state().merged.contains_key(&name.number) {
                files::remove(&name.path(&self.directory))?;
            }
        }
        Ok(())
    }
}

struct Size {
    bytes: u64,
    records: usize,
    late: usize,
}

impl Size {
    fn with(&self, other: &Size) -> Size {
        Size { bytes: self.bytes + other.bytes, records: self.records + other.records, late: self.late + other.late }
    }

    fn fits(&self, store: &Store) -> bool {
        self.bytes <= store.segment_bytes && self.records.max(self.late) <= MAX_SEGMENT_RECORDS
    }
}

/// What stays of a segment.
fn part(state: &State, number: u32) -> Option<Part> {
    let segment = state.segments.get(&number)?;
    let rows = segment.rows.iter().filter(|row| !state.late.is_deleted(row.id)).collect::<Vec<_>>();
    let late = segment.late.iter().enumerate().filter(|(at, row)| is_needed(state, number, *at, row));
    let late: Vec<LateRow> = late.map(|(_, row)| *row).collect();
    Some(Part {
        number,
        file: segment.file.clone(),
        numbers: segment.rows.parts().map(|(number, _)| number).chain([number]).collect(),
        dropped_records: segment.rows.len() - rows.len(),
        dropped_late: segment.late.len() - late.len(),
        rows,
        late,
    })
}

fn is_needed(state: &State, number: u32, at: usize, row: &LateRow) -> bool {
    // Of a record in an attached store nothing is known for good: the store may be away only for now.
    let is_own = split_id(row.target).is_some_and(|(number, _)| number <= MAX_SEGMENT_NUMBER);
    let there = !is_own || state.find_stored(row.target).is_some();
    match row.columns {
        None => there,
        Some(columns) => {
            let newest = |column| state.late.newest(row.target, column) == Some((number, at));
            there && !state.late.is_deleted(row.target) && columns.each().any(newest)
        }
    }
}
