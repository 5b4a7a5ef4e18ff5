//! The sandbox: a jailed, warm Python interpreter that runs programs which nobody trusts.
//!
//! ```text
//! this process ── Worker ──exec──▶ launcher ─▶ zygote (warm, jailed) ─▶ template (a Program) ─▶ child (one test)
//! ```
//!
//! | module | kernel mechanism or noun |
//! | --- | --- |
//! | [`limits`] | what one run may use |
//! | [`tier`] | how strong the isolation is, and which tier this host gives |
//! | [`seccomp`] | the system calls that are left |
//! | [`worker`] | the helper process, started by exec: this process itself never forks |
//! | `compile` | C++, compiled in a jail of its own |
//! | `exec` | programs that are executed: the folder where they lie, their arguments |
//! | [`program`] | one program loaded in a worker, and its runs |
//! | `protocol`, `descriptors` | messages to the helper, and the files that go along |
//!
//! What runs on the other side is in `helper/*.py`: namespaces, landlock, rlimits and the forks. The sandbox reports
//! facts (an [`Outcome`]); it knows nothing of expected outputs and verdicts, which are the judge's.

mod compile;
mod descriptors;
mod exec;
mod limits;
mod program;
mod protocol;
mod seccomp;
mod tier;
mod worker;

pub use compile::{Compilation, Executable, find_compiler};
pub use descriptors::Alarm;
pub use limits::Limits;
pub use program::{EndedBy, Exit, Outcome, Output, Program, Run};
pub use tier::IsolationTier;
pub use worker::{Worker, WorkerConfig, WorkerKind, find_interpreter};
