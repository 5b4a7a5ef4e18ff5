//! Trajectories and late columns to bytes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::xxh3_128;

use super::streams::{
    BEHAVIOR, EncodedStream, LOGPROB_CODE, MONTE_CARLO, PROMPT, PROMPT_AT, RANKS, REFERENCE, RESPONSE, REWARD, SCALARS,
    TABLES_AT, TOKEN_CODE, put_streams,
};
use crate::error::Result;
use crate::trajectory::bytes::{put_float, put_varint};
use crate::trajectory::columns::{self, Precision};
use crate::trajectory::tables::Tables;
use crate::trajectory::{Late, Trajectory, scalars};

/// A shared prompt replaces an offset and a frame's header, so a short one is no gain.
const MIN_SHARED_BYTES: usize = 64;
/// Fewer numbers are not worth the lengths of streams that a prefix code takes.
const MIN_CODED: usize = 64;
/// More tokens repeat one another so much that what looks for repetitions may do better than a prefix code.
const MAX_SURELY_CODED: usize = 1 << 12;
/// Encoded prompts that are remembered.
const MAX_PROMPTS: usize = 1 << 10;

/// How columns are encoded; the default is exact and needs nothing from elsewhere.
#[derive(Clone, Default)]
pub struct Coding {
    /// By which tokens and logprobs are coded, if by any.
    pub tables: Option<Arc<Tables>>,
    /// How exactly logprobs are kept.
    pub precision: Precision,
}

/// Where parts of a record are, that may be outside it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Places {
    /// Offset of the frame with the prompt; `None` if it is in the record.
    pub prompt: Option<u32>,
    /// Offset of the frame with the tables; `None` if nothing is coded by any.
    pub tables: Option<u32>,
}

/// An encoded prompt, which many records may have.
pub struct Prompt {
    /// Tells prompts apart.
    pub key: u128,
    stream: EncodedStream,
}

impl Prompt {
    /// Whether a frame of its own may save something.
    pub fn is_shareable(&self) -> bool {
        self.stream.stored.len() >= MIN_SHARED_BYTES
    }

    /// What the frame of its own holds.
    pub fn frame(&self, tables: Option<u32>) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.stream.stored.len() + 16);
        let tables = tables.map(|at| place(TABLES_AT, at));
        put_streams(tables.iter().chain([&self.stream]), &mut out);
        out
    }
}

/// Prompts that were encoded lately: those of one problem come together.
#[derive(Default)]
pub struct Prompts(Mutex<HashMap<u128, Arc<Prompt>>>);

impl Prompts {
    fn encode(&self, tokens: &[i32], tables: Option<&Tables>) -> Result<Arc<Prompt>> {
        let key = xxh3_128(bytemuck::cast_slice(tokens)) ^ u128::from(tables.is_some());
        let lock = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(prompt) = lock().get(&key) {
            return Ok(prompt.clone());
        }
        let stream = EncodedStream::new(PROMPT, columns::tokens(tokens, tables.map(|tables| &tables.ranks)))?;
        let prompt = Arc::new(Prompt { key, stream });
        let mut known = lock();
        if known.len() >= MAX_PROMPTS {
            known.clear();
        }
        known.insert(key, prompt.clone());
        Ok(prompt)
    }
}

/// A trajectory's streams, compressed, before it is decided where the prompt goes.
pub struct Encoded {
    /// Its prompt; late columns have none.
    pub prompt: Option<Arc<Prompt>>,
    /// By which it is coded, if by any.
    pub tables: Option<Arc<Tables>>,
    streams: Vec<EncodedStream>,
}

impl Encoded {
    /// Encodes a trajectory, which must be valid ([`Trajectory::validate`]).
    pub fn new(trajectory: &Trajectory, coding: &Coding, prompts: &Prompts) -> Result<Self> {
        let tables = coding.tables.as_deref();
        let prompt = Some(prompts.encode(&trajectory.prompt_tokens, tables)?);
        let mut streams = vec![
            EncodedStream::new(SCALARS, scalars::put(trajectory))?,
            response(&trajectory.response_tokens, tables)?,
        ];
        for (tag, column) in [(BEHAVIOR, &trajectory.behavior_logprobs), (REFERENCE, &trajectory.reference_logprobs)] {
            if let Some(column) = column {
                streams.push(logprobs(tag, column, coding.precision, tables)?);
            }
        }
        if let Some(counts) = &trajectory.mc_successes {
            streams.push(EncodedStream::new(MONTE_CARLO, counts.put())?);
        }
        Ok(Encoded { prompt, tables: coding.tables.clone(), streams })
    }

    /// Encodes late columns, which must be valid ([`Late::validate`]).
    pub fn late(late: &Late, precision: Precision) -> Result<Self> {
        let mut streams = Vec::new();
        if let Some(column) = &late.reference_logprobs {
            streams.push(logprobs(REFERENCE, column, precision, None)?);
        }
        if let Some(counts) = &late.mc_successes {
            streams.push(EncodedStream::new(MONTE_CARLO, counts.put())?);
        }
        if let Some(reward) = late.reward {
            let mut raw = Vec::new();
            put_float(&mut raw, reward);
            streams.push(EncodedStream::new(REWARD, raw)?);
        }
        Ok(Encoded { prompt: None, tables: None, streams })
    }

    /// Bytes of the streams, at most.
    pub fn num_bytes(&self) -> usize {
        let prompt = self.prompt.as_ref().map_or(0, |prompt| prompt.stream.stored.len());
        prompt + self.streams.iter().map(|stream| stream.stored.len() + 12).sum::<usize>()
    }

    /// Appends the record.
    pub fn put(&self, places: Places, out: &mut Vec<u8>) {
        let tables = places.tables.map(|at| place(TABLES_AT, at));
        let elsewhere = places.prompt.map(|at| place(PROMPT_AT, at));
        let prompt = elsewhere.as_ref().or(self.prompt.as_ref().map(|prompt| &prompt.stream));
        put_streams(tables.iter().chain(prompt).chain(&self.streams), out);
    }
}

/// What a frame of tables holds.
pub fn tables_frame(tables: &Tables) -> Result<Vec<u8>> {
    let mut streams = vec![EncodedStream::new(RANKS, tables.ranks.put())?];
    for (tag, code) in [(TOKEN_CODE, &tables.tokens), (LOGPROB_CODE, &tables.logprobs)] {
        if let Some(code) = code {
            streams.push(EncodedStream::new(tag, code.put())?);
        }
    }
    let mut out = Vec::new();
    put_streams(streams.iter(), &mut out);
    Ok(out)
}

/// A stream that says where something is.
pub(super) fn place(tag: u8, offset: u32) -> EncodedStream {
    let mut raw = Vec::new();
    put_varint(&mut raw, u64::from(offset));
    EncodedStream::raw(tag, raw)
}

fn response(tokens: &[i32], tables: Option<&Tables>) -> Result<EncodedStream> {
    let plain = || EncodedStream::new(RESPONSE, columns::tokens(tokens, tables.map(|tables| &tables.ranks)));
    let coded = tables.filter(|_| tokens.len() >= MIN_CODED).and_then(|tables| columns::coded_tokens(tokens, tables));
    let Some(coded) = coded.map(|coded| EncodedStream::coded(RESPONSE, coded)) else { return plain() };
    // A code that was learned from other tokens than these shows by how much it takes.
    if tokens.len() <= MAX_SURELY_CODED && 2 * coded.stored.len() < 3 * tokens.len() {
        return Ok(coded);
    }
    let plain = plain()?;
    Ok(if plain.stored.len() < coded.stored.len() { plain } else { coded })
}

fn logprobs(tag: u8, column: &[f32], precision: Precision, tables: Option<&Tables>) -> Result<EncodedStream> {
    let code = tables.and_then(|tables| tables.logprobs.as_ref()).filter(|_| column.len() >= MIN_CODED);
    if let Some(coded) = code.and_then(|code| columns::coded_floats(column, precision, code)) {
        return Ok(EncodedStream::coded(tag, coded));
    }
    EncodedStream::split(tag, columns::floats(column, precision), column.len())
}
