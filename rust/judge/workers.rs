//! The workers of one judge thread, one for each way to run programs, made when first needed; and what is done when they
//! fail.

use std::path::PathBuf;
use std::sync::Arc;

use super::run::{self, Attempt};
use super::submission::{Judgement, Runtime, Submission};
use super::verdict::Verdict;
use crate::sandbox::{Alarm, Compilation, IsolationTier, Worker, WorkerConfig, WorkerKind, find_compiler};
use crate::{Error, Result};

/// How often a submission is judged when the judge itself fails.
const MAX_ATTEMPTS: u32 = 3;
/// After so many programs a worker is replaced: its forks share one address layout and one hash seed.
const PROGRAMS_PER_WORKER: u64 = 2_000;

/// Said where C++ is to be judged.
pub(super) const NO_COMPILER: &str = "this host has no C++ compiler: put g++ or clang++ on the PATH";

/// The workers of one thread, all of the same tier.
pub(super) struct Workers {
    interpreter: PathBuf,
    tier: IsolationTier,
    forced: bool,
    layers: Arc<[String]>,
    memory_accounting: Arc<str>,
    warm: Option<Worker>,
    exec: Option<Worker>,
    compiler: Option<Worker>,
}

impl Workers {
    /// `forced` as in [`WorkerConfig`].
    pub(super) fn new(interpreter: PathBuf, tier: IsolationTier, forced: bool, warm: Option<Worker>) -> Self {
        let layers = warm.as_ref().map(|worker| worker.layers().clone()).unwrap_or_default();
        let memory_accounting = warm.as_ref().map(|worker| worker.memory_accounting().clone()).unwrap_or_default();
        Workers { interpreter, tier, forced, layers, memory_accounting, warm, exec: None, compiler: None }
    }

    /// Ends them all; they are made anew when needed.
    pub(super) fn discard(&mut self) {
        self.warm = None;
        self.exec = None;
        self.compiler = None;
    }

    /// The judgement when the judge itself has failed.
    pub(super) fn failure(&self, reason: String) -> Judgement {
        Judgement::of_no_run(Verdict::JudgeError, Some(self.tier), reason)
    }

    /// Judges, again where a worker fails. `None` when it was cancelled.
    pub(super) fn judge(&mut self, submission: &Submission, alarm: &Alarm) -> Option<Judgement> {
        let mut judgement = self.attempts(submission, alarm)?;
        judgement.isolation_layers = self.layers.clone();
        judgement.memory_accounting = self.memory_accounting.clone();
        Some(judgement)
    }

    fn attempts(&mut self, submission: &Submission, alarm: &Alarm) -> Option<Judgement> {
        let mut reason = String::new();
        let mut compiler_died = false;
        for _ in 0..MAX_ATTEMPTS {
            match self.attempt(submission, alarm) {
                Ok(Attempt::Judged(judgement)) => return Some(judgement),
                Ok(Attempt::Cancelled) => return None,
                Ok(Attempt::CompilerDied) if compiler_died => {
                    let message = "the compiler crashed or did not end".to_string();
                    return Some(Judgement::of_no_run(Verdict::CompileError, Some(self.tier), message));
                }
                Ok(Attempt::CompilerDied) => compiler_died = true,
                Err(error) => {
                    reason = error.to_string();
                    self.discard();
                }
            }
        }
        Some(self.failure(reason))
    }

    fn attempt(&mut self, submission: &Submission, alarm: &Alarm) -> Result<Attempt> {
        let (source, limits) = (&submission.source, &submission.limits);
        match submission.runtime {
            Runtime::WarmPython => {
                let worker = self.worker(WorkerKind::Warm)?;
                let program = worker.load(source, submission.function.as_deref(), limits)?;
                run::judge(worker, program, submission, alarm)
            }
            Runtime::ExecPython => {
                let worker = self.worker(WorkerKind::Exec)?;
                let program = worker.load_exec(source, limits)?;
                run::judge(worker, program, submission, alarm)
            }
            Runtime::Cpp17 => {
                let compiler = find_compiler().ok_or_else(|| Error::Judge(NO_COMPILER.into()))?;
                match self.worker(WorkerKind::Compile(compiler))?.compile(source, alarm)? {
                    Compilation::Done(executable) => {
                        let worker = self.worker(WorkerKind::Exec)?;
                        let program = worker.load_executable(&executable, limits)?;
                        run::judge(worker, program, submission, alarm)
                    }
                    Compilation::NotCompiled(reason) => {
                        let verdict = Verdict::CompileError;
                        Ok(Attempt::Judged(Judgement::of_no_run(verdict, Some(self.tier), reason)))
                    }
                    Compilation::Cancelled => {
                        self.compiler = None;
                        Ok(Attempt::Cancelled)
                    }
                }
            }
        }
    }

    fn worker(&mut self, kind: WorkerKind) -> Result<&mut Worker> {
        let place = match kind {
            WorkerKind::Warm => &mut self.warm,
            WorkerKind::Exec => &mut self.exec,
            WorkerKind::Compile(_) => &mut self.compiler,
        };
        if place.as_ref().is_some_and(|worker| worker.num_programs() >= PROGRAMS_PER_WORKER) {
            *place = None;
        }
        match place {
            Some(worker) => Ok(worker),
            none => {
                let (interpreter, tier, forced) = (self.interpreter.clone(), self.tier, self.forced);
                let worker = Worker::start(&WorkerConfig { interpreter, tier, forced, kind })?;
                self.layers = worker.layers().clone();
                self.memory_accounting = worker.memory_accounting().clone();
                Ok(none.insert(worker))
            }
        }
    }
}
