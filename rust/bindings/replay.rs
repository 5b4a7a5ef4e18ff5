//! Bindings of `spo_core::replay`: the buffer. Its batches are `replay_batch`'s, its state as a dict `replay_state`'s.

use std::collections::BTreeMap;

use numpy::PyReadonlyArray1;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use spo_core::replay::mix::Unit;
use spo_core::replay::window::Bounds;
use spo_core::replay::{Item, Order, ReplayBuffer, Request};

use crate::replay_batch::{Parts, gathered, parts};
use crate::replay_state::{counters_entry, state_entry, state_of};
use crate::runtime::without_gil;
use crate::store::NativeStore;
use crate::trajectory::{Trajectory, cores};

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
        counters_entry(py, &without_gil(py, |_| Ok(self.0.counters()))?)
    }

    fn state<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        state_entry(py, without_gil(py, |_| Ok(self.0.state()))?)
    }

    fn load_state(&self, py: Python<'_>, state: &Bound<'_, PyDict>, store: &NativeStore) -> PyResult<()> {
        let state = state_of(state)?;
        let store = store.0.clone();
        without_gil(py, |interrupt| self.0.load_state(&state, &store, interrupt))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        without_gil(py, |_| Ok(self.0.len()))
    }
}

fn unknown(name: &str, given: &str, known: &str) -> PyErr {
    PyValueError::new_err(format!("{name} must be {known}, got {given:?}"))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<NativeReplayBuffer>()?;
    crate::replay_batch::register(module)
}
