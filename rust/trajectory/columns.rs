//! The bytes of a column: tokens as LEB128, by rank where there are ranks, or by a prefix code of ranks; logprobs split into
//! byte planes, for the first (sign and exponent) compresses, by a prefix code too, and the others hardly do.

use half::f16;

use super::bytes::{Cursor, Damage, put_varint};
use super::prefix::{Code, put_words};
use super::ranks::Ranks;
use super::tables::Tables;

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
        None => numbers(column.iter().map(|&token| token as u32), column.len()),
    }
}

/// Most bytes of a code: 31 bits, and the ranks before them.
const MAX_CODE_BYTES: usize = 5;

fn numbers(codes: impl Iterator<Item = u32>, count: usize) -> Vec<u8> {
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
            put_varint(&mut long, u64::from(code));
            out[at..at + long.len()].copy_from_slice(&long);
            at += long.len();
        }
    }
    out.truncate(at);
    out
}

/// Reads as many tokens as there are in `out`.
pub fn read_tokens(bytes: &[u8], ranks: Option<&Ranks>, out: &mut [i32]) -> Result<(), Damage> {
    match ranks {
        Some(ranks) => read_numbers(bytes, out, |code| Some(ranks.token(u32::try_from(code).ok()?))),
        None => read_numbers(bytes, out, |code| i32::try_from(code).ok()),
    }
}

fn read_numbers(bytes: &[u8], out: &mut [i32], token: impl Fn(u64) -> Option<i32>) -> Result<(), Damage> {
    let mut at = 0;
    for slot in out {
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
        *slot = token(code).filter(|&token| token >= 0).ok_or_else(wrong)?;
    }
    match bytes.len() - at {
        0 => Ok(()),
        left => Err(Damage { offset: at, what: format!("{left} bytes are left after the last token") }),
    }
}

/// Tokens by a prefix code of their ranks.
pub fn coded_tokens(column: &[i32], tables: &Tables) -> Option<Vec<u8>> {
    let code = tables.tokens.as_ref()?;
    let mut out = Vec::with_capacity(2 * column.len());
    put_words(column, |token| tables.word(token, code), &mut out);
    Some(out)
}

/// Reads as many tokens as there are in `out`, that [`coded_tokens`] coded.
pub fn read_coded_tokens(bytes: &[u8], (ranks, code): (&Ranks, &Code), out: &mut [i32]) -> Result<(), Damage> {
    let used = code.decode(bytes, out, |code| ranks.token(code))?;
    if used != bytes.len() {
        return Err(Damage {
            offset: used,
            what: format!("{} bytes are left after the last token", bytes.len() - used),
        });
    }
    match out.iter().fold(0, |all, &token| all | token) {
        0.. => Ok(()),
        _ => Err(Damage { offset: 0, what: "a token code exceeds 31 bits".to_owned() }),
    }
}

/// What [`floats`] makes, the first plane by a prefix code; `None` if that is no gain.
pub fn coded_floats(column: &[f32], precision: Precision, code: &Code) -> Option<Vec<u8>> {
    let planes = floats(column, precision);
    let (first, rest) = planes.split_at(column.len());
    let mut out = Vec::with_capacity(planes.len() + 16);
    put_words(first, |byte| code.word(u32::from(byte)), &mut out);
    out.extend_from_slice(rest);
    (out.len() < planes.len()).then_some(out)
}

/// `count` floats that [`coded_floats`] coded.
pub fn read_coded_floats(bytes: &[u8], count: usize, code: &Code) -> Result<Vec<f32>, Damage> {
    let mut first = vec![0; count];
    let used = code.decode(bytes, &mut first, |byte| byte as u8)?;
    join(&first, &bytes[used..])
}

/// The byte of a float that [`floats`] puts first.
pub fn first_byte(value: f32, precision: Precision) -> u8 {
    match precision {
        Precision::Single => value.to_be_bytes()[0],
        Precision::Half => half(value).to_be_bytes()[0],
    }
}

fn half(value: f32) -> f16 {
    f16::from_f32(value.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
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
            for (&value, (a, b)) in column.iter().zip(first.iter_mut().zip(second)) {
                [*a, *b] = half(value).to_be_bytes();
            }
            out
        }
    }
}

/// `count` floats, of the precision that the number of bytes tells.
pub fn read_floats(bytes: &[u8], count: usize) -> Result<Vec<f32>, Damage> {
    match bytes.split_at_checked(count) {
        Some((first, rest)) => join(first, rest),
        None => join(&[], bytes),
    }
}

/// Floats out of the first plane and the others.
fn join(first: &[u8], rest: &[u8]) -> Result<Vec<f32>, Damage> {
    let count = first.len();
    if rest.len() == 3 * count {
        let (second, low) = rest.split_at(count);
        let (third, fourth) = low.split_at(count);
        let planes = first.iter().zip(second).zip(third.iter().zip(fourth));
        return Ok(planes.map(|((&a, &b), (&c, &d))| f32::from_be_bytes([a, b, c, d])).collect());
    }
    if rest.len() == count {
        return Ok(first.iter().zip(rest).map(|(&a, &b)| f16::from_be_bytes([a, b]).to_f32()).collect());
    }
    let got = rest.len();
    Err(Damage { offset: 0, what: format!("{got} bytes of logprobs behind the first ones of {count} tokens") })
}
