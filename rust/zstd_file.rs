//! Zstandard files as streams of bytes, for exports and imports: reading takes any number of frames, writing makes one.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Result};

const LEVEL: i32 = 3;
/// Most bytes that one read returns.
pub const MAX_READ_BYTES: usize = 1 << 24;

/// A compressed file being read from its beginning.
pub struct ZstdReader {
    path: PathBuf,
    stream: Mutex<zstd::Decoder<'static, BufReader<File>>>,
}

impl ZstdReader {
    /// Opens the file.
    pub fn open(path: &Path) -> Result<Self> {
        let open = || zstd::Decoder::new(File::open(path)?);
        let stream = open().map_err(|error| Error::io(format!("open {}", path.display()), error))?;
        Ok(ZstdReader { path: path.to_owned(), stream: Mutex::new(stream) })
    }

    /// The next bytes, at most `limit`; none at the end.
    pub fn read(&self, limit: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let mut stream = lock(&self.stream);
        (&mut *stream)
            .take(limit.min(MAX_READ_BYTES) as u64)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("decompress {}", self.path.display()), error))?;
        Ok(bytes)
    }
}

/// A compressed file being written.
pub struct ZstdWriter {
    path: PathBuf,
    stream: Mutex<Option<zstd::Encoder<'static, File>>>,
}

impl ZstdWriter {
    /// Creates the file; it is an error if there is something already.
    pub fn create(path: &Path) -> Result<Self> {
        let create = || zstd::Encoder::new(OpenOptions::new().write(true).create_new(true).open(path)?, LEVEL);
        let stream = create().map_err(|error| Error::io(format!("create {}", path.display()), error))?;
        Ok(ZstdWriter { path: path.to_owned(), stream: Mutex::new(Some(stream)) })
    }

    /// Appends bytes.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        match &mut *lock(&self.stream) {
            Some(stream) => stream.write_all(bytes).map_err(|error| self.failed(error)),
            None => Err(Error::invalid("the file is finished")),
        }
    }

    /// Ends the frame; without it the file is cut. Doing it again does nothing.
    pub fn finish(&self) -> Result<()> {
        match lock(&self.stream).take() {
            Some(stream) => stream.finish().map(drop).map_err(|error| self.failed(error)),
            None => Ok(()),
        }
    }

    fn failed(&self, error: std::io::Error) -> Error {
        Error::io(format!("write {}", self.path.display()), error)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
