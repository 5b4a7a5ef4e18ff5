//! The messages between a [`super::Worker`] and its helper (`helper/zygote.py`), one datagram each.
//!
//! ```text
//! to the zygote     sources of the helper; configuration, a `key=value` a line + 0 to 2: entrances of the cgroup
//!                   P u64 memory_bytes, function       + 2 descriptors: control socket, source   load a program
//!                   P u64 memory_bytes, arguments      + 2 or 3: control socket, executable, Python source to check
//!                   F f64 cpu_time_s f64 wall_time_s u64 memory_bytes u32 source_bytes, source, function
//!                     + 3 descriptors: stdin, stdout, stderr                                     load and run once
//!                   K                                                                            kill the template
//!                   S | T | M as below
//! to a compiler     P                                  + 2: source, file for the executable; it answers C, N or E
//! from the zygote   R version \n layers \n path of the box \n why it is not in the cgroup (+ the box's descriptor)
//!                   E text | K | W | D as below
//! to a template     R f64 cpu_time_s f64 wall_time_s   + 3 descriptors: stdin, stdout, stderr    run a test
//!                   S                                                                            stop the run
//!                   T | M f64 seconds                                                            answers to a W
//! from a template   C compiled | N text | E text: it cannot be executed
//!                   W                                  + pidfd of the test's process            its wall time is up
//!                   D u8 ended_by u8 compiled i32 status f64 cpu f64 wall u64 peak, text         a run's end
//! ```
//! Numbers are in native order and unpadded. What arrives is parsed with every length checked: the helper's processes
//! never run a judged program in the process that speaks, but nothing here depends on that.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

use super::program::EndedBy;
use crate::{Error, Result};

const MAX_DESCRIPTORS: usize = 4;
const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// One end of a socket to the helper.
#[derive(Debug)]
pub(super) struct Channel(OwnedFd);

/// The end of a run, as the template tells it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Ended {
    pub ended_by: EndedBy,
    pub wait_status: i32,
    pub cpu_time_s: f64,
    pub wall_time_s: f64,
    pub peak_memory_bytes: u64,
}

/// A message from what runs tests: the zygote or a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum FromRunner {
    Compiled,
    NotCompiled(String),
    /// The process ended while it compiled.
    CompilerDied,
    /// The wall time of the run is over; the message brings a handle of its process.
    TimeIsUp,
    Ended(Ended),
}

impl Channel {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Channel(socket)
    }

    /// Sends one message; `Error::Judge` when the other end is gone.
    pub(super) fn send(&self, message: &[u8], descriptors: &[BorrowedFd<'_>]) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_DESCRIPTORS))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(Error::Judge(format!("{} descriptors in one message", descriptors.len())));
        }
        loop {
            let parts = [IoSlice::new(message)];
            match rustix::net::sendmsg(&self.0, &parts, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(Error::Judge(format!("the judge's helper does not listen: {errno}"))),
            }
        }
    }

    /// The next message, `None` when the other end is closed.
    pub(super) fn receive(&self) -> Result<Option<Vec<u8>>> {
        Ok(self.receive_with_descriptor()?.map(|(message, _)| message))
    }

    /// As [`Channel::receive`], with the descriptor that may come along.
    pub(super) fn receive_with_descriptor(&self) -> Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        let mut buffer = vec![0u8; MAX_MESSAGE_BYTES];
        let mut parts = [IoSliceMut::new(&mut buffer)];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        loop {
            match rustix::net::recvmsg(&self.0, &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Ok(message) if message.bytes == 0 => return Ok(None),
                Ok(message) if message.flags.contains(ReturnFlags::TRUNC) => return Err(garbled(&buffer)),
                Ok(message) => {
                    buffer.truncate(message.bytes);
                    let descriptor = ancillary.drain().find_map(|part| match part {
                        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
                        _ => None,
                    });
                    return Ok(Some((buffer, descriptor)));
                }
                // A reset says that the other end closed with messages of ours unread. It is told once, and before what
                // the other end had said, which the next call gives.
                Err(Errno::INTR | Errno::CONNRESET) => continue,
                Err(errno) => return Err(Error::Judge(format!("reading from the judge's helper: {errno}"))),
            }
        }
    }

    /// As [`Channel::receive`], with a deadline; `what` names the wait.
    pub(super) fn receive_before(&self, deadline: Instant, what: &str) -> Result<Option<Vec<u8>>> {
        Ok(self.receive_with_descriptor_before(deadline, what)?.map(|(message, _)| message))
    }

    /// As [`Channel::receive_before`], with the descriptor that may come along.
    pub(super) fn receive_with_descriptor_before(
        &self,
        deadline: Instant,
        what: &str,
    ) -> Result<Option<(Vec<u8>, Option<OwnedFd>)>> {
        let mut descriptors = [PollFd::new(&self.0, PollFlags::IN)];
        if wait(&mut descriptors, deadline)? { self.receive_with_descriptor() } else { Err(too_late(what)) }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The error for a helper that does not answer in time.
pub(super) fn too_late(what: &str) -> Error {
    Error::Judge(format!("the judge's helper did not answer in time: {what}"))
}

/// Waits until one of the descriptors is ready; false when the deadline comes first.
pub(super) fn wait(descriptors: &mut [PollFd<'_>], deadline: Instant) -> Result<bool> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        // Rounded up, so that a wait never ends just before its deadline only to be repeated.
        let left = Timespec::try_from(left + Duration::from_micros(1))
            .map_err(|_| Error::Judge("a deadline too far away".into()))?;
        match rustix::event::poll(descriptors, Some(&left)) {
            Ok(0) if Instant::now() < deadline => continue,
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => continue,
            Err(errno) => return Err(Error::io("waiting for the judge's helper", errno.into())),
        }
    }
}

/// Asks the zygote to load a program. The parameter is the function to call, empty for whole programs; or the arguments
/// to execute it with, with NUL bytes between them.
pub(super) fn load(memory_bytes: u64, parameter: &str) -> Vec<u8> {
    [b"P".as_slice(), &memory_bytes.to_ne_bytes(), parameter.as_bytes()].concat()
}

/// Asks the zygote to load a program and to run it once. The source must fit into a message.
pub(super) fn first_run(
    cpu_time_s: f64,
    wall_time_s: f64,
    memory_bytes: u64,
    source: &[u8],
    function: &str,
) -> Vec<u8> {
    let fields = [cpu_time_s.to_ne_bytes(), wall_time_s.to_ne_bytes(), memory_bytes.to_ne_bytes()];
    let length = (source.len() as u32).to_ne_bytes();
    [b"F".as_slice(), fields.as_flattened(), &length, source, function.as_bytes()].concat()
}

/// Asks the template for a run.
pub(super) fn run(cpu_time_s: f64, wall_time_s: f64) -> Vec<u8> {
    [b"R".as_slice(), &cpu_time_s.to_ne_bytes(), &wall_time_s.to_ne_bytes()].concat()
}

/// Lets the run go on for so many seconds of wall time.
pub(super) fn more_time(seconds: f64) -> Vec<u8> {
    [b"M".as_slice(), &seconds.to_ne_bytes()].concat()
}

/// Asks the compiler's helper to compile.
pub(super) const COMPILE: &[u8] = b"P";
/// Asks the zygote or the template to end the run.
pub(super) const STOP: &[u8] = b"S";
/// As [`STOP`], because its time is really over.
pub(super) const END_FOR_TIME: &[u8] = b"T";
/// Asks the zygote to kill the template; also its answer.
pub(super) const KILL: &[u8] = b"K";

impl FromRunner {
    /// Parses a message; `Error::Judge` for anything that none of them sends.
    pub(super) fn parse(message: &[u8]) -> Result<Self> {
        match message.split_first() {
            Some((b'C', [])) => Ok(FromRunner::Compiled),
            Some((b'W', [])) => Ok(FromRunner::TimeIsUp),
            Some((b'N', text)) => Ok(FromRunner::NotCompiled(String::from_utf8_lossy(text).into_owned())),
            Some((b'E', text)) => Err(Error::Judge(String::from_utf8_lossy(text).into_owned())),
            Some((b'D', fields)) => parse_end(fields),
            _ => Err(garbled(message)),
        }
    }
}

/// What a message from the helper comes to, in words: for the fuzz target (`rust/fuzz`), which sees nothing else of it.
#[doc(hidden)]
pub fn describe_message(message: &[u8]) -> Result<String> {
    Ok(format!("{:?}", FromRunner::parse(message)?))
}

fn parse_end(message: &[u8]) -> Result<FromRunner> {
    let mut fields = Fields(message);
    let ended_by = match u8::from_ne_bytes(fields.take()?) {
        0 => EndedBy::Program,
        1 => EndedBy::CpuTime,
        2 => EndedBy::WallTime,
        3 => EndedBy::Request,
        other => return Err(garbled(&[other])),
    };
    let compiled = u8::from_ne_bytes(fields.take()?);
    let ended = Ended {
        ended_by,
        wait_status: i32::from_ne_bytes(fields.take()?),
        cpu_time_s: f64::from_ne_bytes(fields.take()?),
        wall_time_s: f64::from_ne_bytes(fields.take()?),
        peak_memory_bytes: u64::from_ne_bytes(fields.take()?),
    };
    // Nothing compares with what is no number, so that it would be within every limit.
    if [ended.cpu_time_s, ended.wall_time_s].iter().any(|seconds| !(seconds.is_finite() && *seconds >= 0.0)) {
        return Err(garbled(message));
    }
    match (compiled, fields.0) {
        (0, []) => Ok(FromRunner::CompilerDied),
        (1, reason) => Ok(FromRunner::NotCompiled(String::from_utf8_lossy(reason).into_owned())),
        (2, []) => Ok(FromRunner::Ended(ended)),
        _ => Err(garbled(fields.0)),
    }
}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or_else(|| garbled(self.0))?;
        self.0 = rest;
        Ok(*field)
    }
}

fn garbled(message: &[u8]) -> Error {
    let shown = &message[..message.len().min(32)];
    Error::Judge(format!("the judge's helper sent what it never sends: {:?}", String::from_utf8_lossy(shown)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn end(ended_by: u8, compiled: u8, status: i32, cpu: f64, wall: f64, peak: u64, text: &[u8]) -> Vec<u8> {
        let (times, peak) = ([cpu.to_ne_bytes(), wall.to_ne_bytes()], peak.to_ne_bytes());
        [&[b'D', ended_by, compiled], status.to_ne_bytes().as_slice(), times.as_flattened(), &peak, text].concat()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        /// The fuzz target for what the helper says: any bytes, those of real messages more often than chance has it.
        #[test]
        fn any_bytes_are_refused_or_are_a_message_whose_facts_are_sound(
            kind in prop::option::of(prop::sample::select(b"CNED".to_vec())),
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
        ) {
            let message: Vec<u8> = kind.into_iter().chain(bytes).collect();
            if let Ok(FromRunner::Ended(ended)) = FromRunner::parse(&message) {
                prop_assert!(ended.cpu_time_s >= 0.0 && ended.cpu_time_s.is_finite());
                prop_assert!(ended.wall_time_s >= 0.0 && ended.wall_time_s.is_finite());
                prop_assert_eq!(message.len(), 31);
            }
        }

        #[test]
        fn a_runs_end_arrives_as_it_was_told(
            ended_by in 0u8..6, compiled in 0u8..4, status in any::<i32>(), cpu in any::<f64>(), wall in any::<f64>(),
            peak in any::<u64>(), text in "[a-z]{0,9}",
        ) {
            let sound = [cpu, wall].iter().all(|seconds| seconds.is_finite() && *seconds >= 0.0);
            let parsed = FromRunner::parse(&end(ended_by, compiled, status, cpu, wall, peak, text.as_bytes()));
            match parsed {
                Ok(FromRunner::Ended(ended)) => {
                    prop_assert!(sound && ended_by < 4 && compiled == 2 && text.is_empty());
                    prop_assert_eq!((ended.wait_status, ended.peak_memory_bytes), (status, peak));
                    prop_assert_eq!((ended.cpu_time_s, ended.wall_time_s), (cpu, wall));
                }
                Ok(FromRunner::NotCompiled(reason)) => prop_assert!(compiled == 1 && reason == text),
                Ok(FromRunner::CompilerDied) => prop_assert!(compiled == 0 && text.is_empty()),
                Ok(FromRunner::Compiled | FromRunner::TimeIsUp) => return Err(TestCaseError::fail("it is no run's end")),
                Err(_) => prop_assert!(!sound || ended_by > 3 || compiled > 2 || (compiled != 1 && !text.is_empty())),
            }
        }
    }

    #[test]
    fn a_message_cut_anywhere_or_with_more_behind_it_is_refused() {
        let mut whole = end(1, 2, 9, 0.5, 0.7, 4096, b"");
        assert!(matches!(FromRunner::parse(&whole), Ok(FromRunner::Ended(ended)) if ended.wait_status == 9));
        for length in 0..whole.len() {
            assert!(FromRunner::parse(&whole[..length]).is_err(), "{length} bytes");
        }
        whole.push(0);
        assert!(FromRunner::parse(&whole).is_err());
    }
}
