//! The one error type of the crate. Each variant says whose fault it is: the caller's, the data's, or the system's.

use std::path::PathBuf;

/// What can go wrong in `spo-core`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The caller's argument is wrong; the text names it and the fix. Becomes Python's `ValueError`.
    #[error("{0}")]
    Invalid(String),
    /// The operating system refused; `what` says what was being done. Becomes `OSError`.
    #[error("{what}: {source}")]
    Io {
        /// What was being done, with the path or address.
        what: String,
        /// The system's own error.
        #[source]
        source: std::io::Error,
    },
    /// Bytes on disk or on the wire are not what was written. Becomes `CorruptShardError`.
    #[error("{path}: damaged at byte {offset}: {what}")]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where the damage was noticed.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The trajectory store cannot do it. Becomes `StoreError`.
    #[error("{0}")]
    Store(String),
    /// A source of the replay buffer cannot give its part of a batch yet. Becomes `NotEnough`.
    #[error("the source {source_name:?} can give {available} of the {wanted} trajectories asked for")]
    NotEnough {
        /// The source.
        source_name: String,
        /// How many were asked for.
        wanted: usize,
        /// How many there are.
        available: usize,
    },
    /// The judge itself failed (never a verdict on a program). Becomes `JudgeError`.
    #[error("{0}")]
    Judge(String),
    /// Weight streaming failed. Becomes `WeightsError`.
    #[error("{0}")]
    Weights(String),
    /// The policy version asked for is no longer kept by its publisher. Becomes `VersionGone`.
    #[error("{what}")]
    VersionGone {
        /// The version, the publisher's address, and what it has instead.
        what: String,
        /// The newest version that the publisher keeps.
        newest: u64,
    },
    /// A deadline passed; the text names the wait. Becomes `TimeoutError`.
    #[error("{0}")]
    Timeout(String),
    /// The caller asked to stop (Ctrl-C, cancellation).
    #[error("interrupted")]
    Interrupted,
}

/// `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Wraps an I/O error with what was being done.
    pub fn io(what: impl Into<String>, source: std::io::Error) -> Self {
        Error::Io { what: what.into(), source }
    }

    /// The caller's argument is wrong.
    pub fn invalid(what: impl Into<String>) -> Self {
        Error::Invalid(what.into())
    }
}
