//! The exchanges that a fetch is made of: each tried again until it works, fails for good, or its deadline passes; and the
//! reading of one frame, checked, whatever it holds.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::handshake::{self, HandshakeError};
use super::link::{Link, LinkError, pause};
use super::manifest::Manifest;
use super::snapshot::Base;
use super::wire::{FrameKind, HEADER_BYTES, Header, MAX_STEPS, Request};
use crate::{Error, Result};

/// How long one frame may take before the connection is given up and made anew.
const STALL: Duration = Duration::from_secs(10);
/// Wait before the first new attempt; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// Damaged frames in one part of a fetch before it fails: one may be an accident of the network, three are not.
const MAX_DAMAGED: u32 = 3;

/// Bytes that the patch of a shard may have beyond the shard's own, and a 64th of them.
const PATCH_OVERHEAD: usize = 4096;

/// A connection on which a version is on its way.
pub(super) struct Begun<'a> {
    pub(super) link: Link<'a>,
    pub(super) manifest: Manifest,
    pub(super) manifest_bytes: Vec<u8>,
    /// Steps whose patches follow; `None` if chunks do.
    pub(super) steps: Option<u64>,
}

/// What every rank's part of one fetch has in common.
pub(super) struct Fetch<'a> {
    pub(super) token: &'a [u8],
    /// Whether to look for a UNIX socket beside a loopback address.
    pub(super) local: bool,
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
pub(super) enum Attempt {
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

impl<'a> Fetch<'a> {
    /// Tries until it works, fails for good, or the deadline passes.
    pub(super) fn retry<T>(
        &self,
        address: &str,
        mut attempt: impl FnMut() -> Result<T, Attempt>,
    ) -> Result<T, Failure> {
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

    pub(super) fn frame_deadline(&self) -> Instant {
        self.deadline.min(Instant::now() + STALL)
    }

    pub(super) fn connect(&self, address: &str) -> Result<Link<'a>, Attempt> {
        let mut link = Link::connect(address, self.local, self.stop, self.frame_deadline())?;
        match handshake::request(&mut link, self.token, self.frame_deadline()) {
            Ok(()) => Ok(link),
            Err(HandshakeError::Link(error)) => Err(error.into()),
            Err(HandshakeError::Refused(why)) => Err(Error::Weights(why).into()),
        }
    }

    /// Connects, makes the request for the version, and reads its manifest.
    pub(super) fn begin(&self, address: &str, request: Request) -> Result<Begun<'a>, Attempt> {
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
        if header.index > MAX_STEPS {
            return Err(Attempt::Damaged(format!("{} steps of patches", header.index - 1)));
        }
        Ok(Begun { link, manifest, manifest_bytes: bytes, steps: header.index.checked_sub(1) })
    }

    /// Reads a header that must be of this kind; an answer that there is no such version is the error that it
    /// means.
    pub(super) fn read_header(&self, link: &mut Link<'_>, expected: FrameKind) -> Result<Header, Attempt> {
        let mut bytes = [0; HEADER_BYTES];
        link.read_exact(&mut bytes, "an answer", self.frame_deadline())?;
        let header = Header::decode(&bytes).map_err(Attempt::Damaged)?;
        match header.kind {
            kind if kind == expected => Ok(header),
            FrameKind::Gone | FrameKind::NotYet => Err(self.read_absence(link, &header)?),
            other => Err(Attempt::Damaged(format!("{other:?} frame where {expected:?} was due"))),
        }
    }

    pub(super) fn read_patch(&self, link: &mut Link<'_>, index: u64, shard_bytes: usize) -> Result<Vec<u8>, Attempt> {
        let header = self.read_header(link, FrameKind::Patch)?;
        if header.index != index || header.length > shard_bytes + shard_bytes / 64 + PATCH_OVERHEAD {
            let what = format!("patch {} of {} bytes", header.index, header.length);
            return Err(Attempt::Damaged(format!("{what} instead of patch {index} for {shard_bytes} bytes")));
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

    pub(super) fn read_fixed<const N: usize>(
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
