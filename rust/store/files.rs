//! The store's directory: names of files, their creation (whole or not at all), locks, and directory fsync.
//!
//! ```text
//! store.spo               identity: store id and tokenizer
//! attached-001.spo        where another store is, whose records are listed here too
//! segment-00000001.spo    sealed: never written again
//! segment-00000002.live   live: one writer holds its lock, or nobody does and the next writer adopts it
//! .new-PID-…              a file being created
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirEntryExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::error::{Error, Result};

const IDENTITY: &str = "store.spo";
const NEW_PREFIX: &str = ".new-";
/// Age at which a file left behind by a process killed while creating it is removed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A segment's file, as the directory lists it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentName {
    /// The segment's number, from 1.
    pub number: u32,
    /// Whether it is sealed.
    pub sealed: bool,
}

impl SegmentName {
    /// Where the file is.
    pub fn path(&self, directory: &Path) -> PathBuf {
        let extension = if self.sealed { "spo" } else { "live" };
        directory.join(format!("segment-{:08}.{extension}", self.number))
    }

    fn parse(name: &str) -> Option<Self> {
        let (digits, extension) = name.strip_prefix("segment-")?.split_once('.')?;
        let sealed = match extension {
            "spo" => true,
            "live" => false,
            _ => return None,
        };
        let number = digits.parse().ok().filter(|&number| number > 0)?;
        Some(SegmentName { number, sealed })
    }
}

/// Where the identity file is.
pub fn identity_path(directory: &Path) -> PathBuf {
    directory.join(IDENTITY)
}

/// Where the file is that tells of the attached store in this slot.
pub fn attachment_path(directory: &Path, slot: u32) -> PathBuf {
    directory.join(format!("attached-{slot:03}.spo"))
}

/// What is in a store's directory.
#[derive(Default)]
pub struct Listing {
    /// The segments' files with their inodes, in order; one that is being sealed right now may be listed twice.
    pub segments: Vec<(SegmentName, u64)>,
    /// Slots of attached stores, in order.
    pub attachments: Vec<u32>,
}

/// An error of the system's, with what to do about it where that is known.
fn failure(what: String, error: io::Error) -> Error {
    let remedy = match error.raw_os_error() {
        Some(libc::EACCES | libc::EPERM | libc::EROFS) => {
            "let this user read the store, and write to it unless it is opened with mode \"r\""
        }
        Some(libc::ELOOP) => "a link leads to itself: remove it",
        Some(libc::ENOTDIR | libc::EEXIST) => {
            "a file or broken link is where a directory must be: move it away, or name another"
        }
        Some(libc::EISDIR) => "a directory is where a file must be: move it away",
        _ => return Error::io(what, error),
    };
    Error::io(format!("{what} ({remedy})"), error)
}

/// Lists the directory.
pub fn list(directory: &Path) -> Result<Listing> {
    let failed = |error| failure(format!("list the store {}", directory.display()), error);
    let mut listing = Listing::default();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(segment) = SegmentName::parse(name) {
            listing.segments.push((segment, entry.ino()));
        }
        let slot = name.strip_prefix("attached-").and_then(|rest| rest.strip_suffix(".spo"));
        listing.attachments.extend(slot.and_then(|digits| digits.parse::<u32>().ok()).filter(|&slot| slot > 0));
    }
    listing.segments.sort();
    listing.attachments.sort_unstable();
    Ok(listing)
}

/// The segments in the directory, in order; one that is being sealed right now may be listed twice.
pub fn list_segments(directory: &Path) -> Result<Vec<SegmentName>> {
    Ok(list(directory)?.segments.into_iter().map(|(name, _)| name).collect())
}

/// Opens one of the store's files for reading; another process must not keep it waiting, as the writer's end of a pipe may.
pub fn open_file(path: &Path) -> Result<Option<File>> {
    let failed = |error| failure(format!("read {}", path.display()), error);
    let file = match OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.metadata().map_err(failed)?.is_file() {
        true => Ok(Some(file)),
        false => Err(Error::Store(format!("{} is no file, so none of a store: move it away", path.display()))),
    }
}

/// Removes what processes killed long ago left half-created.
pub fn remove_abandoned(directory: &Path) -> Result<()> {
    let failed = |error| Error::io(format!("clean the store {}", directory.display()), error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        if !entry.file_name().to_string_lossy().starts_with(NEW_PREFIX) {
            continue;
        }
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        let old = modified.is_ok_and(|time| time.elapsed().is_ok_and(|age| age > ABANDONED));
        if old {
            remove_if_there(&entry.path()).map_err(failed)?;
        }
    }
    Ok(())
}

/// Makes the directory (and its parents), durably.
pub fn create_directory(directory: &Path) -> Result<()> {
    let failed = |error| failure(format!("create the store {}", directory.display()), error);
    fs::create_dir_all(directory).map_err(failed)?;
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// Creates `path` with `content`, locked, durable and complete, or not at all; `None` if something is there already.
pub fn create_exclusive(path: &Path, content: &[u8]) -> Result<Option<File>> {
    let failed = |error| failure(format!("create {}", path.display()), error);
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = new_file(directory);
    let create = || {
        let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&temporary)?;
        file.write_all(content)?;
        file.lock()?;
        file.sync_all()?;
        match fs::hard_link(&temporary, path) {
            Ok(()) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    };
    let created = create();
    let removed = remove_if_there(&temporary);
    let created = created.map_err(failed)?;
    removed.map_err(failed)?;
    if created.is_some() {
        sync_directory(directory)?;
    }
    Ok(created)
}

/// Writes `path` anew with `write`: the old content is there until the new one is, complete and durable.
pub fn replace(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let failed = |error| Error::io(format!("replace {}", path.display()), error);
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = new_file(directory);
    let fill = || {
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary).map_err(failed)?;
        let mut out = BufWriter::with_capacity(1 << 20, file);
        write(&mut out)?;
        out.into_inner().map_err(|error| failed(error.into_error()))?.sync_all().map_err(failed)
    };
    fill().inspect_err(|_| {
        // The error that is reported is the one that came first.
        let _ = remove_if_there(&temporary);
    })?;
    fs::rename(&temporary, path).map_err(failed)?;
    sync_directory(directory)
}

/// Makes durable what other writers have appended so far.
pub fn sync_live(directory: &Path) -> Result<()> {
    for name in list_segments(directory)?.into_iter().filter(|name| !name.sealed) {
        let path = name.path(directory);
        match File::open(&path).and_then(|file| file.sync_data()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(format!("make {} durable", path.display()), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Held by the one process that may compact the store.
pub fn lock_for_compaction(directory: &Path) -> Result<File> {
    let path = identity_path(directory);
    let file = File::open(&path).map_err(|error| Error::io(format!("open {}", path.display()), error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Store(format!(
            "{} is being compacted by another process: wait until that is done",
            directory.display()
        ))),
        Err(TryLockError::Error(error)) => Err(Error::io(format!("lock {}", path.display()), error)),
    }
}

fn new_file(directory: &Path) -> PathBuf {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    directory.join(format!("{NEW_PREFIX}{}-{}-{unique}", std::process::id(), now_us()))
}

/// Opens and locks a live segment for writing; `None` if another writer has it or it has just been sealed.
pub fn adopt(path: &Path) -> Result<Option<File>> {
    let failed = |error| failure(format!("open {}", path.display()), error);
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(None),
        Err(TryLockError::Error(error)) => return Err(Error::io(format!("lock {}", path.display()), error)),
    }
    // Its owner may have sealed (renamed) it between the open and the lock.
    let opened = file.metadata().map_err(failed)?;
    match fs::metadata(path) {
        Ok(named) if (named.dev(), named.ino()) == (opened.dev(), opened.ino()) => Ok(Some(file)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Gives a live segment its sealed name, durably. `_locked` is its file: without its lock another could do the same.
pub fn rename_sealed(directory: &Path, number: u32, _locked: &File) -> Result<()> {
    let live = SegmentName { number, sealed: false }.path(directory);
    let sealed = SegmentName { number, sealed: true }.path(directory);
    fs::rename(&live, &sealed)
        .map_err(|error| failure(format!("seal {} as {}", live.display(), sealed.display()), error))?;
    sync_directory(directory)
}

/// Makes creations and renames in the directory durable.
pub fn sync_directory(directory: &Path) -> Result<()> {
    let sync = || File::open(directory)?.sync_all();
    sync().map_err(|error| Error::io(format!("sync the directory {}", directory.display()), error))
}

/// 128 random bits.
pub fn random_id() -> Result<[u8; 16]> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| Error::io("draw a store id", io::Error::other(error)))?;
    Ok(id)
}

/// Microseconds since 1970.
pub fn now_us() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
}

/// Removes a file, which need not be there.
pub fn remove(path: &Path) -> Result<()> {
    remove_if_there(path).map_err(|error| Error::io(format!("remove {}", path.display()), error))
}

/// Whether both are openings of one file.
pub fn is_same(one: &File, other: &File) -> io::Result<bool> {
    let (one, other) = (one.metadata()?, other.metadata()?);
    Ok((one.dev(), one.ino()) == (other.dev(), other.ino()))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
