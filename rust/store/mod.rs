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
//! | `segment`, `rows`, `index`, `id`, `state` | what a reader knows of a segment, of its records; record ids; all together |
//! | `footer`, `read` | the index of a sealed segment; reading records |
//! | `late` | what was said of records later: columns, deletions |
//! | `attach` | other stores that are listed too |
//! | `compact`, `rewrite` | giving space back, merging small segments |
//! | `info` | totals |
//! | `encode` | encoding what is to be appended |
//! | `writer` | the live segment, group commit, poisoning |
//! | `open` | opening a store, adopting what a dead writer left |
//!
//! It does not sample, and does not interpret rewards or sources.

mod attach;
mod compact;
pub mod describe;
mod encode;
pub mod files;
mod footer;
pub mod id;
pub mod index;
mod info;
mod late;
mod open;
mod read;
pub mod recovery;
mod rewrite;
mod rows;
mod segment;
pub mod shard;
mod state;
pub mod writer;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

pub use compact::Compaction;
pub use index::Filter;
pub use info::Info;
pub use open::{Mode, Options};
pub use recovery::OnDamage;

use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::parallel;
use crate::trajectory::Trajectory;
use crate::trajectory::record::{Columns, Encoded, Present};
use encode::Encoder;
use id::record_id;
use index::Names;
use read::Shared;
use rows::Row;
use segment::Segment;
use shard::{MAX_SEGMENT_RECORDS, SegmentHeader};
use state::{Located, State};
use writer::{Poison, Writer, Written};

/// Size at which a segment is sealed.
pub const SEGMENT_BYTES: u64 = 256 << 20;
/// Largest size that may be chosen instead.
pub const MAX_SEGMENT_BYTES: u64 = 1 << 30;
/// Most encoded bytes of one append: with the largest segment, keeps every offset in 32 bits.
pub const MAX_APPEND_BYTES: usize = 1 << 30;

/// Records whose tokens a thread reads at a time.
const READ_BLOCK: usize = 16;
/// How old a reader's view may be when it reads records that it knows: others' late columns are seen after so long.
const READ_FRESHNESS: Duration = Duration::from_millis(250);

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
    /// Whether the file that says so is damaged.
    identity_skipped: bool,
    on_damage: OnDamage,
    segment_bytes: u64,
    encoder: Encoder,
    shared: Shared,
    state: RwLock<State>,
    writer: Option<Mutex<Writer>>,
    durable: Mutex<(u32, u64)>,
    refreshed: Mutex<Instant>,
    poison: Poison,
    torn: Vec<TornTail>,
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
    pub fn append<T: AsRef<Trajectory> + Sync>(
        &self,
        trajectories: &[T],
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<u64>> {
        let writer = self.writer()?;
        if trajectories.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.encoder.encode(trajectories, interrupt)?;
        let mut writer = lock(writer);
        self.poison.check()?;
        let bytes: usize = records.iter().map(Encoded::num_bytes).sum();
        self.rotate_if_full(&mut writer, bytes as u64, records.len(), 0)?;
        let written = writer.append(&records, &self.poison)?;
        self.index_written(&writer, written.number, |segment, names| {
            index_records(segment, names, &written, trajectories)
        });
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
        let now = Instant::now();
        self.state_mut().refresh(self.on_damage, interrupt)?;
        *lock(&self.refreshed) = now;
        Ok(())
    }

    /// Reads one record, late columns included; an unknown id is an [`Error::Store`] that names it.
    pub fn read(&self, id: u64, interrupt: Interrupt<'_>) -> Result<Trajectory> {
        self.refresh_if_older(READ_FRESHNESS, interrupt)?;
        let located = self.state().locate(id, Columns::ALL);
        match located {
            Some(record) => record.read(&self.shared),
            None => self.locate(&[id], Columns::ALL, interrupt)?[0].read(&self.shared),
        }
    }

    /// Reads the records, in the order of `ids`, late columns included; an unknown id is an [`Error::Store`] that names it.
    pub fn read_many(&self, ids: &[u64], columns: Columns, interrupt: Interrupt<'_>) -> Result<Vec<Trajectory>> {
        parallel::map(&self.locate(ids, columns, interrupt)?, interrupt, |record| record.read(&self.shared))
    }

    /// Reads the tokens of the records, one after another: each one's prompt, then its response. Returns them, and where
    /// each record's tokens begin, with the end of the last one's.
    pub fn read_tokens(&self, ids: &[u64], interrupt: Interrupt<'_>) -> Result<(Vec<i32>, Vec<u64>)> {
        let located = self.locate(ids, Columns::SCALARS, interrupt)?;
        let mut begins = vec![0];
        begins.extend(located.iter().scan(0, |end, record| {
            *end += record.num_tokens() as u64;
            Some(*end)
        }));
        let mut tokens = vec![0; located.iter().map(Located::num_tokens).sum()];
        let (mut blocks, mut rest) = (Vec::new(), &mut tokens[..]);
        for block in located.chunks(READ_BLOCK) {
            let (part, others) = rest.split_at_mut(block.iter().map(Located::num_tokens).sum());
            blocks.push((block, Mutex::new(part)));
            rest = others;
        }
        let read = |(block, part): &(&[Located], Mutex<&mut [i32]>)| {
            Located::read_tokens(block, &self.shared, &mut lock(part))
        };
        parallel::map_large(&blocks, interrupt, read)?;
        drop(blocks);
        Ok((tokens, begins))
    }

    /// Ids of the records that pass the filter, in the order in which they were appended. Reads no record, but where
    /// the filter asks for columns and the segments are of the format's first version.
    pub fn scan(&self, filter: &Filter, interrupt: Interrupt<'_>) -> Result<Vec<u64>> {
        self.refresh(interrupt)?;
        self.state().scan(filter, interrupt)
    }

    /// How many records the store has.
    pub fn len(&self, interrupt: Interrupt<'_>) -> Result<usize> {
        self.refresh(interrupt)?;
        Ok(self.state().len())
    }

    fn writer(&self) -> Result<&Mutex<Writer>> {
        self.writer.as_ref().ok_or_else(|| {
            let path = self.directory.display();
            Error::Store(format!("{path} is open for reading; open it with mode \"a\" to append"))
        })
    }

    fn rotate_if_full(&self, writer: &mut Writer, bytes: u64, records: usize, late: usize) -> Result<()> {
        let state = self.state();
        let Some(segment) = state.segments.get(&writer.number) else { return Ok(()) };
        let full = writer.length + bytes > self.segment_bytes
            || segment.rows.len() + records > MAX_SEGMENT_RECORDS
            || segment.late.len() + late > MAX_SEGMENT_RECORDS;
        if !full {
            return Ok(());
        }
        drop(state);
        self.rotate(writer)
    }

    /// Seals the writer's segment, if there is anything in it, and goes on in a new one.
    fn rotate(&self, writer: &mut Writer) -> Result<()> {
        let state = self.state();
        let Some(segment) = state.segments.get(&writer.number).filter(|segment| !segment.is_empty()) else {
            return Ok(());
        };
        let footer = footer::footer(segment.version, writer.number, &segment.rows, &segment.late, &state.names)?;
        drop(state);
        let sealed = writer.number;
        writer.rotate(&footer, &self.poison)?;
        let mut state = self.state_mut();
        state.refresh(self.on_damage, Interrupt::never())?;
        state.segments.entry(sealed).and_modify(|segment| segment.sealed = true);
        Ok(())
    }

    /// Lets `index` put what was just written into the segment's rows.
    fn index_written(&self, writer: &Writer, number: u32, index: impl FnOnce(&mut Segment, &mut Names)) {
        let mut state = self.state_mut();
        let State { names, segments, late, sources, .. } = &mut *state;
        let Some(segment) = segments.get_mut(&number) else { return };
        // A refresh by another thread may have found the append already.
        if segment.sequence == writer.sequence {
            return;
        }
        index(segment, names);
        late.add(number, segment, &sources[0]);
        (segment.end, segment.sequence) = (writer.length, writer.sequence);
    }

    fn locate(&self, ids: &[u64], columns: Columns, interrupt: Interrupt<'_>) -> Result<Vec<Located>> {
        self.refresh_if_older(READ_FRESHNESS, interrupt)?;
        self.locate_known(ids, columns).or_else(|_| {
            self.refresh(interrupt)?;
            self.locate_known(ids, columns)
        })
    }

    fn locate_known(&self, ids: &[u64], columns: Columns) -> Result<Vec<Located>> {
        let state = self.state();
        ids.iter().map(|&id| state.locate(id, columns).ok_or_else(|| self.unknown(id))).collect()
    }

    fn unknown(&self, id: u64) -> Error {
        Error::Store(format!("{} has no record {id}", self.directory.display()))
    }

    fn refresh_if_older(&self, age: Duration, interrupt: Interrupt<'_>) -> Result<()> {
        let due = lock(&self.refreshed).elapsed() > age;
        if due { self.refresh(interrupt) } else { Ok(()) }
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

fn index_records<T: AsRef<Trajectory>>(
    segment: &mut Segment,
    names: &mut Names,
    written: &Written,
    trajectories: &[T],
) {
    for (frame, trajectory) in written.frames.iter().zip(trajectories) {
        let trajectory = trajectory.as_ref();
        segment.rows.push(Row {
            id: record_id(written.number, frame.sequence),
            time_us: written.time_us,
            reward: trajectory.reward,
            offset: frame.offset,
            length: frame.length,
            source: names.number(&trajectory.source),
            problem: names.number(&trajectory.problem_id),
            prompt: trajectory.prompt_tokens.len() as u32,
            response: trajectory.response_tokens.len() as u32,
            present: Some(Present::of(trajectory)),
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
