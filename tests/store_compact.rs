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
    assert_eq!((third.records, third.late), (0, 0), "only smaller segments are merged still: {third:?}");
    let fourth = compact(&store);
    assert_eq!((fourth.segments, fourth.bytes_after), (0, third.bytes_after), "nothing is left to do");
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

fn files(directory: &std::path::Path, suffix: &str) -> Vec<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.ends_with(suffix) && name.starts_with("segment")).collect();
    names.sort();
    names
}

/// Ten sealed segments of a few records, by as many writers, with late columns and deletions in later ones.
fn scattered(directory: &std::path::Path) -> (Vec<u64>, Vec<Trajectory>) {
    let (mut ids, mut records) = (Vec::new(), Vec::new());
    for turn in 0..10u64 {
        let store = append(directory);
        let mut part: Vec<Trajectory> = (4 * turn..4 * turn + 4).map(with_long_prompt).collect();
        ids.extend(store.append(&part, GO_ON()).unwrap());
        records.append(&mut part);
        let late = Late { reward: Some(turn as f64 / 3.0), ..Late::default() };
        store.annotate(&ids[turn as usize..][..1], std::slice::from_ref(&late), GO_ON()).unwrap();
        late.apply(&mut records[turn as usize]);
        let small = Options { segment_bytes: 1, ..options(Mode::Append) };
        drop(store);
        // One that finds the segment too large seals it.
        let store = Store::open(directory, small, GO_ON()).unwrap();
        ids.extend(store.append(&[trajectory(1000 + turn)], GO_ON()).unwrap());
        records.push(trajectory(1000 + turn));
    }
    (ids, records)
}

#[test]
fn small_segments_that_follow_one_another_become_one_and_ids_stay() {
    let directory = tempfile::tempdir().unwrap();
    let (ids, records) = scattered(directory.path());
    let watching = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
    let before = files(directory.path(), ".spo").len();
    assert!(before >= 9, "{before}");
    let store = append(directory.path());
    let done = compact(&store);
    assert_eq!((done.records, files(directory.path(), ".spo").len()), (0, 1), "{done:?}");
    assert!(done.merged as usize >= before - 1 && done.segments == done.merged + 1, "{done:?}");
    assert!(done.bytes_after < done.bytes_before, "prompts and ranks are there once: {done:?}");
    let again = compact(&store);
    assert_eq!((again.segments, again.merged), (0, 0), "nothing is left to do");
    for store in [&watching, &store, &append(directory.path())] {
        assert_eq!(scan(store), ids);
        assert_eq!(read(store, &ids), records);
        assert_eq!(store.len(GO_ON()).unwrap(), ids.len());
    }
    store.delete(&ids[7..9], GO_ON()).unwrap();
    assert_eq!(compact(&store).records, 2, "also of a merged segment");
    let more = store.append(&records[..1], GO_ON()).unwrap();
    assert!(!ids.contains(&more[0]), "numbers of merged segments are not given again");
    let kept: Vec<u64> = ids.iter().copied().filter(|id| !ids[7..9].contains(id)).chain(more).collect();
    assert_eq!(scan(&append(directory.path())), kept);
}

#[test]
fn segments_left_by_a_merge_that_was_cut_short_count_no_more() {
    let directory = tempfile::tempdir().unwrap();
    let (ids, records) = scattered(directory.path());
    let store = append(directory.path());
    let copies: Vec<(std::path::PathBuf, Vec<u8>)> = files(directory.path(), ".spo")
        .into_iter()
        .map(|name| directory.path().join(name))
        .map(|path| (path.clone(), fs::read(path).unwrap()))
        .collect();
    store.delete(&ids[..1], GO_ON()).unwrap();
    compact(&store);
    drop(store);
    let merged = files(directory.path(), ".spo");
    for (path, bytes) in copies.iter().filter(|(path, _)| !path.exists()) {
        fs::write(path, bytes).unwrap();
    }
    assert!(files(directory.path(), ".spo").len() > merged.len());
    for mode in [Mode::Read, Mode::Append] {
        let store = Store::open(directory.path(), options(mode), GO_ON()).unwrap();
        assert_eq!(scan(&store), ids[1..], "what was deleted does not come back, nothing is there twice");
        assert_eq!(read(&store, &ids[1..]), records[1..]);
    }
    compact(&append(directory.path()));
    assert!(copies.iter().filter(|(path, _)| path.exists()).count() <= merged.len());
    assert_eq!(scan(&append(directory.path())), ids[1..]);
}

#[test]
fn a_merged_segment_without_its_footer_is_read_record_by_record() {
    let directory = tempfile::tempdir().unwrap();
    let (ids, records) = scattered(directory.path());
    compact(&append(directory.path()));
    let [name] = &files(directory.path(), ".spo")[..] else { panic!("one segment") };
    let path = directory.path().join(name);
    let bytes = fs::read(&path).unwrap();
    fs::write(&path, &bytes[..bytes.len() - 30]).unwrap();
    assert!(matches!(Store::open(directory.path(), options(Mode::Read), GO_ON()), Err(Error::Corrupt { .. })));
    let skipping = Options { on_damage: spo_core::store::OnDamage::Skip, ..options(Mode::Read) };
    let store = Store::open(directory.path(), skipping, GO_ON()).unwrap();
    assert_eq!(scan(&store), ids);
    assert_eq!(read(&store, &ids), records);
}
