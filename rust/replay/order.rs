//! In which order usable online trajectories are drawn. Weighted orders draw without replacement, each trajectory with a
//! chance in proportion to its weight among those still left (Efraimidis and Spirakis, 2006), in logarithms, so that no
//! weight is too small or too large. Only +, −, × and / of IEEE 754 are used: every machine gets the same order.

use super::random::Random;

/// Which online trajectories are drawn first.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Order {
    /// The least used; among them those that came first: none expires while a younger one is used.
    Oldest,
    /// The least used; among them any, with equal chance.
    Uniform,
    /// Any, with a chance that halves with every so many versions of age.
    Recent {
        /// Versions.
        half_life: f64,
    },
    /// Any, with a chance in proportion to its priority to a power (Schaul et al., 2016).
    Priority {
        /// The power; 0 is uniform.
        exponent: f64,
    },
}

impl Order {
    /// Whether the least used go before all others.
    pub fn least_used_first(self) -> bool {
        matches!(self, Order::Oldest | Order::Uniform)
    }

    /// Where trajectories stand in the queue, in the order given: the smallest is drawn first.
    pub fn turns(self, trajectories: impl Iterator<Item = Standing>, random: &mut Random) -> Vec<u64> {
        match self {
            Order::Oldest => trajectories.map(|one| one.min_policy_version).collect(),
            Order::Uniform => trajectories.map(|_| random.bits()).collect(),
            Order::Recent { half_life } => {
                weighted(trajectories.map(|one| -(one.age as f64) / half_life * std::f64::consts::LN_2), random)
            }
            Order::Priority { exponent } => weighted(trajectories.map(|one| one.log_priority * exponent), random),
        }
    }
}

/// What decides a trajectory's turn.
#[derive(Debug, Clone, Copy)]
pub struct Standing {
    /// In versions.
    pub age: u64,
    /// Version of the weights at its first token.
    pub min_policy_version: u64,
    /// Logarithm of its priority.
    pub log_priority: f64,
}

/// Keys that are smallest with a chance in proportion to the weight: ln(−ln u) − ln w, as integers of the same order. In
/// passes over arrays, which become vector instructions.
fn weighted(log_weights: impl Iterator<Item = f64>, random: &mut Random) -> Vec<u64> {
    let log_weights: Vec<f64> = log_weights.collect();
    // Of 53 bits, and neither 0 nor 1: both logarithms are finite.
    let uniform = || ((random.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    let mut keys: Vec<f64> = std::iter::repeat_with(uniform).take(log_weights.len()).collect();
    for key in &mut keys {
        *key = -ln(*key);
    }
    for key in &mut keys {
        *key = ln(*key);
    }
    keys.iter().zip(log_weights).map(|(key, log_weight)| ordered(key - log_weight)).collect()
}

/// Maps floating-point numbers to integers that compare as they do.
fn ordered(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// 1/21, 1/19, … 1/3, 1: what the powers of the square are multiplied by.
const SERIES: [f64; 11] = [
    1.0 / 21.0,
    1.0 / 19.0,
    1.0 / 17.0,
    1.0 / 15.0,
    1.0 / 13.0,
    1.0 / 11.0,
    1.0 / 9.0,
    1.0 / 7.0,
    1.0 / 5.0,
    1.0 / 3.0,
    1.0,
];

/// The natural logarithm of a positive normal number, to about 1e-15, the same on every machine.
#[inline]
pub fn ln(value: f64) -> f64 {
    let bits = value.to_bits();
    let mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    let is_upper = mantissa > std::f64::consts::SQRT_2;
    let mantissa = if is_upper { mantissa * 0.5 } else { mantissa };
    let exponent = f64::from((bits >> 52) as i32 - 1023 + i32::from(is_upper));
    // ln m = 2 artanh((m − 1) / (m + 1)), with an argument of at most 0.172.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let series = SERIES.iter().fold(0.0, |sum, factor| sum * square + factor);
    2.0 * ratio * series + exponent * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right() {
        for value in [1e-300, 1e-17, 0.1, 0.5, 0.999_999, 1.0, 1.5, 2.0, 12345.678, 1e300] {
            assert!((ln(value) - value.ln()).abs() <= 1e-14 * value.ln().abs().max(1.0), "{value}");
        }
    }

    #[test]
    fn integers_compare_as_the_numbers_they_stand_for() {
        let values = [f64::NEG_INFINITY, -7.5, -1e-300, 0.0, 1e-300, 7.5, f64::INFINITY];
        assert!(values.windows(2).all(|pair| ordered(pair[0]) < ordered(pair[1])));
    }
}
