//! Turns the core's [`spo_core::Error`] into the exceptions of `spo.errors`; the only place that knows both.

use pyo3::call::PyCallArgs;
use pyo3::exceptions::{PyKeyboardInterrupt, PyOSError, PyTimeoutError, PyValueError};
use pyo3::prelude::*;
use spo_core::Error;

/// The Python exception for a core error.
pub(crate) fn to_python(error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Invalid(_) => PyValueError::new_err(text),
        Error::Io { what, source } => match source.raw_os_error() {
            Some(code) => {
                let reason = source.to_string();
                let reason = reason.split(" (os error").next().unwrap_or_default();
                PyOSError::new_err((code, format!("{what}: {reason}")))
            }
            None => PyOSError::new_err(text),
        },
        Error::Timeout(_) => PyTimeoutError::new_err(text),
        Error::Interrupted => PyKeyboardInterrupt::new_err(()),
        Error::Corrupt { .. } => project_error("CorruptShardError", (text,)),
        Error::Store(_) => project_error("StoreError", (text,)),
        Error::NotEnough { .. } => project_error("NotEnough", (text,)),
        Error::Judge(_) => project_error("JudgeError", (text,)),
        Error::Weights(_) => project_error("WeightsError", (text,)),
        Error::VersionGone { newest, .. } => project_error("VersionGone", (text, newest)),
    }
}

fn project_error(name: &str, arguments: impl for<'py> PyCallArgs<'py>) -> PyErr {
    Python::attach(|py| {
        let build = || -> PyResult<PyErr> {
            let exception = py.import("spo.errors")?.getattr(name)?.call1(arguments)?;
            Ok(PyErr::from_value(exception))
        };
        build().unwrap_or_else(|error| error)
    })
}
