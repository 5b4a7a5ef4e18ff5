//! The manifest: which shards of which tensors one rank holds of one version, without their data, and its
//! bytes.

use xxhash_rust::xxh3::Xxh3;

use super::tensor::{DType, num_elements};
use super::{CHUNK_ELEMENTS, WeightShard};
use crate::{Error, Result};

/// Longest encoded manifest that is read.
pub const MAX_MANIFEST_BYTES: usize = 64 << 20;
/// Most shards in a manifest.
const MAX_SHARDS: usize = 1 << 20;
/// Longest tensor name, in bytes.
const MAX_NAME_BYTES: usize = 4096;
/// Most dimensions of a tensor.
const MAX_DIMENSIONS: usize = 16;
/// Most elements of one tensor (a terabyte of float32).
const MAX_TENSOR_ELEMENTS: u64 = 1 << 38;
/// Most trainer ranks.
pub const MAX_WORLD_SIZE: u32 = 1 << 16;

/// One rank's part of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardInfo {
    /// The tensor's name.
    pub name: String,
    /// How its elements are stored.
    pub dtype: DType,
    /// The shape of the full tensor.
    pub shape: Vec<u64>,
    /// First element of the part, in the flattened full tensor.
    pub offset: u64,
    /// Elements of the part; may be 0.
    pub count: u64,
}

impl ShardInfo {
    /// What `shard` is, without its data; refuses what no subscriber could accept.
    pub(super) fn of(shard: &WeightShard<'_>) -> Result<Self> {
        let element = shard.dtype.size();
        if !shard.data.len().is_multiple_of(element) {
            return Err(Error::invalid(format!(
                "shard {:?}: {} bytes of data are no whole number of {} elements",
                shard.name,
                shard.data.len(),
                shard.dtype.name()
            )));
        }
        let info = ShardInfo {
            name: shard.name.clone(),
            dtype: shard.dtype,
            shape: shard.shape.clone(),
            offset: shard.offset,
            count: (shard.data.len() / element) as u64,
        };
        info.check().map_err(|what| Error::invalid(format!("shard {:?}: {what}", shard.name)))?;
        Ok(info)
    }

    /// Bytes of this part.
    pub(super) fn bytes(&self) -> usize {
        self.count as usize * self.dtype.size()
    }

    /// The byte length of each chunk of this part, in order.
    pub(super) fn chunk_lengths(&self) -> impl Iterator<Item = usize> + use<> {
        let (total, full) = (self.bytes(), CHUNK_ELEMENTS * self.dtype.size());
        (0..total.div_ceil(full)).map(move |chunk| full.min(total - chunk * full))
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.len() > MAX_NAME_BYTES {
            return Err(format!("the name has {} bytes; 1 to {MAX_NAME_BYTES} are allowed", self.name.len()));
        }
        if self.shape.len() > MAX_DIMENSIONS {
            return Err(format!("{} dimensions; at most {MAX_DIMENSIONS} are allowed", self.shape.len()));
        }
        let full = num_elements(&self.shape).filter(|&full| full <= MAX_TENSOR_ELEMENTS);
        let full = full.ok_or_else(|| format!("shape {:?} has too many elements", self.shape))?;
        match self.offset.checked_add(self.count) {
            Some(end) if end <= full => Ok(()),
            _ => Err(format!(
                "{} elements from offset {} do not fit a tensor of shape {:?} ({full} elements)",
                self.count, self.offset, self.shape
            )),
        }
    }
}

/// What one rank holds of one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Drawn at random by each publisher when it starts: with `version` it names one content and no other.
    pub instance: [u8; 16],
    /// The policy version.
    pub version: u64,
    /// The publishing rank.
    pub rank: u32,
    /// Ranks that together hold the version.
    pub world_size: u32,
    /// The rank's shards, in the order in which their chunks are sent.
    pub shards: Vec<ShardInfo>,
}

impl Manifest {
    /// The encoded manifest.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(36 + self.shards.len() * 64);
        out.extend_from_slice(&self.instance);
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&self.rank.to_le_bytes());
        out.extend_from_slice(&self.world_size.to_le_bytes());
        out.extend_from_slice(&(self.shards.len() as u32).to_le_bytes());
        for shard in &self.shards {
            out.extend_from_slice(&(shard.name.len() as u16).to_le_bytes());
            out.extend_from_slice(shard.name.as_bytes());
            out.push(match shard.dtype {
                DType::BFloat16 => 1,
                DType::Float32 => 2,
            });
            out.push(shard.shape.len() as u8);
            for number in shard.shape.iter().chain([&shard.offset, &shard.count]) {
                out.extend_from_slice(&number.to_le_bytes());
            }
        }
        out
    }

    /// Reads an encoded manifest; the error says what is wrong with it.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader { rest: bytes };
        let instance = reader.array::<16>()?;
        let version = u64::from_le_bytes(reader.array()?);
        let rank = u32::from_le_bytes(reader.array()?);
        let world_size = u32::from_le_bytes(reader.array()?);
        if rank >= world_size || world_size > MAX_WORLD_SIZE {
            return Err(format!("manifest of rank {rank} of {world_size}"));
        }
        let num_shards = u32::from_le_bytes(reader.array()?) as usize;
        if num_shards > MAX_SHARDS {
            return Err(format!("manifest of {num_shards} shards; at most {MAX_SHARDS} are allowed"));
        }
        let mut shards = Vec::new();
        for _ in 0..num_shards {
            shards.push(reader.shard()?);
        }
        if !reader.rest.is_empty() {
            return Err(format!("{} bytes after the manifest's end", reader.rest.len()));
        }
        Ok(Manifest { instance, version, rank, world_size, shards })
    }
}

/// The hash of all that a rank holds of a version: its manifest, and the state hashes of its chunks in order.
pub(super) fn rank_hash(manifest_bytes: &[u8], chunk_hashes: impl Iterator<Item = u64>) -> u128 {
    let mut hasher = Xxh3::new();
    hasher.update(manifest_bytes);
    for hash in chunk_hashes {
        hasher.update(&hash.to_le_bytes());
    }
    hasher.digest128()
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl Reader<'_> {
    fn take(&mut self, length: usize) -> Result<&[u8], String> {
        let (taken, rest) = self.rest.split_at_checked(length).ok_or("the manifest ends early")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn shard(&mut self) -> Result<ShardInfo, String> {
        let name_length = u16::from_le_bytes(self.array()?) as usize;
        let name = String::from_utf8(self.take(name_length)?.to_vec()).map_err(|error| error.to_string())?;
        let [dtype, dimensions] = self.array::<2>()?;
        let dtype = match dtype {
            1 => DType::BFloat16,
            2 => DType::Float32,
            other => return Err(format!("tensor {name:?} has unknown dtype number {other}")),
        };
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            shape.push(u64::from_le_bytes(self.array()?));
        }
        let offset = u64::from_le_bytes(self.array()?);
        let count = u64::from_le_bytes(self.array()?);
        let info = ShardInfo { name, dtype, shape, offset, count };
        info.check().map_err(|what| format!("tensor {:?}: {what}", info.name))?;
        Ok(info)
    }
}
