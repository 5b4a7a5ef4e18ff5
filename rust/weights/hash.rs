//! The state hash: what memory holds, and where. It follows the bytes to their final place, so it also
//! catches what wire checksums cannot: a chunk that arrived whole and was put somewhere else, or a wrong base
//! under a patch.
//!
//! The memory is cut into 8-byte lanes `x`; lane `j` of 1 KiB block `b` adds `m(b) · (x + lo32(x ^ k(j)) ·
//! hi32(x ^ k(j)))`, all modulo 2^64 with fixed pseudo-random odd `m` and keys `k`. Any change within one
//! lane changes the sum, and replacing a lane changes it by the difference of two terms, so a hash is kept up
//! to date in time proportional to the changes. Not a cryptographic hash: it finds accidents, not forgeries.

const LANE_BYTES: usize = 8;
const LANES: usize = 128;
const BLOCK_BYTES: usize = LANES * LANE_BYTES;
const KEYS: [u64; LANES] = keys();

const fn splitmix(seed: u64) -> u64 {
    let z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const fn keys() -> [u64; LANES] {
    let mut keys = [0; LANES];
    let mut lane = 0;
    while lane < LANES {
        keys[lane] = splitmix(0x5350_4F00 + lane as u64);
        lane += 1;
    }
    keys
}

/// Multipliers of the first blocks: as many as a chunk has.
static MULTIPLIERS: [u64; super::CHUNK_ELEMENTS * 4 / BLOCK_BYTES] = {
    let mut multipliers = [0; super::CHUNK_ELEMENTS * 4 / BLOCK_BYTES];
    let mut block = 0;
    while block < multipliers.len() {
        multipliers[block] = compute_multiplier(block);
        block += 1;
    }
    multipliers
};

const fn compute_multiplier(block: usize) -> u64 {
    splitmix(block as u64) | 1
}

fn multiplier(block: usize) -> u64 {
    MULTIPLIERS.get(block).copied().unwrap_or_else(|| compute_multiplier(block))
}

#[inline(always)]
fn lane_term(lane: u64, key: u64) -> u64 {
    let keyed = lane ^ key;
    lane.wrapping_add((keyed & 0xFFFF_FFFF).wrapping_mul(keyed >> 32))
}

/// The lane at `bytes[..8]`, padded with zeros at the end of the memory.
fn read_lane(bytes: &[u8]) -> u64 {
    let mut lane = [0; LANE_BYTES];
    lane[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(lane)
}

fn full_block(block: &[u8; BLOCK_BYTES]) -> u64 {
    let mut sum = 0u64;
    for (lane, key) in block.as_chunks::<LANE_BYTES>().0.iter().zip(&KEYS) {
        sum = sum.wrapping_add(lane_term(u64::from_le_bytes(*lane), *key));
    }
    sum
}

fn last_block(bytes: &[u8]) -> u64 {
    let lanes = bytes.chunks(LANE_BYTES).zip(&KEYS);
    lanes.fold(0, |sum, (lane, key)| sum.wrapping_add(lane_term(read_lane(lane), *key)))
}

/// The state hash of `bytes`: of their values, places and number.
pub fn state_hash(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<BLOCK_BYTES>();
    let mut hash = splitmix(bytes.len() as u64);
    for (index, block) in blocks.iter().enumerate() {
        hash = hash.wrapping_add(full_block(block).wrapping_mul(multiplier(index)));
    }
    hash.wrapping_add(last_block(rest).wrapping_mul(multiplier(blocks.len())))
}

/// Elements of a lane.
pub(super) const LANE_ELEMENTS: usize = LANE_BYTES / 2;

/// What is added to the hash when the content of a lane changes.
#[inline(always)]
pub(super) fn lane_difference(lane: usize, before: u64, after: u64) -> u64 {
    let key = KEYS[lane % LANES];
    lane_term(after, key).wrapping_sub(lane_term(before, key)).wrapping_mul(multiplier(lane / LANES))
}

/// Exchanges the elements of `memory` at `places`, in order, for `values`; returns its hash then, from that before.
pub(super) fn exchange(mut hash: u64, memory: &mut [u16], places: &[u32], values: &mut [u16]) -> u64 {
    let (lanes, rest) = memory.as_chunks_mut::<LANE_ELEMENTS>();
    for (&place, value) in places.iter().zip(values) {
        let (index, element) = (place as usize / LANE_ELEMENTS, place % LANE_ELEMENTS as u32);
        let difference = match lanes.get_mut(index) {
            Some(lane) => exchange_in_lane(lane, index, element, value),
            None => {
                let mut lane = [0; LANE_ELEMENTS];
                lane[..rest.len()].copy_from_slice(rest);
                let difference = exchange_in_lane(&mut lane, index, element, value);
                rest.copy_from_slice(&lane[..rest.len()]);
                difference
            }
        };
        hash = hash.wrapping_add(difference);
    }
    hash
}

/// Returns what is added to the hash.
#[inline(always)]
fn exchange_in_lane(lane: &mut [u16; LANE_ELEMENTS], index: usize, element: u32, value: &mut u16) -> u64 {
    let (before, shift) = (bytemuck::cast::<_, u64>(*lane), element * 16);
    let old = (before >> shift) as u16;
    let after = before ^ u64::from(old ^ *value) << shift;
    (*lane, *value) = (bytemuck::cast(after), old);
    lane_difference(index, before, after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_single_bit_flip_and_every_swap_changes_the_hash() {
        let mut bytes: Vec<u8> = (0..2051u32).map(|i| splitmix(i.into()) as u8).collect();
        let hash = state_hash(&bytes);
        for bit in 0..bytes.len() * 8 {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(state_hash(&bytes), hash, "bit {bit}");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        for first in 0..bytes.len() {
            let second = (first * 7 + 1025) % bytes.len();
            if bytes[first] != bytes[second] {
                bytes.swap(first, second);
                assert_ne!(state_hash(&bytes), hash, "swap of {first} and {second}");
                bytes.swap(first, second);
            }
        }
        assert_eq!(state_hash(&bytes), hash);
    }

    #[test]
    fn zeros_of_different_lengths_differ() {
        let hashes: std::collections::HashSet<u64> = (0..3000).map(|n| state_hash(&vec![0; n])).collect();
        assert_eq!(hashes.len(), 3000);
    }
}
