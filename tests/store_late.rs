//! Late columns and deletions: the newest counts, for every reader, whatever the order of segments.

mod common;

use common::{append, options, trajectory};
use spo_core::store::{Filter, Mode, Options, Store};
use spo_core::trajectory::record::{Columns, Present};
use spo_core::trajectory::{Late, MonteCarlo, Trajectory};
use spo_core::{Error, Interrupt};

const GO_ON: fn() -> Interrupt<'static> = Interrupt::never;

fn logprobs(record: &Trajectory, value: f32) -> Late {
    Late { reference_logprobs: Some(vec![value; record.response_tokens.len()]), ..Late::default() }
}

fn counts() -> MonteCarlo {
    MonteCarlo { positions: vec![0, 1], successes: vec![3, 0], trials: vec![4, 4] }
}

fn scan(store: &Store, has: Present, lacks: Present) -> Vec<u64> {
    store.scan(&Filter { has, lacks, ..Filter::default() }, GO_ON()).unwrap()
}

#[test]
fn late_columns_are_read_with_the_record_also_after_reopening_and_sealing() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 600, ..options(Mode::Append) };
    let store = Store::open(directory.path(), small, GO_ON()).unwrap();
    let mut records: Vec<Trajectory> = (1..5).map(trajectory).collect();
    let ids = store.append(&records, GO_ON()).unwrap();
    let late = [
        logprobs(&records[0], -0.5),
        Late { mc_successes: Some(counts()), reward: Some(0.25), ..Late::default() },
        Late::default(),
    ];
    store.annotate(&ids[..3], &late, GO_ON()).unwrap();
    for (record, late) in records.iter_mut().zip(late) {
        late.apply(record);
    }
    assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), records);
    // The next appends seal the segment that has both, then the records are in one segment and the columns in another.
    records[3].reference_logprobs = Some(vec![-2.0; records[3].response_tokens.len()]);
    for _ in 0..9 {
        store.append(&[trajectory(9)], GO_ON()).unwrap();
        store.annotate(&ids[3..], &[logprobs(&records[3], -2.0)], GO_ON()).unwrap();
        assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), records);
    }
    assert!(store.info(GO_ON()).unwrap().sealed_segments > 1);
    drop(store);
    for mode in [Mode::Read, Mode::Append] {
        let store = Store::open(directory.path(), options(mode), GO_ON()).unwrap();
        assert_eq!(store.read_many(&ids, Columns::ALL, GO_ON()).unwrap(), records);
        assert_eq!(scan(&store, Present::REFERENCE, Present::default()), [ids[0], ids[3]]);
        assert_eq!(scan(&store, Present::MONTE_CARLO, Present::default()), [ids[1]]);
        assert_eq!(scan(&store, Present::MONTE_CARLO, Present::REFERENCE), [ids[1]]);
        let revised = Filter { reward: Some(0.25), ..Filter::default() };
        assert_eq!(store.scan(&revised, GO_ON()).unwrap(), [ids[1]]);
    }
}

#[test]
fn only_the_columns_that_are_asked_for_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let record = trajectory(4);
    let ids = store.append(std::slice::from_ref(&record), GO_ON()).unwrap();
    let late = Late { mc_successes: Some(counts()), reward: Some(-0.5), ..logprobs(&record, -1.0) };
    store.annotate(&ids, &[late], GO_ON()).unwrap();
    let read = |columns| store.read_many(&ids, columns, GO_ON()).unwrap().remove(0);
    let scalars = read(Columns::SCALARS);
    assert_eq!((scalars.reference_logprobs, scalars.mc_successes, scalars.reward), (None, None, -0.5));
    let reference = read(Columns { reference: true, ..Columns::SCALARS });
    assert_eq!((reference.reference_logprobs.unwrap().len(), reference.mc_successes), (4, None));
    let both = read(Columns { reference: true, monte_carlo: true, ..Columns::SCALARS });
    assert_eq!(both.mc_successes, Some(counts()));
}

#[test]
fn the_newest_of_a_column_counts_whoever_wrote_it_and_others_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (left, right) = (append(directory.path()), append(directory.path()));
    let record = Trajectory { reference_logprobs: Some(vec![-9.0; 3]), ..trajectory(3) };
    let ids = right.append(std::slice::from_ref(&record), GO_ON()).unwrap();
    right.annotate(&ids, &[Late { mc_successes: Some(counts()), ..logprobs(&record, -1.0) }], GO_ON()).unwrap();
    let reader = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    for turn in 0..60 {
        let value = -2.0 - turn as f32;
        [&left, &right][turn % 2].annotate(&ids, &[logprobs(&record, value)], GO_ON()).unwrap();
        reader.refresh(GO_ON()).unwrap();
        let read = reader.read_many(&ids, Columns::ALL, GO_ON()).unwrap().remove(0);
        assert_eq!(read.reference_logprobs, Some(vec![value; 3]));
        assert_eq!(read.mc_successes, Some(counts()));
    }
    drop((left, right));
    let read = append(directory.path()).read_many(&ids, Columns::ALL, GO_ON()).unwrap().remove(0);
    assert_eq!(read.reference_logprobs, Some(vec![-61.0; 3]));
}

#[test]
fn another_readers_view_of_late_columns_is_never_older_than_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let ids = store.append(&[trajectory(3)], GO_ON()).unwrap();
    let reader = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    reader.read_many(&ids, Columns::ALL, GO_ON()).unwrap();
    store.annotate(&ids, &[logprobs(&trajectory(3), -1.0)], GO_ON()).unwrap();
    let start = std::time::Instant::now();
    // No scan and no refresh: records that it knows are enough.
    while reader.read_many(&ids, Columns::ALL, GO_ON()).unwrap()[0].reference_logprobs.is_none() {
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

#[test]
fn deleted_records_are_gone_for_every_reader() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let reader = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    let ids = store.append(&(0..4).map(trajectory).collect::<Vec<_>>(), GO_ON()).unwrap();
    store.annotate(&ids[..1], &[Late { reward: Some(0.5), ..Late::default() }], GO_ON()).unwrap();
    store.delete(&ids[..2], GO_ON()).unwrap();
    let reopened = append(directory.path());
    for store in [&store, &reader, &reopened] {
        assert_eq!(store.scan(&Filter::default(), GO_ON()).unwrap(), ids[2..]);
        assert_eq!(store.len(GO_ON()).unwrap(), 2);
        assert_eq!(store.info(GO_ON()).unwrap().records, 2);
        let error = store.read_many(&ids, Columns::ALL, GO_ON()).unwrap_err();
        assert!(matches!(&error, Error::Store(text) if text.contains(&ids[0].to_string())), "{error}");
    }
    let more = store.append(&[trajectory(0)], GO_ON()).unwrap();
    assert!(!ids.contains(&more[0]), "an id is never given again");
}

#[test]
fn wrong_late_columns_keep_the_whole_call_out() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let ids = store.append(&[trajectory(3), trajectory(4)], GO_ON()).unwrap();
    let good = logprobs(&trajectory(3), -1.0);
    let complaint = |ids: &[u64], late: &[Late]| store.annotate(ids, late, GO_ON()).unwrap_err().to_string();
    assert!(complaint(&ids, &[good.clone(), good.clone()]).contains("reference_logprobs has 3 values for 4"));
    assert!(complaint(&ids, std::slice::from_ref(&good)).contains("2 ids"));
    assert!(complaint(&[ids[0], ids[0]], &[good.clone(), good.clone()]).contains("twice"));
    assert!(complaint(&[ids[0], 5], &[good.clone(), good.clone()]).contains("no record 5"));
    let infinite = Late { reward: Some(f64::INFINITY), ..Late::default() };
    assert!(complaint(&ids, &[good.clone(), infinite]).contains("reward must be finite"));
    store.delete(&ids[..1], GO_ON()).unwrap();
    assert!(complaint(&ids[..1], &[good]).contains("no record"));
    assert!(scan(&store, Present::REFERENCE, Present::default()).is_empty());
    let reader = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    assert!(matches!(reader.delete(&ids[1..], GO_ON()), Err(Error::Store(_))));
}
