//! Bindings of `spo_core::store`.

use std::path::PathBuf;
use std::sync::Arc;

use numpy::PyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use spo_core::store::id::is_attached;
use spo_core::store::{Filter, Mode, OnDamage, Options, Store};
use spo_core::trajectory::Late;
use spo_core::trajectory::columns::Precision;
use spo_core::trajectory::record::{Columns, Present};

use crate::runtime::without_gil;
use crate::trajectory::{Trajectory, cores, logprobs, monte_carlo};

/// Tokens of records one after another, and where each one's begin.
type Flat<'py> = (Bound<'py, PyArray1<i32>>, Bound<'py, PyArray1<u64>>);

/// An open trajectory store; see `spo.store.TrajectoryStore`.
#[pyclass(frozen, module = "spo._native")]
pub(crate) struct NativeStore(pub(crate) Arc<Store>);

#[pymethods]
impl NativeStore {
    #[new]
    #[pyo3(signature = (path, mode, tokenizer, skip_damage, segment_bytes, logprobs))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        mode: &str,
        tokenizer: Option<&str>,
        skip_damage: bool,
        segment_bytes: Option<u64>,
        logprobs: &str,
    ) -> PyResult<Self> {
        let mode = match mode {
            "r" => Mode::Read,
            "a" => Mode::Append,
            other => {
                return Err(PyValueError::new_err(format!("mode must be \"r\" or \"a\", got {other:?}")));
            }
        };
        let precision = match logprobs {
            "float32" => Precision::Single,
            "float16" => Precision::Half,
            other => {
                return Err(PyValueError::new_err(format!(
                    "logprobs must be \"float32\" or \"float16\", got {other:?}"
                )));
            }
        };
        let mut options = Options::new(mode, tokenizer);
        options.on_damage = if skip_damage { OnDamage::Skip } else { OnDamage::Refuse };
        options.precision = precision;
        options.segment_bytes = segment_bytes.unwrap_or(options.segment_bytes);
        let store = without_gil(py, |interrupt| Store::open(&path, options, interrupt))?;
        Ok(NativeStore(Arc::new(store)))
    }

    fn append(&self, py: Python<'_>, trajectories: Vec<PyRef<'_, Trajectory>>) -> PyResult<Vec<u64>> {
        let trajectories = cores(&trajectories);
        without_gil(py, |interrupt| self.0.append(&trajectories, interrupt))
    }

    /// Each column is a sequence with one item for each id; None leaves that of the record as it is.
    fn annotate(
        &self,
        py: Python<'_>,
        ids: Vec<u64>,
        reference_logprobs: Option<Vec<Option<Bound<'_, PyAny>>>>,
        mc_successes: Option<Vec<Option<Bound<'_, PyAny>>>>,
        reward: Option<Vec<Option<f64>>>,
    ) -> PyResult<()> {
        let mut columns = vec![Late::default(); ids.len()];
        for (late, value) in each("reference_logprobs", &mut columns, reference_logprobs)? {
            late.reference_logprobs = Some(logprobs("reference_logprobs", &value)?);
        }
        for (late, value) in each("mc_successes", &mut columns, mc_successes)? {
            late.mc_successes = Some(monte_carlo(&value)?);
        }
        for (late, value) in each("reward", &mut columns, reward)? {
            late.reward = Some(value);
        }
        without_gil(py, |interrupt| self.0.annotate(&ids, &columns, interrupt))
    }

    fn delete(&self, py: Python<'_>, ids: Vec<u64>) -> PyResult<()> {
        without_gil(py, |interrupt| self.0.delete(&ids, interrupt))
    }

    fn attach(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        without_gil(py, |interrupt| self.0.attach(&path, interrupt))
    }

    /// `progress` is called with how many of how many segments were looked at.
    fn compact<'py>(&self, py: Python<'py>, progress: Option<Py<PyAny>>) -> PyResult<Bound<'py, PyDict>> {
        let mut failed = None;
        let mut report = |done: usize, total: usize| {
            let Some(progress) = &progress else { return };
            if let Err(error) = Python::attach(|py| progress.call1(py, (done, total)).map(drop)) {
                failed.get_or_insert(error);
            }
        };
        let done = without_gil(py, |interrupt| self.0.compact(&mut report, interrupt))?;
        if let Some(error) = failed {
            return Err(error);
        }
        let dict = PyDict::new(py);
        dict.set_item("segments", done.segments)?;
        dict.set_item("merged", done.merged)?;
        dict.set_item("records", done.records)?;
        dict.set_item("late", done.late)?;
        dict.set_item("bytes_before", done.bytes_before)?;
        dict.set_item("bytes_after", done.bytes_after)?;
        Ok(dict)
    }

    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        without_gil(py, |_| self.0.commit())
    }

    fn refresh(&self, py: Python<'_>) -> PyResult<()> {
        without_gil(py, |interrupt| self.0.refresh(interrupt))
    }

    fn read(&self, py: Python<'_>, id: u64) -> PyResult<Trajectory> {
        without_gil(py, |interrupt| self.0.read(id, interrupt)).map(Trajectory::from)
    }

    #[expect(clippy::too_many_arguments, reason = "one flag a column")]
    fn read_many(
        &self,
        py: Python<'_>,
        ids: Vec<u64>,
        prompt: bool,
        response: bool,
        behavior: bool,
        reference: bool,
        monte_carlo: bool,
    ) -> PyResult<Vec<Trajectory>> {
        let columns = Columns { prompt, response, behavior, reference, monte_carlo };
        let trajectories = without_gil(py, |interrupt| self.0.read_many(&ids, columns, interrupt))?;
        Ok(trajectories.into_iter().map(Trajectory::from).collect())
    }

    fn read_tokens<'py>(&self, py: Python<'py>, ids: Vec<u64>) -> PyResult<Flat<'py>> {
        let (tokens, begins) = without_gil(py, |interrupt| self.0.read_tokens(&ids, interrupt))?;
        Ok((PyArray1::from_vec(py, tokens), PyArray1::from_vec(py, begins)))
    }

    #[expect(clippy::too_many_arguments, reason = "one for each key of the filter")]
    fn scan(
        &self,
        py: Python<'_>,
        source: Option<String>,
        problem: Option<String>,
        reward: Option<f64>,
        since_us: Option<u64>,
        has: Vec<String>,
        lacks: Vec<String>,
    ) -> PyResult<Vec<u64>> {
        let (has, lacks) = (columns("has", &has)?, columns("lacks", &lacks)?);
        let filter = Filter { source, problem, reward, since_us, has, lacks };
        without_gil(py, |interrupt| self.0.scan(&filter, interrupt))
    }

    fn own_ids(&self, ids: Vec<u64>) -> Vec<u64> {
        ids.into_iter().filter(|&id| !is_attached(id)).collect()
    }

    fn damaged_late_columns(&self, py: Python<'_>) -> PyResult<u64> {
        without_gil(py, |interrupt| self.0.damaged_late_columns(interrupt))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        without_gil(py, |interrupt| self.0.len(interrupt))
    }

    #[getter]
    fn tokenizer(&self) -> &str {
        self.0.tokenizer()
    }

    #[getter]
    fn writable(&self) -> bool {
        self.0.writable()
    }

    /// `(path, offset, bytes)` of each torn tail that opening cut off.
    #[getter]
    fn torn_tails(&self) -> Vec<(PathBuf, u64, u64)> {
        self.0.torn_tails().iter().map(|torn| (torn.path.clone(), torn.offset, torn.bytes)).collect()
    }

    fn info<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let info = without_gil(py, |interrupt| self.0.info(interrupt))?;
        let dict = PyDict::new(py);
        dict.set_item("path", self.0.directory())?;
        dict.set_item("store_id", info.store_id)?;
        dict.set_item("tokenizer", info.tokenizer)?;
        dict.set_item("records", info.records)?;
        dict.set_item("prompt_tokens", info.prompt_tokens)?;
        dict.set_item("response_tokens", info.response_tokens)?;
        dict.set_item("bytes", info.bytes)?;
        dict.set_item("segments", info.segments)?;
        dict.set_item("sealed_segments", info.sealed_segments)?;
        dict.set_item("skipped", info.skipped)?;
        dict.set_item("missing_segments", info.missing)?;
        dict.set_item("sources", info.sources)?;
        dict.set_item("attached", info.attached)?;
        Ok(dict)
    }
}

/// The records' late columns beside what is given for them.
fn each<'a, T>(
    name: &str,
    columns: &'a mut [Late],
    given: Option<Vec<Option<T>>>,
) -> PyResult<impl Iterator<Item = (&'a mut Late, T)>> {
    if let Some(given) = given.as_ref().filter(|given| given.len() != columns.len()) {
        let (ids, values) = (columns.len(), given.len());
        return Err(PyValueError::new_err(format!("{name} has {values} items for {ids} ids")));
    }
    let given = columns.iter_mut().zip(given.unwrap_or_default());
    Ok(given.filter_map(|(late, value)| Some((late, value?))))
}

/// Names of columns that need not be there, as a set.
fn columns(argument: &str, names: &[String]) -> PyResult<Present> {
    let mut set = Present::default();
    for name in names {
        let column = match name.as_str() {
            "behavior_logprobs" => Present::BEHAVIOR,
            "reference_logprobs" => Present::REFERENCE,
            "mc_successes" => Present::MONTE_CARLO,
            _ => {
                let known = "behavior_logprobs, reference_logprobs, mc_successes";
                return Err(PyValueError::new_err(format!(
                    "{argument} names the unknown column {name:?}; known are {known}"
                )));
            }
        };
        set = set.with(column, true);
    }
    Ok(set)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativeStore>()
}
