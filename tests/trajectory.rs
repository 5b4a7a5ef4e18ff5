//! The record and its encoding.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use spo_core::trajectory::batch::{decode_trajectories, encode_trajectories};
use spo_core::trajectory::columns::{self, Precision};
use spo_core::trajectory::prefix::{Alphabet, Code};
use spo_core::trajectory::record::{self, Coding, Columns, Encoded, Places, Prompts, Record, tables_frame};
use spo_core::trajectory::tables::{Sample, Tables};
use spo_core::trajectory::{MonteCarlo, Trajectory};
use spo_core::{Error, Interrupt};

fn sample() -> Trajectory {
    Trajectory {
        problem_id: "kattis/añb".into(),
        prompt_tokens: vec![1, 127, 128, i32::MAX],
        response_tokens: vec![5, 0, 70_000],
        reward: -1.0,
        verdict: "wrong_answer".into(),
        source: "online".into(),
        behavior_logprobs: Some(vec![-0.5, -1.0e-30, -17.25]),
        reference_logprobs: None,
        mc_successes: None,
        min_policy_version: 3,
        max_policy_version: u64::MAX,
        temperature: 0.1,
        top_p: 0.95,
        seed: u64::MAX,
        metadata: BTreeMap::from([("worker".into(), "3".into()), ("note".into(), String::new())]),
    }
}

fn column(tokens: usize) -> impl Strategy<Value = Option<Vec<f32>>> {
    proptest::option::of(proptest::collection::vec(-1000.0f32..=0.0, tokens))
}

fn any_trajectory() -> impl Strategy<Value = Trajectory> {
    let tokens = || proptest::collection::vec(0..=i32::MAX, 0..60);
    (tokens(), tokens()).prop_flat_map(|(prompt, response)| {
        let columns = (column(response.len()), column(response.len()));
        let texts = (".{1,20}", ".{0,20}", ".{1,20}", proptest::collection::btree_map(".{1,9}", ".{0,9}", 0..4));
        let numbers = (-10.0f64..10.0, any::<u64>(), any::<u64>(), 0.0f64..3.0, 0.001f64..=1.0, any::<u64>());
        (Just((prompt, response)), columns, texts, numbers).prop_map(|(tokens, columns, texts, numbers)| Trajectory {
            problem_id: texts.0,
            verdict: texts.1,
            source: texts.2,
            metadata: texts.3,
            behavior_logprobs: columns.0,
            reference_logprobs: columns.1,
            mc_successes: numbers.1.is_multiple_of(2).then(|| counts(tokens.1.len())),
            prompt_tokens: tokens.0,
            response_tokens: tokens.1,
            reward: numbers.0,
            min_policy_version: numbers.1.min(numbers.2),
            max_policy_version: numbers.1.max(numbers.2),
            temperature: numbers.3,
            top_p: numbers.4,
            seed: numbers.5,
        })
    })
}

fn counts(tokens: usize) -> MonteCarlo {
    let positions: Vec<u32> = (0..=tokens as u32).step_by(3).collect();
    let trials = vec![16; positions.len()];
    MonteCarlo { successes: positions.iter().map(|at| at % 17).collect(), positions, trials }
}

fn counts_at(positions: &[u32], trials: u32) -> MonteCarlo {
    let count = positions.len();
    MonteCarlo { positions: positions.to_vec(), successes: vec![1; count], trials: vec![trials; count] }
}

fn encode(trajectory: &Trajectory) -> Encoded {
    Encoded::new(trajectory, &Coding::default(), &Prompts::default()).unwrap()
}

fn encoded(trajectory: &Trajectory) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(trajectory).put(Places::default(), &mut bytes);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    #[test]
    fn whatever_is_encoded_decodes_to_the_same(trajectories in proptest::collection::vec(any_trajectory(), 0..5)) {
        let message = encode_trajectories(&trajectories, Interrupt::never()).unwrap();
        prop_assert_eq!(decode_trajectories(&message, Interrupt::never()).unwrap(), trajectories);
    }

    #[test]
    fn arbitrary_bytes_never_panic_the_decoder(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = record::decode(&bytes, Columns::ALL);
        let _ = decode_trajectories(&bytes, Interrupt::never());
    }

    #[test]
    fn a_record_changed_in_one_byte_never_panics_the_decoder(at in any::<prop::sample::Index>(), value in any::<u8>()) {
        let mut bytes = encoded(&sample());
        let at = at.index(bytes.len());
        bytes[at] = value;
        let _ = record::decode(&bytes, Columns::ALL);
    }
}

#[test]
fn every_flipped_bit_of_a_message_is_noticed() {
    let message = encode_trajectories(&[sample()], Interrupt::never()).unwrap();
    for bit in 0..message.len() * 8 {
        let mut damaged = message.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        let outcome = decode_trajectories(&damaged, Interrupt::never());
        assert!(matches!(outcome, Err(Error::Corrupt { .. })), "bit {bit}");
    }
}

#[test]
fn a_message_cut_anywhere_is_noticed() {
    let message = encode_trajectories(&[sample(), sample()], Interrupt::never()).unwrap();
    for length in 0..message.len() {
        assert!(matches!(decode_trajectories(&message[..length], Interrupt::never()), Err(Error::Corrupt { .. })));
    }
}

#[test]
fn a_record_that_was_never_valid_is_refused_though_its_checksum_is_right() {
    let invalid = Trajectory { reward: f64::NAN, ..sample() };
    let message = encode_trajectories(&[invalid], Interrupt::never()).unwrap();
    let error = decode_trajectories(&message, Interrupt::never()).unwrap_err();
    assert!(matches!(&error, Error::Corrupt { what, .. } if what.contains("reward")), "{error}");
}

#[test]
fn lengths_beyond_the_caps_are_refused_before_anything_is_allocated() {
    // version 1, one stream, tag 1 (scalars), zstd, a raw length of 2^62, a stored length of 1
    let mut bytes = vec![1, 1, 1, 1];
    bytes.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x40, 1, 0]);
    let damage = record::decode(&bytes, Columns::ALL).err().unwrap();
    assert!(damage.what.contains("the limit is"), "{}", damage.what);
}

#[test]
fn columns_that_are_not_wanted_are_left_out() {
    let bytes = encoded(&sample());
    let scalars = record::decode(&bytes, Columns::SCALARS).unwrap().trajectory;
    assert_eq!((scalars.reward, scalars.seed), (-1.0, u64::MAX));
    assert!(scalars.prompt_tokens.is_empty() && scalars.response_tokens.is_empty());
    assert_eq!(scalars.behavior_logprobs, None);
    let responses = record::decode(&bytes, Columns { response: true, ..Columns::SCALARS }).unwrap().trajectory;
    assert_eq!(responses.response_tokens, sample().response_tokens);
}

#[test]
fn tokens_and_logprobs_compress() {
    let count = 2000;
    let tokens: Vec<i32> = (0..count).map(|at| (at * 7919) % 256).collect();
    let logprobs = (0..count).map(|at| -((at * 7919 % 977) as f32 / 977.0).powi(4)).collect();
    let trajectory = Trajectory { response_tokens: tokens, behavior_logprobs: Some(logprobs), ..sample() };
    let size = encoded(&trajectory).len();
    assert!(size < 2000 * 6, "{size} bytes");
}

#[test]
fn the_content_hash_tells_problem_prompt_and_response_apart_and_nothing_else() {
    let hash = sample().content_hash();
    let moved =
        Trajectory { prompt_tokens: vec![1, 127, 128, i32::MAX, 5], response_tokens: vec![0, 70_000], ..sample() };
    assert_ne!(moved.content_hash(), hash);
    assert_ne!(Trajectory { problem_id: "other".into(), ..sample() }.content_hash(), hash);
    assert_eq!(Trajectory { reward: 0.0, seed: 1, source: "pool".into(), ..sample() }.content_hash(), hash);
}

#[test]
fn each_wrong_field_is_named() {
    let wrong = [
        ("problem_id", Trajectory { problem_id: String::new(), ..sample() }),
        ("source", Trajectory { source: String::new(), ..sample() }),
        ("prompt_tokens[1]", Trajectory { prompt_tokens: vec![0, -1], ..sample() }),
        ("response_tokens[0]", Trajectory { response_tokens: vec![-7, 1, 2], ..sample() }),
        ("reward", Trajectory { reward: f64::INFINITY, ..sample() }),
        ("behavior_logprobs", Trajectory { behavior_logprobs: Some(vec![0.0; 2]), ..sample() }),
        ("reference_logprobs[2]", Trajectory { reference_logprobs: Some(vec![0.0, 0.0, f32::NAN]), ..sample() }),
        ("mc_successes has position 4", Trajectory { mc_successes: Some(counts_at(&[0, 4], 1)), ..sample() }),
        ("mc_successes: positions[1]", Trajectory { mc_successes: Some(counts_at(&[2, 2], 1)), ..sample() }),
        ("mc_successes has 1 successes in 0", Trajectory { mc_successes: Some(counts_at(&[2], 0)), ..sample() }),
        ("temperature", Trajectory { temperature: -0.1, ..sample() }),
        ("top_p", Trajectory { top_p: 0.0, ..sample() }),
        ("min_policy_version", Trajectory { min_policy_version: 4, max_policy_version: 3, ..sample() }),
        ("metadata key", Trajectory { metadata: BTreeMap::from([(String::new(), "x".into())]), ..sample() }),
    ];
    assert!(sample().validate().is_ok());
    for (field, trajectory) in wrong {
        let error = trajectory.validate().unwrap_err();
        assert!(matches!(&error, Error::Invalid(text) if text.starts_with(field)), "{field}: {error}");
    }
}

/// Tables learned from 90 frequent tokens and logprobs near 0, and the same as a reader gets them.
fn tables(precision: Precision) -> (Tables, Tables) {
    let often: Vec<i32> = (0..70_000).map(|at| 100_000 + at % 90).collect();
    let logprobs = often.iter().map(|token| -((token % 10) as f32) / 8.0).collect();
    let learned = Trajectory { response_tokens: often, behavior_logprobs: Some(logprobs), ..sample() };
    let tables = Sample::default().add([&learned].into_iter(), precision).unwrap();
    let stored = Record::parse(&tables_frame(&tables).unwrap()).unwrap().tables().unwrap();
    (tables, stored)
}

#[test]
fn tokens_are_coded_by_the_ranks_of_what_came_first() {
    let (learned, stored) = tables(Precision::Single);
    let (ranks, stored) = (&learned.ranks, &stored.ranks);
    let tokens = [5, 100_003, 0, 99_999, i32::MAX, 100_089, 100_090];
    let bytes = columns::tokens(&tokens, Some(ranks));
    let read = |bytes: &[u8], count| {
        let mut read = vec![0; count];
        columns::read_tokens(bytes, Some(stored), &mut read).map(|()| read)
    };
    assert_eq!(read(&bytes, tokens.len()).unwrap(), tokens);
    let often: Vec<i32> = (100_000..100_090).collect();
    assert_eq!(columns::tokens(&often, Some(ranks)).len(), 90, "a byte each");
    assert_eq!(columns::tokens(&often, None).len(), 270, "three bytes each without ranks");
    let few = Trajectory { response_tokens: often, ..sample() };
    assert!(Sample::default().add([&few].into_iter(), Precision::Single).is_none(), "too few to tell");
    assert!(read(&bytes[..bytes.len() - 1], tokens.len()).is_err());
    assert!(read(&bytes, tokens.len() - 1).is_err());
}

#[test]
fn columns_of_any_length_are_the_same_after_prefix_coding() {
    for precision in [Precision::Single, Precision::Half] {
        let (learned, stored) = tables(precision);
        for count in (0..40).chain([63, 64, 65, 1000, 4097]) {
            let strange = |at: usize| if at % 50 == 7 { i32::MAX - at as i32 } else { 100_000 + at as i32 * 7 % 200 };
            let tokens: Vec<i32> = (0..count).map(strange).collect();
            let bytes = columns::coded_tokens(&tokens, &learned).unwrap();
            let mut read = vec![0; count];
            let codes = (&stored.ranks, stored.tokens.as_ref().unwrap());
            columns::read_coded_tokens(&bytes, codes, &mut read).unwrap();
            assert_eq!(read, tokens);
            if count >= 64 {
                for wrong in [&bytes[..bytes.len() - 1], &[&bytes[..], &[0]].concat()] {
                    assert!(columns::read_coded_tokens(wrong, codes, &mut read).is_err(), "{count}");
                }
                assert!(columns::read_coded_tokens(&bytes, codes, &mut vec![0; count - 5]).is_err(), "{count}");
            }
            let logprobs: Vec<f32> = (0..count).map(|at| -((at % 72) as f32) / 64.0).collect();
            let code = stored.logprobs.as_ref().unwrap();
            if let Some(bytes) = columns::coded_floats(&logprobs, precision, code) {
                assert_eq!(columns::read_coded_floats(&bytes, count, code).unwrap(), logprobs);
                assert!(columns::read_coded_floats(&bytes[..bytes.len() - 1], count, code).is_err(), "{count}");
            } else {
                assert!(count < 64, "{count} logprobs like those learned from are a gain");
            }
        }
    }
}

#[test]
fn a_record_coded_by_tables_is_whole_again_with_them_and_damage_without() {
    let (learned, stored) = tables(Precision::Single);
    let (learned, prompts) = (Arc::new(learned), Prompts::default());
    let coding = Coding { tables: Some(learned), precision: Precision::Single };
    for (count, period) in [(10, 90), (700, 90), (10_000, 89), (10_000, 3)] {
        let trajectory = Trajectory {
            response_tokens: (0..count).map(|at| 100_000 + at * at % period).collect(),
            behavior_logprobs: Some((0..count).map(|at| -(at as f32) / 64.0).collect()),
            reference_logprobs: None,
            mc_successes: None,
            ..sample()
        };
        let mut bytes = Vec::new();
        let encoded = Encoded::new(&trajectory, &coding, &prompts).unwrap();
        encoded.put(Places { prompt: None, tables: Some(77) }, &mut bytes);
        let record = Record::parse(&bytes).unwrap();
        assert_eq!(record.places().unwrap().tables, Some(77));
        assert_eq!(record.decode(Columns::ALL, Some(&stored)).unwrap().whole().unwrap(), trajectory);
        assert!(record.decode(Columns::ALL, None).is_err());
    }
}

#[test]
fn prefix_codes_that_are_not_complete_are_refused() {
    let numbers = Code::learn(Alphabet::Numbers, [(0, 1 << 60), (1, 1 << 30), (u32::MAX - 9, 7)].into_iter());
    let lengths = numbers.put();
    assert!(Code::read(Alphabet::Numbers, &lengths).is_ok());
    assert!(Code::read(Alphabet::Bytes, &lengths).is_err(), "another alphabet");
    for (at, length) in [(0, lengths[0] + 1), (1, 0), (2, 12)] {
        let mut wrong = lengths.clone();
        wrong[at] = length;
        assert!(Code::read(Alphabet::Numbers, &wrong).is_err(), "{at}: {length}");
    }
}

#[test]
fn half_precision_keeps_three_digits_and_never_an_infinity() {
    let column = [-0.0f32, -1.0e-9, -0.001234, -1.5, -17.25, -123.456, -1.0e9];
    let bytes = columns::floats(&column, Precision::Half);
    assert_eq!(bytes.len(), 2 * column.len());
    let read = columns::read_floats(&bytes, column.len()).unwrap();
    for (&wrote, &read) in column.iter().zip(&read).take(6) {
        assert!((wrote - read).abs() <= wrote.abs() / 1000.0 + 6.0e-8, "{wrote} became {read}");
    }
    assert_eq!(read[6], -65504.0);
}

#[test]
fn a_record_may_leave_its_prompt_to_a_frame_of_its_own() {
    let trajectory = Trajectory { prompt_tokens: (0..500).map(|at| at * 7919 % 5000).collect(), ..sample() };
    let encoded = encode(&trajectory);
    let (mut bytes, shared) = (Vec::new(), encoded.prompt.as_ref().unwrap().frame(None));
    encoded.put(Places { prompt: Some(12_345), tables: None }, &mut bytes);
    assert!(bytes.len() + 400 < shared.len());
    let decoded = record::decode(&bytes, Columns::ALL).unwrap();
    assert_eq!(decoded.prompt_at, Some((12_345, 500)));
    let mut prompt_tokens = vec![0; 500];
    Record::parse(&shared).unwrap().prompt(None, &mut prompt_tokens).unwrap();
    assert_eq!(Trajectory { prompt_tokens, ..decoded.trajectory }, trajectory);
    assert!(Record::parse(&shared).unwrap().prompt(None, &mut [0; 499]).is_err());
    assert!(record::decode(&bytes, Columns::ALL).unwrap().whole().is_err(), "no message may refer to a store's file");
    assert!(!encode(&sample()).prompt.unwrap().is_shareable(), "a short prompt is not worth a frame");
}
