//! Other stores whose records this one lists without copying them. Each has a slot, for good: the slot is part of the ids
//! that its records have here. What an attached store has attached itself is attached along with it.
//!
//! Nothing is ever written into an attached store.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use super::Store;
use super::files;
use super::id::{MAX_ATTACHED, attached_base, record_id, split_attached, split_id};
use super::open::read_identity;
use super::recovery::{OnDamage, Walk, read_start};
use super::shard::{Attachment, Kind, SegmentHeader};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// A store whose segments are listed: the opened one, or an attached one.
pub struct Source {
    /// Where it is.
    pub directory: PathBuf,
    /// Its identity.
    pub identity: SegmentHeader,
    /// What its segments' numbers are counted from.
    pub base: u32,
    /// Slots of this store's attachments, as its own ids have them, and what they are counted from here.
    foreign: HashMap<u32, u32>,
}

impl Source {
    /// The store that was opened.
    pub fn own(directory: &Path, identity: &SegmentHeader) -> Self {
        Source { directory: directory.to_owned(), identity: identity.clone(), base: 0, foreign: HashMap::new() }
    }

    /// The id that a record has here, from the one that it has in this store; `None` if it is not listed here.
    pub fn id_here(&self, id: u64) -> Option<u64> {
        if self.base == 0 {
            return Some(id);
        }
        let (number, sequence) = split_id(id)?;
        let number = match split_attached(number) {
            None => self.base + number,
            Some((slot, number)) => self.foreign.get(&slot)? + number,
        };
        Some(record_id(number, sequence))
    }
}

/// What a directory says of an attached store.
pub struct Attached {
    slot: u32,
    content: Attachment,
}

/// Looks for attachments that are new, of the store itself or of attached ones; tells whether there are.
pub fn refresh(sources: &mut Vec<Source>, counts: &mut Vec<usize>) -> Result<bool> {
    let mut changed = false;
    for at in 0.. {
        let Some(source) = sources.get(at) else { break };
        let slots = files::list(&source.directory).map_err(|error| missing(source, error))?.attachments;
        counts.resize(sources.len(), 0);
        if counts[at] == slots.len() {
            continue;
        }
        let count = slots.len();
        if at == 0 {
            let known: Vec<u32> = sources.iter().map(|source| source.base).collect();
            for slot in slots.into_iter().filter(|&slot| !known.contains(&attached_base(slot))) {
                let attached = read(&sources[0].directory, slot)?;
                sources.push(open(&sources[0], attached)?);
            }
        }
        (changed, counts[at]) = (true, count);
    }
    if changed {
        let bases: HashMap<[u8; 16], u32> =
            sources.iter().map(|source| (source.identity.store_id, source.base)).collect();
        for source in sources.iter_mut().skip(1) {
            let theirs = list(&source.directory)?.into_iter();
            source.foreign =
                theirs.filter_map(|attached| Some((attached.slot, *bases.get(&attached.content.store_id)?))).collect();
        }
    }
    Ok(changed)
}

impl Store {
    /// Lists the segments of the store in `path` here too, and those that it has attached, from now on and for every
    /// opener; durable when this returns. A store that is attached already stays as it is.
    pub fn attach(&self, path: &Path, interrupt: Interrupt<'_>) -> Result<()> {
        self.writer()?;
        let failed = |error| Error::io(format!("attach the store {}", path.display()), error);
        let path = std::fs::canonicalize(path).map_err(failed)?;
        let identity = read_identity(&path)?;
        self.check_attachable(&path, &identity)?;
        // What it has attached first: its annotations may be about those records.
        for attached in list(&path)? {
            self.attach_one(&locate(&path, &attached)?, &attached.content.store_id)?;
        }
        self.attach_one(&path, &identity.store_id)?;
        self.refresh(interrupt)
    }

    fn check_attachable(&self, path: &Path, identity: &SegmentHeader) -> Result<()> {
        let attached = list(path)?;
        let (path, here) = (path.display(), self.directory.display());
        if identity.tokenizer != self.identity.tokenizer {
            let (theirs, ours) = (&identity.tokenizer, &self.identity.tokenizer);
            return Err(Error::Store(format!(
                "{path} holds tokens of the tokenizer {theirs:?}, {here} of {ours:?}; only stores of one tokenizer can be attached"
            )));
        }
        if identity.store_id == self.identity.store_id {
            return Err(Error::Store(format!(
                "{path} is the store {here} itself or a copy of it: it cannot be attached to it"
            )));
        }
        if attached.iter().any(|theirs| theirs.content.store_id == self.identity.store_id) {
            return Err(Error::Store(format!(
                "{path} has {here} attached, so it cannot be attached to it: merge them instead"
            )));
        }
        Ok(())
    }

    fn attach_one(&self, path: &Path, store_id: &[u8; 16]) -> Result<()> {
        let known = list(&self.directory)?;
        if known.iter().any(|attached| attached.content.store_id == *store_id) {
            return Ok(());
        }
        let here = std::fs::canonicalize(&self.directory)
            .map_err(|error| Error::io(format!("attach to the store {}", self.directory.display()), error))?;
        let text = |path: &Path| {
            let text = path.to_str().map(str::to_owned);
            text.ok_or_else(|| Error::Store(format!("{} is no UTF-8 path, so it cannot be attached", path.display())))
        };
        let content = Attachment { store_id: *store_id, path: text(path)?, relative: text(&relative(&here, path))? };
        for slot in known.last().map_or(1, |attached| attached.slot + 1)..=MAX_ATTACHED {
            let start = content.file(&SegmentHeader { number: slot, ..self.identity.clone() }, files::now_us());
            if files::create_exclusive(&files::attachment_path(&self.directory, slot), &start)?.is_some() {
                return Ok(());
            }
        }
        Err(Error::Store(format!(
            "{} has {MAX_ATTACHED} stores attached, which is the limit: merge some",
            self.directory.display()
        )))
    }
}

/// What is attached to the store in the directory.
fn list(directory: &Path) -> Result<Vec<Attached>> {
    let slots = files::list(directory)?.attachments;
    slots.into_iter().map(|slot| read(directory, slot)).collect()
}

fn read(directory: &Path, slot: u32) -> Result<Attached> {
    let path = files::attachment_path(directory, slot);
    let gone = || super::recovery::unreadable(&path, std::io::Error::from_raw_os_error(libc::ENOENT));
    let file = files::open_file(&path)?.ok_or_else(gone)?;
    let start = read_start(&file, &path)?;
    let corrupt = |what: String| Error::Corrupt { path: path.clone(), offset: start.end, what };
    let mut walk = Walk::new(&file, &path, start.end, 1, OnDamage::Refuse)?;
    match walk.next(Interrupt::never())? {
        Some(frame) if frame.header.kind == Kind::Attachment && start.header.number == slot => {
            let content = Attachment::read(&frame.payload).map_err(|damage| corrupt(damage.what))?;
            Ok(Attached { slot, content })
        }
        _ => Err(corrupt("the file says of no attached store".to_owned())),
    }
}

fn open(own: &Source, attached: Attached) -> Result<Source> {
    let directory = locate(&own.directory, &attached)?;
    let identity = read_identity(&directory)?;
    Ok(Source { directory, identity, base: attached_base(attached.slot), foreign: HashMap::new() })
}

/// Where an attached store is now: beside the store as it was, or where it was.
fn locate(directory: &Path, attached: &Attached) -> Result<PathBuf> {
    let Attachment { store_id, path, relative } = &attached.content;
    let is_there = |place: &Path| read_identity(place).is_ok_and(|identity| identity.store_id == *store_id);
    let places = [directory.join(relative), PathBuf::from(path)];
    places.into_iter().find(|place| is_there(place)).ok_or_else(|| {
        let file = files::attachment_path(directory, attached.slot);
        Error::Store(format!(
            "the store attached to {} is no longer in {path}: move it back, or remove {} to go on without its records",
            directory.display(),
            file.display()
        ))
    })
}

fn missing(source: &Source, error: Error) -> Error {
    match source.base {
        0 => error,
        _ => Error::Store(format!("the attached store {} cannot be read: {error}", source.directory.display())),
    }
}

/// `path` as seen from the directory `from`; both are canonical.
fn relative(from: &Path, path: &Path) -> PathBuf {
    let common = from.components().zip(path.components()).take_while(|(one, other)| one == other).count();
    let up = from.components().skip(common).map(|_| "..");
    up.map(PathBuf::from).chain(path.components().skip(common).map(|part| PathBuf::from(part.as_os_str()))).collect()
}
