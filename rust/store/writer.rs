//! The one live segment that this process appends to. An append is one write, whole or taken back; a commit is one
//! fdatasync shared by all who wait for it. After a failed sync nobody knows what is on the disk, so the writer refuses
//! everything from then on.

use std::collections::HashMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::durable::{Pending, Poison, SyncFn};
use super::files::{self, SegmentName};
use super::id::MAX_SEGMENT_NUMBER;
use super::seal::sealing;
use super::shard::{FRAME_HEADER_BYTES, FrameHeader, Kind, SegmentHeader};
use crate::error::{Error, Result};
use crate::trajectory::record::{Encoded, Places, tables_frame};
use crate::trajectory::tables::Tables;

/// The writer's segment and how far it is written.
pub struct Writer {
    directory: PathBuf,
    store_id: [u8; 16],
    tokenizer: String,
    sync: SyncFn,
    /// The segment's number.
    pub number: u32,
    /// The locked file.
    pub file: Arc<File>,
    /// End of the last append.
    pub length: u64,
    /// Sequence number of the next frame.
    pub sequence: u32,
    last_time_us: u64,
    /// Offsets of the prompts in the segment, by key.
    prompts: HashMap<u128, u32>,
    /// The tables in the segment, and their offset.
    tables: Option<(Arc<Tables>, u32)>,
    /// A new segment to go on in, made by an attempt to seal that failed.
    spare: Option<(u32, Arc<File>, u64)>,
}

/// The frames of one append.
struct Batch {
    start: u64,
    sequence: u32,
    time_us: u64,
    bytes: Vec<u8>,
}

impl Batch {
    /// Adds a frame, whose payload `put` appends.
    fn put(&mut self, kind: Kind, last: bool, put: impl FnOnce(&mut Vec<u8>)) -> WrittenFrame {
        let (at, sequence) = (self.bytes.len(), self.sequence);
        self.bytes.extend_from_slice(&[0; FRAME_HEADER_BYTES]);
        put(&mut self.bytes);
        let (header, payload) = self.bytes[at..].split_at_mut(FRAME_HEADER_BYTES);
        header.copy_from_slice(&FrameHeader::of(kind, last, sequence, self.time_us, payload).bytes());
        let (offset, length) = ((self.start + at as u64) as u32, payload.len() as u32);
        self.sequence += 1;
        WrittenFrame { sequence, offset, length }
    }
}

/// Where an append put its records.
pub struct Written {
    /// Segment that has them.
    pub number: u32,
    /// The frame of each record.
    pub frames: Vec<WrittenFrame>,
    /// When.
    pub time_us: u64,
}

/// A record's frame.
#[derive(Debug, Clone, Copy)]
pub struct WrittenFrame {
    /// Its sequence number.
    pub sequence: u32,
    /// Its offset.
    pub offset: u32,
    /// Bytes of its payload.
    pub length: u32,
}

impl Writer {
    /// A writer of a new segment, numbered behind every segment there is.
    pub fn create(
        directory: &Path,
        store_id: [u8; 16],
        tokenizer: &str,
        last_time_us: u64,
        sync: SyncFn,
    ) -> Result<Self> {
        let (number, file, length) = create_segment(directory, store_id, tokenizer)?;
        let (directory, tokenizer) = (directory.to_owned(), tokenizer.to_owned());
        Ok(Writer {
            directory,
            store_id,
            tokenizer,
            sync,
            number,
            file,
            length,
            sequence: 1,
            last_time_us,
            prompts: HashMap::new(),
            tables: None,
            spare: None,
        })
    }

    /// A writer that goes on behind the last whole append of a segment whose own writer is gone.
    pub fn adopt(
        directory: &Path,
        header: &SegmentHeader,
        file: Arc<File>,
        length: u64,
        sequence: u32,
        last_time_us: u64,
        sync: SyncFn,
    ) -> Result<Self> {
        let (directory, tokenizer) = (directory.to_owned(), header.tokenizer.clone());
        let (store_id, number) = (header.store_id, header.number);
        Ok(Writer {
            directory,
            store_id,
            tokenizer,
            sync,
            number,
            file,
            length,
            sequence,
            last_time_us,
            prompts: HashMap::new(),
            tables: None,
            spare: None,
        })
    }

    /// Writes a frame for each record, and before it one for its prompt if that is worth sharing and new in the segment;
    /// its tables likewise. On an error nothing of it stays; if that cannot be assured, `poison` is told.
    pub fn append(&mut self, records: &[Encoded], poison: &Poison) -> Result<Written> {
        let capacity = records.iter().map(|record| record.num_bytes() + FRAME_HEADER_BYTES).sum();
        let (mut batch, mut frames) = (self.batch(capacity), Vec::with_capacity(records.len()));
        let (mut tables, mut new_prompts) = (self.tables.clone(), HashMap::new());
        for (at, record) in records.iter().enumerate() {
            let mut places = Places::default();
            if let Some(wanted) = &record.tables {
                let known = tables.as_ref().filter(|(known, _)| Arc::ptr_eq(known, wanted)).map(|(_, offset)| *offset);
                let offset = match known {
                    Some(offset) => offset,
                    None => {
                        let frame = tables_frame(wanted)?;
                        batch.put(Kind::Tables, false, |out| out.extend_from_slice(&frame)).offset
                    }
                };
                tables = Some((wanted.clone(), offset));
                places.tables = Some(offset);
            }
            if let Some(prompt) = record.prompt.as_ref().filter(|prompt| prompt.is_shareable()) {
                let known = self.prompts.get(&prompt.key).or_else(|| new_prompts.get(&prompt.key)).copied();
                let mut put = || {
                    let frame = prompt.frame(places.tables);
                    batch.put(Kind::Prompt, false, |out| out.extend_from_slice(&frame)).offset
                };
                let offset = known.unwrap_or_else(&mut put);
                new_prompts.insert(prompt.key, offset);
                places.prompt = Some(offset);
            }
            frames.push(batch.put(Kind::Trajectory, at + 1 == records.len(), |out| record.put(places, out)));
        }
        let time_us = self.write_batch(batch, poison)?;
        self.prompts.extend(new_prompts);
        self.tables = tables;
        Ok(Written { number: self.number, frames, time_us })
    }

    /// Writes a frame of this kind for each payload, of which there is at least one; as [`Self::append`].
    pub fn append_payloads<'a>(
        &mut self,
        kind: Kind,
        payloads: impl ExactSizeIterator<Item = &'a [u8]>,
        poison: &Poison,
    ) -> Result<Written> {
        let (mut batch, count) = (self.batch(0), payloads.len());
        let put = |(at, payload)| batch.put(kind, at + 1 == count, |out| out.extend_from_slice(payload));
        let frames = payloads.enumerate().map(put).collect();
        let time_us = self.write_batch(batch, poison)?;
        Ok(Written { number: self.number, frames, time_us })
    }

    /// What is appended from now on is later than this.
    pub fn let_time_pass(&mut self, time_us: u64) {
        self.last_time_us = self.last_time_us.max(time_us.saturating_add(1));
    }

    fn batch(&self, capacity: usize) -> Batch {
        let time_us = files::now_us().max(self.last_time_us);
        Batch { start: self.length, sequence: self.sequence, time_us, bytes: Vec::with_capacity(capacity) }
    }

    fn write_batch(&mut self, batch: Batch, poison: &Poison) -> Result<u64> {
        self.write(&batch.bytes, poison)?;
        (self.sequence, self.last_time_us) = (batch.sequence, batch.time_us);
        Ok(batch.time_us)
    }

    /// Seals the segment with this footer and goes on in a new one. Everything appended so far is durable then.
    pub fn rotate(&mut self, footer: &[u8], poison: &Poison) -> Result<()> {
        let bytes = sealing(self.length, self.sequence, self.last_time_us, footer);
        // The new segment first: if the disk is full, the old one stays as it is and appends can be tried again.
        let next = match self.spare.take() {
            Some(spare) => spare,
            None => create_segment(&self.directory, self.store_id, &self.tokenizer)?,
        };
        if let Err(error) = self.write(&bytes, poison) {
            self.spare = Some(next);
            return Err(error);
        }
        let (number, file, length) = next;
        self.sync_file(&self.file, poison)?;
        let (sealed, locked) = (self.number, std::mem::replace(&mut self.file, file));
        (self.number, self.length, self.sequence) = (number, length, 1);
        self.prompts.clear();
        self.tables = None;
        files::rename_sealed(&self.directory, sealed, &locked)
    }

    /// How to make everything appended so far durable, without holding the writer.
    pub fn pending(&self) -> Pending {
        Pending { number: self.number, length: self.length, file: self.file.clone(), sync: self.sync.clone() }
    }

    fn sync_file(&self, file: &File, poison: &Poison) -> Result<()> {
        (self.sync)(file).map_err(|error| poison.set(&self.path(), "make durable", error))
    }

    fn write(&mut self, bytes: &[u8], poison: &Poison) -> Result<()> {
        match self.file.write_all_at(bytes, self.length) {
            Ok(()) => {
                self.length += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.file.set_len(self.length).map_err(|undo| poison.set(&self.path(), "take back a write", undo))?;
                Err(Error::io(format!("append to {}", self.path().display()), error))
            }
        }
    }

    fn path(&self) -> PathBuf {
        SegmentName { number: self.number, sealed: false }.path(&self.directory)
    }
}

fn create_segment(directory: &Path, store_id: [u8; 16], tokenizer: &str) -> Result<(u32, Arc<File>, u64)> {
    loop {
        let number = files::list_segments(directory)?.last().map_or(1, |last| last.number + 1);
        if number > MAX_SEGMENT_NUMBER {
            return Err(Error::Store(format!("{} has no segment numbers left; compact it", directory.display())));
        }
        let header = SegmentHeader { store_id, number, tokenizer: tokenizer.to_owned() };
        let start = header.file_start(files::now_us());
        let path = SegmentName { number, sealed: false }.path(directory);
        let Some(file) = files::create_exclusive(&path, &start)? else { continue };
        // The number may have been taken and sealed since the listing: its live name was free again then. Numbers rise,
        // so whatever became of that segment, one sealed under this number or a higher one tells.
        if !files::list_segments(directory)?.iter().any(|name| name.sealed && name.number >= number) {
            return Ok((number, Arc::new(file), start.len() as u64));
        }
        files::remove(&path)?;
    }
}
