//! One subscriber's connection, as the publisher sees it: handshake, then requests answered until the peer
//! leaves, misbehaves or falls asleep. Nothing that happens here reaches `publish` or another connection.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::chain::Steps;
use super::handshake;
use super::link::{Link, LinkError};
use super::publisher::{Lookup, Shared};
use super::version::Version;
use super::wire::{FrameKind, Header, MAX_PATCH_BYTES, REQUEST_BYTES, Request};
use crate::Interrupt;

/// How long a stranger has to prove itself.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an authenticated peer may stay silent between requests (it may be waiting for other ranks).
const IDLE: Duration = Duration::from_secs(600);
/// How long a peer may take to accept one frame, at most a chunk.
const FRAME: Duration = Duration::from_secs(30);

/// Serves one connection to its end. How it ends is the peer's affair, and told to the peer alone.
pub(super) fn serve(socket: OwnedFd, shared: &Shared) {
    let Ok(mut link) = Link::new(socket, "the subscriber".into(), &shared.closing) else { return };
    if handshake::accept(&mut link, &shared.token, Instant::now() + HANDSHAKE).is_ok() {
        while answer(&mut link, shared).is_ok() {}
    }
}

/// Answers one request.
fn answer(link: &mut Link<'_>, shared: &Shared) -> Result<(), LinkError> {
    let mut bytes = [0; REQUEST_BYTES];
    link.read_exact(&mut bytes, "a request", Instant::now() + IDLE)?;
    match Request::decode(&bytes).map_err(LinkError::Closed)? {
        Request::Identify => send(link, FrameKind::Identity, &shared.instance),
        Request::Fetch { version, first_chunk } => match shared.find(version) {
            Lookup::Kept(version) => send_version(link, &version, first_chunk, shared),
            other => send_absence(link, &other),
        },
        Request::FetchPatches { version, base, first_patch } => {
            shared.patches_wanted.store(true, Ordering::Relaxed);
            match shared.find(version) {
                Lookup::Kept(version) => match shared.way(base, &version) {
                    Some(way) => send_patches(link, &version, way, first_patch, shared),
                    None => send_version(link, &version, 0, shared),
                },
                other => send_absence(link, &other),
            }
        }
    }
}

fn send_absence(link: &mut Link<'_>, lookup: &Lookup) -> Result<(), LinkError> {
    match lookup {
        Lookup::Gone { newest } => send(link, FrameKind::Gone, &newest.to_le_bytes()),
        Lookup::NotYet { newest } => send(link, FrameKind::NotYet, &newest.unwrap_or(u64::MAX).to_le_bytes()),
        Lookup::Kept(_) => Ok(()),
    }
}

/// The patches of every shard that is not empty, step by step, from number `first` on.
fn send_patches(
    link: &mut Link<'_>,
    version: &Version,
    (steps, last): (Steps, Arc<Version>),
    first: u64,
    shared: &Shared,
) -> Result<(), LinkError> {
    let deadline = || Instant::now() + FRAME;
    let manifest = &version.manifest_bytes;
    let is_direct = steps.is_empty() || last.number() != version.number(); // from a version that is kept
    let num_steps = steps.len() as u64 + u64::from(is_direct);
    let header = Header { index: num_steps + 1, ..Header::of(FrameKind::Manifest, manifest) };
    link.write_all(&header.encode(), manifest, "the manifest", deadline())?;
    let closing = || shared.closing.load(Ordering::Relaxed);
    let mut send_one = |number: u64, patch: &[u8]| {
        if patch.len() > MAX_PATCH_BYTES {
            return Err(LinkError::Closed("a patch is too long".into()));
        }
        let header = Header { index: number, ..Header::of(FrameKind::Patch, patch) };
        link.write_all(&header.encode(), patch, "a patch", deadline())
    };
    let stored = steps.iter().flat_map(|step| &step.patches);
    let mut number = 0;
    for (_, patch) in stored {
        if number >= first {
            send_one(number, patch)?;
        }
        number += 1;
    }
    if is_direct {
        for shard in version.filled_shards() {
            if version.is_revoked() || last.is_revoked() {
                return send_revoked(link, shared);
            }
            if number >= first {
                let patch = version.patch(&last, shard, Interrupt::new(&closing));
                send_one(number, &patch.map_err(|error| LinkError::Closed(error.to_string()))?)?;
            }
            number += 1;
        }
    }
    send(link, FrameKind::End, &version.rank_hash().to_le_bytes())
}

fn send_version(
    link: &mut Link<'_>,
    version: &Arc<Version>,
    first_chunk: u64,
    shared: &Shared,
) -> Result<(), LinkError> {
    send(link, FrameKind::Manifest, &version.manifest_bytes)?;
    let first_chunk = usize::try_from(first_chunk).unwrap_or(usize::MAX);
    for index in first_chunk..version.num_chunks() {
        if version.is_revoked() {
            return send_revoked(link, shared);
        }
        let (header, bytes) = version.chunk(index);
        link.write_all(&header.encode(), bytes, "a chunk", Instant::now() + FRAME)?;
    }
    send(link, FrameKind::End, &version.rank_hash().to_le_bytes())
}

/// Says that the version went while it was being sent.
fn send_revoked(link: &mut Link<'_>, shared: &Shared) -> Result<(), LinkError> {
    send(link, FrameKind::Gone, &shared.newest().unwrap_or_default().to_le_bytes())
}

fn send(link: &mut Link<'_>, kind: FrameKind, payload: &[u8]) -> Result<(), LinkError> {
    let header = Header::of(kind, payload).encode();
    link.write_all(&header, payload, "an answer", Instant::now() + FRAME)
}
