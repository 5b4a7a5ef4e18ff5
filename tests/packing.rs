//! Fitting sequences into rows.

use proptest::prelude::*;
use spo_core::Error;
use spo_core::packing::pack;

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn no_two_sequences_overlap_and_none_leaves_its_row(
        lengths in proptest::collection::vec(0usize..50, 0..60),
        budget in 50usize..120,
        row_multiple in 1usize..5,
    ) {
        let layout = pack(&lengths, budget, row_multiple).unwrap();
        prop_assert!(layout.rows > 0 && layout.rows.is_multiple_of(row_multiple));
        let mut taken = vec![vec![false; budget]; layout.rows];
        for (place, length) in layout.places.iter().zip(&lengths) {
            for cell in &mut taken[place.row][place.start..place.start + length] {
                prop_assert!(!*cell);
                *cell = true;
            }
        }
    }

    #[test]
    fn rows_are_few(lengths in proptest::collection::vec(1usize..100, 1..60)) {
        let layout = pack(&lengths, 100, 1).unwrap();
        let least = lengths.iter().sum::<usize>().div_ceil(100);
        // No two rows of first-fit could be one, so at most one row is half empty.
        prop_assert!(layout.rows <= 2 * least, "{} rows where {} might do", layout.rows, least);
    }
}

#[test]
fn a_sequence_longer_than_a_row_is_refused_by_name() {
    let error = pack(&[3, 11], 10, 1).unwrap_err();
    assert!(matches!(&error, Error::Invalid(text) if text.contains("sequence 1 has 11 tokens")), "{error}");
}

#[test]
fn empty_rows_fill_up_to_the_multiple() {
    assert_eq!(pack(&[10, 10, 10], 10, 4).unwrap().rows, 4);
    assert_eq!(pack(&[], 10, 2).unwrap().rows, 2);
}

#[test]
fn rows_and_budgets_of_nothing_are_refused() {
    assert!(pack(&[], 0, 1).is_err());
    assert!(pack(&[], 1, 0).is_err());
}
