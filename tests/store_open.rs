//! Many openers at once: who goes on in a dead writer's segment, who seals it, and what a reader sees meanwhile.

mod common;

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

use common::{append, options, trajectory};
use spo_core::Interrupt;
use spo_core::store::shard::SegmentHeader;
use spo_core::store::{Filter, Mode, Options, Store};
use spo_core::trajectory::record::Columns;

/// Tells the threads beside it to end, also when a check fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

const GO_ON: fn() -> Interrupt<'static> = Interrupt::never;

fn open(directory: &Path, segment_bytes: u64) -> Store {
    Store::open(directory, Options { segment_bytes, ..options(Mode::Append) }, GO_ON()).unwrap()
}

fn seeds(store: &Store) -> Vec<u64> {
    let ids = store.scan(&Filter::default(), GO_ON()).unwrap();
    let mut seeds: Vec<u64> =
        store.read_many(&ids, Columns::SCALARS, GO_ON()).unwrap().iter().map(|record| record.seed).collect();
    seeds.sort_unstable();
    seeds
}

/// Leaves what a writer leaves that is killed between taking number 1 and finding that it is taken and sealed already.
fn leave_attempt(directory: &Path) -> std::path::PathBuf {
    let identity = spo_core::store::recovery::read_start(
        &File::open(directory.join("store.spo")).unwrap(),
        &directory.join("store.spo"),
    );
    let header = SegmentHeader { number: 1, ..identity.unwrap().header };
    let attempt = directory.join("segment-00000001.live");
    fs::write(&attempt, header.file_start(0)).unwrap();
    attempt
}

/// The bytes that an append adds to the first segment of the store, which is left as it is.
fn appended_to_a_copy(directory: &Path) -> Vec<u8> {
    let copy = tempfile::tempdir().unwrap();
    for name in ["store.spo", "segment-00000001.live"] {
        fs::copy(directory.join(name), copy.path().join(name)).unwrap();
    }
    let file = copy.path().join("segment-00000001.live");
    let whole = fs::metadata(&file).unwrap().len() as usize;
    append(copy.path()).append(&[common::with_long_prompt(0)], GO_ON()).unwrap();
    fs::read(&file).unwrap().split_off(whole)
}

#[test]
fn a_segment_stays_locked_until_it_has_its_sealed_name() {
    let directory = tempfile::tempdir().unwrap();
    let (sealing, sealed) = mpsc::channel::<File>();
    // The sync is the last thing before the rename, so whoever waits for the lock from here on gets it right after.
    let sync = move |file: &File| {
        file.sync_data()?;
        sealing.send(file.try_clone()?).map_err(std::io::Error::other)
    };
    let options = Options { sync: Arc::new(sync), segment_bytes: 1, ..options(Mode::Append) };
    let store = Store::open(directory.path(), options, GO_ON()).unwrap();
    let early = std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut early = 0;
            for (number, own) in (1..).zip(sealed) {
                // A clone would keep the lock: this is an opening of its own, as another process has it.
                drop(own);
                let live = directory.path().join(format!("segment-{number:08}.live"));
                let Ok(other) = File::open(&live) else { continue };
                while other.try_lock().is_err() {}
                early += u32::from(live.exists());
            }
            early
        });
        for at in 0..200 {
            store.append(&[trajectory(at)], GO_ON()).unwrap();
        }
        drop(store);
        watching.join().unwrap()
    });
    assert_eq!(early, 0, "segments that another could lock, and seal as well, before they were renamed");
}

#[test]
fn an_attempt_at_a_number_that_is_taken_never_replaces_the_sealed_segment() {
    for compacting in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path(), 1);
        for at in 0..3 {
            store.append(&[trajectory(at)], GO_ON()).unwrap();
        }
        if !compacting {
            drop(store);
            let attempt = leave_attempt(directory.path());
            assert_eq!(seeds(&Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap()), [0, 1, 2]);
            let store = append(directory.path());
            assert_eq!(seeds(&store), [0, 1, 2]);
            assert!(!attempt.exists());
            continue;
        }
        let attempt = leave_attempt(directory.path());
        store.compact(&mut |_, _| {}, GO_ON()).unwrap();
        assert_eq!(seeds(&store), [0, 1, 2]);
        assert!(!attempt.exists());
        assert_eq!(seeds(&append(directory.path())), [0, 1, 2]);
    }
}

#[test]
fn openers_sealers_and_readers_do_not_get_in_one_anothers_way() {
    let directory = tempfile::tempdir().unwrap();
    drop(append(directory.path()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let watching = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
                    let mut before = 0;
                    while !done.load(Ordering::Relaxed) {
                        let fresh = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
                        let now = fresh.len(GO_ON()).unwrap();
                        assert!(now >= before, "{before} records, then {now}");
                        before = watching.len(GO_ON()).unwrap();
                        assert!(before >= now, "{now} records, then {before}");
                    }
                })
            })
            .collect();
        let writers: Vec<_> = (0..4u64)
            .map(|writer| {
                let directory = directory.path();
                scope.spawn(move || {
                    for turn in 0..24 {
                        let store = open(directory, 700);
                        for at in 0..4 {
                            store.append(&[trajectory(1000 * writer + 4 * turn + at)], GO_ON()).unwrap();
                        }
                        if turn % 8 == writer {
                            match store.compact(&mut |_, _| {}, GO_ON()) {
                                Err(spo_core::Error::Store(text)) if text.contains("another process") => {}
                                outcome => drop(outcome.unwrap()),
                            }
                        }
                    }
                })
            })
            .collect();
        let ends = Ends(&done);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        drop(ends);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    let expected: Vec<u64> = (0..4).flat_map(|writer| (0..96).map(move |at| 1000 * writer + at)).collect();
    assert_eq!(seeds(&append(directory.path())), expected);
}

#[test]
fn a_reader_is_not_misled_by_a_torn_tail_that_is_cut_off_and_written_over_under_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("segment-00000001.live");
    drop(append(directory.path()));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let store = Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
            while !done.load(Ordering::Relaxed) {
                store.refresh(GO_ON()).unwrap();
                Store::open(directory.path(), options(Mode::Read), GO_ON()).unwrap();
            }
            store.len(GO_ON()).unwrap()
        });
        let ends = Ends(&done);
        for at in 0..150 {
            // As a crash leaves it: the header of a frame is whole, its payload is not.
            let whole = fs::read(&file).unwrap().len() as u64;
            let torn = appended_to_a_copy(directory.path());
            let out = OpenOptions::new().write(true).open(&file).unwrap();
            out.write_all_at(&torn[..torn.len() - 9], whole).unwrap();
            drop(out);
            let store = append(directory.path());
            assert_eq!(store.torn_tails().len(), 1);
            store.append(&[trajectory(at), trajectory(at + 1), trajectory(at + 2)], GO_ON()).unwrap();
        }
        drop(ends);
        assert_eq!(reader.join().unwrap(), 450);
    });
}

#[test]
fn a_segment_that_is_a_broken_link_is_an_error_and_no_endless_search() {
    let directory = tempfile::tempdir().unwrap();
    drop(append(directory.path()));
    std::os::unix::fs::symlink("nowhere", directory.path().join("segment-00000007.spo")).unwrap();
    let error = Store::open(directory.path(), options(Mode::Read), GO_ON()).err().unwrap();
    assert!(error.to_string().contains("broken link"), "{error}");
}

#[test]
fn a_write_in_a_file_of_the_store_that_is_none_of_its_segments_does_no_harm() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    for name in ["segment-00000000.spo", "segment-1.tmp", "segment-x.live", "notes.txt"] {
        File::create(directory.path().join(name)).unwrap().write_all(b"not a segment").unwrap();
    }
    store.append(&[trajectory(0)], GO_ON()).unwrap();
    drop(store);
    assert_eq!(seeds(&append(directory.path())), [0]);
}
