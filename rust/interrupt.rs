//! How a long call learns that its caller wants it back (Ctrl-C, cancellation): a question, asked at least every 50 ms.

use crate::error::{Error, Result};

/// Asked by every call that may last; `true` means stop now. It may be called from any thread.
#[derive(Clone, Copy)]
pub struct Interrupt<'a>(&'a (dyn Fn() -> bool + Sync));

impl<'a> Interrupt<'a> {
    /// The longest time that a call may go on without asking.
    pub const POLL: std::time::Duration = std::time::Duration::from_millis(50);

    /// Wraps the caller's question.
    pub fn new(asked_to_stop: &'a (dyn Fn() -> bool + Sync)) -> Self {
        Interrupt(asked_to_stop)
    }

    /// `Err(Error::Interrupted)` once the caller wants its thread back.
    pub fn check(&self) -> Result<()> {
        if (self.0)() { Err(Error::Interrupted) } else { Ok(()) }
    }
}

impl Interrupt<'static> {
    /// For callers that never interrupt.
    pub fn never() -> Self {
        Interrupt(&|| false)
    }
}
