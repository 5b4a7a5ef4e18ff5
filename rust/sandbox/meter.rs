//! What is measured of a worker's programs from outside of the worker: memory, and waiting for a core.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use super::cgroup::Leaf;
use super::waiting::{OwnThread, Waited, machine_is_busy, waited_for_a_core};
use crate::Result;

/// One for each worker, made on the thread that runs its programs.
#[derive(Debug)]
pub(super) struct Meter {
    leaf: Result<Leaf, String>,
    thread: OwnThread,
}

/// Where counting began for a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    memory_in_use: u64,
    thread_waited: Duration,
}

impl Meter {
    /// With a memory cgroup, where this host gives one.
    pub(super) fn new() -> Self {
        Meter { leaf: Leaf::make().map_err(|error| error.to_string()), thread: OwnThread::current() }
    }

    /// The worker could not enter the cgroup.
    pub(super) fn give_up_cgroup(&mut self, reason: &str) {
        self.leaf = Err(reason.to_string());
    }

    /// What counts and limits memory, and why it is nothing better.
    pub(super) fn memory_accounting(&self) -> String {
        match &self.leaf {
            Ok(leaf) => leaf.name().to_string(),
            Err(reason) => format!("resource_limits ({reason})"),
        }
    }

    /// What the worker is to write to, to be inside the cgroup; nothing where there is none.
    pub(super) fn entrances(&self) -> Vec<BorrowedFd<'_>> {
        self.leaf.as_ref().map(Leaf::entrances).unwrap_or_default()
    }

    /// For all that the worker runs from here on.
    pub(super) fn limit_memory(&self, bytes: u64) -> Result<()> {
        self.leaf.as_ref().map_or(Ok(()), |leaf| leaf.set_limit(bytes))
    }

    /// A run begins.
    pub(super) fn start(&self) -> Result<Start> {
        let memory_in_use = self.leaf.as_ref().map_or(Ok(0), Leaf::start_counting)?;
        Ok(Start { memory_in_use, thread_waited: self.thread.waited() })
    }

    /// The most memory that was in use since then beside what was in use before; 0 where nothing counts it.
    pub(super) fn peak_memory(&self, start: &Start) -> Result<u64> {
        let peak = self.leaf.as_ref().map_or(Ok(0), Leaf::peak)?;
        Ok(peak.saturating_sub(start.memory_in_use))
    }

    /// Whether the kernel has ended a process for the limit on memory since this was last asked.
    pub(super) fn has_killed(&self) -> Result<bool> {
        self.leaf.as_ref().map_or(Ok(false), Leaf::has_killed)
    }

    /// How much of a run's `wall_time` was spent waiting for a core, by the program or by the judge that reads its output.
    pub(super) fn waited(&self, start: &Start, program: &OwnedFd, wall_time: Duration) -> Waited {
        // Where the kernel does not say, a busy machine is believed to have taken two thirds of the time, once.
        let guess = || if machine_is_busy() { 2 * wall_time } else { Duration::ZERO };
        let guess = || Waited { longest: guess(), is_runnable: false };
        let mut waited = waited_for_a_core(program).unwrap_or_else(guess);
        waited.longest += self.thread.waited().saturating_sub(start.thread_waited);
        waited
    }
}
