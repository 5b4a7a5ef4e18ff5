//! One segment as a reader sees it: its open file and the rows of its records. A sealed one is read from its footer; a
//! live one is walked, and walked on from where it was left whenever the reader looks again.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::footer::read_footer;
use super::id::record_id;
use super::index::{LateRow, Names};
use super::read::SegmentFile;
use super::recovery::{Frame, OnDamage, Start, Walk, read_start};
use super::rows::{Row, Rows};
use super::shard::{self, FILE_MAGIC_BYTES, FILE_VERSION, FRAME_HEADER_BYTES, Kind, SegmentHeader, TRAILER_BYTES};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::trajectory::bytes::{Cursor, Damage};
use crate::trajectory::record::{Present, Record, Scalars};

/// An open segment.
pub struct Segment {
    /// The file, shared with reads that are going on.
    pub file: Arc<SegmentFile>,
    /// Version of the file's format.
    pub version: u16,
    /// Its number, as the opened store counts.
    pub number: u32,
    /// Rows of its records.
    pub rows: Rows,
    /// Rows of the late columns and deletions in it, by rising sequence number.
    pub late: Vec<LateRow>,
    /// How many of those the store's index of late columns has.
    pub late_indexed: usize,
    /// Where the frames begin.
    pub start: u64,
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
    /// The file's inode, as its directory had it: another one means that the file was compacted.
    pub inode: u64,
    on_damage: OnDamage,
}

impl Segment {
    /// Opens a segment of a store whose segments are counted from `base`, and indexes what it holds.
    pub fn open(
        (file, path): (File, PathBuf),
        sealed: bool,
        (base, expected): (u32, &SegmentHeader),
        on_damage: OnDamage,
        names: &mut Names,
        interrupt: Interrupt<'_>,
    ) -> Result<Self> {
        let (Start { version, header, end: start }, starts_damaged) = match read_start(&file, &path) {
            // Whose file it is tells its name as well; how the records are encoded, they say themselves.
            Err(Error::Corrupt { .. }) if on_damage == OnDamage::Skip => {
                (Start { version: FILE_VERSION, header: expected.clone(), end: FILE_MAGIC_BYTES as u64 }, true)
            }
            start => (start?, false),
        };
        check_header(&header, expected, &path)?;
        let mut segment = Segment {
            file: Arc::new(SegmentFile::new(file, path, base)),
            version,
            number: base + header.number,
            rows: Rows::default(),
            late: Vec::new(),
            late_indexed: 0,
            start,
            end: start,
            sequence: u32::from(!starts_damaged),
            sealed: false,
            footer_end: 0,
            skipped: 0,
            inode: 0,
            on_damage,
        };
        if sealed && !starts_damaged {
            match segment.load_footer(names) {
                Ok(()) => return Ok(segment),
                Err(Error::Corrupt { .. }) if on_damage == OnDamage::Skip => segment.skipped += 1,
                Err(error) => return Err(error),
            }
        }
        segment.extend(names, interrupt)?;
        segment.skipped = segment.skipped.max(u64::from(starts_damaged));
        segment.sealed |= sealed;
        Ok(segment)
    }

    /// Indexes the appends that were completed since the last look.
    pub fn extend(&mut self, names: &mut Names, interrupt: Interrupt<'_>) -> Result<()> {
        if self.sealed {
            return Ok(());
        }
        let file = self.file.clone();
        let mut walk = Walk::new(&file.file, &file.path, self.end, self.sequence, self.on_damage)?;
        let (mut rows, mut late) = (Rows::default(), Vec::new());
        while let Some(frame) = walk.next(interrupt)? {
            let damaged = |damage: Damage| file.corrupt(frame.offset + damage.offset as u64, damage.what);
            match frame.header.kind {
                Kind::Footer => {
                    (self.sealed, self.footer_end) = (true, walk.at());
                    break;
                }
                Kind::Trajectory | Kind::Moved => rows.push(self.row_of(&frame, names).map_err(damaged)?),
                Kind::Late | Kind::Tombstone => late.push(late_row_of(&frame).map_err(damaged)?),
                Kind::Prompt | Kind::Tables => {}
                // Behind a damaged magic or version.
                Kind::Header if self.sequence == 0 => {}
                Kind::Header | Kind::Attachment => {
                    return Err(file.corrupt(frame.offset, "a frame of another kind of file".to_owned()));
                }
            }
            if frame.header.batch_end || self.on_damage == OnDamage::Skip {
                self.rows.append(&mut rows);
                self.late.append(&mut late);
                self.end = walk.at();
                self.sequence = frame.header.sequence + 1;
            }
        }
        if self.on_damage == OnDamage::Skip {
            // Damage at the end must not be met, and counted, at the next look again.
            self.end = walk.at();
        }
        self.skipped += walk.skipped;
        if self.sealed {
            self.rows.shrink_to_fit();
            self.late.shrink_to_fit();
        }
        Ok(())
    }

    /// Bytes behind the last whole append: an append going on, or one that a crash cut short.
    pub fn unfinished(&self) -> Result<u64> {
        Ok(self.file.length()?.saturating_sub(self.end))
    }

    /// Whether nothing was appended to it.
    pub fn is_empty(&self) -> bool {
        self.end == self.start
    }

    fn load_footer(&mut self, names: &mut Names) -> Result<()> {
        let file = &self.file;
        let length = file.length()?;
        let cut = || file.corrupt(length, "the sealed file is cut".to_owned());
        let trailer_at = length.checked_sub(TRAILER_BYTES as u64).ok_or_else(cut)?;
        let mut trailer = [0; TRAILER_BYTES];
        file.read_exact(&mut trailer, trailer_at)?;
        let footer_at = shard::read_trailer(&trailer).map_err(|damage| file.corrupt(trailer_at, damage.what))?;
        let (header, payload) = file.frame(footer_at)?;
        let ends_at = footer_at + (FRAME_HEADER_BYTES + payload.len()) as u64;
        if header.kind != Kind::Footer || ends_at != trailer_at {
            return Err(file.corrupt(trailer_at, "the trailer does not point to a footer".to_owned()));
        }
        let place = (file.base, self.number - file.base);
        let (rows, late) =
            read_footer(self.version, place, &payload, names).map_err(|damage| file.corrupt(footer_at, damage.what))?;
        (self.rows, self.late, self.end, self.sequence) = (rows, late, footer_at, header.sequence);
        (self.sealed, self.footer_end) = (true, trailer_at);
        Ok(())
    }

    fn row_of(&self, frame: &Frame, names: &mut Names) -> Result<Row, Damage> {
        let (id, content) = match frame.header.kind {
            Kind::Moved => {
                let (id, content) = shard::read_targeted(&frame.payload)?;
                let unknown = || Damage { offset: 0, what: format!("no record can have the id {id}") };
                (self.file.id_here(id).ok_or_else(unknown)?, content)
            }
            _ => (record_id(self.number, frame.header.sequence), &frame.payload[..]),
        };
        let Scalars { trajectory: scalars, prompt, response, present } = Record::parse(content)?.scalars()?;
        Ok(Row {
            id,
            time_us: frame.header.time_us,
            reward: scalars.reward,
            offset: offset_of(frame)?,
            length: frame.header.length,
            source: names.number(&scalars.source),
            problem: names.number(&scalars.problem_id),
            prompt: prompt as u32,
            response: response as u32,
            present: Some(present),
        })
    }
}

fn late_row_of(frame: &Frame) -> Result<LateRow, Damage> {
    let (target, content) = shard::read_targeted(&frame.payload)?;
    let (columns, reward) = match frame.header.kind {
        Kind::Tombstone => (Cursor::new(content).finish("the tombstone").map(|()| None)?, None),
        _ => {
            let record = Record::parse(content)?;
            (Some(record.present()), record.late(0, Present::REWARD)?.reward)
        }
    };
    Ok(LateRow {
        time_us: frame.header.time_us,
        target,
        reward: reward.unwrap_or(0.0),
        sequence: frame.header.sequence,
        offset: offset_of(frame)?,
        length: frame.header.length,
        columns,
    })
}

fn offset_of(frame: &Frame) -> Result<u32, Damage> {
    u32::try_from(frame.offset).map_err(|_| Damage { offset: 0, what: "the segment exceeds 4 GiB".to_owned() })
}

fn check_header(header: &SegmentHeader, expected: &SegmentHeader, path: &Path) -> Result<()> {
    let (path, name) = (path.display(), path.file_name().unwrap_or_default().display());
    if header.tokenizer != expected.tokenizer {
        let (theirs, ours) = (&header.tokenizer, &expected.tokenizer);
        return Err(Error::Store(format!(
            "{path} holds tokens of the tokenizer {theirs:?}, not of {ours:?}; one store holds one tokenizer's tokens: move it out"
        )));
    }
    if header.store_id != expected.store_id {
        return Err(Error::Store(format!(
            "{path} belongs to another store than store.spo beside it; move it back there"
        )));
    }
    if header.number != expected.number {
        let (number, kind) = (header.number, if name.to_string().ends_with(".live") { "live" } else { "spo" });
        return Err(Error::Store(format!(
            "{path} is segment {number} by its content: rename it to segment-{number:08}.{kind}, or remove it if it is a copy"
        )));
    }
    Ok(())
}
