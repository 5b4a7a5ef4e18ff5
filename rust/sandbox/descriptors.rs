//! The files that go to the helper: sealed inputs, capped output pipes, sockets; and the alarm that wakes a waiting thread.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::EventfdFlags;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::pipe::PipeFlags;

use crate::{Error, Result};

fn failed(what: &'static str) -> impl Fn(rustix::io::Errno) -> Error {
    move |errno| Error::io(what, errno.into())
}

/// A file in memory that nobody can change any more, positioned at its start.
pub(super) fn sealed_memory(content: &[u8]) -> Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("spo-judge", flags).map_err(failed("making a memory file"))?;
    let mut length = 0;
    while length < content.len() {
        let written = rustix::io::pwrite(&file, &content[length..], length as u64);
        length += written.map_err(failed("filling a memory file"))?;
    }
    let seals = SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL;
    rustix::fs::fcntl_add_seals(&file, seals).map_err(failed("sealing a memory file"))?;
    Ok(file)
}

/// The (reading, writing) ends of a pipe; the reading end does not block.
pub(super) fn output_pipe() -> Result<(OwnedFd, OwnedFd)> {
    let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed("making a pipe"))?;
    rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).map_err(failed("setting up a pipe"))?;
    Ok((reader, writer))
}

/// Two connected sockets that keep message boundaries.
pub(super) fn message_sockets() -> Result<(OwnedFd, OwnedFd)> {
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .map_err(failed("making a socket pair"))
}

/// Wakes the thread that waits for a run, from any other thread.
#[derive(Debug)]
pub struct Alarm(OwnedFd);

impl Alarm {
    /// A silent alarm.
    pub fn new() -> Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Alarm(rustix::event::eventfd(0, flags).map_err(failed("making an event descriptor"))?))
    }

    /// Makes every wait that watches this alarm end, until it is reset.
    pub fn ring(&self) {
        // It can only fail when the counter is full, and then it rings already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Silences it.
    pub fn reset(&self) {
        let _ = rustix::io::read(&self.0, &mut [0u8; 8]);
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
