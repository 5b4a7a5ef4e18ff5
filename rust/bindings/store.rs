//! Bindings of `spo_core::store`.

use std::path::PathBuf;
use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use spo_core::store::{Filter, Mode, OnDamage, Options, Store};
use spo_core::trajectory::record::Columns;

use crate::runtime::without_gil;
use crate::trajectory::{Trajectory, cores};

/// An open trajectory store; see `spo.store.TrajectoryStore`.
#[pyclass(frozen, module = "spo._native")]
pub(crate) struct NativeStore(pub(crate) Arc<Store>);

#[pymethods]
impl NativeStore {
    #[new]
    #[pyo3(signature = (path, mode, tokenizer, skip_damage, segment_bytes))]
    fn new(
        py: Python<'_>,
        path: PathBuf,
        mode: &str,
        tokenizer: Option<&str>,
        skip_damage: bool,
        segment_bytes: Option<u64>,
    ) -> PyResult<Self> {
        let mode = match mode {
            "r" => Mode::Read,
            "a" => Mode::Append,
            other => {
                return Err(PyValueError::new_err(format!("mode must be \"r\" or \"a\", got {other:?}")));
            }
        };
        let mut options = Options::new(mode, tokenizer);
        options.on_damage = if skip_damage { OnDamage::Skip } else { OnDamage::Refuse };
        options.segment_bytes = segment_bytes.unwrap_or(options.segment_bytes);
        let store = without_gil(py, |interrupt| Store::open(&path, options, interrupt))?;
        Ok(NativeStore(Arc::new(store)))
    }

    fn append(&self, py: Python<'_>, trajectories: Vec<PyRef<'_, Trajectory>>) -> PyResult<Vec<u64>> {
        let trajectories = cores(&trajectories);
        without_gil(py, |interrupt| self.0.append(&trajectories, interrupt))
    }

    fn commit(&self, py: Python<'_>) -> PyResult<()> {
        without_gil(py, |_| self.0.commit())
    }

    fn refresh(&self, py: Python<'_>) -> PyResult<()> {
        without_gil(py, |interrupt| self.0.refresh(interrupt))
    }

    fn read_many(
        &self,
        py: Python<'_>,
        ids: Vec<u64>,
        prompt: bool,
        response: bool,
        behavior: bool,
        reference: bool,
    ) -> PyResult<Vec<Trajectory>> {
        let columns = Columns { prompt, response, behavior, reference };
        let trajectories = without_gil(py, |interrupt| self.0.read_many(&ids, columns, interrupt))?;
        Ok(trajectories.into_iter().map(Trajectory::from).collect())
    }

    fn scan(
        &self,
        py: Python<'_>,
        source: Option<String>,
        problem: Option<String>,
        reward: Option<f64>,
        since_us: Option<u64>,
    ) -> PyResult<Vec<u64>> {
        let filter = Filter { source, problem, reward, since_us };
        without_gil(py, |interrupt| self.0.scan(&filter, interrupt))
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
        dict.set_item("sources", info.sources)?;
        Ok(dict)
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativeStore>()
}
