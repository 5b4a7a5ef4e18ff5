//! Files cut and changed on purpose: what a crash leaves is recovered, what a crash cannot leave is refused.

mod common;

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use common::{append, options, trajectory, with_long_prompt};
use spo_core::store::{Filter, Mode, OnDamage, Options, Store};
use spo_core::trajectory::record::Columns;
use spo_core::{Error, Interrupt};

const GO_ON: fn() -> Interrupt<'static> = Interrupt::never;
/// Appends of one, two, then one record.
const APPENDS: [&[u64]; 3] = [&[0], &[1, 2], &[3]];

struct Fixture {
    directory: tempfile::TempDir,
    file: PathBuf,
    bytes: Vec<u8>,
    /// Length of the file after each append, that of the empty one first; of a sealed one, the ends of its records.
    ends: Vec<usize>,
    /// Where the records begin.
    start: usize,
}

fn fixture() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("segment-00000001.live");
    let store = append(directory.path());
    let mut ends = vec![fs::metadata(&file).unwrap().len() as usize];
    for numbers in APPENDS {
        let records: Vec<_> = numbers.iter().map(|&number| trajectory(number)).collect();
        store.append(&records, GO_ON()).unwrap();
        ends.push(fs::metadata(&file).unwrap().len() as usize);
    }
    drop(store);
    let bytes = fs::read(&file).unwrap();
    Fixture { directory, file, bytes, start: ends[0], ends }
}

impl Fixture {
    /// Of a sealed segment.
    fn of(directory: tempfile::TempDir, file: PathBuf) -> Self {
        let bytes = fs::read(&file).unwrap();
        let frames: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"SPOf")).collect();
        // The header's frame comes first, the footer's last.
        Fixture { directory, file, bytes, start: frames[1], ends: frames[2..].to_vec() }
    }

    /// Calls `check` with each bit in turn flipped in the file.
    fn with_each_bit_flipped(&self, mut check: impl FnMut(usize)) {
        let file = fs::OpenOptions::new().write(true).open(&self.file).unwrap();
        for (at, &byte) in self.bytes.iter().enumerate() {
            for bit in 0..8 {
                file.write_all_at(&[byte ^ 1 << bit], at as u64).unwrap();
                check(8 * at + bit);
            }
            file.write_all_at(&[byte], at as u64).unwrap();
        }
    }
}

fn open(directory: &Path, mode: Mode) -> Result<Store, Error> {
    Store::open(directory, options(mode), GO_ON())
}

fn skipping(directory: &Path) -> Store {
    Store::open(directory, Options { on_damage: OnDamage::Skip, ..options(Mode::Read) }, GO_ON()).unwrap()
}

/// The seeds of the records that can be read, and how many cannot.
fn readable(store: &Store) -> (Vec<u64>, usize) {
    let ids = store.scan(&Filter::default(), GO_ON()).unwrap();
    let read = |&id: &u64| match store.read_many(&[id], Columns::ALL, GO_ON()) {
        Ok(records) => Some(records[0].seed),
        Err(Error::Corrupt { .. }) => None,
        Err(error) => panic!("{error}"),
    };
    let seeds: Vec<u64> = ids.iter().filter_map(read).collect();
    let damaged = ids.len() - seeds.len();
    (seeds, damaged)
}

fn seeds(store: &Store) -> Vec<u64> {
    let ids = store.scan(&Filter::default(), GO_ON()).unwrap();
    store.read_many(&ids, Columns::ALL, GO_ON()).unwrap().iter().map(|record| record.seed).collect()
}

#[test]
fn a_live_segment_cut_at_any_byte_keeps_the_appends_before_the_cut() {
    let fixture = fixture();
    for cut in fixture.ends[0]..=fixture.bytes.len() {
        fs::write(&fixture.file, &fixture.bytes[..cut]).unwrap();
        let whole = fixture.ends.iter().filter(|&&end| end <= cut).count() - 1;
        let expected: Vec<u64> = APPENDS[..whole].concat();
        let reader = open(fixture.directory.path(), Mode::Read).unwrap();
        assert_eq!(seeds(&reader), expected, "reading, cut at {cut}");
        let writer = open(fixture.directory.path(), Mode::Append).unwrap();
        assert_eq!(seeds(&writer), expected, "writing, cut at {cut}");
        let dropped: u64 = writer.torn_tails().iter().map(|torn| torn.bytes).sum();
        assert_eq!(dropped as usize, cut - fixture.ends[whole], "cut at {cut}");
        writer.append(&[trajectory(9)], GO_ON()).unwrap();
        drop(writer);
        let reopened = open(fixture.directory.path(), Mode::Append).unwrap();
        assert_eq!(seeds(&reopened), [expected, vec![9]].concat(), "going on, cut at {cut}");
        assert!(reopened.torn_tails().is_empty());
    }
}

#[test]
fn a_segment_cut_within_its_header_is_damaged() {
    let fixture = fixture();
    for cut in 0..fixture.ends[0] {
        fs::write(&fixture.file, &fixture.bytes[..cut]).unwrap();
        let outcome = open(fixture.directory.path(), Mode::Append);
        assert!(matches!(outcome, Err(Error::Corrupt { .. })), "cut at {cut}");
        assert_eq!(skipping(fixture.directory.path()).info(GO_ON()).unwrap().skipped, 1, "cut at {cut}");
        assert_eq!(fs::metadata(&fixture.file).unwrap().len() as usize, cut, "a refused file is left alone");
    }
}

#[test]
fn any_flipped_bit_of_a_live_segment_is_refused_and_the_rest_can_be_salvaged() {
    let fixture = fixture();
    let header_end = fixture.ends[0];
    fixture.with_each_bit_flipped(|bit| {
        for mode in [Mode::Read, Mode::Append] {
            match open(fixture.directory.path(), mode) {
                Err(Error::Corrupt { path, offset, .. }) => {
                    assert_eq!(path, fixture.file);
                    assert!(offset as usize <= bit / 8, "bit {bit} noticed at {offset}");
                }
                Err(other) => panic!("bit {bit}: {other}"),
                Ok(_) => panic!("bit {bit} is not noticed"),
            }
        }
        let store = skipping(fixture.directory.path());
        let kept = seeds(&store);
        assert_eq!(kept.len(), if bit / 8 < header_end { 4 } else { 3 }, "bit {bit}: {kept:?}");
        assert_eq!(store.info(GO_ON()).unwrap().skipped, 1, "bit {bit}");
    });
    assert_eq!(fs::read(&fixture.file).unwrap(), fixture.bytes, "a refused file is left alone");
}

#[test]
fn any_flipped_bit_of_the_identity_is_refused_and_the_segments_can_be_read_without_it() {
    let mut fixture = fixture();
    fixture.file = fixture.directory.path().join("store.spo");
    fixture.bytes = fs::read(&fixture.file).unwrap();
    fixture.with_each_bit_flipped(|bit| {
        for mode in [Mode::Read, Mode::Append] {
            let outcome = open(fixture.directory.path(), mode);
            assert!(matches!(outcome, Err(Error::Corrupt { .. })), "bit {bit}");
        }
        let store = skipping(fixture.directory.path());
        assert_eq!((seeds(&store).len(), store.info(GO_ON()).unwrap().skipped), (4, 1), "bit {bit}");
    });
}

#[test]
fn a_tail_that_was_never_written_is_torn() {
    let fixture = fixture();
    let ends = &fixture.ends;
    // The length reached the disk and the content did not, or only its first part.
    for written in [ends[2], ends[2] + 20, ends[2] + 40] {
        let mut bytes = fixture.bytes[..written].to_vec();
        bytes.resize(ends[3].max(written) + 4096, 0);
        fs::write(&fixture.file, &bytes).unwrap();
        let store = open(fixture.directory.path(), Mode::Append).unwrap();
        assert_eq!(seeds(&store), [0, 1, 2]);
        assert_eq!(store.torn_tails()[0].offset as usize, ends[2]);
        drop(store);
        fs::write(&fixture.file, &fixture.bytes).unwrap();
    }
}

#[test]
fn a_damaged_prompt_takes_only_its_own_records_along() {
    let directory = tempfile::tempdir().unwrap();
    let store = append(directory.path());
    let ids = store.append(&[trajectory(0), with_long_prompt(1)], GO_ON()).unwrap();
    let more = store.append(&[with_long_prompt(3), with_long_prompt(2)], GO_ON()).unwrap();
    drop(store);
    let file = directory.path().join("segment-00000001.live");
    let mut bytes = fs::read(&file).unwrap();
    let prompts: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"SPOf\x04")).collect();
    assert_eq!(prompts.len(), 2, "of four records, three with long prompts");
    bytes[prompts[0] + 60] ^= 1;
    fs::write(&file, bytes).unwrap();
    assert!(matches!(open(directory.path(), Mode::Append), Err(Error::Corrupt { .. })));
    let skipping = Options { on_damage: OnDamage::Skip, ..options(Mode::Read) };
    let store = Store::open(directory.path(), skipping, GO_ON()).unwrap();
    let readable = |id: u64| store.read_many(&[id], Columns::ALL, GO_ON()).is_ok();
    assert_eq!([ids, more].concat().into_iter().map(readable).collect::<Vec<_>>(), [true, false, false, true]);
}

#[test]
fn a_frame_missing_from_the_middle_is_damage() {
    let fixture = fixture();
    let ends = &fixture.ends;
    let bytes = [&fixture.bytes[..ends[1]], &fixture.bytes[ends[2]..]].concat();
    fs::write(&fixture.file, bytes).unwrap();
    let error = open(fixture.directory.path(), Mode::Append).err().unwrap();
    assert!(matches!(&error, Error::Corrupt { what, .. } if what.contains("missing")), "{error}");
}

fn sealed() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    let small = Options { segment_bytes: 1, ..options(Mode::Append) };
    let store = Store::open(directory.path(), small, GO_ON()).unwrap();
    let records: Vec<_> = (0..4).map(trajectory).collect();
    store.append(&records, GO_ON()).unwrap();
    store.append(&[trajectory(4)], GO_ON()).unwrap();
    let file = directory.path().join("segment-00000001.spo");
    Fixture::of(directory, file)
}

/// Four segments of a record each, made one.
fn merged() -> Fixture {
    let directory = tempfile::tempdir().unwrap();
    for at in 0..4 {
        let small = Options { segment_bytes: 1, ..options(Mode::Append) };
        Store::open(directory.path(), small, GO_ON()).unwrap().append(&[trajectory(at)], GO_ON()).unwrap();
    }
    let store = append(directory.path());
    assert_eq!(store.compact(&mut |_, _| {}, GO_ON()).unwrap().merged, 3);
    let sealed = |path: &PathBuf| path.to_string_lossy().ends_with(".spo") && !path.ends_with("store.spo");
    let file = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).find(sealed).unwrap();
    Fixture::of(directory, file)
}

#[test]
fn a_sealed_segment_cut_anywhere_is_damaged() {
    let fixture = sealed();
    assert_eq!(seeds(&open(fixture.directory.path(), Mode::Read).unwrap()), [0, 1, 2, 3, 4]);
    for cut in 0..fixture.bytes.len() {
        fs::write(&fixture.file, &fixture.bytes[..cut]).unwrap();
        assert!(matches!(open(fixture.directory.path(), Mode::Read), Err(Error::Corrupt { .. })), "cut at {cut}");
        let whole = fixture.ends.iter().filter(|&&end| end <= cut).count() as u64;
        let kept: Vec<u64> = (0..whole).chain([4]).collect();
        assert_eq!(readable(&skipping(fixture.directory.path())), (kept, 0), "cut at {cut}");
    }
}

#[test]
fn any_flipped_bit_of_a_sealed_segment_is_noticed_when_it_is_opened_or_read() {
    let fixture = sealed();
    fixture.with_each_bit_flipped(|bit| {
        let outcome = open(fixture.directory.path(), Mode::Read).and_then(|store| {
            let ids = store.scan(&Filter::default(), GO_ON())?;
            store.read_many(&ids, Columns::ALL, GO_ON())
        });
        assert!(matches!(outcome, Err(Error::Corrupt { .. })), "bit {bit}");
        let (kept, damaged) = readable(&skipping(fixture.directory.path()));
        let is_in_a_record = (fixture.start..fixture.ends[3]).contains(&(bit / 8));
        assert_eq!(kept.len(), if is_in_a_record { 4 } else { 5 }, "bit {bit}: {kept:?}");
        assert_eq!(damaged, usize::from(is_in_a_record), "bit {bit}");
    });
}

#[test]
fn any_flipped_bit_of_a_merged_segment_is_noticed_and_takes_one_record_along_at_most() {
    let fixture = merged();
    let ids = open(fixture.directory.path(), Mode::Read).unwrap().scan(&Filter::default(), GO_ON()).unwrap();
    fixture.with_each_bit_flipped(|bit| {
        let outcome = open(fixture.directory.path(), Mode::Read).and_then(|store| {
            let ids = store.scan(&Filter::default(), GO_ON())?;
            store.read_many(&ids, Columns::ALL, GO_ON())
        });
        assert!(matches!(outcome, Err(Error::Corrupt { .. })), "bit {bit}");
        let store = skipping(fixture.directory.path());
        assert!(readable(&store).0.len() >= 3, "bit {bit}");
        assert!(store.scan(&Filter::default(), GO_ON()).unwrap().iter().all(|id| ids.contains(id)), "bit {bit}");
    });
}

#[test]
fn a_writer_killed_while_sealing_is_succeeded_by_one_that_finishes() {
    let fixture = sealed();
    let live = fixture.directory.path().join("segment-00000001.live");
    let records_end = {
        let trailer = &fixture.bytes[fixture.bytes.len() - 12..fixture.bytes.len() - 4];
        u64::from_le_bytes(trailer.try_into().unwrap()) as usize
    };
    fs::remove_file(&fixture.file).unwrap();
    for cut in records_end..=fixture.bytes.len() {
        fs::write(&live, &fixture.bytes[..cut]).unwrap();
        let store = open(fixture.directory.path(), Mode::Append).unwrap();
        assert_eq!(seeds(&store), [0, 1, 2, 3, 4], "cut at {cut}");
        drop(store);
        let finished = fixture.file.exists();
        assert_ne!(finished, live.exists(), "cut at {cut}");
        assert_eq!(seeds(&open(fixture.directory.path(), Mode::Read).unwrap()), [0, 1, 2, 3, 4], "cut at {cut}");
        if finished {
            assert_eq!(fs::read(&fixture.file).unwrap(), fixture.bytes);
            fs::remove_file(&fixture.file).unwrap();
        }
    }
}
