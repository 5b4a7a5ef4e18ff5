//! Bindings of `spo_core::weights`.

use std::collections::HashMap;
use std::time::Duration;

use numpy::{IntoPyArray, PyArray1, PyReadonlyArray1, PyReadwriteArray1};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use spo_core::weights::{self, Base, DType, PublisherConfig, TensorData, WeightShard, apply, patch};

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
    fn address(&self) -> &str {
        self.0.address()
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

type BaseTuple<'py> = (u64, Vec<(String, Elements<'py>)>);
type SpareTuple<'py> = (String, Spare<'py>);
/// Name, shape, and the elements; none where they are in what was given.
type TensorTuple = (String, Vec<u64>, Option<Py<PyAny>>);

/// An array that a tensor may be received into.
#[derive(FromPyObject)]
enum Spare<'py> {
    Patterns(PyReadwriteArray1<'py, u16>),
    Floats(PyReadwriteArray1<'py, f32>),
}

impl Spare<'_> {
    fn memory(&mut self) -> Result<(DType, &mut [u8]), numpy::AsSliceError> {
        Ok(match self {
            Spare::Patterns(array) => (DType::BFloat16, bytemuck::cast_slice_mut(array.as_slice_mut()?)),
            Spare::Floats(array) => (DType::Float32, bytemuck::cast_slice_mut(array.as_slice_mut()?)),
        })
    }
}

/// Where a tensor is received.
enum Memory<'a> {
    Given(&'a mut [u8]),
    New(TensorData),
}

impl AsMut<[u8]> for Memory<'_> {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            Memory::Given(bytes) => bytes,
            Memory::New(data) => data.as_mut(),
        }
    }
}

#[pymethods]
impl WeightSubscriber {
    #[new]
    fn new(addresses: Vec<String>, token: Vec<u8>, timeout_s: f64, local: bool) -> PyResult<Self> {
        let subscriber = weights::WeightSubscriber::new(addresses, token, seconds(timeout_s)?).map_err(to_python)?;
        Ok(WeightSubscriber(if local { subscriber } else { subscriber.as_given() }))
    }

    #[pyo3(signature = (version, timeout_s=None, base=None, spare=Vec::new()))]
    fn fetch(
        &self,
        py: Python<'_>,
        version: u64,
        timeout_s: Option<f64>,
        base: Option<BaseTuple<'_>>,
        mut spare: Vec<SpareTuple<'_>>,
    ) -> PyResult<Vec<TensorTuple>> {
        let timeout = timeout_s.map(seconds).transpose()?;
        let base = base.as_ref().map(to_base).transpose()?;
        let mut given = HashMap::new();
        for (name, array) in &mut spare {
            let refused = |_| PyValueError::new_err(format!("spare tensor {name:?} must be contiguous"));
            given.insert(name.as_str(), array.memory().map_err(refused)?);
        }
        let snapshot = without_gil(py, |interrupt| {
            self.0.fetch_into(version, base.as_ref(), timeout, interrupt, |name, dtype, elements| {
                let fits = |(of, memory): &(DType, &mut [u8])| *of == dtype && memory.len() == elements * dtype.size();
                match given.remove(name).filter(fits) {
                    Some((_, memory)) => Ok(Memory::Given(memory)),
                    None => TensorData::zeroed(dtype, elements, name).map(Memory::New),
                }
            })
        })?;
        let row = |tensor: weights::Tensor<Memory<'_>>| match tensor.data {
            Memory::Given(_) => (tensor.name, tensor.shape, None),
            Memory::New(data) => (tensor.name, tensor.shape, Some(to_numpy(py, data))),
        };
        Ok(snapshot.tensors.into_iter().map(row).collect())
    }
}

fn to_base<'a>((version, tensors): &'a BaseTuple<'_>) -> PyResult<Base<'a>> {
    let bytes = |(name, elements): &'a (String, Elements<'_>)| {
        let bytes = elements.bytes();
        let refused = |_| PyValueError::new_err(format!("base tensor {name:?} must be contiguous"));
        Ok((name.as_str(), bytes.map_err(refused)?))
    };
    Ok(Base { version: *version, tensors: tensors.iter().map(bytes).collect::<PyResult<_>>()? })
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

type Patterns<'py> = PyReadonlyArray1<'py, u16>;
type Hashes<'py> = PyReadwriteArray1<'py, u64>;

fn flat<'a, T: numpy::Element>(array: &'a PyReadonlyArray1<'_, T>, name: &str) -> PyResult<&'a [T]> {
    array.as_slice().map_err(|_| PyValueError::new_err(format!("{name} must be contiguous")))
}

fn flat_mut<'a, T: numpy::Element>(array: &'a mut PyReadwriteArray1<'_, T>, name: &str) -> PyResult<&'a mut [T]> {
    array.as_slice_mut().map_err(|_| PyValueError::new_err(format!("{name} must be contiguous")))
}

#[pyfunction]
fn chunk_hashes<'py>(py: Python<'py>, data: Patterns<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let data = flat(&data, "data")?;
    Ok(without_gil(py, |interrupt| patch::chunk_hashes(data, interrupt))?.into_pyarray(py))
}

#[pyfunction]
#[pyo3(signature = (old, new, hashes=None))]
fn encode_patch<'py>(
    py: Python<'py>,
    old: Patterns<'py>,
    new: Patterns<'py>,
    mut hashes: Option<Hashes<'py>>,
) -> PyResult<Bound<'py, PyBytes>> {
    let (old, new) = (flat(&old, "old")?, flat(&new, "new")?);
    let kept = hashes.as_mut().map(|hashes| flat_mut(hashes, "hashes")).transpose()?;
    let patch = without_gil(py, |interrupt| {
        let patch = patch::encode_patch(old, new, kept.as_deref(), interrupt)?;
        kept.into_iter().for_each(|kept| kept.copy_from_slice(&patch.hashes));
        Ok(patch)
    })?;
    Ok(PyBytes::new(py, &patch.bytes))
}

#[pyfunction]
#[pyo3(signature = (target, patch, hashes=None))]
fn apply_patch<'py>(
    py: Python<'py>,
    mut target: PyReadwriteArray1<'py, u16>,
    patch: &[u8],
    mut hashes: Option<Hashes<'py>>,
) -> PyResult<u64> {
    let target = flat_mut(&mut target, "target")?;
    let kept = hashes.as_mut().map(|hashes| flat_mut(hashes, "hashes")).transpose()?;
    without_gil(py, |interrupt| {
        let applied = apply::apply_patch(target, patch, kept.as_deref(), interrupt)?;
        kept.into_iter().for_each(|kept| kept.copy_from_slice(&applied.hashes));
        Ok(applied.changes)
    })
}

pub(crate) fn register(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_class::<WeightPublisher>()?;
    module.add_class::<WeightSubscriber>()?;
    module.add_function(wrap_pyfunction!(chunk_hashes, module)?)?;
    module.add_function(wrap_pyfunction!(encode_patch, module)?)?;
    module.add_function(wrap_pyfunction!(apply_patch, module)?)?;
    Ok(())
}
