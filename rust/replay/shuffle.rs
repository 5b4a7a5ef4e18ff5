//! The stateless shuffle: the order of an epoch as a function of seed, name, epoch and length alone. Any place of it is
//! found without the others, so nothing need be kept, and every machine has the same. A keyed Feistel network permutes
//! the next power of four; places beyond the length are walked over.

use super::random::Random;

const ROUNDS: usize = 6;

/// A permutation of `0..length`.
pub struct Shuffle {
    keys: [u64; ROUNDS],
    half_bits: u32,
    length: u64,
}

impl Shuffle {
    /// That of an epoch.
    pub fn new(seed: u64, name: &str, epoch: u32, length: usize) -> Self {
        let mut random = Random::new(seed, name);
        random.state ^= u64::from(epoch).wrapping_mul(0xd6e8_feb8_6659_fd93);
        let length = length as u64;
        let bits = u64::BITS - length.saturating_sub(1).leading_zeros();
        Shuffle { keys: std::array::from_fn(|_| random.bits()), half_bits: bits.div_ceil(2).max(1), length }
    }

    /// What comes at `place`, which is below the length.
    pub fn at(&self, place: usize) -> usize {
        let mut value = place as u64;
        loop {
            value = self.permute(value);
            // A walk through a permutation comes back to where it began, which is below the length.
            if value < self.length {
                return value as usize;
            }
        }
    }

    fn permute(&self, value: u64) -> u64 {
        let mask = (1 << self.half_bits) - 1;
        let (mut left, mut right) = (value >> self.half_bits, value & mask);
        for key in self.keys {
            let mixed = Random { state: key ^ right }.bits();
            (left, right) = (right, left ^ mixed & mask);
        }
        left << self.half_bits | right
    }
}
