//! The byte layout of the store's files, and nothing else: the only place that knows offsets.
//!
//! ```text
//! file     "SPOSEG" version:u16  header frame  frames…  [footer frame  trailer]   (footer and trailer once sealed)
//! frame    "SPOf" kind:u8 flags:u8 0:u16 sequence:u32 length:u32 time_us:u64 payload_crc:u32 header_crc:u32  payload
//! trailer  "SPOFOOT1" footer_offset:u64 crc:u32
//! ```
//!
//! Integers are little-endian, checksums CRC-32C. The header has its own checksum, so a damaged length cannot send a
//! reader astray; `sequence` counts the frames of the file from 0 (the header frame), so a lost frame is noticed.

use crate::trajectory::MAX_NAME_BYTES;
use crate::trajectory::bytes::{Cursor, Damage, put_bytes, put_varint};
use crate::trajectory::record::MAX_RECORD_BYTES;

/// Bytes of a file before its first frame: format and version.
pub const FILE_MAGIC_BYTES: usize = 8;
/// Version of the files that are written. Version 1 had no late columns, version 2 no ranks, version 3 no merged segments,
/// version 4 no prefix codes; they are read all the same.
pub const FILE_VERSION: u16 = 5;
/// The first version whose header frame says the version too.
const CHECKED_VERSION: u16 = 3;
const FILE_MAGIC: [u8; 6] = *b"SPOSEG";
/// First bytes of every frame, to find the next one behind damage.
pub const FRAME_MAGIC: [u8; 4] = *b"SPOf";
/// Bytes of a frame before its payload.
pub const FRAME_HEADER_BYTES: usize = 32;
/// Bytes of the trailer that ends a sealed file.
pub const TRAILER_BYTES: usize = 20;
/// Most bytes of a frame's payload.
pub const MAX_PAYLOAD_BYTES: usize = MAX_RECORD_BYTES;
/// Most records in a segment, and most late columns: bounds the footer.
pub const MAX_SEGMENT_RECORDS: usize = 1 << 20;
const TRAILER_MAGIC: [u8; 8] = *b"SPOFOOT1";
const BATCH_END: u8 = 1;

/// What a frame holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// [`SegmentHeader`]; the first frame of a file.
    Header = 1,
    /// An encoded record.
    Trajectory = 2,
    /// The index rows of a sealed file; its last frame.
    Footer = 3,
    /// A prompt that later trajectory frames of the file refer to by its offset.
    Prompt = 4,
    /// Late columns of a record of any segment.
    Late = 5,
    /// The deletion of a record of any segment.
    Tombstone = 6,
    /// [`Attachment`].
    Attachment = 7,
    /// Tables by which later frames of the file are coded; they refer to it by its offset.
    Tables = 8,
    /// A record that compaction has written anew, behind its id: it was appended to this segment or to one merged into it.
    Moved = 9,
}

/// A frame without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// What the payload is.
    pub kind: Kind,
    /// Whether the frame completes an append: readers take appends whole or not at all.
    pub batch_end: bool,
    /// Place among the file's frames.
    pub sequence: u32,
    /// Bytes of the payload.
    pub length: u32,
    /// When it was appended, in microseconds since 1970.
    pub time_us: u64,
    /// CRC-32C of the payload.
    pub payload_crc: u32,
}

impl FrameHeader {
    /// The header of `payload`, whose length the caller has bounded by [`MAX_PAYLOAD_BYTES`].
    pub fn of(kind: Kind, batch_end: bool, sequence: u32, time_us: u64, payload: &[u8]) -> Self {
        let payload_crc = crc32c::crc32c(payload);
        FrameHeader { kind, batch_end, sequence, length: payload.len() as u32, time_us, payload_crc }
    }

    /// Whether `payload` is what the header was written for.
    pub fn matches(&self, payload: &[u8]) -> bool {
        self.length as usize == payload.len() && crc32c::crc32c(payload) == self.payload_crc
    }

    /// Appends the header and the payload.
    pub fn put(&self, payload: &[u8], out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes());
        out.extend_from_slice(payload);
    }

    /// The header itself.
    pub fn bytes(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[..4].copy_from_slice(&FRAME_MAGIC);
        bytes[4..8].copy_from_slice(&[self.kind as u8, u8::from(self.batch_end) * BATCH_END, 0, 0]);
        bytes[8..12].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.length.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.time_us.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.payload_crc.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[..28]);
        bytes[28..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads and checks a header.
    pub fn read(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(bytes);
        let magic: [u8; 4] = cursor.array("frame magic")?;
        let [kind, flags, zero, nought] = cursor.array("frame kind")?;
        let sequence = u32::from_le_bytes(cursor.array("sequence")?);
        let length = u32::from_le_bytes(cursor.array("length")?);
        let time_us = u64::from_le_bytes(cursor.array("time")?);
        let payload_crc = u32::from_le_bytes(cursor.array("payload checksum")?);
        let header_crc = u32::from_le_bytes(cursor.array("header checksum")?);
        if magic != FRAME_MAGIC || crc32c::crc32c(&bytes[..FRAME_HEADER_BYTES - 4]) != header_crc {
            return Err(Damage { offset: 0, what: "the frame header does not match its checksum".to_owned() });
        }
        let kind = match kind {
            1 => Kind::Header,
            2 => Kind::Trajectory,
            3 => Kind::Footer,
            4 => Kind::Prompt,
            5 => Kind::Late,
            6 => Kind::Tombstone,
            7 => Kind::Attachment,
            8 => Kind::Tables,
            9 => Kind::Moved,
            other => return Err(cursor.damage(format!("frames of kind {other} are from another version"))),
        };
        if flags & !BATCH_END != 0 || zero != 0 || nought != 0 || length as usize > MAX_PAYLOAD_BYTES {
            return Err(cursor.damage("the frame header holds values from another version"));
        }
        Ok(FrameHeader { kind, batch_end: flags & BATCH_END != 0, sequence, length, time_us, payload_crc })
    }
}

/// What the first frame of a file says about the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Which store the file belongs to.
    pub store_id: [u8; 16],
    /// The file's number in it; 0 is the identity file.
    pub number: u32,
    /// Fingerprint of the tokenizer that every token in it belongs to.
    pub tokenizer: String,
}

impl SegmentHeader {
    /// The first bytes of a new file.
    pub fn file_start(&self, time_us: u64) -> Vec<u8> {
        let mut payload = Vec::new();
        payload.extend_from_slice(&self.store_id);
        put_varint(&mut payload, u64::from(self.number));
        put_bytes(&mut payload, self.tokenizer.as_bytes());
        // Once more, where a checksum covers it.
        put_varint(&mut payload, u64::from(FILE_VERSION));
        let mut out = FILE_MAGIC.to_vec();
        out.extend_from_slice(&FILE_VERSION.to_le_bytes());
        FrameHeader::of(Kind::Header, true, 0, time_us, &payload).put(&payload, &mut out);
        out
    }

    /// Reads the payload of a header frame in a file that says that it is of this version.
    pub fn read(payload: &[u8], version: u16) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(payload);
        let store_id = cursor.array("store id")?;
        let number = cursor.length(u32::MAX as usize, "segment number")? as u32;
        let tokenizer = cursor.text(MAX_NAME_BYTES, "tokenizer")?.to_owned();
        if version >= CHECKED_VERSION && cursor.varint("version")? != u64::from(version) {
            return Err(cursor.damage("the version at the start of the file is not the one it was written with"));
        }
        cursor.finish("the header")?;
        Ok(SegmentHeader { store_id, number, tokenizer })
    }
}

/// Where an attached store is; the one frame of a file of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Which store it is.
    pub store_id: [u8; 16],
    /// Where it was when it was attached.
    pub path: String,
    /// The same, as seen from the store that it was attached to.
    pub relative: String,
}

impl Attachment {
    /// The whole file; `header` has the slot as its number.
    pub fn file(&self, header: &SegmentHeader, time_us: u64) -> Vec<u8> {
        let mut payload = self.store_id.to_vec();
        put_bytes(&mut payload, self.path.as_bytes());
        put_bytes(&mut payload, self.relative.as_bytes());
        let mut out = header.file_start(time_us);
        FrameHeader::of(Kind::Attachment, true, 1, time_us, &payload).put(&payload, &mut out);
        out
    }

    /// Reads the payload.
    pub fn read(payload: &[u8]) -> Result<Self, Damage> {
        let mut cursor = Cursor::new(payload);
        let store_id = cursor.array("store id")?;
        let path = cursor.text(MAX_NAME_BYTES, "path")?.to_owned();
        let relative = cursor.text(MAX_NAME_BYTES, "relative path")?.to_owned();
        cursor.finish("the attachment")?;
        Ok(Attachment { store_id, path, relative })
    }
}

/// The version of a file that starts with these bytes.
pub fn file_version(start: [u8; FILE_MAGIC_BYTES]) -> Result<u16, Damage> {
    let [magic @ .., low, high] = start;
    let damage = |what: String| Damage { offset: 0, what };
    match u16::from_le_bytes([low, high]) {
        _ if magic != FILE_MAGIC => {
            Err(damage("the first bytes are not those of a trajectory store's file".to_owned()))
        }
        version @ 1..=FILE_VERSION => Ok(version),
        version => Err(damage(format!(
            "the format is of another version, {version}, and this build reads up to {FILE_VERSION}: use a newer one"
        ))),
    }
}

/// The payload of a [`Kind::Late`] frame (encoded late columns), a [`Kind::Tombstone`] frame (nothing) or a
/// [`Kind::Moved`] frame (the record).
pub fn targeted(target: u64, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 8);
    put_varint(&mut out, target);
    out.extend_from_slice(content);
    out
}

/// The record that such a frame is about, and what it says about it.
pub fn read_targeted(payload: &[u8]) -> Result<(u64, &[u8]), Damage> {
    let mut cursor = Cursor::new(payload);
    let target = cursor.varint("the target's id")?;
    Ok((target, &payload[cursor.offset()..]))
}

/// The last bytes of a sealed file.
pub fn trailer(footer_offset: u64) -> Vec<u8> {
    let mut out = TRAILER_MAGIC.to_vec();
    out.extend_from_slice(&footer_offset.to_le_bytes());
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

/// The footer's offset.
pub fn read_trailer(bytes: &[u8; TRAILER_BYTES]) -> Result<u64, Damage> {
    let mut cursor = Cursor::new(bytes);
    let magic: [u8; 8] = cursor.array("trailer magic")?;
    let offset = u64::from_le_bytes(cursor.array("footer offset")?);
    let crc = u32::from_le_bytes(cursor.array("trailer checksum")?);
    if magic != TRAILER_MAGIC || crc32c::crc32c(&bytes[..TRAILER_BYTES - 4]) != crc {
        return Err(Damage { offset: 0, what: "the sealed file does not end in a trailer: cut or changed".to_owned() });
    }
    Ok(offset)
}
