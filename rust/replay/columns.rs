//! The columns of a batch with one value a trajectory, gathered so that whoever has them need not keep the trajectories.

use super::batch::Batch;

/// `[B]` each.
#[derive(Debug, Clone, PartialEq)]
pub struct Columns {
    /// The row that the trajectory lies in.
    pub rows: Vec<u32>,
    /// The column of its first token.
    pub starts: Vec<u32>,
    /// Tokens of its prompt.
    pub prompt_lengths: Vec<u32>,
    /// Tokens of its response.
    pub response_lengths: Vec<u32>,
    /// Its reward.
    pub rewards: Vec<f32>,
    /// What it was sampled with.
    pub temperatures: Vec<f32>,
    /// Version of the weights at its first token.
    pub min_policy_versions: Vec<u64>,
    /// Version of the weights at its last token.
    pub max_policy_versions: Vec<u64>,
    /// Its id in the store.
    pub ids: Vec<u64>,
    /// The number of this use, from 1.
    pub uses: Vec<u32>,
    /// Whether it has the reference's log-probabilities.
    pub has_reference_logprobs: Vec<bool>,
    /// Its source.
    pub sources: Names,
    /// Its problem.
    pub problem_ids: Names,
}

/// Strings, one after the other.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Names {
    text: String,
    ends: Vec<usize>,
}

impl Names {
    /// The strings.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| &self.text[start..end])
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(strings: I) -> Self {
        let mut names = Names::default();
        for string in strings {
            names.text.push_str(string);
            names.ends.push(names.text.len());
        }
        names
    }
}

impl From<&Batch> for Columns {
    fn from(batch: &Batch) -> Self {
        let records = || batch.items.iter().map(|(item, _)| &*item.trajectory);
        Columns {
            rows: batch.places.iter().map(|place| place.row as u32).collect(),
            starts: batch.places.iter().map(|place| place.start as u32).collect(),
            prompt_lengths: records().map(|record| record.prompt_tokens.len() as u32).collect(),
            response_lengths: records().map(|record| record.response_tokens.len() as u32).collect(),
            rewards: records().map(|record| record.reward as f32).collect(),
            temperatures: records().map(|record| record.temperature as f32).collect(),
            min_policy_versions: records().map(|record| record.min_policy_version).collect(),
            max_policy_versions: records().map(|record| record.max_policy_version).collect(),
            ids: batch.items.iter().map(|(item, _)| item.id).collect(),
            uses: batch.items.iter().map(|(_, uses)| *uses).collect(),
            has_reference_logprobs: records().map(|record| record.reference_logprobs.is_some()).collect(),
            sources: records().map(|record| record.source.as_str()).collect(),
            problem_ids: records().map(|record| record.problem_id.as_str()).collect(),
        }
    }
}
