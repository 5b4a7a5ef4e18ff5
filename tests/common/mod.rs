//! What tests of store and replay share.
#![allow(dead_code, reason = "no test file uses all of it")]

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use spo_core::Interrupt;
use spo_core::replay::Request;
use spo_core::replay::batch::{Batch, PADDING};
use spo_core::replay::mix::Unit;
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
        mc_successes: None,
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

/// Asks for a batch with rows of 64 tokens.
pub fn request(count: usize, mix: &[(&str, f64)]) -> Request {
    let mix = mix.iter().map(|&(source, share)| (source.to_owned(), share)).collect();
    Request {
        num_trajectories: count,
        policy_version: 0,
        mix,
        unit: Unit::Trajectories,
        group_size: 1,
        token_budget: 64,
        row_multiple: 1,
    }
}

/// Checks that the batch holds each token of its trajectories once, in the right place, and nothing else.
pub fn check_packing(batch: &Batch, request: &Request) {
    assert_eq!(batch.width, request.token_budget);
    assert_eq!(batch.rows % request.row_multiple, 0);
    let mut seen: HashMap<i32, usize> = HashMap::new();
    for at in 0..batch.rows * batch.width {
        let segment = batch.segment_ids[at];
        if segment == PADDING {
            assert_eq!((batch.tokens[at], batch.position_ids[at], batch.response_mask[at]), (0, 0, false));
            continue;
        }
        let trajectory = &batch.items[segment as usize].0.trajectory;
        let position = batch.position_ids[at] as usize;
        let all = [&trajectory.prompt_tokens[..], &trajectory.response_tokens[..]].concat();
        assert_eq!(batch.tokens[at], all[position]);
        assert_eq!(batch.response_mask[at], position >= trajectory.prompt_tokens.len());
        // Tokens of a trajectory come in order, so counting them proves that each comes once.
        assert_eq!(*seen.entry(segment).or_insert(0), position);
        seen.insert(segment, position + 1);
    }
    for (at, (item, _)) in batch.items.iter().enumerate() {
        assert_eq!(seen.get(&(at as i32)).copied().unwrap_or(0), item.trajectory.num_tokens());
    }
}
