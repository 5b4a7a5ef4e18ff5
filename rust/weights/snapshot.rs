//! Assembling a whole version: which rank's shard goes where, whether every element is covered exactly once,
//! and the finished tensors. Knows nothing of the network.

use std::collections::HashMap;

use super::manifest::{Manifest, ShardInfo};
use super::tensor::{DType, Tensor, TensorData};
use crate::{Error, Result};

/// Most bytes of a version that a subscriber makes room for.
const MAX_VERSION_BYTES: u64 = 4 << 40;

/// One whole, verified policy version, in memory of this kind.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<M = TensorData> {
    /// The policy version.
    pub version: u64,
    /// The full tensors, in the order in which the ranks name them.
    pub tensors: Vec<Tensor<M>>,
}

/// A version that a subscriber holds already, to be patched instead of fetched again.
#[derive(Clone, Debug)]
pub struct Base<'a> {
    /// The policy version.
    pub version: u64,
    /// The bytes of its full tensors, by name.
    pub tensors: HashMap<&'a str, &'a [u8]>,
}

impl Base<'_> {
    /// The part that `shard` has of its tensor here; `None` where there is no such part.
    pub(super) fn part(&self, shard: &ShardInfo) -> Option<&[u8]> {
        let start = usize::try_from(shard.offset).ok()?.checked_mul(shard.dtype.size())?;
        self.tensors.get(shard.name.as_str())?.get(start..start.checked_add(shard.bytes())?)
    }
}

impl Snapshot {
    /// This version as the base of another.
    pub fn as_base(&self) -> Base<'_> {
        let tensors = self.tensors.iter().map(|tensor| (tensor.name.as_str(), tensor.data.as_bytes()));
        Base { version: self.version, tensors: tensors.collect() }
    }
}

struct Piece {
    offset: u64,
    count: u64,
    rank: usize,
    shard: usize,
}

struct Plan {
    name: String,
    dtype: DType,
    shape: Vec<u64>,
    pieces: Vec<Piece>,
}

/// Where each shard of each rank goes; exists only if they cover every tensor exactly once.
pub(super) struct Layout {
    plans: Vec<Plan>,
    shards_per_rank: Vec<usize>,
}

impl Layout {
    /// Checks the manifests of all ranks, given in the order of their addresses, against each other.
    pub(super) fn new(manifests: &[&Manifest]) -> Result<Self> {
        check_ranks(manifests)?;
        let mut plans: Vec<Plan> = Vec::new();
        let mut known: HashMap<&str, usize> = HashMap::new();
        for (rank, manifest) in manifests.iter().enumerate() {
            for (shard, info) in manifest.shards.iter().enumerate() {
                let place = *known.entry(&info.name).or_insert_with(|| {
                    let ShardInfo { name, dtype, shape, .. } = info.clone();
                    plans.push(Plan { name, dtype, shape, pieces: Vec::new() });
                    plans.len() - 1
                });
                let plan = &mut plans[place];
                if (plan.dtype, &plan.shape) != (info.dtype, &info.shape) {
                    return Err(Error::Weights(format!(
                        "tensor {:?} is {} {:?} on one rank and {} {:?} on rank {}",
                        info.name,
                        plan.dtype.name(),
                        plan.shape,
                        info.dtype.name(),
                        info.shape,
                        manifest.rank
                    )));
                }
                plan.pieces.push(Piece { offset: info.offset, count: info.count, rank, shard });
            }
        }
        let mut total = 0u64;
        for plan in &mut plans {
            total = total.saturating_add(plan.check_coverage()?.saturating_mul(plan.dtype.size() as u64));
        }
        if total > MAX_VERSION_BYTES {
            return Err(Error::Weights(format!(
                "the version has {total} bytes; at most {MAX_VERSION_BYTES} are fetched"
            )));
        }
        Ok(Layout { plans, shards_per_rank: manifests.iter().map(|manifest| manifest.shards.len()).collect() })
    }

    /// Every tensor, in what `memory` gives for its name, dtype and elements.
    pub(super) fn allocate<M: AsMut<[u8]>>(
        &self,
        memory: &mut impl FnMut(&str, DType, usize) -> Result<M>,
    ) -> Result<Vec<Tensor<M>>> {
        let tensor = |plan: &Plan| {
            let elements = plan.pieces.iter().map(|piece| piece.count as usize).sum();
            let mut data = memory(&plan.name, plan.dtype, elements)?;
            let (needed, given) = (elements * plan.dtype.size(), data.as_mut().len());
            if given != needed {
                return Err(Error::invalid(format!("{given} bytes for tensor {:?}, which has {needed}", plan.name)));
            }
            Ok(Tensor { name: plan.name.clone(), shape: plan.shape.clone(), data })
        };
        self.plans.iter().map(tensor).collect()
    }

    /// Cuts the tensors' memory into each rank's shards, in the order of its manifest.
    pub(super) fn split<'t, M: AsMut<[u8]>>(&self, tensors: &'t mut [Tensor<M>]) -> Vec<Vec<&'t mut [u8]>> {
        let empty = |&shards: &usize| (0..shards).map(|_| <&mut [u8]>::default()).collect();
        let mut parts: Vec<Vec<&mut [u8]>> = self.shards_per_rank.iter().map(empty).collect();
        for (plan, tensor) in self.plans.iter().zip(tensors) {
            let mut rest = tensor.data.as_mut();
            for piece in &plan.pieces {
                let (part, after) = rest.split_at_mut(piece.count as usize * plan.dtype.size());
                parts[piece.rank][piece.shard] = part;
                rest = after;
            }
        }
        parts
    }
}

impl Plan {
    /// Sorts the pieces by place and makes sure that they touch without gap or overlap; returns the tensor's
    /// elements.
    fn check_coverage(&mut self) -> Result<u64> {
        self.pieces.sort_by_key(|piece| (piece.offset, piece.count));
        let mut covered = 0;
        for piece in self.pieces.iter().filter(|piece| piece.count > 0) {
            if piece.offset != covered {
                return Err(self.miscovered(covered, piece.offset));
            }
            covered += piece.count;
        }
        let full = super::tensor::num_elements(&self.shape).unwrap_or(u64::MAX);
        if covered == full { Ok(full) } else { Err(self.miscovered(covered, full)) }
    }

    fn miscovered(&self, covered: u64, next: u64) -> Error {
        let what = if next > covered {
            format!("no rank holds elements {covered} to {next}")
        } else {
            format!("two ranks hold elements {next} to {covered}")
        };
        Error::Weights(format!("tensor {:?} of shape {:?} is not whole: {what}", self.name, self.shape))
    }
}

fn check_ranks(manifests: &[&Manifest]) -> Result<()> {
    let mut seen = vec![false; manifests.len()];
    for manifest in manifests {
        if manifest.world_size as usize != manifests.len() {
            return Err(Error::Weights(format!(
                "rank {} publishes for {} ranks, but {} addresses were given",
                manifest.rank,
                manifest.world_size,
                manifests.len()
            )));
        }
        if std::mem::replace(&mut seen[manifest.rank as usize], true) {
            return Err(Error::Weights(format!("two addresses belong to rank {}", manifest.rank)));
        }
    }
    Ok(())
}
