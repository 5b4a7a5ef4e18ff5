//! The replay buffer under random additions and samplings: bounds, packing, saving and loading.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use common::{append, check_packing, request, trajectory};
use proptest::prelude::*;
use spo_core::replay::batch::Batch;
use spo_core::replay::mix::Unit;
use spo_core::replay::window::Bounds;
use spo_core::replay::{Item, Order, ReplayBuffer, Request};
use spo_core::trajectory::Trajectory;
use spo_core::{Error, Interrupt};

/// What a program may do with a buffer.
#[derive(Debug, Clone)]
enum Step {
    Add(u64, bool),
    Sample(usize, usize, u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let add = (1u64..6, any::<bool>()).prop_map(|(count, online)| Step::Add(count, online));
    let sample =
        (0usize..5, 0usize..5, 0u64..4).prop_map(|(online, offline, ahead)| Step::Sample(online, offline, ahead));
    proptest::collection::vec(prop_oneof![add, sample], 1..60)
}

fn orders() -> impl Strategy<Value = Order> {
    prop_oneof![
        Just(Order::Oldest),
        Just(Order::Uniform),
        Just(Order::Recent { half_life: 2.0 }),
        Just(Order::Priority { exponent: 0.6 }),
    ]
}

fn units() -> impl Strategy<Value = Unit> {
    prop_oneof![Just(Unit::Trajectories), Just(Unit::Tokens)]
}

struct Run {
    next_id: u64,
    version: u64,
    unit: Unit,
}

/// Does a step; the drawn ids and uses, or what was short.
fn take(
    step: &Step,
    run: &mut Run,
    buffer: &ReplayBuffer,
    store: &spo_core::store::Store,
) -> Option<Result<Batch, Error>> {
    match *step {
        Step::Add(count, online) => {
            let records: Vec<Arc<Trajectory>> = (0..count)
                .map(|at| {
                    let source = if online { "online" } else { "offline" };
                    let record = Trajectory {
                        source: source.into(),
                        min_policy_version: run.version,
                        max_policy_version: run.version,
                        ..trajectory(run.next_id + at)
                    };
                    Arc::new(record)
                })
                .collect();
            let ids = store.append(&records, Interrupt::never()).unwrap();
            run.next_id += count;
            let items = records.into_iter().zip(ids).map(|(trajectory, id)| Item { id, trajectory }).collect();
            buffer.add(items, None).unwrap();
            None
        }
        Step::Sample(online, offline, ahead) => {
            let count = online + offline;
            if count == 0 {
                return None;
            }
            run.version += ahead;
            let share = |part: usize| part as f64 / count as f64;
            let mix = [("online", share(online)), ("offline", share(offline))];
            let request =
                Request { policy_version: run.version, row_multiple: 2, unit: run.unit, ..request(count, &mix) };
            let drawn = buffer.sample(&request, Interrupt::never());
            if let Ok(batch) = &drawn {
                check_packing(batch, &request);
            }
            Some(drawn)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    #[test]
    fn uses_and_staleness_stay_in_bounds_whatever_happens(
        steps in steps(), seed in any::<u64>(), order in orders(), max_uses in 1u32..4, max_staleness in 0u64..6,
        unit in units(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(append(directory.path()));
        let buffer = ReplayBuffer::new(Bounds { capacity: 8, max_uses, max_staleness, order }, seed, false).unwrap();
        let mut run = Run { next_id: 0, version: 0, unit };
        let mut uses: BTreeMap<u64, u32> = BTreeMap::new();
        for step in &steps {
            let Some(Ok(batch)) = take(step, &mut run, &buffer, &store) else { continue };
            for (item, _) in batch.items.iter().filter(|(item, _)| item.trajectory.source == "online") {
                *uses.entry(item.id).or_insert(0) += 1;
                prop_assert!(run.version - item.trajectory.min_policy_version <= max_staleness);
            }
            prop_assert!(uses.values().all(|&count| count <= max_uses));
        }
    }

    #[test]
    fn a_buffer_loaded_from_its_state_goes_on_as_the_one_that_was_saved(
        before in steps(), after in steps(), seed in any::<u64>(), order in orders(), computed in any::<bool>(),
        unit in units(),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(append(directory.path()));
        let bounds = Bounds { capacity: 10, max_uses: 3, max_staleness: 6, order };
        let new = |seed| ReplayBuffer::new(bounds, seed, computed).unwrap();
        let (first, second) = (new(seed), new(0));
        let mut run = Run { next_id: 0, version: 0, unit };
        for step in &before {
            take(step, &mut run, &first, &store);
        }
        second.load_state(&first.state(), &store, Interrupt::never()).unwrap();
        prop_assert_eq!(second.state(), first.state());
        let mut other = Run { ..run };
        // Ids differ between the two continuations, so both get the same items.
        for step in &after {
            let version = run.version;
            if let Step::Add(count, online) = *step {
                let source = if online { "online" } else { "offline" };
                let new: Vec<Item> = (0..count).map(|at| {
                    let record = Trajectory { source: source.into(), min_policy_version: version, max_policy_version: version, ..trajectory(at) };
                    Item { id: (1 << 40) + run.next_id + at, trajectory: Arc::new(record) }
                }).collect();
                first.add(new.clone(), None).unwrap();
                second.add(new, None).unwrap();
                run.next_id += count;
                continue;
            }
            match (take(step, &mut run, &first, &store), take(step, &mut other, &second, &store)) {
                (Some(Ok(one)), Some(Ok(two))) => prop_assert_eq!(one, two),
                (one, two) => prop_assert_eq!(one.map(|outcome| outcome.is_ok()), two.map(|outcome| outcome.is_ok())),
            }
        }
        prop_assert_eq!(second.state(), first.state());
    }
}
