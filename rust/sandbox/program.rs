//! One program loaded in a worker, and its runs: facts about what a process did, no verdicts.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use super::Alarm;
use super::descriptors::{message_sockets, output_pipe, sealed_memory};
use super::limits::Limits;
use super::protocol::{self, Channel, FromRunner};
use crate::{Error, Result};

/// The longest compilation. The helper itself stops it after some seconds of CPU time; this is for a busy machine.
const COMPILE_TIMEOUT: Duration = Duration::from_secs(60);
/// How much later than the limits say a run may end before the helper itself counts as stuck.
const GRACE: Duration = Duration::from_secs(10);
const READ_BYTES: usize = 64 << 10;

/// Who ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The program itself, or the kernel on its behalf.
    Program,
    /// The CPU time limit.
    CpuTime,
    /// The wall time limit.
    WallTime,
    /// The reader of its output, who had seen enough.
    Request,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It left with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// The facts of one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// How the process ended.
    pub exit: Exit,
    /// Who brought it about.
    pub ended_by: EndedBy,
    /// CPU seconds, user and system, of all threads.
    pub cpu_time_s: f64,
    /// Seconds on the clock, the fork included.
    pub wall_time_s: f64,
    /// Peak resident bytes.
    pub peak_memory_bytes: u64,
    /// Bytes written to stderr.
    pub stderr_bytes: u64,
    /// The end of what was written to stderr.
    pub stderr_tail: Vec<u8>,
}

/// What loading and running came to.
#[derive(Debug)]
pub enum Run {
    /// It ran.
    Ended(Outcome),
    /// The source does not compile, with the compiler's message.
    NotCompiled(String),
    /// Compiling took too long or too much: the compiler was stopped or crashed.
    CompilerDied,
    /// The alarm rang. The program must be killed through its worker.
    Cancelled,
}

/// Where stdout goes as it comes.
pub trait Output {
    /// Takes the next bytes; false when no more is wanted, which ends the run.
    fn write(&mut self, bytes: &[u8]) -> bool;
}

/// A program loaded in a worker; dropping it ends its process.
#[derive(Debug)]
pub struct Program {
    limits: Limits,
    warm: Option<WarmProgram>,
    template: Option<Channel>,
    compiled: bool,
}

/// What a warm zygote is told of a program.
///
/// The first run takes place in a process that compiles the program itself; for further ones a template is made, which
/// compiles it once for all. Long sources go to the template at once.
#[derive(Debug)]
struct WarmProgram {
    zygote: Arc<Channel>,
    source: OwnedFd,
    function: String,
    may_run_at_once: bool,
}

impl Program {
    /// Bytes of stderr that are kept, from its end.
    pub const STDERR_TAIL_BYTES: usize = 4 << 10;
    /// Longer sources are compiled once only, as that costs more than a template.
    const MAX_SOURCE_COMPILED_TWICE: usize = 16 << 10;

    /// One that the zygote of a warm worker is to compile, in time.
    pub(super) fn warm(zygote: Arc<Channel>, source: &[u8], function: &str, limits: &Limits) -> Result<Self> {
        let warm = WarmProgram {
            zygote,
            source: sealed_memory(source)?,
            function: function.into(),
            may_run_at_once: source.len() <= Self::MAX_SOURCE_COMPILED_TWICE,
        };
        Ok(Program { limits: limits.clone(), warm: Some(warm), template: None, compiled: false })
    }

    /// One that has a template already.
    pub(super) fn in_template(template: Channel, limits: &Limits) -> Self {
        Program { limits: limits.clone(), warm: None, template: Some(template), compiled: false }
    }

    /// Runs the program once on `stdin`, for `wall_time` at most. After any result but `Run::Ended` it must not be run
    /// again.
    ///
    /// `Error::Judge` is a failure of the helper, never of the program.
    pub fn run(&mut self, stdin: &[u8], wall_time: Duration, output: &mut dyn Output, alarm: &Alarm) -> Result<Run> {
        let stdin = sealed_memory(stdin)?;
        let (stdout, stdout_writer) = output_pipe()?;
        let (stderr, stderr_writer) = output_pipe()?;
        self.start(wall_time, [stdin.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()])?;
        drop((stdin, stdout_writer, stderr_writer));
        let mut running = Running {
            program: self,
            wall_time,
            stdout: Some(stdout),
            stderr: Some(stderr),
            output,
            stderr_bytes: 0,
            stderr_tail: Vec::new(),
            ended: None,
        };
        running.watch(alarm)
    }

    fn start(&mut self, wall_time: Duration, [stdin, stdout, stderr]: [BorrowedFd<'_>; 3]) -> Result<()> {
        let (cpu_time_s, wall_time_s) = (self.limits.cpu_time_s, wall_time.as_secs_f64());
        if let (Some(warm), None) = (&mut self.warm, &self.template) {
            if std::mem::take(&mut warm.may_run_at_once) {
                let request = protocol::first_run(cpu_time_s, wall_time_s, self.limits.memory_bytes, &warm.function);
                return warm.zygote.send(&request, &[warm.source.as_fd(), stdin, stdout, stderr]);
            }
            self.template = Some(warm.make_template(&self.limits)?);
        }
        self.runner()?.send(&protocol::run(cpu_time_s, wall_time_s), &[stdin, stdout, stderr])
    }

    /// Where its runs are told.
    fn runner(&self) -> Result<&Channel> {
        let zygote = || self.warm.as_ref().map(|warm| &*warm.zygote);
        self.template.as_ref().or_else(zygote).ok_or_else(|| Error::Judge("a program without a process".into()))
    }
}

impl WarmProgram {
    fn make_template(&self, limits: &Limits) -> Result<Channel> {
        let (ours, theirs) = message_sockets()?;
        let request = protocol::load(limits.memory_bytes, &self.function);
        self.zygote.send(&request, &[theirs.as_fd(), self.source.as_fd()])?;
        Ok(Channel::new(ours))
    }
}

struct Running<'a> {
    program: &'a mut Program,
    wall_time: Duration,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    output: &'a mut dyn Output,
    stderr_bytes: u64,
    stderr_tail: Vec<u8>,
    ended: Option<protocol::Ended>,
}

impl Running<'_> {
    fn watch(&mut self, alarm: &Alarm) -> Result<Run> {
        let mut deadline = self.deadline();
        let mut buffer = vec![0u8; READ_BYTES];
        loop {
            if let (Some(ended), None, None) = (&self.ended, &self.stdout, &self.stderr) {
                return Ok(Run::Ended(outcome(ended, self.stderr_bytes, std::mem::take(&mut self.stderr_tail))?));
            }
            let [told, rang, out, err] = self.wait(alarm, deadline)?;
            if rang {
                return Ok(Run::Cancelled);
            }
            if !(told || out || err) {
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
                deadline = self.deadline();
            }
        }
    }

    /// Which of control socket, alarm, stdout and stderr are ready; none when the deadline has passed.
    fn wait(&self, alarm: &Alarm, deadline: Instant) -> Result<[bool; 4]> {
        let (alarm, runner) = (alarm.as_fd(), self.program.runner()?);
        let places = [
            self.ended.is_none().then_some(runner.as_fd()),
            Some(alarm),
            self.stdout.as_ref().map(AsFd::as_fd),
            self.stderr.as_ref().map(AsFd::as_fd),
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
        Instant::now() + compiling + self.wall_time + GRACE
    }

    fn hear(&mut self) -> Result<Option<Run>> {
        let Some(message) = self.program.runner()?.receive()? else {
            let compiling = self.program.template.is_some() && !self.program.compiled;
            let lost = || Error::Judge("the process that watches a program ended".into());
            return if compiling { Ok(Some(Run::CompilerDied)) } else { Err(lost()) };
        };
        match FromRunner::parse(&message)? {
            FromRunner::Compiled => self.program.compiled = true,
            FromRunner::NotCompiled(reason) => return Ok(Some(Run::NotCompiled(reason))),
            FromRunner::CompilerDied => return Ok(Some(Run::CompilerDied)),
            FromRunner::Ended(ended) => self.ended = Some(ended),
        }
        Ok(None)
    }

    fn read_stdout(&mut self, buffer: &mut [u8]) -> Result<()> {
        let Some(count) = read_some(self.stdout.as_ref(), buffer)? else { return Ok(()) };
        if count == 0 || !self.output.write(&buffer[..count]) {
            self.stdout = None;
        }
        if count > 0 && self.stdout.is_none() {
            self.stop()?;
        }
        Ok(())
    }

    fn read_stderr(&mut self, buffer: &mut [u8]) -> Result<()> {
        let Some(count) = read_some(self.stderr.as_ref(), buffer)? else { return Ok(()) };
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
        Ok(())
    }

    /// Has the template kill the child; the run's end is still reported.
    fn stop(&mut self) -> Result<()> {
        if self.ended.is_some() { Ok(()) } else { self.program.runner()?.send(protocol::STOP, &[]) }
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

fn outcome(ended: &protocol::Ended, stderr_bytes: u64, stderr_tail: Vec<u8>) -> Result<Outcome> {
    let status = ended.wait_status;
    let exit = if libc::WIFEXITED(status) {
        Exit::Code(libc::WEXITSTATUS(status))
    } else if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        return Err(Error::Judge(format!("wait status {status} is no end of a process")));
    };
    Ok(Outcome {
        exit,
        ended_by: ended.ended_by,
        cpu_time_s: ended.cpu_time_s,
        wall_time_s: ended.wall_time_s,
        peak_memory_bytes: ended.peak_memory_bytes,
        stderr_bytes,
        stderr_tail,
    })
}
