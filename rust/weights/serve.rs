//! One subscriber's connection, as the publisher sees it: handshake, then requests answered until the peer
//! leaves, misbehaves or falls asleep. Nothing that happens here reaches `publish` or another connection.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handshake;
use super::link::{Link, LinkError};
use super::publisher::{Lookup, Shared};
use super::version::Version;
use super::wire::{FrameKind, Header, REQUEST_BYTES, Request};

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
            Lookup::Gone { newest } => send(link, FrameKind::Gone, &newest.to_le_bytes()),
            Lookup::NotYet { newest } => send(link, FrameKind::NotYet, &newest.unwrap_or(u64::MAX).to_le_bytes()),
        },
    }
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
            let newest = shared.newest().unwrap_or_default();
            return send(link, FrameKind::Gone, &newest.to_le_bytes());
        }
        let (header, bytes) = version.chunk(index);
        link.write_all(&header.encode(), bytes, "a chunk", Instant::now() + FRAME)?;
    }
    send(link, FrameKind::End, &version.rank_hash().to_le_bytes())
}

fn send(link: &mut Link<'_>, kind: FrameKind, payload: &[u8]) -> Result<(), LinkError> {
    let header = Header::of(kind, payload).encode();
    link.write_all(&header, payload, "an answer", Instant::now() + FRAME)
}
