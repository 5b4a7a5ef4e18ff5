//! The trajectory: the record of one rollout (prompt, response, verdict, reward, how it was sampled), and its one
//! encoding ([`record`]) for wire, store and buffer. [`batch`] puts many into one checksummed message.
//!
//! It knows nothing of tokenizers, files or sampling order.

pub mod batch;
pub mod bytes;
pub mod columns;
pub mod compression;
mod late;
pub mod prefix;
pub mod ranks;
pub mod record;
mod scalars;
pub mod tables;

use std::collections::BTreeMap;

pub use late::{Late, MonteCarlo};
use xxhash_rust::xxh3::Xxh3;

use crate::error::{Error, Result};

/// Most tokens in a prompt, and in a response.
pub const MAX_TOKENS: usize = 1 << 22;
/// Most bytes in a name: problem id, source, verdict, metadata key.
pub const MAX_NAME_BYTES: usize = 1 << 16;
/// Most bytes in a metadata value.
pub const MAX_VALUE_BYTES: usize = 1 << 20;
/// Most metadata entries.
pub const MAX_METADATA: usize = 1 << 10;

/// The record of one rollout.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    /// Which problem the prompt states.
    pub problem_id: String,
    /// Tokens of the prompt, none negative.
    pub prompt_tokens: Vec<i32>,
    /// Tokens of the response, the end token included.
    pub response_tokens: Vec<i32>,
    /// What `reward.py` made of the verdict.
    pub reward: f64,
    /// The judge's verdict, by name.
    pub verdict: String,
    /// Where it came from: `online`, or the name of a pool of other experience.
    pub source: String,
    /// Log-probability of each response token under the policy that sampled it.
    pub behavior_logprobs: Option<Vec<f32>>,
    /// Log-probability of each response token under the reference policy.
    pub reference_logprobs: Option<Vec<f32>>,
    /// Outcomes of continuations from within the response.
    pub mc_successes: Option<MonteCarlo>,
    /// Version of the weights at the first token.
    pub min_policy_version: u64,
    /// Version of the weights at the last token.
    pub max_policy_version: u64,
    /// Sampling temperature; 0 is greedy.
    pub temperature: f64,
    /// Share of probability mass that sampling kept.
    pub top_p: f64,
    /// Seed of the sampler.
    pub seed: u64,
    /// Anything else worth keeping.
    pub metadata: BTreeMap<String, String>,
}

impl AsRef<Trajectory> for Trajectory {
    fn as_ref(&self) -> &Trajectory {
        self
    }
}

impl Trajectory {
    /// Checks every field; the error names the first that is wrong.
    pub fn validate(&self) -> Result<()> {
        check_name("problem_id", &self.problem_id)?;
        check_name("source", &self.source)?;
        check_text("verdict", &self.verdict, MAX_NAME_BYTES)?;
        check_tokens("prompt_tokens", &self.prompt_tokens)?;
        check_tokens("response_tokens", &self.response_tokens)?;
        check_logprobs("behavior_logprobs", &self.behavior_logprobs, self.response_tokens.len())?;
        check_logprobs("reference_logprobs", &self.reference_logprobs, self.response_tokens.len())?;
        if let Some(counts) = &self.mc_successes {
            counts.validate(self.response_tokens.len())?;
        }
        if !self.reward.is_finite() {
            return Err(Error::invalid(format!("reward must be finite, got {}", self.reward)));
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(Error::invalid(format!("temperature must be finite and at least 0, got {}", self.temperature)));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(Error::invalid(format!("top_p must be above 0 and at most 1, got {}", self.top_p)));
        }
        if self.min_policy_version > self.max_policy_version {
            return Err(Error::invalid(format!(
                "min_policy_version {} is above max_policy_version {}",
                self.min_policy_version, self.max_policy_version
            )));
        }
        self.check_metadata()
    }

    fn check_metadata(&self) -> Result<()> {
        if self.metadata.len() > MAX_METADATA {
            let count = self.metadata.len();
            return Err(Error::invalid(format!("metadata has {count} entries, the limit is {MAX_METADATA}")));
        }
        for (key, value) in &self.metadata {
            check_name("metadata key", key)?;
            check_text(&format!("metadata[{key:?}]"), value, MAX_VALUE_BYTES)?;
        }
        Ok(())
    }

    /// Prompt and response tokens together.
    pub fn num_tokens(&self) -> usize {
        self.prompt_tokens.len() + self.response_tokens.len()
    }

    /// 128-bit hash of problem, prompt and response: two trajectories with the same one are the same experience.
    pub fn content_hash(&self) -> [u8; 16] {
        let mut hash = Xxh3::new();
        let mut add = |bytes: &[u8]| {
            hash.update(&(bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(self.problem_id.as_bytes());
        add(&little_endian(&self.prompt_tokens));
        add(&little_endian(&self.response_tokens));
        hash.digest128().to_le_bytes()
    }
}

fn little_endian(tokens: &[i32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

fn check_name(field: &str, text: &str) -> Result<()> {
    if text.is_empty() {
        return Err(Error::invalid(format!("{field} must not be empty")));
    }
    check_text(field, text, MAX_NAME_BYTES)
}

fn check_text(field: &str, text: &str, cap: usize) -> Result<()> {
    match text.len() {
        length if length <= cap => Ok(()),
        length => Err(Error::invalid(format!("{field} has {length} bytes, the limit is {cap}"))),
    }
}

fn check_tokens(field: &str, tokens: &[i32]) -> Result<()> {
    if tokens.len() > MAX_TOKENS {
        return Err(Error::invalid(format!("{field} has {} tokens, the limit is {MAX_TOKENS}", tokens.len())));
    }
    // Without an early end, so that many are looked at at once.
    if tokens.iter().fold(0, |all, &token| all | token) >= 0 {
        return Ok(());
    }
    let at = tokens.iter().position(|&token| token < 0).unwrap_or(0);
    Err(Error::invalid(format!("{field}[{at}] is {}, tokens must not be negative", tokens[at])))
}

fn check_logprobs(field: &str, logprobs: &Option<Vec<f32>>, tokens: usize) -> Result<()> {
    let Some(logprobs) = logprobs else { return Ok(()) };
    if logprobs.len() != tokens {
        let length = logprobs.len();
        return Err(Error::invalid(format!("{field} has {length} values for {tokens} response tokens")));
    }
    if logprobs.iter().fold(true, |all, value| all & value.is_finite()) {
        return Ok(());
    }
    let at = logprobs.iter().position(|value| !value.is_finite()).unwrap_or(0);
    Err(Error::invalid(format!("{field}[{at}] must be finite, got {}", logprobs[at])))
}
