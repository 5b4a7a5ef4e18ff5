//! Segments whose writers are gone: taking them over, cutting off what was left unfinished, sealing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::TornTail;
use super::files::{self, SegmentName};
use super::footer::footer;
use super::index::Names;
use super::recovery::{OnDamage, read_start, unreadable};
use super::segment::Segment;
use super::shard::{FRAME_HEADER_BYTES, FrameHeader, Kind, trailer};
use super::state::State;
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;

/// Seals what writers that are gone have left.
pub fn seal_abandoned(directory: &Path, state: &mut State, interrupt: Interrupt<'_>) -> Result<()> {
    for name in files::list_segments(directory)?.into_iter().filter(|name| !name.sealed) {
        let Some(file) = adopt(directory, name.number, state, interrupt)? else { continue };
        let State { names, segments, .. } = &mut *state;
        let Some(segment) = segments.get_mut(&name.number) else { continue };
        if segment.sealed {
            finish_seal(directory, name.number, &file, segment)?;
        } else if !segment.is_empty() {
            cut_torn_tail(&file, segment)?;
            seal(directory, name.number, &file, segment, names)?;
        }
    }
    Ok(())
}

/// The locked file of a live segment whose writer is gone, of which `state` then has all there is; `None` if its writer
/// lives, or another has adopted or sealed it.
pub(super) fn adopt(
    directory: &Path,
    number: u32,
    state: &mut State,
    interrupt: Interrupt<'_>,
) -> Result<Option<File>> {
    let path = SegmentName { number, sealed: false }.path(directory);
    let Some(file) = files::adopt(&path)? else { return Ok(None) };
    // What was seen of it without the lock may be old.
    state.refresh(OnDamage::Refuse, interrupt)?;
    let Some(segment) = state.holder(number) else { return Ok(None) };
    if files::is_same(&file, &segment.file.file).map_err(|error| unreadable(&path, error))? {
        return Ok(Some(file));
    }
    // The number is that of a sealed segment: a writer has tried to take it, and died before it gave it up again.
    let start = read_start(&file, &path)?;
    if file.metadata().map_err(|error| unreadable(&path, error))?.len() == start.end {
        files::remove(&path)?;
    }
    Ok(None)
}

pub(super) fn newest_time_in(segment: &Segment) -> Option<u64> {
    segment.rows.newest_time_us().max(segment.late.iter().map(|row| row.time_us).max())
}

pub(super) fn cut_torn_tail(file: &File, segment: &Segment) -> Result<Option<TornTail>> {
    let bytes = segment.unfinished()?;
    if bytes == 0 {
        return Ok(None);
    }
    let path = &segment.file.path;
    let cut = || {
        file.set_len(segment.end)?;
        file.sync_all()
    };
    cut().map_err(|error| Error::io(format!("cut the torn tail off {}", path.display()), error))?;
    Ok(Some(TornTail { path: path.clone(), offset: segment.end, bytes }))
}

/// Seals a segment whose writer is gone and that no other is to go on with.
pub(super) fn seal(directory: &Path, number: u32, file: &File, segment: &mut Segment, names: &Names) -> Result<()> {
    let time_us = newest_time_in(segment).unwrap_or(0);
    let footer = footer(segment.version, number, &segment.rows, &segment.late, names)?;
    write_seal(
        directory,
        number,
        file,
        segment,
        segment.end,
        &sealing(segment.end, segment.sequence, time_us, &footer),
    )?;
    segment.sealed = true;
    Ok(())
}

/// Completes what a writer that died while sealing had begun: its footer is whole, its trailer and name may not be.
pub(super) fn finish_seal(directory: &Path, number: u32, file: &File, segment: &Segment) -> Result<()> {
    write_seal(directory, number, file, segment, segment.footer_end, &trailer(segment.end))
}

fn write_seal(directory: &Path, number: u32, file: &File, segment: &Segment, at: u64, bytes: &[u8]) -> Result<()> {
    let finish = || {
        file.write_all_at(bytes, at)?;
        file.set_len(at + bytes.len() as u64)?;
        file.sync_all()
    };
    finish().map_err(|error| Error::io(format!("seal {}", segment.file.path.display()), error))?;
    files::rename_sealed(directory, number, file)
}

/// What seals a segment whose frames end at `end`: a footer frame and the trailer.
pub fn sealing(end: u64, sequence: u32, time_us: u64, footer: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(footer.len() + FRAME_HEADER_BYTES);
    FrameHeader::of(Kind::Footer, true, sequence, time_us, footer).put(footer, &mut bytes);
    bytes.extend_from_slice(&trailer(end));
    bytes
}
