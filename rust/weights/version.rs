//! One published version in a rank's memory: a private copy of the shards, cut into chunks. Checksums are
//! computed by whoever sends a chunk first, so that publishing costs the trainer a copy and no more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::manifest::{Manifest, ShardInfo, rank_hash};
use super::patch::encode_patch;
use super::wire::{FrameKind, Header};
use super::{WeightShard, state_hash};
use crate::{Error, Interrupt, Result};

/// Bytes copied between two looks at the interrupt.
const COPY_BYTES: usize = 8 << 20;

struct Chunk {
    start: usize,
    length: usize,
    seal: OnceLock<(u32, u64)>,
}

/// Encoded patches by base version and shard.
type Patches = HashMap<(u64, usize), Arc<Vec<u8>>>;

/// A version that can be served.
pub(super) struct Version {
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Vec<u8>,
    chunks: Vec<Chunk>,
    data: Vec<u8>,
    revoked: AtomicBool,
    /// Those made so far.
    patches: Mutex<Patches>,
}

impl Version {
    /// Copies `shards` into `memory` (an old version's, to save its pages, or an empty one).
    pub(super) fn copy(
        mut manifest: Manifest,
        shards: &[WeightShard<'_>],
        mut memory: Vec<u8>,
        interrupt: Interrupt<'_>,
    ) -> Result<Self> {
        manifest.shards = shards.iter().map(ShardInfo::of).collect::<Result<_>>()?;
        let total = shards.iter().map(|shard| shard.data.len()).sum();
        memory.clear();
        memory.try_reserve_exact(total).map_err(|error| {
            Error::Weights(format!("no memory for a copy of version {} ({total} bytes): {error}", manifest.version))
        })?;
        for piece in shards.iter().flat_map(|shard| shard.data.chunks(COPY_BYTES)) {
            interrupt.check()?;
            memory.extend_from_slice(piece);
        }
        let mut start = 0;
        let lengths = manifest.shards.iter().flat_map(ShardInfo::chunk_lengths);
        let chunks = lengths.map(|length| {
            start += length;
            Chunk { start: start - length, length, seal: OnceLock::new() }
        });
        let chunks = chunks.collect();
        let manifest_bytes = manifest.encode();
        Ok(Version {
            manifest,
            manifest_bytes,
            chunks,
            data: memory,
            revoked: AtomicBool::new(false),
            patches: Mutex::default(),
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.manifest.version
    }

    pub(super) fn num_chunks(&self) -> usize {
        self.chunks.len()
    }

    /// The header and the bytes of a chunk.
    pub(super) fn chunk(&self, index: usize) -> (Header, &[u8]) {
        let chunk = &self.chunks[index];
        let bytes = &self.data[chunk.start..chunk.start + chunk.length];
        let (payload_crc, state_hash) = self.seal(index);
        let kind = FrameKind::Chunk;
        (Header { kind, length: bytes.len(), index: index as u64, state_hash, payload_crc }, bytes)
    }

    /// The hash that ends the version's stream.
    pub(super) fn rank_hash(&self) -> u128 {
        rank_hash(&self.manifest_bytes, (0..self.chunks.len()).map(|index| self.seal(index).1))
    }

    /// What turns a shard of `base` into this version's. Made for the first who asks; others wait for it.
    pub(super) fn patch(&self, base: &Version, shard: usize, interrupt: Interrupt<'_>) -> Result<Arc<Vec<u8>>> {
        let mut patches = self.patches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = patches.get(&(base.number(), shard)) {
            return Ok(Arc::clone(known));
        }
        let patch = encode_patch(base.patterns(shard)?, self.patterns(shard)?, None, interrupt)?;
        let patch = Arc::new(patch.bytes);
        patches.insert((base.number(), shard), Arc::clone(&patch));
        Ok(patch)
    }

    /// A shard's memory as 16-bit patterns.
    fn patterns(&self, shard: usize) -> Result<&[u16]> {
        let start = self.manifest.shards[..shard].iter().map(ShardInfo::bytes).sum::<usize>();
        let bytes = &self.data[start..start + self.manifest.shards[shard].bytes()];
        bytemuck::try_cast_slice(bytes).map_err(|error| Error::Weights(error.to_string()))
    }

    fn seal(&self, index: usize) -> (u32, u64) {
        let Chunk { start, length, ref seal } = self.chunks[index];
        let bytes = &self.data[start..start + length];
        *seal.get_or_init(|| (crc32c::crc32c(bytes), state_hash(bytes)))
    }

    /// Tells those who still send this version to stop, so that its memory comes back.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// The version's memory, for the next one.
    pub(super) fn into_memory(self) -> Vec<u8> {
        self.data
    }
}
