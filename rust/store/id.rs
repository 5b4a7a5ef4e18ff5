//! Record ids: which segment, and which frame in it. Stable for as long as the record exists, and below 2^53, so that
//! they survive JSON.

/// Highest segment number.
pub const MAX_SEGMENT_NUMBER: u32 = (1 << 20) - 1;
const SEQUENCE_BITS: u32 = 28;

/// The id of the record in frame `sequence` of segment `number`.
pub fn record_id(number: u32, sequence: u32) -> u64 {
    u64::from(number) << SEQUENCE_BITS | u64::from(sequence)
}

/// Segment number and frame sequence number of an id; `None` if no record can have it.
pub fn split_id(id: u64) -> Option<(u32, u32)> {
    let number = u32::try_from(id >> SEQUENCE_BITS).ok()?;
    let sequence = (id & ((1 << SEQUENCE_BITS) - 1)) as u32;
    (number <= MAX_SEGMENT_NUMBER).then_some((number, sequence))
}
