//! Outputs compared token by token, as they come.
//!
//! Both texts are compared as bytes for as long as they are the same, but for the case of letters where that does not count.
//! Where they differ, the tokens there are compared by the rule; text that is the same is right by every rule. So nothing of an output is kept but a token that differs from
//! the one expected and is not at its end yet.

use std::sync::Arc;

use super::bytes::{Blanks, common_prefix, run_length, run_length_at_end};
use super::{Comparison, TokenRule};

/// A comparison by a [`TokenRule`]. Texts consist of pieces: tokens and, where blanks count, the runs of blanks.
pub(super) struct TokenComparison {
    rule: TokenRule,
    blanks: &'static Blanks,
    expected: Arc<[u8]>,
    /// Where the current piece of the expected output begins, or blanks before it that do not count.
    position: usize,
    /// So many bytes of the current piece have come, and are those expected.
    matched: usize,
    /// The current piece as it came, once it differs; then `matched` is 0.
    differing: Vec<u8>,
    wrong: bool,
}

impl TokenComparison {
    pub(super) fn new(rule: TokenRule, expected: Arc<[u8]>) -> Self {
        let blanks = rule.blanks();
        TokenComparison { rule, blanks, expected, position: 0, matched: 0, differing: Vec::new(), wrong: false }
    }

    fn is_blank(&self, byte: u8) -> bool {
        self.blanks[usize::from(byte)]
    }

    fn common_prefix(&self, expected: &[u8], bytes: &[u8]) -> usize {
        if self.rule.ignores_case() {
            common_prefix::<true>(expected, bytes)
        } else {
            common_prefix::<false>(expected, bytes)
        }
    }

    /// Takes the next bytes; false when a piece is wrong.
    fn take(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let used = match self.differing.first() {
                Some(first) => self.take_rest_of_piece(bytes, self.is_blank(*first)),
                None => self.take_identical(bytes),
            };
            let Some(used) = used else { return false };
            bytes = &bytes[used..];
        }
        true
    }

    /// The rest of a piece that differs, if its end is here; gives the number of bytes used, `None` when it is wrong.
    fn take_rest_of_piece(&mut self, bytes: &[u8], blank: bool) -> Option<usize> {
        let length = run_length(bytes, self.blanks, blank);
        self.differing.extend_from_slice(&bytes[..length]);
        if length < bytes.len() && !self.end_differing() {
            return None;
        }
        Some(length)
    }

    /// What is the same, up to the piece that is not; gives the number of bytes used, `None` when that piece is wrong.
    fn take_identical(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut skipped = 0;
        if self.matched == 0 && !self.rule.blanks_count() {
            self.position += run_length(&self.expected[self.position..], self.blanks, true);
            skipped = run_length(bytes, self.blanks, true);
        }
        let bytes = &bytes[skipped..];
        let begin = self.position + self.matched;
        let same = self.common_prefix(&self.expected[begin..], bytes);
        let end = begin + same;
        let (here, there) = (bytes.get(same).copied(), self.expected.get(end).copied());
        let Some(last) = end.checked_sub(1).filter(|last| *last >= self.position).map(|last| self.expected[last])
        else {
            // The first byte of a piece differs, unless there is none.
            return Some(skipped + if here.is_some() { self.take_first_piece(bytes)? } else { 0 });
        };
        let blank = self.is_blank(last);
        let [goes_on, should_go_on] = [here, there].map(|byte| byte.is_some_and(|byte| self.is_blank(byte) == blank));
        let is_right = here.is_some() && !goes_on && !should_go_on;
        if is_right || (blank && !self.rule.blanks_count()) {
            (self.position, self.matched) = (end, 0);
            return Some(skipped + same);
        }
        self.keep_last_piece(end, same, blank);
        if here.is_some() {
            if self.rule.is_exact() {
                return None;
            }
            self.differing.extend_from_slice(&self.expected[self.position..end]);
            self.matched = 0;
            if !goes_on && !self.end_differing() {
                return None;
            }
        }
        Some(skipped + same)
    }

    /// Makes the piece at `end`, whose last `same` bytes or fewer came now, the current one.
    fn keep_last_piece(&mut self, end: usize, same: usize, blank: bool) {
        let length = run_length_at_end(&self.expected[end - same..end], self.blanks, blank);
        let began_before = length == same && self.matched > 0 && self.is_blank(self.expected[self.position]) == blank;
        if !began_before {
            self.position = end - length;
        }
        self.matched = end - self.position;
    }

    /// A piece none of which is as expected, with its end or without.
    fn take_first_piece(&mut self, bytes: &[u8]) -> Option<usize> {
        let length = run_length(bytes, self.blanks, self.is_blank(*bytes.first()?));
        if length == bytes.len() && !self.rule.is_exact() {
            self.differing.extend_from_slice(bytes);
        } else if !self.check(&bytes[..length]) {
            return None;
        }
        Some(length)
    }

    fn end_differing(&mut self) -> bool {
        let piece = std::mem::take(&mut self.differing);
        let right = self.check(&piece);
        // Kept for the next one.
        self.differing = piece;
        self.differing.clear();
        right
    }

    /// Whether a piece is the next of the expected output, which it uses up.
    fn check(&mut self, piece: &[u8]) -> bool {
        let rest = &self.expected[self.position..];
        let Some(first) = rest.first() else { return false };
        let expected = &rest[..run_length(rest, self.blanks, self.is_blank(*first))];
        self.position += expected.len();
        let any_blank = self.is_blank(*first) || piece.first().is_some_and(|byte| self.is_blank(*byte));
        expected == piece || (!any_blank && self.rule.same(expected, piece))
    }

    fn end(&mut self) -> bool {
        if self.matched > 0 {
            self.differing.extend_from_slice(&self.expected[self.position..self.position + self.matched]);
            self.matched = 0;
        }
        if !self.differing.is_empty() && !self.end_differing() {
            return false;
        }
        let rest = &self.expected[self.position..];
        rest.is_empty() || (!self.rule.blanks_count() && run_length(rest, self.blanks, true) == rest.len())
    }
}

impl Comparison for TokenComparison {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        self.wrong = self.wrong || !self.take(bytes);
        !self.wrong
    }

    fn finish(&mut self) -> bool {
        self.wrong = self.wrong || !self.end();
        !self.wrong
    }
}
