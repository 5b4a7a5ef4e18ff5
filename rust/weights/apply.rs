//! Applying a patch: its bytes, read chunk by chunk against their base, change it in place, or leave it as it was.

use super::CHUNK_ELEMENTS;
use super::dense;
use super::hash::{exchange, state_hash};
use super::patch::{CODING_BITS, CRC_BYTES, DENSE, EMPTY, MAGIC, SPARSE, STREAMS, base_or_computed, combined, poll};
use super::sparse::{Changes, SparseReader};
use crate::{Error, Interrupt, Result};

/// What is known of a target after a patch.
#[derive(Clone, Debug)]
pub struct Applied {
    /// State hash of each chunk.
    pub hashes: Vec<u64>,
    /// Number of changed elements.
    pub changes: u64,
}

/// Turns `target`, the base of `patch`, into what the patch was made for, or leaves it as it was. `base_hashes` are the chunk
/// hashes of `target`, where the caller keeps them. Its scattered memory is gone through once, and is put back after an error.
pub fn apply_patch(
    target: &mut [u16],
    patch: &[u8],
    base_hashes: Option<&[u64]>,
    interrupt: Interrupt<'_>,
) -> Result<Applied> {
    let (mut reader, mut hashes) = PatchReader::open(target, patch, base_hashes, interrupt)?;
    let mut undo = Undo::default();
    let apply = || {
        let mut chunks = target.chunks_mut(CHUNK_ELEMENTS).zip(&mut hashes).enumerate().peekable();
        let mut ahead = chunks.peek().map(|(_, (chunk, _))| reader.read_ahead(chunk.len()));
        while let (Some((index, (chunk, hash))), Some(entry)) = (chunks.next(), ahead) {
            poll(index, interrupt)?;
            let next = chunks.peek().map(|(_, (next, _))| &**next);
            let entry = entry.map_err(damaged)?;
            // The next entry is read before this chunk is changed, so that what it will need is fetched meanwhile.
            reader.sparse.turn();
            ahead = next.map(|next| reader.read_ahead(next.len()));
            match reader.read_chunk(entry, chunk, next.unwrap_or_default()).map_err(damaged)? {
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
            match reader.read_ahead(chunk.len())? {
                Entry::Sparse => {
                    let places = reader.sparse.places();
                    places.iter().zip(&mut values).for_each(|(&place, value)| chunk[place as usize] = value);
                }
                Entry::Dense(_) => wholes.next().into_iter().for_each(|whole| chunk.copy_from_slice(whole)),
                Entry::Same => {}
            }
        }
        Ok(())
    }
}

/// How a chunk is coded.
#[derive(Clone, Copy)]
enum Entry {
    Same,
    Sparse,
    /// In so many bytes.
    Dense(usize),
}

/// What a chunk becomes.
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

    /// The next entry of the table, for a chunk of so many elements, and if it is sparse, the places of its changes.
    fn read_ahead(&mut self, elements: usize) -> Result<Entry, String> {
        let number = self.num_chunks;
        self.num_chunks += 1;
        let entry = read_number(&mut self.table)?;
        let amount = entry >> CODING_BITS;
        match (entry & ((1 << CODING_BITS) - 1)) as u8 {
            EMPTY if amount == 0 => Ok(Entry::Same),
            SPARSE => {
                let parameter = take(&mut self.table, 1)?[0];
                self.changes += amount;
                self.sparse.read_places(elements, amount, parameter.into())?;
                Ok(Entry::Sparse)
            }
            DENSE => Ok(Entry::Dense(usize::try_from(amount).map_err(|error| error.to_string())?)),
            other => Err(format!("chunk {number} has unknown coding {other}")),
        }
    }

    /// What a chunk, now `old`, becomes by its entry. `next` is the one whose entry was read after that.
    fn read_chunk(&mut self, entry: Entry, old: &[u16], next: &[u16]) -> Result<Next<'_>, String> {
        match entry {
            Entry::Same => Ok(Next::Same),
            Entry::Sparse => Ok(Next::Changes(self.sparse.read_values(old, next)?)),
            Entry::Dense(length) => {
                let new = dense::decode(old, take(&mut self.dense, length)?)?;
                self.changes += old.iter().zip(&new).filter(|(old, new)| old != new).count() as u64;
                Ok(Next::Whole(new))
            }
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
