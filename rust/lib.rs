//! `spo-core`: the parts of Soft Policy Optimization that must be fast or safe, without Python.
//!
//! | module | noun |
//! | --- | --- |
//! | [`trajectory`] | the record of one rollout, and its one encoding for wire, store and buffer |
//! | [`parallel`] | one function on many items, on all cores |
//! | [`packing`] | fitting trajectories of different lengths into rows of a token budget |
//! | [`store`] | the durable, compressed, append-only home of trajectories |
//! | [`replay`] | the multi-use, staleness-bounded buffer that batches are drawn from |
//! | [`judge`] | running programs against tests, giving verdicts |
//! | [`sandbox`] | the kernel mechanisms that the judge's processes are locked in with |
//! | [`weights`] | streaming of policy versions, shard by shard, from trainers to workers |
//! | [`zstd_file`] | compressed files of exports and imports |
//!
//! The Python bindings are in `rust/bindings/`; nothing here knows of them.

pub mod error;
pub mod interrupt;
pub mod judge;
pub mod packing;
pub mod parallel;
pub mod replay;
pub mod sandbox;
pub mod store;
pub mod trajectory;
pub mod weights;
pub mod zstd_file;

pub use error::{Error, Result};
pub use interrupt::Interrupt;
