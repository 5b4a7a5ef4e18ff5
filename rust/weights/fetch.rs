//! One rank's part of a fetch: connect, read the manifest, fill the memory it is given chunk by chunk, and pick up after a
//! cut where the last good chunk ended. A chunk counts only once its checksum and its state hash are right. With a
//! base, patches to it are tried first.

use super::exchange::{Attempt, Failure, Fetch, check_payload};
use super::link::Link;
use super::manifest::{Manifest, rank_hash};
use super::patch::stage_patch;
use super::wire::{FrameKind, Request};
use super::{CHUNK_ELEMENTS, state_hash};
use crate::Interrupt;

/// One rank, its connection (if it lasts) and its manifest.
pub(super) struct RankFetch<'a> {
    fetch: &'a Fetch<'a>,
    address: &'a str,
    link: Option<Link<'a>>,
    pub(super) manifest: Manifest,
    manifest_bytes: Vec<u8>,
    patches_follow: bool,
}

impl<'a> RankFetch<'a> {
    /// Connects to `address` and asks for the version: for patches to the base if there is one, else from its
    /// first chunk on.
    pub(super) fn open(fetch: &'a Fetch<'a>, address: &'a str) -> Result<Self, Failure> {
        let version = fetch.version;
        let request = match fetch.base {
            Some(base) => Request::FetchPatches { version, base: base.version },
            None => Request::Fetch { version, first_chunk: 0 },
        };
        fetch.retry(address, || {
            let (link, manifest, manifest_bytes, patches_follow) = fetch.begin(address, request)?;
            Ok(RankFetch { fetch, address, link: Some(link), manifest, manifest_bytes, patches_follow })
        })
    }

    /// Fills `shards`, the memory of the manifest's shards in order.
    pub(super) fn receive(mut self, mut shards: Vec<&mut [u8]>) -> Result<Self, Failure> {
        if self.patches_follow {
            match self.receive_patches(&mut shards) {
                Ok(()) => return Ok(self),
                Err(Attempt::Failed(Failure::Stopped)) => return Err(Failure::Stopped),
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
                let (link, manifest, ..) = fetch.begin(self.address, request)?;
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
            check_payload(&header, chunk)?;
            let hash = state_hash(chunk);
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

    /// One try: patches are small, so one that is cut is not picked up again.
    fn receive_patches(&mut self, shards: &mut [&mut [u8]]) -> Result<(), Attempt> {
        let (fetch, mut link) = match (self.fetch, self.link.take()) {
            (fetch, Some(link)) => (fetch, link),
            (_, None) => return Err(Attempt::Cut("no connection".into())),
        };
        let mut hashes = Vec::new();
        for (index, (info, shard)) in self.manifest.shards.iter().zip(shards).enumerate() {
            if info.count > 0 {
                let base = fetch.base.and_then(|base| base.part(info));
                let base = base.ok_or_else(|| Attempt::Cut(format!("the base has no {:?}", info.name)))?;
                patch_shard(&fetch.read_patch(&mut link, index, shard.len())?, base, shard)?;
                hashes.extend(shard.chunks(CHUNK_ELEMENTS * info.dtype.size()).map(state_hash));
            }
        }
        let mut theirs = [0; 16];
        fetch.read_fixed(&mut link, FrameKind::End, &mut theirs)?;
        if u128::from_le_bytes(theirs) != rank_hash(&self.manifest_bytes, hashes.into_iter()) {
            return Err(Attempt::Damaged("a version with a wrong state hash".into()));
        }
        self.link = Some(link);
        Ok(())
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

/// Makes `shard` what `patch` makes of `base`.
fn patch_shard(patch: &[u8], base: &[u8], shard: &mut [u8]) -> Result<(), Attempt> {
    let misaligned = |error: bytemuck::PodCastError| Attempt::Cut(error.to_string());
    shard.copy_from_slice(base);
    let patterns: &mut [u16] = bytemuck::try_cast_slice_mut(shard).map_err(misaligned)?;
    let staged = stage_patch(patterns, patch, None, Interrupt::never())?;
    staged.commit(patterns)?;
    Ok(())
}
