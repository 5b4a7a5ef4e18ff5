//! One subscriber's connection, as the publisher sees it: handshake, then requests answered until the peer
//! leaves, misbehaves or falls asleep. Nothing that happens here reaches `publish` or another connection.

use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::handshake::{self, HandshakeError};
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

/// Serves one connection to its end; the text says why it ended.
pub(super) fn serve(stream: TcpStream, peer: String, shared: &Shared) -> String {
    let link = Link::new(stream, peer.clone(), &shared.closing);
    let ended =
        link.map_err(|error| LinkError::Closed(format!("{peer}: {error}"))).and_then(
            |mut link| match handshake::accept(&mut link, &shared.token, Instant::now() + HANDSHAKE) {
                Ok(()) => answer_requests(&mut link, shared),
                Err(HandshakeError::Refused(why)) => Ok(why),
                Err(HandshakeError::Link(error)) => Err(error),
            },
        );
    match ended {
        Ok(why) | Err(LinkError::Closed(why) | LinkError::TimedOut(why)) => why,
        Err(LinkError::Stopped) => "the publisher was closed".into(),
    }
}

fn answer_requests(link: &mut Link<'_>, shared: &Shared) -> Result<String, LinkError> {
    loop {
        let mut bytes = [0; REQUEST_BYTES];
        link.read_exact(&mut bytes, "a request", Instant::now() + IDLE)?;
        match Request::decode(&bytes) {
            Err(why) => return Ok(format!("{}: {why}", link.peer)),
            Ok(Request::Identify) => send(link, FrameKind::Identity, &shared.instance)?,
            Ok(Request::Fetch { version, first_chunk }) => match shared.find(version) {
                Lookup::Kept(version) => send_version(link, &version, first_chunk, shared)?,
                Lookup::Gone { newest } => send(link, FrameKind::Gone, &newest.to_le_bytes())?,
                Lookup::NotYet { newest } => {
                    send(link, FrameKind::NotYet, &newest.unwrap_or(u64::MAX).to_le_bytes())?;
                }
            },
        }
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
