//! Streams: their tags, and how their bytes are stored.

use std::borrow::Cow;

use crate::error::{Error, Result};
use crate::trajectory::MAX_TOKENS;
use crate::trajectory::bytes::{Cursor, Damage, put_varint};
use crate::trajectory::compression::{compress, decompress, entropy_code};

/// Version of the record's layout. Earlier ones had fewer streams and codecs, and longer directories; they are read all the
/// same.
const RECORD_VERSION: u8 = 5;
const OLDEST_VERSION: u8 = 1;
/// The last version whose directory has tag and codec in a byte each, and both lengths always.
const LONG_DIRECTORY: u8 = 3;
const CODEC_BITS: u8 = 2;
/// Most bytes of one stream before compression: a response of [`MAX_TOKENS`] five-byte tokens, or as much metadata.
pub const MAX_STREAM_BYTES: usize = 5 * MAX_TOKENS;
/// Most bytes of an encoded record.
pub const MAX_RECORD_BYTES: usize = 6 * MAX_STREAM_BYTES + 256;

pub const SCALARS: u8 = 1;
pub const PROMPT: u8 = 2;
pub const RESPONSE: u8 = 3;
pub const BEHAVIOR: u8 = 4;
pub const REFERENCE: u8 = 5;
/// Instead of [`PROMPT`].
pub const PROMPT_AT: u8 = 6;
pub const MONTE_CARLO: u8 = 7;
/// Of late columns alone.
pub const REWARD: u8 = 8;
/// Where the tables are by which tokens and logprobs are coded.
pub const TABLES_AT: u8 = 9;
/// Of a frame of tables alone, like the next two: the ranks of tokens,
pub const RANKS: u8 = 10;
/// the prefix code of ranks,
pub const TOKEN_CODE: u8 = 11;
/// and that of the first bytes of logprobs.
pub const LOGPROB_CODE: u8 = 12;
const STREAMS: usize = 7;

const RAW: u8 = 0;
/// A zstd frame.
const ZSTD: u8 = 1;
/// The length of a zstd frame with the first part, the frame, and the rest as it is.
const SPLIT: u8 = 2;
/// By the prefix codes of the tables; the directory has no raw length of it.
const CODED: u8 = 3;
/// Less than this is not worth a compressor's time.
const MIN_COMPRESSED: usize = 200;

/// A stream, stored.
#[derive(Clone)]
pub struct EncodedStream {
    pub tag: u8,
    codec: u8,
    raw_length: usize,
    pub stored: Vec<u8>,
}

impl EncodedStream {
    /// Compressed, where that makes it smaller.
    pub fn new(tag: u8, raw: Vec<u8>) -> Result<Self> {
        check_size(raw.len())?;
        if raw.len() >= MIN_COMPRESSED {
            let stored = compress(&raw)?;
            if stored.len() < raw.len() {
                return Ok(EncodedStream { tag, codec: ZSTD, raw_length: raw.len(), stored });
            }
        }
        Ok(Self::raw(tag, raw))
    }

    /// As it is.
    pub fn raw(tag: u8, raw: Vec<u8>) -> Self {
        EncodedStream { tag, codec: RAW, raw_length: raw.len(), stored: raw }
    }

    /// Coded by tables already.
    pub fn coded(tag: u8, stored: Vec<u8>) -> Self {
        EncodedStream { tag, codec: CODED, raw_length: stored.len(), stored }
    }

    /// The first `head` bytes compressed, where that makes them smaller; the rest hardly would be.
    pub fn split(tag: u8, raw: Vec<u8>, head: usize) -> Result<Self> {
        check_size(raw.len())?;
        if head >= MIN_COMPRESSED {
            let compressed = entropy_code(&raw[..head])?;
            if compressed.len() < head {
                let mut stored = Vec::with_capacity(compressed.len() + raw.len() - head + 5);
                put_varint(&mut stored, compressed.len() as u64);
                stored.extend_from_slice(&compressed);
                stored.extend_from_slice(&raw[head..]);
                return Ok(EncodedStream { tag, codec: SPLIT, raw_length: raw.len(), stored });
            }
        }
        Ok(Self::raw(tag, raw))
    }

    /// Appends what the directory says of it.
    pub fn put_entry(&self, out: &mut Vec<u8>) {
        out.push(self.tag << CODEC_BITS | self.codec);
        put_varint(out, self.stored.len() as u64);
        if !matches!(self.codec, RAW | CODED) {
            put_varint(out, self.raw_length as u64);
        }
    }
}

fn check_size(raw: usize) -> Result<()> {
    match raw <= MAX_STREAM_BYTES {
        true => Ok(()),
        false => Err(Error::invalid(format!("metadata takes {raw} bytes, the limit is {MAX_STREAM_BYTES}"))),
    }
}

/// Appends a directory and its streams.
pub fn put_streams<'a>(streams: impl Iterator<Item = &'a EncodedStream> + Clone, out: &mut Vec<u8>) {
    out.extend_from_slice(&[RECORD_VERSION, streams.clone().count() as u8]);
    streams.clone().for_each(|stream| stream.put_entry(out));
    streams.for_each(|stream| out.extend_from_slice(&stream.stored));
}

/// A stream in a record.
pub struct Stream<'a> {
    pub tag: u8,
    codec: u8,
    raw_length: usize,
    offset: usize,
    stored: &'a [u8],
}

impl<'a> Stream<'a> {
    /// What tables are needed to decode, if they are.
    pub fn coded(&self) -> Option<&'a [u8]> {
        (self.codec == CODED).then_some(self.stored)
    }

    /// Its content, unless it is [`Self::coded`].
    pub fn content(&self) -> Result<Cow<'a, [u8]>, Damage> {
        match self.codec {
            RAW if self.stored.len() == self.raw_length => Ok(Cow::Borrowed(self.stored)),
            RAW => Err(self.damage(format!("raw stream {} has two different lengths", self.tag))),
            ZSTD => self.unpack(self.stored, self.raw_length, self.raw_length).map(Cow::Owned),
            SPLIT => {
                let mut cursor = Cursor::new(self.stored);
                let length = cursor.length(self.stored.len(), "length of the first part")?;
                let head = cursor.take(length, "first part")?;
                let tail = &self.stored[cursor.offset()..];
                let size = self.raw_length.checked_sub(tail.len());
                let size = size.ok_or_else(|| self.damage(format!("stream {} exceeds its length", self.tag)))?;
                let mut content = self.unpack(head, size, self.raw_length)?;
                content.extend_from_slice(tail);
                Ok(Cow::Owned(content))
            }
            CODED => Err(self.damage(format!("the tables of stream {} are missing", self.tag))),
            other => Err(self.damage(format!("stream {} has the unknown codec {other}", self.tag))),
        }
    }

    /// The same to be put into a record again.
    pub fn encoded(&self) -> EncodedStream {
        let Stream { tag, codec, raw_length, stored, .. } = *self;
        EncodedStream { tag, codec, raw_length, stored: stored.to_vec() }
    }

    /// The `length` bytes that are in a zstd frame, in a vector with room for `capacity`.
    fn unpack(&self, stored: &[u8], length: usize, capacity: usize) -> Result<Vec<u8>, Damage> {
        let raw = decompress(stored, capacity)
            .map_err(|error| self.damage(format!("stream {} does not decompress: {error}", self.tag)))?;
        match raw.len() == length {
            true => Ok(raw),
            false => {
                let got = raw.len();
                Err(self.damage(format!("stream {} has {got} bytes, {length} were announced", self.tag)))
            }
        }
    }

    fn damage(&self, what: String) -> Damage {
        Damage { offset: self.offset, what }
    }
}

/// The streams of a record.
pub fn directory(bytes: &[u8]) -> Result<Vec<Stream<'_>>, Damage> {
    let mut cursor = Cursor::new(bytes);
    let version = cursor.byte("record version")?;
    if !(OLDEST_VERSION..=RECORD_VERSION).contains(&version) {
        return Err(cursor.damage(format!("record version {version}, this build reads up to {RECORD_VERSION}")));
    }
    let count = usize::from(cursor.byte("stream count")?);
    if count > STREAMS {
        return Err(cursor.damage(format!("{count} streams, a record has at most {STREAMS}")));
    }
    let mut streams: Vec<Stream<'_>> = Vec::with_capacity(count);
    for _ in 0..count {
        let Entry { tag, codec, raw_length, stored_length } = Entry::read(version, &mut cursor)?;
        let known = (SCALARS..=LOGPROB_CODE).contains(&tag);
        if !known || streams.iter().any(|other| other.tag == tag) {
            return Err(cursor.damage(format!("stream tag {tag} is unknown or repeated")));
        }
        // Its length, until it is known where it begins.
        streams.push(Stream { tag, codec, raw_length, offset: stored_length, stored: &[] });
    }
    for stream in &mut streams {
        let length = std::mem::replace(&mut stream.offset, cursor.offset());
        stream.stored = cursor.take(length, "stream")?;
    }
    cursor.finish("the last stream")?;
    Ok(streams)
}

struct Entry {
    tag: u8,
    codec: u8,
    raw_length: usize,
    stored_length: usize,
}

impl Entry {
    fn read(version: u8, cursor: &mut Cursor<'_>) -> Result<Self, Damage> {
        let raw = |cursor: &mut Cursor<'_>| cursor.length(MAX_STREAM_BYTES, "raw stream length");
        let stored = |cursor: &mut Cursor<'_>| cursor.length(MAX_STREAM_BYTES + 8, "stored stream length");
        let tag = cursor.byte("stream tag")?;
        if version <= LONG_DIRECTORY {
            let codec = cursor.byte("stream codec")?;
            return Ok(Entry { tag, codec, raw_length: raw(cursor)?, stored_length: stored(cursor)? });
        }
        let (tag, codec) = (tag >> CODEC_BITS, tag & ((1 << CODEC_BITS) - 1));
        let stored_length = stored(cursor)?;
        let raw_length = if matches!(codec, RAW | CODED) { stored_length } else { raw(cursor)? };
        Ok(Entry { tag, codec, raw_length, stored_length })
    }
}
