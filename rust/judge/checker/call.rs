//! Values that a function returned, compared as Python compares them, but never by Python.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Comparison;
use super::bytes::common_prefix;
use super::json::{Reader, unescaped};
use super::rules::near;

/// As deep as Python's own recursion limit lets values be.
const MAX_DEPTH: usize = 1000;

/// JSON compared by value. Text that is the same stands for the same value; nothing is kept for as long as it is.
pub(super) struct Values {
    expected: Arc<[u8]>,
    tolerance: f64,
    matched: usize,
    /// The whole output, once it differs.
    differing: Vec<u8>,
}

impl Values {
    pub(super) fn new(expected: Arc<[u8]>, tolerance: f64) -> Self {
        Values { expected, tolerance, matched: 0, differing: Vec::new() }
    }
}

impl Comparison for Values {
    fn feed(&mut self, bytes: &[u8]) -> bool {
        let mut rest = bytes;
        if self.differing.is_empty() {
            let same = common_prefix::<false>(&self.expected[self.matched..], bytes);
            self.matched += same;
            rest = &bytes[same..];
            if !rest.is_empty() {
                self.differing.extend_from_slice(&self.expected[..self.matched]);
            }
        }
        self.differing.extend_from_slice(rest);
        true
    }

    fn finish(&mut self) -> bool {
        let output = if self.differing.is_empty() { &self.expected[..self.matched] } else { &self.differing[..] };
        output.len() == self.matched && self.matched == self.expected.len()
            || same_value(&self.expected, output, self.tolerance)
    }
}

/// Whether both are JSON for equal values. Data sets sometimes wrap the answer in one more list, which is undone.
fn same_value(expected: &[u8], output: &[u8], tolerance: f64) -> bool {
    let compare = |mut expected: Reader<'_>, ends: &[u8]| {
        let mut output = Reader::new(output);
        let is_over = |reader: &mut Reader<'_>| reader.peek().is_none();
        Equality { tolerance }.same(&mut expected, &mut output, MAX_DEPTH)
            && ends.iter().all(|end| expected.take(*end))
            && is_over(&mut expected)
            && is_over(&mut output)
    };
    let expected = Reader::new(expected);
    let mut unwrapped = expected;
    compare(expected, b"") || (unwrapped.take(b'[') && compare(unwrapped, b"]"))
}

struct Equality {
    tolerance: f64,
}

impl Equality {
    /// Takes a value of each; whether they are equal. Nothing is said of the rest once they are not.
    fn same(&self, expected: &mut Reader<'_>, output: &mut Reader<'_>, depth: usize) -> bool {
        if depth == 0 {
            return false;
        }
        match (expected.peek(), output.peek()) {
            (Some(b'['), Some(b'[')) => self.same_lists(expected, output, depth - 1).is_some(),
            (Some(b'{'), Some(b'{')) => self.same_objects(expected, output, depth - 1).is_some(),
            (Some(b'"'), Some(b'"')) => same_string(expected.string(), output.string()),
            (Some(b'n'), Some(b'n')) => expected.word(b"null") && output.word(b"null"),
            _ => match (expected.number(), output.number()) {
                (Some(a), Some(b)) => self.same_number(a, b),
                _ => false,
            },
        }
    }

    fn same_lists(&self, expected: &mut Reader<'_>, output: &mut Reader<'_>, depth: usize) -> Option<()> {
        let (begun, also) = (expected.take(b'['), output.take(b'['));
        let (empty, other_empty) = (expected.take(b']'), output.take(b']'));
        if !(begun && also) || empty != other_empty {
            return None;
        }
        let mut more = !empty;
        while more {
            if !self.same(expected, output, depth) {
                return None;
            }
            more = expected.goes_on(b']')?;
            if output.goes_on(b']')? != more {
                return None;
            }
        }
        Some(())
    }

    /// Keys in any order; of several values of one key the last counts.
    fn same_objects(&self, expected: &mut Reader<'_>, output: &mut Reader<'_>, depth: usize) -> Option<()> {
        let (expected, output) = (members(expected, depth)?, members(output, depth)?);
        let same = |key: &Vec<u16>, value: &[u8]| {
            let other = output.get(key)?;
            self.same(&mut Reader::new(value), &mut Reader::new(other), depth).then_some(())
        };
        let all = expected.len() == output.len() && expected.iter().all(|(key, value)| same(key, value).is_some());
        all.then_some(())
    }

    fn same_number(&self, expected: &[u8], output: &[u8]) -> bool {
        // Whole numbers are compared as text, of any length.
        if expected == output {
            return true;
        }
        let to_number = |text| std::str::from_utf8(text).ok()?.parse::<f64>().ok();
        let (Some(a), Some(b)) = (to_number(expected), to_number(output)) else { return false };
        if self.tolerance > 0.0 {
            return near(a, b, self.tolerance, self.tolerance);
        }
        match (is_whole(expected), is_whole(output)) {
            (true, true) => false,
            (true, false) => is_exactly(b, expected),
            (false, true) => is_exactly(a, output),
            (false, false) => a == b,
        }
    }
}

fn is_whole(number: &[u8]) -> bool {
    !number.iter().any(|byte| matches!(byte, b'.' | b'e' | b'E'))
}

/// Whether a double is a whole number, of any length.
fn is_exactly(number: f64, whole: &[u8]) -> bool {
    // Adding nothing makes -0 a 0.
    number.fract() == 0.0 && format!("{:.0}", number + 0.0).as_bytes() == whole
}

fn same_string(expected: Option<&[u8]>, output: Option<&[u8]>) -> bool {
    let (Some(expected), Some(output)) = (expected, output) else { return false };
    expected == output || unescaped(expected).is_some_and(|text| unescaped(output) == Some(text))
}

/// The keys of an object, with the text of their values.
fn members<'a>(reader: &mut Reader<'a>, depth: usize) -> Option<BTreeMap<Vec<u16>, &'a [u8]>> {
    let mut found = BTreeMap::new();
    let mut more = reader.take(b'{') && !reader.take(b'}');
    while more {
        let key = unescaped(reader.string()?)?;
        if !reader.take(b':') {
            return None;
        }
        found.insert(key, reader.value(depth)?);
        more = reader.goes_on(b'}')?;
    }
    Some(found)
}
