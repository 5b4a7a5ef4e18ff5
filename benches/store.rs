//! Encoding, appending and reading trajectories of about 1,200 tokens with float32 logprobs; throughput in tokens.

use std::collections::BTreeMap;
use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use spo_core::Interrupt;
use spo_core::replay::random::Random;
use spo_core::store::{Filter, Mode, Options, Store};
use spo_core::trajectory::Trajectory;
use spo_core::trajectory::record::Columns;

const RECORDS: usize = 256;

/// A Zipf-like token: small ones are much more frequent, as in text.
fn token(random: &mut Random) -> i32 {
    let uniform = (random.bits() >> 11) as f64 / (1u64 << 53) as f64;
    (50_000f64.powf(uniform) - 1.0) as i32
}

fn trajectories() -> Vec<Trajectory> {
    let mut random = Random::new(1, "bench");
    let mut tokens = |count: usize| (0..count).map(|_| token(&mut random)).collect::<Vec<i32>>();
    let prompts: Vec<Vec<i32>> = (0..RECORDS / 8).map(|_| tokens(300)).collect();
    let responses: Vec<Vec<i32>> = (0..RECORDS).map(|at| tokens(600 + at * 600 / RECORDS)).collect();
    let make = |(at, response_tokens): (usize, Vec<i32>)| Trajectory {
        problem_id: format!("problem-{}", at / 8),
        prompt_tokens: prompts[at / 8].clone(),
        behavior_logprobs: Some(response_tokens.iter().map(|&token| -f32::ln(1.0 + token as f32 / 7.0)).collect()),
        response_tokens,
        reward: -1.0,
        verdict: "wrong_answer".into(),
        source: "online".into(),
        reference_logprobs: None,
        mc_successes: None,
        min_policy_version: at as u64,
        max_policy_version: at as u64,
        temperature: 0.5,
        top_p: 0.95,
        seed: at as u64,
        metadata: BTreeMap::new(),
    };
    responses.into_iter().enumerate().map(make).collect()
}

fn store(criterion: &mut Criterion) {
    let records = trajectories();
    let tokens: usize = records.iter().map(Trajectory::num_tokens).sum();
    let go_on = Interrupt::never;
    let open = |directory: &tempfile::TempDir| {
        Store::open(directory.path(), Options::new(Mode::Append, Some("bench")), go_on()).expect("a fresh store opens")
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let filled = open(&directory);
    let ids = filled.append(&records, go_on()).expect("an append");
    let bytes = filled.info(go_on()).expect("totals").bytes;
    println!("{:.3} bytes a token on disk, {} tokens", bytes as f64 / tokens as f64, tokens);

    let mut group = criterion.benchmark_group("store");
    group.throughput(Throughput::Elements(tokens as u64)).sample_size(20);
    group.bench_function("append", |bencher| {
        let fresh = || {
            let directory = tempfile::tempdir().expect("a temporary directory");
            let store = open(&directory);
            (directory, store)
        };
        bencher.iter_batched(
            fresh,
            |(directory, store)| {
                store.append(&records, go_on()).expect("an append");
                (directory, store)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("read", |bencher| {
        bencher.iter(|| filled.read_many(black_box(&ids), Columns::ALL, go_on()).expect("a read"));
    });
    group.bench_function("read tokens only", |bencher| {
        let columns = Columns { prompt: true, response: true, ..Columns::SCALARS };
        bencher.iter(|| filled.read_many(black_box(&ids), columns, go_on()).expect("a read"));
    });
    group.finish();
    let mut group = criterion.benchmark_group("store records");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("scan", |bencher| {
        let filter = Filter { source: Some("online".into()), ..Default::default() };
        bencher.iter(|| filled.scan(black_box(&filter), go_on()).expect("a scan"));
    });
    group.bench_function("append 8, commit", |bencher| {
        bencher.iter(|| {
            filled.append(&records[..8], go_on()).expect("an append");
            filled.commit().expect("a commit");
        });
    });
    group.finish();
}

/// Opening sealed segments, of which only the footers are read.
fn open_sealed(criterion: &mut Criterion) {
    const COUNT: u64 = 200_000;
    let directory = tempfile::tempdir().expect("a temporary directory");
    let options = Options { segment_bytes: 4 << 20, ..Options::new(Mode::Append, Some("bench")) };
    let store = Store::open(directory.path(), options, Interrupt::never()).expect("a fresh store opens");
    let small = trajectories().swap_remove(0);
    let make = |at: u64| Trajectory {
        problem_id: format!("problem-{}", at / 64),
        prompt_tokens: vec![1],
        response_tokens: vec![2],
        behavior_logprobs: None,
        seed: at,
        ..small.clone()
    };
    for start in (0..COUNT).step_by(1000) {
        let records: Vec<Trajectory> = (start..start + 1000).map(make).collect();
        store.append(&records, Interrupt::never()).expect("an append");
    }
    let sealed = store.info(Interrupt::never()).expect("totals").sealed_segments;
    drop(store);
    let mut group = criterion.benchmark_group("open");
    group.throughput(Throughput::Elements(COUNT)).sample_size(10);
    group.bench_function(format!("{COUNT} records in {sealed} sealed segments"), |bencher| {
        let open = || Store::open(directory.path(), Options::new(Mode::Read, None), Interrupt::never());
        bencher.iter(|| open().expect("it opens"));
    });
    group.finish();
}

criterion_group!(benches, store, open_sealed);
criterion_main!(benches);
