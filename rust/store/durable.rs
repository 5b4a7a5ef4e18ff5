//! What makes appends durable, and what a writer remembers once that has failed.

use std::fs::File;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use super::files::SegmentName;
use crate::error::{Error, Result};

/// Makes a file's content durable; replaced in tests of what happens when that fails.
pub type SyncFn = Arc<dyn Fn(&File) -> std::io::Result<()> + Send + Sync>;

/// A sync that is due.
pub struct Pending {
    /// Segment it is about.
    pub number: u32,
    /// Length that will be durable.
    pub length: u64,
    pub(super) file: Arc<File>,
    pub(super) sync: SyncFn,
}

impl Pending {
    /// Does it.
    pub fn sync(&self, directory: &Path, poison: &Poison) -> Result<()> {
        let path = SegmentName { number: self.number, sealed: false }.path(directory);
        (self.sync)(&self.file).map_err(|error| poison.set(&path, "make durable", error))
    }
}

/// Why the writer refuses to go on, if it does.
#[derive(Default)]
pub struct Poison(Mutex<Option<String>>);

impl Poison {
    /// An error if the writer is poisoned.
    pub fn check(&self) -> Result<()> {
        match &*self.lock() {
            None => Ok(()),
            Some(why) => Err(Error::Store(format!(
                "the store refuses to go on since it failed to {why}; what is on the disk is unknown: reopen the store"
            ))),
        }
    }

    pub(super) fn set(&self, path: &Path, what: &str, error: std::io::Error) -> Error {
        let what = format!("{what} in {}", path.display());
        self.lock().get_or_insert_with(|| format!("{what}: {error}"));
        Error::io(what, error)
    }

    fn lock(&self) -> MutexGuard<'_, Option<String>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
