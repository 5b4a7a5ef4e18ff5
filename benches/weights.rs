//! Weight streaming against what it cannot beat (a bare TCP copy of the same bytes, a bare memory copy, a bare scan),
//! and patches against the int32 + bf16 coding of other projects.
//!
//! Each pair is measured by criterion, and once more interleaved, since absolute times drift on a shared machine: the
//! lines `ratio:` are medians of ours over theirs, run in turn.

use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use spo_core::Interrupt;
use spo_core::weights::apply::apply_patch;
use spo_core::weights::patch::{chunk_hashes, encode_patch};
use spo_core::weights::{DType, PublisherConfig, WeightPublisher, WeightShard, WeightSubscriber, state_hash};

const BYTES: usize = 128 << 20;
const TENSORS: usize = 32;
const PATCH_ELEMENTS: usize = 32 << 20;

/// Prints how many times longer `ours` takes than `theirs`.
fn ratio(name: &str, mut ours: impl FnMut() -> Duration, mut theirs: impl FnMut() -> Duration) {
    let mut ratios: Vec<f64> = (0..15).map(|_| ours().as_secs_f64() / theirs().as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    println!("ratio: {name}: {:.3} (quartiles {:.3} to {:.3})", ratios[7], ratios[3], ratios[11]);
}

/// How long `work` takes, with its result thrown away afterwards.
fn timed<T>(work: impl FnOnce() -> T) -> Duration {
    let started = Instant::now();
    let result = black_box(work());
    let elapsed = started.elapsed();
    drop(result);
    elapsed
}

fn shards(data: &[u8]) -> Vec<WeightShard<'_>> {
    let length = data.len() / TENSORS;
    let shard = |(index, data): (usize, _)| WeightShard {
        name: format!("layer.{index}"),
        dtype: DType::BFloat16,
        shape: vec![length as u64 / 2],
        offset: 0,
        data,
    };
    data.chunks(length).enumerate().map(shard).collect()
}

fn publisher(keep: usize) -> WeightPublisher {
    let token = b"token".to_vec();
    let config = PublisherConfig { bind: "127.0.0.1:0".into(), token, rank: 0, world_size: 1, keep };
    WeightPublisher::new(config).expect("a publisher on loopback")
}

/// Copies `data` once through a new TCP connection into new memory.
fn bare_copy(data: &[u8]) -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let address = listener.local_addr().expect("its address");
    std::thread::scope(|scope| {
        scope.spawn(move || listener.accept().expect("a peer").0.write_all(data).expect("the peer reads"));
        let mut received = vec![0; data.len()];
        TcpStream::connect(address).expect("a connection").read_exact(&mut received).expect("all the bytes");
        received
    })
}

fn stream(criterion: &mut Criterion) {
    let data = vec![0x3c; BYTES];
    let publisher = publisher(1);
    let timeout = Duration::from_secs(60);
    let subscriber = WeightSubscriber::new(vec![publisher.address().to_string()], b"token".to_vec(), timeout);
    let subscriber = subscriber.expect("a subscriber").as_given(); // over TCP, as the bare copy
    let mut version = 0;
    // A new version each time, so that the publisher's checksums count too.
    let mut publish = || {
        version += 1;
        publisher.publish(version, &shards(&data), Interrupt::never()).expect("a publish");
        version
    };
    let fetch = |version| subscriber.fetch(version, None, None, Interrupt::never()).expect("the version");
    let mut group = criterion.benchmark_group("weights/stream");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(10);
    group.bench_function("fetch", |bencher| {
        bencher.iter_batched(&mut publish, fetch, criterion::BatchSize::PerIteration);
    });
    group.bench_function("bare TCP copy", |bencher| bencher.iter(|| bare_copy(&data)));
    group.finish();
    let ours = || {
        let version = publish();
        timed(|| fetch(version))
    };
    ratio("fetch / bare TCP copy", ours, || timed(|| bare_copy(&data)));
}

fn publish(criterion: &mut Criterion) {
    let data = vec![0x3c; BYTES];
    let shards = shards(&data);
    let publisher = publisher(1);
    let mut version = 0;
    let mut publish = || {
        version += 1;
        publisher.publish(version, &shards, Interrupt::never()).expect("a publish");
    };
    let mut target = vec![0; BYTES];
    let mut copy = || black_box(&mut target).copy_from_slice(black_box(&data));
    let mut group = criterion.benchmark_group("weights/publish");
    group.throughput(Throughput::Bytes(BYTES as u64)).sample_size(20);
    group.bench_function("publish", |bencher| bencher.iter(&mut publish));
    group.bench_function("memory copy", |bencher| bencher.iter(&mut copy));
    group.finish();
    ratio("publish / memory copy", || timed(&mut publish), || timed(&mut copy));
}

fn checks(criterion: &mut Criterion) {
    let data = vec![0x3c; 512 << 10];
    let mut group = criterion.benchmark_group("weights/checks");
    group.throughput(Throughput::Bytes(data.len() as u64));
    group.bench_function("state hash of a chunk", |bencher| bencher.iter(|| state_hash(black_box(&data))));
    group.bench_function("CRC32C of a chunk", |bencher| bencher.iter(|| crc32c::crc32c(black_box(&data))));
    group.finish();
}

/// States of a flat shard around one AdamW step at the learning rate, as bfloat16 casts of float32 masters.
fn adam_step(learning_rate: f32) -> (Vec<u16>, Vec<u16>) {
    let mut state = 1u64;
    // The sum of four uniform numbers is near enough to normal, and quick.
    let mut normal = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let parts = [0, 16, 32, 48].map(|shift| ((state >> shift) & 0xffff) as f32 / 65536.0);
        (parts.iter().sum::<f32>() - 2.0) * 3f32.sqrt()
    };
    let bfloat16 = |value: f32| ((value.to_bits() + 0x7fff + (value.to_bits() >> 16 & 1)) >> 16) as u16;
    let mut pair = || {
        let master = normal() * 0.05;
        (bfloat16(master), bfloat16(master - learning_rate * 0.5 * normal()))
    };
    (0..PATCH_ELEMENTS).map(|_| pair()).unzip()
}

/// What a comparison of the two states costs at the least.
fn count_changes(old: &[u16], new: &[u16]) -> usize {
    old.iter().zip(new).filter(|(old, new)| old != new).count()
}

/// The coding of vLLM's and verl's sparse transfers: an int32 place and a bfloat16 value for each change.
fn encode_places_and_values(old: &[u16], new: &[u16]) -> (Vec<i32>, Vec<u16>) {
    let changed = old.iter().zip(new).enumerate().filter(|(_, (old, new))| old != new);
    changed.map(|(place, (_, new))| (place as i32, *new)).unzip()
}

fn patches(criterion: &mut Criterion) {
    for learning_rate in [6e-8, 1e-6, 1e-5] {
        let (old, new) = adam_step(learning_rate);
        let base = chunk_hashes(&old, Interrupt::never()).expect("hashes");
        let patch = encode_patch(&old, &new, Some(&base), Interrupt::never()).expect("a patch");
        let bits = patch.bytes.len() as f64 * 8.0 / patch.changes as f64;
        let share = patch.changes as f64 / old.len() as f64;
        println!("patch at {learning_rate:e}: {:.4}% changed, {bits:.2} bits a change", share * 100.0);
        let encode = || encode_patch(&old, &new, Some(&base), Interrupt::never()).expect("a patch");
        let mut target = old.clone();
        let (places, values) = encode_places_and_values(&old, &new);
        let mut group = criterion.benchmark_group(format!("weights/patch {learning_rate:e}"));
        group.sample_size(10).throughput(Throughput::Bytes(PATCH_ELEMENTS as u64 * 4));
        group.bench_function("scan", |bencher| bencher.iter(|| count_changes(&old, black_box(&new))));
        group.bench_function("encode", |bencher| bencher.iter(encode));
        group.bench_function("encode int32 + bf16", |bencher| bencher.iter(|| encode_places_and_values(&old, &new)));
        let back = encode_patch(&new, &old, None, Interrupt::never()).expect("a patch");
        group.throughput(Throughput::Elements(2 * patch.changes));
        group.bench_function("apply, there and back", |bencher| {
            bencher.iter(|| {
                for (patch, base) in [(&patch, &base), (&back, &patch.hashes)] {
                    let applied = apply_patch(&mut target, &patch.bytes, Some(base), Interrupt::never());
                    black_box(applied.expect("the target is its base"));
                }
            });
        });
        group.throughput(Throughput::Elements(patch.changes));
        group.bench_function("scatter int32 + bf16", |bencher| {
            bencher.iter(|| places.iter().zip(&values).for_each(|(&place, &value)| target[place as usize] = value));
        });
        group.finish();
        let name = format!("encode / scan at {learning_rate:e}");
        ratio(&name, || timed(encode), || timed(|| count_changes(&old, black_box(&new))));
    }
}

criterion_group!(benches, checks, publish, stream, patches);
criterion_main!(benches);
