//! One rank's part of a fetch: connect, read the manifest, fill the memory it is given chunk by chunk, and
//! pick up after a cut where the last good chunk ended. A chunk counts only once its checksum and its state
//! hash are right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::handshake::{self, HandshakeError};
use super::link::{Link, LinkError, pause};
use super::manifest::{Manifest, rank_hash};
use super::patch::stage_patch;
use super::snapshot::Base;
use super::wire::{FrameKind, HEADER_BYTES, Header, PATCHES_FOLLOW, Request};
use super::{CHUNK_ELEMENTS, state_hash};
use crate::{Error, Interrupt, Result};

/// How long one frame may take before the connection is given up and made anew.
const STALL: Duration = Duration::from_secs(10);
/// Wait before the first new attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Damaged frames from one rank in one fetch before it fails: one may be an accident of the network, three
/// are not.
const MAX_DAMAGED: u32 = 3;

/// Bytes that the patch of a shard may have beyond the shard's own, and a 64th of them.
const PATCH_OVERHEAD: usize = 4096;

/// A connection on which a version is on its way: its manifest, that as bytes, and whether patches follow.
type Begun<'a> = (Link<'a>, Manifest, Vec<u8>, bool);

/// What every rank's part of one fetch has in common.
pub(super) struct Fetch<'a> {
    pub(super) token: &'a [u8],
    pub(super) version: u64,
    pub(super) base: Option<&'a Base<'a>>,
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
    pub(super) stop: &'a AtomicBool,
}

/// Why a rank's part ended without success.
pub(super) enum Failure {
    /// For good.
    Error(Error),
    /// The publisher was restarted in between: what came from it and from other ranks may not belong
    /// together.
    Restarted(String),
    /// Another rank failed, or the caller was interrupted.
    Stopped,
}

/// Why one attempt on one connection failed.
enum Attempt {
    Cut(String),
    Damaged(String),
    Failed(Failure),
}

impl From<LinkError> for Attempt {
    fn from(error: LinkError) -> Self {
        match error {
            LinkError::Closed(why) | LinkError::TimedOut(why) => Attempt::Cut(why),
            LinkError::Stopped => Attempt::Failed(Failure::Stopped),
        }
    }
}

impl From<Error> for Attempt {
    fn from(error: Error) -> Self {
        Attempt::Failed(Failure::Error(error))
    }
}

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

impl<'a> Fetch<'a> {
    /// Tries until it works, fails for good, or the deadline passes.
    fn retry<T>(&self, address: &str, mut attempt: impl FnMut() -> Result<T, Attempt>) -> Result<T, Failure> {
        let (mut wait, mut damaged) = (FIRST_PAUSE, 0);
        loop {
            let why = match attempt() {
                Ok(done) => return Ok(done),
                Err(Attempt::Failed(failure)) => return Err(failure),
                Err(Attempt::Cut(why)) => why,
                Err(Attempt::Damaged(what)) => {
                    damaged += 1;
                    let why = format!("{address} sent damaged data: {what}");
                    if damaged == MAX_DAMAGED {
                        return Err(Failure::Error(Error::Weights(why)));
                    }
                    why
                }
            };
            pause(wait, self.stop, self.deadline);
            wait = LONGEST_PAUSE.min(wait * 2);
            if self.stop.load(Ordering::Relaxed) {
                return Err(Failure::Stopped);
            }
            if Instant::now() >= self.deadline {
                return Err(Failure::Error(self.too_late(address, &why)));
            }
        }
    }

    /// The error for a fetch whose deadline has passed.
    pub(super) fn too_late(&self, address: &str, why: &str) -> Error {
        let seconds = self.timeout.as_secs_f64();
        Error::Timeout(format!("version {} was not fetched from {address} within {seconds} s: {why}", self.version))
    }

    fn frame_deadline(&self) -> Instant {
        self.deadline.min(Instant::now() + STALL)
    }

    fn connect(&self, address: &str) -> Result<Link<'a>, Attempt> {
        let mut link = Link::connect(address, self.stop, self.frame_deadline())?;
        match handshake::request(&mut link, self.token, self.frame_deadline()) {
            Ok(()) => Ok(link),
            Err(HandshakeError::Link(error)) => Err(error.into()),
            Err(HandshakeError::Refused(why)) => Err(Error::Weights(why).into()),
        }
    }

    /// Connects, makes the request for the version, and reads its manifest; says whether patches follow it.
    fn begin(&self, address: &str, request: Request) -> Result<Begun<'a>, Attempt> {
        let mut link = self.connect(address)?;
        link.write_all(&request.encode(), &[], "a request", self.frame_deadline())?;
        let header = self.read_header(&mut link, FrameKind::Manifest)?;
        let mut bytes = vec![0; header.length];
        link.read_exact(&mut bytes, "the manifest", self.frame_deadline())?;
        check_payload(&header, &bytes)?;
        let manifest = Manifest::decode(&bytes).map_err(Attempt::Damaged)?;
        if manifest.version != self.version {
            return Err(Attempt::Damaged(format!("version {} instead of {}", manifest.version, self.version)));
        }
        Ok((link, manifest, bytes, header.index == PATCHES_FOLLOW))
    }

    /// Reads a header that must be of this kind; an answer that there is no such version is the error that it
    /// means.
    fn read_header(&self, link: &mut Link<'_>, expected: FrameKind) -> Result<Header, Attempt> {
        let mut bytes = [0; HEADER_BYTES];
        link.read_exact(&mut bytes, "an answer", self.frame_deadline())?;
        let header = Header::decode(&bytes).map_err(Attempt::Damaged)?;
        match header.kind {
            kind if kind == expected => Ok(header),
            FrameKind::Gone | FrameKind::NotYet => Err(self.read_absence(link, &header)?),
            other => Err(Attempt::Damaged(format!("{other:?} frame where {expected:?} was due"))),
        }
    }

    fn read_patch(&self, link: &mut Link<'_>, index: usize, shard_bytes: usize) -> Result<Vec<u8>, Attempt> {
        let header = self.read_header(link, FrameKind::Patch)?;
        if header.index != index as u64 || header.length > shard_bytes + shard_bytes / 64 + PATCH_OVERHEAD {
            let what = format!("patch {} of {} bytes", header.index, header.length);
            return Err(Attempt::Damaged(format!("{what} for shard {index} of {shard_bytes} bytes")));
        }
        let mut patch = vec![0; header.length];
        link.read_exact(&mut patch, "a patch", self.frame_deadline())?;
        check_payload(&header, &patch)?;
        Ok(patch)
    }

    fn read_absence(&self, link: &mut Link<'_>, header: &Header) -> Result<Attempt, Attempt> {
        let mut newest = [0; 8];
        link.read_exact(&mut newest, "an answer", self.frame_deadline())?;
        check_payload(header, &newest)?;
        let (version, peer, newest) = (self.version, &link.peer, u64::from_le_bytes(newest));
        Ok(match (header.kind, newest) {
            (FrameKind::Gone, _) => {
                let what = format!("{peer} no longer keeps version {version}; its newest is {newest}");
                Error::VersionGone { what, newest }.into()
            }
            (_, u64::MAX) => Attempt::Cut(format!("{peer} has published no version yet")),
            _ => Attempt::Cut(format!("{peer} has not published it yet; its newest is {newest}")),
        })
    }

    fn read_fixed<const N: usize>(
        &self,
        link: &mut Link<'_>,
        kind: FrameKind,
        payload: &mut [u8; N],
    ) -> Result<(), Attempt> {
        let header = self.read_header(link, kind)?;
        if header.length != N {
            return Err(Attempt::Damaged(format!("{kind:?} frame of {} bytes", header.length)));
        }
        link.read_exact(payload, "an answer", self.frame_deadline())?;
        check_payload(&header, payload)
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

fn check_payload(header: &Header, payload: &[u8]) -> Result<(), Attempt> {
    if crc32c::crc32c(payload) == header.payload_crc {
        return Ok(());
    }
    Err(Attempt::Damaged(format!("{:?} frame {} with a wrong checksum", header.kind, header.index)))
}
