//! Codings of a chunk in which much has changed: the smallest of a bitmap with steps, the xor of both states, and the new
//! state as it is. The first byte says which.

use super::apply::take;
use super::patch::Change;
use super::steps::{compress, decompress, from_monotone, monotone, step_between};
use crate::Result;

const BITMAP: u8 = 0;
const XOR: u8 = 1;
const RAW: u8 = 2;

/// The smallest coding of `new`.
pub(super) fn encode(old: &[u16], new: &[u16], changes: &[Change]) -> Result<Vec<u8>> {
    let mut bitmap = vec![0u8; old.len().div_ceil(8)];
    let mut steps = Vec::with_capacity(changes.len());
    for change in changes {
        bitmap[change.place as usize / 8] |= 1 << (change.place % 8);
        steps.push(zigzag(step_between(change.old, change.new)));
    }
    bitmap.extend(planes(steps.into_iter()));
    let xor = planes(old.iter().zip(new).map(|(old, new)| old ^ new));
    let raw: &[u8] = bytemuck::cast_slice(new);
    let candidates = [(BITMAP, compress(&bitmap)?), (XOR, compress(&xor)?), (RAW, raw.to_vec())];
    let smallest = candidates.into_iter().min_by_key(|(_, body)| body.len());
    let (coding, body) = smallest.unwrap_or_default();
    Ok([&[coding], &body[..]].concat())
}

/// The new state of the chunk whose old state is `old`.
pub(super) fn decode(old: &[u16], mut bytes: &[u8]) -> Result<Vec<u16>, String> {
    match take(&mut bytes, 1)?[0] {
        BITMAP => decode_bitmap(old, &decompress(bytes, old.len().div_ceil(8) + old.len() * 2)?),
        XOR => {
            let xor = decompress(bytes, old.len() * 2)?;
            let xor = merged(&xor, old.len())?;
            Ok(old.iter().zip(xor).map(|(old, xor)| old ^ xor).collect())
        }
        RAW if bytes.len() == old.len() * 2 => {
            Ok(bytes.as_chunks::<2>().0.iter().map(|pattern| u16::from_le_bytes(*pattern)).collect())
        }
        other => Err(format!("dense chunk of coding {other} and {} bytes", bytes.len())),
    }
}

fn decode_bitmap(old: &[u16], bytes: &[u8]) -> Result<Vec<u16>, String> {
    let mut rest = bytes;
    let bitmap = take(&mut rest, old.len().div_ceil(8))?;
    let count = bitmap.iter().map(|byte| byte.count_ones() as usize).sum();
    let mut steps = merged(rest, count)?;
    let mut new = old.to_vec();
    for (index, byte) in bitmap.iter().enumerate() {
        let mut bits = *byte;
        while bits != 0 {
            let place = index * 8 + bits.trailing_zeros() as usize;
            bits &= bits - 1;
            let (Some(value), Some(step)) = (new.get_mut(place), steps.next()) else {
                return Err("a change beyond its chunk".into());
            };
            *value = from_monotone(monotone(*value).wrapping_add(unzigzag(step)));
        }
    }
    Ok(new)
}

/// All low bytes, then all high bytes: each compresses better among its like.
fn planes(values: impl Iterator<Item = u16> + Clone) -> Vec<u8> {
    values.clone().map(|value| value as u8).chain(values.map(|value| (value >> 8) as u8)).collect()
}

fn merged(planes: &[u8], count: usize) -> Result<impl Iterator<Item = u16>, String> {
    if planes.len() != count * 2 {
        return Err(format!("{} bytes for {count} values", planes.len()));
    }
    let (low, high) = planes.split_at(count);
    Ok(low.iter().zip(high).map(|(&low, &high)| u16::from_le_bytes([low, high])))
}

/// Small steps of either sign as small numbers.
fn zigzag(step: u16) -> u16 {
    let step = step as i16;
    ((step << 1) ^ (step >> 15)) as u16
}

fn unzigzag(coded: u16) -> u16 {
    (coded >> 1) ^ (coded & 1).wrapping_neg()
}
