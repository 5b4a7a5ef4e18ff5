//! The first stream of a record: what a trajectory has besides its columns.

use std::collections::BTreeMap;

use super::bytes::{Cursor, Damage, put_bytes, put_float, put_varint};
use super::{MAX_METADATA, MAX_NAME_BYTES, MAX_TOKENS, MAX_VALUE_BYTES, Trajectory};

/// The fields of a trajectory that are no columns, and the lengths of prompt and response.
pub fn put(trajectory: &Trajectory) -> Vec<u8> {
    let mut out = Vec::with_capacity(128);
    put_varint(&mut out, trajectory.prompt_tokens.len() as u64);
    put_varint(&mut out, trajectory.response_tokens.len() as u64);
    put_bytes(&mut out, trajectory.problem_id.as_bytes());
    put_bytes(&mut out, trajectory.source.as_bytes());
    put_bytes(&mut out, trajectory.verdict.as_bytes());
    put_float(&mut out, trajectory.reward);
    put_varint(&mut out, trajectory.min_policy_version);
    put_varint(&mut out, trajectory.max_policy_version);
    put_float(&mut out, trajectory.temperature);
    put_float(&mut out, trajectory.top_p);
    put_varint(&mut out, trajectory.seed);
    put_varint(&mut out, trajectory.metadata.len() as u64);
    for (key, value) in &trajectory.metadata {
        put_bytes(&mut out, key.as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    out
}

/// The trajectory without its token columns, and the lengths of prompt and response.
pub fn read(bytes: &[u8]) -> Result<(Trajectory, usize, usize), Damage> {
    let mut cursor = Cursor::new(bytes);
    let prompt = cursor.length(MAX_TOKENS, "prompt length")?;
    let response = cursor.length(MAX_TOKENS, "response length")?;
    let mut trajectory = Trajectory {
        problem_id: cursor.text(MAX_NAME_BYTES, "problem_id")?.to_owned(),
        source: cursor.text(MAX_NAME_BYTES, "source")?.to_owned(),
        verdict: cursor.text(MAX_NAME_BYTES, "verdict")?.to_owned(),
        reward: cursor.float("reward")?,
        min_policy_version: cursor.varint("min_policy_version")?,
        max_policy_version: cursor.varint("max_policy_version")?,
        temperature: cursor.float("temperature")?,
        top_p: cursor.float("top_p")?,
        seed: cursor.varint("seed")?,
        prompt_tokens: Vec::new(),
        response_tokens: Vec::new(),
        behavior_logprobs: None,
        reference_logprobs: None,
        mc_successes: None,
        metadata: BTreeMap::new(),
    };
    for _ in 0..cursor.length(MAX_METADATA, "metadata count")? {
        let key = cursor.text(MAX_NAME_BYTES, "metadata key")?.to_owned();
        let value = cursor.text(MAX_VALUE_BYTES, "metadata value")?.to_owned();
        trajectory.metadata.insert(key, value);
    }
    cursor.finish("the metadata")?;
    Ok((trajectory, prompt, response))
}
