//! Outputs compared token by token, as they come: the rules differ only in when two tokens are the same.

use std::ops::Range;
use std::sync::Arc;

use super::Comparison;

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

    fn is_space(&self, byte: u8) -> bool {
        // All but CodeContests also split at form feeds.
        matches!(byte, b' ' | b'\n' | b'\t' | b'\r' | 0x0B)
            || (byte == 0x0C && !matches!(self, TokenRule::CodeContests { .. }))
    }

    fn spaces_count(&self) -> bool {
        matches!(self, TokenRule::Kattis { space_sensitive: true, .. })
    }

    fn same(&self, expected: &[u8], got: &[u8]) -> bool {
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

/// A comparison that keeps no more of the output than a token.
pub(super) struct TokenComparison {
    rule: TokenRule,
    expected: Arc<[u8]>,
    position: usize,
    /// The piece (a token, or the blanks before it) that the last bytes may not have ended.
    partial: Vec<u8>,
    wrong: bool,
}

impl TokenComparison {
    pub(super) fn new(rule: TokenRule, expected: Arc<[u8]>) -> Self {
        TokenComparison { rule, expected, position: 0, partial: Vec::new(), wrong: false }
    }

    /// The next piece of the expected output: a token; where blanks count, also a run of blanks.
    fn next_expected(&mut self) -> Option<Range<usize>> {
        let rest = &self.expected[self.position..];
        let skipped = if self.rule.spaces_count() {
            0
        } else {
            rest.iter().take_while(|byte| self.rule.is_space(**byte)).count()
        };
        let rest = &rest[skipped..];
        let blank = self.rule.is_space(*rest.first()?);
        let length = rest.iter().take_while(|byte| self.rule.is_space(**byte) == blank).count();
        let start = self.position + skipped;
        self.position = start + length;
        Some(start..self.position)
    }

    fn check(&mut self, piece: &[u8]) -> bool {
        let Some(range) = self.next_expected() else { return false };
        let expected = &self.expected[range];
        let blank = |piece: &[u8]| piece.first().is_some_and(|byte| self.rule.is_space(*byte));
        if blank(expected) || blank(piece) { expected == piece } else { self.rule.same(expected, piece) }
    }

    /// Skips what is the same byte for byte, up to a blank: the usual case, at the speed of a memory comparison.
    fn skip_identical(&mut self, bytes: &[u8]) -> usize {
        if !self.partial.is_empty() || self.rule.spaces_count() {
            return 0;
        }
        let blanks = self.expected[self.position..].iter().take_while(|byte| self.rule.is_space(**byte)).count();
        let expected = &self.expected[self.position + blanks..];
        let same = common_prefix(expected, bytes);
        match bytes[..same].iter().rposition(|byte| self.rule.is_space(*byte)) {
            Some(last) => {
                self.position += blanks + last + 1;
                last + 1
            }
            None => 0,
        }
    }

    fn take(&mut self, bytes: &[u8]) -> bool {
        let mut rest = &bytes[self.skip_identical(bytes)..];
        while let Some(first) = rest.first() {
            let blank = self.rule.is_space(*first);
            let length = rest.iter().take_while(|byte| self.rule.is_space(**byte) == blank).count();
            let (piece, behind) = rest.split_at(length);
            rest = behind;
            let continues = self.partial.first().is_some_and(|byte| self.rule.is_space(*byte) == blank);
            let ended_partial = !continues && !self.partial.is_empty();
            if !continues && !self.end_piece() {
                return false;
            }
            if !blank || self.rule.spaces_count() {
                if rest.is_empty() || continues {
                    self.partial.extend_from_slice(piece);
                } else if !self.check(piece) {
                    return false;
                }
            } else if ended_partial {
                // The token that the last bytes had cut is done, and a blank seen: both sides are between tokens again.
                rest = &rest[self.skip_identical(rest)..];
            }
        }
        true
    }

    fn end_piece(&mut self) -> bool {
        let piece = std::mem::take(&mut self.partial);
        piece.is_empty() || self.check(&piece)
    }
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const BLOCK: usize = 64;
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    let blocks = a.chunks(BLOCK).zip(b.chunks(BLOCK)).take_while(|(x, y)| x == y).count() * BLOCK;
    let start = blocks.min(length);
    start + a[start..].iter().zip(&b[start..]).take_while(|(x, y)| x == y).count()
}

impl Comparison for TokenComparison {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        self.wrong = self.wrong || !self.take(bytes);
        !self.wrong
    }

    fn finish(&mut self) -> bool {
        self.wrong = self.wrong || !self.end_piece() || self.next_expected().is_some();
        !self.wrong
    }
}
