//! The encoding of one trajectory: a directory of streams, then the streams. Scalars, prompt, response and each later
//! column are separate streams, so that a reader decompresses only the columns it wants. A stream is a standard zstd
//! frame where that is smaller, else raw bytes. No checksum: whoever frames the record adds it.
//!
//! A store keeps a prompt that many records share once: then the record has, instead of the prompt, the place of a frame
//! with it. Columns that come late ([`Late`]) are encoded the same way, alone.
//!
//! ```text
//! version:u8  count:u8  count × { tag:u8  codec:u8  raw_length:varint  stored_length:varint }  streams…
//! ```

use super::bytes::{Cursor, Damage, put_float, put_varint};
use super::compression::{compress, decompress};
use super::{Late, MAX_TOKENS, MonteCarlo, Trajectory, columns, scalars};
use crate::error::{Error, Result};

/// Version of the record's layout. Version 1 had fewer streams, and is read all the same.
pub const RECORD_VERSION: u8 = 2;
const OLDEST_VERSION: u8 = 1;
/// Most bytes of one stream before compression: a response of [`MAX_TOKENS`] five-byte tokens, or as much metadata.
pub const MAX_STREAM_BYTES: usize = 5 * MAX_TOKENS;
/// Most bytes of an encoded record.
pub const MAX_RECORD_BYTES: usize = 6 * MAX_STREAM_BYTES + 128;

const SCALARS: u8 = 1;
const PROMPT: u8 = 2;
const RESPONSE: u8 = 3;
const BEHAVIOR: u8 = 4;
const REFERENCE: u8 = 5;
const PROMPT_AT: u8 = 6;
const MONTE_CARLO: u8 = 7;
const REWARD: u8 = 8;
const STREAMS: usize = 6;

const RAW: u8 = 0;
const ZSTD: u8 = 1;

/// Which streams a reader wants; the scalars always come along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Columns {
    /// Decode the prompt's tokens.
    pub prompt: bool,
    /// Decode the response's tokens.
    pub response: bool,
    /// Decode the logprobs under the behaviour policy.
    pub behavior: bool,
    /// Decode the logprobs under the reference policy.
    pub reference: bool,
    /// Decode the Monte-Carlo counts.
    pub monte_carlo: bool,
}

impl Columns {
    /// Everything.
    pub const ALL: Columns =
        Columns { prompt: true, response: true, behavior: true, reference: true, monte_carlo: true };
    /// Scalars alone.
    pub const SCALARS: Columns =
        Columns { prompt: false, response: false, behavior: false, reference: false, monte_carlo: false };
}

/// Which of the columns that need not be there are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Present(u8);

impl Present {
    /// Logprobs under the behaviour policy.
    pub const BEHAVIOR: Present = Present(1);
    /// Logprobs under the reference policy.
    pub const REFERENCE: Present = Present(2);
    /// Monte-Carlo counts.
    pub const MONTE_CARLO: Present = Present(4);
    /// A revised reward (of [`Late`] alone).
    pub const REWARD: Present = Present(8);

    /// From [`Self::bits`]; `None` for bits of another version.
    pub fn from_bits(bits: u8) -> Option<Self> {
        (bits < 16).then_some(Present(bits))
    }

    /// As a number.
    pub fn bits(self) -> u8 {
        self.0
    }

    /// Whether all that `other` has is there.
    pub fn has(self, other: Present) -> bool {
        self.0 & other.0 == other.0
    }

    /// The columns alone that make up a set.
    pub fn each(self) -> impl Iterator<Item = Present> {
        (0..4).map(|bit| Present(1 << bit)).filter(move |&one| self.has(one))
    }

    /// What a trajectory has.
    pub fn of(trajectory: &Trajectory) -> Self {
        Present::default()
            .with(Present::BEHAVIOR, trajectory.behavior_logprobs.is_some())
            .with(Present::REFERENCE, trajectory.reference_logprobs.is_some())
            .with(Present::MONTE_CARLO, trajectory.mc_successes.is_some())
    }

    /// What late columns have.
    pub fn of_late(late: &Late) -> Self {
        Present::default()
            .with(Present::REFERENCE, late.reference_logprobs.is_some())
            .with(Present::MONTE_CARLO, late.mc_successes.is_some())
            .with(Present::REWARD, late.reward.is_some())
    }

    fn of_streams(streams: &[Stream<'_>]) -> Self {
        let there = |tag: u8| streams.iter().any(|stream| stream.tag == tag);
        Present::default()
            .with(Present::BEHAVIOR, there(BEHAVIOR))
            .with(Present::REFERENCE, there(REFERENCE))
            .with(Present::MONTE_CARLO, there(MONTE_CARLO))
            .with(Present::REWARD, there(REWARD))
    }

    /// With `other` as well, if it is there.
    pub fn with(self, other: Present, there: bool) -> Self {
        Present(self.0 | if there { other.0 } else { 0 })
    }
}

/// A shared prompt replaces an offset and a frame's header, so a short one is no gain.
const MIN_SHARED_BYTES: usize = 64;

/// Where the prompt of an encoded record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prompt {
    /// In the record.
    Inline,
    /// In a frame of its own at this offset of the record's file.
    At(u32),
}

/// A trajectory's streams, compressed, before it is decided where the prompt goes.
pub struct Encoded {
    streams: Vec<EncodedStream>,
}

struct EncodedStream {
    tag: u8,
    codec: u8,
    raw_length: usize,
    stored: Vec<u8>,
}

impl Encoded {
    /// Encodes a trajectory, which must be valid ([`Trajectory::validate`]).
    pub fn new(trajectory: &Trajectory) -> Result<Self> {
        let mut streams = vec![
            EncodedStream::new(SCALARS, scalars::put(trajectory))?,
            EncodedStream::new(PROMPT, columns::tokens(&trajectory.prompt_tokens))?,
            EncodedStream::new(RESPONSE, columns::tokens(&trajectory.response_tokens))?,
        ];
        for (tag, column) in [(BEHAVIOR, &trajectory.behavior_logprobs), (REFERENCE, &trajectory.reference_logprobs)] {
            if let Some(column) = column {
                streams.push(EncodedStream::new(tag, columns::floats(column))?);
            }
        }
        if let Some(counts) = &trajectory.mc_successes {
            streams.push(EncodedStream::new(MONTE_CARLO, counts.put())?);
        }
        Ok(Encoded { streams })
    }

    /// Encodes late columns, which must be valid ([`Late::validate`]).
    pub fn late(late: &Late) -> Result<Self> {
        let mut streams = Vec::new();
        if let Some(column) = &late.reference_logprobs {
            streams.push(EncodedStream::new(REFERENCE, columns::floats(column))?);
        }
        if let Some(counts) = &late.mc_successes {
            streams.push(EncodedStream::new(MONTE_CARLO, counts.put())?);
        }
        if let Some(reward) = late.reward {
            let mut raw = Vec::new();
            put_float(&mut raw, reward);
            streams.push(EncodedStream::new(REWARD, raw)?);
        }
        Ok(Encoded { streams })
    }

    /// Bytes of the streams.
    pub fn num_bytes(&self) -> usize {
        self.streams.iter().map(|stream| stream.stored.len()).sum()
    }

    /// The prompt as a frame of its own holds it, if sharing it may save something.
    pub fn shareable_prompt(&self) -> Option<Vec<u8>> {
        let prompt =
            self.streams.iter().find(|stream| stream.tag == PROMPT && stream.stored.len() >= MIN_SHARED_BYTES)?;
        let mut out = Vec::with_capacity(prompt.stored.len() + 8);
        out.extend_from_slice(&[RECORD_VERSION, 1]);
        prompt.put_entry(&mut out);
        out.extend_from_slice(&prompt.stored);
        Some(out)
    }

    /// Appends the record.
    pub fn put(&self, prompt: Prompt, out: &mut Vec<u8>) {
        self.put_with(RECORD_VERSION, PROMPT, prompt, out);
    }

    /// Appends the record in this version, the prompt in the place of the stream `replaced`.
    fn put_with(&self, version: u8, replaced: u8, prompt: Prompt, out: &mut Vec<u8>) {
        let mut place = Vec::new();
        if let Prompt::At(offset) = prompt {
            put_varint(&mut place, u64::from(offset));
        }
        let place = EncodedStream { tag: PROMPT_AT, codec: RAW, raw_length: place.len(), stored: place };
        let chosen = |stream| match prompt {
            Prompt::At(_) if (stream as &EncodedStream).tag == replaced => &place,
            _ => stream,
        };
        out.extend_from_slice(&[version, self.streams.len() as u8]);
        for stream in self.streams.iter().map(chosen) {
            stream.put_entry(out);
        }
        for stream in self.streams.iter().map(chosen) {
            out.extend_from_slice(&stream.stored);
        }
    }
}

impl EncodedStream {
    fn new(tag: u8, raw: Vec<u8>) -> Result<Self> {
        let raw_length = raw.len();
        if raw_length > MAX_STREAM_BYTES {
            return Err(Error::invalid(format!("metadata takes {raw_length} bytes, the limit is {MAX_STREAM_BYTES}")));
        }
        let compressed = compress(&raw)?;
        let (codec, stored) = if compressed.len() < raw_length { (ZSTD, compressed) } else { (RAW, raw) };
        Ok(EncodedStream { tag, codec, raw_length, stored })
    }

    fn put_entry(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&[self.tag, self.codec]);
        put_varint(out, self.raw_length as u64);
        put_varint(out, self.stored.len() as u64);
    }
}

/// A record, which lacks its prompt if that is elsewhere.
pub struct Decoded {
    /// The trajectory.
    pub trajectory: Trajectory,
    /// Where its prompt is, if that is wanted and not in the record: offset of the frame, and number of tokens.
    pub prompt_at: Option<(u32, usize)>,
}

impl Decoded {
    /// The trajectory, where no frame but the record itself can hold its prompt.
    pub fn whole(self) -> Result<Trajectory, Damage> {
        match self.prompt_at {
            None => Ok(self.trajectory),
            Some(_) => Err(Damage { offset: 0, what: "the record's prompt is not in it".to_owned() }),
        }
    }
}

/// Decodes a record. Columns that are not wanted come back empty (tokens) or absent (logprobs).
pub fn decode(bytes: &[u8], columns: Columns) -> Result<Decoded, Damage> {
    let streams = directory(bytes)?;
    let find = |tag: u8| streams.iter().find(|stream| stream.tag == tag);
    let required =
        |tag: u8, what: &str| find(tag).ok_or_else(|| Damage { offset: 0, what: format!("the record has no {what}") });
    let (mut trajectory, prompt, response) = scalars::read(&required(SCALARS, "scalars")?.content()?)?;
    let mut prompt_at = None;
    match find(PROMPT_AT) {
        _ if !columns.prompt => {}
        Some(stream) => prompt_at = Some((read_place(&stream.content()?)?, prompt)),
        None => trajectory.prompt_tokens = columns::read_tokens(&required(PROMPT, "prompt")?.content()?, prompt)?,
    }
    if columns.response {
        trajectory.response_tokens = columns::read_tokens(&required(RESPONSE, "response")?.content()?, response)?;
    }
    let logprobs = |wanted: bool, tag: u8| match find(tag) {
        Some(stream) if wanted => Ok(Some(columns::read_floats(&stream.content()?, response)?)),
        _ => Ok(None),
    };
    trajectory.behavior_logprobs = logprobs(columns.behavior, BEHAVIOR)?;
    trajectory.reference_logprobs = logprobs(columns.reference, REFERENCE)?;
    if let Some(stream) = find(MONTE_CARLO).filter(|_| columns.monte_carlo) {
        trajectory.mc_successes = Some(MonteCarlo::read(&stream.content()?)?);
    }
    Ok(Decoded { trajectory, prompt_at })
}

/// The tokens of a shared prompt, of which there must be `count`.
pub fn decode_prompt(bytes: &[u8], count: usize) -> Result<Vec<i32>, Damage> {
    match directory(bytes)?.as_slice() {
        [stream] if stream.tag == PROMPT => columns::read_tokens(&stream.content()?, count),
        _ => Err(Damage { offset: 0, what: "the frame holds something else than a prompt".to_owned() }),
    }
}

/// Where a record's prompt is, if it is not in the record.
pub fn prompt_at(bytes: &[u8]) -> Result<Option<u32>, Damage> {
    let streams = directory(bytes)?;
    let place = streams.iter().find(|stream| stream.tag == PROMPT_AT);
    place.map(|stream| read_place(&stream.content()?)).transpose()
}

/// The record, with its prompt in the place that `new` gives for the one where it was, if it is not in the record.
pub fn move_prompt(bytes: &[u8], new: impl FnOnce(u32) -> u32) -> Result<Vec<u8>, Damage> {
    let Some(old) = prompt_at(bytes)? else { return Ok(bytes.to_vec()) };
    let streams = directory(bytes)?.into_iter().map(|Stream { tag, codec, raw_length, stored, .. }| {
        let stored = stored.to_vec();
        EncodedStream { tag, codec, raw_length, stored }
    });
    let mut out = Vec::with_capacity(bytes.len() + 4);
    let encoded = Encoded { streams: streams.collect() };
    encoded.put_with(bytes[0], PROMPT_AT, Prompt::At(new(old)), &mut out);
    Ok(out)
}

fn read_place(bytes: &[u8]) -> Result<u32, Damage> {
    let mut cursor = Cursor::new(bytes);
    let offset = cursor.length(u32::MAX as usize, "the prompt's offset")?;
    cursor.finish("the prompt's offset")?;
    Ok(offset as u32)
}

/// Decodes those of the late columns that are wanted, of a response of `response` tokens.
pub fn decode_late(bytes: &[u8], response: usize, wanted: Present) -> Result<Late, Damage> {
    let mut late = Late::default();
    for stream in directory(bytes)? {
        match stream.tag {
            REFERENCE if wanted.has(Present::REFERENCE) => {
                late.reference_logprobs = Some(columns::read_floats(&stream.content()?, response)?);
            }
            MONTE_CARLO if wanted.has(Present::MONTE_CARLO) => {
                late.mc_successes = Some(MonteCarlo::read(&stream.content()?)?);
            }
            REWARD if wanted.has(Present::REWARD) => {
                let content = stream.content()?;
                let mut cursor = Cursor::new(&content);
                late.reward = Some(cursor.float("reward")?);
                cursor.finish("the reward")?;
            }
            _ => {}
        }
    }
    Ok(late)
}

/// The columns of encoded late columns.
pub fn late_columns(bytes: &[u8]) -> Result<Present, Damage> {
    Ok(Present::of_streams(&directory(bytes)?))
}

/// A record without its columns.
pub struct Scalars {
    /// The trajectory, all its columns empty.
    pub trajectory: Trajectory,
    /// Tokens of its prompt.
    pub prompt: usize,
    /// Tokens of its response.
    pub response: usize,
    /// Which columns it has.
    pub present: Present,
}

/// The scalars of a record; decompresses nothing else.
pub fn decode_scalars(bytes: &[u8]) -> Result<Scalars, Damage> {
    let streams = directory(bytes)?;
    let scalars = streams.iter().find(|stream| stream.tag == SCALARS);
    let scalars = scalars.ok_or_else(|| Damage { offset: 0, what: "the record has no scalars".to_owned() })?;
    let (trajectory, prompt, response) = scalars::read(&scalars.content()?)?;
    Ok(Scalars { trajectory, prompt, response, present: Present::of_streams(&streams) })
}

struct Stream<'a> {
    tag: u8,
    codec: u8,
    raw_length: usize,
    offset: usize,
    stored: &'a [u8],
}

impl Stream<'_> {
    fn content(&self) -> Result<Vec<u8>, Damage> {
        let damage = |what: String| Damage { offset: self.offset, what };
        match self.codec {
            RAW if self.stored.len() == self.raw_length => Ok(self.stored.to_vec()),
            RAW => Err(damage(format!("raw stream {} has two different lengths", self.tag))),
            ZSTD => {
                let raw = decompress(self.stored, self.raw_length)
                    .map_err(|error| damage(format!("stream {} does not decompress: {error}", self.tag)))?;
                if raw.len() != self.raw_length {
                    let (got, said) = (raw.len(), self.raw_length);
                    return Err(damage(format!("stream {} has {got} bytes, {said} were announced", self.tag)));
                }
                Ok(raw)
            }
            other => Err(damage(format!("stream {} has the unknown codec {other}", self.tag))),
        }
    }
}

fn directory(bytes: &[u8]) -> Result<Vec<Stream<'_>>, Damage> {
    let mut cursor = Cursor::new(bytes);
    let version = cursor.byte("record version")?;
    if !(OLDEST_VERSION..=RECORD_VERSION).contains(&version) {
        return Err(cursor.damage(format!("record version {version}, this build reads up to {RECORD_VERSION}")));
    }
    let count = usize::from(cursor.byte("stream count")?);
    if count > STREAMS {
        return Err(cursor.damage(format!("{count} streams, a record has at most {STREAMS}")));
    }
    let mut entries: Vec<(u8, u8, usize, usize)> = Vec::with_capacity(count);
    for _ in 0..count {
        let tag = cursor.byte("stream tag")?;
        let codec = cursor.byte("stream codec")?;
        let raw_length = cursor.length(MAX_STREAM_BYTES, "raw stream length")?;
        let stored_length = cursor.length(MAX_STREAM_BYTES, "stored stream length")?;
        let known = (SCALARS..=REWARD).contains(&tag);
        if !known || entries.iter().any(|&(other, ..)| other == tag) {
            return Err(cursor.damage(format!("stream tag {tag} is unknown or repeated")));
        }
        entries.push((tag, codec, raw_length, stored_length));
    }
    let mut streams = Vec::with_capacity(count);
    for (tag, codec, raw_length, stored_length) in entries {
        let offset = cursor.offset();
        let stored = cursor.take(stored_length, "stream")?;
        streams.push(Stream { tag, codec, raw_length, offset, stored });
    }
    cursor.finish("the last stream")?;
    Ok(streams)
}
