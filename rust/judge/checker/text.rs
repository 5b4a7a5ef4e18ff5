//! Outputs compared as bytes or lines, as they come.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, LazyLock};

use memchr::{memchr, memchr_iter, memrchr};
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::Comparison;
use super::bytes::{C_BLANKS, common_prefix};

/// Byte by byte.
pub(super) struct Exact {
    expected: Arc<[u8]>,
    position: usize,
    wrong: bool,
}

impl Exact {
    pub(super) fn new(expected: Arc<[u8]>) -> Self {
        Exact { expected, position: 0, wrong: false }
    }
}

impl Comparison for Exact {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        self.wrong = self.wrong || !self.expected[self.position..].starts_with(bytes);
        if !self.wrong {
            self.position += bytes.len();
        }
        !self.wrong
    }

    fn finish(&mut self) -> bool {
        !self.wrong && self.position == self.expected.len()
    }
}

/// Line by line. In order: blanks at the end of a line and empty lines at the end do not count. In any order: lines are
/// their tokens, and empty ones do not count.
pub(super) struct Lines {
    expected: Arc<[u8]>,
    position: usize,
    /// The beginning of a line that is not at its end yet.
    partial: Vec<u8>,
    /// Lines that are not where they are expected; `None` where the order counts.
    elsewhere: Option<Bag>,
    wrong: bool,
}

impl Lines {
    pub(super) fn in_order(expected: Arc<[u8]>) -> Self {
        Lines { expected, position: 0, partial: Vec::new(), elsewhere: None, wrong: false }
    }

    pub(super) fn in_any_order(expected: Arc<[u8]>) -> Self {
        Lines { elsewhere: Some(Bag::default()), ..Lines::in_order(expected) }
    }

    fn take(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.partial.is_empty() {
                bytes = &bytes[self.skip_identical(bytes)..];
            }
            let Some(length) = memchr(b'\n', bytes) else {
                self.partial.extend_from_slice(bytes);
                return true;
            };
            if !self.end_line(&bytes[..length]) {
                return false;
            }
            bytes = &bytes[length + 1..];
        }
        true
    }

    /// Whole lines that are the same, byte for byte.
    fn skip_identical(&mut self, bytes: &[u8]) -> usize {
        let same = common_prefix::<false>(&self.expected[self.position..], bytes);
        let skipped = memrchr(b'\n', &bytes[..same]).map_or(0, |last| last + 1);
        self.position += skipped;
        skipped
    }

    fn end_line(&mut self, rest: &[u8]) -> bool {
        if self.partial.is_empty() {
            return self.check(rest);
        }
        let mut line = std::mem::take(&mut self.partial);
        line.extend_from_slice(rest);
        self.check(&line)
    }

    fn check(&mut self, line: &[u8]) -> bool {
        let rest = &self.expected[self.position..];
        let length = memchr(b'\n', rest).unwrap_or(rest.len());
        if rest[..length].trim_ascii_end() == line.trim_ascii_end() {
            self.position += (length + 1).min(rest.len());
            return true;
        }
        if let Some(bag) = &mut self.elsewhere {
            bag.add(line);
        }
        self.elsewhere.is_some()
    }

    fn end(&mut self) -> bool {
        if !self.partial.is_empty() && !self.end_line(b"") {
            return false;
        }
        let rest = &self.expected[self.position..];
        match &mut self.elsewhere {
            None => rest.trim_ascii().is_empty(),
            Some(bag) => {
                let mut missing = Bag::default();
                let mut begin = 0;
                for end in memchr_iter(b'\n', rest).chain([rest.len()]) {
                    missing.add(&rest[begin..end]);
                    begin = end + 1;
                }
                *bag == missing
            }
        }
    }
}

impl Comparison for Lines {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        self.wrong = self.wrong || !self.take(bytes);
        !self.wrong
    }

    fn finish(&mut self) -> bool {
        self.wrong = self.wrong || !self.end();
        !self.wrong
    }
}

/// Lines in any order, known by the sum of their hashes: they take no memory, and different ones are taken for the same
/// once in 2^128. The seed is this process's own, so that no program can look for such lines.
#[derive(Default, PartialEq)]
struct Bag {
    num_lines: u64,
    sum: u128,
}

static SEED: LazyLock<u64> = LazyLock::new(|| RandomState::new().build_hasher().finish());

impl Bag {
    /// Adds the line's tokens, if it has any.
    fn add(&mut self, line: &[u8]) {
        let hash = if is_usual(line) {
            xxh3_128_with_seed(line, *SEED)
        } else {
            let tokens = line.split(|byte| C_BLANKS[usize::from(*byte)]).filter(|token| !token.is_empty());
            let usual = tokens.collect::<Vec<_>>().join(&b' ');
            if usual.is_empty() {
                return;
            }
            xxh3_128_with_seed(&usual, *SEED)
        };
        self.num_lines += 1;
        self.sum = self.sum.wrapping_add(hash);
    }
}

/// Whether a line is its tokens, with one blank between them.
fn is_usual(line: &[u8]) -> bool {
    let mut after_blank = true;
    for byte in line {
        let is_blank = C_BLANKS[usize::from(*byte)];
        if is_blank && (after_blank || *byte != b' ') {
            return false;
        }
        after_blank = is_blank;
    }
    !after_blank
}
