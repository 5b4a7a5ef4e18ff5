//! Any bytes as a message from the judge's helper: refused, or something that the helper says; never a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use spo_core::sandbox::describe_message;

fuzz_target!(|message: &[u8]| {
    if let Ok(said) = describe_message(message) {
        // Each byte is shown by a few characters at most, and no time is without a value.
        assert!(said.len() <= 256 + 10 * message.len(), "{said}");
        assert!(said.contains("NotCompiled") || !(said.contains("NaN") || said.contains("inf")), "{said}");
    }
});
