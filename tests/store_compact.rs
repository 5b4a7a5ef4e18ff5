//! Compaction: what goes, what stays, and what a reader that is open meanwhile sees.

mod common;

use std::fs;

use common::{append, options, trajectory, with_long_prompt};
use spo_core::store::{Compaction, Filter, Mode, Options, Store};
use spo_core::trajectory::record::Columns;
use spo_core::trajectory::{Late, Trajectory};
use spo_core::{Error, Interrupt};

const GO_ON: fn() -> Interrupt<'static> = Interrupt::never;

fn compact(store: &Store) -> Compaction {
    store.compact(&mut |_, _| {}, GO_ON()).unwrap()
}

fn scan(store: &Store) -> Vec<u64> {
    store.scan(&Filter::default(), GO_ON()).unwrap()
}

fn read(store: &Store, ids: &[u64]) -> Vec<Trajectory> {
    store.read_many(ids, Columns::ALL, GO_ON()).unwrap()
}

#[test]
fn deleted_records_and_superseded_columns_leave_the_disk_and_ids_stay() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 4000, ..options(Mode::Append) };
    let store = Store::open(directory.path(), small, GO_ON()).unwrap();
    let watching = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    let mut records: Vec<Trajectory> = (0..100).map(with_long_prompt).collect();
    let mut ids = Vec::new();
    for part in records.chunks(5) {
        ids.extend(store.append(part, GO_ON()).unwrap());
    }
    for value in [-1.0, -2.0, -3.0] {
        let late = Late { reference_logprobs: Some(vec![value; 6]), ..Late::default() };
        store.annotate(&ids[6..7], std::slice::from_ref(&late), GO_ON()).unwrap();
        late.apply(&mut records[6]);
    }
    let odd = |at: &usize| at % 2 == 1;
    let deleted: Vec<u64> = (0..100).filter(odd).map(|at| ids[at]).collect();
    store.delete(&deleted, GO_ON()).unwrap();
    let (kept, expected): (Vec<u64>, Vec<Trajectory>) =
        (0..100).filter(|at| !odd(at)).map(|at| (ids[at], records[at].clone())).unzip();
    watching.refresh(GO_ON()).unwrap();
    let first = compact(&store);
    assert_eq!((first.records, first.late), (50, 2), "{first:?}");
    assert!(first.bytes_after < first.bytes_before * 3 / 4, "{first:?}");
    let second = compact(&store);
    assert_eq!((second.records, second.late), (0, 50), "tombstones go when their records are gone");
    let third = compact(&store);
    assert_eq!((third.segments, third.bytes_after), (0, third.bytes_before), "nothing is left to do");
    // Of the two prompts that all share, the one of odd numbers is no longer referred to.
    for store in [&store, &watching, &append(directory.path())] {
        assert_eq!(scan(store), kept);
        assert_eq!(read(store, &kept), expected);
    }
    let more = store.append(&records[..1], GO_ON()).unwrap();
    assert!(!ids.contains(&more[0]));
}

#[test]
fn a_reader_goes_on_while_the_store_is_compacted_under_it() {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 3000, ..options(Mode::Append) };
    let store = Store::open(directory.path(), small, GO_ON()).unwrap();
    let records: Vec<Trajectory> = (0..200).map(trajectory).collect();
    let ids: Vec<u64> = records.chunks(4).flat_map(|part| store.append(part, GO_ON()).unwrap()).collect();
    let watching = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            for part in ids[100..].chunks(10) {
                store.delete(part, GO_ON()).unwrap();
                compact(&store);
            }
        });
        while !compacting.is_finished() {
            assert_eq!(read(&watching, &ids[..100]), records[..100]);
            let seen = scan(&watching);
            assert!(seen.len() >= 100 && seen.len().is_multiple_of(10), "{} records", seen.len());
        }
    });
    assert_eq!(scan(&watching), ids[..100]);
}

#[test]
fn segments_of_writers_that_live_and_attached_stores_are_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (directory.path().join("one"), directory.path().join("two"));
    let (store, other) = (append(&one), append(&one));
    let ids = other.append(&[trajectory(0), trajectory(1)], GO_ON()).unwrap();
    store.delete(&ids[..1], GO_ON()).unwrap();
    assert_eq!(compact(&store).records, 0, "its writer lives");
    other.append(&[trajectory(2)], GO_ON()).unwrap();
    let listing = append(&two);
    listing.attach(&one, GO_ON()).unwrap();
    let seen = scan(&listing);
    listing.delete(&seen[..1], GO_ON()).unwrap();
    for _ in 0..2 {
        assert_eq!(compact(&listing).records, 0);
    }
    assert_eq!(scan(&listing), seen[1..], "the tombstone of an attached record stays");
    assert_eq!(store.len(GO_ON()).unwrap(), 2);
    drop(other);
    assert_eq!(compact(&store).records, 1, "its writer is gone");
    assert_eq!(scan(&listing), seen[1..]);
}

#[test]
fn a_damaged_segment_is_not_compacted_and_only_one_process_compacts() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let ids = store.append(&[trajectory(0), trajectory(1)], GO_ON()).unwrap();
    compact(&store);
    store.delete(&ids[..1], GO_ON()).unwrap();
    let file = directory.path().join("segment-00000001.spo");
    let whole = fs::read(&file).unwrap();
    let mut bytes = whole.clone();
    let at = bytes.windows(8).rposition(|window| window == b"accepted").unwrap();
    bytes[at] ^= 1;
    // The same file: what a disk does, not what an editor does.
    fs::write(&file, &bytes).unwrap();
    assert!(matches!(store.compact(&mut |_, _| {}, GO_ON()), Err(Error::Corrupt { .. })));
    assert_eq!(fs::read(&file).unwrap(), bytes, "left as it was");
    let leftovers = fs::read_dir(directory.path())
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(".new-"));
    assert_eq!(leftovers.count(), 0);
    fs::write(&file, &whole).unwrap();
    let identity = fs::File::open(directory.path().join("store.spo")).unwrap();
    identity.lock().unwrap();
    let refused = store.compact(&mut |_, _| {}, GO_ON()).unwrap_err();
    assert!(refused.to_string().contains("another process"), "{refused}");
    drop(identity);
    assert_eq!(compact(&store).records, 1);
}
