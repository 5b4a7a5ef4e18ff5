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
//! | `append`, `encode` | appending, going on in a new segment, group commit; encoding what is to be appended |
//! | `writer`, `durable` | the live segment; making it durable, poisoning |
//! | `open`, `seal` | opening a store; adopting and sealing what a dead writer left |
//!
//! It does not sample, and does not interpret rewards or sources.

mod append;
mod attach;
mod compact;
pub mod describe;
pub mod durable;
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
mod seal;
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
use crate::trajectory::record::Columns;
use durable::Poison;
use encode::Encoder;
use read::Shared;
use shard::SegmentHeader;
use state::{Located, State};
use writer::Writer;

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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
