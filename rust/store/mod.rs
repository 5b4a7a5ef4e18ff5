//! The trajectory store: the durable, compressed, append-only home of trajectories, shared by any number of writing and
//! reading processes. A directory of segments; each writer has a live segment of its own, so writers never wait for one
//! another.
//!
//! *Visible* and *durable* are two things: when [`Store::append`] returns, every reader can see the records, and the death
//! of this process cannot lose them; when [`Store::commit`] returns, neither can the machine's.
//!
//! | file | job |
//! | --- | --- |
//! | `shard` | the byte layout and nothing else |
//! | `files` | names, creation, locks, directory fsync |
//! | `recovery` | walking frames: torn tails and damage |
//! | `segment`, `index`, `id` | what a reader knows of a segment, of a record; record ids |
//! | `info` | totals |
//! | `writer` | the live segment, group commit, poisoning |
//! | `open` | opening a store, adopting what a dead writer left |
//!
//! It does not sample, and does not interpret rewards or sources.

pub mod files;
pub mod id;
pub mod index;
mod info;
mod open;
pub mod recovery;
pub mod segment;
pub mod shard;
pub mod writer;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

pub use index::Filter;
pub use info::Info;
pub use open::{Mode, Options};
pub use recovery::OnDamage;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::trajectory::Trajectory;
use crate::trajectory::record::{Columns, Encoded};
use id::{record_id, split_id};
use index::{Names, Row};
use segment::{Segment, read_record};
use shard::{MAX_SEGMENT_RECORDS, SegmentHeader};
use writer::{Poison, Writer, Written};

/// Size at which a segment is sealed.
pub const SEGMENT_BYTES: u64 = 256 << 20;
/// Largest size that may be chosen instead.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// Most encoded bytes of one append: with the largest segment, keeps every offset in 32 bits.
pub const MAX_APPEND_BYTES: usize = 1 << 30;

/// A torn tail that was cut off when the store was opened: an append that never completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TornTail {
    /// The segment's file.
    pub path: PathBuf,
    /// Where it was cut.
    pub offset: u64,
    /// How many bytes were dropped.
    pub bytes: u64,
}

/// An open store. All methods may be called from any thread.
pub struct Store {
    directory: PathBuf,
    identity: SegmentHeader,
    on_damage: OnDamage,
    segment_bytes: u64,
    state: RwLock<State>,
    writer: Option<Mutex<Writer>>,
    durable: Mutex<(u32, u64)>,
    poison: Poison,
    torn: Vec<TornTail>,
}

#[derive(Default)]
struct State {
    names: Names,
    segments: BTreeMap<u32, Segment>,
}

impl Store {
    /// Opens the store in `directory`; in [`Mode::Append`] makes it if there is none.
    pub fn open(directory: &Path, options: Options, interrupt: Interrupt<'_>) -> Result<Self> {
        open::open(directory, options, interrupt)
    }

    /// Where the store is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Fingerprint of the tokenizer that all its tokens belong to.
    pub fn tokenizer(&self) -> &str {
        &self.identity.tokenizer
    }

    /// Whether it was opened for appending.
    pub fn writable(&self) -> bool {
        self.writer.is_some()
    }

    /// Torn tails that opening cut off.
    pub fn torn_tails(&self) -> &[TornTail] {
        &self.torn
    }

    /// Appends all the trajectories or, on an error, none. They are visible to every reader when this returns, durable
    /// after the next [`Self::commit`]. Returns their ids.
    pub fn append<T: AsRef<Trajectory>>(&self, trajectories: &[T], interrupt: Interrupt<'_>) -> Result<Vec<u64>> {
        let writer = self.writer()?;
        if trajectories.is_empty() {
            return Ok(Vec::new());
        }
        let records = encode_all(trajectories, interrupt)?;
        let mut writer = lock(writer);
        self.poison.check()?;
        let bytes: usize = records.iter().map(Encoded::num_bytes).sum();
        self.rotate_if_full(&mut writer, bytes as u64, records.len())?;
        let written = writer.append(&records, &self.poison)?;
        self.index_written(&writer, &written, trajectories);
        Ok(written.frames.iter().map(|frame| record_id(written.number, frame.sequence)).collect())
    }

    /// Makes everything appended before the call durable. Calls from several threads share one sync.
    pub fn commit(&self) -> Result<()> {
        let writer = self.writer()?;
        let due = |pending: &writer::Pending, durable: (u32, u64)| (pending.number, pending.length) > durable;
        let asked = lock(writer).pending();
        let mut durable = lock(&self.durable);
        self.poison.check()?;
        if !due(&asked, *durable) {
            return Ok(());
        }
        // Whoever waited for the lock is served by the sync that covers the newest append.
        let pending = lock(writer).pending();
        if due(&pending, *durable) {
            pending.sync(&self.directory, &self.poison)?;
            *durable = (pending.number, pending.length);
        }
        Ok(())
    }

    /// Looks for what other writers have appended since the last look.
    pub fn refresh(&self, interrupt: Interrupt<'_>) -> Result<()> {
        self.load_segments(&mut self.state_mut(), interrupt)
    }

    /// Reads the records, in the order of `ids`; an unknown id is an [`Error::Store`] that names it.
    pub fn read_many(&self, ids: &[u64], columns: Columns, interrupt: Interrupt<'_>) -> Result<Vec<Trajectory>> {
        if ids.iter().any(|&id| self.locate(id).is_none()) {
            self.refresh(interrupt)?;
        }
        let read = |&id: &u64| {
            interrupt.check()?;
            let Some((segment, row)) = self.locate(id) else {
                return Err(Error::Store(format!("{} has no record {id}", self.directory.display())));
            };
            read_record(&segment.0, &segment.1, &row, columns)
        };
        ids.iter().map(read).collect()
    }

    /// Ids of the records that pass the filter, in the order in which they were appended. Reads no record.
    pub fn scan(&self, filter: &Filter, interrupt: Interrupt<'_>) -> Result<Vec<u64>> {
        self.refresh(interrupt)?;
        let state = self.state();
        let Some(filter) = filter.resolve(&state.names) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for (&number, segment) in &state.segments {
            interrupt.check()?;
            let rows = segment.rows.iter().filter(|row| filter.accepts(row));
            found.extend(rows.map(|row| (row.time_us, record_id(number, row.sequence))));
        }
        found.sort_unstable();
        Ok(found.into_iter().map(|(_, id)| id).collect())
    }

    /// How many records the store has.
    pub fn len(&self, interrupt: Interrupt<'_>) -> Result<usize> {
        self.refresh(interrupt)?;
        Ok(self.state().segments.values().map(|segment| segment.rows.len()).sum())
    }

    fn writer(&self) -> Result<&Mutex<Writer>> {
        self.writer.as_ref().ok_or_else(|| {
            let path = self.directory.display();
            Error::Store(format!("{path} is open for reading; open it with mode \"a\" to append"))
        })
    }

    fn rotate_if_full(&self, writer: &mut Writer, bytes: u64, records: usize) -> Result<()> {
        let state = self.state();
        let Some(segment) = state.segments.get(&writer.number) else { return Ok(()) };
        let rows = &segment.rows;
        let full = writer.length + bytes > self.segment_bytes || rows.len() + records > MAX_SEGMENT_RECORDS;
        if rows.is_empty() || !full {
            return Ok(());
        }
        let footer = shard::footer(rows.iter().map(|row| row.to_footer(&state.names)))?;
        drop(state);
        let sealed = writer.number;
        writer.rotate(&footer, &self.poison)?;
        let mut state = self.state_mut();
        self.load_segments(&mut state, Interrupt::never())?;
        state.segments.entry(sealed).and_modify(|segment| segment.sealed = true);
        Ok(())
    }

    fn index_written<T: AsRef<Trajectory>>(&self, writer: &Writer, written: &Written, trajectories: &[T]) {
        let mut state = self.state_mut();
        let State { names, segments } = &mut *state;
        let Some(segment) = segments.get_mut(&written.number) else { return };
        // A refresh by another thread may have found the append already.
        if segment.sequence == writer.sequence {
            return;
        }
        for (frame, trajectory) in written.frames.iter().zip(trajectories) {
            let trajectory = trajectory.as_ref();
            segment.rows.push(Row {
                time_us: written.time_us,
                reward: trajectory.reward,
                sequence: frame.sequence,
                offset: frame.offset,
                length: frame.length,
                source: names.number(&trajectory.source),
                problem: names.number(&trajectory.problem_id),
                prompt: trajectory.prompt_tokens.len() as u32,
                response: trajectory.response_tokens.len() as u32,
            });
        }
        (segment.end, segment.sequence) = (writer.length, writer.sequence);
    }

    fn locate(&self, id: u64) -> Option<((Arc<std::fs::File>, PathBuf), Row)> {
        let (number, sequence) = split_id(id)?;
        let state = self.state();
        let segment = state.segments.get(&number)?;
        let row = *segment.find(sequence)?;
        Some(((segment.file.clone(), segment.path.clone()), row))
    }

    fn load_segments(&self, state: &mut State, interrupt: Interrupt<'_>) -> Result<()> {
        open::load_segments(&self.directory, &self.identity, self.on_damage, state, interrupt)
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn encode_all<T: AsRef<Trajectory>>(trajectories: &[T], interrupt: Interrupt<'_>) -> Result<Vec<Encoded>> {
    let mut records = Vec::with_capacity(trajectories.len());
    let mut bytes = 0;
    for trajectory in trajectories {
        interrupt.check()?;
        trajectory.as_ref().validate()?;
        let record = Encoded::new(trajectory.as_ref())?;
        bytes += record.num_bytes();
        records.push(record);
    }
    if bytes > MAX_APPEND_BYTES || records.len() > MAX_SEGMENT_RECORDS {
        let count = records.len();
        return Err(Error::invalid(format!(
            "{count} trajectories of {bytes} bytes are too many for one append; split them"
        )));
    }
    Ok(records)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
