//! The raw bytes of a column: tokens as LEB128, by rank where there are ranks; logprobs split into byte planes, for the
//! first (sign and exponent) compresses and the others hardly do.

use half::f16;

use super::bytes::{Cursor, Damage, put_varint};
use super::ranks::Ranks;

/// How exactly logprobs are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Precision {
    /// As they are: float32.
    #[default]
    Single,
    /// Rounded to float16: three decimal digits, half the bytes.
    Half,
}

/// Tokens as LEB128 numbers.
pub fn tokens(column: &[i32], ranks: Option<&Ranks>) -> Vec<u8> {
    match ranks {
        Some(ranks) => numbers(column.iter().map(|&token| ranks.code(token)), column.len()),
        None => numbers(column.iter().map(|&token| token as u64), column.len()),
    }
}

/// Most bytes of a code: 31 bits, and the ranks before them.
const MAX_CODE_BYTES: usize = 5;

fn numbers(codes: impl Iterator<Item = u64>, count: usize) -> Vec<u8> {
    let mut out = vec![0; MAX_CODE_BYTES * count];
    let (mut at, mut long) = (0, Vec::with_capacity(MAX_CODE_BYTES));
    for code in codes {
        if code < 0x4000 {
            // One byte or two, without a branch that depends on which: they alternate unpredictably.
            let two = u8::from(code >= 0x80);
            out[at] = code as u8 & 0x7f | two << 7;
            out[at + 1] = (code >> 7) as u8;
            at += 1 + usize::from(two);
        } else {
            long.clear();
            put_varint(&mut long, code);
            out[at..at + long.len()].copy_from_slice(&long);
            at += long.len();
        }
    }
    out.truncate(at);
    out
}

/// Appends `count` tokens.
pub fn read_tokens(bytes: &[u8], count: usize, ranks: Option<&Ranks>, out: &mut Vec<i32>) -> Result<(), Damage> {
    match ranks {
        Some(ranks) => read_numbers(bytes, count, out, |code| ranks.token(code)),
        None => read_numbers(bytes, count, out, |code| i32::try_from(code).ok()),
    }
}

fn read_numbers(
    bytes: &[u8],
    count: usize,
    out: &mut Vec<i32>,
    token: impl Fn(u64) -> Option<i32>,
) -> Result<(), Damage> {
    // A token takes at least a byte, so a lying count cannot make this allocate more than the stream's own size.
    if count > bytes.len() {
        return Err(Damage { offset: bytes.len(), what: format!("{count} tokens in {} bytes", bytes.len()) });
    }
    let start = out.len();
    out.resize(start + count, 0);
    let mut at = 0;
    for slot in &mut out[start..] {
        let code = match bytes.get(at..at + 2) {
            // One byte or two, without a branch that depends on which: they alternate unpredictably.
            Some(&[low, high]) if low & high & 0x80 == 0 => {
                let two = u64::from(low >> 7);
                at += 1 + two as usize;
                u64::from(low & 0x7f) | (two * (u64::from(high) << 7))
            }
            _ => {
                let mut cursor = Cursor::new(&bytes[at..]);
                let code = cursor.varint("token").map_err(|damage| Damage { offset: at + damage.offset, ..damage })?;
                at += cursor.offset();
                code
            }
        };
        let wrong = || Damage { offset: at, what: format!("token code {code} exceeds 31 bits") };
        *slot = token(code).ok_or_else(wrong)?;
    }
    match bytes.len() - at {
        0 => Ok(()),
        left => Err(Damage { offset: at, what: format!("{left} bytes are left after the last token") }),
    }
}

/// Floats as planes of bytes, the sign and exponent first: four planes, or two with half the precision.
pub fn floats(column: &[f32], precision: Precision) -> Vec<u8> {
    let count = column.len();
    match precision {
        Precision::Single => {
            let mut out = vec![0; 4 * count];
            let (high, low) = out.split_at_mut(2 * count);
            let (first, second) = high.split_at_mut(count);
            let (third, fourth) = low.split_at_mut(count);
            let planes = first.iter_mut().zip(second).zip(third.iter_mut().zip(fourth));
            for (value, ((a, b), (c, d))) in column.iter().zip(planes) {
                [*a, *b, *c, *d] = value.to_be_bytes();
            }
            out
        }
        Precision::Half => {
            let mut out = vec![0; 2 * count];
            let (first, second) = out.split_at_mut(count);
            let (least, most) = (f16::MIN.to_f32(), f16::MAX.to_f32());
            for (value, (a, b)) in column.iter().zip(first.iter_mut().zip(second)) {
                [*a, *b] = f16::from_f32(value.clamp(least, most)).to_be_bytes();
            }
            out
        }
    }
}

/// `count` floats, of the precision that the number of bytes tells.
pub fn read_floats(bytes: &[u8], count: usize) -> Result<Vec<f32>, Damage> {
    if bytes.len() == 4 * count {
        let (high, low) = bytes.split_at(2 * count);
        let (first, second) = high.split_at(count);
        let (third, fourth) = low.split_at(count);
        let planes = first.iter().zip(second).zip(third.iter().zip(fourth));
        return Ok(planes.map(|((&a, &b), (&c, &d))| f32::from_be_bytes([a, b, c, d])).collect());
    }
    if bytes.len() == 2 * count {
        let (first, second) = bytes.split_at(count);
        return Ok(first.iter().zip(second).map(|(&a, &b)| f16::from_be_bytes([a, b]).to_f32()).collect());
    }
    let got = bytes.len();
    Err(Damage { offset: 0, what: format!("{got} bytes of logprobs for {count} tokens") })
}
