//! zstd with a context of each kind kept a thread: they are large, and slow to make.

use std::cell::RefCell;

use crate::error::{Error, Result};

const LEVEL: i32 = 3;

thread_local! {
    static COMPRESSOR: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
}

/// `raw` as one standard zstd frame.
pub fn compress(raw: &[u8]) -> Result<Vec<u8>> {
    COMPRESSOR.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(zstd::bulk::Compressor::new(LEVEL).map_err(zstd_failed)?),
        };
        context.compress(raw).map_err(zstd_failed)
    })
}

/// The content of a zstd frame, of at most `cap` bytes.
pub fn decompress(stored: &[u8], cap: usize) -> std::io::Result<Vec<u8>> {
    DECOMPRESSOR.with_borrow_mut(|slot| {
        let context = match slot {
            Some(context) => context,
            None => slot.insert(zstd::bulk::Decompressor::new()?),
        };
        context.decompress(stored, cap)
    })
}

fn zstd_failed(source: std::io::Error) -> Error {
    Error::io("compress a trajectory", source)
}
