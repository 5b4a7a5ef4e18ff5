//! One rank's part of a fetch: connect, read the manifest, fill the memory it is given chunk by chunk, and
//! pick up after a cut where the last good chunk ended. A chunk counts only once its checksum and its state
//! hash are right.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::handshake::{self, HandshakeError};
use super::link::{Link, LinkError, pause};
use super::manifest::{Manifest, rank_hash};
use super::wire::{FrameKind, HEADER_BYTES, Header, Request};
use super::{CHUNK_ELEMENTS, state_hash};
use crate::{Error, Result};

/// How long one frame may take before the connection is given up and made anew.
const STALL: Duration = Duration::from_secs(10);
/// Wait before the first new attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Damaged frames from one rank in one fetch before it fails: one may be an accident of the network, three
/// are not.
const MAX_DAMAGED: u32 = 3;

/// What every rank's part of one fetch has in common.
pub(super) struct Fetch<'a> {
    pub(super) token: &'a [u8],
    pub(super) version: u64,
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
    damaged: u32,
}

impl<'a> RankFetch<'a> {
    /// Connects to `address` and asks for the version from its first chunk on.
    pub(super) fn open(fetch: &'a Fetch<'a>, address: &'a str) -> Result<Self, Failure> {
        let mut damaged = 0;
        fetch.retry(address, &mut damaged, || {
            let (link, manifest, manifest_bytes) = fetch.begin(address, 0)?;
            Ok(RankFetch { fetch, address, link: Some(link), manifest, manifest_bytes, damaged: 0 })
        })
    }

    /// Fills `shards`, the memory of the manifest's shards in order.
    pub(super) fn receive(mut self, shards: Vec<&mut [u8]>) -> Result<Self, Failure> {
        let sizes = self.manifest.shards.iter().map(|shard| shard.dtype.size());
        let chunks = shards.into_iter().zip(sizes).flat_map(|(shard, size)| shard.chunks_mut(CHUNK_ELEMENTS * size));
        let mut chunks: Vec<&mut [u8]> = chunks.collect();
        let mut hashes = Vec::with_capacity(chunks.len());
        let mut damaged = self.damaged;
        self.fetch.retry(self.address, &mut damaged, || self.receive_on(&mut chunks, &mut hashes))?;
        Ok(self)
    }

    /// Makes sure that the publisher is still the one that sent this part. Asked of every rank once all parts
    /// are in: a trainer restarts all its ranks or none, so equal instances mean that all parts are of one
    /// version.
    pub(super) fn confirm(mut self) -> Result<(), Failure> {
        let mut damaged = self.damaged;
        self.fetch.retry(self.address, &mut damaged, || self.confirm_once())
    }

    fn receive_on(&mut self, chunks: &mut [&mut [u8]], hashes: &mut Vec<u64>) -> Result<(), Attempt> {
        let fetch = self.fetch;
        let mut link = match self.link.take() {
            Some(link) => link,
            None => {
                let (link, manifest, _) = fetch.begin(self.address, hashes.len() as u64)?;
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
    fn retry<T>(
        &self,
        address: &str,
        damaged: &mut u32,
        mut attempt: impl FnMut() -> Result<T, Attempt>,
    ) -> Result<T, Failure> {
        let mut wait = FIRST_PAUSE;
        loop {
            let why = match attempt() {
                Ok(done) => return Ok(done),
                Err(Attempt::Failed(failure)) => return Err(failure),
                Err(Attempt::Cut(why)) => why,
                Err(Attempt::Damaged(what)) => {
                    *damaged += 1;
                    let why = format!("{address} sent damaged data: {what}");
                    if *damaged >= MAX_DAMAGED {
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

    /// Connects, asks for the version, and reads its manifest; the chunks from `first_chunk` on are then on
    /// their way.
    fn begin(&self, address: &str, first_chunk: u64) -> Result<(Link<'a>, Manifest, Vec<u8>), Attempt> {
        let mut link = self.connect(address)?;
        let request = Request::Fetch { version: self.version, first_chunk };
        link.write_all(&request.encode(), &[], "a request", self.frame_deadline())?;
        let header = self.read_header(&mut link, FrameKind::Manifest)?;
        let mut bytes = vec![0; header.length];
        link.read_exact(&mut bytes, "the manifest", self.frame_deadline())?;
        check_payload(&header, &bytes)?;
        let manifest = Manifest::decode(&bytes).map_err(Attempt::Damaged)?;
        if manifest.version != self.version {
            return Err(Attempt::Damaged(format!("version {} instead of {}", manifest.version, self.version)));
        }
        Ok((link, manifest, bytes))
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

fn check_payload(header: &Header, payload: &[u8]) -> Result<(), Attempt> {
    if crc32c::crc32c(payload) == header.payload_crc {
        return Ok(());
    }
    Err(Attempt::Damaged(format!("{:?} frame {} with a wrong checksum", header.kind, header.index)))
}
