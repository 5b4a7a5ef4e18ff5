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
//! | `cgroup`, `cgroup_place` | memory cgroups, version 1 and 2: one a worker |
//! | `waiting`, `meter` | time spent waiting for a core; all that is measured from outside of the worker |
//! | `exec` | programs that are executed: the folder where they lie, their arguments |
//! | [`program`], `running` | one program loaded in a worker; one run of it, watched |
//! | `protocol`, `descriptors` | messages to the helper, and the files that go along |
//!
//! What runs on the other side is in `helper/*.py`: namespaces, landlock, rlimits and the forks. The sandbox reports
//! facts (an [`Outcome`]); it knows nothing of expected outputs and verdicts, which are the judge's.

mod cgroup;
mod cgroup_place;
mod compile;
mod descriptors;
mod exec;
mod limits;
mod meter;
mod program;
mod protocol;
mod running;
mod seccomp;
mod tier;
mod waiting;
mod worker;

pub use compile::{Compilation, Executable, find_compiler};
pub use descriptors::Alarm;
pub use limits::Limits;
pub use program::{EndedBy, Exit, Outcome, Output, Program, Run};
#[doc(hidden)]
pub use protocol::describe_message;
pub use tier::IsolationTier;
pub use worker::{Worker, WorkerConfig, WorkerKind, find_interpreter};
