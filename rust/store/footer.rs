//! The footer of a sealed segment: its index rows, so that opening it reads nothing else. Rows are differences to the one
//! before, names are numbered by first use; then zstd.

use std::collections::HashMap;

use super::index::{LateRow, Names, Row};
use super::shard::{MAX_PAYLOAD_BYTES, MAX_SEGMENT_RECORDS};
use crate::error::Result;
use crate::trajectory::bytes::{Cursor, Damage, put_bytes, put_float, put_varint};
use crate::trajectory::compression::{compress, decompress};
use crate::trajectory::record::Present;
use crate::trajectory::{MAX_NAME_BYTES, MAX_TOKENS};

const MAX_FOOTER_BYTES: usize = 256 << 20;
/// Version of the files whose footers tell nothing of columns.
const WITHOUT_COLUMNS: u16 = 1;
const TOMBSTONE: u8 = 1 << 7;

/// The payload of a footer in a file of this version.
pub fn footer(version: u16, rows: &[Row], late: &[LateRow], names: &Names) -> Result<Vec<u8>> {
    let mut raw = Vec::with_capacity(24 * rows.len() + 64);
    put_varint(&mut raw, rows.len() as u64);
    let (mut sequence, mut offset, mut time_us) = (0, 0, 0);
    let mut local = HashMap::new();
    for row in rows {
        put_varint(&mut raw, u64::from(row.sequence - sequence));
        put_varint(&mut raw, u64::from(row.offset - offset));
        put_varint(&mut raw, u64::from(row.length));
        put_varint(&mut raw, row.time_us - time_us);
        for name in [row.source, row.problem] {
            let known = local.len() as u64;
            let number = *local.entry(name).or_insert(known);
            put_varint(&mut raw, number);
            if number == known {
                put_bytes(&mut raw, names.name(name).as_bytes());
            }
        }
        put_float(&mut raw, row.reward);
        put_varint(&mut raw, u64::from(row.prompt));
        put_varint(&mut raw, u64::from(row.response));
        if version > WITHOUT_COLUMNS {
            raw.push(row.present.unwrap_or_default().bits());
        }
        (sequence, offset, time_us) = (row.sequence, row.offset, row.time_us);
    }
    if version > WITHOUT_COLUMNS {
        put_late(&mut raw, late);
    }
    let mut payload = Vec::new();
    put_varint(&mut payload, raw.len() as u64);
    payload.extend_from_slice(&compress(&raw)?);
    Ok(payload)
}

fn put_late(raw: &mut Vec<u8>, late: &[LateRow]) {
    put_varint(raw, late.len() as u64);
    let (mut sequence, mut offset, mut time_us) = (0, 0, 0);
    for row in late {
        put_varint(raw, u64::from(row.sequence - sequence));
        put_varint(raw, u64::from(row.offset - offset));
        put_varint(raw, u64::from(row.length));
        put_varint(raw, row.time_us - time_us);
        put_varint(raw, row.target);
        raw.push(row.columns.map_or(TOMBSTONE, Present::bits));
        if row.columns.is_some_and(|columns| columns.has(Present::REWARD)) {
            put_float(raw, row.reward);
        }
        (sequence, offset, time_us) = (row.sequence, row.offset, row.time_us);
    }
}

/// Reads a footer's payload.
pub fn read_footer(version: u16, payload: &[u8], names: &mut Names) -> Result<(Vec<Row>, Vec<LateRow>), Damage> {
    let mut cursor = Cursor::new(payload);
    let length = cursor.length(MAX_FOOTER_BYTES, "footer length")?;
    let raw = decompress(&payload[cursor.offset()..], length)
        .map_err(|error| cursor.damage(format!("the footer does not decompress: {error}")))?;
    let mut cursor = Cursor::new(&raw);
    let count = cursor.length(MAX_SEGMENT_RECORDS, "row count")?;
    // A row takes at least ten bytes, so a lying count cannot make this allocate more than a multiple of what is there.
    let mut rows = Vec::with_capacity(count.min(raw.len() / 10));
    let mut local: Vec<u32> = Vec::new();
    let mut place = Place::default();
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
        rows.push(Row { sequence, offset, length, time_us, source, problem, reward, prompt, response, present });
    }
    let late = if version > WITHOUT_COLUMNS { read_late(&mut cursor)? } else { Vec::new() };
    cursor.finish("the last row")?;
    Ok((rows, late))
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
        self.sequence = self.sequence.checked_add(step).ok_or_else(|| overflow(cursor))?;
        let step = cursor.length(most, "offset")? as u32;
        self.offset = self.offset.checked_add(step).ok_or_else(|| overflow(cursor))?;
        self.length = cursor.length(MAX_PAYLOAD_BYTES, "length")? as u32;
        let step = cursor.varint("time")?;
        self.time_us = self.time_us.checked_add(step).ok_or_else(|| overflow(cursor))?;
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
