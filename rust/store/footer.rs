//! The footer of a sealed segment: its index rows, so that opening it reads nothing else. Rows are differences to the one
//! before, names are numbered by first use; then zstd.

use std::collections::HashMap;

use super::id::{MAX_SEGMENT_NUMBER, MAX_SEQUENCE, record_id, split_id};
use super::index::{LateRow, Names};
use super::rows::{Row, Rows};
use super::shard::{MAX_PAYLOAD_BYTES, MAX_SEGMENT_RECORDS};
use crate::error::Result;
use crate::trajectory::bytes::{Cursor, Damage, put_bytes, put_long_float, put_varint};
use crate::trajectory::compression::{compress, decompress};
use crate::trajectory::record::Present;
use crate::trajectory::{MAX_NAME_BYTES, MAX_TOKENS};

const MAX_FOOTER_BYTES: usize = 256 << 20;
/// Version of the files whose footers tell nothing of columns.
const WITHOUT_COLUMNS: u16 = 1;
/// The last version without merged segments, whose footers do not tell which segment a row is of.
const WITHOUT_PARTS: u16 = 3;
const TOMBSTONE: u8 = 1 << 7;

/// The payload of the footer of the segment with this number, in a file of this version.
pub fn footer(version: u16, own: u32, rows: &Rows, late: &[LateRow], names: &Names) -> Result<Vec<u8>> {
    let mut raw = Vec::with_capacity(24 * rows.len() + 64);
    put_parts(&mut raw, version, own, rows);
    let (mut number, mut sequence, mut offset, mut time_us) = (0, 0, 0, 0);
    let mut local = HashMap::new();
    for row in rows.iter() {
        let Some((of, at)) = split_id(row.id) else { continue };
        if of != number {
            (number, sequence) = (of, 0);
        }
        put_varint(&mut raw, u64::from(at - sequence));
        put_varint(&mut raw, u64::from(row.offset - offset));
        put_varint(&mut raw, u64::from(row.length));
        // Merged records of several writers need not be in the order of time.
        put_varint(&mut raw, row.time_us.wrapping_sub(time_us));
        for name in [row.source, row.problem] {
            let known = local.len() as u64;
            let number = *local.entry(name).or_insert(known);
            put_varint(&mut raw, number);
            if number == known {
                put_bytes(&mut raw, names.name(name).as_bytes());
            }
        }
        put_long_float(&mut raw, row.reward);
        put_varint(&mut raw, u64::from(row.prompt));
        put_varint(&mut raw, u64::from(row.response));
        if version > WITHOUT_COLUMNS {
            raw.push(row.present.unwrap_or_default().bits());
        }
        (sequence, offset, time_us) = (at, row.offset, row.time_us);
    }
    if version > WITHOUT_COLUMNS {
        put_late(&mut raw, late);
    }
    let mut payload = Vec::new();
    put_varint(&mut payload, raw.len() as u64);
    payload.extend_from_slice(&compress(&raw)?);
    Ok(payload)
}

fn put_parts(raw: &mut Vec<u8>, version: u16, own: u32, rows: &Rows) {
    if version <= WITHOUT_PARTS {
        put_varint(raw, rows.len() as u64);
        return;
    }
    let mut parts: Vec<(u32, usize)> = rows.parts().collect();
    if parts.last().is_none_or(|&(last, _)| last != own) {
        parts.push((own, 0));
    }
    put_varint(raw, parts.len() as u64);
    for (number, count) in parts {
        put_varint(raw, u64::from(number));
        put_varint(raw, count as u64);
    }
}

fn put_late(raw: &mut Vec<u8>, late: &[LateRow]) {
    put_varint(raw, late.len() as u64);
    let (mut sequence, mut offset, mut time_us) = (0, 0, 0);
    for row in late {
        put_varint(raw, u64::from(row.sequence - sequence));
        put_varint(raw, u64::from(row.offset - offset));
        put_varint(raw, u64::from(row.length));
        put_varint(raw, row.time_us.wrapping_sub(time_us));
        put_varint(raw, row.target);
        raw.push(row.columns.map_or(TOMBSTONE, Present::bits));
        if row.columns.is_some_and(|columns| columns.has(Present::REWARD)) {
            put_long_float(raw, row.reward);
        }
        (sequence, offset, time_us) = (row.sequence, row.offset, row.time_us);
    }
}

/// Reads the footer's payload of the segment with this number, whose store's segments are counted from `base`.
pub fn read_footer(
    version: u16,
    (base, number): (u32, u32),
    payload: &[u8],
    names: &mut Names,
) -> Result<(Rows, Vec<LateRow>), Damage> {
    let mut cursor = Cursor::new(payload);
    let length = cursor.length(MAX_FOOTER_BYTES, "footer length")?;
    let raw = decompress(&payload[cursor.offset()..], length)
        .map_err(|error| cursor.damage(format!("the footer does not decompress: {error}")))?;
    let mut cursor = Cursor::new(&raw);
    let parts = read_parts(&mut cursor, version, number)?;
    let count: usize = parts.iter().map(|(_, count)| count).sum();
    // A row takes at least ten bytes, so a lying count cannot make this allocate more than a multiple of what is there.
    let mut rows = Rows::with_capacity(count.min(raw.len() / 10));
    let mut local: Vec<u32> = Vec::new();
    let mut place = Place::default();
    for (number, count) in parts {
        rows.begin(base + number);
        place.sequence = 0;
        for _ in 0..count {
            place.advance(&mut cursor)?;
            let mut name = || {
                let number = cursor.length(local.len(), "name number")?;
                if number == local.len() {
                    local.push(names.number(cursor.text(MAX_NAME_BYTES, "name")?));
                }
                Ok(local[number])
            };
            let (source, problem) = (name()?, name()?);
            let reward = cursor.float("reward")?;
            let prompt = cursor.length(MAX_TOKENS, "prompt length")? as u32;
            let response = cursor.length(MAX_TOKENS, "response length")? as u32;
            let present = if version > WITHOUT_COLUMNS { Some(read_columns(&mut cursor)?) } else { None };
            let Place { sequence, offset, length, time_us } = place;
            let id = record_id(base + number, sequence);
            rows.push(Row { id, offset, length, time_us, source, problem, reward, prompt, response, present });
        }
    }
    let late = if version > WITHOUT_COLUMNS { read_late(&mut cursor)? } else { Vec::new() };
    cursor.finish("the last row")?;
    Ok((rows, late))
}

/// Numbers of the segments that the rows are of, with how many each has; rising, the file's own last.
fn read_parts(cursor: &mut Cursor<'_>, version: u16, own: u32) -> Result<Vec<(u32, usize)>, Damage> {
    if version <= WITHOUT_PARTS {
        return Ok(vec![(own, cursor.length(MAX_SEGMENT_RECORDS, "row count")?)]);
    }
    let (mut parts, mut all) = (Vec::new(), 0);
    for _ in 0..cursor.length(MAX_SEGMENT_NUMBER as usize, "count of merged segments")? {
        let number = cursor.length(own as usize, "segment number")? as u32;
        let count = cursor.length(MAX_SEGMENT_RECORDS - all, "row count")?;
        if parts.last().is_some_and(|&(last, _)| last >= number) {
            return Err(cursor.damage("the merged segments are out of order"));
        }
        all += count;
        parts.push((number, count));
    }
    match parts.last() {
        Some(&(last, _)) if last == own => Ok(parts),
        _ => Err(cursor.damage("the footer is of another segment")),
    }
}

fn read_late(cursor: &mut Cursor<'_>) -> Result<Vec<LateRow>, Damage> {
    let count = cursor.length(MAX_SEGMENT_RECORDS, "count of late columns")?;
    let mut late = Vec::new();
    let mut place = Place::default();
    for _ in 0..count {
        place.advance(cursor)?;
        let target = cursor.varint("the target's id")?;
        let columns = match cursor.byte("columns")? {
            TOMBSTONE => None,
            bits => Some(present(cursor, bits)?),
        };
        let revised = columns.is_some_and(|columns| columns.has(Present::REWARD));
        let reward = if revised { cursor.float("reward")? } else { 0.0 };
        let Place { sequence, offset, length, time_us } = place;
        late.push(LateRow { sequence, offset, length, time_us, target, columns, reward });
    }
    Ok(late)
}

#[derive(Default, Clone, Copy)]
struct Place {
    sequence: u32,
    offset: u32,
    length: u32,
    time_us: u64,
}

impl Place {
    fn advance(&mut self, cursor: &mut Cursor<'_>) -> Result<(), Damage> {
        let most = u32::MAX as usize;
        let overflow = |cursor: &Cursor<'_>| cursor.damage("a footer row overflows");
        let step = cursor.length(most, "sequence")? as u32;
        self.sequence =
            self.sequence.checked_add(step).filter(|&at| at <= MAX_SEQUENCE).ok_or_else(|| overflow(cursor))?;
        let step = cursor.length(most, "offset")? as u32;
        self.offset = self.offset.checked_add(step).ok_or_else(|| overflow(cursor))?;
        self.length = cursor.length(MAX_PAYLOAD_BYTES, "length")? as u32;
        self.time_us = self.time_us.wrapping_add(cursor.varint("time")?);
        Ok(())
    }
}

fn read_columns(cursor: &mut Cursor<'_>) -> Result<Present, Damage> {
    let bits = cursor.byte("columns")?;
    present(cursor, bits)
}

fn present(cursor: &Cursor<'_>, bits: u8) -> Result<Present, Damage> {
    Present::from_bits(bits).ok_or_else(|| cursor.damage(format!("columns {bits:#x} are from another version")))
}
