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

    /// Where a trajectory stands in the queue: the smallest is drawn first.
    pub fn turn(self, age: u64, min_policy_version: u64, log_priority: f64, random: &mut Random) -> u64 {
        match self {
            Order::Oldest => min_policy_version,
            Order::Uniform => random.bits(),
            Order::Recent { half_life } => weighted(-(age as f64) / half_life * std::f64::consts::LN_2, random),
            Order::Priority { exponent } => weighted(log_priority * exponent, random),
        }
    }
}

/// A key that is smallest with a chance in proportion to the weight: ln(−ln u) − ln w, as an integer of the same order.
fn weighted(log_weight: f64, random: &mut Random) -> u64 {
    // Of 53 bits, and neither 0 nor 1: both logarithms are finite.
    let uniform = ((random.bits() >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    ordered(ln(-ln(uniform)) - log_weight)
}

/// Maps floating-point numbers to integers that compare as they do.
fn ordered(value: f64) -> u64 {
    let bits = value.to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The natural logarithm of a positive normal number, to about 1e-15, the same on every machine.
pub fn ln(value: f64) -> f64 {
    let bits = value.to_bits();
    let mut exponent = (bits >> 52) as i64 - 1023;
    let mut mantissa = f64::from_bits(bits & ((1 << 52) - 1) | 1023 << 52);
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    // ln m = 2 artanh((m − 1) / (m + 1)), with an argument of at most 0.172.
    let ratio = (mantissa - 1.0) / (mantissa + 1.0);
    let square = ratio * ratio;
    let series = (0..11).rev().fold(0.0, |sum, term| sum * square + 1.0 / f64::from(2 * term + 1));
    2.0 * ratio * series + exponent as f64 * std::f64::consts::LN_2
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
