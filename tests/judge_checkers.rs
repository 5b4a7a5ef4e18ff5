//! Checkers: vectors of what each accepts, and properties that hold for all outputs.

use proptest::prelude::*;
use serde_json::{Value, json};
use spo_core::judge::Checker;

fn checker(name: &str) -> Checker {
    name.parse().expect("a checker")
}

#[test]
fn each_checker_accepts_and_rejects_as_its_origin_does() {
    #[rustfmt::skip]
    let cases = [
        // name, expected, output, right
        ("tokens", "1 2\n3\n", "1  2 3", true), ("tokens", "1 2 3", "1 2", false), ("tokens", "1 2", "1 2 3", false),
        ("tokens", "", "  \n", true), ("tokens", "", "0", false), ("tokens", "a", "A", false),
        ("tokens", "12", "1 2", false), ("tokens", "1.0", "1", false), ("tokens", "1\u{c}2", "1 2", true),
        ("exact", "1\n", "1\n", true), ("exact", "1\n", "1", false), ("exact", "1", "1\n", false), ("exact", "", "", true),
        ("lines", "a b\nc\n", "a b \nc\n\n\n", true), ("lines", "a b", "a  b", false), ("lines", "a\nb", "a b", false),
        ("lines", "a\n\nb", "a\nb", false), ("lines", "", "\n", true), ("lines", " a", "a", false),
        ("unordered", "a b\nc\n", "c\na  b\n", true), ("unordered", "a\na\nb", "a\nb\nb", false),
        ("unordered", "a b", "b a", false),
        ("floats", "1.0", "1", true), ("floats", "1000000", "1000000.5", true), ("floats", "1", "1.00001", false),
        ("floats 1e-3", "1", "1.0009", true), ("floats", "x", "x", true), ("floats", "x", "y", false),
        ("floats", "1", "nan", false), ("floats", "nan", "nan", true), ("floats", "inf", "inf", true),
        ("floats", "inf", "1e300", false), ("floats", "inf", "-inf", false),
        ("kattis", "Yes", "yes", true), ("kattis case_sensitive", "Yes", "yes", false),
        ("kattis", "1.0", "1", false), ("kattis float_tolerance 1e-6", "1.0", "1", true),
        ("kattis float_absolute_tolerance 1e-2", "100", "100.5", false),
        ("kattis float_relative_tolerance 1e-2", "100", "100.5", true),
        ("kattis float_tolerance 1e-6", "1.0", "one", false), ("kattis float_tolerance 1e-6", "x", "X", true),
        ("kattis space_change_sensitive", "a b\n", "a  b\n", false),
        ("kattis space_change_sensitive", "a b\n", "a b\n", true), ("kattis space_change_sensitive", "a b\n", "a b", false),
        ("kattis", "a b\n", "a  b", true),
        ("code_contests", "YES", "yes", true), ("code_contests", "1.0", "1", true),
        ("code_contests", "1", "1.000009", true), ("code_contests", "1", "1.00002", false),
        ("code_contests", "9007199254740993", "9007199254740992", true),
        ("code_contests exact_int", "9007199254740993", "9007199254740992", false),
        ("code_contests exact_int", "1.0", "1", true), ("code_contests", "1 2", "1\u{b}2", true),
        ("code_contests", "1\u{c}2", "1 2", false),
        // Kattis' problemtools: validate tokens, case and space; a tolerance makes numbers of the judge's tokens numbers.
        ("kattis", "", "", true), ("kattis", "", " \n\t ", true), ("kattis", "", "x", false), ("kattis", "x", "", false),
        ("kattis", "1 2 3", "1 2", false), ("kattis", "1 2", "1 2 3", false), ("kattis", "Ä", "ä", false),
        ("kattis", "1e3", "1000", false), ("kattis float_tolerance 1e-9", "1e3", "1000", true),
        ("kattis float_tolerance 1e-6", "0.000001", "0.000002", true),
        ("kattis float_absolute_tolerance 1e-6", "1000000", "1000000.5", false),
        ("kattis float_relative_tolerance 1e-6", "0", "0.0000001", false),
        ("kattis float_relative_tolerance 1e-6", "1000000", "1000000.5", true),
        ("kattis float_absolute_tolerance 1e-9 float_relative_tolerance 1e-3", "1000", "1000.9", true),
        ("kattis float_absolute_tolerance 1e-9 float_relative_tolerance 1e-3", "0.5", "0.51", false),
        ("kattis float_tolerance 1e-6", "1", "nan", false), ("kattis float_tolerance 1e-6", "1", "inf", false),
        ("kattis float_tolerance 1e-6", "abc 1.0", "ABC 1", true),
        ("kattis case_sensitive float_tolerance 1e-6", "abc 1.0", "ABC 1", false),
        ("kattis space_change_sensitive", "a\nb", "a b", false), ("kattis space_change_sensitive", " a", "a", false),
        ("kattis space_change_sensitive case_sensitive", "a  B", "a  b", false),
        // CodeContests: lower-cased tokens, or doubles that differ by less than 1e-5, absolute only.
        ("code_contests", "", "", true), ("code_contests", "", "\n", true), ("code_contests", "1", "", false),
        ("code_contests", "No", "NO", true), ("code_contests", "abc", "abd", false), ("code_contests", "1", "one", false),
        ("code_contests", "100000000", "100000001", false), ("code_contests", "1e10", "10000000000", true),
        ("code_contests", "0.1 0.2", "0.100001 0.200001", true), ("code_contests", "0.1 0.2", "0.1 0.3", false),
        ("code_contests", "1000000000000000000", "1000000000000000001", true),
        ("code_contests exact_int", "1000000000000000000", "1000000000000000001", false),
        ("code_contests exact_int", "-5", "-5", true), ("code_contests exact_int", "05", "5", false),
        ("code_contests", "05", "5", true), ("code_contests", "1 2", "12", false), ("code_contests", "1\r\n2", "1 2", true),
        ("code_contests", "nan", "NaN", true), ("code_contests", "nan", "1", false), ("code_contests", "inf", "-inf", false),
        ("code_contests", "-0", "0", true), ("code_contests", "1", "1.000001e0", true),
        // Floats: either tolerance suffices; text stays text.
        ("floats 0", "1", "1.0", true), ("floats 0", "1", "1.0000001", false), ("floats", "-1e-7", "1e-7", true),
        ("floats", "1e400", "inf", true), ("floats", "1,5", "1.5", false), ("floats", "0x10", "16", false),
        ("floats 0.5", "10", "14.9", true), ("floats 0.5", "10", "15.1", false), ("floats", "1 a", "1.0 a", true),
        ("tokens", "\u{a0}1", "1", false), ("tokens", "1\u{b}2", "1 2", true), ("tokens", "1\x002", "1\x002", true),
        ("tokens", "1\x002", "1 2", false), ("tokens", "é", "e\u{301}", false), ("tokens", "1\r\n", "1\n", true),
        ("lines", "a\r\nb", "a\nb", true), ("lines", "a\tb", "a b", false), ("lines", "\na", "a", false),
        ("lines", "a", "a\n\n \n", true), ("lines", "a \nb", "a\nb \t", true), ("exact", "1\n", "1\r\n", false),
        ("unordered", "a\n\nb", "b\na", true), ("unordered", "a", "a\na", false), ("unordered", "", "\n\n", true),
        ("unordered", "1\t2", "1  2", true), ("unordered", "1.0", "1", false),
        // Values, as Python's == has it; `[answer]` is unwrapped, once.
        ("call", "[[6]]", "6", false), ("call", "[[6]]", "[6]", true), ("call", "1.0", "1", true), ("call", "0", "false", true),
        ("call", "\"a\"", "\"\\u0061\"", true), ("call", "1e2", "100", true), ("call", "[]", "[]", true), ("call", "[]", "{}", false),
        ("call", "-0.0", "0", true), ("call", "\"\"", "", false), ("call", "1", "1 2", false), ("call", "[null]", "null", true),
        ("call", "{\"a\": 1}", "{\"a\": 1, \"b\": 2}", false), ("call", "[1, [2, [3]]]", "[1, [2, [3.0]]]", true),
        ("call", "9007199254740993", "9007199254740992", false), ("call", "true", "\"true\"", false),
        ("call 1e-6", "[0.1, \"x\"]", "[0.1000000001, \"x\"]", true), ("call 1e-6", "1", "1.1", false),
        ("call", "[1, 2]", "[1,2]", true), ("call", "[1, 2]", "[2, 1]", false), ("call", "6", "6.0", true),
        ("call", "1", "true", true), ("call", "\"1\"", "1", false), ("call", "[6]", "6", true), ("call", "6", "[6]", false),
        ("call", "[[1, 2]]", "[1, 2]", true), ("call", "{\"a\": 1, \"b\": 2}", "{\"b\": 2, \"a\": 1}", true),
        ("call", "0.1", "0.1000001", false), ("call 1e-6", "0.1", "0.1000001", true), ("call", "null", "", false),
        ("call", "9007199254740993", "9007199254740992.0", false), ("call", "9007199254740992", "9007199254740992.0", true),
        ("call", "1e23", "99999999999999991611392", true), ("call", "1e23", "100000000000000000000000", false),
        ("call", "\"\\u00e9\"", "\"é\"", true), ("call", "\"\\ud83d\\ude00\"", "\"😀\"", true), ("call", "\"/\"", "\"\\/\"", true),
        ("call", "\"a\"", "\"a", false), ("call", "\"a\\", "\"b\\", false), ("call", "[1, 2]", "[1, 2", false), ("call", "[1]", "[1,]", false),
        ("call", "[1, 2]", "[1 2]", false), ("call", "1", "01", false), ("call", "1.0", "1.", false), ("call", "1", "+1", false),
        ("call", "1", "1 ", true), ("call", "{\"a\": [1, {\"b\": 2}]}", "{\"a\":[1,{\"b\":2}]}", true),
        ("call", "{\"a\": 1}", "{\"a\": 2, \"a\": 1}", true), ("call", "{\"a\": 1}", "{\"b\": 1}", false), ("call", "{\"a\": 1}", "{\"a\" 1}", false),
        ("call", "null", "null", true), ("call", "[]", "null", false), ("call", "1", "NaN", false),
        ("call", "123456789012345678901234567890", "123456789012345678901234567891", false),
        ("call", "123456789012345678901234567890", "123456789012345678901234567890", true),
    ];
    for (name, expected, output, right) in cases {
        let accepted = checker(name).accepts(expected.as_bytes(), output.as_bytes());
        assert_eq!(accepted, right, "{name}: expected {expected:?}, output {output:?}");
    }
}

#[test]
fn an_unknown_name_or_option_is_refused() {
    for name in ["", "token", "tokens 1", "floats x", "floats nan", "floats -1", "kattis float_tolerance", "exact x"] {
        assert!(name.parse::<Checker>().is_err(), "{name:?}");
    }
}

#[test]
fn values_as_deep_as_python_has_them_are_compared_and_deeper_ones_are_not_right() {
    let nested = |depth: usize, inner: &str| format!("{}{inner}{}", "[".repeat(depth), "]".repeat(depth));
    assert!(checker("call").accepts(nested(990, "1").as_bytes(), nested(990, "1.0").as_bytes()));
    assert!(!checker("call").accepts(nested(1_000_000, "1").as_bytes(), nested(1_000_000, "1.0").as_bytes()));
    let objects = |inner: &str| format!("{}{inner}{}", "{\"a\":".repeat(100_000), "}".repeat(100_000));
    assert!(!checker("call").accepts(objects("1").as_bytes(), objects("1.0").as_bytes()));
}

const NAMES: [&str; 9] = [
    "tokens",
    "exact",
    "lines",
    "unordered",
    "floats",
    "kattis",
    "kattis space_change_sensitive float_tolerance 1e-6",
    "code_contests",
    "code_contests exact_int",
];

/// Texts of few different bytes, so that they are often nearly alike.
fn text() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop::sample::select(b"01a.- \n\r\t".to_vec()), 0..40)
}

/// Values of few different scalars, so that they are often nearly alike.
fn cased_text() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop::sample::select(b"01anfieANFIE. \n".to_vec()), 0..40)
}

fn value() -> impl Strategy<Value = Value> {
    let scalars = [json!(null), json!(2), json!(-7), json!(0.5), json!(""), json!("a\n\"é😀"), json!("a")];
    prop::sample::select(scalars.to_vec()).prop_recursive(3, 12, 3, |inner| {
        let keys = prop::sample::select(vec!["", "a", "b\\"]);
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            proptest::collection::vec((keys, inner), 0..3)
                .prop_map(|members| members.into_iter().map(|(key, value)| (key.to_string(), value)).collect()),
        ]
    })
}

fn fed_in_pieces(checker: &Checker, expected: &[u8], output: &[u8], cuts: &[usize]) -> bool {
    let mut comparison = checker.compare(expected.into());
    let mut rest = output;
    for cut in cuts {
        let (piece, behind) = rest.split_at((*cut).min(rest.len()));
        rest = behind;
        if !comparison.feed(piece) {
            return false;
        }
    }
    comparison.feed(rest) && comparison.finish()
}

proptest! {
    #[test]
    fn every_output_is_right_for_itself(text in text()) {
        for name in NAMES {
            prop_assert!(checker(name).accepts(&text, &text), "{}", name);
        }
    }

    #[test]
    fn how_an_output_is_cut_into_pieces_does_not_matter(
        expected in text(), output in text(), same in any::<bool>(), cuts in proptest::collection::vec(0usize..6, 0..12),
    ) {
        let output = if same { expected.clone() } else { output };
        for name in NAMES {
            let checker = checker(name);
            let whole = checker.accepts(&expected, &output);
            prop_assert_eq!(fed_in_pieces(&checker, &expected, &output, &cuts), whole, "{}", name);
        }
    }

    #[test]
    fn tokens_agree_with_splitting_at_whitespace(expected in text(), output in text()) {
        let split = |text: &[u8]| -> Vec<Vec<u8>> {
            String::from_utf8_lossy(text).split_ascii_whitespace().map(|token| token.as_bytes().to_vec()).collect()
        };
        prop_assert_eq!(Checker::TOKENS.accepts(&expected, &output), split(&expected) == split(&output));
    }

    /// The letters are those that numbers may have, in either case.
    #[test]
    fn case_does_not_count_wherever_it_differs(
        expected in cased_text(), flips in proptest::collection::vec(any::<bool>(), 40), other in cased_text(),
        same in any::<bool>(), cuts in proptest::collection::vec(0usize..6, 0..12),
    ) {
        let flipped = expected.iter().zip(&flips);
        let flipped = flipped.map(|(byte, flip)| if *flip { byte.to_ascii_uppercase() } else { *byte }).collect();
        let output: Vec<u8> = if same { flipped } else { other };
        let tokens = |text: &[u8]| -> Vec<Vec<u8>> {
            text.split(u8::is_ascii_whitespace).filter(|token| !token.is_empty()).map(|t| t.to_ascii_lowercase()).collect()
        };
        let same_tokens = tokens(&expected) == tokens(&output);
        prop_assert_eq!(fed_in_pieces(&checker("kattis"), &expected, &output, &cuts), same_tokens);
        for name in ["code_contests", "code_contests exact_int"] {
            let accepts = fed_in_pieces(&checker(name), &expected, &output, &cuts);
            prop_assert!(accepts || !same_tokens);
            prop_assert_eq!(accepts, checker(name).accepts(&tokens(&expected).join(&b' '), &tokens(&output).join(&b' ')));
        }
    }

    #[test]
    fn lines_agree_with_splitting_at_line_ends(expected in text(), output in text()) {
        let lines = |text: &[u8]| -> Vec<Vec<u8>> {
            text.trim_ascii_end().split(|byte| *byte == b'\n').map(|line| line.trim_ascii_end().to_vec()).collect()
        };
        prop_assert_eq!(checker("lines").accepts(&expected, &output), lines(&expected) == lines(&output));
    }

    #[test]
    fn unordered_agrees_with_sorting_lines(expected in text(), output in text(), shuffled in any::<bool>()) {
        let sorted = |text: &[u8]| {
            let text = String::from_utf8_lossy(text).into_owned();
            let mut lines: Vec<Vec<String>> =
                text.split('\n').map(|line| line.split_ascii_whitespace().map(String::from).collect()).collect();
            lines.retain(|line: &Vec<String>| !line.is_empty());
            lines.sort();
            lines
        };
        let output = if shuffled {
            sorted(&expected).iter().map(|line| line.join(" \t")).collect::<Vec<_>>().join("\n").into_bytes()
        } else {
            output
        };
        prop_assert_eq!(checker("unordered").accepts(&expected, &output), sorted(&expected) == sorted(&output));
    }

    #[test]
    fn calls_agree_with_json_parsed_as_a_whole(expected in value(), output in value(), cuts in proptest::collection::vec(0usize..9, 0..9)) {
        let (dense, spaced) = (expected.to_string(), serde_json::to_string_pretty(&expected).expect("it is JSON"));
        prop_assert!(fed_in_pieces(&checker("call"), dense.as_bytes(), spaced.as_bytes(), &cuts));
        let unwrapped = expected.as_array().filter(|items| items.len() == 1).map(|items| &items[0]);
        let equal = expected == output || unwrapped == Some(&output);
        prop_assert_eq!(fed_in_pieces(&checker("call"), dense.as_bytes(), output.to_string().as_bytes(), &cuts), equal);
    }

    #[test]
    fn once_wrong_stays_wrong(expected in text(), output in text(), more in text()) {
        for name in NAMES {
            let mut comparison = checker(name).compare(expected.as_slice().into());
            if !comparison.feed(&output) {
                prop_assert!(!comparison.feed(&more), "{}", name);
                prop_assert!(!comparison.finish(), "{}", name);
            }
        }
    }

    #[test]
    fn rules_that_allow_more_accept_more(expected in text(), output in text()) {
        // Each accepts all that the one before it does.
        for chain in [
            &["exact", "lines", "unordered"][..], &["exact", "tokens", "floats", "floats 1e-3", "floats 1"],
            &["tokens", "kattis case_sensitive", "kattis"], &["tokens", "code_contests exact_int", "code_contests"],
            &["kattis space_change_sensitive case_sensitive", "kattis space_change_sensitive", "kattis"],
        ] {
            let accepts = |name: &&str| checker(name).accepts(&expected, &output);
            prop_assert!(chain.iter().map(accepts).is_sorted(), "{:?}", chain);
        }
    }

    #[test]
    fn blanks_between_tokens_do_not_count(tokens in proptest::collection::vec("[a-z0-9.]{1,4}", 0..8), blanks in "[ \\n\\t\\r]{1,4}") {
        let (expected, output) = (tokens.join(" "), format!("{blanks}{}{blanks}", tokens.join(&blanks)));
        for name in ["tokens", "floats", "kattis", "code_contests", "code_contests exact_int"] {
            prop_assert!(checker(name).accepts(expected.as_bytes(), output.as_bytes()), "{}", name);
        }
    }

    #[test]
    fn numbers_count_by_their_distance(number in -1e6f64..1e6, by in -1e-4f64..1e-4) {
        let (expected, output) = (format!("{number:?}"), format!("{:?}", number + by));
        let accepts = |name: &str| checker(name).accepts(expected.as_bytes(), output.as_bytes());
        let difference = (number - (number + by)).abs();
        prop_assert_eq!(accepts("code_contests"), difference < 1e-5);
        prop_assert_eq!(accepts("kattis float_absolute_tolerance 1e-5"), difference <= 1e-5);
        prop_assert_eq!(accepts("floats 1e-5"), difference <= 1e-5 * number.abs().max(1.0));
        prop_assert_eq!(accepts("call 1e-5"), difference <= 1e-5 * number.abs().max(1.0));
    }

    #[test]
    fn no_bytes_make_a_checker_fail(expected in proptest::collection::vec(any::<u8>(), 0..60), output in proptest::collection::vec(any::<u8>(), 0..60)) {
        for name in NAMES.iter().chain(&["call", "call 1e-6"]) {
            checker(name).accepts(&expected, &output);
        }
    }
}
