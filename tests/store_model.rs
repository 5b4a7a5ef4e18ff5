//! Random operations on a store, crashes among them, compared with a plain map of what must be in it.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{options, trajectory, with_long_prompt};
use proptest::prelude::*;
use spo_core::Interrupt;
use spo_core::store::{Filter, Mode, Options, Store};
use spo_core::trajectory::Trajectory;
use spo_core::trajectory::record::Columns;

const WRITERS: usize = 3;
const GO_ON: fn() -> Interrupt<'static> = Interrupt::never;

#[derive(Debug, Clone)]
enum Step {
    /// A writer appends so many records.
    Append(usize, u64),
    /// A writer makes everything durable.
    Commit(usize),
    /// A writer ends and another takes its place.
    Replace(usize),
    /// Every writer dies, one of them within an append of which this share reached the file.
    Crash(usize, f64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writer = || 0..WRITERS;
    let step = prop_oneof![
        6 => (writer(), 1u64..5).prop_map(|(writer, count)| Step::Append(writer, count)),
        2 => writer().prop_map(Step::Commit),
        2 => writer().prop_map(Step::Replace),
        1 => (writer(), 0.0..1.0f64).prop_map(|(writer, share)| Step::Crash(writer, share)),
    ];
    proptest::collection::vec(step, 1..40)
}

struct Model {
    directory: tempfile::TempDir,
    writers: Vec<Option<Store>>,
    expected: BTreeMap<u64, Trajectory>,
    next: u64,
}

impl Model {
    fn open(directory: &Path) -> Store {
        let small = Options { segment_bytes: 2500, ..options(Mode::Append) };
        Store::open(directory, small, GO_ON()).unwrap()
    }

    fn records(&mut self, count: u64) -> Vec<Trajectory> {
        self.next += count;
        let make = |number: u64| if number.is_multiple_of(3) { with_long_prompt(number) } else { trajectory(number) };
        (self.next - count..self.next).map(make).collect()
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Append(writer, count) => {
                let records = self.records(count);
                let ids = self.writers[writer].as_ref().unwrap().append(&records, GO_ON()).unwrap();
                for (id, record) in ids.into_iter().zip(records) {
                    assert!(self.expected.insert(id, record).is_none(), "id {id} was given twice");
                }
            }
            Step::Commit(writer) => self.writers[writer].as_ref().unwrap().commit().unwrap(),
            Step::Replace(writer) => {
                self.writers[writer] = None;
                self.writers[writer] = Some(Self::open(self.directory.path()));
            }
            Step::Crash(writer, share) => self.crash(writer, share),
        }
    }

    fn crash(&mut self, writer: usize, share: f64) {
        let before = file_lengths(self.directory.path());
        let records = self.records(3);
        self.writers[writer].as_ref().unwrap().append(&records, GO_ON()).unwrap();
        self.writers.iter_mut().for_each(|writer| *writer = None);
        for (path, length) in file_lengths(self.directory.path()) {
            let Some(&old) = before.get(&path).filter(|&&old| old < length) else { continue };
            let kept = old + ((length - old) as f64 * share) as u64;
            fs::OpenOptions::new().write(true).open(path).unwrap().set_len(kept).unwrap();
            self.reopen();
            return;
        }
        // The append went into a new segment: then all of it is there, though no one was told.
        self.reopen();
        let store = self.writers[0].as_ref().unwrap();
        let ids = store.scan(&Filter::default(), GO_ON()).unwrap();
        let told: Vec<u64> = ids.into_iter().filter(|id| !self.expected.contains_key(id)).collect();
        assert_eq!(store.read_many(&told, Columns::ALL, GO_ON()).unwrap(), records);
        self.expected.extend(told.into_iter().zip(records));
    }

    fn reopen(&mut self) {
        self.writers.iter_mut().for_each(|writer| *writer = Some(Self::open(self.directory.path())));
    }

    fn check(&self, store: &Store) {
        let mut ids = store.scan(&Filter::default(), GO_ON()).unwrap();
        ids.sort_unstable();
        assert!(ids.iter().eq(self.expected.keys()), "{ids:?}");
        let records = store.read_many(&ids, Columns::ALL, GO_ON()).unwrap();
        assert!(records.iter().eq(self.expected.values()));
    }
}

fn file_lengths(directory: &Path) -> BTreeMap<std::path::PathBuf, u64> {
    let files = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap());
    files.map(|entry| (entry.path(), entry.metadata().unwrap().len())).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(24) })]

    #[test]
    fn whatever_writers_do_and_however_they_die_the_store_holds_what_it_promised(steps in steps()) {
        let mut model = Model {
            directory: tempfile::tempdir().unwrap(),
            writers: (0..WRITERS).map(|_| None).collect(),
            expected: BTreeMap::new(),
            next: 0,
        };
        model.reopen();
        let reader = Store::open(model.directory.path(), options(Mode::Read), GO_ON()).unwrap();
        for step in &steps {
            model.take(step);
            if matches!(step, Step::Crash(..)) {
                model.check(&Store::open(model.directory.path(), options(Mode::Read), GO_ON()).unwrap());
            }
        }
        model.check(model.writers[0].as_ref().unwrap());
        if !steps.iter().any(|step| matches!(step, Step::Crash(..))) {
            // One that has watched all along; it may have seen an append that the crash here takes back by hand.
            model.check(&reader);
        }
    }
}
