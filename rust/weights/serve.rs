//! One subscriber's connection, as the publisher sees it: handshake, then requests answered until the peer
//! leaves, misbehaves or falls asleep. Nothing that happens here reaches `publish` or another connection.

use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::handshake;
use super::link::{Link, LinkError};
use super::publisher::{Lookup, Shared};
use super::version::Version;
use super::wire::{FrameKind, Header, MAX_PATCH_BYTES, PATCHES_FOLLOW, REQUEST_BYTES, Request};
use crate::Interrupt;

/// How long a stranger has to prove itself.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long an authenticated peer may stay silent between requests (it may be waiting for other ranks).
const IDLE: Duration = Duration::from_secs(600);
/// How long a peer may take to accept one frame, at most a chunk.
const FRAME: Duration = Duration::from_secs(30);

/// Serves one connection to its end. How it ends is the peer's affair, and told to the peer alone.
pub(super) fn serve(stream: TcpStream, peer: String, shared: &Shared) {
    let Ok(mut link) = Link::new(stream, peer, &shared.closing) else { return };
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
        Request::FetchPatches { version, base } => match (shared.find(version), shared.find(base)) {
            (Lookup::Kept(version), Lookup::Kept(base)) if version.manifest.shards == base.manifest.shards => {
                send_patches(link, &version, &base, shared)
            }
            (Lookup::Kept(version), _) => send_version(link, &version, 0, shared),
            (other, _) => send_absence(link, &other),
        },
    }
}

fn send_absence(link: &mut Link<'_>, lookup: &Lookup) -> Result<(), LinkError> {
    match lookup {
        Lookup::Gone { newest } => send(link, FrameKind::Gone, &newest.to_le_bytes()),
        Lookup::NotYet { newest } => send(link, FrameKind::NotYet, &newest.unwrap_or(u64::MAX).to_le_bytes()),
        Lookup::Kept(_) => Ok(()),
    }
}

/// Patches of every shard that is not empty, in order.
fn send_patches(link: &mut Link<'_>, version: &Version, base: &Version, shared: &Shared) -> Result<(), LinkError> {
    let deadline = || Instant::now() + FRAME;
    let manifest = &version.manifest_bytes;
    let header = Header { index: PATCHES_FOLLOW, ..Header::of(FrameKind::Manifest, manifest) };
    link.write_all(&header.encode(), manifest, "the manifest", deadline())?;
    let closing = || shared.closing.load(Ordering::Relaxed);
    for (shard, info) in version.manifest.shards.iter().enumerate().filter(|(_, info)| info.count > 0) {
        if version.is_revoked() || base.is_revoked() {
            return send_revoked(link, shared);
        }
        let patch = version.patch(base, shard, Interrupt::new(&closing));
        let patch = patch.map_err(|error| LinkError::Closed(error.to_string()))?;
        if patch.len() > MAX_PATCH_BYTES {
            return Err(LinkError::Closed(format!("the patch of {:?} is too long", info.name)));
        }
        let header = Header { index: shard as u64, ..Header::of(FrameKind::Patch, &patch) };
        link.write_all(&header.encode(), &patch, "a patch", deadline())?;
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
