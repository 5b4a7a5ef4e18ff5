//! Appending to a store: visible when it returns, durable after a commit; and going on in a new segment when one is full.

use std::sync::Mutex;

use super::id::record_id;
use super::index::Names;
use super::rows::Row;
use super::segment::Segment;
use super::shard::MAX_SEGMENT_RECORDS;
use super::state::State;
use super::writer::{Writer, Written};
use super::{Store, durable, footer, lock};
use crate::error::{Error, Result};
use crate::interrupt::Interrupt;
use crate::trajectory::Trajectory;
use crate::trajectory::record::{Encoded, Present};

impl Store {
    /// Appends all the trajectories or, on an error, none. They are visible to every reader when this returns, durable
    /// after the next [`Self::commit`]. Returns their ids.
    pub fn append<T: AsRef<Trajectory> + Sync>(
        &self,
        trajectories: &[T],
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<u64>> {
        let writer = self.writer()?;
        if trajectories.is_empty() {
            return Ok(Vec::new());
        }
        let records = self.encoder.encode(trajectories, interrupt)?;
        let mut writer = lock(writer);
        self.poison.check()?;
        let bytes: usize = records.iter().map(Encoded::num_bytes).sum();
        self.rotate_if_full(&mut writer, bytes as u64, records.len(), 0)?;
        let written = writer.append(&records, &self.poison)?;
        self.index_written(&writer, written.number, |segment, names| {
            index_records(segment, names, &written, trajectories)
        });
        Ok(written.frames.iter().map(|frame| record_id(written.number, frame.sequence)).collect())
    }

    /// Makes everything appended before the call durable. Calls from several threads share one sync.
    pub fn commit(&self) -> Result<()> {
        let writer = self.writer()?;
        let due = |pending: &durable::Pending, durable: (u32, u64)| (pending.number, pending.length) > durable;
        let asked = lock(writer).pending();
        let mut durable = lock(&self.durable);
        self.poison.check()?;
        if !due(&asked, *durable) {
            return Ok(());
        }
        // Whoever waited for the lock is served by the sync that covers the newest append.
        let pending = lock(writer).pending();
        if due(&pending, *durable) {
            pending.sync(&self.directory, &self.poison)?;
            *durable = (pending.number, pending.length);
        }
        Ok(())
    }

    pub(super) fn writer(&self) -> Result<&Mutex<Writer>> {
        self.writer.as_ref().ok_or_else(|| {
            let path = self.directory.display();
            Error::Store(format!("{path} is open for reading; open it with mode \"a\" to append"))
        })
    }

    pub(super) fn rotate_if_full(&self, writer: &mut Writer, bytes: u64, records: usize, late: usize) -> Result<()> {
        let state = self.state();
        let Some(segment) = state.segments.get(&writer.number) else { return Ok(()) };
        let full = writer.length + bytes > self.segment_bytes
            || segment.rows.len() + records > MAX_SEGMENT_RECORDS
            || segment.late.len() + late > MAX_SEGMENT_RECORDS;
        if !full {
            return Ok(());
        }
        drop(state);
        self.rotate(writer)
    }

    /// Seals the writer's segment, if there is anything in it, and goes on in a new one.
    pub(super) fn rotate(&self, writer: &mut Writer) -> Result<()> {
        let state = self.state();
        let Some(segment) = state.segments.get(&writer.number).filter(|segment| !segment.is_empty()) else {
            return Ok(());
        };
        let footer = footer::footer(segment.version, writer.number, &segment.rows, &segment.late, &state.names)?;
        drop(state);
        let sealed = writer.number;
        writer.rotate(&footer, &self.poison)?;
        let mut state = self.state_mut();
        state.refresh(self.on_damage, Interrupt::never())?;
        state.segments.entry(sealed).and_modify(|segment| segment.sealed = true);
        Ok(())
    }

    /// Lets `index` put what was just written into the segment's rows.
    pub(super) fn index_written(&self, writer: &Writer, number: u32, index: impl FnOnce(&mut Segment, &mut Names)) {
        let mut state = self.state_mut();
        let State { names, segments, late, sources, .. } = &mut *state;
        let Some(segment) = segments.get_mut(&number) else { return };
        // A refresh by another thread may have found the append already.
        if segment.sequence == writer.sequence {
            return;
        }
        index(segment, names);
        late.add(number, segment, &sources[0]);
        (segment.end, segment.sequence) = (writer.length, writer.sequence);
    }
}

fn index_records<T: AsRef<Trajectory>>(
    segment: &mut Segment,
    names: &mut Names,
    written: &Written,
    trajectories: &[T],
) {
    for (frame, trajectory) in written.frames.iter().zip(trajectories) {
        let trajectory = trajectory.as_ref();
        segment.rows.push(Row {
            id: record_id(written.number, frame.sequence),
            time_us: written.time_us,
            reward: trajectory.reward,
            offset: frame.offset,
            length: frame.length,
            source: names.number(&trajectory.source),
            problem: names.number(&trajectory.problem_id),
            prompt: trajectory.prompt_tokens.len() as u32,
            response: trajectory.response_tokens.len() as u32,
            present: Some(Present::of(trajectory)),
        });
    }
}
