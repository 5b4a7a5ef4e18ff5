//! Writing segments anew as one: the frames that stay, one segment after the other, records behind their ids. What records
//! refer to (prompts, tables) comes once, however many of the segments had it.

use std::collections::{BTreeSet, HashMap};
use std::io::Write;
use std::ops::Deref;
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::files;
use super::footer::footer;
use super::id::split_id;
use super::index::LateRow;
use super::read::SegmentFile;
use super::rows::{Row, Rows};
use super::seal::sealing;
use super::shard::{FILE_VERSION, FRAME_HEADER_BYTES, FrameHeader, Kind, SegmentHeader, read_targeted, targeted};
use super::state::State;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::trajectory::bytes::Damage;
use crate::trajectory::record::{Places, Record};

/// What stays of one segment.
pub struct Part {
    /// Its number.
    pub number: u32,
    /// Its file.
    pub file: Arc<SegmentFile>,
    /// The segments that its records were appended to, itself among them.
    pub numbers: BTreeSet<u32>,
    /// Rows of the records that stay.
    pub rows: Vec<Row>,
    /// Rows of the late columns and tombstones that stay.
    pub late: Vec<LateRow>,
    /// How many records do not.
    pub dropped_records: usize,
    /// How many late columns and tombstones do not.
    pub dropped_late: usize,
}

enum Kept<'a> {
    Shared,
    Record(&'a Row),
    Late(&'a LateRow),
}

/// Writes a whole sealed segment.
pub fn rewrite<'a, S: Deref<Target = State> + 'a>(
    parts: &[Part],
    header: &SegmentHeader,
    state: impl Fn() -> S,
    out: &mut dyn Write,
    interrupt: Interrupt<'_>,
) -> Result<()> {
    let mut copy =
        Copy { at: 0, sequence: 1, time_us: 0, rows: Rows::default(), late: Vec::new(), shared: HashMap::new(), out };
    copy.write(&header.file_start(files::now_us()))?;
    for part in parts {
        copy.part(part, interrupt)?;
    }
    let footer = footer(FILE_VERSION, header.number, &copy.rows, &copy.late, &state().names)?;
    let end = sealing(copy.at, copy.sequence, copy.time_us, &footer);
    copy.write(&end)
}

/// A segment being written.
struct Copy<'a> {
    at: u64,
    sequence: u32,
    time_us: u64,
    rows: Rows,
    late: Vec<LateRow>,
    /// Offsets of prompts and tables, by a hash of the frame's content.
    shared: HashMap<u128, u32>,
    out: &'a mut dyn Write,
}

impl Copy<'_> {
    fn part(&mut self, part: &Part, interrupt: Interrupt<'_>) -> Result<()> {
        let shared = shared(part, interrupt)?;
        let mut kept: Vec<(u32, Kept<'_>)> = shared.into_iter().map(|at| (at, Kept::Shared)).collect();
        kept.extend(part.rows.iter().map(|row| (row.offset, Kept::Record(row))));
        kept.extend(part.late.iter().map(|row| (row.offset, Kept::Late(row))));
        kept.sort_unstable_by_key(|(offset, _)| *offset);
        // Where each shared frame is now; what refers to one comes behind it.
        let mut now = HashMap::new();
        let mut numbers = part.numbers.iter().copied().peekable();
        for (old, frame) in kept {
            interrupt.check()?;
            let (header, payload) = part.file.frame(u64::from(old))?;
            let damaged = |damage: Damage| part.file.corrupt(u64::from(old), damage.what);
            match frame {
                Kept::Late(row) => {
                    let (sequence, offset) = (self.sequence, self.put(header.kind, &header, &payload)?);
                    self.late.push(LateRow { sequence, offset, ..*row });
                }
                Kept::Shared => {
                    let record = Record::parse(&payload).map_err(damaged)?;
                    let payload = moved(&record, &now).map_err(damaged)?;
                    let known = self.shared.get(&xxh3_128(&payload)).copied();
                    let offset = match known {
                        Some(offset) => offset,
                        None => self.put(header.kind, &header, &payload)?,
                    };
                    self.shared.insert(xxh3_128(&payload), offset);
                    now.insert(old, offset);
                }
                Kept::Record(row) => {
                    let content = match header.kind {
                        Kind::Moved => read_targeted(&payload).map_err(damaged)?.1,
                        _ => &payload,
                    };
                    let record = Record::parse(content).map_err(damaged)?;
                    let payload = targeted(row.id, &moved(&record, &now).map_err(damaged)?);
                    let offset = self.put(Kind::Moved, &header, &payload)?;
                    let number = split_id(row.id).map_or(0, |(number, _)| number);
                    while let Some(number) = numbers.next_if(|&of| of <= number) {
                        self.rows.begin(number);
                    }
                    let (length, present) = (payload.len() as u32, Some(record.present()));
                    self.rows.push(Row { offset, length, present, ..*row });
                }
            }
        }
        numbers.for_each(|number| self.rows.begin(number));
        Ok(())
    }

    fn put(&mut self, kind: Kind, header: &FrameHeader, payload: &[u8]) -> Result<u32> {
        let offset = self.at as u32;
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
        FrameHeader::of(kind, true, self.sequence, header.time_us, payload).put(payload, &mut bytes);
        self.sequence += 1;
        self.time_us = self.time_us.max(header.time_us);
        self.write(&bytes)?;
        Ok(offset)
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.out.write_all(bytes).map_err(|error| Error::io("write a compacted segment", error))
    }
}

/// Offsets of the frames that records refer to (prompts, tables), and those refer to in turn; in order.
fn shared(part: &Part, interrupt: Interrupt<'_>) -> Result<BTreeSet<u32>> {
    let mut shared = BTreeSet::new();
    for row in &part.rows {
        interrupt.check()?;
        let places = places(&part.file, row.offset)?;
        shared.extend(places.tables);
        if let Some(prompt) = places.prompt.filter(|&prompt| shared.insert(prompt)) {
            shared.extend(self::places(&part.file, prompt)?.tables);
        }
    }
    Ok(shared)
}

fn places(file: &SegmentFile, offset: u32) -> Result<Places> {
    let (header, payload) = file.frame(u64::from(offset))?;
    let content = match header.kind {
        Kind::Moved => read_targeted(&payload).map(|(_, content)| content),
        _ => Ok(&payload[..]),
    };
    let places = content.and_then(Record::parse).and_then(|record| record.places());
    places.map_err(|damage| file.corrupt(u64::from(offset), damage.what))
}

/// The record with the frames that it refers to where they are now.
fn moved(record: &Record<'_>, now: &HashMap<u32, u32>) -> Result<Vec<u8>, Damage> {
    let Places { prompt, tables } = record.places()?;
    let moved = |place: Option<u32>| place.and_then(|place| now.get(&place).copied());
    Ok(record.moved(Places { prompt: moved(prompt), tables: moved(tables) }))
}
