//! The replay buffer: bounds, proportions, determinism, packing of what was drawn.

mod common;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use common::{append, check_packing, request, trajectory};
use spo_core::replay::batch::Batch;
use spo_core::replay::random::Random;
use spo_core::replay::window::Bounds;
use spo_core::replay::{Item, Order, ReplayBuffer, Request};
use spo_core::trajectory::Trajectory;
use spo_core::{Error, Interrupt};

const BOUNDS: Bounds = Bounds { capacity: 100, max_uses: 2, max_staleness: 1000, order: Order::Oldest };

fn item(id: u64, source: &str) -> Item {
    Item { id, trajectory: Arc::new(Trajectory { source: source.into(), ..trajectory(id) }) }
}

fn items(ids: std::ops::Range<u64>, source: &str) -> Vec<Item> {
    ids.map(|id| item(id, source)).collect()
}

fn ids(batch: &Batch) -> Vec<u64> {
    batch.items.iter().map(|(item, _)| item.id).collect()
}

#[test]
fn a_batch_holds_each_token_once_with_its_position_segment_and_mask() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    buffer.add(items(0..30, "online"), None).unwrap();
    let request = Request { row_multiple: 4, ..request(30, &[("online", 1.0)]) };
    check_packing(&buffer.sample(&request, Interrupt::never()).unwrap(), &request);
}

#[test]
fn logprob_columns_are_there_when_every_trajectory_has_them() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    buffer.add(vec![item(5, "online"), item(10, "online"), item(6, "other")], None).unwrap();
    let batch = buffer.sample(&request(2, &[("online", 1.0)]), Interrupt::never()).unwrap();
    let column = batch.behavior_logprobs.clone().unwrap();
    for (at, &value) in column.iter().enumerate() {
        let expected = match (batch.response_mask[at], batch.segment_ids[at]) {
            (true, segment) => {
                let trajectory = &batch.items[segment as usize].0.trajectory;
                let position = batch.position_ids[at] as usize - trajectory.prompt_tokens.len();
                trajectory.behavior_logprobs.as_ref().unwrap()[position]
            }
            (false, _) => 0.0,
        };
        assert_eq!(value, expected);
    }
    assert_eq!(batch.reference_logprobs, None);
    let mixed = buffer.sample(&request(2, &[("online", 0.5), ("other", 0.5)]), Interrupt::never()).unwrap();
    assert_eq!(mixed.behavior_logprobs, None, "trajectory 6 has none");
}

#[test]
fn every_online_trajectory_is_used_once_before_one_is_used_twice() {
    for order in [Order::Oldest, Order::Uniform] {
        let buffer = ReplayBuffer::new(Bounds { order, ..BOUNDS }, 1, false).unwrap();
        buffer.add(items(0..12, "online"), None).unwrap();
        let mut uses: HashMap<u64, u32> = HashMap::new();
        for draw in 1..=6 {
            let batch = buffer.sample(&request(4, &[("online", 1.0)]), Interrupt::never()).unwrap();
            for (item, use_number) in &batch.items {
                let count = uses.entry(item.id).or_insert(0);
                *count += 1;
                assert_eq!(count, use_number);
            }
            let least = uses.values().min().copied().filter(|_| uses.len() == 12).unwrap_or(0);
            assert!(uses.values().all(|&count| count <= least + 1), "draw {draw}: {uses:?}");
        }
        assert!(buffer.is_empty(), "used up");
        assert_eq!(buffer.counters().used_up, 12);
        let error = buffer.sample(&request(1, &[("online", 1.0)]), Interrupt::never()).unwrap_err();
        assert!(matches!(error, Error::NotEnough { wanted: 1, available: 0, .. }));
    }
}

#[test]
fn stale_trajectories_are_never_drawn_and_leave() {
    let buffer = ReplayBuffer::new(Bounds { max_staleness: 5, ..BOUNDS }, 1, false).unwrap();
    buffer.add(items(0..10, "online"), None).unwrap(); // versions 0..10
    assert_eq!(buffer.available(12)["online"], 3);
    let too_many = Request { policy_version: 12, ..request(4, &[("online", 1.0)]) };
    assert!(matches!(buffer.sample(&too_many, Interrupt::never()), Err(Error::NotEnough { available: 3, .. })));
    assert_eq!(buffer.len(), 10, "a refused draw changes nothing");
    let batch = buffer.sample(&Request { num_trajectories: 2, ..too_many }, Interrupt::never()).unwrap();
    assert_eq!(ids(&batch), [7, 8]);
    assert_eq!((buffer.len(), buffer.counters().expired_unused), (3, 7));
}

#[test]
fn a_trajectory_newer_than_the_trainer_is_not_stale() {
    let buffer = ReplayBuffer::new(Bounds { max_staleness: 0, ..BOUNDS }, 1, false).unwrap();
    buffer.add(items(7..8, "online"), None).unwrap();
    assert_eq!(buffer.available(3)["online"], 1);
}

#[test]
fn capacity_pushes_out_the_oldest() {
    let buffer = ReplayBuffer::new(Bounds { capacity: 3, ..BOUNDS }, 1, false).unwrap();
    buffer.add(items(0..5, "online"), None).unwrap();
    let batch = buffer.sample(&request(3, &[("online", 1.0)]), Interrupt::never()).unwrap();
    assert_eq!(ids(&batch).into_iter().collect::<HashSet<_>>(), HashSet::from([2, 3, 4]));
    assert_eq!((buffer.counters().evicted, buffer.counters().evicted_unused), (2, 2));
    buffer.add(items(0..1, "online"), None).unwrap(); // one that left may come again
}

#[test]
fn a_pool_is_drawn_without_replacement_epoch_after_epoch_and_never_ages() {
    let buffer = ReplayBuffer::new(Bounds { max_staleness: 0, ..BOUNDS }, 1, false).unwrap();
    buffer.add(items(0..10, "offline"), None).unwrap();
    let request = Request { policy_version: 999, ..request(4, &[("offline", 1.0)]) };
    let mut drawn = Vec::new();
    for _ in 0..25 {
        let batch = buffer.sample(&request, Interrupt::never()).unwrap();
        let distinct: HashSet<u64> = ids(&batch).into_iter().collect();
        assert_eq!(distinct.len(), 4, "no batch holds a trajectory twice");
        drawn.extend(batch.items.iter().map(|(item, uses)| (item.id, *uses)));
    }
    for (epoch, chunk) in drawn.chunks(10).enumerate() {
        let expected: HashSet<(u64, u32)> = (0..10).map(|id| (id, epoch as u32 + 1)).collect();
        assert_eq!(chunk.iter().copied().collect::<HashSet<_>>(), expected);
    }
    assert_ne!(
        drawn[..10].iter().map(|d| d.0).collect::<Vec<_>>(),
        drawn[10..20].iter().map(|d| d.0).collect::<Vec<_>>()
    );
}

#[test]
fn what_joins_a_pool_is_drawn_in_the_same_epoch() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    buffer.add(items(0..6, "offline"), None).unwrap();
    let mut drawn = ids(&buffer.sample(&request(4, &[("offline", 1.0)]), Interrupt::never()).unwrap());
    buffer.add(items(6..10, "offline"), None).unwrap();
    drawn.extend(ids(&buffer.sample(&request(6, &[("offline", 1.0)]), Interrupt::never()).unwrap()));
    assert_eq!(drawn.into_iter().collect::<HashSet<_>>(), (0..10).collect());
}

#[test]
fn a_mix_gives_each_source_its_share_with_the_largest_remainders_rounded_up() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    for (at, source) in ["online", "offline", "annotated"].into_iter().enumerate() {
        buffer.add(items(at as u64 * 100..at as u64 * 100 + 20, source), None).unwrap();
    }
    let mix = [("online", 0.5), ("offline", 0.3), ("annotated", 0.2)];
    for (count, expected) in [(10, [5, 3, 2]), (7, [4, 2, 1]), (1, [1, 0, 0])] {
        let batch = buffer.sample(&request(count, &mix), Interrupt::never()).unwrap();
        let of = |source| batch.items.iter().filter(|(item, _)| item.trajectory.source == source).count();
        assert_eq!([of("online"), of("offline"), of("annotated")], expected, "{count}");
    }
}

#[test]
fn a_source_that_is_short_is_named_and_nothing_is_taken() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    buffer.add(items(0..5, "online"), None).unwrap();
    buffer.add(items(10..12, "offline"), None).unwrap();
    let before = buffer.state();
    let error = buffer.sample(&request(8, &[("online", 0.5), ("offline", 0.5)]), Interrupt::never()).unwrap_err();
    assert!(matches!(&error, Error::NotEnough { source_name, wanted: 4, available: 2 } if source_name == "offline"));
    let unknown = buffer.sample(&request(2, &[("nowhere", 1.0)]), Interrupt::never()).unwrap_err();
    assert!(matches!(&unknown, Error::NotEnough { available: 0, .. }));
    let long = Request { token_budget: 3, ..request(5, &[("online", 1.0)]) };
    assert!(
        matches!(buffer.sample(&long, Interrupt::never()), Err(Error::Invalid(text)) if text.contains("token_budget is 3"))
    );
    let no_rows = Request { row_multiple: 0, ..request(2, &[("online", 1.0)]) };
    assert!(matches!(buffer.sample(&no_rows, Interrupt::never()), Err(Error::Invalid(_))));
    assert_eq!(buffer.state(), before);
}

#[test]
fn impossible_settings_are_refused() {
    assert!(ReplayBuffer::new(Bounds { capacity: 0, ..BOUNDS }, 1, false).is_err());
    assert!(ReplayBuffer::new(Bounds { max_uses: 0, ..BOUNDS }, 1, false).is_err());
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    for mix in [&[("online", 0.5)][..], &[("online", 1.5), ("offline", -0.5)], &[("online", f64::NAN)], &[]] {
        assert!(
            matches!(buffer.sample(&request(1, mix), Interrupt::never()), Err(Error::Invalid(text)) if text.contains("mix"))
        );
    }
}

#[test]
fn an_id_is_added_once_or_nothing_is_added() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    buffer.add(items(3..4, "online"), None).unwrap();
    assert!(buffer.add(items(2..5, "offline"), None).is_err());
    assert!(buffer.add(vec![item(9, "online"), item(9, "online")], None).is_err());
    assert_eq!(buffer.len(), 1);
}

#[test]
fn the_random_stream_is_the_published_one() {
    // First outputs of SplitMix64 from state 1234567, as its authors' reference code gives them.
    let mut random = Random { state: 1_234_567 };
    let outputs: Vec<u64> = (0..3).map(|_| random.bits()).collect();
    assert_eq!(outputs, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
}

#[test]
fn bounded_random_numbers_are_even() {
    let mut random = Random::new(7, "test");
    let mut counts = [0usize; 6];
    for _ in 0..60_000 {
        counts[random.below(6)] += 1;
    }
    // Five standard deviations of a binomial with n = 60,000 and p = 1/6.
    assert!(counts.iter().all(|&count| count.abs_diff(10_000) < 460), "{counts:?}");
}

#[test]
fn a_state_that_does_not_fit_the_store_is_refused_and_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(append(directory.path()));
    let saved = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    let record = Arc::new(Trajectory { source: "online".into(), ..trajectory(1) });
    let known = store.append(std::slice::from_ref(&record), Interrupt::never()).unwrap()[0];
    saved.add(vec![Item { id: known, trajectory: record }], None).unwrap();
    let good = saved.state();
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    buffer.add(items(50..52, "online"), None).unwrap();
    let before = buffer.state();
    let load = |change: fn(&mut spo_core::replay::state::State)| {
        let mut state = good.clone();
        change(&mut state);
        buffer.load_state(&state, &store, Interrupt::never()).unwrap_err()
    };
    assert!(matches!(load(|state| state.window_ids[0] += 1), Error::Store(_)));
    assert!(matches!(load(|state| state.window_uses.clear()), Error::Invalid(_)));
    assert!(matches!(load(|state| state.window_ids.push(state.window_ids[0])), Error::Invalid(_)));
    assert_eq!(buffer.state(), before);
    buffer.load_state(&good, &store, Interrupt::never()).unwrap();
    assert_eq!(buffer.state(), good);
}
