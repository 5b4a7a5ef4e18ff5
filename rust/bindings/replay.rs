//! Bindings of `spo_core::replay`.

use std::collections::BTreeMap;

use numpy::{PyArray1, PyArray2, PyArrayMethods, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use spo_core::replay::batch::Batch;
use spo_core::replay::columns::Columns;
use spo_core::replay::mix::Unit;
use spo_core::replay::state::{PoolOrderState, PoolState, State};
use spo_core::replay::window::Bounds;
use spo_core::replay::{Counters, Item, Order, ReplayBuffer, Request};

use crate::runtime::without_gil;
use crate::store::NativeStore;
use crate::trajectory::{Trajectory, cores};

/// Most ids in one run of a pool's state: as many as a segment of the store can have.
const MAX_RUN: u64 = 1 << 28;

/// The replay buffer; see `spo.replay.ReplayBuffer`. Every call releases the GIL before it waits for the buffer's lock,
/// since whoever has the lock may want the GIL to look for signals.
#[pyclass(frozen, module = "spo._native")]
pub(crate) struct NativeReplayBuffer(ReplayBuffer);

#[pymethods]
impl NativeReplayBuffer {
    #[new]
    #[pyo3(signature = (capacity, max_uses, max_staleness, seed, *, order, half_life, priority_exponent, pool_order, store,
        memory_bytes))]
    #[expect(clippy::too_many_arguments, reason = "the settings of a buffer")]
    fn new(
        capacity: usize,
        max_uses: u32,
        max_staleness: u64,
        seed: u64,
        order: &str,
        half_life: f64,
        priority_exponent: f64,
        pool_order: &str,
        store: Option<PyRef<'_, NativeStore>>,
        memory_bytes: Option<usize>,
    ) -> PyResult<Self> {
        let order = match order {
            "oldest" => Order::Oldest,
            "uniform" => Order::Uniform,
            "recent" => Order::Recent { half_life },
            "priority" => Order::Priority { exponent: priority_exponent },
            other => return Err(unknown("order", other, "oldest, uniform, recent or priority")),
        };
        let computed_orders = match pool_order {
            "kept" => false,
            "computed" => true,
            other => return Err(unknown("pool_order", other, "kept or computed")),
        };
        let bounds = Bounds { capacity, max_uses, max_staleness, order };
        let buffer = ReplayBuffer::new(bounds, seed, computed_orders).map_err(crate::errors::to_python)?;
        if let Some(store) = store {
            buffer.bind(store.0.clone(), memory_bytes);
        }
        Ok(NativeReplayBuffer(buffer))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        without_gil(py, |_| {
            self.0.unbind();
            Ok(())
        })
    }

    fn add(
        &self,
        py: Python<'_>,
        trajectories: Vec<PyRef<'_, Trajectory>>,
        ids: Vec<u64>,
        pool: Option<String>,
    ) -> PyResult<()> {
        if trajectories.len() != ids.len() {
            let (given, named) = (trajectories.len(), ids.len());
            return Err(PyValueError::new_err(format!("{given} trajectories came with {named} ids")));
        }
        let items = cores(&trajectories).into_iter().zip(ids);
        let items = items.map(|(trajectory, id)| Item { id, trajectory }).collect();
        without_gil(py, |_| self.0.add(items, pool.as_deref()))
    }

    fn add_stored(&self, py: Python<'_>, ids: Vec<u64>, pool: &str) -> PyResult<()> {
        without_gil(py, |interrupt| self.0.add_stored(&ids, pool, interrupt))
    }

    #[expect(clippy::too_many_arguments, reason = "what a batch shall be like")]
    fn sample<'py>(
        &self,
        py: Python<'py>,
        num_trajectories: usize,
        policy_version: u64,
        mix: BTreeMap<String, f64>,
        unit: &str,
        group_size: usize,
        token_budget: usize,
        row_multiple: usize,
    ) -> PyResult<Parts<'py>> {
        let unit = match unit {
            "trajectories" => Unit::Trajectories,
            "tokens" => Unit::Tokens,
            other => return Err(unknown("unit", other, "trajectories or tokens")),
        };
        let request = Request { num_trajectories, policy_version, mix, unit, group_size, token_budget, row_multiple };
        parts(py, without_gil(py, |interrupt| Ok(gathered(self.0.sample(&request, interrupt)?)))?)
    }

    fn set_reference_logprobs(
        &self,
        py: Python<'_>,
        ids: Vec<u64>,
        logprobs: Vec<PyReadonlyArray1<'_, f32>>,
    ) -> PyResult<()> {
        let values = ids.into_iter().zip(logprobs).map(|(id, values)| Ok((id, values.as_slice()?.to_vec())));
        let values = values.collect::<PyResult<Vec<_>>>()?;
        without_gil(py, |_| self.0.set_reference_logprobs(values))
    }

    fn set_priorities(&self, py: Python<'_>, priorities: BTreeMap<u64, f64>) -> PyResult<()> {
        without_gil(py, |_| self.0.set_priorities(&priorities))
    }

    fn memory_bytes(&self, py: Python<'_>) -> PyResult<usize> {
        without_gil(py, |_| Ok(self.0.memory_bytes()))
    }

    fn available(&self, py: Python<'_>, policy_version: u64) -> PyResult<BTreeMap<String, usize>> {
        without_gil(py, |_| Ok(self.0.available(policy_version)))
    }

    fn counters<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let counters = without_gil(py, |_| Ok(self.0.counters()))?;
        let dict = PyDict::new(py);
        dict.set_item("used_up", counters.used_up)?;
        dict.set_item("expired", counters.expired)?;
        dict.set_item("expired_unused", counters.expired_unused)?;
        dict.set_item("evicted", counters.evicted)?;
        dict.set_item("evicted_unused", counters.evicted_unused)?;
        Ok(dict)
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let state = without_gil(py, |_| Ok(self.0.state()))?;
        let pools = PyDict::new(py);
        for (source, pool) in state.pools {
            pools.set_item(source, pool_entry(py, pool)?)?;
        }
        let dict = PyDict::new(py);
        dict.set_item("seed", state.seed)?;
        dict.set_item("window_random", state.window_random)?;
        dict.set_item("window_ids", state.window_ids)?;
        dict.set_item("window_uses", state.window_uses)?;
        dict.set_item("window_priorities", state.window_priorities)?;
        dict.set_item("pools", pools)?;
        dict.set_item("owed", state.owed)?;
        dict.set_item("counters", self.counters(py)?)?;
        Ok(dict)
    }

    fn load_state(&self, py: Python<'_>, state: &Bound<'_, PyDict>, store: &NativeStore) -> PyResult<()> {
        let counters: BTreeMap<String, u64> = field(state, "counters")?;
        let mut pools = BTreeMap::new();
        let wrong = |_| PyValueError::new_err("the buffer's state has no \"pools\", or not of the right type");
        let saved = state.as_any().get_item("pools").map_err(wrong)?;
        for (source, pool) in saved.extract::<BTreeMap<String, Bound<'_, PyDict>>>().map_err(wrong)? {
            pools.insert(source, pool_state(&pool)?);
        }
        let counter = |name: &str| {
            counters
                .get(name)
                .copied()
                .ok_or_else(|| PyValueError::new_err(format!("the state's counters lack {name:?}")))
        };
        let state = State {
            seed: field(state, "seed")?,
            window_random: field(state, "window_random")?,
            window_ids: field(state, "window_ids")?,
            window_uses: field(state, "window_uses")?,
            window_priorities: field(state, "window_priorities")?,
            pools,
            owed: field(state, "owed")?,
            counters: Counters {
                used_up: counter("used_up")?,
                expired: counter("expired")?,
                expired_unused: counter("expired_unused")?,
                evicted: counter("evicted")?,
                evicted_unused: counter("evicted_unused")?,
            },
        };
        let store = store.0.clone();
        without_gil(py, |interrupt| self.0.load_state(&state, &store, interrupt))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        without_gil(py, |_| Ok(self.0.len()))
    }
}

/// A pool's state; ids that lie in the order of their additions are told as runs of neighbours, which are few.
fn pool_entry(py: Python<'_>, pool: PoolState) -> PyResult<Bound<'_, PyDict>> {
    let entry = PyDict::new(py);
    entry.set_item("cursor", pool.cursor)?;
    entry.set_item("epoch", pool.epoch)?;
    match pool.order {
        PoolOrderState::Kept { random } => {
            entry.set_item("ids", pool.ids)?;
            entry.set_item("random", random)?;
        }
        PoolOrderState::Computed { length, waiting } => {
            let mut runs: Vec<[u64; 2]> = Vec::new();
            for id in pool.ids {
                match runs.last_mut() {
                    Some([first, count]) if *first + *count == id => *count += 1,
                    _ => runs.push([id, 1]),
                }
            }
            entry.set_item("runs", runs)?;
            entry.set_item("length", length)?;
            entry.set_item("waiting", waiting)?;
        }
    }
    Ok(entry)
}

fn pool_state(pool: &Bound<'_, PyDict>) -> PyResult<PoolState> {
    let (cursor, epoch) = (field(pool, "cursor")?, field(pool, "epoch")?);
    if !pool.contains("runs")? {
        let order = PoolOrderState::Kept { random: field(pool, "random")? };
        return Ok(PoolState { ids: field(pool, "ids")?, cursor, epoch, order });
    }
    let mut ids: Vec<u64> = Vec::new();
    for [first, count] in field::<Vec<[u64; 2]>>(pool, "runs")? {
        if count > MAX_RUN || first.checked_add(count).is_none() {
            return Err(PyValueError::new_err(format!("the buffer's state has an impossible run of {count} ids")));
        }
        ids.extend(first..first + count);
    }
    let order = PoolOrderState::Computed { length: field(pool, "length")?, waiting: field(pool, "waiting")? };
    Ok(PoolState { ids, cursor, epoch, order })
}

fn unknown(name: &str, given: &str, known: &str) -> PyErr {
    PyValueError::new_err(format!("{name} must be {known}, got {given:?}"))
}

fn field<T: for<'a, 'py> FromPyObject<'a, 'py>>(state: &Bound<'_, PyDict>, name: &str) -> PyResult<T> {
    let wrong = || PyValueError::new_err(format!("the buffer's state has no {name:?}, or not of the right type"));
    let value = state.get_item(name)?.ok_or_else(wrong)?;
    value.extract().map_err(|_| wrong())
}

/// A batch's arrays of tokens, which are handed over, not copied, and its other columns.
type Parts<'py> = (
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray2<i32>>,
    Bound<'py, PyArray2<bool>>,
    Option<Bound<'py, PyArray2<f32>>>,
    Option<Bound<'py, PyArray2<f32>>>,
    BatchColumns,
);

/// What a batch is in Rust, with nothing left to do but to hand it over; made without the GIL.
type Gathered = (Batch, Columns);

/// Gathers the columns and lets go of the trajectories, which may be the last to hold them.
fn gathered(mut batch: Batch) -> Gathered {
    let columns = Columns::from(&batch);
    batch.items.clear();
    (batch, columns)
}

fn parts(py: Python<'_>, (batch, columns): Gathered) -> PyResult<Parts<'_>> {
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
struct BatchColumns(Columns);

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
    module.add_class::<NativeReplayBuffer>()?;
    module.add_class::<BatchColumns>()?;
    module.add_function(wrap_pyfunction!(pack_batch, module)?)
}
