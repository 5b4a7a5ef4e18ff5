//! One program loaded in a worker, and its runs: facts about what a process did, no verdicts.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use super::Alarm;
use super::descriptors::{message_sockets, output_pipe, sealed_memory};
use super::limits::Limits;
use super::meter::Meter;
use super::protocol::{self, Channel};
use super::running::Running;
use crate::{Error, Result};

/// Who ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndedBy {
    /// The program itself, or the kernel on its behalf.
    Program,
    /// The CPU time limit.
    CpuTime,
    /// The wall time limit, in which time spent waiting for a core does not count.
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
    /// The kernel ended it, because its cgroup was out of memory.
    pub killed_for_memory: bool,
    /// CPU seconds, user and system, of all threads.
    pub cpu_time_s: f64,
    /// Seconds on the clock, those spent waiting for a core included.
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
    pub(super) limits: Limits,
    pub(super) meter: Arc<Meter>,
    warm: Option<WarmProgram>,
    pub(super) template: Option<Channel>,
    pub(super) compiled: bool,
    /// The process that watches its runs has been killed for their memory.
    pub(super) is_lost: bool,
}

/// What a warm zygote is told of a program.
///
/// The first run takes place in a process that compiles the program itself; for further ones a template is made, which
/// compiles it once for all. Long sources go to the template at once.
#[derive(Debug)]
struct WarmProgram {
    zygote: Arc<Channel>,
    source: Vec<u8>,
    function: String,
    may_run_at_once: bool,
}

impl Program {
    /// Bytes of stderr that are kept, from its end.
    pub const STDERR_TAIL_BYTES: usize = 4 << 10;
    /// Longer sources are compiled once only, as that costs more than a template. These fit into a message.
    const MAX_SOURCE_COMPILED_TWICE: usize = 16 << 10;

    /// One that the zygote of a warm worker is to compile, in time.
    pub(super) fn warm(
        zygote: Arc<Channel>,
        meter: Arc<Meter>,
        source: &[u8],
        function: &str,
        limits: &Limits,
    ) -> Self {
        let warm = WarmProgram {
            zygote,
            source: source.to_vec(),
            function: function.into(),
            may_run_at_once: source.len() <= Self::MAX_SOURCE_COMPILED_TWICE,
        };
        let limits = limits.clone();
        Program { limits, meter, warm: Some(warm), template: None, compiled: false, is_lost: false }
    }

    /// One that has a template already.
    pub(super) fn in_template(template: Channel, meter: Arc<Meter>, limits: &Limits) -> Self {
        let limits = limits.clone();
        Program { limits, meter, warm: None, template: Some(template), compiled: false, is_lost: false }
    }

    /// Whether it can be run again after a run that ended.
    pub fn can_run(&self) -> bool {
        !self.is_lost
    }

    /// Runs the program once on `stdin`. After any result but `Run::Ended` it must not be run again.
    ///
    /// `Error::Judge` is a failure of the helper, never of the program.
    pub fn run(&mut self, stdin: &[u8], output: &mut dyn Output, alarm: &Alarm) -> Result<Run> {
        let stdin = sealed_memory(stdin)?;
        let (stdout, stdout_writer) = output_pipe()?;
        let (stderr, stderr_writer) = output_pipe()?;
        let start = self.meter.start()?;
        self.start([stdin.as_fd(), stdout_writer.as_fd(), stderr_writer.as_fd()])?;
        drop((stdin, stdout_writer, stderr_writer));
        Running::new(self, start, [stdout, stderr], output).watch(alarm)
    }

    fn start(&mut self, [stdin, stdout, stderr]: [BorrowedFd<'_>; 3]) -> Result<()> {
        let (cpu_time_s, wall_time_s) = (self.limits.cpu_time_s, self.limits.wall_time().as_secs_f64());
        if let (Some(warm), None) = (&mut self.warm, &self.template) {
            if std::mem::take(&mut warm.may_run_at_once) {
                let (bytes, source, function) = (self.limits.memory_bytes, &warm.source, &warm.function);
                let request = protocol::first_run(cpu_time_s, wall_time_s, bytes, source, function);
                return warm.zygote.send(&request, &[stdin, stdout, stderr]);
            }
            self.template = Some(warm.make_template(&self.limits)?);
        }
        self.runner()?.send(&protocol::run(cpu_time_s, wall_time_s), &[stdin, stdout, stderr])
    }

    /// Where its runs are told.
    pub(super) fn runner(&self) -> Result<&Channel> {
        let zygote = || self.warm.as_ref().map(|warm| &*warm.zygote);
        self.template.as_ref().or_else(zygote).ok_or_else(|| Error::Judge("a program without a process".into()))
    }
}

impl WarmProgram {
    fn make_template(&self, limits: &Limits) -> Result<Channel> {
        let (ours, theirs) = message_sockets()?;
        let request = protocol::load(limits.memory_bytes, &self.function);
        self.zygote.send(&request, &[theirs.as_fd(), sealed_memory(&self.source)?.as_fd()])?;
        Ok(Channel::new(ours))
    }
}
