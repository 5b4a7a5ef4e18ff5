//! One segment as a reader sees it: its open file and the rows of its records. A sealed one is read from its footer; a
//! live one is walked, and walked on from where it was left whenever the reader looks again.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::index::{Names, Row};
use super::recovery::{Frame, OnDamage, Walk, read_start, unreadable};
use super::shard::{self, FRAME_HEADER_BYTES, FrameHeader, Kind, SegmentHeader, TRAILER_BYTES};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::trajectory::Trajectory;
use crate::trajectory::bytes::Damage;
use crate::trajectory::record::{self, Columns, Decoded};

/// An open segment.
pub struct Segment {
    /// Where the file was when it was opened.
    pub path: PathBuf,
    /// The file, shared with reads that are going on.
    pub file: Arc<File>,
    /// Rows of its records, by rising sequence number.
    pub rows: Vec<Row>,
    /// End of the last whole append; everything before it is indexed.
    pub end: u64,
    /// Sequence number of the next frame.
    pub sequence: u32,
    /// Whether nothing will be appended any more.
    pub sealed: bool,
    /// Where the trailer is, or belongs, in a sealed one.
    pub footer_end: u64,
    /// Damaged places that were skipped.
    pub skipped: u64,
    on_damage: OnDamage,
}

impl Segment {
    /// Opens a segment and indexes what it holds.
    pub fn open(
        file: File,
        path: PathBuf,
        sealed: bool,
        expected: &SegmentHeader,
        on_damage: OnDamage,
        names: &mut Names,
        interrupt: Interrupt<'_>,
    ) -> Result<Self> {
        let (header, start) = read_start(&file, &path)?;
        check_header(&header, expected, &path)?;
        let (file, rows) = (Arc::new(file), Vec::new());
        let (end, sequence) = (start, 1);
        let mut segment =
            Segment { path, file, rows, end, sequence, sealed: false, footer_end: 0, skipped: 0, on_damage };
        let footer = if sealed { segment.load_footer(names) } else { Ok(false) };
        match footer {
            Ok(true) => return Ok(segment),
            Err(Error::Corrupt { .. }) if on_damage == OnDamage::Skip => segment.skipped += 1,
            Err(error) => return Err(error),
            Ok(false) => {}
        }
        segment.extend(names, interrupt)?;
        segment.sealed |= sealed;
        Ok(segment)
    }

    /// Indexes the appends that were completed since the last look.
    pub fn extend(&mut self, names: &mut Names, interrupt: Interrupt<'_>) -> Result<()> {
        if self.sealed {
            return Ok(());
        }
        let file = self.file.clone();
        let mut walk = Walk::new(&file, &self.path, self.end, self.sequence, self.on_damage)?;
        let mut pending = Vec::new();
        while let Some(frame) = walk.next(interrupt)? {
            match frame.header.kind {
                Kind::Footer => {
                    (self.sealed, self.footer_end) = (true, walk.at());
                    break;
                }
                Kind::Trajectory => {
                    pending.push(row_of(&frame, names).map_err(|damage| self.corrupt(frame.offset, damage))?)
                }
                Kind::Prompt => {}
                Kind::Header => {
                    let what = "a second file header".to_owned();
                    return Err(self.corrupt(frame.offset, Damage { offset: 0, what }));
                }
            }
            if frame.header.batch_end || self.on_damage == OnDamage::Skip {
                self.rows.append(&mut pending);
                self.end = walk.at();
                self.sequence = frame.header.sequence + 1;
            }
        }
        if self.on_damage == OnDamage::Skip {
            // Damage at the end must not be met, and counted, at the next look again.
            self.end = walk.at();
        }
        self.skipped += walk.skipped;
        Ok(())
    }

    /// Bytes behind the last whole append: an append going on, or one that a crash cut short.
    pub fn unfinished(&self) -> Result<u64> {
        let length = self.file.metadata().map_err(|error| unreadable(&self.path, error))?.len();
        Ok(length.saturating_sub(self.end))
    }

    /// The row of the record whose frame has this sequence number.
    pub fn find(&self, sequence: u32) -> Option<&Row> {
        let at = self.rows.binary_search_by_key(&sequence, |row| row.sequence).ok()?;
        Some(&self.rows[at])
    }

    fn load_footer(&mut self, names: &mut Names) -> Result<bool> {
        let length = self.file.metadata().map_err(|error| unreadable(&self.path, error))?.len();
        let cut = || Damage { offset: 0, what: "the sealed file is cut".to_owned() };
        let trailer_at = length.checked_sub(TRAILER_BYTES as u64).ok_or_else(|| self.corrupt(length, cut()))?;
        let mut trailer = [0; TRAILER_BYTES];
        self.read_at(&mut trailer, trailer_at)?;
        let footer_at = shard::read_trailer(&trailer).map_err(|damage| self.corrupt(trailer_at, damage))?;
        let (header, payload) = read_frame(&self.file, &self.path, footer_at)?;
        let ends_at = footer_at + (FRAME_HEADER_BYTES + payload.len()) as u64;
        if header.kind != Kind::Footer || ends_at != trailer_at {
            let what = "the trailer does not point to a footer".to_owned();
            return Err(self.corrupt(trailer_at, Damage { offset: 0, what }));
        }
        let mut rows = Vec::new();
        shard::read_footer(&payload, |name| names.number(name), |row| rows.push(Row::from_footer(&row)))
            .map_err(|damage| self.corrupt(footer_at, damage))?;
        (self.rows, self.end, self.sequence) = (rows, footer_at, header.sequence);
        (self.sealed, self.footer_end) = (true, trailer_at);
        Ok(true)
    }

    fn read_at(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(|error| unreadable(&self.path, error))
    }

    fn corrupt(&self, offset: u64, damage: Damage) -> Error {
        let offset = offset + damage.offset as u64;
        Error::Corrupt { path: self.path.clone(), offset, what: damage.what }
    }
}

/// Reads one record by its row.
pub fn read_record(file: &File, path: &Path, row: &Row, columns: Columns) -> Result<Trajectory> {
    let offset = u64::from(row.offset);
    let corrupt = |damage: Damage| Error::Corrupt {
        path: path.to_owned(),
        offset: offset + (FRAME_HEADER_BYTES + damage.offset) as u64,
        what: damage.what,
    };
    let mut frame = vec![0; FRAME_HEADER_BYTES + row.length as usize];
    let (header, payload) = read_into(file, path, offset, &mut frame)?;
    if header.kind != Kind::Trajectory || header.sequence != row.sequence || payload.len() != row.length as usize {
        return Err(corrupt(Damage { offset: 0, what: "the record is not where the index has it".to_owned() }));
    }
    let Decoded { mut trajectory, prompt_at } = record::decode(payload, columns).map_err(corrupt)?;
    if let Some((at, count)) = prompt_at {
        trajectory.prompt_tokens = read_prompt(file, path, u64::from(at), count)?;
    }
    Ok(trajectory)
}

fn read_prompt(file: &File, path: &Path, offset: u64, count: usize) -> Result<Vec<i32>> {
    let corrupt = |what: String| Error::Corrupt { path: path.to_owned(), offset, what };
    let (header, payload) = read_frame(file, path, offset)?;
    if header.kind != Kind::Prompt {
        return Err(corrupt("a record refers to this frame as its prompt".to_owned()));
    }
    record::decode_prompt(&payload, count).map_err(|damage| corrupt(damage.what))
}

fn read_frame(file: &File, path: &Path, offset: u64) -> Result<(FrameHeader, Vec<u8>)> {
    let mut start = [0; FRAME_HEADER_BYTES];
    read_exact(file, path, offset, &mut start)?;
    let corrupt = |damage: Damage| Error::Corrupt { path: path.to_owned(), offset, what: damage.what };
    let length = FrameHeader::read(&start).map_err(corrupt)?.length as usize;
    let mut frame = vec![0; FRAME_HEADER_BYTES + length];
    let (header, payload) = read_into(file, path, offset, &mut frame)?;
    let payload = payload.to_vec();
    Ok((header, payload))
}

/// Fills `frame` from the file and checks it; `frame` has the length that the caller expects the frame to have.
fn read_into<'a>(file: &File, path: &Path, offset: u64, frame: &'a mut [u8]) -> Result<(FrameHeader, &'a [u8])> {
    read_exact(file, path, offset, frame)?;
    let corrupt = |what: String| Error::Corrupt { path: path.to_owned(), offset, what };
    let Some((start, payload)) = frame.split_first_chunk::<FRAME_HEADER_BYTES>() else {
        return Err(corrupt("the frame is shorter than a header".to_owned()));
    };
    let header = FrameHeader::read(start).map_err(|damage| corrupt(damage.what))?;
    if !header.matches(payload) {
        return Err(corrupt("the payload does not match its checksum".to_owned()));
    }
    Ok((header, payload))
}

fn read_exact(file: &File, path: &Path, offset: u64, bytes: &mut [u8]) -> Result<()> {
    file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
        std::io::ErrorKind::UnexpectedEof => {
            Error::Corrupt { path: path.to_owned(), offset, what: "the file ends within the frame".to_owned() }
        }
        _ => unreadable(path, error),
    })
}

fn row_of(frame: &Frame, names: &mut Names) -> Result<Row, Damage> {
    let (scalars, prompt, response) = record::decode_scalars(&frame.payload)?;
    let offset =
        u32::try_from(frame.offset).map_err(|_| Damage { offset: 0, what: "the segment exceeds 4 GiB".to_owned() })?;
    Ok(Row {
        time_us: frame.header.time_us,
        reward: scalars.reward,
        sequence: frame.header.sequence,
        offset,
        length: frame.header.length,
        source: names.number(&scalars.source),
        problem: names.number(&scalars.problem_id),
        prompt: prompt as u32,
        response: response as u32,
    })
}

fn check_header(header: &SegmentHeader, expected: &SegmentHeader, path: &Path) -> Result<()> {
    let path = path.display();
    if header.tokenizer != expected.tokenizer {
        let (theirs, ours) = (&header.tokenizer, &expected.tokenizer);
        return Err(Error::Store(format!(
            "{path} holds tokens of the tokenizer {theirs:?}, not of {ours:?}; one store holds one tokenizer's tokens"
        )));
    }
    if header.store_id != expected.store_id || header.number != expected.number {
        return Err(Error::Store(format!("{path} belongs to another store or place; move it back where it was")));
    }
    Ok(())
}
