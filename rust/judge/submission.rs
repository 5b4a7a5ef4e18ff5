//! What is given to the judge, and what it gives back.

use std::str::FromStr;
use std::sync::Arc;

use super::{Checker, Verdict};
use crate::sandbox::{Exit, IsolationTier, Limits};
use crate::{Error, Result};

/// One input and the output that is right for it. The bytes are shared, not copied, when cloned.
#[derive(Clone, Debug)]
pub struct TestCase {
    /// What the program finds on stdin; in call mode the arguments, a JSON list.
    pub input: Arc<[u8]>,
    /// What it should write to stdout, in call mode the value (JSON); this never reaches the sandbox.
    pub output: Arc<[u8]>,
}

/// How a program is run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// Python, each test in a fork of a warm interpreter that has compiled the program once.
    #[default]
    WarmPython,
    /// Python, each test in an interpreter that is started for it.
    ExecPython,
    /// C++17, compiled once, and executed in each test.
    Cpp17,
}

impl FromStr for Runtime {
    type Err = Error;

    /// From a language, or a language and a mode with a blank between them.
    fn from_str(name: &str) -> Result<Self> {
        let (language, mode) = name.split_once(' ').unwrap_or((name, ""));
        match (language, mode) {
            ("python", "" | "warm") => Ok(Runtime::WarmPython),
            ("python", "exec") => Ok(Runtime::ExecPython),
            ("cpp" | "c++" | "cpp17" | "c++17", "" | "exec") => Ok(Runtime::Cpp17),
            ("python", _) => Err(Error::invalid(format!("mode is {mode:?}: give \"warm\" or \"exec\""))),
            ("cpp" | "c++" | "cpp17" | "c++17", _) => {
                Err(Error::invalid(format!("mode is {mode:?}: C++ has \"exec\"")))
            }
            _ => Err(Error::invalid(format!("language is {language:?}: give \"python\" or \"cpp\""))),
        }
    }
}

/// A program, and all that is needed to judge it.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The source as bytes: encoding declarations are the language's business.
    pub source: Arc<[u8]>,
    /// How it is run.
    pub runtime: Runtime,
    /// Run in this order.
    pub tests: Vec<TestCase>,
    /// Call mode: the function, of the module or of its class `Solution`, that is called in each test.
    pub function: Option<String>,
    /// When an output is right.
    pub checker: Checker,
    /// For each run.
    pub limits: Limits,
    /// Ends at the first test that is not accepted, and ends that test at the first wrong token.
    pub stop_on_first_failure: bool,
}

impl Submission {
    const MAX_FUNCTION_NAME_BYTES: usize = 1 << 10;
    /// The longest source.
    pub const MAX_SOURCE_BYTES: usize = 16 << 20;
    /// The longest input or output of a test.
    pub const MAX_TEST_BYTES: usize = 256 << 20;

    /// `Error::Invalid` naming what is wrong.
    pub fn validate(&self) -> Result<()> {
        self.limits.validate()?;
        if let Some(function) = &self.function
            && (function.is_empty() || function.len() > Self::MAX_FUNCTION_NAME_BYTES)
        {
            return Err(Error::invalid(format!("fn_name is {function:?}: give a function's name")));
        }
        if self.function.is_some() && self.runtime != Runtime::WarmPython {
            return Err(Error::invalid("fn_name is for warm Python: programs that are executed have no call mode"));
        }
        if self.tests.is_empty() {
            return Err(Error::invalid("a submission without tests: nothing to judge it by"));
        }
        if self.source.len() > Self::MAX_SOURCE_BYTES {
            let (have, most) = (self.source.len(), Self::MAX_SOURCE_BYTES);
            return Err(Error::invalid(format!("source has {have} bytes: at most {most} are judged")));
        }
        for (index, test) in self.tests.iter().enumerate() {
            if test.input.len().max(test.output.len()) > Self::MAX_TEST_BYTES {
                let most = Self::MAX_TEST_BYTES;
                return Err(Error::invalid(format!("tests[{index}] is longer than {most} bytes")));
            }
        }
        Ok(())
    }
}

/// What happened on one test: the verdict, and the facts that it rests on.
#[derive(Clone, Debug)]
pub struct TestResult {
    /// For this test alone.
    pub verdict: Verdict,
    /// How the process ended; `None` when the judge could not run it.
    pub exit: Option<Exit>,
    /// CPU seconds, user and system.
    pub cpu_time_s: f64,
    /// Seconds on the clock.
    pub wall_time_s: f64,
    /// Peak resident bytes.
    pub memory_bytes: u64,
    /// Bytes of stdout that were read.
    pub stdout_bytes: u64,
    /// The beginning of stdout.
    pub stdout_head: Vec<u8>,
    /// The end of stderr.
    pub stderr_tail: Vec<u8>,
}

/// What the judge says of a submission.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// The gravest of the tests' verdicts.
    pub verdict: Verdict,
    /// Tests accepted.
    pub num_passed: usize,
    /// What the program was locked in with; `None` when no sandbox could be made.
    pub isolation_tier: Option<IsolationTier>,
    /// The parts of the tier that were in force; where a tier was not forced, the host may lack some.
    pub isolation_layers: Arc<[String]>,
    /// What counted and limited memory: `cgroup_v1`, `cgroup_v2`, or `resource_limits` and why it was no cgroup.
    pub memory_accounting: Arc<str>,
    /// In the submission's order; ends early where judging did.
    pub tests: Vec<TestResult>,
    /// The compiler's message, or the judge's own failure; else empty.
    pub message: String,
}

impl Judgement {
    /// A judgement of the program as a whole, without runs.
    pub(super) fn of_no_run(verdict: Verdict, tier: Option<IsolationTier>, message: String) -> Self {
        Judgement {
            verdict,
            num_passed: 0,
            isolation_tier: tier,
            isolation_layers: Arc::default(),
            memory_accounting: Arc::default(),
            tests: Vec::new(),
            message,
        }
    }
}
