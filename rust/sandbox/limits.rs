//! What one run of a program may use.

use std::time::Duration;

use crate::{Error, Result};

/// The limits of one run (one test). Memory is the peak resident set, as the kernel counts it.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// CPU seconds of all threads together.
    pub cpu_time_s: f64,
    /// Seconds on the clock; `None` is [`Limits::WALL_FACTOR`] times the CPU time.
    pub wall_time_s: Option<f64>,
    /// Peak resident memory in bytes, the interpreter's own (about 15 MB) included.
    pub memory_bytes: u64,
    /// Bytes on stdout, and separately on stderr.
    pub output_bytes: u64,
}

impl Limits {
    /// How much more wall time than CPU time a run gets when nothing is said.
    pub const WALL_FACTOR: f64 = 3.0;
    /// The least memory limit: below it not even the interpreter fits.
    pub const MIN_MEMORY_BYTES: u64 = 32 << 20;
    const MAX_MEMORY_BYTES: u64 = 1 << 40;
    const MAX_OUTPUT_BYTES: u64 = 1 << 30;
    const MAX_TIME_S: f64 = 86_400.0;

    /// `Error::Invalid` naming the field that is out of range, and the range.
    pub fn validate(&self) -> Result<()> {
        check_seconds("cpu_time_s", self.cpu_time_s)?;
        if let Some(wall) = self.wall_time_s {
            check_seconds("wall_time_s", wall)?;
        }
        if !(Self::MIN_MEMORY_BYTES..=Self::MAX_MEMORY_BYTES).contains(&self.memory_bytes) {
            return Err(out_of_range("memory_bytes", self.memory_bytes, "32 MiB to 1 TiB"));
        }
        if !(1..=Self::MAX_OUTPUT_BYTES).contains(&self.output_bytes) {
            return Err(out_of_range("output_bytes", self.output_bytes, "1 byte to 1 GiB"));
        }
        Ok(())
    }

    /// The wall-clock limit that is in force.
    pub fn wall_time(&self) -> Duration {
        Duration::from_secs_f64(self.wall_time_s.unwrap_or(self.cpu_time_s * Self::WALL_FACTOR))
    }
}

impl Default for Limits {
    fn default() -> Self {
        Limits { cpu_time_s: 2.0, wall_time_s: None, memory_bytes: 512 << 20, output_bytes: 16 << 20 }
    }
}

fn check_seconds(field: &str, seconds: f64) -> Result<()> {
    if seconds.is_finite() && (0.01..=Limits::MAX_TIME_S).contains(&seconds) {
        return Ok(());
    }
    Err(out_of_range(field, seconds, "0.01 to 86400 seconds"))
}

fn out_of_range(field: &str, value: impl std::fmt::Display, range: &str) -> Error {
    Error::invalid(format!("limits.{field} is {value}: give {range}"))
}
