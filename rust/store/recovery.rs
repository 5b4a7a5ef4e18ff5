//! Walking the frames of a file that may end anywhere: tells a torn tail (an append that a crash cut short) from damage
//! (bytes that were written whole and are different now). It changes nothing; the writer truncates, the reader refuses.

use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::shard::{self, FILE_MAGIC_BYTES, FRAME_HEADER_BYTES, FRAME_MAGIC, FrameHeader, Kind, SegmentHeader};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// A file system writes whole sectors: a tail of so many zero bytes was announced by the file's length but never written.
const SECTOR_BYTES: u64 = 512;

/// What to do with damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnDamage {
    /// End with [`Error::Corrupt`].
    Refuse,
    /// Go on at the next whole frame, and count.
    Skip,
}

/// A frame with its payload.
pub struct Frame {
    /// Its checked header.
    pub header: FrameHeader,
    /// Where it starts in the file.
    pub offset: u64,
    /// Its checked payload.
    pub payload: Vec<u8>,
}

/// The frames of a file from an offset on.
pub struct Walk<'a> {
    file: &'a File,
    path: &'a Path,
    on_damage: OnDamage,
    end: u64,
    at: u64,
    sequence: u32,
    /// Whether what is before `at` was skipped: then frames are missing that were counted as damage.
    after_damage: bool,
    /// Damaged places that were skipped.
    pub skipped: u64,
}

enum Step {
    Frame(Frame),
    Torn,
    Damaged(String, Option<u64>),
}

impl<'a> Walk<'a> {
    /// Frames from `at`, where the next frame is number `sequence`, up to the present end of the file.
    pub fn new(file: &'a File, path: &'a Path, at: u64, sequence: u32, on_damage: OnDamage) -> Result<Self> {
        let end = file.metadata().map_err(|error| unreadable(path, error))?.len();
        Ok(Walk { file, path, on_damage, end, at, sequence, after_damage: false, skipped: 0 })
    }

    /// The end of the file when the walk began.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// Where the next frame would start.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// The next frame; `None` at the end or at a torn tail (then [`Self::at`] is before [`Self::end`]).
    pub fn next(&mut self, interrupt: Interrupt<'_>) -> Result<Option<Frame>> {
        while self.at < self.end {
            interrupt.check()?;
            match self.look()? {
                Step::Frame(frame) => {
                    // Where damage is refused none is missing.
                    let missing = frame.header.sequence != self.sequence && self.sequence > 0;
                    self.skipped += u64::from(missing && !self.after_damage);
                    self.after_damage = false;
                    self.at += FRAME_HEADER_BYTES as u64 + u64::from(frame.header.length);
                    self.sequence = frame.header.sequence.wrapping_add(1);
                    return Ok(Some(frame));
                }
                Step::Torn => return Ok(None),
                Step::Damaged(what, _) if self.on_damage == OnDamage::Refuse => {
                    return Err(Error::Corrupt { path: self.path.to_owned(), offset: self.at, what });
                }
                Step::Damaged(_, next) => {
                    self.skipped += 1;
                    self.after_damage = true;
                    self.at = match next {
                        Some(next) => next,
                        None => self.find_frame(self.at + 1, interrupt)?,
                    };
                }
            }
        }
        Ok(None)
    }

    /// What comes next. Between two reads another process may cut a torn tail off and write over it, which must not
    /// be taken for damage: that is still there when one looks again.
    fn look(&mut self) -> Result<Step> {
        match self.step() {
            Ok(Step::Damaged(..)) => {}
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::UnexpectedEof => {}
            outcome => return outcome,
        }
        self.end = self.file.metadata().map_err(|error| unreadable(self.path, error))?.len();
        if self.at < self.end { self.step() } else { Ok(Step::Torn) }
    }

    fn step(&self) -> Result<Step> {
        let left = self.end - self.at;
        if left < FRAME_HEADER_BYTES as u64 {
            return Ok(Step::Torn);
        }
        let header = match FrameHeader::read(&self.read_array(self.at)?) {
            Ok(header) => header,
            Err(damage) => return self.torn_or_damaged(damage.what, None),
        };
        let expected = self.sequence;
        let missing = header.sequence != expected && self.on_damage == OnDamage::Refuse;
        if missing || header.sequence < expected {
            let what = format!("frame {expected} is missing, frame {} is here", header.sequence);
            return Ok(Step::Damaged(what, None));
        }
        let length = u64::from(header.length);
        if left - (FRAME_HEADER_BYTES as u64) < length {
            return Ok(Step::Torn);
        }
        let payload = self.read(self.at + FRAME_HEADER_BYTES as u64, header.length as usize)?;
        if !header.matches(&payload) {
            let next = self.at + FRAME_HEADER_BYTES as u64 + length;
            return self.torn_or_damaged("the payload does not match its checksum".to_owned(), Some(next));
        }
        Ok(Step::Frame(Frame { header, offset: self.at, payload }))
    }

    fn torn_or_damaged(&self, what: String, next: Option<u64>) -> Result<Step> {
        let tail = SECTOR_BYTES.min(self.end - self.at);
        let unwritten = self.read(self.end - tail, tail as usize)?.iter().all(|&byte| byte == 0);
        Ok(if unwritten { Step::Torn } else { Step::Damaged(what, next) })
    }

    /// The next place from `from` on that looks like a frame's header, or the end.
    fn find_frame(&self, mut from: u64, interrupt: Interrupt<'_>) -> Result<u64> {
        const WINDOW: u64 = 1 << 20;
        while from < self.end {
            interrupt.check()?;
            let window = self.read(from, WINDOW.min(self.end - from) as usize)?;
            let candidates = window.windows(FRAME_MAGIC.len()).enumerate();
            for (at, _) in candidates.filter(|(_, bytes)| *bytes == FRAME_MAGIC) {
                let place = from + at as u64;
                let fits = place + FRAME_HEADER_BYTES as u64 <= self.end;
                if fits && FrameHeader::read(&self.read_array(place)?).is_ok() {
                    return Ok(place);
                }
            }
            // A magic that straddles two windows must be found too.
            let overlap = FRAME_MAGIC.len() as u64 - 1;
            from += (window.len() as u64).saturating_sub(overlap).max(1);
        }
        Ok(self.end)
    }

    fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| unreadable(self.path, error))?;
        Ok(bytes)
    }

    fn read_array(&self, offset: u64) -> Result<[u8; FRAME_HEADER_BYTES]> {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        self.file.read_exact_at(&mut bytes, offset).map_err(|error| unreadable(self.path, error))?;
        Ok(bytes)
    }
}

/// What the start of a file says.
pub struct Start {
    /// Version of its format.
    pub version: u16,
    /// Its header.
    pub header: SegmentHeader,
    /// Where the frames after the header begin.
    pub end: u64,
}

/// Reads and checks the start of a file.
pub fn read_start(file: &File, path: &Path) -> Result<Start> {
    let corrupt = |offset: u64, what: String| Error::Corrupt { path: path.to_owned(), offset, what };
    let mut magic = [0; FILE_MAGIC_BYTES];
    let version = match file.read_exact_at(&mut magic, 0) {
        Ok(()) => shard::file_version(magic).map_err(|damage| corrupt(0, damage.what))?,
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            return Err(corrupt(0, "the file is cut within its first bytes".to_owned()));
        }
        Err(error) => return Err(unreadable(path, error)),
    };
    let start = FILE_MAGIC_BYTES as u64;
    let mut walk = Walk::new(file, path, start, 0, OnDamage::Refuse)?;
    // Files are created whole, so a header that is not complete is damage and no torn tail.
    match walk.next(Interrupt::never())? {
        Some(frame) if frame.header.kind == Kind::Header => {
            let header = SegmentHeader::read(&frame.payload, version).map_err(|damage| corrupt(0, damage.what))?;
            Ok(Start { version, header, end: walk.at() })
        }
        _ => Err(corrupt(start, "the file's header is not complete".to_owned())),
    }
}

/// Why a file of the store could not be read.
pub fn unreadable(path: &Path, error: std::io::Error) -> Error {
    Error::io(format!("read {}", path.display()), error)
}
