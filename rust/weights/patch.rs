//! A patch: what changed between two states of a flat bfloat16 shard, as bit patterns; its bytes, making and applying one.
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
use super::hash::{LaneUpdate, exchange, state_hash};
use super::sparse::{Changes, Rice, SparseReader, SparseWriter};
use super::{CHUNK_ELEMENTS, scan};
use crate::{Error, Interrupt, Result};

const MAGIC: [u8; 8] = *b"SPOPAT\x00\x03";
/// Streams of the sparse chunks.
const STREAMS: usize = 6;
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

/// What is known of a target after a patch.
#[derive(Clone, Debug)]
pub struct Applied {
    /// State hash of each chunk.
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
    Changes(Changes),
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
    let (mut total, mut changes, mut rice) = (0u64, Vec::new(), Rice::default());
    let pairs = old.chunks(CHUNK_ELEMENTS).zip(new.chunks(CHUNK_ELEMENTS));
    for (index, ((old, new), hash)) in pairs.zip(&mut hashes).enumerate() {
        poll(index, interrupt)?;
        scan::changes(old, new, &mut changes);
        total += changes.len() as u64;
        if changes.is_empty() {
            write_entry(&mut table, EMPTY, 0);
            continue;
        }
        rice.fit(&changes);
        if changes.len() >= old.len().div_ceil(DENSE_ONE_IN) {
            *hash = state_hash(bytemuck::cast_slice(new));
            let body = dense::encode(old, new, &changes)?;
            if body.len() < SparseWriter::estimate_bytes(old, &changes, &rice) {
                write_entry(&mut table, DENSE, body.len() as u64);
                dense_bytes.extend_from_slice(&body);
                continue;
            }
        } else {
            *hash = updated_hash(*hash, old, changes.iter().copied());
        }
        write_entry(&mut table, SPARSE, changes.len() as u64);
        table.push(rice.parameter as u8);
        sparse.write(old, &changes, &rice);
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

/// Reads `patch` and checks all of it against `target`, its base, without changing anything. `base_hashes` are the chunk
/// hashes of `target`, where the caller keeps them.
pub fn stage_patch(
    target: &[u16],
    patch: &[u8],
    base_hashes: Option<&[u64]>,
    interrupt: Interrupt<'_>,
) -> Result<StagedPatch> {
    let (mut reader, mut hashes) = PatchReader::open(target, patch, base_hashes, interrupt)?;
    let mut chunks = Vec::new();
    for (index, (old, hash)) in target.chunks(CHUNK_ELEMENTS).zip(&mut hashes).enumerate() {
        poll(index, interrupt)?;
        let staged = match reader.next_chunk(old).map_err(damaged)? {
            Next::Same => continue,
            Next::Changes(changes) => {
                *hash = updated_hash(*hash, old, changes.iter());
                StagedChunk::Changes(changes.clone())
            }
            Next::Whole(new) => {
                *hash = state_hash(bytemuck::cast_slice(&new));
                StagedChunk::Whole(new)
            }
        };
        chunks.push((index, staged));
    }
    let changes = reader.finish(&hashes)?;
    Ok(StagedPatch { chunks, elements: target.len(), hashes, changes })
}

/// Turns `target`, the base of `patch`, into what the patch was made for, or leaves it as it was. Quicker than to stage and
/// commit, since the target's scattered memory is gone through once; what it held is put back after an error.
pub fn apply_patch(
    target: &mut [u16],
    patch: &[u8],
    base_hashes: Option<&[u64]>,
    interrupt: Interrupt<'_>,
) -> Result<Applied> {
    let (mut reader, mut hashes) = PatchReader::open(target, patch, base_hashes, interrupt)?;
    let mut undo = Undo::default();
    let apply = || {
        for (index, (chunk, hash)) in target.chunks_mut(CHUNK_ELEMENTS).zip(&mut hashes).enumerate() {
            poll(index, interrupt)?;
            match reader.next_chunk(chunk).map_err(damaged)? {
                Next::Same => {}
                Next::Changes(Changes { places, values }) => {
                    *hash = exchange(*hash, chunk, places, values);
                    undo.values.extend_from_slice(values);
                }
                Next::Whole(mut new) => {
                    *hash = state_hash(bytemuck::cast_slice(&new));
                    new.swap_with_slice(chunk);
                    undo.wholes.push(new);
                }
            }
            undo.chunks += 1;
        }
        reader.finish(&hashes)
    };
    match apply() {
        Ok(changes) => Ok(Applied { hashes, changes }),
        Err(error) => {
            undo.restore(target, patch).map_err(damaged)?;
            Err(error)
        }
    }
}

/// What a target held where a patch has changed it. Where that is, the patch says: it is read again.
#[derive(Default)]
struct Undo {
    /// Chunks gone through.
    chunks: usize,
    values: Vec<u16>,
    wholes: Vec<Vec<u16>>,
}

impl Undo {
    fn restore(self, target: &mut [u16], patch: &[u8]) -> Result<(), String> {
        let (_, _, mut reader) = PatchReader::read(patch)?;
        let (mut values, mut wholes) = (self.values.into_iter(), self.wholes.iter());
        for chunk in target.chunks_mut(CHUNK_ELEMENTS).take(self.chunks) {
            match read_entry(&mut reader.table)? {
                (SPARSE, count) => {
                    let parameter = take(&mut reader.table, 1)?[0];
                    let places = reader.sparse.read_places(chunk.len(), count, parameter.into())?;
                    places.iter().zip(&mut values).for_each(|(&place, value)| chunk[place as usize] = value);
                }
                (DENSE, _) => wholes.next().into_iter().for_each(|whole| chunk.copy_from_slice(whole)),
                _ => {}
            }
        }
        Ok(())
    }
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
                    changes.iter().for_each(|(place, new)| chunk[place as usize] = new);
                }
            }
        }
        Ok(())
    }
}

/// What the next chunk becomes.
enum Next<'a> {
    Same,
    Changes(&'a mut Changes),
    Whole(Vec<u16>),
}

/// Reads the chunks of a patch whose checksum, lengths and base are right, one after the other.
struct PatchReader<'a> {
    table: &'a [u8],
    dense: &'a [u8],
    sparse: SparseReader<'a>,
    num_chunks: usize,
    changes: u64,
    expected_changes: u64,
    new_hash: u64,
}

impl<'a> PatchReader<'a> {
    /// Also returns the chunk hashes of `target`.
    fn open(
        target: &[u16],
        patch: &'a [u8],
        base_hashes: Option<&[u64]>,
        interrupt: Interrupt<'_>,
    ) -> Result<(Self, Vec<u64>)> {
        let (elements, base_hash, reader) = Self::read(patch).map_err(damaged)?;
        if elements != target.len() as u64 {
            let what = format!("the patch is of {elements} elements, the target has {}", target.len());
            return Err(Error::Weights(what));
        }
        let hashes = base_or_computed(target, base_hashes, interrupt)?;
        if combined(&hashes) != base_hash {
            return Err(Error::Weights("the target is not the state that the patch was made from".into()));
        }
        Ok((reader, hashes))
    }

    fn read(patch: &'a [u8]) -> Result<(u64, u64, Self), String> {
        let (body, crc) = patch.split_last_chunk::<CRC_BYTES>().ok_or("shorter than its checksum")?;
        let mut rest = body;
        let magic = take(&mut rest, MAGIC.len())?;
        if magic != MAGIC {
            let [name @ .., version] = MAGIC;
            return Err(match magic.strip_prefix(&name) {
                Some(other) => format!("it is of format {}, this reads format {version}", other[0]),
                None => "it does not begin as a patch does".into(),
            });
        }
        if crc32c::crc32c(body) != u32::from_le_bytes(*crc) {
            return Err("wrong checksum".into());
        }
        let (base_hash, new_hash) = (take_hash(&mut rest)?, take_hash(&mut rest)?);
        let (elements, expected_changes) = (read_number(&mut rest)?, read_number(&mut rest)?);
        let mut lengths = [0; 2 + STREAMS];
        for length in &mut lengths {
            *length = usize::try_from(read_number(&mut rest)?).map_err(|error| error.to_string())?;
        }
        let mut sections = [&[][..]; 2 + STREAMS];
        for (section, length) in sections.iter_mut().zip(lengths) {
            *section = take(&mut rest, length)?;
        }
        if !rest.is_empty() || expected_changes > elements {
            return Err("its numbers do not fit it".into());
        }
        let [table, dense, streams @ ..] = sections;
        let sparse = SparseReader::new(streams, expected_changes)?;
        let reader = PatchReader { table, dense, sparse, num_chunks: 0, changes: 0, expected_changes, new_hash };
        Ok((elements, base_hash, reader))
    }

    /// What the next chunk, now `old`, becomes.
    fn next_chunk(&mut self, old: &[u16]) -> Result<Next<'_>, String> {
        let number = self.num_chunks;
        self.num_chunks += 1;
        match read_entry(&mut self.table)? {
            (EMPTY, 0) => Ok(Next::Same),
            (SPARSE, count) => {
                let parameter = take(&mut self.table, 1)?[0];
                self.changes += count;
                Ok(Next::Changes(self.sparse.read(old, count, parameter.into())?))
            }
            (DENSE, length) => {
                let length = usize::try_from(length).map_err(|error| error.to_string())?;
                let new = dense::decode(old, take(&mut self.dense, length)?)?;
                self.changes += old.iter().zip(&new).filter(|(old, new)| old != new).count() as u64;
                Ok(Next::Whole(new))
            }
            (other, _) => Err(format!("chunk {number} has unknown coding {other}")),
        }
    }

    /// Makes sure that nothing is left, and that the new state is the right one; returns the number of changes.
    fn finish(self, hashes: &[u64]) -> Result<u64> {
        self.sparse.finish().map_err(damaged)?;
        if !self.table.is_empty() || !self.dense.is_empty() {
            return Err(damaged("bytes left over behind the last chunk".into()));
        }
        if self.changes != self.expected_changes || combined(hashes) != self.new_hash {
            return Err(Error::Weights("the patch makes another state than the one that it was made for".into()));
        }
        Ok(self.changes)
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
fn updated_hash(hash: u64, old: &[u16], changes: impl Iterator<Item = Change>) -> u64 {
    let mut update = LaneUpdate::new(hash, bytemuck::cast_slice(old));
    changes.for_each(|(place, new)| update.set(place as usize, new));
    update.finish()
}

pub(super) fn take<'a>(bytes: &mut &'a [u8], length: usize) -> Result<&'a [u8], String> {
    let (taken, rest) = bytes.split_at_checked(length).ok_or("it ends early")?;
    *bytes = rest;
    Ok(taken)
}

fn take_hash(bytes: &mut &[u8]) -> Result<u64, String> {
    let (hash, rest) = bytes.split_first_chunk().ok_or("it ends early")?;
    *bytes = rest;
    Ok(u64::from_le_bytes(*hash))
}

fn write_entry(table: &mut Vec<u8>, coding: u8, amount: u64) {
    write_number(table, amount << CODING_BITS | u64::from(coding));
}

fn read_entry(table: &mut &[u8]) -> Result<(u8, u64), String> {
    let number = read_number(table)?;
    Ok((number as u8 & ((1 << CODING_BITS) - 1), number >> CODING_BITS))
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn read_number(bytes: &mut &[u8]) -> Result<u64, String> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let byte = take(bytes, 1)?[0];
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err("a number that is too long".into())
}
