//! Bytes to trajectories and late columns.

use super::encode::{Places, place};
use super::present::{Columns, Present};
use super::streams::{
    BEHAVIOR, EncodedStream, LOGPROB_CODE, MONTE_CARLO, PROMPT, PROMPT_AT, RANKS, REFERENCE, RESPONSE, REWARD, SCALARS,
    Stream, TABLES_AT, TOKEN_CODE, directory, put_streams,
};
use crate::trajectory::bytes::{Cursor, Damage};
use crate::trajectory::columns::{read_coded_floats, read_coded_tokens, read_floats, read_tokens};
use crate::trajectory::prefix::{Alphabet, Code};
use crate::trajectory::ranks::Ranks;
use crate::trajectory::tables::Tables;
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

/// Streams that belong together: a record, a shared prompt, tables, or late columns.
pub struct Record<'a>(Vec<Stream<'a>>);

impl<'a> Record<'a> {
    /// Reads the directory.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Damage> {
        Ok(Record(directory(bytes)?))
    }

    /// Where the parts are that are not in it.
    pub fn places(&self) -> Result<Places, Damage> {
        let place = |tag| self.find(tag).map(|stream| read_place(&stream.content()?)).transpose();
        Ok(Places { prompt: place(PROMPT_AT)?, tables: place(TABLES_AT)? })
    }

    /// Which of the columns that need not be there are there.
    pub fn present(&self) -> Present {
        Present::of_tags(|tag| self.find(tag).is_some())
    }

    /// Decodes a record; `tables` are those that [`Self::places`] tells of. Columns that are not wanted come back empty
    /// (tokens) or absent (logprobs).
    pub fn decode(&self, columns: Columns, tables: Option<&Tables>) -> Result<Decoded, Damage> {
        let Scalars { mut trajectory, prompt, response, .. } = self.scalars()?;
        let mut prompt_at = None;
        if columns.prompt {
            match self.places()?.prompt {
                Some(at) => prompt_at = Some((at, prompt)),
                None => {
                    trajectory.prompt_tokens = vec![0; prompt];
                    self.prompt(tables, &mut trajectory.prompt_tokens)?;
                }
            }
        }
        if columns.response {
            trajectory.response_tokens = vec![0; response];
            self.tokens(RESPONSE, tables, &mut trajectory.response_tokens)?;
        }
        let column = |wanted: bool, tag: u8| match self.find(tag) {
            Some(stream) if wanted => logprobs(stream, response, tables).map(Some),
            _ => Ok(None),
        };
        trajectory.behavior_logprobs = column(columns.behavior, BEHAVIOR)?;
        trajectory.reference_logprobs = column(columns.reference, REFERENCE)?;
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

    /// Reads the tokens of the prompt, which must be as many as there are in `out`.
    pub fn prompt(&self, tables: Option<&Tables>, out: &mut [i32]) -> Result<(), Damage> {
        self.tokens(PROMPT, tables, out)
    }

    /// Reads the tokens of the response, which must be as many as there are in `out`.
    pub fn response(&self, tables: Option<&Tables>, out: &mut [i32]) -> Result<(), Damage> {
        self.tokens(RESPONSE, tables, out)
    }

    /// Tables, to decode with.
    pub fn tables(&self) -> Result<Tables, Damage> {
        let ranks = Ranks::read(&self.required(RANKS, "ranks")?.content()?)?;
        let code = |tag, alphabet| {
            let stream = self.find(tag);
            stream.map(|stream| Code::read(alphabet, &stream.content()?)).transpose()
        };
        let (tokens, logprobs) = (code(TOKEN_CODE, Alphabet::Numbers)?, code(LOGPROB_CODE, Alphabet::Bytes)?);
        Ok(Tables::new(ranks, tokens, logprobs))
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
            (PROMPT_AT, Places { prompt: Some(at), .. }) | (TABLES_AT, Places { tables: Some(at), .. }) => {
                place(stream.tag, at)
            }
            _ => stream.encoded(),
        };
        let streams: Vec<EncodedStream> = self.0.iter().map(moved).collect();
        let mut out = Vec::new();
        put_streams(streams.iter(), &mut out);
        out
    }

    fn tokens(&self, tag: u8, tables: Option<&Tables>, out: &mut [i32]) -> Result<(), Damage> {
        if self.find(TABLES_AT).is_some() != tables.is_some() {
            return Err(Damage { offset: 0, what: "the tables of the record's tokens are missing".to_owned() });
        }
        let stream = self.required(tag, if tag == PROMPT { "prompt" } else { "response" })?;
        match (stream.coded(), tables) {
            (Some(coded), Some(Tables { ranks, tokens: Some(code), .. })) => {
                read_coded_tokens(coded, (ranks, code), out)
            }
            _ => read_tokens(&stream.content()?, tables.map(|tables| &tables.ranks), out),
        }
    }

    fn required(&self, tag: u8, what: &str) -> Result<&Stream<'a>, Damage> {
        self.find(tag).ok_or_else(|| Damage { offset: 0, what: format!("the record has no {what}") })
    }

    fn find(&self, tag: u8) -> Option<&Stream<'a>> {
        self.0.iter().find(|stream| stream.tag == tag)
    }
}

fn logprobs(stream: &Stream<'_>, count: usize, tables: Option<&Tables>) -> Result<Vec<f32>, Damage> {
    match (stream.coded(), tables.and_then(|tables| tables.logprobs.as_ref())) {
        (Some(coded), Some(code)) => read_coded_floats(coded, count, code),
        _ => read_floats(&stream.content()?, count),
    }
}

fn read_place(bytes: &[u8]) -> Result<u32, Damage> {
    let mut cursor = Cursor::new(bytes);
    let offset = cursor.length(u32::MAX as usize, "the offset of another frame")?;
    cursor.finish("the offset of another frame")?;
    Ok(offset as u32)
}
