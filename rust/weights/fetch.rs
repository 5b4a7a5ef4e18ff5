//! One rank's part of a fetch: connect, read the manifest, fill the memory it is given chunk by chunk, and pick up after a
//! cut where the last good chunk ended. A chunk counts only once its state hash is right. With a
//! base, patches to it are tried first.

use super::apply::apply_patch;
use super::exchange::{Attempt, Begun, Failure, Fetch};
use super::link::Link;
use super::manifest::{Manifest, rank_hash};
use super::wire::{FrameKind, Request};
use super::{CHUNK_ELEMENTS, DType, state_hash};
use crate::{Error, Interrupt};

/// One rank, its connection (if it lasts) and its manifest.
pub(super) struct RankFetch<'a> {
    fetch: &'a Fetch<'a>,
    address: &'a str,
    link: Option<Link<'a>>,
    pub(super) manifest: Manifest,
    manifest_bytes: Vec<u8>,
    /// Steps whose patches follow; `None` if chunks do.
    steps: Option<u64>,
}

/// What has been received of patches.
#[derive(Default)]
struct Progress {
    patches: u64,
    /// The hashes of each shard's chunks, those of a patch, after its last one.
    hashes: Vec<Vec<u64>>,
}

impl<'a> RankFetch<'a> {
    /// Connects to `address` and asks for the version: for patches to the base if there is one, else from its
    /// first chunk on.
    pub(super) fn open(fetch: &'a Fetch<'a>, address: &'a str) -> Result<Self, Failure> {
        let version = fetch.version;
        let request = match fetch.base {
            Some(base) => Request::FetchPatches { version, base: base.version, first_patch: 0 },
            None => Request::Fetch { version, first_chunk: 0 },
        };
        fetch.retry(address, || {
            let Begun { link, manifest, manifest_bytes, steps } = fetch.begin(address, request)?;
            Ok(RankFetch { fetch, address, link: Some(link), manifest, manifest_bytes, steps })
        })
    }

    /// Fills `shards`, the memory of the manifest's shards in order.
    pub(super) fn receive(mut self, mut shards: Vec<&mut [u8]>) -> Result<Self, Failure> {
        if let Some(steps) = self.steps {
            let mut progress = Progress { patches: 0, hashes: vec![Vec::new(); shards.len()] };
            match self.fetch.retry(self.address, || self.receive_patches(steps, &mut shards, &mut progress)) {
                Ok(()) => return Ok(self),
                Err(Failure::Stopped) => return Err(Failure::Stopped),
                Err(_) => self.link = None, // whatever it was, the whole version makes up for it
            }
        }
        let sizes = self.manifest.shards.iter().map(|shard| shard.dtype.size());
        let chunks = shards.into_iter().zip(sizes).flat_map(|(shard, size)| shard.chunks_mut(CHUNK_ELEMENTS * size));
        let mut chunks: Vec<&mut [u8]> = chunks.collect();
        let mut hashes = Vec::with_capacity(chunks.len());
        self.fetch.retry(self.address, || self.receive_on(&mut chunks, &mut hashes))?;
        Ok(self)
    }

    /// Makes sure that the publisher is still the one that sent this part. Asked of every rank once all parts
    /// are in: a trainer restarts all its ranks or none, so equal instances mean that all parts are of one
    /// version.
    pub(super) fn confirm(mut self) -> Result<(), Failure> {
        self.fetch.retry(self.address, || self.confirm_once())
    }

    fn receive_on(&mut self, chunks: &mut [&mut [u8]], hashes: &mut Vec<u64>) -> Result<(), Attempt> {
        let fetch = self.fetch;
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                let request = Request::Fetch { version: fetch.version, first_chunk: hashes.len() as u64 };
                let Begun { link, manifest, .. } = fetch.begin(self.address, request)?;
                self.check_same(manifest.instance)?;
                link
            }
        };
        while let Some(chunk) = chunks.get_mut(hashes.len()) {
            let header = fetch.read_header(&mut link, FrameKind::Chunk)?;
            if header.index != hashes.len() as u64 || header.length != chunk.len() {
                let what = format!("chunk {} of {} bytes", header.index, header.length);
                return Err(Attempt::Damaged(format!("{what} instead of chunk {}", hashes.len())));
            }
            link.read_exact(chunk, "a chunk", fetch.frame_deadline())?;
            let hash = state_hash(chunk); // of what is in memory now
            if hash != header.state_hash {
                return Err(Attempt::Damaged(format!("chunk {} with a wrong state hash", header.index)));
            }
            hashes.push(hash);
        }
        let mut theirs = [0; 16];
        fetch.read_fixed(&mut link, FrameKind::End, &mut theirs)?;
        if u128::from_le_bytes(theirs) != rank_hash(&self.manifest_bytes, hashes.iter().copied()) {
            hashes.clear();
            return Err(Attempt::Damaged("a version with a wrong state hash".into()));
        }
        self.link = Some(link);
        Ok(())
    }

    /// Makes the shards what the patches make of the base, and goes on after the last good patch.
    fn receive_patches(
        &mut self,
        steps: u64,
        shards: &mut [&mut [u8]],
        progress: &mut Progress,
    ) -> Result<(), Attempt> {
        let (fetch, mut link) = match (self.fetch, self.link.take()) {
            (fetch, Some(link)) => (fetch, link),
            (fetch, None) => (fetch, self.resume_patches(steps, progress.patches)?),
        };
        let filled: Vec<usize> = (0..shards.len()).filter(|&shard| !shards[shard].is_empty()).collect();
        while progress.patches < steps.saturating_mul(filled.len() as u64) {
            let shard = filled[progress.patches as usize % filled.len()];
            let (info, memory) = (&self.manifest.shards[shard], &mut *shards[shard]);
            if progress.patches < filled.len() as u64 {
                let base = fetch.base.and_then(|base| base.part(info));
                memory.copy_from_slice(base.ok_or_else(|| Error::Weights(format!("the base has no {:?}", info.name)))?);
            }
            let patch = fetch.read_patch(&mut link, progress.patches, memory.len())?;
            let known = Some(&progress.hashes[shard][..]).filter(|hashes| !hashes.is_empty());
            progress.hashes[shard] = patch_shard(&patch, memory, known)?;
            progress.patches += 1;
        }
        let hashes =
            filled.iter().flat_map(|&shard| self.version_hashes(shard, shards[shard], &progress.hashes[shard]));
        let ours = rank_hash(&self.manifest_bytes, hashes);
        let mut theirs = [0; 16];
        fetch.read_fixed(&mut link, FrameKind::End, &mut theirs)?;
        if u128::from_le_bytes(theirs) != ours {
            return Err(Error::Weights("patches made a version with a wrong state hash".into()).into());
        }
        self.link = Some(link);
        Ok(())
    }

    /// A new connection on which the patches go on; fails for good if it would be others.
    fn resume_patches(&self, steps: u64, first_patch: u64) -> Result<Link<'a>, Attempt> {
        let (version, base) = (self.fetch.version, self.fetch.base.map_or(0, |base| base.version));
        let begun = self.fetch.begin(self.address, Request::FetchPatches { version, base, first_patch })?;
        self.check_same(begun.manifest.instance)?;
        if begun.steps != Some(steps) {
            return Err(Error::Weights(format!("{} has other patches now", self.address)).into());
        }
        Ok(begun.link)
    }

    /// The hashes of a version's chunks, from those of a patch's.
    fn version_hashes(&self, shard: usize, memory: &[u8], hashes: &[u64]) -> Vec<u64> {
        match self.manifest.shards[shard].dtype {
            DType::BFloat16 if !hashes.is_empty() => hashes.to_vec(),
            // Chunks of a patch have as many patterns, which are half as many elements of this type.
            dtype => memory.chunks(CHUNK_ELEMENTS * dtype.size()).map(state_hash).collect(),
        }
    }

    fn confirm_once(&mut self) -> Result<(), Attempt> {
        let fetch = self.fetch;
        let mut link = match self.link.take() {
            Some(link) => link,
            None => fetch.connect(self.address)?,
        };
        link.write_all(&Request::Identify.encode(), &[], "a request", fetch.frame_deadline())?;
        let mut instance = [0; 16];
        fetch.read_fixed(&mut link, FrameKind::Identity, &mut instance)?;
        self.check_same(instance)
    }

    fn check_same(&self, instance: [u8; 16]) -> Result<(), Attempt> {
        if instance == self.manifest.instance {
            return Ok(());
        }
        let what = format!("{} was restarted during the fetch of version {}", self.address, self.fetch.version);
        Err(Attempt::Failed(Failure::Restarted(what)))
    }
}

/// Applies a patch to a shard, whose hashes may be known; returns the new ones. An error has left the shard as it was.
fn patch_shard(patch: &[u8], shard: &mut [u8], hashes: Option<&[u64]>) -> Result<Vec<u64>, Attempt> {
    let patterns: &mut [u16] =
        bytemuck::try_cast_slice_mut(shard).map_err(|error| Error::Weights(error.to_string()))?;
    Ok(apply_patch(patterns, patch, hashes, Interrupt::never())?.hashes)
}
