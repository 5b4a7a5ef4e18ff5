//! One run of a program, watched from outside: its output as it comes, its time, its end.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::Alarm;
use super::meter::Start;
use super::program::{EndedBy, Exit, Outcome, Output, Program, Run};
use super::protocol::{self, FromRunner};
use crate::{Error, Result};

/// The longest compilation. The helper itself stops it after some seconds of CPU time; this is for a busy machine.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);
/// How much later than the limits say a run may end before the helper itself counts as stuck.
const GRACE: Duration = Duration::from_secs(30);
/// What a program has waited for a core is given to it again in pieces that are at least as long. One that is runnable gets
/// a piece in any case: it either uses up its CPU time, or waits.
const LEAST_EXTENSION: Duration = Duration::from_millis(10);
/// Where a program has waited so long for a core, this machine can judge nothing.
const MAX_WAITED: Duration = Duration::from_secs(300);
const READ_BYTES: usize = 64 << 10;
/// In the first moments of a run its output is left in the pipe: most programs end before, and each wake-up costs.
const QUIET: Duration = Duration::from_millis(4);
/// How long the end of a program's output is waited for once it has ended. A descriptor of its pipe may outlive all of its
/// processes: within a socket that is on its way through itself, until the kernel looks for such.
const LAST_OUTPUT: Duration = Duration::from_secs(1);

pub(super) struct Running<'a> {
    program: &'a mut Program,
    start: Start,
    wall_time: Duration,
    /// Beyond the wall time, for what was spent waiting for a core.
    extension: Duration,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    output: &'a mut dyn Output,
    stderr_bytes: u64,
    stderr_tail: Vec<u8>,
    ended: Option<protocol::Ended>,
}

impl<'a> Running<'a> {
    /// A run whose request has been sent, and whose output comes from `stdout` and `stderr`.
    pub(super) fn new(
        program: &'a mut Program,
        start: Start,
        [stdout, stderr]: [OwnedFd; 2],
        output: &'a mut dyn Output,
    ) -> Self {
        Running {
            wall_time: program.limits.wall_time(),
            program,
            start,
            extension: Duration::ZERO,
            stdout: Some(stdout),
            stderr: Some(stderr),
            output,
            stderr_bytes: 0,
            stderr_tail: Vec::new(),
            ended: None,
        }
    }

    pub(super) fn watch(&mut self, alarm: &Alarm) -> Result<Run> {
        let mut deadline = self.deadline();
        let mut quiet_until = Some(Instant::now() + QUIET);
        let mut buffer = vec![0u8; READ_BYTES];
        loop {
            if let (Some(ended), None, None) = (self.ended, &self.stdout, &self.stderr) {
                return self.outcome(&ended).map(Run::Ended);
            }
            let [told, rang, out, err] = self.wait(alarm, quiet_until.unwrap_or(deadline), quiet_until.is_none())?;
            if rang {
                return Ok(Run::Cancelled);
            }
            if quiet_until.take().is_some() && !told {
                continue;
            }
            if !(told || out || err) {
                if let Some(ended) = self.ended {
                    return self.outcome(&ended).map(Run::Ended);
                }
                let compiling = !self.program.compiled;
                return if compiling { Ok(Run::CompilerDied) } else { Err(protocol::too_late("end of a run")) };
            }
            if out {
                self.read_stdout(&mut buffer)?;
            }
            if err {
                self.read_stderr(&mut buffer)?;
            }
            if told {
                if let Some(run) = self.hear()? {
                    return Ok(run);
                }
                deadline = if self.ended.is_some() { Instant::now() + LAST_OUTPUT } else { self.deadline() };
            }
            if self.ended.is_some() {
                // All of its output is there; what is not, another process of its own may still have.
                while self.read_stdout(&mut buffer)? {}
                while self.read_stderr(&mut buffer)? {}
            }
        }
    }

    /// Which of control socket, alarm and, if `output` matters, stdout and stderr are ready; none when the deadline has
    /// passed.
    fn wait(&self, alarm: &Alarm, deadline: Instant, output: bool) -> Result<[bool; 4]> {
        let (alarm, runner) = (alarm.as_fd(), self.program.runner()?);
        let places = [
            self.ended.is_none().then_some(runner.as_fd()),
            Some(alarm),
            self.stdout.as_ref().filter(|_| output).map(AsFd::as_fd),
            self.stderr.as_ref().filter(|_| output).map(AsFd::as_fd),
        ];
        // poll(2) has no place for "none", so a descriptor that is done is watched for nothing.
        let mut watched = places.map(|place| match place {
            Some(descriptor) => PollFd::from_borrowed_fd(descriptor, PollFlags::IN),
            None => PollFd::from_borrowed_fd(alarm, PollFlags::empty()),
        });
        protocol::wait(&mut watched, deadline)?;
        let mut ready = [false; 4];
        for (index, (poll, place)) in watched.iter().zip(places).enumerate() {
            ready[index] = place.is_some() && !poll.revents().is_empty();
        }
        Ok(ready)
    }

    fn deadline(&self) -> Instant {
        let compiling = if self.program.compiled { Duration::ZERO } else { COMPILE_TIMEOUT };
        Instant::now() + compiling + self.wall_time + self.extension + GRACE
    }

    fn hear(&mut self) -> Result<Option<Run>> {
        let Some((message, process)) = self.program.runner()?.receive_with_descriptor()? else {
            return self.lost().map(Some);
        };
        match FromRunner::parse(&message)? {
            FromRunner::Compiled => self.program.compiled = true,
            FromRunner::NotCompiled(reason) => return Ok(Some(Run::NotCompiled(reason))),
            FromRunner::CompilerDied => return Ok(Some(Run::CompilerDied)),
            FromRunner::TimeIsUp => {
                let process = process.ok_or_else(|| Error::Judge("a run's process did not come along".into()))?;
                self.extend(&process)?;
            }
            FromRunner::Ended(ended) => self.ended = Some(ended),
        }
        Ok(None)
    }

    /// The wall time is over: more of it for what was spent waiting for a core, if any was, or is right now.
    fn extend(&mut self, process: &OwnedFd) -> Result<()> {
        let waited = self.program.meter.waited(&self.start, process, self.wall_time);
        if self.extension.max(waited.longest) > MAX_WAITED {
            let seconds = MAX_WAITED.as_secs();
            return Err(Error::Judge(format!(
                "a program has waited {seconds} s for a core: this machine is overloaded"
            )));
        }
        let mut more = waited.longest.saturating_sub(self.extension);
        if more < LEAST_EXTENSION {
            if !waited.is_runnable {
                return self.program.runner()?.send(protocol::END_FOR_TIME, &[]);
            }
            more = LEAST_EXTENSION;
        }
        self.extension += more;
        self.program.runner()?.send(&protocol::more_time(more.as_secs_f64()), &[])
    }

    /// What it means that the process which watches the program is gone.
    fn lost(&mut self) -> Result<Run> {
        if self.program.template.is_some() && !self.program.compiled {
            return Ok(Run::CompilerDied);
        }
        if !self.program.meter.has_killed()? {
            return Err(Error::Judge("the process that watches a program ended".into()));
        }
        self.program.is_lost = true;
        Ok(Run::Ended(Outcome {
            exit: Exit::Signal(libc::SIGKILL),
            ended_by: EndedBy::Program,
            killed_for_memory: true,
            cpu_time_s: 0.0,
            wall_time_s: 0.0,
            peak_memory_bytes: self.program.meter.peak_memory(&self.start)?,
            stderr_bytes: self.stderr_bytes,
            stderr_tail: std::mem::take(&mut self.stderr_tail),
        }))
    }

    /// False when there was nothing to read.
    fn read_stdout(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let Some(count) = read_some(self.stdout.as_ref(), buffer)? else { return Ok(false) };
        if count == 0 || !self.output.write(&buffer[..count]) {
            self.stdout = None;
        }
        if count > 0 && self.stdout.is_none() {
            self.stop()?;
        }
        Ok(true)
    }

    fn read_stderr(&mut self, buffer: &mut [u8]) -> Result<bool> {
        let Some(count) = read_some(self.stderr.as_ref(), buffer)? else { return Ok(false) };
        self.stderr_bytes += count as u64;
        self.stderr_tail.extend_from_slice(&buffer[..count]);
        let surplus = self.stderr_tail.len().saturating_sub(Program::STDERR_TAIL_BYTES);
        self.stderr_tail.drain(..surplus);
        if count == 0 {
            self.stderr = None;
        } else if self.stderr_bytes > self.program.limits.output_bytes {
            self.stderr = None;
            self.stop()?;
        }
        Ok(true)
    }

    /// Has the template kill the child; the run's end is still reported.
    fn stop(&mut self) -> Result<()> {
        if self.ended.is_some() { Ok(()) } else { self.program.runner()?.send(protocol::STOP, &[]) }
    }

    fn outcome(&mut self, ended: &protocol::Ended) -> Result<Outcome> {
        let status = ended.wait_status;
        let exit = if libc::WIFEXITED(status) {
            Exit::Code(libc::WEXITSTATUS(status))
        } else if libc::WIFSIGNALED(status) {
            Exit::Signal(libc::WTERMSIG(status))
        } else {
            return Err(Error::Judge(format!("wait status {status} is no end of a process")));
        };
        let meter = &self.program.meter;
        Ok(Outcome {
            exit,
            ended_by: ended.ended_by,
            killed_for_memory: exit == Exit::Signal(libc::SIGKILL) && meter.has_killed()?,
            cpu_time_s: ended.cpu_time_s,
            wall_time_s: ended.wall_time_s,
            peak_memory_bytes: ended.peak_memory_bytes.max(meter.peak_memory(&self.start)?),
            stderr_bytes: self.stderr_bytes,
            stderr_tail: std::mem::take(&mut self.stderr_tail),
        })
    }
}

/// `None` when there is nothing to read yet.
fn read_some(descriptor: Option<&OwnedFd>, buffer: &mut [u8]) -> Result<Option<usize>> {
    let Some(descriptor) = descriptor else { return Ok(None) };
    match rustix::io::read(descriptor, buffer) {
        Ok(count) => Ok(Some(count)),
        Err(Errno::AGAIN | Errno::INTR) => Ok(None),
        Err(errno) => Err(Error::io("reading a program's output", errno.into())),
    }
}
