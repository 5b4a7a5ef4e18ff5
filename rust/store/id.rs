//! Record ids: which segment, and which frame in it. Stable for as long as the record exists, and below 2^53, so that
//! they survive JSON. The segments of attached stores are numbered behind the store's own, in a block for each slot.

/// Highest number of a segment of the store itself.
pub const MAX_SEGMENT_NUMBER: u32 = ATTACHED_BASE - 1;
/// Highest number of a segment in an attached store.
pub const MAX_ATTACHED_NUMBER: u32 = (1 << ATTACHED_BITS) - 1;
/// Most attached stores.
pub const MAX_ATTACHED: u32 = (((1 << NUMBER_BITS) - ATTACHED_BASE) >> ATTACHED_BITS) - 1;

/// Highest sequence number of a frame with a record.
pub const MAX_SEQUENCE: u32 = (1 << SEQUENCE_BITS) - 1;

const SEQUENCE_BITS: u32 = 28;
const NUMBER_BITS: u32 = 25;
const ATTACHED_BASE: u32 = 1 << 20;
const ATTACHED_BITS: u32 = 16;

/// The id of the record in frame `sequence` of segment `number`.
pub fn record_id(number: u32, sequence: u32) -> u64 {
    u64::from(number) << SEQUENCE_BITS | u64::from(sequence)
}

/// Segment number and frame sequence number of an id; `None` if no record can have it.
pub fn split_id(id: u64) -> Option<(u32, u32)> {
    let number = u32::try_from(id >> SEQUENCE_BITS).ok()?;
    let sequence = id as u32 & MAX_SEQUENCE;
    (number < 1 << NUMBER_BITS).then_some((number, sequence))
}

/// Whether the id is of a record in an attached store.
pub fn is_attached(id: u64) -> bool {
    split_id(id).is_some_and(|(number, _)| split_attached(number).is_some())
}

/// What the segment numbers of the store in this slot, from 1, are counted from.
pub fn attached_base(slot: u32) -> u32 {
    ATTACHED_BASE + (slot << ATTACHED_BITS)
}

/// The slot and the segment number there, if a segment is of an attached store.
pub fn split_attached(number: u32) -> Option<(u32, u32)> {
    let behind = number.checked_sub(ATTACHED_BASE)?;
    Some((behind >> ATTACHED_BITS, behind & MAX_ATTACHED_NUMBER))
}
