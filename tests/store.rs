//! The store as its callers see it: appending, reading, several openers, failing disks.

mod common;

use std::fs::{self, File};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{append, options, trajectory, with_long_prompt};
use spo_core::store::{Filter, Mode, Options, Store};
use spo_core::trajectory::columns::Precision;
use spo_core::trajectory::record::Columns;
use spo_core::trajectory::{Late, Trajectory};
use spo_core::{Error, Interrupt};

const GO_ON: fn() -> Interrupt<'static> = Interrupt::never;

#[test]
fn what_was_appended_is_read_back_also_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let written: Vec<Trajectory> = (0..20).map(trajectory).collect();
    let store = append(directory.path());
    let ids = store.append(&written, GO_ON()).unwrap();
    assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), written);
    store.commit().unwrap();
    drop(store);
    for mode in [Mode::Read, Mode::Append] {
        let store = Store::open(directory.path(), options(mode), GO_ON()).unwrap();
        assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), written);
        assert_eq!(store.scan(&Filter::default(), GO_ON()).unwrap(), ids);
        assert!(store.torn_tails().is_empty());
    }
}

#[test]
fn a_full_segment_is_sealed_and_nothing_is_lost_by_it() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 1000, ..options(Mode::Append) };
    let store = Store::open(directory.path(), small.clone(), GO_ON()).unwrap();
    let mut ids = Vec::new();
    for at in 0..60 {
        ids.extend(store.append(&[trajectory(at)], GO_ON()).unwrap());
    }
    let info = store.info(GO_ON()).unwrap();
    assert!(info.sealed_segments > 3 && info.segments == info.sealed_segments + 1, "{info:?}");
    drop(store);
    let store = Store::open(directory.path(), small, GO_ON()).unwrap();
    assert_eq!(store.scan(&Filter::default(), GO_ON()).unwrap(), ids);
    let expected: Vec<Trajectory> = (0..60).map(trajectory).collect();
    assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), expected);
    assert_eq!(store.info(GO_ON()).unwrap(), info);
}

#[test]
fn a_prompt_that_records_share_is_stored_once_a_segment() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 6000, ..options(Mode::Append) };
    let (mut ids, mut written) = (Vec::new(), Vec::new());
    for round in 0..8 {
        // Another writer each time: what it does not know of the segment may cost bytes, never records.
        let store = Store::open(directory.path(), small.clone(), GO_ON()).unwrap();
        for at in 0..3 {
            let records = [with_long_prompt(6 * round + 2 * at), with_long_prompt(6 * round + 2 * at + 1)];
            ids.extend(store.append(&records, GO_ON()).unwrap());
            written.extend(records);
        }
        assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), written);
    }
    let store = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), written);
    let info = store.info(GO_ON()).unwrap();
    assert!(info.sealed_segments > 0 && info.records == 48, "{info:?}");
    assert!(info.bytes < 48 * 200, "{info:?}");
    let no_prompts = Columns { prompt: false, ..Columns::ALL };
    let without = store.read_many(&ids[..1], no_prompts, GO_ON()).unwrap();
    assert_eq!(without, [Trajectory { prompt_tokens: Vec::new(), ..written[0].clone() }]);
}

#[test]
fn several_writers_have_segments_of_their_own_and_see_one_another() {
    let directory = tempfile::tempdir().unwrap();
    let (left, right) = (append(directory.path()), append(directory.path()));
    let reader = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    let from_left = left.append(&[trajectory(1)], GO_ON()).unwrap();
    let from_right = right.append(&[trajectory(2)], GO_ON()).unwrap();
    assert_ne!(from_left, from_right);
    for store in [&left, &right, &reader] {
        assert_eq!(store.len(GO_ON()).unwrap(), 2);
        let both = [from_left[0], from_right[0]];
        assert_eq!(store.read_many(&both, Columns::ALL, GO_ON()).unwrap(), [trajectory(1), trajectory(2)]);
    }
}

#[test]
fn a_reader_follows_a_writer_through_the_sealing_of_segments() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 1500, ..options(Mode::Append) };
    let writer = Store::open(directory.path(), small, GO_ON()).unwrap();
    let reader = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    for at in 0..40 {
        let ids = writer.append(&[trajectory(at)], GO_ON()).unwrap();
        assert_eq!(reader.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), [trajectory(at)]);
        assert_eq!(reader.len(GO_ON()).unwrap(), at as usize + 1);
    }
}

#[test]
fn threads_may_append_commit_and_read_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 4000, ..options(Mode::Append) };
    let store = Store::open(directory.path(), small, GO_ON()).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let store = &store;
            scope.spawn(move || {
                for at in 0..25 {
                    let written = trajectory(thread * 100 + at);
                    let ids = store.append(std::slice::from_ref(&written), GO_ON()).unwrap();
                    store.commit().unwrap();
                    assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), [written]);
                    store.refresh(GO_ON()).unwrap();
                }
            });
        }
    });
    let ids = store.scan(&Filter::default(), GO_ON()).unwrap();
    let mut seeds: Vec<u64> =
        store.read_many(&ids, Columns::ALL, GO_ON()).unwrap().iter().map(|record| record.seed).collect();
    seeds.sort_unstable();
    let expected: Vec<u64> = (0..4).flat_map(|thread| (0..25).map(move |at| thread * 100 + at)).collect();
    assert_eq!(seeds, expected);
}

#[test]
fn a_scan_filters_by_every_key() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let written: Vec<Trajectory> = (0..12).map(trajectory).collect();
    let ids = store.append(&written, GO_ON()).unwrap();
    let expect = |filter: Filter, keep: fn(&Trajectory) -> bool| {
        let wanted: Vec<u64> = ids.iter().zip(&written).filter(|(_, t)| keep(t)).map(|(&id, _)| id).collect();
        assert_eq!(store.scan(&filter, GO_ON()).unwrap(), wanted, "{filter:?}");
    };
    expect(Filter { source: Some("online".into()), ..Default::default() }, |t| t.source == "online");
    expect(Filter { problem: Some("problem-1".into()), ..Default::default() }, |t| t.problem_id == "problem-1");
    expect(Filter { reward: Some(-1.0), ..Default::default() }, |t| t.reward == -1.0);
    expect(Filter { source: Some("never heard of".into()), ..Default::default() }, |_| false);
    expect(Filter { since_us: Some(u64::MAX), ..Default::default() }, |_| false);
    expect(Filter { since_us: Some(1), ..Default::default() }, |_| true);
}

#[test]
fn another_tokenizer_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(append(directory.path()));
    for mode in [Mode::Append, Mode::Read] {
        let error = Store::open(directory.path(), Options::new(mode, Some("other")), GO_ON()).err().unwrap();
        assert!(matches!(&error, Error::Store(text) if text.contains("\"other\"")), "{error}");
    }
    assert!(Store::open(directory.path(), Options::new(Mode::Append, None), GO_ON()).is_ok());
}

#[test]
fn a_segment_of_another_store_is_refused() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    drop(append(one.path()));
    drop(append(two.path()));
    let name = "segment-00000001.live";
    fs::copy(one.path().join(name), two.path().join(name)).unwrap();
    let error = Store::open(two.path(), options(Mode::Read), GO_ON()).err().unwrap();
    assert!(matches!(&error, Error::Store(text) if text.contains("another store")), "{error}");
}

#[test]
fn a_store_is_only_made_for_a_writer_with_a_tokenizer() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("not/yet");
    let missing = Store::open(&path, options(Mode::Read), GO_ON()).err().unwrap();
    assert!(matches!(&missing, Error::Io { source, .. } if source.kind() == io::ErrorKind::NotFound), "{missing}");
    let nameless = Store::open(&path, Options::new(Mode::Append, None), GO_ON()).err().unwrap();
    assert!(matches!(&nameless, Error::Invalid(text) if text.starts_with("tokenizer")), "{nameless}");
    assert!(!path.exists());
    assert!(Store::open(&path, options(Mode::Append), GO_ON()).is_ok());
}

#[test]
fn a_reader_appends_nothing() {
    let directory = tempfile::tempdir().unwrap();
    drop(append(directory.path()));
    let store = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    assert!(matches!(store.append(&[trajectory(0)], GO_ON()), Err(Error::Store(_))));
    assert!(matches!(store.commit(), Err(Error::Store(_))));
}

#[test]
fn an_invalid_trajectory_keeps_the_whole_append_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let invalid = Trajectory { reward: f64::NAN, ..trajectory(1) };
    assert!(matches!(store.append(&[trajectory(0), invalid], GO_ON()), Err(Error::Invalid(_))));
    assert_eq!(store.len(GO_ON()).unwrap(), 0);
}

#[test]
fn unknown_ids_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    for id in [0, 7, 1 << 28, u64::MAX] {
        let error = store.read_many(&[id], Columns::ALL, GO_ON()).unwrap_err();
        assert!(matches!(&error, Error::Store(text) if text.contains(&id.to_string())), "{error}");
    }
}

#[test]
fn after_a_failed_sync_the_store_refuses_to_go_on_and_reopening_helps() {
    let directory = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let asked = broken.clone();
    let sync = move |file: &File| match asked.load(Ordering::SeqCst) {
        true => Err(io::Error::from_raw_os_error(5)),
        false => file.sync_data(),
    };
    let options = Options { sync: Arc::new(sync), ..options(Mode::Append) };
    let store = Store::open(directory.path(), options, GO_ON()).unwrap();
    let ids = store.append(&[trajectory(0)], GO_ON()).unwrap();
    store.commit().unwrap();
    store.append(&[trajectory(1)], GO_ON()).unwrap();
    broken.store(true, Ordering::SeqCst);
    assert!(matches!(store.commit(), Err(Error::Io { .. })));
    broken.store(false, Ordering::SeqCst);
    assert!(matches!(store.commit(), Err(Error::Store(_))), "a later sync that works proves nothing");
    assert!(matches!(store.append(&[trajectory(2)], GO_ON()), Err(Error::Store(_))));
    let late = Late { reward: Some(0.5), ..Late::default() };
    assert!(matches!(store.annotate(&ids, &[late], GO_ON()), Err(Error::Store(_))));
    assert!(matches!(store.delete(&ids, GO_ON()), Err(Error::Store(_))));
    assert!(matches!(store.compact(&mut |_, _| {}, GO_ON()), Err(Error::Store(_))));
    assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), [trajectory(0)]);
    drop(store);
    let store = append(directory.path());
    assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), [trajectory(0)]);
    store.append(&[trajectory(2)], GO_ON()).unwrap();
}

#[test]
fn a_failed_sync_while_sealing_loses_nothing_that_was_committed() {
    let directory = tempfile::tempdir().unwrap();
    let broken = Arc::new(AtomicBool::new(false));
    let asked = broken.clone();
    let sync = move |file: &File| match asked.load(Ordering::SeqCst) {
        true => Err(io::Error::from_raw_os_error(28)),
        false => file.sync_data(),
    };
    let options = Options { sync: Arc::new(sync), segment_bytes: 300, ..options(Mode::Append) };
    let store = Store::open(directory.path(), options, GO_ON()).unwrap();
    let ids = store.append(&[trajectory(3), trajectory(4)], GO_ON()).unwrap();
    store.commit().unwrap();
    broken.store(true, Ordering::SeqCst);
    assert!(matches!(store.append(&[trajectory(5)], GO_ON()), Err(Error::Io { .. })), "the append must seal first");
    assert!(matches!(store.append(&[trajectory(5)], GO_ON()), Err(Error::Store(_))));
    drop(store);
    for mode in [Mode::Read, Mode::Append] {
        let store = Store::open(directory.path(), common::options(mode), GO_ON()).unwrap();
        assert_eq!(store.scan(&Filter::default(), GO_ON()).unwrap(), ids);
        assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), [trajectory(3), trajectory(4)]);
    }
}

#[test]
fn tokens_by_rank_and_halved_logprobs_are_read_back_through_segments_and_compaction() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 1 << 16, precision: Precision::Half, ..options(Mode::Append) };
    let store = Store::open(directory.path(), small, GO_ON()).unwrap();
    let long = |number: u64| Trajectory {
        response_tokens: (0..3000).map(|at| 40_000 + (at * at + number as i32) % 500).collect(),
        behavior_logprobs: Some((0..3000).map(|at| -((at % 1000) as f32) / 8.0).collect()),
        ..with_long_prompt(number)
    };
    let written: Vec<Trajectory> = (0..60).map(long).collect();
    let ids: Vec<u64> = written.chunks(6).flat_map(|part| store.append(part, GO_ON()).unwrap()).collect();
    assert!(store.info(GO_ON()).unwrap().sealed_segments > 1);
    assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), written, "eighths need only a few digits");
    store.delete(&ids[..50], GO_ON()).unwrap();
    store.compact(&mut |_, _| {}, GO_ON()).unwrap();
    for store in [store, append(directory.path())] {
        assert_eq!(store.read_many(&ids[50..], Columns::ALL, GO_ON()).unwrap(), written[50..]);
    }
}

#[test]
fn an_interrupt_ends_an_append_that_has_not_begun_to_write() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let stop = || true;
    assert!(matches!(store.append(&[trajectory(0)], Interrupt::new(&stop)), Err(Error::Interrupted)));
    assert_eq!(store.len(GO_ON()).unwrap(), 0);
}
