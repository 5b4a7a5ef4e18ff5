//! A patch: what changed between two states of a flat bfloat16 shard, as bit patterns; its bytes, and making one. `apply`
//! reads it.
//!
//! Chunks of [`CHUNK_ELEMENTS`] elements are coded one by one as the smallest of nothing, sparse, bitmap, xor and raw. What
//! compresses only in quantity (sparse changes, of which a chunk has a few hundred) is gathered over all chunks.
//!
//! ```text
//! magic 8 | base hash u64 | new hash u64 | elements | changes | lengths of eight sections
//! chunk table | dense chunks | six streams of the sparse chunks      (see `sparse`)
//! crc32c u32 of all before it
//! ```
//! The hashes are over the state hashes of the chunks; numbers without a type are LEB128. The table has a number for each
//! chunk: its coding and its changes (sparse; then a byte, the Rice parameter) or bytes (dense). A patch is refused unless
//! its base is the target's state, and unless the state that it makes has the hash that its maker saw. Who keeps the chunks'
//! hashes beside the weights pays for the changes only; otherwise the target is hashed first.

use xxhash_rust::xxh3::xxh3_64;

use super::dense;
use super::hash::state_hash;
use super::sparse::{Rice, SparseWriter};
use super::{CHUNK_ELEMENTS, scan};
use crate::{Error, Interrupt, Result};

pub(super) const MAGIC: [u8; 8] = *b"SPOPAT\x00\x03";
/// Streams of the sparse chunks.
pub(super) const STREAMS: usize = 6;
pub(super) const CRC_BYTES: usize = 4;
/// From this share of changed elements on (1 in so many), other codings than sparse can be smaller.
const DENSE_ONE_IN: usize = 16;

/// Chunks worked on between two looks at the interrupt.
const CHUNKS_A_POLL: usize = 32;

pub(super) const EMPTY: u8 = 0;
pub(super) const SPARSE: u8 = 1;
pub(super) const DENSE: u8 = 2;
pub(super) const CODING_BITS: u32 = 2;

/// One changed element of a chunk.
#[derive(Clone, Copy)]
pub(super) struct Change {
    /// Its place in the chunk.
    pub(super) place: u32,
    /// Its bit pattern before.
    pub(super) old: u16,
    /// Its bit pattern now.
    pub(super) new: u16,
}

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
    let (mut total, mut changes, mut rice) = (0u64, Vec::new(), Rice::default());
    let pairs = old.chunks(CHUNK_ELEMENTS).zip(new.chunks(CHUNK_ELEMENTS));
    for (index, ((old, new), hash)) in pairs.zip(&mut hashes).enumerate() {
        poll(index, interrupt)?;
        *hash = hash.wrapping_add(scan::changes(old, new, &mut changes));
        total += changes.len() as u64;
        if changes.is_empty() {
            write_entry(&mut table, EMPTY, 0);
            continue;
        }
        rice.fit(&changes);
        if changes.len() >= old.len().div_ceil(DENSE_ONE_IN) {
            let body = dense::encode(old, new, &changes)?;
            if body.len() < SparseWriter::estimate_bytes(&changes, &rice) {
                write_entry(&mut table, DENSE, body.len() as u64);
                dense_bytes.extend_from_slice(&body);
                continue;
            }
        }
        write_entry(&mut table, SPARSE, changes.len() as u64);
        table.push(rice.parameter as u8);
        sparse.write(&changes, &rice);
    }
    let [quotients, remainders, scales, bits, highs, longs] = sparse.finish()?;
    let sections = [&table, &dense_bytes, &quotients, &remainders, &scales, &bits, &highs, &longs];
    let mut bytes = MAGIC.to_vec();
    for hash in [combined(&base), combined(&hashes)] {
        bytes.extend_from_slice(&hash.to_le_bytes());
    }
    for number in [old.len() as u64, total].into_iter().chain(sections.iter().map(|section| section.len() as u64)) {
        write_number(&mut bytes, number);
    }
    sections.iter().for_each(|section| bytes.extend_from_slice(section));
    bytes.extend_from_slice(&crc32c::crc32c(&bytes).to_le_bytes());
    Ok(Patch { bytes, hashes, changes: total })
}

pub(super) fn base_or_computed(data: &[u16], hashes: Option<&[u64]>, interrupt: Interrupt<'_>) -> Result<Vec<u64>> {
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

pub(super) fn combined(hashes: &[u64]) -> u64 {
    xxh3_64(bytemuck::cast_slice(hashes))
}

/// Looks at the interrupt before every so many chunks, a few milliseconds of work.
pub(super) fn poll(chunk: usize, interrupt: Interrupt<'_>) -> Result<()> {
    if chunk.is_multiple_of(CHUNKS_A_POLL) { interrupt.check() } else { Ok(()) }
}

fn write_entry(table: &mut Vec<u8>, coding: u8, amount: u64) {
    write_number(table, amount << CODING_BITS | u64::from(coding));
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
