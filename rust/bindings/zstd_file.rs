//! Bindings of `spo_core::zstd_file`.

use std::path::PathBuf;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spo_core::zstd_file;

use crate::runtime::without_gil;

/// A zstandard file being read from its beginning.
#[pyclass(frozen, module = "spo._native")]
pub(crate) struct ZstdReader(zstd_file::ZstdReader);

#[pymethods]
impl ZstdReader {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        without_gil(py, |_| zstd_file::ZstdReader::open(&path)).map(ZstdReader)
    }

    fn read<'py>(&self, py: Python<'py>, limit: usize) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = without_gil(py, |_| self.0.read(limit))?;
        Ok(PyBytes::new(py, &bytes))
    }
}

/// A zstandard file being written.
#[pyclass(frozen, module = "spo._native")]
pub(crate) struct ZstdWriter(zstd_file::ZstdWriter);

#[pymethods]
impl ZstdWriter {
    #[new]
    fn new(py: Python<'_>, path: PathBuf) -> PyResult<Self> {
        without_gil(py, |_| zstd_file::ZstdWriter::create(&path)).map(ZstdWriter)
    }

    fn write(&self, py: Python<'_>, data: &[u8]) -> PyResult<()> {
        without_gil(py, |_| self.0.write(data))
    }

    fn finish(&self, py: Python<'_>) -> PyResult<()> {
        without_gil(py, |_| self.0.finish())
    }
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<ZstdReader>()?;
    module.add_class::<ZstdWriter>()
}
