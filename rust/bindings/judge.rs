//! Bindings of `spo_core::judge`.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use spo_core::judge::{self, Checker, JudgeConfig, Judgement, Limits, Submission, TestCase};
use spo_core::sandbox::Exit;

use crate::errors::to_python;
use crate::runtime::without_gil;

/// A pool of sandboxed interpreters; see `spo.judge.Judge`.
#[pyclass(frozen, name = "Judge")]
struct PyJudge(Mutex<Option<judge::Judge>>);

/// The right to one judgement.
#[pyclass(frozen, name = "JudgeTicket")]
struct PyTicket(judge::Ticket);

/// (verdict, exit code, signal, CPU s, wall s, peak bytes, bytes of stdout, its head, stderr's tail)
type TestRow = (&'static str, Option<i32>, Option<i32>, f64, f64, u64, u64, Py<PyBytes>, Py<PyBytes>);
/// (verdict, tests passed, isolation tier, its layers, memory accounting, message, tests)
type JudgementRow = (&'static str, usize, Option<&'static str>, Vec<String>, String, String, Vec<TestRow>);

impl PyJudge {
    fn lock(&self) -> MutexGuard<'_, Option<judge::Judge>> {
        self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[pymethods]
impl PyJudge {
    #[new]
    #[pyo3(signature = (*, num_workers, interpreter, isolation, allow_weak_isolation))]
    fn new(
        py: Python<'_>,
        num_workers: Option<usize>,
        interpreter: PathBuf,
        isolation: Option<&str>,
        allow_weak_isolation: bool,
    ) -> PyResult<Self> {
        let defaults = JudgeConfig::default();
        let config = JudgeConfig {
            num_workers: num_workers.unwrap_or(defaults.num_workers),
            interpreter,
            isolation: isolation.map(str::parse).transpose().map_err(to_python)?,
            allow_weak_isolation,
        };
        let judge = without_gil(py, |_| judge::Judge::new(&config))?;
        Ok(PyJudge(Mutex::new(Some(judge))))
    }

    #[getter]
    fn isolation_tier(&self) -> PyResult<&'static str> {
        let judge = self.lock();
        Ok(judge.as_ref().ok_or_else(closed)?.isolation_tier().name())
    }

    #[expect(clippy::too_many_arguments, reason = "one for each field of a submission")]
    #[pyo3(signature = (source, tests, *, runtime, function, checker, cpu_time_s, wall_time_s, memory_bytes, output_bytes,
                        stop_on_first_failure, on_done))]
    fn submit(
        &self,
        source: &[u8],
        tests: Vec<(PyBackedBytes, PyBackedBytes)>,
        runtime: &str,
        function: Option<String>,
        checker: &str,
        cpu_time_s: f64,
        wall_time_s: Option<f64>,
        memory_bytes: u64,
        output_bytes: u64,
        stop_on_first_failure: bool,
        on_done: Option<Py<PyAny>>,
    ) -> PyResult<PyTicket> {
        let test = |(input, output): (PyBackedBytes, PyBackedBytes)| TestCase {
            input: Arc::from(&*input),
            output: Arc::from(&*output),
        };
        let submission = Submission {
            source: source.into(),
            runtime: runtime.parse().map_err(to_python)?,
            tests: tests.into_iter().map(test).collect(),
            function,
            checker: checker.parse::<Checker>().map_err(to_python)?,
            limits: Limits { cpu_time_s, wall_time_s, memory_bytes, output_bytes },
            stop_on_first_failure,
        };
        let judge = self.lock();
        let judge = judge.as_ref().ok_or_else(closed)?;
        Ok(PyTicket(judge.submit(submission, on_done.map(call)).map_err(to_python)?))
    }

    /// Cancels everything and returns when no process is left.
    fn close(&self, py: Python<'_>) {
        let judge = self.lock().take();
        // The judge's threads may need the GIL for their last callbacks.
        py.detach(|| drop(judge));
    }
}

impl Drop for PyJudge {
    fn drop(&mut self) {
        let judge = self.lock().take();
        if judge.is_some() {
            Python::attach(|py| py.detach(|| drop(judge)));
        }
    }
}

#[pymethods]
impl PyTicket {
    /// Waits for the judgement.
    fn wait(&self, py: Python<'_>) -> PyResult<JudgementRow> {
        let judgement = without_gil(py, |interrupt| self.0.wait(interrupt))?;
        Ok(to_row(py, &judgement))
    }

    /// The judgement if there is one already.
    fn try_get(&self, py: Python<'_>) -> Option<JudgementRow> {
        self.0.try_get().map(|judgement| to_row(py, &judgement))
    }

    /// Gives up; what runs is killed.
    fn cancel(&self, py: Python<'_>) {
        py.detach(|| self.0.cancel());
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("the judge is closed")
}

fn call(function: Py<PyAny>) -> judge::pool::OnDone {
    Box::new(move || {
        // Nobody is left to be told once the interpreter is shutting down.
        Python::try_attach(|py| {
            if let Err(error) = function.call0(py) {
                error.write_unraisable(py, Some(function.bind(py)));
            }
        });
    })
}

fn to_row(py: Python<'_>, judgement: &Judgement) -> JudgementRow {
    let bytes = |bytes: &[u8]| PyBytes::new(py, bytes).unbind();
    let tests = judgement.tests.iter().map(|test| {
        let (code, signal) = match test.exit {
            Some(Exit::Code(code)) => (Some(code), None),
            Some(Exit::Signal(signal)) => (None, Some(signal)),
            None => (None, None),
        };
        let (head, tail) = (bytes(&test.stdout_head), bytes(&test.stderr_tail));
        let verdict = test.verdict.name();
        let (cpu, wall) = (test.cpu_time_s, test.wall_time_s);
        (verdict, code, signal, cpu, wall, test.memory_bytes, test.stdout_bytes, head, tail)
    });
    let tier = judgement.isolation_tier.map(judge::IsolationTier::name);
    (
        judgement.verdict.name(),
        judgement.num_passed,
        tier,
        judgement.isolation_layers.to_vec(),
        judgement.memory_accounting.to_string(),
        judgement.message.clone(),
        tests.collect(),
    )
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<PyJudge>()?;
    module.add_class::<PyTicket>()?;
    Ok(())
}
