//! Bindings of `spo_core::trajectory`.

use std::collections::BTreeMap;
use std::sync::Arc;

use numpy::{PyArray1, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spo_core::trajectory::{self, MonteCarlo, batch};

use crate::errors::to_python;
use crate::runtime::without_gil;

/// The record of one rollout; immutable.
#[pyclass(frozen, eq, module = "spo.store")]
#[derive(PartialEq, Clone)]
pub(crate) struct Trajectory(pub(crate) Arc<trajectory::Trajectory>);

type Counts<'py> = (Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u32>>, Bound<'py, PyArray1<u32>>);

impl AsRef<trajectory::Trajectory> for Trajectory {
    fn as_ref(&self) -> &trajectory::Trajectory {
        &self.0
    }
}

#[pymethods]
impl Trajectory {
    #[new]
    #[pyo3(signature = (problem_id, prompt_tokens, response_tokens, reward, verdict, source, behavior_logprobs=None,
        reference_logprobs=None, min_policy_version=0, max_policy_version=0, temperature=1.0, top_p=1.0, seed=0,
        metadata=None, mc_successes=None))]
    #[expect(clippy::too_many_arguments, reason = "the constructor of a record takes its fields")]
    fn new(
        problem_id: String,
        prompt_tokens: &Bound<'_, PyAny>,
        response_tokens: &Bound<'_, PyAny>,
        reward: f64,
        verdict: String,
        source: String,
        behavior_logprobs: Option<&Bound<'_, PyAny>>,
        reference_logprobs: Option<&Bound<'_, PyAny>>,
        min_policy_version: u64,
        max_policy_version: u64,
        temperature: f64,
        top_p: f64,
        seed: u64,
        metadata: Option<BTreeMap<String, String>>,
        mc_successes: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        let record = trajectory::Trajectory {
            problem_id,
            prompt_tokens: tokens("prompt_tokens", prompt_tokens)?,
            response_tokens: tokens("response_tokens", response_tokens)?,
            reward,
            verdict,
            source,
            behavior_logprobs: behavior_logprobs.map(|column| logprobs("behavior_logprobs", column)).transpose()?,
            reference_logprobs: reference_logprobs.map(|column| logprobs("reference_logprobs", column)).transpose()?,
            mc_successes: mc_successes.map(monte_carlo).transpose()?,
            min_policy_version,
            max_policy_version,
            temperature,
            top_p,
            seed,
            metadata: metadata.unwrap_or_default(),
        };
        record.validate().map_err(to_python)?;
        Ok(Trajectory(Arc::new(record)))
    }

    #[getter]
    fn problem_id(&self) -> &str {
        &self.0.problem_id
    }

    #[getter]
    fn prompt_tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        PyArray1::from_slice(py, &self.0.prompt_tokens)
    }

    #[getter]
    fn response_tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        PyArray1::from_slice(py, &self.0.response_tokens)
    }

    /// Prompt, then response.
    #[getter]
    fn tokens<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<i32>> {
        PyArray1::from_vec(py, [&self.0.prompt_tokens[..], &self.0.response_tokens[..]].concat())
    }

    #[getter]
    fn num_tokens(&self) -> usize {
        self.0.num_tokens()
    }

    #[getter]
    fn reward(&self) -> f64 {
        self.0.reward
    }

    #[getter]
    fn verdict(&self) -> &str {
        &self.0.verdict
    }

    #[getter]
    fn source(&self) -> &str {
        &self.0.source
    }

    #[getter]
    fn behavior_logprobs<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyArray1<f32>>> {
        self.0.behavior_logprobs.as_ref().map(|column| PyArray1::from_slice(py, column))
    }

    #[getter]
    fn reference_logprobs<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyArray1<f32>>> {
        self.0.reference_logprobs.as_ref().map(|column| PyArray1::from_slice(py, column))
    }

    /// Positions, successes and trials: uint32 arrays.
    #[getter]
    fn mc_successes<'py>(&self, py: Python<'py>) -> Option<Counts<'py>> {
        let MonteCarlo { positions, successes, trials } = self.0.mc_successes.as_ref()?;
        let array = |column| PyArray1::from_slice(py, column);
        Some((array(positions), array(successes), array(trials)))
    }

    #[getter]
    fn min_policy_version(&self) -> u64 {
        self.0.min_policy_version
    }

    #[getter]
    fn max_policy_version(&self) -> u64 {
        self.0.max_policy_version
    }

    #[getter]
    fn temperature(&self) -> f64 {
        self.0.temperature
    }

    #[getter]
    fn top_p(&self) -> f64 {
        self.0.top_p
    }

    #[getter]
    fn seed(&self) -> u64 {
        self.0.seed
    }

    #[getter]
    fn metadata(&self) -> BTreeMap<String, String> {
        self.0.metadata.clone()
    }

    #[getter]
    fn content_hash<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.0.content_hash())
    }

    fn __hash__(&self) -> u64 {
        let [low @ .., _, _, _, _, _, _, _, _] = self.0.content_hash();
        u64::from_le_bytes(low)
    }

    fn __repr__(&self) -> String {
        let record = &self.0;
        format!(
            "Trajectory(problem_id={:?}, {} + {} tokens, reward={}, verdict={:?}, source={:?}, policy versions {}..={})",
            record.problem_id,
            record.prompt_tokens.len(),
            record.response_tokens.len(),
            record.reward,
            record.verdict,
            record.source,
            record.min_policy_version,
            record.max_policy_version
        )
    }
}

/// Encodes trajectories as one checksummed message.
#[pyfunction]
fn encode_trajectories<'py>(
    py: Python<'py>,
    trajectories: Vec<PyRef<'py, Trajectory>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let trajectories = cores(&trajectories);
    let bytes = without_gil(py, |interrupt| batch::encode_trajectories(&trajectories, interrupt))?;
    Ok(PyBytes::new(py, &bytes))
}

/// Decodes what `encode_trajectories` made.
#[pyfunction]
fn decode_trajectories(py: Python<'_>, data: &[u8]) -> PyResult<Vec<Trajectory>> {
    let trajectories = without_gil(py, |interrupt| batch::decode_trajectories(data, interrupt))?;
    Ok(trajectories.into_iter().map(Trajectory::from).collect())
}

impl From<trajectory::Trajectory> for Trajectory {
    fn from(record: trajectory::Trajectory) -> Self {
        Trajectory(Arc::new(record))
    }
}

/// The core records behind Python's trajectories.
pub(crate) fn cores(trajectories: &[PyRef<'_, Trajectory>]) -> Vec<Arc<trajectory::Trajectory>> {
    trajectories.iter().map(|trajectory| trajectory.0.clone()).collect()
}

fn tokens(field: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<i32>> {
    if let Ok(array) = value.cast::<PyArray1<i64>>() {
        let array = array.readonly();
        let narrow: Result<Vec<i32>, _> = array.as_array().iter().map(|&token| i32::try_from(token)).collect();
        return narrow.map_err(|_| PyValueError::new_err(format!("{field} holds a token that exceeds 32 bits")));
    }
    column(field, "integers of 32 bits", value)
}

/// A column of logprobs.
pub(crate) fn logprobs(field: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<f32>> {
    column(field, "numbers", value)
}

/// Monte-Carlo counts out of a triple of columns.
pub(crate) fn monte_carlo(value: &Bound<'_, PyAny>) -> PyResult<MonteCarlo> {
    let parts = value.extract::<(Bound<'_, PyAny>, Bound<'_, PyAny>, Bound<'_, PyAny>)>();
    let (positions, successes, trials) =
        parts.map_err(|_| PyValueError::new_err("mc_successes must be a triple of positions, successes and trials"))?;
    let counts = |what: &str, part| column(&format!("mc_successes ({what})"), "unsigned integers of 32 bits", &part);
    Ok(MonteCarlo {
        positions: counts("positions", positions)?,
        successes: counts("successes", successes)?,
        trials: counts("trials", trials)?,
    })
}

/// A one-dimensional column out of a numpy array of the element's type (copied at once) or any sequence.
fn column<T>(field: &str, what: &str, value: &Bound<'_, PyAny>) -> PyResult<Vec<T>>
where
    T: numpy::Element + Copy + for<'a, 'py> FromPyObject<'a, 'py>,
{
    if let Ok(array) = value.cast::<PyArray1<T>>() {
        return Ok(array.to_vec().unwrap_or_else(|_| array.readonly().as_array().to_vec()));
    }
    value
        .extract::<Vec<T>>()
        .map_err(|_| PyValueError::new_err(format!("{field} must be a one-dimensional sequence of {what}")))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<Trajectory>()?;
    module.add_function(wrap_pyfunction!(encode_trajectories, module)?)?;
    module.add_function(wrap_pyfunction!(decode_trajectories, module)?)
}
