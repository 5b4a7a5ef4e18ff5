//! The replay buffer's random numbers: SplitMix64 (Steele, Lea and Flood, 2014). Its state is one number, and what it gives
//! is fixed here for ever, on every machine, as no library promises for its shuffles.

/// A stream of random numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Random {
    /// All there is to it; saved with the buffer.
    pub state: u64,
}

impl Random {
    /// The stream of this seed and this name: other names give unrelated streams.
    pub fn new(seed: u64, name: &str) -> Self {
        Random { state: xxhash_rust::xxh3::xxh3_64_with_seed(name.as_bytes(), seed) }
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.state;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number below `bound` (which is not 0), each as likely (Lemire's multiplication with rejection).
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        let reject_below = bound.wrapping_neg() % bound;
        loop {
            let product = u128::from(self.bits()) * u128::from(bound);
            if product as u64 >= reject_below {
                return (product >> 64) as usize;
            }
        }
    }

    /// Puts the items into a random order, each as likely (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last + 1));
        }
    }
}
