//! Bindings of `spo_core::weights`.

use std::time::Duration;

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use spo_core::weights::{self, DType, PublisherConfig, TensorData, WeightShard};

use crate::errors::to_python;
use crate::runtime::without_gil;

/// A rank's elements, in whichever of the allowed numpy types they come.
#[derive(FromPyObject)]
enum Elements<'py> {
    Patterns(PyReadonlyArray1<'py, u16>),
    Floats(PyReadonlyArray1<'py, f32>),
    Bytes(PyReadonlyArray1<'py, u8>),
}

type ShardTuple<'py> = (String, String, Vec<u64>, u64, Bound<'py, PyAny>);

impl Elements<'_> {
    fn fits(&self, dtype: DType) -> bool {
        match self {
            Elements::Patterns(_) => dtype == DType::BFloat16,
            Elements::Floats(_) => dtype == DType::Float32,
            Elements::Bytes(_) => true,
        }
    }

    fn bytes(&self) -> Result<&[u8], numpy::AsSliceError> {
        match self {
            Elements::Patterns(array) => array.as_slice().map(bytemuck::cast_slice),
            Elements::Floats(array) => array.as_slice().map(bytemuck::cast_slice),
            Elements::Bytes(array) => array.as_slice(),
        }
    }
}

#[pyclass(frozen, module = "spo._native")]
struct WeightPublisher(weights::WeightPublisher);

#[pymethods]
impl WeightPublisher {
    #[new]
    fn new(py: Python<'_>, bind: String, token: Vec<u8>, rank: u32, world_size: u32, keep: usize) -> PyResult<Self> {
        let config = PublisherConfig { bind, token, rank, world_size, keep };
        without_gil(py, |_| weights::WeightPublisher::new(config)).map(WeightPublisher)
    }

    #[getter]
    fn address(&self) -> String {
        self.0.address().to_string()
    }

    #[getter]
    fn versions(&self) -> Vec<u64> {
        self.0.versions()
    }

    fn publish(&self, py: Python<'_>, version: u64, shards: Vec<ShardTuple<'_>>) -> PyResult<()> {
        let mut elements = Vec::with_capacity(shards.len());
        for (name, dtype, .., data) in &shards {
            let dtype = DType::from_name(dtype).map_err(to_python)?;
            let array = data.extract::<Elements<'_>>().ok().filter(|array| array.fits(dtype));
            let array = array.filter(|array| array.bytes().is_ok()).ok_or_else(|| {
                let wanted = if dtype == DType::BFloat16 { "uint16" } else { "float32" };
                PyValueError::new_err(format!(
                    "shard {name:?}: data of dtype {} must be a contiguous 1-D numpy array of {wanted} or uint8",
                    dtype.name()
                ))
            })?;
            elements.push((dtype, array));
        }
        let mut borrowed = Vec::with_capacity(shards.len());
        for ((name, _, shape, offset, _), (dtype, array)) in shards.into_iter().zip(&elements) {
            let data = array.bytes().map_err(|error| PyValueError::new_err(error.to_string()))?;
            borrowed.push(WeightShard { name, dtype: *dtype, shape, offset, data });
        }
        without_gil(py, |interrupt| self.0.publish(version, &borrowed, interrupt))
    }

    fn close(&self, py: Python<'_>) {
        py.detach(|| self.0.close());
    }
}

#[pyclass(frozen, module = "spo._native")]
struct WeightSubscriber(weights::WeightSubscriber);

type TensorTuple = (String, Vec<u64>, Py<PyAny>);

#[pymethods]
impl WeightSubscriber {
    #[new]
    fn new(addresses: Vec<String>, token: Vec<u8>, timeout_s: f64) -> PyResult<Self> {
        let subscriber = weights::WeightSubscriber::new(addresses, token, seconds(timeout_s)?);
        subscriber.map(WeightSubscriber).map_err(to_python)
    }

    #[pyo3(signature = (version, timeout_s=None))]
    fn fetch(&self, py: Python<'_>, version: u64, timeout_s: Option<f64>) -> PyResult<Vec<TensorTuple>> {
        let timeout = timeout_s.map(seconds).transpose()?;
        let snapshot = without_gil(py, |interrupt| self.0.fetch(version, timeout, interrupt))?;
        Ok(snapshot.tensors.into_iter().map(|tensor| (tensor.name, tensor.shape, to_numpy(py, tensor.data))).collect())
    }
}

/// The array takes the memory over; nothing is copied.
fn to_numpy(py: Python<'_>, data: TensorData) -> Py<PyAny> {
    fn own<T: numpy::Element>(py: Python<'_>, elements: Vec<T>) -> Py<PyAny> {
        let array: Bound<'_, PyArray1<T>> = elements.into_pyarray(py);
        array.into_any().unbind()
    }
    match data {
        TensorData::BFloat16(patterns) => own(py, patterns),
        TensorData::Float32(floats) => own(py, floats),
    }
}

fn seconds(timeout_s: f64) -> PyResult<Duration> {
    Duration::try_from_secs_f64(timeout_s)
        .map_err(|_| PyValueError::new_err(format!("timeout_s={timeout_s}: must be a number of seconds above 0")))
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<WeightPublisher>()?;
    module.add_class::<WeightSubscriber>()?;
    Ok(())
}
