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

    /// Where a trajectory stands in the queue: the smallest is drawn first. `None` if that surely is above `limit`. Takes
    /// from `random` the same whatever the limit.
    #[inline]
    pub fn turn(self, one: Standing, limit: u64, random: &mut Random) -> Option<u64> {
        match self {
            Order::Oldest => Some(one.min_policy_version),
            Order::Uniform => Some(random.bits()),
            Order::Recent { half_life } => {
                weighted(-(one.age as f64) / half_life * std::f64::consts::LN_2, limit, random.bits())
            }
            Order::Priority { exponent } => weighted(one.log_priority * exponent, limit, random.bits()),
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

/// A key that is smallest with a chance in proportion to the weight: ln(−ln u) − ln w, as an integer of the same order.
/// `None` if it surely is above `limit`, which for most is told without a logarithm.
#[inline]
fn weighted(log_weight: f64, limit: u64, bits: u64) -> Option<u64> {
    // Of 53 bits, and neither 0 nor 1: both logarithms are finite.
    let uniform = ((bits >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
    // −ln u ≥ 1 − u, which is at least the power of two in it. Rounded differences are in the order of exact ones.
    let least = f64::from(exponent(1.0 - uniform)) * std::f64::consts::LN_2 - ROUNDING;
    if ordered(least - log_weight) > limit {
        return None;
    }
    Some(ordered(ln(-ln(uniform)) - log_weight))
}

/// More than what rounding may add to a logarithm of a key.
const ROUNDING: f64 = 1e-9;

/// The power of two in a positive normal number.
fn exponent(value: f64) -> i32 {
    (value.to_bits() >> 52) as i32 - 1023
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
    let exponent = f64::from(exponent(value) + i32::from(is_upper));
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
    fn only_turns_above_the_limit_are_passed_over() {
        let mut random = Random::new(1, "limits");
        let passed = (0..10_000).filter(|at| {
            let (bits, log_weight) = (random.bits(), f64::from(at % 23 - 11) * 1e3f64.powi(at % 5));
            let turn = weighted(log_weight, u64::MAX, bits).expect("nothing is above");
            assert!(weighted(log_weight, turn, bits) == Some(turn), "{bits} {log_weight}");
            let limit = weighted(log_weight, u64::MAX, random.bits()).expect("nothing is above");
            let told = weighted(log_weight, limit, bits);
            assert!(told == Some(turn) || turn > limit, "{bits} {log_weight} {limit}");
            told.is_none()
        });
        assert!(passed.count() > 2_000);
    }

    #[test]
    fn integers_compare_as_the_numbers_they_stand_for() {
        let values = [f64::NEG_INFINITY, -7.5, -1e-300, 0.0, 1e-300, 7.5, f64::INFINITY];
        assert!(values.windows(2).all(|pair| ordered(pair[0]) < ordered(pair[1])));
    }
}
