//! Stores that list other stores' records.

mod common;

use std::fs;
use std::path::Path;

use common::{append, options, trajectory};
use spo_core::store::{Filter, Mode, Options, Store};
use spo_core::trajectory::record::Columns;
use spo_core::trajectory::{Late, Trajectory};
use spo_core::{Error, Interrupt};

const GO_ON: fn() -> Interrupt<'static> = Interrupt::never;

fn scan(store: &Store) -> Vec<u64> {
    store.scan(&Filter::default(), GO_ON()).unwrap()
}

fn seeds(store: &Store) -> Vec<u64> {
    store.read_many(&scan(store), Columns::ALL, GO_ON()).unwrap().iter().map(|record| record.seed).collect()
}

fn reader(path: &Path) -> Result<Store, Error> {
    Store::open(path, options(Mode::Read), GO_ON())
}

fn refusal(store: &Store, path: &Path) -> String {
    store.attach(path, GO_ON()).unwrap_err().to_string()
}

/// Stores with one record each, numbered by place; each but the first has the one before attached.
fn chain(directory: &Path, length: u64) -> Vec<Store> {
    let mut stores: Vec<Store> = Vec::new();
    for number in 0..length {
        let store = append(&directory.join(format!("store-{number}")));
        store.append(&[trajectory(number)], GO_ON()).unwrap();
        if let Some(before) = stores.last() {
            store.attach(before.directory(), GO_ON()).unwrap();
        }
        stores.push(store);
    }
    stores
}

#[test]
fn records_of_attached_stores_have_stable_ids_and_later_ones_are_seen() {
    let directory = tempfile::tempdir().unwrap();
    let stores = chain(directory.path(), 3);
    let last = &stores[2];
    assert_eq!(seeds(last), [0, 1, 2]);
    let ids = scan(last);
    let all = |store: &Store| store.read_many(&ids, Columns::ALL, GO_ON()).unwrap();
    let expected: Vec<Trajectory> = (0..3).map(trajectory).collect();
    assert_eq!(all(last), expected);
    assert!(ids.iter().all(|&id| id < 1 << 53));
    let watching = reader(last.directory()).unwrap();
    stores[0].append(&[trajectory(7)], GO_ON()).unwrap();
    for store in [last, &watching, &reader(last.directory()).unwrap(), &append(last.directory())] {
        assert_eq!(all(store), expected);
        assert_eq!(seeds(store), [0, 1, 2, 7]);
        assert_eq!(store.info(GO_ON()).unwrap().attached.len(), 2);
        assert_eq!(store.len(GO_ON()).unwrap(), 4);
    }
    last.attach(stores[0].directory(), GO_ON()).unwrap();
    assert_eq!(seeds(last), [0, 1, 2, 7], "attached already");
}

#[test]
fn a_reader_sees_what_is_attached_while_it_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let (one, two) = (append(&directory.path().join("one")), append(&directory.path().join("two")));
    two.append(&[trajectory(2)], GO_ON()).unwrap();
    let watching = reader(one.directory()).unwrap();
    one.attach(two.directory(), GO_ON()).unwrap();
    assert_eq!(seeds(&watching), [2]);
}

#[test]
fn sealed_segments_of_attached_stores_are_listed_and_nothing_is_written_there() {
    let directory = tempfile::tempdir().unwrap();
    let (from, to) = (directory.path().join("from"), directory.path().join("to"));
    let small = Options { segment_bytes: 400, ..options(Mode::Append) };
    let other = Store::open(&from, small.clone(), GO_ON()).unwrap();
    for at in 0..20 {
        other.append(&[trajectory(at)], GO_ON()).unwrap();
    }
    assert!(other.info(GO_ON()).unwrap().sealed_segments > 2);
    let expected = scan(&other);
    drop(other);
    let before: Vec<_> = listing(&from);
    let store = Store::open(&to, small, GO_ON()).unwrap();
    store.attach(&from, GO_ON()).unwrap();
    let ids = scan(&store);
    store.annotate(&ids[..1], &[Late { reward: Some(0.5), ..Late::default() }], GO_ON()).unwrap();
    store.delete(&ids[1..2], GO_ON()).unwrap();
    for at in 30..50 {
        store.append(&[trajectory(at)], GO_ON()).unwrap();
    }
    assert_eq!(listing(&from), before);
    assert_eq!(store.read_many(&ids[..1], Columns::ALL, GO_ON()).unwrap()[0].reward, 0.5);
    assert_eq!(store.len(GO_ON()).unwrap(), 39);
    let other = reader(&from).unwrap();
    assert_eq!(scan(&other), expected);
    assert_eq!(other.read_many(&expected, Columns::ALL, GO_ON()).unwrap()[0].reward, trajectory(0).reward);
}

fn listing(path: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn what_an_attached_store_says_of_its_own_attachments_holds_here_too() {
    let directory = tempfile::tempdir().unwrap();
    let stores = chain(directory.path(), 2);
    let [first, second] = &stores[..] else { unreachable!() };
    // Slots differ: the third has another store in the slot in which the second has the first.
    let other = append(&directory.path().join("other"));
    other.append(&[trajectory(9)], GO_ON()).unwrap();
    let third = append(&directory.path().join("third"));
    third.attach(other.directory(), GO_ON()).unwrap();
    third.attach(second.directory(), GO_ON()).unwrap();
    let late = Late { reward: Some(0.25), ..Late::default() };
    let id = scan(second)[0];
    second.annotate(&[id], &[late], GO_ON()).unwrap();
    let own = scan(second)[1];
    second.delete(&[own], GO_ON()).unwrap();
    for store in [&third, &reader(third.directory()).unwrap()] {
        let ids = scan(store);
        let mut read: Vec<(u64, f64)> = store
            .read_many(&ids, Columns::ALL, GO_ON())
            .unwrap()
            .into_iter()
            .map(|record| (record.seed, record.reward))
            .collect();
        read.sort_by_key(|(seed, _)| *seed);
        assert_eq!(read, [(0, 0.25), (9, -1.0)]);
    }
    assert_eq!(first.read_many(&scan(first), Columns::ALL, GO_ON()).unwrap()[0].reward, 0.0);
}

#[test]
fn other_tokenizers_the_store_itself_its_copies_and_cycles_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let stores = chain(directory.path(), 3);
    assert!(refusal(&stores[0], stores[0].directory()).contains("itself"));
    assert!(refusal(&stores[0], stores[1].directory()).contains("has"));
    assert!(refusal(&stores[0], stores[2].directory()).contains("attached"));
    let other = directory.path().join("other tokenizer");
    drop(Store::open(&other, Options::new(Mode::Append, Some("another")), GO_ON()).unwrap());
    assert!(refusal(&stores[0], &other).contains("\"another\""));
    let copy = directory.path().join("copy");
    fs::create_dir(&copy).unwrap();
    for (path, bytes) in listing(stores[0].directory()) {
        fs::write(copy.join(path.file_name().unwrap()), bytes).unwrap();
    }
    assert!(refusal(&stores[0], &copy).contains("copy"));
    let nothing = stores[0].attach(&directory.path().join("nowhere"), GO_ON()).unwrap_err();
    assert!(matches!(nothing, Error::Io { .. }), "{nothing}");
    let reading = reader(stores[0].directory()).unwrap();
    assert!(refusal(&reading, stores[1].directory()).contains("open for reading"));
    assert_eq!(seeds(&stores[0]), [0], "no refusal leaves anything");
}

#[test]
fn a_missing_attached_store_is_an_error_that_names_it_and_the_fix() {
    let directory = tempfile::tempdir().unwrap();
    let stores = chain(directory.path(), 2);
    let (first, second) = (stores[0].directory().to_owned(), stores[1].directory().to_owned());
    let ids = scan(&stores[1]);
    drop(stores);
    let away = directory.path().join("away");
    fs::rename(&first, &away).unwrap();
    for mode in [Mode::Read, Mode::Append] {
        let error = Store::open(&second, options(mode), GO_ON()).err().unwrap().to_string();
        assert!(error.contains(first.to_str().unwrap()) && error.contains("attached-001.spo"), "{error}");
    }
    // Another store in its place is not taken for it.
    drop(append(&first));
    assert!(reader(&second).is_err());
    fs::remove_dir_all(&first).unwrap();
    fs::rename(&away, &first).unwrap();
    assert_eq!(scan(&reader(&second).unwrap()), ids);
    // Both moved together stay together.
    let moved = directory.path().join("moved");
    fs::create_dir(&moved).unwrap();
    fs::rename(&first, moved.join("store-0")).unwrap();
    fs::rename(&second, moved.join("store-1")).unwrap();
    assert_eq!(scan(&reader(&moved.join("store-1")).unwrap()), ids);
    fs::remove_file(moved.join("store-1/attached-001.spo")).unwrap();
    assert_eq!(seeds(&reader(&moved.join("store-1")).unwrap()), [1]);
}
