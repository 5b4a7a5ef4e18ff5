//! Random operations on a store, crashes among them, compared with a plain map of what must be in it.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use common::{options, trajectory, with_long_prompt};
use proptest::prelude::*;
use spo_core::store::{Filter, Mode, Options, Store};
use spo_core::trajectory::record::{Columns, Present};
use spo_core::trajectory::{Late, MonteCarlo, Trajectory};
use spo_core::{Error, Interrupt};

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
    /// A writer annotates the record at this share of all.
    Annotate(usize, f64, u64),
    /// A writer deletes it.
    Delete(usize, f64),
    /// A writer compacts the store, and is stopped at this moment if that comes before the end.
    Compact(usize, u64),
    /// The writer of another store appends so many records there.
    Elsewhere(u64),
    /// A writer attaches that store.
    Attach(usize),
    /// Its writer compacts that store, under those who list it.
    CompactElsewhere,
    /// Every writer dies, one of them within an append of which this share reached the file.
    Crash(usize, f64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let writer = || 0..WRITERS;
    let step = prop_oneof![
        6 => (writer(), 1u64..5).prop_map(|(writer, count)| Step::Append(writer, count)),
        2 => writer().prop_map(Step::Commit),
        2 => writer().prop_map(Step::Replace),
        4 => (writer(), 0.0..1.0f64, 0..1000u64).prop_map(|(writer, at, value)| Step::Annotate(writer, at, value)),
        2 => (writer(), 0.0..1.0f64).prop_map(|(writer, at)| Step::Delete(writer, at)),
        2 => (writer(), 0..400u64).prop_map(|(writer, stop)| Step::Compact(writer, stop)),
        2 => (1u64..4).prop_map(Step::Elsewhere),
        1 => writer().prop_map(Step::Attach),
        1 => Just(Step::CompactElsewhere),
        1 => (writer(), 0.0..1.0f64).prop_map(|(writer, share)| Step::Crash(writer, share)),
    ];
    proptest::collection::vec(step, 1..40)
}

struct Model {
    directory: tempfile::TempDir,
    writers: Vec<Option<Store>>,
    elsewhere: (tempfile::TempDir, Store),
    /// Records of that store that are not listed yet.
    unlisted: Vec<Trajectory>,
    attached: bool,
    expected: BTreeMap<u64, Trajectory>,
    /// Ids of deleted records.
    gone: Vec<u64>,
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
                    assert!(!self.gone.contains(&id), "id {id} was given again");
                }
            }
            Step::Commit(writer) => self.writers[writer].as_ref().unwrap().commit().unwrap(),
            Step::Replace(writer) => {
                self.writers[writer] = None;
                self.writers[writer] = Some(Self::open(self.directory.path()));
            }
            Step::Annotate(writer, share, value) => self.annotate(writer, share, value),
            Step::Delete(writer, share) => {
                if let Some(id) = self.pick(share) {
                    self.writers[writer].as_ref().unwrap().delete(&[id], GO_ON()).unwrap();
                    self.expected.remove(&id);
                    self.gone.push(id);
                }
            }
            Step::Compact(writer, stop) => {
                let polls = AtomicU64::new(0);
                let stopped = || polls.fetch_add(1, Ordering::Relaxed) >= stop;
                match self.writers[writer].as_ref().unwrap().compact(&mut |_, _| {}, Interrupt::new(&stopped)) {
                    Ok(_) | Err(Error::Interrupted) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            Step::Elsewhere(count) => {
                let records = self.records(count);
                self.elsewhere.1.append(&records, GO_ON()).unwrap();
                self.unlisted.extend(records);
                self.list();
            }
            Step::Attach(writer) => {
                self.writers[writer].as_ref().unwrap().attach(self.elsewhere.0.path(), GO_ON()).unwrap();
                self.attached = true;
                self.list();
            }
            Step::CompactElsewhere => drop(self.elsewhere.1.compact(&mut |_, _| {}, GO_ON()).unwrap()),
            Step::Crash(writer, share) => self.crash(writer, share),
        }
    }

    /// Takes in the records of the other store, if it is attached.
    fn list(&mut self) {
        if !self.attached {
            return;
        }
        let ids = self.writers[0].as_ref().unwrap().scan(&Filter::default(), GO_ON()).unwrap();
        let new = ids.into_iter().filter(|id| !self.expected.contains_key(id));
        let listed: Vec<(u64, Trajectory)> = new.zip(std::mem::take(&mut self.unlisted)).collect();
        self.expected.extend(listed);
    }

    /// The id at this share of all.
    fn pick(&self, share: f64) -> Option<u64> {
        self.expected.keys().nth((self.expected.len() as f64 * share) as usize).copied()
    }

    fn annotate(&mut self, writer: usize, share: f64, value: u64) {
        let Some(id) = self.pick(share) else { return };
        let record = self.expected.get_mut(&id).unwrap();
        let length = record.response_tokens.len();
        let counts = MonteCarlo { positions: vec![0], successes: vec![value as u32], trials: vec![1000] };
        let late = match value % 3 {
            0 => Late { reference_logprobs: Some(vec![value as f32; length]), ..Late::default() },
            1 => Late { mc_successes: Some(counts), reward: Some(value as f64), ..Late::default() },
            _ => Late { reference_logprobs: Some(vec![-1.0; length]), reward: Some(0.5), ..Late::default() },
        };
        self.writers[writer].as_ref().unwrap().annotate(&[id], std::slice::from_ref(&late), GO_ON()).unwrap();
        late.apply(record);
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
        assert!(self.gone.iter().all(|&id| store.read_many(&[id], Columns::SCALARS, GO_ON()).is_err()));
        let annotated = Filter { has: Present::REFERENCE, ..Filter::default() };
        let mut annotated = store.scan(&annotated, GO_ON()).unwrap();
        annotated.sort_unstable();
        let has = self.expected.iter().filter(|(_, record)| record.reference_logprobs.is_some());
        assert!(annotated.iter().eq(has.map(|(id, _)| id)));
    }
}

impl Model {
    /// Another store that lists this one has the same records, in the same order.
    fn check_attached(&self) {
        let directory = tempfile::tempdir().unwrap();
        let other = Self::open(directory.path());
        other.attach(self.directory.path(), GO_ON()).unwrap();
        let store = Self::open(self.directory.path());
        let read = |store: &Store| {
            let ids = store.scan(&Filter::default(), GO_ON()).unwrap();
            store.read_many(&ids, Columns::ALL, GO_ON()).unwrap()
        };
        assert_eq!(read(&other), read(&store));
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
        let elsewhere = tempfile::tempdir().unwrap();
        let other = Model::open(elsewhere.path());
        let mut model = Model {
            directory: tempfile::tempdir().unwrap(),
            elsewhere: (elsewhere, other),
            unlisted: Vec::new(),
            attached: false,
            writers: (0..WRITERS).map(|_| None).collect(),
            expected: BTreeMap::new(),
            gone: Vec::new(),
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
        model.writers[0].as_ref().unwrap().compact(&mut |_, _| {}, GO_ON()).unwrap();
        model.check(model.writers[1].as_ref().unwrap());
        model.check_attached();
        if !steps.iter().any(|step| matches!(step, Step::Crash(..))) {
            // One that has watched all along; it may have seen an append that the crash here takes back by hand.
            model.check(&reader);
        }
    }
}
