//! Batches of the replay buffer: their arrays, handed over without a copy, and packing given trajectories.

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use spo_core::replay::Item;
use spo_core::replay::batch::Batch;
use spo_core::replay::columns::Columns;

use crate::runtime::without_gil;
use crate::trajectory::{Trajectory, cores};

/// A batch's arrays of tokens, which are handed over, not copied, and its other columns.
pub(crate) type Parts<'py> = (
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray2<bool>>,
    Option<Bound<'py, PyArray2<f32>>>,
    Option<Bound<'py, PyArray2<f32>>>,
    BatchColumns,
);

/// What a batch is in Rust, with nothing left to do but to hand it over; made without the GIL.
pub(crate) type Gathered = (Batch, Columns);

/// Gathers the columns and lets go of the trajectories, which may be the last to hold them.
pub(crate) fn gathered(mut batch: Batch) -> Gathered {
    let columns = Columns::from(&batch);
    batch.items.clear();
    (batch, columns)
}

pub(crate) fn parts(py: Python<'_>, (batch, columns): Gathered) -> PyResult<Parts<'_>> {
    let shape = [batch.rows, batch.width];
    Ok((
        matrix(py, batch.tokens, shape)?,
        matrix(py, batch.position_ids, shape)?,
        matrix(py, batch.segment_ids, shape)?,
        matrix(py, batch.response_mask, shape)?,
        batch.behavior_logprobs.map(|column| matrix(py, column, shape)).transpose()?,
        batch.reference_logprobs.map(|column| matrix(py, column, shape)).transpose()?,
        BatchColumns(columns),
    ))
}

fn matrix<T: numpy::Element>(py: Python<'_>, values: Vec<T>, shape: [usize; 2]) -> PyResult<Bound<'_, PyArray2<T>>> {
    PyArray1::from_vec(py, values).reshape(shape)
}

/// The columns of a batch with one value a trajectory; each getter makes a new array, or list.
#[pyclass(frozen, module = "spo._native")]
pub(crate) struct BatchColumns(Columns);

macro_rules! columns {
    ($($name:ident: $type:ty),*) => {
        #[pymethods]
        impl BatchColumns {
            $(
                #[getter]
                fn $name<'py>(&self, py: Python<'py>) -> Bound<'py, PyArray1<$type>> {
                    PyArray1::from_slice(py, &self.0.$name)
                }
            )*

            #[getter]
            fn sources(&self) -> Vec<&str> {
                self.0.sources.iter().collect()
            }

            #[getter]
            fn problem_ids(&self) -> Vec<&str> {
                self.0.problem_ids.iter().collect()
            }
        }
    };
}

columns!(
    rows: u32, starts: u32, prompt_lengths: u32, response_lengths: u32, rewards: f32, temperatures: f32,
    min_policy_versions: u64, max_policy_versions: u64, ids: u64, uses: u32, has_reference_logprobs: bool
);

/// Packs given trajectories in this order; see `spo.replay.pack`.
#[pyfunction]
fn pack_batch<'py>(
    py: Python<'py>,
    trajectories: Vec<PyRef<'py, Trajectory>>,
    ids: Vec<u64>,
    uses: Vec<u32>,
    token_budget: usize,
    row_multiple: usize,
) -> PyResult<Parts<'py>> {
    if trajectories.len() != ids.len() || trajectories.len() != uses.len() {
        let (given, named, counted) = (trajectories.len(), ids.len(), uses.len());
        return Err(PyValueError::new_err(format!("{given} trajectories came with {named} ids and {counted} uses")));
    }
    let items = cores(&trajectories).into_iter().zip(ids).map(|(trajectory, id)| Item { id, trajectory });
    let items = items.zip(uses).collect();
    parts(py, without_gil(py, |_| Ok(gathered(Batch::pack(items, token_budget, row_multiple)?)))?)
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<BatchColumns>()?;
    module.add_function(wrap_pyfunction!(pack_batch, module)?)
}
