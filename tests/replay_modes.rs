//! The replay buffer's other ways to draw: shares in tokens, groups, weighted orders, computed orders, bounded memory.

mod common;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use common::{append, request, trajectory};
use proptest::prelude::*;
use spo_core::replay::batch::Batch;
use spo_core::replay::mix::Unit;
use spo_core::replay::shuffle::Shuffle;
use spo_core::replay::window::Bounds;
use spo_core::replay::{Item, Order, ReplayBuffer, Request};
use spo_core::trajectory::Trajectory;
use spo_core::{Error, Interrupt};

const BOUNDS: Bounds = Bounds { capacity: 1000, max_uses: 1000, max_staleness: 1000, order: Order::Oldest };

fn item(id: u64, change: impl FnOnce(&mut Trajectory)) -> Item {
    let mut record = Trajectory { source: "online".into(), ..trajectory(id) };
    change(&mut record);
    Item { id, trajectory: Arc::new(record) }
}

fn of_length(id: u64, source: &str, tokens: usize) -> Item {
    item(id, |record| {
        record.source = source.into();
        record.prompt_tokens = vec![1];
        record.response_tokens = vec![2; tokens - 1];
        record.behavior_logprobs = None;
    })
}

fn of_problem(id: u64, source: &str, problem: u64) -> Item {
    item(id, |record| {
        record.source = source.into();
        record.problem_id = format!("p{problem}");
    })
}

fn sample(buffer: &ReplayBuffer, request: &Request) -> Batch {
    buffer.sample(request, Interrupt::never()).unwrap()
}

fn ids(batch: &Batch) -> Vec<u64> {
    batch.items.iter().map(|(item, _)| item.id).collect()
}

fn tokens_of(batch: &Batch, source: &str) -> usize {
    let of_source = batch.items.iter().filter(|(item, _)| item.trajectory.source == source);
    of_source.map(|(item, _)| item.trajectory.num_tokens()).sum()
}

fn problems_of(batch: &Batch) -> HashMap<(String, String), usize> {
    let mut counts = HashMap::new();
    for (item, _) in &batch.items {
        *counts.entry((item.trajectory.source.clone(), item.trajectory.problem_id.clone())).or_insert(0) += 1;
    }
    counts
}

#[test]
fn groups_come_whole_and_problems_with_too_few_wait() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    let online = (0..22).map(|id| of_problem(id, "online", id % 6)); // four each of p0 to p3, three of p4 and p5
    buffer.add(online.collect(), None).unwrap();
    buffer.add((100..124).map(|id| of_problem(id, "offline", id % 6)).collect(), None).unwrap();
    let request = Request { group_size: 4, ..request(16, &[("online", 0.5), ("offline", 0.5)]) };
    for _ in 0..5 {
        let batch = sample(&buffer, &request);
        let counts = problems_of(&batch);
        assert_eq!(counts.len(), 4);
        assert!(counts.values().all(|&count| count == 4), "{counts:?}");
        assert!(counts.keys().all(|(source, problem)| source != "online" || (problem != "p4" && problem != "p5")));
        assert_eq!(ids(&batch).into_iter().collect::<HashSet<_>>().len(), 16);
    }
    let too_many = Request { num_trajectories: 20, mix: BTreeMap::from([("online".into(), 1.0)]), ..request.clone() };
    let error = buffer.sample(&too_many, Interrupt::never()).unwrap_err();
    assert!(matches!(error, Error::NotEnough { wanted: 20, available: 16, .. }), "{error}");
    let uneven = Request { num_trajectories: 10, ..request };
    assert!(
        matches!(buffer.sample(&uneven, Interrupt::never()), Err(Error::Invalid(text)) if text.contains("group_size 4"))
    );
}

#[test]
fn a_problem_may_have_several_groups_in_a_batch() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, false).unwrap();
    buffer.add((0..9).map(|id| of_problem(id, "online", id / 7)).collect(), None).unwrap(); // seven of p0, two of p1
    let batch = sample(&buffer, &Request { group_size: 3, ..request(6, &[("online", 1.0)]) });
    assert_eq!(problems_of(&batch), HashMap::from([(("online".into(), "p0".into()), 6)]));
}

#[test]
fn an_epoch_in_groups_draws_each_whole_group_once() {
    let buffer = ReplayBuffer::new(BOUNDS, 3, false).unwrap();
    buffer.add((0..24).map(|id| of_problem(id, "offline", id / 4)).collect(), None).unwrap();
    let request = Request { group_size: 4, ..request(8, &[("offline", 1.0)]) };
    for _ in 0..4 {
        let epoch: Vec<u64> = (0..3).flat_map(|_| ids(&sample(&buffer, &request))).collect();
        assert_eq!(epoch.iter().collect::<HashSet<_>>().len(), 24);
    }
}

/// How often each of ten trajectories comes first.
fn first_counts(buffer: &ReplayBuffer, policy_version: u64, draws: usize) -> Vec<f64> {
    let request = Request { policy_version, ..request(1, &[("online", 1.0)]) };
    let mut counts = vec![0.0; 10];
    for _ in 0..draws {
        counts[ids(&sample(buffer, &request))[0] as usize] += 1.0;
    }
    counts
}

fn check_proportions(counts: &[f64], weights: &[f64]) {
    let (draws, total): (f64, f64) = (counts.iter().sum(), weights.iter().sum());
    for (count, weight) in counts.iter().zip(weights) {
        let share = weight / total;
        // Five standard deviations of a binomial.
        let slack = 5.0 * (draws * share * (1.0 - share)).sqrt();
        assert!((count - draws * share).abs() <= slack, "{counts:?} for {weights:?}");
    }
}

#[test]
fn recent_trajectories_have_chances_that_halve_with_age() {
    let order = Order::Recent { half_life: 2.0 };
    let buffer = ReplayBuffer::new(Bounds { order, max_uses: u32::MAX, ..BOUNDS }, 5, false).unwrap();
    buffer.add((0..10).map(|id| item(id, |record| record.min_policy_version = id)).collect(), None).unwrap();
    let weights: Vec<f64> = (0..10).map(|id| 0.5f64.powf((20 - id) as f64 / 2.0)).collect();
    check_proportions(&first_counts(&buffer, 20, 20_000), &weights);
}

#[test]
fn priorities_decide_by_their_power_and_new_trajectories_have_the_greatest() {
    let order = Order::Priority { exponent: 0.5 };
    let buffer = ReplayBuffer::new(Bounds { order, max_uses: u32::MAX, ..BOUNDS }, 5, false).unwrap();
    buffer.add((0..9).map(|id| item(id, |_| ())).collect(), None).unwrap();
    buffer.set_priorities(&(0..9).map(|id| (id, (id + 1) as f64)).collect()).unwrap();
    buffer.add(vec![item(9, |_| ())], None).unwrap();
    let weights: Vec<f64> = (0..9).map(|id| ((id + 1) as f64).sqrt()).chain([3.0]).collect();
    check_proportions(&first_counts(&buffer, 0, 20_000), &weights);
    for wrong in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(buffer.set_priorities(&BTreeMap::from([(3, wrong)])).is_err());
    }
}

#[test]
fn impossible_weights_are_refused() {
    for order in [Order::Recent { half_life: 0.0 }, Order::Priority { exponent: -1.0 }] {
        assert!(ReplayBuffer::new(Bounds { order, ..BOUNDS }, 1, false).is_err());
    }
}

#[test]
fn a_buffer_without_a_store_cannot_draw_what_is_not_in_memory() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, true).unwrap();
    assert!(matches!(buffer.add_stored(&[1], "offline", Interrupt::never()), Err(Error::Store(_))));
    assert!(matches!(buffer.add_stored(&[1], "online", Interrupt::never()), Err(Error::Invalid(_))));
}

#[test]
fn reference_logprobs_are_noted_where_they_fit() {
    let buffer = ReplayBuffer::new(BOUNDS, 1, true).unwrap();
    buffer.add(vec![of_length(1, "online", 4), of_length(2, "online", 5)], None).unwrap();
    buffer.set_reference_logprobs(vec![(1, vec![-1.0; 3]), (77, vec![-1.0])]).unwrap();
    assert_eq!(sample(&buffer, &request(2, &[("online", 1.0)])).reference_logprobs, None);
    assert!(buffer.set_reference_logprobs(vec![(2, vec![-1.0; 3])]).is_err());
    buffer.set_reference_logprobs(vec![(2, vec![-0.5; 4])]).unwrap();
    let batch = sample(&buffer, &request(2, &[("online", 1.0)]));
    let column = batch.reference_logprobs.unwrap();
    assert_eq!(column.iter().filter(|&&value| value == -1.0).count(), 3);
    assert_eq!(column.iter().filter(|&&value| value == -0.5).count(), 4);
}

#[test]
fn a_pool_may_hold_trajectories_of_another_source_under_its_own_name() {
    let directory = tempfile::tempdir().unwrap();
    let store = Arc::new(append(directory.path()));
    let records: Vec<Arc<Trajectory>> = (0..6).map(|id| of_length(id, "online", 5).trajectory).collect();
    let stored = store.append(&records, Interrupt::never()).unwrap();
    let buffer = ReplayBuffer::new(BOUNDS, 1, true).unwrap();
    buffer.bind(store.clone(), Some(0));
    buffer.add_stored(&stored[..3], "offline", Interrupt::never()).unwrap();
    let items = stored[3..].iter().zip(&records[3..]).map(|(&id, record)| Item { id, trajectory: record.clone() });
    buffer.add(items.collect(), Some("offline")).unwrap();
    assert_eq!(buffer.available(0), BTreeMap::from([("online".into(), 0), ("offline".into(), 6)]));
    for _ in 0..2 {
        let batch = sample(&buffer, &request(6, &[("offline", 1.0)]));
        assert!(batch.items.iter().all(|(item, _)| item.trajectory.source == "offline"));
        buffer.load_state(&buffer.state(), &store, Interrupt::never()).unwrap();
    }
    assert!(matches!(buffer.add_stored(&[stored[0]], "offline", Interrupt::never()), Err(Error::Invalid(_))));
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn a_shuffle_is_a_permutation_that_differs_from_epoch_to_epoch(seed in any::<u64>(), length in 1usize..3000) {
        let order = |epoch| { let shuffle = Shuffle::new(seed, "pool", epoch, length); (0..length).map(|at| shuffle.at(at)).collect::<Vec<_>>() };
        let (first, second) = (order(0), order(1));
        let mut sorted = first.clone();
        sorted.sort_unstable();
        prop_assert!(sorted.into_iter().eq(0..length));
        prop_assert!(length < 20 || first != second);
    }

    #[test]
    fn a_pool_with_computed_orders_gives_every_record_exactly_once_per_epoch(
        seed in any::<u64>(), size in 1usize..40, draws in proptest::collection::vec(1usize..40, 1..40), reload in any::<bool>(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(append(directory.path()));
        let records: Vec<Arc<Trajectory>> = (0..size as u64).map(|id| of_length(id, "offline", 3).trajectory).collect();
        let stored = store.append(&records, Interrupt::never()).unwrap();
        let mut buffer = ReplayBuffer::new(BOUNDS, seed, true).unwrap();
        buffer.bind(store.clone(), None);
        buffer.add_stored(&stored, "offline", Interrupt::never()).unwrap();
        let mut uses: HashMap<u64, u32> = HashMap::new();
        for count in draws {
            let batch = sample(&buffer, &request(count.min(size), &[("offline", 1.0)]));
            for (item, number) in &batch.items {
                let count = uses.entry(item.id).or_insert(0);
                *count += 1;
                prop_assert_eq!(*count, *number, "uses count epochs");
            }
            prop_assert_eq!(ids(&batch).into_iter().collect::<HashSet<_>>().len(), batch.items.len());
            let (least, most) = stored.iter().fold((u32::MAX, 0), |(least, most), id| {
                let count = uses.get(id).copied().unwrap_or(0);
                (least.min(count), most.max(count))
            });
            prop_assert!(most - least <= 1, "an epoch began before the one before it was over");
            if reload {
                let state = buffer.state();
                buffer = ReplayBuffer::new(BOUNDS, 0, false).unwrap();
                buffer.load_state(&state, &store, Interrupt::never()).unwrap();
                prop_assert_eq!(buffer.state(), state);
            }
        }
    }

    #[test]
    fn shares_in_tokens_hold_to_within_a_trajectory_of_each_source(
        lengths in proptest::collection::vec((2usize..60, 2usize..30, 2usize..10), 40), seed in any::<u64>(),
        cut in 0.1f64..0.8, count in 1usize..9,
    ) {
        let buffer = ReplayBuffer::new(BOUNDS, seed, true).unwrap();
        for (at, &(online, offline, annotated)) in lengths.iter().enumerate() {
            let at = at as u64;
            let items = vec![of_length(at, "online", online), of_length(100 + at, "offline", offline), of_length(200 + at, "annotated", annotated)];
            buffer.add(items, None).unwrap();
        }
        let shares = [("online", cut), ("offline", (1.0 - cut) * 0.75), ("annotated", (1.0 - cut) * 0.25)];
        let request = Request { unit: Unit::Tokens, token_budget: 600, ..request(count, &shares) };
        let mut drawn = [0usize; 3];
        for _ in 0..60 {
            let batch = match buffer.sample(&request, Interrupt::never()) {
                Ok(batch) => batch,
                // A batch may ask for more than the 40 short ones that there are.
                Err(Error::NotEnough { .. }) => break,
                Err(error) => return Err(TestCaseError::fail(error.to_string())),
            };
            prop_assert_eq!(batch.items.len(), count);
            for (at, (source, _)) in shares.iter().enumerate() {
                drawn[at] += tokens_of(&batch, source);
            }
            let total: usize = drawn.iter().sum();
            for (at, (_, share)) in shares.iter().enumerate() {
                let off = (drawn[at] as f64 - share * total as f64).abs();
                prop_assert!(off <= 2.0 * 60.0, "{drawn:?} for {shares:?}");
            }
        }
    }

    #[test]
    fn a_bound_on_memory_is_kept_and_changes_no_batch(seed in any::<u64>(), bound in 0usize..6000, draws in 1usize..20) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(append(directory.path()));
        let records: Vec<Arc<Trajectory>> = (0..30).map(|id| {
            let source = if id % 2 == 0 { "online" } else { "offline" };
            of_length(id, source, 3 + id as usize).trajectory
        }).collect();
        let stored = store.append(&records, Interrupt::never()).unwrap();
        let items: Vec<Item> = stored.iter().zip(&records).map(|(&id, record)| Item { id, trajectory: record.clone() }).collect();
        let buffers = [None, Some(bound)].map(|bound| {
            let buffer = ReplayBuffer::new(Bounds { order: Order::Uniform, max_uses: 3, ..BOUNDS }, seed, false).unwrap();
            buffer.bind(store.clone(), bound);
            buffer.add(items.clone(), None).unwrap();
            buffer
        });
        let request = request(4, &[("online", 0.5), ("offline", 0.5)]);
        for _ in 0..draws {
            let [first, second] = &buffers.each_ref().map(|buffer| buffer.sample(&request, Interrupt::never()));
            prop_assert_eq!(first.as_ref().ok(), second.as_ref().ok());
            prop_assert!(buffers[1].memory_bytes() <= bound);
        }
        prop_assert_eq!(buffers[0].state(), buffers[1].state());
    }
}
