//! Compaction: what was deleted, superseded or is no longer referred to leaves the disk. Each sealed segment is written
//! anew and then replaces the old file under the same name, in one rename; records keep their ids, and open readers
//! their old file. A crash leaves the old or the new one. Attached stores are not touched.
//!
//! A tombstone stays until the segment with its record was compacted; the compaction after that one drops it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::files::{self, SegmentName};
use super::footer::footer;
use super::id::{MAX_SEGMENT_NUMBER, record_id, split_id};
use super::index::{LateRow, Row};
use super::read::SegmentFile;
use super::segment::Segment;
use super::shard::{FRAME_HEADER_BYTES, FrameHeader, SegmentHeader};
use super::state::State;
use super::writer::sealing;
use super::{Store, lock, open};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::trajectory::bytes::Damage;
use crate::trajectory::record::{Places, Record};

/// What a compaction did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Segments that were written anew.
    pub segments: u64,
    /// Deleted records that are gone.
    pub records: u64,
    /// Superseded late columns and spent tombstones that are gone.
    pub late: u64,
    /// Bytes of the store before, attached ones not counted.
    pub bytes_before: u64,
    /// Bytes after.
    pub bytes_after: u64,
}

/// The frames of a segment that stay.
struct Plan {
    number: u32,
    file: Arc<SegmentFile>,
    sequence: u32,
    rows: Vec<Row>,
    late: Vec<LateRow>,
    dropped: (u64, u64),
}

impl Store {
    /// Seals every segment that nobody else appends to, and rewrites those sealed ones that hold what is not needed.
    /// `progress` is told how many of how many segments were looked at.
    pub fn compact(&self, progress: &mut dyn FnMut(usize, usize), interrupt: Interrupt<'_>) -> Result<Compaction> {
        self.writer()?;
        let _lock = files::lock_for_compaction(&self.directory)?;
        self.seal(interrupt)?;
        // What supersedes must be as durable as what it replaces.
        files::sync_live(&self.directory)?;
        self.refresh(interrupt)?;
        let bytes_before = self.own_bytes();
        let numbers = self.own_sealed();
        // Records that the late columns just seen are about may have come behind this view of their segment.
        self.refresh(interrupt)?;
        let mut done = Compaction { bytes_before, ..Compaction::default() };
        for (at, &number) in numbers.iter().enumerate() {
            progress(at, numbers.len());
            interrupt.check()?;
            let Some(plan) = plan(&self.state(), number) else { continue };
            if plan.dropped == (0, 0) {
                continue;
            }
            self.rewrite(&plan, interrupt)?;
            done.segments += 1;
            done.records += plan.dropped.0;
            done.late += plan.dropped.1;
        }
        progress(numbers.len(), numbers.len());
        self.refresh(interrupt)?;
        Ok(Compaction { bytes_after: self.own_bytes(), ..done })
    }

    /// Seals this writer's segment and those that dead writers left.
    fn seal(&self, interrupt: Interrupt<'_>) -> Result<()> {
        let mut writer = lock(self.writer()?);
        self.poison.check()?;
        self.rotate(&mut writer)?;
        open::seal_abandoned(&self.directory, &mut self.state_mut(), interrupt)
    }

    fn own_bytes(&self) -> u64 {
        let state = self.state();
        let own = state.segments.range(..=MAX_SEGMENT_NUMBER);
        own.map(|(_, segment)| segment.file.length().unwrap_or(segment.end)).sum()
    }

    fn own_sealed(&self) -> Vec<u32> {
        let state = self.state();
        let own = state.segments.range(..=MAX_SEGMENT_NUMBER);
        own.filter(|(_, segment)| segment.sealed).map(|(&number, _)| number).collect()
    }

    fn rewrite(&self, plan: &Plan, interrupt: Interrupt<'_>) -> Result<()> {
        let shared = shared(plan, interrupt)?;
        let header = SegmentHeader { number: plan.number, ..self.identity.clone() };
        let path = SegmentName { number: plan.number, sealed: true }.path(&self.directory);
        files::replace(&path, |out| {
            let mut copy = Copy { file: &plan.file, at: 0, time_us: 0, out };
            copy.write(&header.file_start(files::now_us()))?;
            let (rows, late) = copy.frames(plan, &shared, interrupt)?;
            let footer = footer(super::shard::FILE_VERSION, &rows, &late, &self.state().names)?;
            let end = sealing(copy.at, plan.sequence, copy.time_us, &footer);
            copy.write(&end)
        })
    }
}

fn plan(state: &State, number: u32) -> Option<Plan> {
    let segment = state.segments.get(&number)?;
    let rows = segment.rows.iter().filter(|row| !state.late.is_deleted(record_id(number, row.sequence)));
    let late = segment.late.iter().enumerate().filter(|(at, row)| is_needed(state, number, *at, row));
    let (rows, late): (Vec<Row>, Vec<LateRow>) = (rows.copied().collect(), late.map(|(_, row)| *row).collect());
    let dropped = ((segment.rows.len() - rows.len()) as u64, (segment.late.len() - late.len()) as u64);
    Some(Plan { number, file: segment.file.clone(), sequence: segment.sequence, rows, late, dropped })
}

fn is_needed(state: &State, number: u32, at: usize, row: &LateRow) -> bool {
    let target = split_id(row.target).filter(|(number, _)| *number <= MAX_SEGMENT_NUMBER);
    // Of a record in an attached store nothing is known for good: the store may be away only for now.
    let there = target.is_none_or(|(number, sequence)| {
        state.segments.get(&number).is_some_and(|segment: &Segment| segment.find(sequence).is_some())
    });
    match row.columns {
        None => there,
        Some(columns) => {
            let newest = |column| state.late.newest(row.target, column) == Some((number, at));
            there && !state.late.is_deleted(row.target) && columns.each().any(newest)
        }
    }
}

/// Offsets of the frames that records refer to (prompts, ranks), and those refer to in turn; in order.
fn shared(plan: &Plan, interrupt: Interrupt<'_>) -> Result<Vec<u32>> {
    let mut shared = BTreeSet::new();
    for row in &plan.rows {
        interrupt.check()?;
        let places = places(&plan.file, row.offset)?;
        shared.extend(places.ranks);
        if let Some(prompt) = places.prompt.filter(|&prompt| shared.insert(prompt)) {
            shared.extend(self::places(&plan.file, prompt)?.ranks);
        }
    }
    Ok(shared.into_iter().collect())
}

fn places(file: &SegmentFile, offset: u32) -> Result<Places> {
    let (_, payload) = file.frame(u64::from(offset))?;
    let places = Record::parse(&payload).and_then(|record| record.places());
    places.map_err(|damage| file.corrupt(u64::from(offset), damage.what))
}

enum Kept<'a> {
    Shared,
    Record(&'a Row),
    Late(&'a LateRow),
}

/// A segment being written anew from the frames of the old one.
struct Copy<'a> {
    file: &'a SegmentFile,
    at: u64,
    time_us: u64,
    out: &'a mut dyn std::io::Write,
}

impl Copy<'_> {
    fn frames(&mut self, plan: &Plan, shared: &[u32], interrupt: Interrupt<'_>) -> Result<(Vec<Row>, Vec<LateRow>)> {
        let mut kept: Vec<(u32, Kept<'_>)> = shared.iter().map(|&at| (at, Kept::Shared)).collect();
        kept.extend(plan.rows.iter().map(|row| (row.offset, Kept::Record(row))));
        kept.extend(plan.late.iter().map(|row| (row.offset, Kept::Late(row))));
        kept.sort_unstable_by_key(|(offset, _)| *offset);
        let (mut rows, mut late) = (Vec::with_capacity(plan.rows.len()), Vec::with_capacity(plan.late.len()));
        // Where each shared frame is now; what refers to one comes behind it.
        let mut now = HashMap::new();
        for (old, frame) in kept {
            interrupt.check()?;
            let (header, payload) = self.file.frame(u64::from(old))?;
            if let Kept::Late(row) = frame {
                late.push(LateRow { offset: self.put(&header, &payload)?, ..*row });
                continue;
            }
            let damaged = |damage: Damage| self.file.corrupt(u64::from(old), damage.what);
            let record = Record::parse(&payload).map_err(damaged)?;
            let Places { prompt, ranks } = record.places().map_err(damaged)?;
            let moved = |place: Option<u32>| place.and_then(|place| now.get(&place).copied());
            let payload = record.moved(Places { prompt: moved(prompt), ranks: moved(ranks) });
            let offset = self.put(&header, &payload)?;
            match frame {
                Kept::Record(row) => {
                    let (length, present) = (payload.len() as u32, Some(record.present()));
                    rows.push(Row { offset, length, present, ..*row });
                }
                _ => drop(now.insert(old, offset)),
            }
        }
        Ok((rows, late))
    }

    fn put(&mut self, header: &FrameHeader, payload: &[u8]) -> Result<u32> {
        let offset = self.at as u32;
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
        FrameHeader::of(header.kind, true, header.sequence, header.time_us, payload).put(payload, &mut bytes);
        self.time_us = header.time_us;
        self.write(&bytes)?;
        Ok(offset)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        let failed = |error| Error::io(format!("compact {}", self.file.path.display()), error);
        self.out.write_all(bytes).map_err(failed)
    }
}
