//! The store's directory: names of files, their creation (whole or not at all), locks, and directory fsync.
//!
//! ```text
//! store.spo               identity: store id and tokenizer
//! segment-00000001.spo    sealed: never written again
//! segment-00000002.live   live: one writer holds its lock, or nobody does and the next writer adopts it
//! .new-PID-…              a file being created
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
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

/// The segments in the directory, in order; one that is being sealed right now may be listed twice.
pub fn list_segments(directory: &Path) -> Result<Vec<SegmentName>> {
    let failed = |error| Error::io(format!("list the store {}", directory.display()), error);
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        names.extend(name.to_str().and_then(SegmentName::parse));
    }
    names.sort();
    Ok(names)
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
    let failed = |error| Error::io(format!("create the store {}", directory.display()), error);
    fs::create_dir_all(directory).map_err(failed)?;
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        _ => sync_directory(Path::new(".")),
    }
}

/// Creates `path` with `content`, locked, durable and complete, or not at all; `None` if something is there already.
pub fn create_exclusive(path: &Path, content: &[u8]) -> Result<Option<File>> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let failed = |error| Error::io(format!("create {}", path.display()), error);
    let directory = path.parent().unwrap_or(Path::new("."));
    let unique = format!("{NEW_PREFIX}{}-{}-{}", std::process::id(), now_us(), COUNTER.fetch_add(1, Ordering::Relaxed));
    let temporary = directory.join(unique);
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

/// Opens and locks a live segment for writing; `None` if another writer has it or it has just been sealed.
pub fn adopt(path: &Path) -> Result<Option<File>> {
    let failed = |error| Error::io(format!("open {}", path.display()), error);
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

/// Gives a live segment its sealed name, durably.
pub fn rename_sealed(directory: &Path, number: u32) -> Result<()> {
    let live = SegmentName { number, sealed: false }.path(directory);
    let sealed = SegmentName { number, sealed: true }.path(directory);
    fs::rename(&live, sealed).map_err(|error| Error::io(format!("seal {}", live.display()), error))?;
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

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
