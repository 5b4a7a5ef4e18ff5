//! The rules for tokens: what separates them, and when two are the same.

use super::bytes::{Blanks, C_BLANKS, CODE_CONTESTS_BLANKS};

/// When two tokens are the same.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenRule {
    /// The same text.
    Text {
        /// ASCII letters match in either case.
        ignore_case: bool,
    },
    /// The same text, or two numbers that differ little.
    Floats {
        /// Allowed difference.
        absolute: f64,
        /// Allowed difference as a share of the expected number; either suffices.
        relative: f64,
    },
    /// The default validator of Kattis (problemtools): where a tolerance is given and the expected token is a number,
    /// numbers are compared; else text.
    Kattis {
        /// ASCII letters match in either case (its default).
        ignore_case: bool,
        /// Blanks must be the same too.
        space_sensitive: bool,
        /// Allowed difference, if numbers are to be compared as such.
        absolute: Option<f64>,
        /// Allowed share of the expected number; either suffices.
        relative: Option<f64>,
    },
    /// The checker of DeepMind's CodeContests.
    CodeContests {
        /// Compares whole numbers as text; the original compares them as doubles, so that they blur above 2^53.
        exact_int: bool,
    },
}

impl TokenRule {
    /// The same tolerance, absolute or relative.
    pub fn floats(tolerance: f64) -> Self {
        TokenRule::Floats { absolute: tolerance, relative: tolerance }
    }

    pub(super) fn blanks(&self) -> &'static Blanks {
        if matches!(self, TokenRule::CodeContests { .. }) { &CODE_CONTESTS_BLANKS } else { &C_BLANKS }
    }

    pub(super) fn blanks_count(&self) -> bool {
        matches!(self, TokenRule::Kattis { space_sensitive: true, .. })
    }

    /// Whether a token is only ever the same as its very bytes.
    pub(super) fn is_exact(&self) -> bool {
        *self == TokenRule::Text { ignore_case: false }
    }

    /// Whether all tokens that differ in nothing but the case of ASCII letters are the same.
    pub(super) fn ignores_case(&self) -> bool {
        match self {
            TokenRule::Text { ignore_case } => *ignore_case,
            TokenRule::Floats { .. } => false,
            // Not "NaN" and "nan", where numbers are compared as such.
            TokenRule::Kattis { ignore_case, absolute, relative, .. } => {
                *ignore_case && absolute.is_none() && relative.is_none()
            }
            TokenRule::CodeContests { .. } => true,
        }
    }

    /// Whether the token of the output is the same as that expected.
    pub(super) fn same(&self, expected: &[u8], got: &[u8]) -> bool {
        match *self {
            TokenRule::Text { ignore_case } => same_text(expected, got, ignore_case),
            TokenRule::Floats { absolute, relative } => {
                expected == got || both_numbers(expected, got).is_some_and(|(a, b)| near(a, b, absolute, relative))
            }
            TokenRule::Kattis { ignore_case, absolute, relative, .. } => {
                let compares_numbers = absolute.is_some() || relative.is_some();
                match to_number(expected).filter(|_| compares_numbers) {
                    Some(number) => to_number(got)
                        .is_some_and(|other| near(number, other, absolute.unwrap_or(-1.0), relative.unwrap_or(-1.0))),
                    None => same_text(expected, got, ignore_case),
                }
            }
            TokenRule::CodeContests { exact_int } => {
                same_text(expected, got, true)
                    || (!(exact_int && is_integer(expected) && is_integer(got))
                        && both_numbers(expected, got).is_some_and(|(a, b)| (a - b).abs() < 1e-5))
            }
        }
    }
}

fn same_text(expected: &[u8], got: &[u8], ignore_case: bool) -> bool {
    if ignore_case { expected.eq_ignore_ascii_case(got) } else { expected == got }
}

pub(super) fn near(expected: f64, got: f64, absolute: f64, relative: f64) -> bool {
    let difference = (expected - got).abs();
    // Nothing but itself is near an infinity.
    expected == got || (difference.is_finite() && (difference <= absolute || difference <= relative * expected.abs()))
}

fn both_numbers(a: &[u8], b: &[u8]) -> Option<(f64, f64)> {
    Some((to_number(a)?, to_number(b)?))
}

fn to_number(token: &[u8]) -> Option<f64> {
    std::str::from_utf8(token).ok()?.parse().ok()
}

fn is_integer(token: &[u8]) -> bool {
    let digits = token.strip_prefix(b"-").or(token.strip_prefix(b"+")).unwrap_or(token);
    !digits.is_empty() && digits.iter().all(u8::is_ascii_digit)
}
