//! The judge: runs programs against tests, in parallel, and gives verdicts.
//!
//! | module | noun |
//! | --- | --- |
//! | [`submission`] | a program with its tests; what comes back for it |
//! | [`verdict`] | what the judge says, and which of several findings counts |
//! | [`checker`] | when an output is right |
//! | [`pool`] | the threads that judge, their queue, and the tickets of those who wait |
//! | `workers` | the workers of one thread, and what is done when they fail |
//! | `run` | one submission on one worker, from facts to verdicts |
//!
//! A verdict rests on the kernel's exit status and counters and on the bytes of the pipes, never on what a program says.
//! An infrastructure failure is retried, then a verdict of its own; rewards are not this module's business.

pub mod checker;
pub mod pool;
mod run;
pub mod submission;
pub mod verdict;
mod workers;

pub use crate::sandbox::{IsolationTier, Limits};
pub use checker::Checker;
pub use pool::{Judge, JudgeConfig, Ticket};
pub use submission::{Judgement, Runtime, Submission, TestCase, TestResult};
pub use verdict::Verdict;
