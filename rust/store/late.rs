//! What was said of records after they were stored: late columns, of which the newest counts, and deletions. Nothing is
//! rewritten for it; the frames lie in whatever segment their writer had, before or behind those of the records.

use std::collections::{HashMap, HashSet};

use super::attach::Source;
use super::index::LateRow;
use super::segment::Segment;
use super::shard::{Kind, MAX_SEGMENT_RECORDS, targeted};
use super::{MAX_APPEND_BYTES, Store, lock};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::trajectory::Late;
use crate::trajectory::record::{Encoded, Places, Present};

/// Which late columns count, and which records are deleted; of all segments together.
#[derive(Default)]
pub struct LateIndex {
    newest: HashMap<(u64, Present), At>,
    deleted: HashSet<u64>,
}

#[derive(Clone, Copy)]
struct At {
    /// Time, segment and frame decide which is newest, the same for every reader.
    order: (u64, u32, u32),
    /// Place among the late rows of the segment.
    index: u32,
}

impl LateIndex {
    /// Takes in what the segment of this source has got since the last time.
    pub fn add(&mut self, number: u32, segment: &mut Segment, source: &Source) {
        for (index, row) in segment.late.iter().enumerate().skip(segment.late_indexed) {
            let Some(id) = source.id_here(row.target) else { continue };
            let Some(columns) = row.columns else {
                self.deleted.insert(id);
                continue;
            };
            let at = At { order: (row.time_us, number, row.sequence), index: index as u32 };
            for column in columns.each() {
                let newest = self.newest.entry((id, column)).or_insert(at);
                if newest.order < at.order {
                    *newest = at;
                }
            }
        }
        segment.late_indexed = segment.late.len();
    }

    /// Whether the record was deleted.
    pub fn is_deleted(&self, id: u64) -> bool {
        self.deleted.contains(&id)
    }

    /// The deleted records, some of which may be gone.
    pub fn deleted(&self) -> impl Iterator<Item = u64> {
        self.deleted.iter().copied()
    }

    /// Segment and place there of the newest of a record's columns.
    pub fn newest(&self, id: u64, column: Present) -> Option<(u32, usize)> {
        let at = self.newest.get(&(id, column))?;
        Some((at.order.1, at.index as usize))
    }

    /// When the record was last annotated, in microseconds since 1970.
    pub fn last_time_us(&self, id: u64) -> u64 {
        let columns = [Present::REFERENCE, Present::MONTE_CARLO, Present::REWARD];
        columns.iter().filter_map(|&column| Some(self.newest.get(&(id, column))?.order.0)).max().unwrap_or(0)
    }

    /// Whether there are late columns at all.
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }
}

impl Store {
    /// Appends late columns of records, all or, on an error, none. The newest of a column counts; readers see them when
    /// this returns, and they are durable after the next [`Self::commit`].
    pub fn annotate(&self, ids: &[u64], columns: &[Late], interrupt: Interrupt<'_>) -> Result<()> {
        if ids.len() != columns.len() {
            let (ids, columns) = (ids.len(), columns.len());
            return Err(Error::invalid(format!("{ids} ids came with late columns for {columns}")));
        }
        let responses = self.responses(ids, interrupt)?;
        let mut frames = Vec::with_capacity(ids.len());
        for ((&id, late), response) in ids.iter().zip(columns).zip(responses) {
            interrupt.check()?;
            late.validate(response as usize).map_err(|error| Error::invalid(format!("record {id}: {error}")))?;
            if !late.is_empty() {
                let mut encoded = Vec::new();
                Encoded::late(late, self.encoder.precision)?.put(Places::default(), &mut encoded);
                let row = LateRow { reward: late.reward.unwrap_or(0.0), ..row(id, Some(Present::of_late(late))) };
                frames.push((row, targeted(id, &encoded)));
            }
        }
        self.append_late(Kind::Late, frames)
    }

    /// Deletes records, all or, on an error, none. They are gone for readers when this returns, and from the disk when
    /// the store is compacted.
    pub fn delete(&self, ids: &[u64], interrupt: Interrupt<'_>) -> Result<()> {
        self.responses(ids, interrupt)?;
        let frames = ids.iter().map(|&id| (row(id, None), targeted(id, &[]))).collect();
        self.append_late(Kind::Tombstone, frames)
    }

    /// Reads every frame of late columns and every tombstone, also those that no longer count; how many are damaged.
    pub fn damaged_late_columns(&self, interrupt: Interrupt<'_>) -> Result<u64> {
        let state = self.state();
        let mut damaged = 0;
        for segment in state.segments.values() {
            for row in &segment.late {
                interrupt.check()?;
                match segment.file.frame(u64::from(row.offset)) {
                    Ok(_) => {}
                    Err(Error::Corrupt { .. }) => damaged += 1,
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(damaged)
    }

    /// Tokens of each record's response.
    fn responses(&self, ids: &[u64], interrupt: Interrupt<'_>) -> Result<Vec<u32>> {
        self.writer()?;
        let mut seen = HashSet::with_capacity(ids.len());
        if let Some(id) = ids.iter().find(|id| !seen.insert(**id)) {
            return Err(Error::invalid(format!("ids has {id} twice")));
        }
        self.refresh(interrupt)?;
        let state = self.state();
        ids.iter().map(|&id| Ok(state.find(id).ok_or_else(|| self.unknown(id))?.1.response)).collect()
    }

    fn append_late(&self, kind: Kind, mut frames: Vec<(LateRow, Vec<u8>)>) -> Result<()> {
        let writer = self.writer()?;
        let bytes: usize = frames.iter().map(|(_, payload)| payload.len()).sum();
        if frames.is_empty() {
            return Ok(());
        }
        if bytes > MAX_APPEND_BYTES || frames.len() > MAX_SEGMENT_RECORDS {
            let count = frames.len();
            return Err(Error::invalid(format!("{count} records of {bytes} bytes are too many at once; split them")));
        }
        let mut writer = lock(writer);
        self.poison.check()?;
        self.rotate_if_full(&mut writer, bytes as u64, 0, frames.len())?;
        // Newest is who calls last, also within a microsecond and though another writer's clock be ahead.
        writer.let_time_pass(self.last_annotated(&frames));
        let written = writer.append_payloads(kind, frames.iter().map(|(_, payload)| &payload[..]), &self.poison)?;
        for ((row, _), frame) in frames.iter_mut().zip(&written.frames) {
            (row.sequence, row.offset, row.length) = (frame.sequence, frame.offset, frame.length);
            row.time_us = written.time_us;
        }
        self.index_written(&writer, written.number, |segment, _| {
            segment.late.extend(frames.iter().map(|(row, _)| *row))
        });
        Ok(())
    }

    fn last_annotated(&self, frames: &[(LateRow, Vec<u8>)]) -> u64 {
        let state = self.state();
        frames.iter().map(|(row, _)| state.late.last_time_us(row.target)).max().unwrap_or(0)
    }
}

fn row(target: u64, columns: Option<Present>) -> LateRow {
    LateRow { time_us: 0, target, reward: 0.0, sequence: 0, offset: 0, length: 0, columns }
}
