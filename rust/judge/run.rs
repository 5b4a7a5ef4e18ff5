//! One submission on one worker: each test's facts, and the verdict that they give.

use super::checker::Comparison;
use super::submission::{Judgement, Submission, TestCase, TestResult};
use super::verdict::{OutputState, Verdict};
use crate::sandbox::{Alarm, Output, Program, Run, Worker};
use crate::{Error, Result};

/// Bytes of stdout that are kept for people.
const STDOUT_HEAD_BYTES: usize = 4 << 10;
/// What came of an attempt to judge.
pub(super) enum Attempt {
    Judged(Judgement),
    /// The compiler was stopped or crashed: the source's fault if it happens again.
    CompilerDied,
    /// The alarm rang; the worker is in order.
    Cancelled,
}

/// Judges a submission, whose program is the one loaded last. An error is the worker's: it must be replaced, and the submission judged again.
pub(super) fn judge(
    worker: &mut Worker,
    mut program: Program,
    submission: &Submission,
    alarm: &Alarm,
) -> Result<Attempt> {
    let mut tests = Vec::with_capacity(submission.tests.len());
    for test in &submission.tests {
        match run_test(&mut program, submission, test, alarm)? {
            Ok(result) => tests.push(result),
            Err(Run::NotCompiled(reason)) => {
                let verdict = Verdict::CompileError;
                return Ok(Attempt::Judged(Judgement::of_no_run(verdict, Some(worker.tier()), reason)));
            }
            Err(Run::CompilerDied) => {
                worker.kill_program()?;
                return Ok(Attempt::CompilerDied);
            }
            Err(_) => {
                worker.kill_program()?;
                return Ok(Attempt::Cancelled);
            }
        }
        let failed = tests.last().is_some_and(|test| test.verdict != Verdict::Accepted);
        if (submission.stop_on_first_failure && failed) || !program.can_run() {
            break;
        }
    }
    Ok(Attempt::Judged(Judgement {
        verdict: Verdict::fold(tests.iter().map(|test| test.verdict)),
        num_passed: tests.iter().filter(|test| test.verdict == Verdict::Accepted).count(),
        isolation_tier: Some(worker.tier()),
        isolation_layers: worker.layers().clone(),
        memory_accounting: worker.memory_accounting().clone(),
        tests,
        message: String::new(),
    }))
}

/// Runs one test. The inner error is a run that did not take place.
fn run_test(
    program: &mut Program,
    submission: &Submission,
    test: &TestCase,
    alarm: &Alarm,
) -> Result<std::result::Result<TestResult, Run>> {
    let mut reader = Reader::new(submission, test);
    let outcome = match program.run(&test.input, &mut reader, alarm)? {
        Run::Ended(outcome) => outcome,
        other => return Ok(Err(other)),
    };
    let verdict = Verdict::of_run(&outcome, reader.finish(), &submission.limits);
    if verdict == Verdict::JudgeError {
        return Err(Error::Judge("the judge's helper ended a run that nobody had asked it to end".into()));
    }
    Ok(Ok(TestResult {
        verdict,
        exit: Some(outcome.exit),
        cpu_time_s: outcome.cpu_time_s,
        wall_time_s: outcome.wall_time_s,
        memory_bytes: outcome.peak_memory_bytes,
        stdout_bytes: reader.num_bytes,
        stdout_head: reader.head,
        stderr_tail: outcome.stderr_tail,
    }))
}

/// Reads one run's stdout: compares, counts, keeps its head.
struct Reader {
    comparison: Box<dyn Comparison + Send>,
    stops_when_wrong: bool,
    max_bytes: u64,
    num_bytes: u64,
    head: Vec<u8>,
    wrong: bool,
}

impl Reader {
    fn new(submission: &Submission, test: &TestCase) -> Self {
        Reader {
            comparison: submission.checker.compare(test.output.clone()),
            stops_when_wrong: submission.stop_on_first_failure,
            max_bytes: submission.limits.output_bytes,
            num_bytes: 0,
            head: Vec::new(),
            wrong: false,
        }
    }

    fn finish(&mut self) -> OutputState {
        if self.wrong && self.stops_when_wrong {
            OutputState::WrongEarly
        } else if self.num_bytes > self.max_bytes {
            OutputState::TooLong
        } else if self.wrong || !self.comparison.finish() {
            OutputState::Wrong
        } else {
            OutputState::Right
        }
    }
}

impl Output for Reader {
    fn write(&mut self, bytes: &[u8]) -> bool {
        let room = STDOUT_HEAD_BYTES.saturating_sub(self.head.len());
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        // Bytes beyond the limit do not reach the checker: how many come is chance.
        let allowed = (self.max_bytes - self.num_bytes.min(self.max_bytes)).min(bytes.len() as u64) as usize;
        self.num_bytes += bytes.len() as u64;
        self.wrong = self.wrong || !self.comparison.feed(&bytes[..allowed]);
        self.num_bytes <= self.max_bytes && !(self.wrong && self.stops_when_wrong)
    }
}
