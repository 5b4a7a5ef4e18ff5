//! zstd with contexts that are kept: they are large, and slow to make.

use std::io;
use std::sync::{Mutex, MutexGuard};

use crate::error::{Error, Result};

use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{CParameter, ParamSwitch};

/// For streams of this size higher levels gain one byte in a hundred.
const LEVEL: i32 = 1;
/// So fast that hardly a repetition is looked for.
const WITHOUT_REPETITIONS: i32 = -50;

static COMPRESSORS: Mutex<Vec<Compressor<'static>>> = Mutex::new(Vec::new());
static ENTROPY_CODERS: Mutex<Vec<Compressor<'static>>> = Mutex::new(Vec::new());
static DECOMPRESSORS: Mutex<Vec<Decompressor<'static>>> = Mutex::new(Vec::new());

/// `raw` as one standard zstd frame.
pub fn compress(raw: &[u8]) -> Result<Vec<u8>> {
    compress_with(&COMPRESSORS, || Compressor::new(LEVEL), raw)
}

/// The same for bytes that do not repeat one another but are not equally frequent: smaller and faster there.
pub fn entropy_code(raw: &[u8]) -> Result<Vec<u8>> {
    let make = || {
        let mut context = Compressor::new(WITHOUT_REPETITIONS)?;
        context.set_parameter(CParameter::LiteralCompressionMode(ParamSwitch::Enable))?;
        Ok(context)
    };
    compress_with(&ENTROPY_CODERS, make, raw)
}

fn compress_with(
    contexts: &Mutex<Vec<Compressor<'static>>>,
    make: impl FnOnce() -> io::Result<Compressor<'static>>,
    raw: &[u8],
) -> Result<Vec<u8>> {
    let failed = |source| Error::io("compress a trajectory", source);
    let known = lock(contexts).pop();
    let mut context = known.map_or_else(make, Ok).map_err(failed)?;
    let compressed = context.compress(raw).map_err(failed);
    lock(contexts).push(context);
    compressed
}

/// The content of a zstd frame, of at most `cap` bytes.
pub fn decompress(stored: &[u8], cap: usize) -> io::Result<Vec<u8>> {
    let known = lock(&DECOMPRESSORS).pop();
    let mut context = known.map_or_else(Decompressor::new, Ok)?;
    let content = context.decompress(stored, cap);
    lock(&DECOMPRESSORS).push(context);
    content
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}
