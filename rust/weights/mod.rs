//! Weights on their way from trainer ranks to rollout workers: whole, verified policy versions, or nothing.
//!
//! Every trainer rank runs a [`WeightPublisher`] that snapshots the rank's own shards and serves them over
//! TCP, and over UNIX sockets to those on its host, from background threads. A [`WeightSubscriber`] connects
//! to every rank, fetches one version from all of them at once, checks every chunk ([`state_hash`] of the memory it landed in) and
//! that the shards cover each tensor exactly once, and only then hands out a [`Snapshot`].
//!
//! | file | noun |
//! | --- | --- |
//! | `tensor` | dtype, local shard, and the memory of a full tensor |
//! | `memory` | pages for what is large |
//! | `manifest` | what one rank holds of one version |
//! | `hash` | the position-sensitive hash of a state |
//! | `version` | one published version in a rank's memory, cut into chunks |
//! | `wire` | the bytes of requests and frames, nothing else |
//! | `handshake` | both ends prove that they know the run's token |
//! | `address`, `listen` | where a publisher is found; its listening sockets |
//! | `link` | a socket whose every wait has a deadline and can be called off |
//! | `publisher`, `chain`, `serve` | keeping versions, and patches between those gone; answering one connection |
//! | `patch`, `scan`, `sparse`, `steps`, `bits`, `dense` | what changed between two states, found and coded |
//! | `apply` | the same, read and put in place |
//! | `subscriber`, `fetch`, `exchange` | a whole version; one rank's part of it; one exchange, retried |
//! | `snapshot` | assembling and coverage |
//!
//! Left out: collectives, which version to fetch and when (the orchestrator says), and encryption: the token
//! keeps strangers out, it does not hide or authenticate the stream against someone who owns the network.

mod address;
pub mod apply;
mod bits;
mod chain;
mod dense;
mod exchange;
mod fetch;
mod handshake;
pub mod hash;
mod link;
mod listen;
mod manifest;
mod memory;
pub mod patch;
mod publisher;
mod scan;
mod serve;
mod snapshot;
mod sparse;
mod steps;
mod subscriber;
mod tensor;
mod version;
pub mod wire;

pub use hash::state_hash;
pub use manifest::{Manifest, ShardInfo};
pub use publisher::{PublisherConfig, WeightPublisher};
pub use snapshot::{Base, Snapshot};
pub use subscriber::WeightSubscriber;
pub use tensor::{DType, Tensor, TensorData, WeightShard};

/// Elements of a chunk: the unit of state hashes and of resuming. Chunks start anew at every
/// shard.
pub const CHUNK_ELEMENTS: usize = 256 * 1024;

#[cfg(target_endian = "big")]
compile_error!("weights travel as little-endian memory; this target is big-endian");
