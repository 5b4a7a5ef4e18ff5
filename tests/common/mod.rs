//! What tests of store and replay share.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::BTreeMap;
use std::path::Path;

use spo_core::Interrupt;
use spo_core::store::{Mode, Options, Store};
use spo_core::trajectory::Trajectory;

/// A small trajectory, another one for each number.
pub fn trajectory(number: u64) -> Trajectory {
    let length = (number % 7) as i32;
    Trajectory {
        problem_id: format!("problem-{}", number % 3),
        prompt_tokens: (0..length + 2).map(|at| at * 300 + number as i32).collect(),
        response_tokens: (0..length).collect(),
        reward: if number.is_multiple_of(2) { 0.0 } else { -1.0 },
        verdict: "accepted".into(),
        source: if number.is_multiple_of(4) { "offline".into() } else { "online".into() },
        behavior_logprobs: number.is_multiple_of(5).then(|| (0..length).map(|at| -0.3 * at as f32).collect()),
        reference_logprobs: None,
        min_policy_version: number,
        max_policy_version: number + 1,
        temperature: 0.5,
        top_p: 1.0,
        seed: number,
        metadata: BTreeMap::new(),
    }
}

/// The same with a prompt long enough to be shared, of which there are two.
pub fn with_long_prompt(number: u64) -> Trajectory {
    let prompt_tokens = (0..100).map(|at| at * 7919 % 1000 + (number % 2) as i32).collect();
    Trajectory { prompt_tokens, ..trajectory(number) }
}

/// Options for the tests' tokenizer.
pub fn options(mode: Mode) -> Options {
    Options::new(mode, Some("tests"))
}

/// The store in the directory, to append to.
pub fn append(directory: &Path) -> Store {
    Store::open(directory, options(Mode::Append), Interrupt::never()).unwrap()
}
