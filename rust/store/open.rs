//! Opening a store: its identity, its segments, and for a writer the segment it appends to: a live one whose own writer is
//! gone, after cutting off the append that it may have left unfinished, or a new one.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, RwLock};
use std::time::Instant;

use super::attach::Source;
use super::durable::{Poison, SyncFn};
use super::encode::Encoder;
use super::files::{self, SegmentName};
use super::id::MAX_ATTACHED_NUMBER;
use super::index::Names;
use super::read::Shared;
use super::recovery::{OnDamage, read_start};
use super::seal::{adopt, cut_torn_tail, finish_seal, newest_time_in, seal};
use super::segment::Segment;
use super::shard::{FILE_VERSION, SegmentHeader};
use super::state::State;
use super::writer::Writer;
use super::{MAX_SEGMENT_BYTES, SEGMENT_BYTES, Store, TornTail};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::trajectory::columns::Precision;

/// What the caller wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Read what is there, and what others append.
    Read,
    /// Append, and read.
    Append,
}

/// How to open a store.
#[derive(Clone)]
pub struct Options {
    /// Read or append.
    pub mode: Mode,
    /// Fingerprint of the tokenizer; needed to make a store, checked when given.
    pub tokenizer: Option<String>,
    /// Size at which a segment is sealed.
    pub segment_bytes: u64,
    /// Whether damage is refused or skipped; a writer always refuses.
    pub on_damage: OnDamage,
    /// How exactly logprobs are kept of what is appended.
    pub precision: Precision,
    /// What makes a file durable.
    pub sync: SyncFn,
}

impl Options {
    /// The usual options.
    pub fn new(mode: Mode, tokenizer: Option<&str>) -> Self {
        Options {
            mode,
            tokenizer: tokenizer.map(str::to_owned),
            segment_bytes: SEGMENT_BYTES,
            on_damage: OnDamage::Refuse,
            precision: Precision::Single,
            sync: Arc::new(File::sync_data),
        }
    }
}

pub(super) fn open(directory: &Path, options: Options, interrupt: Interrupt<'_>) -> Result<Store> {
    if directory.as_os_str().is_empty() {
        return Err(Error::invalid("path of the store is empty: name a directory"));
    }
    let append = options.mode == Mode::Append;
    if append && options.on_damage == OnDamage::Skip {
        return Err(Error::invalid("damage can only be skipped with mode \"r\""));
    }
    if !(1..=MAX_SEGMENT_BYTES).contains(&options.segment_bytes) {
        return Err(Error::invalid(format!("segment_bytes must be from 1 to {MAX_SEGMENT_BYTES}")));
    }
    let found = if append { make_identity(directory, &options) } else { read_identity(directory) };
    let identity_skipped = found.is_err();
    let identity = found.or_else(|error| salvage_identity(directory, options.on_damage, error))?;
    if let Some(tokenizer) = options.tokenizer.as_ref().filter(|tokenizer| **tokenizer != identity.tokenizer) {
        let (path, theirs) = (directory.display(), &identity.tokenizer);
        return Err(Error::Store(format!(
            "{path} holds tokens of the tokenizer {theirs:?}, not of {tokenizer:?}; use a store of its own for each tokenizer"
        )));
    }
    let mut state = State::new(directory, &identity);
    state.refresh(options.on_damage, interrupt)?;
    let mut torn = Vec::new();
    let writer = match append {
        true => Some(Mutex::new(open_writer(directory, &identity, &options, &mut state, &mut torn, interrupt)?)),
        false => None,
    };
    Ok(Store {
        directory: directory.to_owned(),
        identity,
        identity_skipped,
        on_damage: options.on_damage,
        segment_bytes: options.segment_bytes,
        encoder: Encoder::new(options.precision),
        shared: Shared::default(),
        state: RwLock::new(state),
        writer,
        durable: Mutex::new((0, 0)),
        refreshed: Mutex::new(Instant::now()),
        poison: Poison::default(),
        torn,
    })
}

impl Source {
    /// Files of its segments, each once, with their inodes.
    pub fn list(&self) -> Result<Vec<(SegmentName, u64)>> {
        let mut listed = files::list(&self.directory)?.segments;
        // A sealed name wins over a live one, which then is about to go, or a writer's attempt at a number already taken.
        listed.reverse();
        listed.dedup_by_key(|(name, _)| name.number);
        listed.reverse();
        match listed.last() {
            Some((name, _)) if self.base > 0 && name.number > MAX_ATTACHED_NUMBER => Err(Error::Store(format!(
                "{} has more than {MAX_ATTACHED_NUMBER} segments, too many for an attached store: merge it into another",
                self.directory.display()
            ))),
            _ => Ok(listed),
        }
    }

    /// Opens one of its segments; `None` if it is gone. Returns the names that its rows have numbers of as well.
    pub fn open(&self, number: u32, on_damage: OnDamage, interrupt: Interrupt<'_>) -> Result<Option<(Segment, Names)>> {
        let expected = SegmentHeader { number, ..self.identity.clone() };
        // Sealed or not is asked now: it may have been sealed since the listing.
        let Some((file, name)) = open_segment_file(&self.directory, number)? else { return Ok(None) };
        let (path, mut names) = (name.path(&self.directory), Names::default());
        let place = (self.base, &expected);
        let segment = Segment::open((file, path), name.sealed, place, on_damage, &mut names, interrupt)?;
        Ok(Some((segment, names)))
    }
}

fn open_segment_file(directory: &Path, number: u32) -> Result<Option<(File, SegmentName)>> {
    // Sealing renames live to sealed: live, then sealed, cannot miss it. But a sealed name wins over a live one, which
    // then is a writer's attempt at a number already taken.
    for sealed in [true, false, true] {
        let name = SegmentName { number, sealed };
        let path = name.path(directory);
        if let Some(file) = files::open_file(&path)? {
            return Ok(Some((file, name)));
        }
    }
    Ok(None)
}

/// Reads what says that the directory is a store, and which.
pub fn read_identity(directory: &Path) -> Result<SegmentHeader> {
    let path = files::identity_path(directory);
    if let Some(file) = files::open_file(&path)? {
        return Ok(read_start(&file, &path)?.header);
    }
    check_no_segments(directory)?;
    let nothing = io::Error::from_raw_os_error(libc::ENOENT);
    Err(Error::io(format!("open the trajectory store {}", directory.display()), nothing))
}

/// Segments without what says whose they are: it was lost, and must not be made anew.
fn check_no_segments(directory: &Path) -> Result<()> {
    match files::list_segments(directory) {
        Ok(segments) if !segments.is_empty() => {
            let what = "it is missing, but segments are beside it: put it back".to_owned();
            Err(Error::Corrupt { path: files::identity_path(directory), offset: 0, what })
        }
        _ => Ok(()),
    }
}

/// The same from any whole segment, where damage is to be skipped.
fn salvage_identity(directory: &Path, on_damage: OnDamage, error: Error) -> Result<SegmentHeader> {
    if on_damage == OnDamage::Refuse || !matches!(error, Error::Corrupt { .. }) {
        return Err(error);
    }
    let header = |name: SegmentName| {
        let path = name.path(directory);
        read_start(&files::open_file(&path).ok()??, &path).ok().map(|start| start.header)
    };
    let found = files::list_segments(directory)?.into_iter().find_map(header);
    found.map(|header| SegmentHeader { number: 0, ..header }).ok_or(error)
}

fn make_identity(directory: &Path, options: &Options) -> Result<SegmentHeader> {
    let path = files::identity_path(directory);
    if path.exists() {
        return read_identity(directory);
    }
    check_no_segments(directory)?;
    let Some(tokenizer) = options.tokenizer.clone().filter(|tokenizer| !tokenizer.is_empty()) else {
        let path = directory.display();
        return Err(Error::invalid(format!("tokenizer must be given (a fingerprint) to make the store {path}")));
    };
    files::create_directory(directory)?;
    let identity = SegmentHeader { store_id: files::random_id()?, number: 0, tokenizer };
    match files::create_exclusive(&path, &identity.file_start(files::now_us()))? {
        Some(_) => Ok(identity),
        None => read_identity(directory),
    }
}

fn open_writer(
    directory: &Path,
    identity: &SegmentHeader,
    options: &Options,
    state: &mut State,
    torn: &mut Vec<TornTail>,
    interrupt: Interrupt<'_>,
) -> Result<Writer> {
    files::remove_abandoned(directory)?;
    let unsealed: Vec<u32> =
        files::list_segments(directory)?.into_iter().filter_map(|name| (!name.sealed).then_some(name.number)).collect();
    for number in unsealed {
        let Some(file) = adopt(directory, number, state, interrupt)? else { continue };
        let State { names, segments, .. } = &mut *state;
        let Some(segment) = segments.get_mut(&number) else { continue };
        if segment.sealed {
            finish_seal(directory, number, &file, segment)?;
            continue;
        }
        torn.extend(cut_torn_tail(&file, segment)?);
        if segment.version != FILE_VERSION {
            seal(directory, number, &file, segment, names)?;
            continue;
        }
        let header = SegmentHeader { number, ..identity.clone() };
        let last_time_us = newest_time_us(state);
        let (segment, file, sync) = (&state.segments[&number], Arc::new(file), options.sync.clone());
        return Writer::adopt(directory, &header, file, segment.end, segment.sequence, last_time_us, sync);
    }
    let last_time_us = newest_time_us(state);
    let (store_id, sync) = (identity.store_id, options.sync.clone());
    let writer = Writer::create(directory, store_id, &identity.tokenizer, last_time_us, sync)?;
    state.refresh(options.on_damage, interrupt)?;
    Ok(writer)
}

/// Time of the newest frame: later ones must not seem older, though the clock be set back.
fn newest_time_us(state: &State) -> u64 {
    state.segments.values().filter_map(newest_time_in).max().unwrap_or(0)
}
