//! Drawing and packing 128 trajectories of about 1,200 tokens, beside a plain copy of the same bytes.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spo_core::Interrupt;
use spo_core::replay::mix::Unit;
use spo_core::replay::window::Bounds;
use spo_core::replay::{Item, ONLINE, Order, ReplayBuffer, Request};
use spo_core::trajectory::Trajectory;

const COUNT: usize = 128;
const TOKEN_BUDGET: usize = 4096;

fn item(id: u64) -> Item {
    let response = 900 + (id as i32 * 37) % 600;
    let trajectory = Trajectory {
        problem_id: format!("problem-{id}"),
        prompt_tokens: (0..300).collect(),
        response_tokens: (0..response).collect(),
        reward: 0.0,
        verdict: "accepted".into(),
        source: ONLINE.into(),
        behavior_logprobs: None,
        reference_logprobs: None,
        mc_successes: None,
        min_policy_version: 0,
        max_policy_version: 0,
        temperature: 0.5,
        top_p: 0.95,
        seed: id,
        metadata: BTreeMap::new(),
    };
    Item { id, trajectory: Arc::new(trajectory) }
}

fn replay(criterion: &mut Criterion) {
    let bounds = Bounds { capacity: 4096, max_uses: u32::MAX, max_staleness: u64::MAX, order: Order::Uniform };
    let buffer = ReplayBuffer::new(bounds, 1, false).expect("a buffer");
    buffer.add((0..4096).map(item).collect(), None).expect("an addition");
    let request = Request {
        num_trajectories: COUNT,
        policy_version: 0,
        mix: BTreeMap::from([(ONLINE.to_owned(), 1.0)]),
        unit: Unit::Trajectories,
        group_size: 1,
        token_budget: TOKEN_BUDGET,
        row_multiple: 1,
    };
    let batch = buffer.sample(&request, Interrupt::never()).expect("a batch");
    let tokens: usize = batch.items.iter().map(|(item, _)| item.trajectory.num_tokens()).sum();
    let mut group = criterion.benchmark_group("replay");
    group.throughput(Throughput::Elements(tokens as u64)).sample_size(30);
    group.bench_function("sample and pack 128", |bencher| {
        bencher.iter(|| buffer.sample(black_box(&request), Interrupt::never()).expect("a batch"));
    });
    group.bench_function("copy the same bytes", |bencher| {
        bencher.iter(|| {
            let batch = black_box(&batch);
            (batch.tokens.clone(), batch.position_ids.clone(), batch.segment_ids.clone(), batch.response_mask.clone())
        });
    });
    group.finish();
}

criterion_group!(benches, replay);
criterion_main!(benches);
