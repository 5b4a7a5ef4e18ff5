//! The replay buffer's state as a dict, for `state_dict` and `load_state_dict`.

use std::collections::BTreeMap;

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use spo_core::replay::Counters;
use spo_core::replay::state::{PoolOrderState, PoolState, State};

/// Most ids in one run of a pool's state: as many as a segment of the store can have.
const MAX_RUN: u64 = 1 << 28;

/// What left the buffer, and why, as a dict.
pub(crate) fn counters_entry<'py>(py: Python<'py>, counters: &Counters) -> PyResult<Bound<'py, PyDict>> {
    let entry = PyDict::new(py);
    entry.set_item("used_up", counters.used_up)?;
    entry.set_item("expired", counters.expired)?;
    entry.set_item("expired_unused", counters.expired_unused)?;
    entry.set_item("evicted", counters.evicted)?;
    entry.set_item("evicted_unused", counters.evicted_unused)?;
    Ok(entry)
}

/// A buffer's state as a dict of plain values.
pub(crate) fn state_entry(py: Python<'_>, state: State) -> PyResult<Bound<'_, PyDict>> {
    let pools = PyDict::new(py);
    for (source, pool) in state.pools {
        pools.set_item(source, pool_entry(py, pool)?)?;
    }
    let entry = PyDict::new(py);
    entry.set_item("seed", state.seed)?;
    entry.set_item("window_random", state.window_random)?;
    entry.set_item("window_ids", state.window_ids)?;
    entry.set_item("window_uses", state.window_uses)?;
    entry.set_item("window_priorities", state.window_priorities)?;
    entry.set_item("pools", pools)?;
    entry.set_item("owed", state.owed)?;
    entry.set_item("counters", counters_entry(py, &state.counters)?)?;
    Ok(entry)
}

/// The state that `state_entry` made a dict of.
pub(crate) fn state_of(entry: &Bound<'_, PyDict>) -> PyResult<State> {
    let mut pools = BTreeMap::new();
    let wrong = |_| PyValueError::new_err("the buffer's state has no \"pools\", or not of the right type");
    let saved = entry.as_any().get_item("pools").map_err(wrong)?;
    for (source, pool) in saved.extract::<BTreeMap<String, Bound<'_, PyDict>>>().map_err(wrong)? {
        pools.insert(source, pool_state(&pool)?);
    }
    Ok(State {
        seed: field(entry, "seed")?,
        window_random: field(entry, "window_random")?,
        window_ids: field(entry, "window_ids")?,
        window_uses: field(entry, "window_uses")?,
        window_priorities: field(entry, "window_priorities")?,
        pools,
        owed: field(entry, "owed")?,
        counters: counters_of(&field(entry, "counters")?)?,
    })
}

fn counters_of(counters: &BTreeMap<String, u64>) -> PyResult<Counters> {
    let counter = |name: &str| {
        let missing = || PyValueError::new_err(format!("the state's counters lack {name:?}"));
        counters.get(name).copied().ok_or_else(missing)
    };
    Ok(Counters {
        used_up: counter("used_up")?,
        expired: counter("expired")?,
        expired_unused: counter("expired_unused")?,
        evicted: counter("evicted")?,
        evicted_unused: counter("evicted_unused")?,
    })
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

fn field<T: for<'a, 'py> FromPyObject<'a, 'py>>(state: &Bound<'_, PyDict>, name: &str) -> PyResult<T> {
    let wrong = || PyValueError::new_err(format!("the buffer's state has no {name:?}, or not of the right type"));
    let value = state.get_item(name)?.ok_or_else(wrong)?;
    value.extract().map_err(|_| wrong())
}
