//! Fetching a version as patches to one that is held: less on the wire, the same weights, and the whole where it does not fit.

mod weights_support;

use std::time::Duration;

use spo_core::weights::{DType, Snapshot, TensorData, WeightPublisher, WeightShard, WeightSubscriber};
use spo_core::{Interrupt, Result};
use weights_support::{Fault, Proxy, TOKEN, content, publisher};

const MATRIX: usize = 600_000;
const BIAS: usize = 1001;

/// Bytes of a bfloat16 matrix and a float32 bias at a version: a few elements differ from the version before.
fn state(seed: u64, version: u64) -> [Vec<u8>; 2] {
    let mut state = [content(seed, MATRIX * 2), content(seed + 1, BIAS * 4)];
    for step in 0..version {
        for change in 0..50 {
            let place = (step * 7919 + change * 104_729) as usize;
            state[0][place % MATRIX * 2] ^= 1;
            state[1][place % BIAS * 4] ^= 2;
        }
    }
    state
}

/// Publishes a version on two ranks; the second holds nothing of the bias.
fn publish_on(publishers: &[WeightPublisher; 2], version: u64, [matrix, bias]: &[Vec<u8>; 2]) {
    let shard = |name: &str, dtype, elements, offset, data| WeightShard {
        name: name.into(),
        dtype,
        shape: vec![elements as u64],
        offset,
        data,
    };
    let cut = 250_001;
    let (first, second) = matrix.split_at(cut * 2);
    for (publisher, matrix, offset, bias) in [(0, first, 0, &bias[..]), (1, second, cut as u64, &[])] {
        let bias_offset = if publisher == 0 { 0 } else { BIAS as u64 };
        let shards = [
            shard("matrix", DType::BFloat16, MATRIX, offset, matrix),
            shard("bias", DType::Float32, BIAS, bias_offset, bias),
        ];
        publishers[publisher].publish(version, &shards, Interrupt::never()).unwrap();
    }
}

fn pair(keep: usize) -> [WeightPublisher; 2] {
    [publisher(0, 2, keep), publisher(1, 2, keep)]
}

fn proxies(publishers: &[WeightPublisher; 2], faults: &[Fault]) -> [Proxy; 2] {
    publishers.each_ref().map(|publisher| Proxy::new(publisher.address(), faults))
}

fn fetch(proxies: &[Proxy; 2], version: u64, base: Option<&Snapshot>) -> Result<Snapshot> {
    let addresses = proxies.iter().map(|proxy| proxy.address.to_string()).collect();
    let subscriber = WeightSubscriber::new(addresses, TOKEN.into(), Duration::from_secs(30))?;
    let base = base.map(Snapshot::as_base);
    subscriber.fetch(version, base.as_ref(), None, Interrupt::never())
}

fn is_state(snapshot: &Snapshot, state: &[Vec<u8>; 2]) -> bool {
    snapshot.tensors.iter().zip(state).all(|(tensor, bytes)| tensor.data.as_bytes() == bytes)
}

fn bytes_passed(proxies: &[Proxy; 2]) -> usize {
    proxies.iter().map(Proxy::bytes_down).sum()
}

#[test]
fn a_chain_of_versions_arrives_as_patches_and_equals_what_was_published() {
    let publishers = pair(2);
    publish_on(&publishers, 0, &state(1, 0));
    let mut held = fetch(&proxies(&publishers, &[Fault::None]), 0, None).unwrap();
    for version in 1..6 {
        publish_on(&publishers, version, &state(1, version));
        let proxies = proxies(&publishers, &[Fault::None]);
        held = fetch(&proxies, version, Some(&held)).unwrap();
        assert!(is_state(&held, &state(1, version)), "version {version}");
        assert!(bytes_passed(&proxies) < 5000, "{} bytes for 100 changes", bytes_passed(&proxies));
    }
}

#[test]
fn sixteen_subscribers_get_the_same_patches() {
    let publishers = pair(2);
    publish_on(&publishers, 0, &state(2, 0));
    let held = fetch(&proxies(&publishers, &[Fault::None]), 0, None).unwrap();
    publish_on(&publishers, 1, &state(2, 1));
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let fetched = fetch(&proxies(&publishers, &[Fault::None]), 1, Some(&held)).unwrap();
                assert!(is_state(&fetched, &state(2, 1)));
            });
        }
    });
}

#[test]
fn a_base_that_is_not_kept_or_not_what_was_published_brings_the_whole_version() {
    let publishers = pair(2);
    for version in 0..3 {
        publish_on(&publishers, version, &state(3, version));
    }
    let newest = fetch(&proxies(&publishers, &[Fault::None]), 2, None).unwrap();
    let mut cases = vec![];
    let with = |version, change: &dyn Fn(&mut Snapshot)| {
        let mut base = newest.clone();
        base.version = version;
        change(&mut base);
        base
    };
    cases.push(("gone", with(0, &|_| {})));
    cases.push(("never published", with(77, &|_| {})));
    cases.push(("another state", with(1, &|_| {})));
    cases.push(("a tensor missing", with(2, &|base| drop(base.tensors.remove(0)))));
    cases.push(("a tensor too short", with(2, &|base| base.tensors[1].data = TensorData::Float32(vec![0.0; 3]))));
    for (name, base) in cases {
        let proxies = proxies(&publishers, &[Fault::None]);
        let fetched = fetch(&proxies, 2, Some(&base)).unwrap();
        assert!(is_state(&fetched, &state(3, 2)), "{name}");
        assert!(bytes_passed(&proxies) > MATRIX * 2 / 3, "{name}");
    }
}

#[test]
fn patches_that_are_cut_or_damaged_anywhere_are_made_up_for_by_the_whole_version() {
    let publishers = pair(2);
    publish_on(&publishers, 0, &state(4, 0));
    let held = fetch(&proxies(&publishers, &[Fault::None]), 0, None).unwrap();
    publish_on(&publishers, 1, &state(4, 1));
    let fine = proxies(&publishers, &[Fault::None]);
    fetch(&fine, 1, Some(&held)).unwrap();
    let length = fine.iter().map(Proxy::bytes_down).min().unwrap();
    for at in (73..length).step_by(23) {
        for fault in [Fault::CutDown(at), Fault::Flip(at)] {
            let fetched = fetch(&proxies(&publishers, &[fault, Fault::None]), 1, Some(&held));
            let fetched = fetched.unwrap_or_else(|error| panic!("{fault:?}: {error}"));
            assert!(is_state(&fetched, &state(4, 1)), "{fault:?}");
        }
    }
    assert!(is_state(&held, &state(4, 0)), "the base was changed");
}

#[test]
fn who_is_several_versions_behind_takes_the_patches_that_were_made_for_others() {
    let publishers = pair(2);
    publish_on(&publishers, 0, &state(6, 0));
    let first = fetch(&proxies(&publishers, &[Fault::None]), 0, None).unwrap();
    let mut held = first.clone();
    for version in 1..6 {
        publish_on(&publishers, version, &state(6, version));
        held = fetch(&proxies(&publishers, &[Fault::None]), version, Some(&held)).unwrap();
    }
    assert_eq!(publishers[0].versions(), [4, 5]);
    let fine = proxies(&publishers, &[Fault::None]);
    assert!(is_state(&fetch(&fine, 5, Some(&first)).unwrap(), &state(6, 5)));
    let passed = bytes_passed(&fine);
    assert!(passed < 20_000, "{passed} bytes for five steps");
    // A cut goes on with the patches too: with two halves on two connections no more passes than at once, but handshakes.
    let cut = proxies(&publishers, &[Fault::CutDown(passed / 4), Fault::None]);
    assert!(is_state(&fetch(&cut, 5, Some(&first)).unwrap(), &state(6, 5)));
    assert!(bytes_passed(&cut) < passed + 2000, "{} instead of {passed} bytes", bytes_passed(&cut));
    let mut wrong = first.clone();
    wrong.tensors[0].data = TensorData::BFloat16(vec![7; MATRIX]);
    assert!(is_state(&fetch(&proxies(&publishers, &[Fault::None]), 5, Some(&wrong)).unwrap(), &state(6, 5)));
}

#[test]
fn a_way_that_is_longer_than_the_whole_is_not_taken() {
    let publishers = pair(1);
    publish_on(&publishers, 0, &state(7, 0));
    let first = fetch(&proxies(&publishers, &[Fault::None]), 0, None).unwrap();
    for version in 1..4 {
        publish_on(&publishers, version, &state(10 * version, version));
        let base = fetch(&proxies(&publishers, &[Fault::None]), version, Some(&first)).unwrap();
        assert!(is_state(&base, &state(10 * version, version)));
    }
}

#[test]
fn a_publisher_with_other_weights_under_a_known_number_is_noticed() {
    let before = pair(2);
    publish_on(&before, 3, &state(8, 3));
    let held = fetch(&proxies(&before, &[Fault::None]), 3, None).unwrap();
    let after = pair(2);
    publish_on(&after, 3, &state(9, 3));
    publish_on(&after, 4, &state(9, 4));
    for version in [3, 4] {
        let fetched = fetch(&proxies(&after, &[Fault::None]), version, Some(&held)).unwrap();
        assert!(is_state(&fetched, &state(9, version)), "version {version}");
    }
}
