//! The bytes between publisher and subscriber: fixed-size requests one way, framed answers the other. Parsing
//! only: no sockets, and no allocation before a length is known to be within its cap. All numbers are
//! little-endian.
//!
//! ```text
//! request  kind u32 | version u64 | first u64 | base u64 | crc32c u32                    (32 bytes)
//! header   kind u32 | length u32 | index u64 | state_hash u64 | payload crc32c u32 | crc32c u32  (32 bytes),
//! then payload
//! ```

use super::CHUNK_ELEMENTS;
use super::manifest::MAX_MANIFEST_BYTES;

/// Bytes of a request.
pub const REQUEST_BYTES: usize = 32;
/// Bytes of a frame's header.
pub const HEADER_BYTES: usize = 32;
/// Longest payload of a chunk.
pub const MAX_CHUNK_BYTES: usize = CHUNK_ELEMENTS * 4;
/// Longest payload of a patch; how long one may be for a given shard is for the subscriber to say.
pub const MAX_PATCH_BYTES: usize = 1 << 30;
/// Most steps from one version to another that patches are sent for.
pub const MAX_STEPS: u64 = 1 << 16;

/// What a subscriber asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// The manifest of `version`, its chunks from `first_chunk` on, and its hash.
    Fetch {
        /// The policy version.
        version: u64,
        /// The first chunk that the subscriber does not have yet.
        first_chunk: u64,
    },
    /// What turns version `base`, which the subscriber holds, into `version`; the whole version if there is no telling.
    FetchPatches {
        /// The policy version.
        version: u64,
        /// The version that the subscriber holds.
        base: u64,
        /// The first patch that the subscriber does not have yet.
        first_patch: u64,
    },
    /// Which publisher instance is this?
    Identify,
}

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// An encoded [`Manifest`](super::Manifest); `index` is 0 if chunks follow, else one more than the steps whose
    /// patches follow.
    Manifest,
    /// The bytes of chunk `index`.
    Chunk,
    /// The 16-byte hash of all that the rank holds of the version.
    End,
    /// The version is no longer kept; the 8-byte payload is the newest one.
    Gone,
    /// The version is not published yet; the 8-byte payload is the newest one, or `u64::MAX` for none.
    NotYet,
    /// The publisher's 16-byte instance.
    Identity,
    /// Patch number `index` of those that lead from the base to the version: for each step, one of each shard that holds
    /// something.
    Patch,
}

impl FrameKind {
    const ALL: [FrameKind; 7] = [
        FrameKind::Manifest,
        FrameKind::Chunk,
        FrameKind::End,
        FrameKind::Gone,
        FrameKind::NotYet,
        FrameKind::Identity,
        FrameKind::Patch,
    ];

    fn number(self) -> u32 {
        self as u32 + 1
    }

    fn allows(self, length: usize) -> bool {
        match self {
            FrameKind::Manifest => length <= MAX_MANIFEST_BYTES,
            FrameKind::Chunk => length <= MAX_CHUNK_BYTES,
            FrameKind::Patch => length <= MAX_PATCH_BYTES,
            FrameKind::End | FrameKind::Identity => length == 16,
            FrameKind::Gone | FrameKind::NotYet => length == 8,
        }
    }
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the payload is.
    pub kind: FrameKind,
    /// Bytes of the payload, within the kind's cap.
    pub length: usize,
    /// The chunk's or shard's number among the rank's, or a mark of the manifest.
    pub index: u64,
    /// The chunk's state hash; 0 for other kinds.
    pub state_hash: u64,
    /// CRC32C of the payload; 0 for chunks, whose state hash says more.
    pub payload_crc: u32,
}

impl Request {
    /// The request's bytes.
    pub fn encode(&self) -> [u8; REQUEST_BYTES] {
        let (kind, version, first_chunk, base) = match *self {
            Request::Fetch { version, first_chunk } => (1u32, version, first_chunk, 0),
            Request::Identify => (2, 0, 0, 0),
            Request::FetchPatches { version, base, first_patch } => (3, version, first_patch, base),
        };
        let mut out = [0; REQUEST_BYTES];
        out[..4].copy_from_slice(&kind.to_le_bytes());
        out[4..12].copy_from_slice(&version.to_le_bytes());
        out[12..20].copy_from_slice(&first_chunk.to_le_bytes());
        out[20..28].copy_from_slice(&base.to_le_bytes());
        seal(&mut out);
        out
    }

    /// Reads a request; the error says what is wrong with it.
    pub fn decode(bytes: &[u8; REQUEST_BYTES]) -> Result<Self, String> {
        check_seal(bytes, "request")?;
        match (u32_at(bytes, 0), u64_at(bytes, 4), u64_at(bytes, 12), u64_at(bytes, 20)) {
            (1, version, first_chunk, 0) => Ok(Request::Fetch { version, first_chunk }),
            (2, 0, 0, 0) => Ok(Request::Identify),
            (3, version, first_patch, base) => Ok(Request::FetchPatches { version, base, first_patch }),
            (kind, ..) => Err(format!("request of unknown kind {kind}")),
        }
    }
}

impl Header {
    /// The header of a frame with this payload.
    pub fn of(kind: FrameKind, payload: &[u8]) -> Self {
        Header { kind, length: payload.len(), index: 0, state_hash: 0, payload_crc: crc32c::crc32c(payload) }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        out[..4].copy_from_slice(&self.kind.number().to_le_bytes());
        out[4..8].copy_from_slice(&(self.length as u32).to_le_bytes());
        out[8..16].copy_from_slice(&self.index.to_le_bytes());
        out[16..24].copy_from_slice(&self.state_hash.to_le_bytes());
        out[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        seal(&mut out);
        out
    }

    /// Reads a header; the error says what is wrong with it.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        check_seal(bytes, "frame header")?;
        let number = u32_at(bytes, 0);
        let kind = FrameKind::ALL.into_iter().find(|kind| kind.number() == number);
        let kind = kind.ok_or_else(|| format!("frame of unknown kind {number}"))?;
        let length = u32_at(bytes, 4) as usize;
        if !kind.allows(length) {
            return Err(format!("{kind:?} frame of {length} bytes"));
        }
        Ok(Header {
            kind,
            length,
            index: u64_at(bytes, 8),
            state_hash: u64_at(bytes, 16),
            payload_crc: u32_at(bytes, 24),
        })
    }
}

/// Writes the checksum of what precedes it into the last four bytes.
fn seal(bytes: &mut [u8; 32]) {
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..].copy_from_slice(&crc.to_le_bytes());
}

fn check_seal(bytes: &[u8; 32], what: &str) -> Result<(), String> {
    if crc32c::crc32c(&bytes[..28]) != u32_at(bytes, 28) {
        return Err(format!("{what} with a wrong checksum"));
    }
    Ok(())
}

fn u32_at(bytes: &[u8; 32], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8; 32], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
