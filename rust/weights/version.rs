//! One published version in a rank's memory: a private copy of the shards, cut into chunks. Checksums are
//! computed by whoever sends a chunk first, so that publishing costs the trainer a copy and no more.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::manifest::{Manifest, ShardInfo, rank_hash};
use super::memory::prefer_huge_pages;
use super::patch::encode_patch;
use super::wire::{FrameKind, Header};
use super::{WeightShard, state_hash};
use crate::{Error, Interrupt, Result};

/// Bytes copied between two looks at the interrupt.
const COPY_BYTES: usize = 8 << 20;

struct Chunk {
    start: usize,
    length: usize,
    hash: OnceLock<u64>,
}

/// A patch, made by the first who needs it.
type Cell = Arc<Mutex<Option<Arc<Vec<u8>>>>>;

/// A version that can be served.
pub(super) struct Version {
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Vec<u8>,
    chunks: Vec<Chunk>,
    data: Vec<u8>,
    revoked: AtomicBool,
    /// By base version and shard.
    patches: Mutex<HashMap<(u64, usize), Cell>>,
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
        if memory.capacity() < total {
            memory.try_reserve_exact(total).map_err(|error| {
                Error::Weights(format!("no memory for a copy of version {} ({total} bytes): {error}", manifest.version))
            })?;
            prefer_huge_pages(&mut memory);
        }
        for piece in shards.iter().flat_map(|shard| shard.data.chunks(COPY_BYTES)) {
            interrupt.check()?;
            memory.extend_from_slice(piece);
        }
        let mut start = 0;
        let lengths = manifest.shards.iter().flat_map(ShardInfo::chunk_lengths);
        let chunks = lengths.map(|length| {
            start += length;
            Chunk { start: start - length, length, hash: OnceLock::new() }
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
        let (kind, state_hash) = (FrameKind::Chunk, self.hash(index));
        (Header { kind, length: bytes.len(), index: index as u64, state_hash, payload_crc: 0 }, bytes)
    }

    /// The hash that ends the version's stream.
    pub(super) fn rank_hash(&self) -> u128 {
        rank_hash(&self.manifest_bytes, (0..self.chunks.len()).map(|index| self.hash(index)))
    }

    /// What turns a shard of `base` into this version's. Made for the first who asks; others wait for it.
    pub(super) fn patch(&self, base: &Version, shard: usize, interrupt: Interrupt<'_>) -> Result<Arc<Vec<u8>>> {
        let cell = Arc::clone(self.lock_patches().entry((base.number(), shard)).or_default());
        let mut cell = cell.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = &*cell {
            return Ok(Arc::clone(known));
        }
        let patch = encode_patch(base.patterns(shard)?, self.patterns(shard)?, None, interrupt)?;
        Ok(Arc::clone(cell.insert(Arc::new(patch.bytes))))
    }

    /// The patches of all shards that are not empty. None if the shards of `base` are others.
    pub(super) fn patches_from(&self, base: &Version, interrupt: Interrupt<'_>) -> Result<()> {
        if self.manifest.shards == base.manifest.shards {
            for shard in self.filled_shards() {
                self.patch(base, shard, interrupt)?;
            }
        }
        Ok(())
    }

    /// The same, if they were all made already; waits for nobody.
    pub(super) fn made_patches(&self, base: &Version) -> Option<Vec<(usize, Arc<Vec<u8>>)>> {
        if self.manifest.shards != base.manifest.shards {
            return None;
        }
        let patches = self.lock_patches();
        let made = |shard| {
            let cell = patches.get(&(base.number(), shard))?.try_lock().ok()?;
            Some((shard, Arc::clone(cell.as_ref()?)))
        };
        self.filled_shards().map(made).collect()
    }

    /// The shards that hold something.
    pub(super) fn filled_shards(&self) -> impl Iterator<Item = usize> + '_ {
        self.manifest.shards.iter().enumerate().filter(|(_, info)| info.count > 0).map(|(shard, _)| shard)
    }

    /// Bytes of all shards.
    pub(super) fn num_bytes(&self) -> usize {
        self.data.len()
    }

    fn lock_patches(&self) -> MutexGuard<'_, HashMap<(u64, usize), Cell>> {
        self.patches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A shard's memory as 16-bit patterns.
    fn patterns(&self, shard: usize) -> Result<&[u16]> {
        let start = self.manifest.shards[..shard].iter().map(ShardInfo::bytes).sum::<usize>();
        let bytes = &self.data[start..start + self.manifest.shards[shard].bytes()];
        bytemuck::try_cast_slice(bytes).map_err(|error| Error::Weights(error.to_string()))
    }

    fn hash(&self, index: usize) -> u64 {
        let Chunk { start, length, ref hash } = self.chunks[index];
        *hash.get_or_init(|| state_hash(&self.data[start..start + length]))
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
