//! What weights are made of: the dtype, a rank's local shard of a tensor, and the memory of a full tensor.

use super::memory::prefer_huge_pages;
use crate::{Error, Result};

/// How one element is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DType {
    /// The upper half of a float32; handled as its 16-bit pattern.
    BFloat16,
    /// IEEE 754 single precision.
    Float32,
}

impl DType {
    /// Bytes of one element.
    pub fn size(self) -> usize {
        match self {
            DType::BFloat16 => 2,
            DType::Float32 => 4,
        }
    }

    /// The name that PyTorch uses.
    pub fn name(self) -> &'static str {
        match self {
            DType::BFloat16 => "bfloat16",
            DType::Float32 => "float32",
        }
    }

    /// The dtype with this name.
    pub fn from_name(name: &str) -> Result<Self> {
        match name {
            "bfloat16" => Ok(DType::BFloat16),
            "float32" => Ok(DType::Float32),
            other => {
                Err(Error::invalid(format!("dtype {other:?} cannot be published; use \"bfloat16\" or \"float32\"")))
            }
        }
    }
}

/// One rank's contiguous part of a tensor, borrowed for the time of a publish.
#[derive(Clone, Debug)]
pub struct WeightShard<'a> {
    /// The tensor's name, the same on every rank.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// The shape of the full tensor.
    pub shape: Vec<u64>,
    /// The first element of this shard, counted in the flattened full tensor.
    pub offset: u64,
    /// The elements' little-endian bytes; empty where this rank holds none of the tensor.
    pub data: &'a [u8],
}

/// Elements of a tensor of this shape; `None` beyond 64 bits.
pub(super) fn num_elements(shape: &[u64]) -> Option<u64> {
    shape.iter().try_fold(1u64, |product, &size| product.checked_mul(size))
}

/// The memory of a full tensor, typed so that its alignment is right for whoever views it.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorData {
    /// Bit patterns of bfloat16 elements.
    BFloat16(Vec<u16>),
    /// float32 elements.
    Float32(Vec<f32>),
}

impl TensorData {
    /// Zeroed memory for `elements` elements; an error where the system has not so much.
    pub fn zeroed(dtype: DType, elements: usize, name: &str) -> Result<Self> {
        // Pages that are zero anyway cost nothing until they are written; so they can still be asked to be huge.
        fn zeroed<T: bytemuck::Zeroable>(elements: usize) -> Result<Vec<T>, ()> {
            let mut memory = bytemuck::try_zeroed_vec(elements)?;
            prefer_huge_pages(&mut memory);
            Ok(memory)
        }
        let data = match dtype {
            DType::BFloat16 => zeroed(elements).map(TensorData::BFloat16),
            DType::Float32 => zeroed(elements).map(TensorData::Float32),
        };
        data.map_err(|()| Error::Weights(format!("no memory for the {elements} elements of tensor {name:?}")))
    }

    /// The memory as bytes.
    pub fn as_bytes(&self) -> &[u8] {
        match self {
            TensorData::BFloat16(data) => bytemuck::cast_slice(data),
            TensorData::Float32(data) => bytemuck::cast_slice(data),
        }
    }
}

impl AsMut<[u8]> for TensorData {
    fn as_mut(&mut self) -> &mut [u8] {
        match self {
            TensorData::BFloat16(data) => bytemuck::cast_slice_mut(data),
            TensorData::Float32(data) => bytemuck::cast_slice_mut(data),
        }
    }
}

/// A full tensor, in memory of this kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<M = TensorData> {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Its elements, flattened in row-major order.
    pub data: M,
}
