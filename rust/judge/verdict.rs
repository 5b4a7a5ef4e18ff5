//! What the judge says, from facts: the verdict on a run, and the one that counts among several.

use super::Limits;
use crate::sandbox::{EndedBy, Exit, Outcome};

/// A verdict, gravest first: where several hold, the first in this order is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The source does not compile.
    CompileError,
    /// The judge itself failed, and says nothing about the program.
    JudgeError,
    /// The program tried what only attacks try, and was ended for it.
    SecurityViolation,
    /// It used, or asked for, more memory than allowed.
    MemoryLimit,
    /// It wrote more than allowed.
    OutputLimit,
    /// It used up its CPU or wall time.
    TimeLimit,
    /// It ended by a signal, or with an exit code other than 0.
    RuntimeError,
    /// Its output is not what the checker accepts.
    WrongAnswer,
    /// Right, within all limits.
    Accepted,
}

/// What the reader of a program's output made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutputState {
    /// The checker accepts it.
    Right,
    /// The checker does not accept it.
    Wrong,
    /// The checker found it wrong before its end, and the run was ended for that.
    WrongEarly,
    /// There was too much of it.
    TooLong,
}

impl Verdict {
    /// The name in results.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::CompileError => "compile_error",
            Verdict::JudgeError => "judge_error",
            Verdict::SecurityViolation => "security_violation",
            Verdict::MemoryLimit => "memory_limit",
            Verdict::OutputLimit => "output_limit",
            Verdict::TimeLimit => "time_limit",
            Verdict::RuntimeError => "runtime_error",
            Verdict::WrongAnswer => "wrong_answer",
            Verdict::Accepted => "accepted",
        }
    }

    /// The gravest of some verdicts; accepted when there is none.
    pub fn fold(verdicts: impl IntoIterator<Item = Verdict>) -> Verdict {
        verdicts.into_iter().min().unwrap_or(Verdict::Accepted)
    }

    /// The verdict on one run.
    ///
    /// An output that is wrong early decides whatever else happened: the run was cut short there, so what would have come
    /// later depends on chance.
    pub fn of_run(outcome: &Outcome, output: OutputState, limits: &Limits) -> Verdict {
        if output == OutputState::WrongEarly {
            return Verdict::WrongAnswer;
        }
        if outcome.exit == Exit::Signal(libc::SIGSYS) {
            return Verdict::SecurityViolation;
        }
        let too_much_memory = outcome.killed_for_memory || outcome.peak_memory_bytes > limits.memory_bytes;
        if too_much_memory || refused_memory(outcome) {
            return Verdict::MemoryLimit;
        }
        if output == OutputState::TooLong || outcome.stderr_bytes > limits.output_bytes {
            return Verdict::OutputLimit;
        }
        if out_of_time(outcome, limits) {
            return Verdict::TimeLimit;
        }
        match (outcome.ended_by, outcome.exit, output) {
            // Nobody but the reader of the output asks for an end, and it had no reason.
            (EndedBy::Request, ..) => Verdict::JudgeError,
            (_, Exit::Code(0), OutputState::Right) => Verdict::Accepted,
            (_, Exit::Code(0), _) => Verdict::WrongAnswer,
            _ => Verdict::RuntimeError,
        }
    }
}

fn out_of_time(outcome: &Outcome, limits: &Limits) -> bool {
    matches!(outcome.ended_by, EndedBy::CpuTime | EndedBy::WallTime)
        || outcome.cpu_time_s > limits.cpu_time_s
        || outcome.exit == Exit::Signal(libc::SIGXCPU)
}

/// Python and C++ turn a refused allocation into an exception. Believing its last words only picks among failures.
fn refused_memory(outcome: &Outcome) -> bool {
    let mut lines = outcome.stderr_tail.trim_ascii_end().rsplit(|byte| *byte == b'\n');
    match outcome.exit {
        Exit::Code(1) => lines.next().is_some_and(|line| line.starts_with(b"MemoryError")),
        Exit::Signal(libc::SIGABRT) => lines.take(2).any(|line| line.ends_with(b"'std::bad_alloc'")),
        _ => false,
    }
}
