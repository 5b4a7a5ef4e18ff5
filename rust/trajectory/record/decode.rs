//! Bytes to trajectories and late columns.

use super::encode::{Places, place};
use super::present::{Columns, Present};
use super::streams::{
    BEHAVIOR, EncodedStream, MONTE_CARLO, PROMPT, PROMPT_AT, RANKS, RANKS_AT, REFERENCE, RESPONSE, REWARD, SCALARS,
    Stream, directory, put_streams,
};
use crate::trajectory::bytes::{Cursor, Damage};
use crate::trajectory::columns::{read_floats, read_tokens};
use crate::trajectory::ranks::Ranks;
use crate::trajectory::{Late, MonteCarlo, Trajectory, scalars};

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

/// Decodes a record that needs nothing from elsewhere but perhaps its prompt.
pub fn decode(bytes: &[u8], columns: Columns) -> Result<Decoded, Damage> {
    Record::parse(bytes)?.decode(columns, None)
}

/// Streams that belong together: a record, a shared prompt, ranks, or late columns.
pub struct Record<'a>(Vec<Stream<'a>>);

impl<'a> Record<'a> {
    /// Reads the directory.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Damage> {
        Ok(Record(directory(bytes)?))
    }

    /// Where the parts are that are not in it.
    pub fn places(&self) -> Result<Places, Damage> {
        let place = |tag| self.find(tag).map(|stream| read_place(&stream.content()?)).transpose();
        Ok(Places { prompt: place(PROMPT_AT)?, ranks: place(RANKS_AT)? })
    }

    /// Which of the columns that need not be there are there.
    pub fn present(&self) -> Present {
        Present::of_tags(|tag| self.find(tag).is_some())
    }

    /// Decodes a record; `ranks` are those that [`Self::places`] tells of. Columns that are not wanted come back empty
    /// (tokens) or absent (logprobs).
    pub fn decode(&self, columns: Columns, ranks: Option<&Ranks>) -> Result<Decoded, Damage> {
        let Scalars { mut trajectory, prompt, response, .. } = self.scalars()?;
        let mut prompt_at = None;
        if columns.prompt {
            match self.places()?.prompt {
                Some(at) => prompt_at = Some((at, prompt)),
                None => self.tokens(PROMPT, prompt, ranks, &mut trajectory.prompt_tokens)?,
            }
        }
        if columns.response {
            self.tokens(RESPONSE, response, ranks, &mut trajectory.response_tokens)?;
        }
        let logprobs = |wanted: bool, tag: u8| match self.find(tag) {
            Some(stream) if wanted => Ok(Some(read_floats(&stream.content()?, response)?)),
            _ => Ok(None),
        };
        trajectory.behavior_logprobs = logprobs(columns.behavior, BEHAVIOR)?;
        trajectory.reference_logprobs = logprobs(columns.reference, REFERENCE)?;
        if let Some(stream) = self.find(MONTE_CARLO).filter(|_| columns.monte_carlo) {
            trajectory.mc_successes = Some(MonteCarlo::read(&stream.content()?)?);
        }
        Ok(Decoded { trajectory, prompt_at })
    }

    /// The scalars of a record; decompresses nothing else.
    pub fn scalars(&self) -> Result<Scalars, Damage> {
        let (trajectory, prompt, response) = scalars::read(&self.required(SCALARS, "scalars")?.content()?)?;
        Ok(Scalars { trajectory, prompt, response, present: self.present() })
    }

    /// Appends the tokens of the prompt, of which there must be `count`.
    pub fn prompt(&self, count: usize, ranks: Option<&Ranks>, out: &mut Vec<i32>) -> Result<(), Damage> {
        self.tokens(PROMPT, count, ranks, out)
    }

    /// Appends the tokens of the response, of which there must be `count`.
    pub fn response(&self, count: usize, ranks: Option<&Ranks>, out: &mut Vec<i32>) -> Result<(), Damage> {
        self.tokens(RESPONSE, count, ranks, out)
    }

    /// Ranks, to decode with.
    pub fn ranks(&self) -> Result<Ranks, Damage> {
        Ranks::read(&self.required(RANKS, "ranks")?.content()?)
    }

    /// Those of the late columns that are wanted, of a response of `response` tokens.
    pub fn late(&self, response: usize, wanted: Present) -> Result<Late, Damage> {
        let mut late = Late::default();
        if let Some(stream) = self.find(REFERENCE).filter(|_| wanted.has(Present::REFERENCE)) {
            late.reference_logprobs = Some(read_floats(&stream.content()?, response)?);
        }
        if let Some(stream) = self.find(MONTE_CARLO).filter(|_| wanted.has(Present::MONTE_CARLO)) {
            late.mc_successes = Some(MonteCarlo::read(&stream.content()?)?);
        }
        if let Some(stream) = self.find(REWARD).filter(|_| wanted.has(Present::REWARD)) {
            let content = stream.content()?;
            let mut cursor = Cursor::new(&content);
            late.reward = Some(cursor.float("reward")?);
            cursor.finish("the reward")?;
        }
        Ok(late)
    }

    /// The same with the parts that are elsewhere in other places.
    pub fn moved(&self, places: Places) -> Vec<u8> {
        let moved = |stream: &Stream<'_>| match (stream.tag, places) {
            (PROMPT_AT, Places { prompt: Some(at), .. }) | (RANKS_AT, Places { ranks: Some(at), .. }) => {
                place(stream.tag, at)
            }
            _ => stream.encoded(),
        };
        let streams: Vec<EncodedStream> = self.0.iter().map(moved).collect();
        let mut out = Vec::new();
        put_streams(streams.iter(), &mut out);
        out
    }

    fn tokens(&self, tag: u8, count: usize, ranks: Option<&Ranks>, out: &mut Vec<i32>) -> Result<(), Damage> {
        if self.find(RANKS_AT).is_some() != ranks.is_some() {
            return Err(Damage { offset: 0, what: "the ranks of the record's tokens are missing".to_owned() });
        }
        let what = if tag == PROMPT { "prompt" } else { "response" };
        read_tokens(&self.required(tag, what)?.content()?, count, ranks, out)
    }

    fn required(&self, tag: u8, what: &str) -> Result<&Stream<'a>, Damage> {
        self.find(tag).ok_or_else(|| Damage { offset: 0, what: format!("the record has no {what}") })
    }

    fn find(&self, tag: u8) -> Option<&Stream<'a>> {
        self.0.iter().find(|stream| stream.tag == tag)
    }
}

fn read_place(bytes: &[u8]) -> Result<u32, Damage> {
    let mut cursor = Cursor::new(bytes);
    let offset = cursor.length(u32::MAX as usize, "the offset of another frame")?;
    cursor.finish("the offset of another frame")?;
    Ok(offset as u32)
}
