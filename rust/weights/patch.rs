//! A patch: what changed between two states of a flat bfloat16 shard, as bit patterns; its bytes, making and applying one.
//!
//! Chunks of [`CHUNK_ELEMENTS`] elements are coded one by one as the smallest of nothing, sparse, bitmap, xor and raw. What
//! compresses only in quantity (sparse changes, of which a chunk has a few hundred) is gathered over all chunks.
//!
//! ```text
//! magic 8 | elements u64 | changes u64 | base hash u64 | new hash u64 | lengths of five sections, u64 each
//! chunk table | symbols | gap bits | long steps | dense chunks      (see `sparse` for the middle three)
//! crc32c u32 of all before it
//! ```
//! The hashes are over the state hashes of the chunks. A patch is refused unless its base is the target's state, and unless
//! the state that it makes has the hash that its maker saw. Who keeps the chunks' hashes beside the weights pays for the
//! changes only; otherwise the target is hashed first.

use xxhash_rust::xxh3::xxh3_64;

use super::dense;
use super::hash::{LaneUpdate, state_hash};
use super::sparse::{SparseReader, SparseWriter};
use super::{CHUNK_ELEMENTS, scan};
use crate::{Error, Interrupt, Result};

const MAGIC: [u8; 8] = *b"SPOPAT\x00\x01";
const HEADER_BYTES: usize = 80;
const CRC_BYTES: usize = 4;
/// From this share of changed elements on (1 in so many), other codings than sparse can be smaller.
const DENSE_ONE_IN: usize = 16;

/// Chunks worked on between two looks at the interrupt.
const CHUNKS_A_POLL: usize = 32;

const EMPTY: u8 = 0;
const SPARSE: u8 = 1;
const DENSE: u8 = 2;
const CODING_BITS: u32 = 2;

/// One changed element of a chunk: its place there, and its new bit pattern.
pub(super) type Change = (u32, u16);

/// An encoded patch, and what its maker knows of the new state.
#[derive(Clone, Debug)]
pub struct Patch {
    /// The patch's bytes.
    pub bytes: Vec<u8>,
    /// State hash of each chunk of the new state.
    pub hashes: Vec<u64>,
    /// Number of changed elements.
    pub changes: u64,
}

/// A patch that was read and verified against its base, and can no longer fail.
#[derive(Clone, Debug)]
pub struct StagedPatch {
    chunks: Vec<(usize, StagedChunk)>,
    elements: usize,
    /// State hash of each chunk of the state after the commit.
    pub hashes: Vec<u64>,
    /// Number of changed elements.
    pub changes: u64,
}

#[derive(Clone, Debug)]
enum StagedChunk {
    Changes(Vec<Change>),
    Whole(Vec<u16>),
}

/// The state hash of each chunk of `data`.
pub fn chunk_hashes(data: &[u16], interrupt: Interrupt<'_>) -> Result<Vec<u64>> {
    let hash = |(index, chunk)| {
        poll(index, interrupt)?;
        Ok(state_hash(bytemuck::cast_slice(chunk)))
    };
    data.chunks(CHUNK_ELEMENTS).enumerate().map(hash).collect()
}

/// Encodes what turns `old` into `new`. `base_hashes` are the chunk hashes of `old`, where the caller keeps them.
pub fn encode_patch(old: &[u16], new: &[u16], base_hashes: Option<&[u64]>, interrupt: Interrupt<'_>) -> Result<Patch> {
    if old.len() != new.len() {
        return Err(Error::invalid(format!("old has {} elements and new {}", old.len(), new.len())));
    }
    let base = base_or_computed(old, base_hashes, interrupt)?;
    let mut hashes = base.clone();
    let (mut table, mut dense_bytes, mut sparse) = (Vec::new(), Vec::new(), SparseWriter::default());
    let (mut total, mut changes) = (0u64, Vec::new());
    let pairs = old.chunks(CHUNK_ELEMENTS).zip(new.chunks(CHUNK_ELEMENTS));
    for (index, ((old, new), hash)) in pairs.zip(&mut hashes).enumerate() {
        poll(index, interrupt)?;
        scan::changes(old, new, &mut changes);
        total += changes.len() as u64;
        if changes.is_empty() {
            write_entry(&mut table, EMPTY, 0);
            continue;
        }
        if changes.len() >= old.len().div_ceil(DENSE_ONE_IN) {
            *hash = state_hash(bytemuck::cast_slice(new));
            let body = dense::encode(old, new, &changes)?;
            if body.len() < SparseWriter::estimate_bytes(old, &changes) {
                write_entry(&mut table, DENSE, body.len() as u64);
                dense_bytes.extend_from_slice(&body);
                continue;
            }
        } else {
            *hash = updated_hash(*hash, old, &changes);
        }
        write_entry(&mut table, SPARSE, changes.len() as u64);
        sparse.write(old, &changes);
    }
    let [symbols, gap_bits, long_steps] = sparse.finish()?;
    let sections = [&table, &symbols, &gap_bits, &long_steps, &dense_bytes];
    let mut bytes = Vec::with_capacity(HEADER_BYTES + CRC_BYTES + sections.iter().map(|s| s.len()).sum::<usize>());
    bytes.extend_from_slice(&MAGIC);
    let numbers = [old.len() as u64, total, combined(&base), combined(&hashes)];
    for number in numbers.into_iter().chain(sections.iter().map(|section| section.len() as u64)) {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    sections.iter().for_each(|section| bytes.extend_from_slice(section));
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    Ok(Patch { bytes, hashes, changes: total })
}

/// Reads `patch` and checks all of it against `target`, its base, without changing anything. `base_hashes` are the chunk
/// hashes of `target`, where the caller keeps them.
pub fn stage_patch(
    target: &[u16],
    patch: &[u8],
    base_hashes: Option<&[u64]>,
    interrupt: Interrupt<'_>,
) -> Result<StagedPatch> {
    let parts = Parts::read(patch).map_err(damaged)?;
    if parts.elements != target.len() as u64 {
        let what = format!("the patch is of {} elements, the target has {}", parts.elements, target.len());
        return Err(Error::Weights(what));
    }
    let mut hashes = base_or_computed(target, base_hashes, interrupt)?;
    if combined(&hashes) != parts.base_hash {
        return Err(Error::Weights("the target is not the state that the patch was made from".into()));
    }
    interrupt.check()?;
    let (chunks, changes) = stage_chunks(target, &parts, &mut hashes).map_err(damaged)?;
    if changes != parts.changes || combined(&hashes) != parts.new_hash {
        return Err(Error::Weights("the patch makes another state than the one that it was made for".into()));
    }
    Ok(StagedPatch { chunks, elements: target.len(), hashes, changes })
}

impl StagedPatch {
    /// Writes the changes into the target that the patch was staged for: time in proportion to them.
    pub fn commit(&self, target: &mut [u16]) -> Result<()> {
        if target.len() != self.elements {
            let what = format!("staged for {} elements, committed to {}", self.elements, target.len());
            return Err(Error::invalid(what));
        }
        for (index, staged) in &self.chunks {
            let start = index * CHUNK_ELEMENTS;
            match staged {
                StagedChunk::Whole(new) => target[start..start + new.len()].copy_from_slice(new),
                StagedChunk::Changes(changes) => {
                    let end = target.len().min(start + CHUNK_ELEMENTS);
                    let chunk = &mut target[start..end];
                    changes.iter().for_each(|&(place, new)| chunk[place as usize] = new);
                }
            }
        }
        Ok(())
    }
}

type Staged = (Vec<(usize, StagedChunk)>, u64);

fn stage_chunks(target: &[u16], parts: &Parts<'_>, hashes: &mut [u64]) -> Result<Staged, String> {
    let (mut table, mut dense_bytes) = (parts.table, parts.dense);
    let mut sparse = SparseReader::new(parts.symbols, parts.gap_bits, parts.long_steps, parts.elements)?;
    let (mut chunks, mut total) = (Vec::new(), 0);
    for (index, (old, hash)) in target.chunks(CHUNK_ELEMENTS).zip(hashes).enumerate() {
        match read_entry(&mut table)? {
            (EMPTY, 0) => {}
            (SPARSE, count) => {
                let changes = sparse.read(old, count)?;
                *hash = updated_hash(*hash, old, &changes);
                total += count;
                chunks.push((index, StagedChunk::Changes(changes)));
            }
            (DENSE, length) => {
                let length = usize::try_from(length).map_err(|error| error.to_string())?;
                let new = dense::decode(old, take(&mut dense_bytes, length)?)?;
                *hash = state_hash(bytemuck::cast_slice(&new));
                total += old.iter().zip(&new).filter(|(old, new)| old != new).count() as u64;
                chunks.push((index, StagedChunk::Whole(new)));
            }
            (other, _) => return Err(format!("chunk {index} has unknown coding {other}")),
        }
    }
    sparse.finish()?;
    if !table.is_empty() || !dense_bytes.is_empty() {
        return Err("bytes left over behind the last chunk".into());
    }
    Ok((chunks, total))
}

/// The sections of a patch whose checksum and lengths are right.
struct Parts<'a> {
    elements: u64,
    changes: u64,
    base_hash: u64,
    new_hash: u64,
    table: &'a [u8],
    symbols: &'a [u8],
    gap_bits: &'a [u8],
    long_steps: &'a [u8],
    dense: &'a [u8],
}

impl<'a> Parts<'a> {
    fn read(patch: &'a [u8]) -> Result<Self, String> {
        let (body, crc) = patch.split_last_chunk::<CRC_BYTES>().ok_or("shorter than its checksum")?;
        let (header, mut rest) = body.split_at_checked(HEADER_BYTES).ok_or("shorter than its header")?;
        let (magic, numbers) = header.split_at(MAGIC.len());
        if magic != MAGIC {
            return Err("it does not begin as a patch does".into());
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err("wrong checksum".into());
        }
        let mut numbers = numbers.as_chunks::<8>().0.iter().map(|bytes| u64::from_le_bytes(*bytes));
        let mut number = || numbers.next().ok_or("shorter than its header");
        let (elements, changes, base_hash, new_hash) = (number()?, number()?, number()?, number()?);
        let mut section = || take(&mut rest, usize::try_from(number()?).map_err(|error| error.to_string())?);
        let (table, symbols, gap_bits) = (section()?, section()?, section()?);
        let (long_steps, dense) = (section()?, section()?);
        if !rest.is_empty() {
            return Err("bytes left over behind the last section".into());
        }
        Ok(Parts { elements, changes, base_hash, new_hash, table, symbols, gap_bits, long_steps, dense })
    }
}

fn damaged(what: String) -> Error {
    Error::Weights(format!("damaged patch: {what}"))
}

fn base_or_computed(data: &[u16], hashes: Option<&[u64]>, interrupt: Interrupt<'_>) -> Result<Vec<u64>> {
    match hashes {
        None => chunk_hashes(data, interrupt),
        Some(hashes) if hashes.len() == data.len().div_ceil(CHUNK_ELEMENTS) => Ok(hashes.to_vec()),
        Some(hashes) => Err(Error::invalid(format!(
            "{} chunk hashes for {} elements; need one for every {CHUNK_ELEMENTS}",
            hashes.len(),
            data.len()
        ))),
    }
}

fn combined(hashes: &[u64]) -> u64 {
    xxh3_64(bytemuck::cast_slice(hashes))
}

/// Looks at the interrupt before every so many chunks, a few milliseconds of work.
fn poll(chunk: usize, interrupt: Interrupt<'_>) -> Result<()> {
    if chunk.is_multiple_of(CHUNKS_A_POLL) { interrupt.check() } else { Ok(()) }
}

/// The hash of a chunk after `changes`, from its hash and content before.
fn updated_hash(hash: u64, old: &[u16], changes: &[Change]) -> u64 {
    let mut update = LaneUpdate::new(hash, bytemuck::cast_slice(old));
    changes.iter().for_each(|&(place, new)| update.set(place as usize, new));
    update.finish()
}

pub(super) fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or("it ends early")?;
    *bytes = rest;
    Ok(taken)
}

/// A chunk's coding and its changes (sparse) or bytes (dense), as a variable-length number.
fn write_entry(table: &mut Vec<u8>, coding: u8, amount: u64) {
    let mut number = amount << CODING_BITS | u64::from(coding);
    while number >= 0x80 {
        table.push(number as u8 | 0x80);
        number >>= 7;
    }
    table.push(number as u8);
}

fn read_entry(table: &mut &[u8]) -> Result<(u8, u64), String> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = take(table, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok((number as u8 & ((1 << CODING_BITS) - 1), number >> CODING_BITS));
        }
    }
    Err("a number that is too long".into())
}
