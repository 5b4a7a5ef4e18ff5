//! When an output is right. A [`Checker`] is a rule, chosen by name; a [`Comparison`] applies it to one output as it comes.
//!
//! | name | an output is right when |
//! | --- | --- |
//! | `tokens` | its whitespace-separated tokens are those expected, byte for byte |
//! | `floats [TOLERANCE]` | as `tokens`, but numbers may differ by TOLERANCE (1e-6), absolute or relative |
//! | `kattis [FLAGS]` | the default validator of Kattis accepts it, with its flags |
//! | `code_contests [exact_int]` | CodeContests accepts it: case ignored, numbers within 1e-5 |
//! | `lines` | its lines are those expected, but for blanks at the end of each and empty lines at the end |
//! | `unordered` | it has the same lines in any order, blanks ignored as in `tokens` |
//! | `exact` | it has the same bytes |
//! | `call [TOLERANCE]` | it is JSON for an equal value, as Python compares; for call mode |
//!
//! An output that is expected byte for byte is right by every rule.

mod bytes;
mod call;
mod json;
mod rules;
mod text;
mod tokens;

use std::str::FromStr;
use std::sync::Arc;

pub use rules::TokenRule;

use crate::Error;

/// A rule for outputs.
#[derive(Clone, Debug, PartialEq)]
pub enum Checker {
    /// Token by token.
    Tokens(TokenRule),
    /// Line by line.
    Lines,
    /// The same lines in any order.
    Unordered,
    /// Byte by byte.
    Exact,
    /// As values; numbers may differ by the tolerance, absolute or relative.
    Call {
        /// 0 unless given.
        tolerance: f64,
    },
}

/// The rule applied to one output.
pub trait Comparison {
    /// Takes the next bytes; false once the output cannot become right any more.
    fn feed(&mut self, bytes: &[u8]) -> bool;

    /// Whether the whole output, all of which has been fed, is right.
    fn finish(&mut self) -> bool;
}

impl Checker {
    /// Plain tokens: the default.
    pub const TOKENS: Checker = Checker::Tokens(TokenRule::Text { ignore_case: false });

    /// Starts a comparison.
    pub fn compare(&self, expected: Arc<[u8]>) -> Box<dyn Comparison + Send> {
        match self {
            Checker::Tokens(rule) => Box::new(tokens::TokenComparison::new(rule.clone(), expected)),
            Checker::Exact => Box::new(text::Exact::new(expected)),
            Checker::Lines => Box::new(text::Lines::in_order(expected)),
            Checker::Unordered => Box::new(text::Lines::in_any_order(expected)),
            Checker::Call { tolerance } => Box::new(call::Values::new(expected, *tolerance)),
        }
    }

    /// Compares a whole output at once.
    pub fn accepts(&self, expected: &[u8], output: &[u8]) -> bool {
        let mut comparison = self.compare(expected.into());
        comparison.feed(output) && comparison.finish()
    }
}

impl FromStr for Checker {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let mut words = text.split_ascii_whitespace();
        let (name, options) = (words.next().unwrap_or_default(), words.collect::<Vec<_>>());
        match (name, options.as_slice()) {
            ("tokens", []) => Ok(Checker::TOKENS),
            ("lines", []) => Ok(Checker::Lines),
            ("unordered", []) => Ok(Checker::Unordered),
            ("exact", []) => Ok(Checker::Exact),
            ("call", []) => Ok(Checker::Call { tolerance: 0.0 }),
            ("call", [tolerance]) => Ok(Checker::Call { tolerance: number(text, tolerance)? }),
            ("floats", []) => Ok(Checker::Tokens(TokenRule::floats(1e-6))),
            ("floats", [tolerance]) => Ok(Checker::Tokens(TokenRule::floats(number(text, tolerance)?))),
            ("code_contests", []) => Ok(Checker::Tokens(TokenRule::CodeContests { exact_int: false })),
            ("code_contests", ["exact_int"]) => Ok(Checker::Tokens(TokenRule::CodeContests { exact_int: true })),
            ("kattis", flags) => kattis(text, flags),
            _ => Err(Error::invalid(format!(
                "checker {text:?} is unknown: give tokens, lines, exact, unordered, floats [TOLERANCE], kattis [FLAGS], \
                 code_contests [exact_int] or call [TOLERANCE]"
            ))),
        }
    }
}

fn number(text: &str, word: &str) -> Result<f64, Error> {
    let bad = || Error::invalid(format!("checker {text:?}: {word:?} is no tolerance (a number not below 0)"));
    word.parse::<f64>().ok().filter(|value| *value >= 0.0).ok_or_else(bad)
}

fn kattis(text: &str, flags: &[&str]) -> Result<Checker, Error> {
    let (mut case_sensitive, mut space_sensitive) = (false, false);
    let (mut absolute, mut relative) = (None, None);
    let mut flags = flags.iter();
    while let Some(flag) = flags.next() {
        let mut tolerance = || {
            let missing = || Error::invalid(format!("checker {text:?}: {flag} needs a number behind it"));
            number(text, flags.next().ok_or_else(missing)?)
        };
        match *flag {
            "case_sensitive" => case_sensitive = true,
            "space_change_sensitive" => space_sensitive = true,
            "float_absolute_tolerance" => absolute = Some(tolerance()?),
            "float_relative_tolerance" => relative = Some(tolerance()?),
            "float_tolerance" => {
                absolute = Some(tolerance()?);
                relative = absolute;
            }
            other => return Err(Error::invalid(format!("checker {text:?}: {other:?} is no Kattis flag"))),
        }
    }
    let ignore_case = !case_sensitive;
    Ok(Checker::Tokens(TokenRule::Kattis { ignore_case, space_sensitive, absolute, relative }))
}
