//! Reading records, their shared prompts and their late columns from segments' files. Every frame is checked.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::index::{LateRow, Row};
use super::recovery::unreadable;
use super::shard::{FRAME_HEADER_BYTES, FrameHeader, Kind, read_targeted};
use crate::error::{Error, Result};
use crate::trajectory::bytes::Damage;
use crate::trajectory::record::{self, Columns, Decoded, Present};
use crate::trajectory::{Late, Trajectory};

/// A segment's open file, shared with reads that are going on.
pub struct SegmentFile {
    /// The file.
    pub file: File,
    /// Where it was when it was opened.
    pub path: PathBuf,
}

impl SegmentFile {
    /// Reads one record by its row, as it was appended.
    pub fn record(&self, row: &Row, columns: Columns) -> Result<Trajectory> {
        let offset = u64::from(row.offset);
        let frame = self.indexed(Kind::Trajectory, row.sequence, offset, row.length)?;
        let damaged = |damage: Damage| self.damaged(offset, damage);
        let Decoded { mut trajectory, prompt_at } =
            record::decode(&frame[FRAME_HEADER_BYTES..], columns).map_err(damaged)?;
        if let Some((at, count)) = prompt_at {
            trajectory.prompt_tokens = self.prompt(u64::from(at), count)?;
        }
        Ok(trajectory)
    }

    /// Which columns the record has in itself, by reading it.
    pub fn present(&self, row: &Row) -> Result<Present> {
        let offset = u64::from(row.offset);
        let frame = self.indexed(Kind::Trajectory, row.sequence, offset, row.length)?;
        let scalars = record::decode_scalars(&frame[FRAME_HEADER_BYTES..]);
        Ok(scalars.map_err(|damage| self.damaged(offset, damage))?.present)
    }

    /// Reads those late columns that are wanted, of a record with `response` response tokens.
    pub fn late(&self, row: &LateRow, response: u32, wanted: Present) -> Result<Late> {
        let offset = u64::from(row.offset);
        let frame = self.indexed(Kind::Late, row.sequence, offset, row.length)?;
        let damaged = |damage: Damage| self.damaged(offset, damage);
        let (target, content) = read_targeted(&frame[FRAME_HEADER_BYTES..]).map_err(damaged)?;
        if target != row.target {
            return Err(self.misplaced(offset));
        }
        record::decode_late(content, response as usize, wanted).map_err(damaged)
    }

    /// The header and payload of the frame at `offset`.
    pub fn frame(&self, offset: u64) -> Result<(FrameHeader, Vec<u8>)> {
        let mut start = [0; FRAME_HEADER_BYTES];
        self.read_exact(&mut start, offset)?;
        let header = FrameHeader::read(&start).map_err(|damage| self.corrupt(offset, damage.what))?;
        let mut payload = vec![0; header.length as usize];
        self.read_exact(&mut payload, offset + FRAME_HEADER_BYTES as u64)?;
        self.check(offset, &header, &payload)?;
        Ok((header, payload))
    }

    /// Fills `bytes` from the file.
    pub fn read_exact(&self, bytes: &mut [u8], offset: u64) -> Result<()> {
        self.file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => self.corrupt(offset, "the file ends within the frame".to_owned()),
            _ => unreadable(&self.path, error),
        })
    }

    /// Bytes of the file, now.
    pub fn length(&self) -> Result<u64> {
        Ok(self.file.metadata().map_err(|error| unreadable(&self.path, error))?.len())
    }

    /// [`Error::Corrupt`], at an offset of the file.
    pub fn corrupt(&self, offset: u64, what: String) -> Error {
        Error::Corrupt { path: self.path.clone(), offset, what }
    }

    fn prompt(&self, offset: u64, count: usize) -> Result<Vec<i32>> {
        let (header, payload) = self.frame(offset)?;
        if header.kind != Kind::Prompt {
            return Err(self.corrupt(offset, "a record refers to this frame as its prompt".to_owned()));
        }
        record::decode_prompt(&payload, count).map_err(|damage| self.corrupt(offset, damage.what))
    }

    /// The checked frame, header included, that the index says is at `offset`.
    fn indexed(&self, kind: Kind, sequence: u32, offset: u64, length: u32) -> Result<Vec<u8>> {
        let mut frame = vec![0; FRAME_HEADER_BYTES + length as usize];
        self.read_exact(&mut frame, offset)?;
        let Some((start, payload)) = frame.split_first_chunk::<FRAME_HEADER_BYTES>() else {
            return Err(self.misplaced(offset));
        };
        let header = FrameHeader::read(start).map_err(|damage| self.corrupt(offset, damage.what))?;
        self.check(offset, &header, payload)?;
        if header.kind != kind || header.sequence != sequence {
            return Err(self.misplaced(offset));
        }
        Ok(frame)
    }

    fn check(&self, offset: u64, header: &FrameHeader, payload: &[u8]) -> Result<()> {
        match header.matches(payload) {
            true => Ok(()),
            false => Err(self.corrupt(offset, "the payload does not match its checksum".to_owned())),
        }
    }

    fn misplaced(&self, offset: u64) -> Error {
        self.corrupt(offset, "the frame is not what the index says".to_owned())
    }

    fn damaged(&self, offset: u64, damage: Damage) -> Error {
        self.corrupt(offset + (FRAME_HEADER_BYTES + damage.offset) as u64, damage.what)
    }
}
