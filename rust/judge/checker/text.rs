//! Outputs compared as bytes or lines.

use std::sync::Arc;

use super::Comparison;

/// Byte by byte, as they come.
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

/// Kept whole (the output limit bounds it) and compared at its end.
pub(super) struct Whole<F> {
    expected: Arc<[u8]>,
    output: Vec<u8>,
    same: F,
}

impl<F: Fn(&[u8], &[u8]) -> bool> Whole<F> {
    pub(super) fn new(expected: Arc<[u8]>, same: F) -> Self {
        Whole { expected, output: Vec::new(), same }
    }
}

impl<F: Fn(&[u8], &[u8]) -> bool> Comparison for Whole<F> {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        self.output.extend_from_slice(bytes);
        true
    }

    fn finish(&mut self) -> bool {
        (self.same)(&self.expected, &self.output)
    }
}

/// Blanks at the end of a line and empty lines at the end do not count.
pub(super) fn same_lines(expected: &[u8], output: &[u8]) -> bool {
    lines(expected).eq(lines(output))
}

fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.trim_ascii_end().split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end)
}

/// Each line as its tokens; empty lines do not count.
pub(super) fn same_lines_in_any_order(expected: &[u8], output: &[u8]) -> bool {
    sorted_lines(expected) == sorted_lines(output)
}

fn sorted_lines(text: &[u8]) -> Vec<Vec<&[u8]>> {
    let tokens = |line| -> Vec<&[u8]> {
        let words = <[u8]>::split(line, u8::is_ascii_whitespace);
        words.filter(|word| !word.is_empty()).collect()
    };
    let mut lines: Vec<_> = text.split(|byte| *byte == b'\n').map(tokens).filter(|line| !line.is_empty()).collect();
    lines.sort_unstable();
    lines
}
