//! Reading records, their shared prompts and their late columns from segments' files. Every frame is checked.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use xxhash_rust::xxh3::xxh3_128;

use super::id::{record_id, split_id};
use super::index::LateRow;
use super::recovery::unreadable;
use super::rows::Row;
use super::shard::{FRAME_HEADER_BYTES, FrameHeader, Kind, read_targeted};
use crate::error::{Error, Result};
use crate::trajectory::bytes::Damage;
use crate::trajectory::record::{Columns, Decoded, Present, Record};
use crate::trajectory::tables::Tables;
use crate::trajectory::{Late, Trajectory};

/// A segment's open file, shared with reads that are going on.
pub struct SegmentFile {
    /// The file.
    pub file: File,
    /// Where it was when it was opened.
    pub path: PathBuf,
    /// What the numbers of its store's segments are counted from.
    pub base: u32,
    /// Tells files apart in [`Shared`].
    key: u64,
}

/// What many records refer to and was read lately: prompts, and the tables by which they are coded.
#[derive(Default)]
pub struct Shared {
    prompts: Mutex<Prompts>,
    tables: Mutex<TablesRead>,
}

#[derive(Default)]
struct Prompts {
    /// By the file's key and the offset there.
    tokens: HashMap<(u64, u32), Arc<[i32]>>,
    num_tokens: usize,
}

#[derive(Default)]
struct TablesRead {
    /// By the file's key and the offset there: there are very few in a file.
    places: HashMap<(u64, u32), Arc<Tables>>,
    /// The different ones, by a hash of their bytes: a writer puts the same into each of its segments.
    different: HashMap<u128, Weak<Tables>>,
}

impl Shared {
    fn prompt(&self, file: u64, offset: u32) -> Option<Arc<[i32]>> {
        lock(&self.prompts).tokens.get(&(file, offset)).cloned()
    }

    fn keep_prompt(&self, file: u64, offset: u32, tokens: &Arc<[i32]>) {
        let mut cache = lock(&self.prompts);
        if cache.num_tokens + tokens.len() > MAX_CACHED_TOKENS {
            *cache = Prompts::default();
        }
        if cache.tokens.insert((file, offset), tokens.clone()).is_none() {
            cache.num_tokens += tokens.len();
        }
    }

    fn tables(&self, file: u64, offset: u32) -> Option<Arc<Tables>> {
        lock(&self.tables).places.get(&(file, offset)).cloned()
    }

    fn keep_tables(&self, file: u64, offset: u32, bytes: &[u8], tables: Tables) -> Arc<Tables> {
        let hash = xxh3_128(bytes);
        let mut cache = lock(&self.tables);
        if cache.places.len() >= MAX_CACHED_TABLES {
            *cache = TablesRead::default();
        }
        let same = cache.different.get(&hash).and_then(Weak::upgrade);
        let tables = same.unwrap_or_else(|| Arc::new(tables));
        cache.different.insert(hash, Arc::downgrade(&tables));
        cache.places.insert((file, offset), tables.clone());
        tables
    }
}

/// Tokens of prompts that are kept: 16 MiB of them.
const MAX_CACHED_TOKENS: usize = 4 << 20;
/// Places of tables that are kept. Different ones take up to 90 KiB each.
const MAX_CACHED_TABLES: usize = 1 << 10;

/// A checked frame.
struct IndexedFrame<'a> {
    header: FrameHeader,
    payload: &'a [u8],
}

impl SegmentFile {
    /// The open file.
    pub fn new(file: File, path: PathBuf, base: u32) -> Self {
        static KEYS: AtomicU64 = AtomicU64::new(0);
        SegmentFile { file, path, base, key: KEYS.fetch_add(1, Ordering::Relaxed) }
    }

    /// Reads one record by its row, as it was appended.
    pub fn record(&self, row: &Row, columns: Columns, shared: &Shared) -> Result<Trajectory> {
        let offset = u64::from(row.offset);
        let bytes = self.read_indexed(row)?;
        let frame = self.checked(offset, &bytes)?;
        let damaged = |damage: Damage| self.damaged(offset, damage);
        let record = Record::parse(self.content(row, &frame)?).map_err(damaged)?;
        let tables = self.tables(&record, offset, shared)?;
        let Decoded { mut trajectory, prompt_at } = record.decode(columns, tables.as_deref()).map_err(damaged)?;
        if let Some((at, count)) = prompt_at {
            trajectory.prompt_tokens = self.prompt(at, count, shared)?.to_vec();
        }
        Ok(trajectory)
    }

    /// Reads the tokens of records whose frames follow one another, at once; `out` has what each one's prompt and response
    /// take, in turn.
    pub fn tokens_of(&self, rows: &[&Row], shared: &Shared, mut out: &mut [i32]) -> Result<()> {
        let (Some(first), Some(last)) = (rows.first(), rows.last()) else { return Ok(()) };
        let mut bytes = vec![0; (last.offset - first.offset) as usize + last.frame_bytes()];
        self.read_exact(&mut bytes, u64::from(first.offset))?;
        for row in rows {
            let at = (row.offset - first.offset) as usize;
            let (tokens, rest) = out.split_at_mut(row.num_tokens());
            self.tokens_in(row, &bytes[at..at + row.frame_bytes()], shared, tokens)?;
            out = rest;
        }
        Ok(())
    }

    fn tokens_in(&self, row: &Row, bytes: &[u8], shared: &Shared, out: &mut [i32]) -> Result<()> {
        let offset = u64::from(row.offset);
        let frame = self.checked(offset, bytes)?;
        let damaged = |damage: Damage| self.damaged(offset, damage);
        let record = Record::parse(self.content(row, &frame)?).map_err(damaged)?;
        let tables = self.tables(&record, offset, shared)?;
        let (prompt, response) = out.split_at_mut(row.prompt as usize);
        match record.places().map_err(damaged)?.prompt {
            Some(at) => prompt.copy_from_slice(&self.prompt(at, prompt.len(), shared)?),
            None => record.prompt(tables.as_deref(), prompt).map_err(damaged)?,
        }
        record.response(tables.as_deref(), response).map_err(damaged)
    }

    /// Which columns the record has in itself, by reading it.
    pub fn present(&self, row: &Row) -> Result<Present> {
        let offset = u64::from(row.offset);
        let bytes = self.read_indexed(row)?;
        let frame = self.checked(offset, &bytes)?;
        let record = Record::parse(self.content(row, &frame)?);
        Ok(record.map_err(|damage| self.damaged(offset, damage))?.present())
    }

    /// Reads those late columns that are wanted, of a record with `response` response tokens.
    pub fn late(&self, row: &LateRow, response: u32, wanted: Present) -> Result<Late> {
        let offset = u64::from(row.offset);
        let bytes = self.read_frame(offset, row.length)?;
        let frame = self.checked(offset, &bytes)?;
        if frame.header.kind != Kind::Late || frame.header.sequence != row.sequence {
            return Err(self.misplaced(offset));
        }
        let damaged = |damage: Damage| self.damaged(offset, damage);
        let (target, content) = read_targeted(frame.payload).map_err(damaged)?;
        if target != row.target {
            return Err(self.misplaced(offset));
        }
        Record::parse(content).and_then(|record| record.late(response as usize, wanted)).map_err(damaged)
    }

    /// The header and payload of the frame at `offset`.
    pub fn frame(&self, offset: u64) -> Result<(FrameHeader, Vec<u8>)> {
        let mut start = [0; FRAME_HEADER_BYTES];
        self.read_exact(&mut start, offset)?;
        let header = FrameHeader::read(&start).map_err(|damage| self.corrupt(offset, damage.what))?;
        let mut payload = vec![0; header.length as usize];
        self.read_exact(&mut payload, offset + FRAME_HEADER_BYTES as u64)?;
        self.check(offset, &header, &payload)?;
        Ok((header, payload))
    }

    /// Fills `bytes` from the file.
    pub fn read_exact(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.corrupt(offset, "the file ends within the frame".to_owned()),
            _ => unreadable(&self.path, error),
        })
    }

    /// Bytes of the file, now.
    pub fn length(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|error| unreadable(&self.path, error))?.len())
    }

    /// [`Error::Corrupt`], at an offset of the file.
    pub fn corrupt(&self, offset: u64, what: String) -> Error {
        Error::Corrupt { path: self.path.clone(), offset, what }
    }

    fn prompt(&self, at: u32, count: usize, shared: &Shared) -> Result<Arc<[i32]>> {
        if let Some(tokens) = shared.prompt(self.key, at).filter(|tokens| tokens.len() == count) {
            return Ok(tokens);
        }
        let offset = u64::from(at);
        let (header, payload) = self.frame(offset)?;
        if header.kind != Kind::Prompt {
            return Err(self.corrupt(offset, "a record refers to this frame as its prompt".to_owned()));
        }
        let damaged = |damage: Damage| self.damaged(offset, damage);
        let record = Record::parse(&payload).map_err(damaged)?;
        let tables = self.tables(&record, offset, shared)?;
        let mut tokens = vec![0; count];
        record.prompt(tables.as_deref(), &mut tokens).map_err(damaged)?;
        let tokens: Arc<[i32]> = tokens.into();
        shared.keep_prompt(self.key, at, &tokens);
        Ok(tokens)
    }

    /// The tables by which the record at `offset` is coded, if it is.
    fn tables(&self, record: &Record<'_>, offset: u64, shared: &Shared) -> Result<Option<Arc<Tables>>> {
        let Some(at) = record.places().map_err(|damage| self.damaged(offset, damage))?.tables else { return Ok(None) };
        if let Some(tables) = shared.tables(self.key, at) {
            return Ok(Some(tables));
        }
        let (header, payload) = self.frame(u64::from(at))?;
        if header.kind != Kind::Tables {
            return Err(self.corrupt(u64::from(at), "a record refers to this frame as its tables".to_owned()));
        }
        let tables = Record::parse(&payload).and_then(|record| record.tables());
        let tables = tables.map_err(|damage| self.damaged(u64::from(at), damage))?;
        Ok(Some(shared.keep_tables(self.key, at, &payload, tables)))
    }

    /// The encoded record in the frame that the index has for it.
    fn content<'a>(&self, row: &Row, frame: &IndexedFrame<'a>) -> Result<&'a [u8]> {
        let offset = u64::from(row.offset);
        let (id, content) = match frame.header.kind {
            Kind::Moved => {
                let (id, content) = read_targeted(frame.payload).map_err(|damage| self.damaged(offset, damage))?;
                (self.id_here(id), content)
            }
            Kind::Trajectory => {
                let number = split_id(row.id).map_or(0, |(number, _)| number);
                (Some(record_id(number, frame.header.sequence)), frame.payload)
            }
            _ => (None, frame.payload),
        };
        if id == Some(row.id) { Ok(content) } else { Err(self.misplaced(offset)) }
    }

    /// The id of a record whose id in the file's own store this is; `None` if there can be none.
    pub fn id_here(&self, id: u64) -> Option<u64> {
        split_id(id).map(|(number, sequence)| record_id(self.base + number, sequence))
    }

    fn read_indexed(&self, row: &Row) -> Result<Vec<u8>> {
        self.read_frame(u64::from(row.offset), row.length)
    }

    /// The frame at `offset` whose payload has this length according to the index, in one read.
    fn read_frame(&self, offset: u64, length: u32) -> Result<Vec<u8>> {
        let mut bytes = vec![0; FRAME_HEADER_BYTES + length as usize];
        self.read_exact(&mut bytes, offset)?;
        Ok(bytes)
    }

    /// The frame that was read from `offset`.
    fn checked<'a>(&self, offset: u64, bytes: &'a [u8]) -> Result<IndexedFrame<'a>> {
        let Some((start, payload)) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(self.misplaced(offset));
        };
        let header = FrameHeader::read(start).map_err(|damage| self.corrupt(offset, damage.what))?;
        self.check(offset, &header, payload)?;
        Ok(IndexedFrame { header, payload })
    }

    fn check(&self, offset: u64, header: &FrameHeader, payload: &[u8]) -> Result<()> {
        match header.matches(payload) {
            true => Ok(()),
            false => Err(self.corrupt(offset, "the payload does not match its checksum".to_owned())),
        }
    }

    fn misplaced(&self, offset: u64) -> Error {
        self.corrupt(offset, "the frame is not what the index says".to_owned())
    }

    fn damaged(&self, offset: u64, damage: Damage) -> Error {
        self.corrupt(offset + (FRAME_HEADER_BYTES + damage.offset) as u64, damage.what)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
