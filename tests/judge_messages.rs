//! What the judge's helper says, garbled: the stable half of the fuzz target `rust/fuzz/targets/helper_messages.rs`.
//!
//! `PROPTEST_CASES=50000000 cargo test --release --test judge_messages` goes on for longer, with another seed each time.

use proptest::prelude::*;
use proptest::sample::Index;
use spo_core::Error;
use spo_core::sandbox::describe_message;

/// No longer ones are read.
const MAX_MESSAGE_BYTES: usize = 16 << 10;

/// The end of a run: who ended it, whether it compiled, wait status, CPU seconds, seconds, peak bytes, reason.
fn end() -> impl Strategy<Value = Vec<u8>> {
    (0u8..5, 0u8..4, any::<i32>(), 0.0f64..9.0, 0.0f64..9.0, any::<u64>(), "[a-z]{0,9}").prop_map(
        |(ended_by, compiled, status, cpu_s, wall_s, peak, reason)| {
            let (times, peak) = ([cpu_s.to_ne_bytes(), wall_s.to_ne_bytes()], peak.to_ne_bytes());
            let fields: [&[u8]; 5] =
                [&[b'D', ended_by, compiled], &status.to_ne_bytes(), times.as_flattened(), &peak, reason.as_bytes()];
            fields.concat()
        },
    )
}

/// What the helper does say.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let words = prop::sample::select(vec![b"C".to_vec(), b"W".to_vec(), b"K".to_vec(), b"".to_vec()]);
    let texts = "[NE][ -~é\\n]{0,40}".prop_map(String::into_bytes);
    prop_oneof![4 => end(), 1 => words, 2 => texts]
}

/// One thing that can happen to a message.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Cut(Index),
    Insert(Index, Vec<u8>),
    /// Eight bytes become a number that is none, or one at an edge.
    Overwrite(Index, u64),
    Append(Vec<u8>),
    Repeat(u16),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let odd = [f64::NAN, f64::INFINITY, -0.0, -1.0, f64::MAX].map(f64::to_bits);
    let edges = odd.into_iter().chain([0, 1, u64::MAX, 1 << 63]).collect::<Vec<_>>();
    let bytes = proptest::collection::vec(any::<u8>(), 0..20);
    prop_oneof![
        (any::<Index>(), 1u8..).prop_map(|(place, bits)| Mutation::Flip(place, bits)),
        any::<Index>().prop_map(Mutation::Cut),
        (any::<Index>(), bytes.clone()).prop_map(|(place, bytes)| Mutation::Insert(place, bytes)),
        (any::<Index>(), prop::sample::select(edges)).prop_map(|(place, edge)| Mutation::Overwrite(place, edge)),
        bytes.prop_map(Mutation::Append),
        (2u16..300).prop_map(Mutation::Repeat),
    ]
}

fn mutate(message: &mut Vec<u8>, mutation: Mutation) {
    let length = message.len();
    match mutation {
        Mutation::Flip(place, bits) if length > 0 => message[place.index(length)] ^= bits,
        Mutation::Cut(place) => message.truncate(place.index(length + 1)),
        Mutation::Insert(place, bytes) => {
            let place = place.index(length + 1);
            message.splice(place..place, bytes);
        }
        Mutation::Overwrite(place, edge) if length >= 8 => {
            let place = place.index(length - 7);
            message[place..place + 8].copy_from_slice(&edge.to_ne_bytes());
        }
        Mutation::Append(bytes) => message.extend(bytes),
        Mutation::Repeat(times) => {
            *message = message.repeat(usize::from(times));
            message.truncate(MAX_MESSAGE_BYTES);
        }
        Mutation::Flip(..) | Mutation::Overwrite(..) => {}
    }
}

/// It is refused as the judge's own failure, or it is something that the helper says, of no other size than its own.
fn check(message: &[u8]) -> Result<(), TestCaseError> {
    match describe_message(message) {
        Err(Error::Judge(reason)) => prop_assert!(reason.len() <= 256 + 3 * message.len(), "{}", reason),
        Err(other) => return Err(TestCaseError::fail(format!("{other:?} is no failure of the judge"))),
        Ok(said) => {
            let kinds = ["Compiled", "TimeIsUp", "NotCompiled(", "CompilerDied", "Ended("];
            prop_assert!(kinds.iter().any(|kind| said.starts_with(kind)), "{}", said);
            prop_assert!(said.len() <= 256 + 10 * message.len(), "{}", said);
            if said.starts_with("Ended(") {
                prop_assert_eq!(message.len(), 31);
                prop_assert!(!said.contains("NaN") && !said.contains("inf") && !said.contains("_s: -1"), "{}", said);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_garbled_message_is_refused_or_is_one_that_the_helper_could_have_sent(
        message in message(), mutations in proptest::collection::vec(mutation(), 0..4),
    ) {
        let mut message = message;
        for mutation in mutations {
            mutate(&mut message, mutation);
        }
        check(&message)?;
    }

    #[test]
    fn any_bytes_are_refused_or_are_one_that_the_helper_could_have_sent(
        message in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        check(&message)?;
    }
}
