//! `spo._native`: the Python face of `spo-core`. One file a core module; conversion and registration only, no logic.

mod errors;
mod judge;
mod replay;
mod replay_batch;
mod replay_state;
mod runtime;
mod store;
mod trajectory;
mod weights;
mod zstd_file;

use pyo3::prelude::*;

/// The compiled core of `spo`; use it through `spo.judge`, `spo.store`, `spo.replay` and `spo.weights`.
#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    trajectory::register(module)?;
    store::register(module)?;
    replay::register(module)?;
    judge::register(module)?;
    weights::register(module)?;
    zstd_file::register(module)?;
    Ok(())
}
