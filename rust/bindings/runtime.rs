//! The one way in which a long call leaves Python: the GIL is released, and Ctrl-C is answered within [`Interrupt::POLL`].

use std::sync::Mutex;

use pyo3::prelude::*;
use spo_core::{Error, Interrupt, Result};

use crate::errors::to_python;

/// Runs `work` without the GIL. `work` polls the [`Interrupt`] it is given; a pending Python signal then ends it, and
/// the exception of the signal handler (usually `KeyboardInterrupt`) is what the caller sees.
pub(crate) fn without_gil<T: Send>(
    py: Python<'_>,
    work: impl FnOnce(Interrupt<'_>) -> Result<T> + Send,
) -> PyResult<T> {
    let raised: Mutex<Option<PyErr>> = Mutex::new(None);
    let signalled = || match Python::attach(|py| py.check_signals()) {
        Ok(()) => false,
        Err(error) => {
            *raised.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
            true
        }
    };
    let outcome = py.detach(|| work(Interrupt::new(&signalled)));
    match (outcome, raised.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner())) {
        (Ok(value), _) => Ok(value),
        (Err(Error::Interrupted), Some(signal)) => Err(signal),
        (Err(error), _) => Err(to_python(error)),
    }
}
