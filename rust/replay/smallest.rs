//! The smallest of many numbers, found in one pass that passes over nearly all of them.

/// Keeps the `count` smallest of the numbers that it is offered.
pub struct Smallest {
    count: usize,
    /// At least `count` of those offered are smaller.
    limit: u128,
    kept: Vec<u128>,
}

impl Smallest {
    /// Nothing yet.
    pub fn new(count: usize) -> Self {
        Smallest { count, limit: u128::MAX, kept: Vec::new() }
    }

    /// Numbers that are not below it need not be offered.
    pub fn limit(&self) -> u128 {
        self.limit
    }

    /// Takes a number into account.
    #[inline]
    pub fn offer(&mut self, number: u128) {
        if number < self.limit {
            self.kept.push(number);
            // Seldom enough that a number costs the same however many are wanted.
            if self.kept.len() / 2 > self.count {
                self.shrink();
            }
        }
    }

    /// The smallest, in order; fewer, if fewer were offered.
    pub fn sorted(mut self) -> Vec<u128> {
        self.shrink();
        self.kept.sort_unstable();
        self.kept
    }

    fn shrink(&mut self) {
        if self.count < self.kept.len() {
            self.limit = *self.kept.select_nth_unstable(self.count).1;
            self.kept.truncate(self.count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::random::Random;
    use super::*;

    #[test]
    fn the_smallest_are_those_of_the_sorted_numbers() {
        let mut random = Random::new(1, "smallest");
        let mut numbers: Vec<u128> = (0..3000).map(|_| u128::from(random.bits() % 100_000)).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let sorted = numbers.clone();
        for count in [0, 1, 2, 17, 128, numbers.len() - 1, numbers.len(), numbers.len() + 1, usize::MAX] {
            random.shuffle(&mut numbers);
            let mut smallest = Smallest::new(count);
            for &number in &numbers {
                smallest.offer(number);
            }
            assert_eq!(smallest.sorted(), sorted[..count.min(sorted.len())], "{count}");
        }
    }
}
