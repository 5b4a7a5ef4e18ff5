//! The raw bytes of a column: tokens as LEB128, for most are small; logprobs split into byte planes, for the bytes of sign
//! and exponent compress and those of the mantissa hardly do.

use super::bytes::{Cursor, Damage, put_varint};

/// Tokens as LEB128 numbers.
pub fn tokens(column: &[i32]) -> Vec<u8> {
    let mut out = Vec::with_capacity(column.len() * 2);
    for &token in column {
        put_varint(&mut out, u64::from(token.unsigned_abs()));
    }
    out
}

/// `count` tokens.
pub fn read_tokens(bytes: &[u8], count: usize) -> Result<Vec<i32>, Damage> {
    // A token takes at least a byte, so a lying count cannot make this allocate more than the stream's own size.
    let mut tokens = Vec::with_capacity(count.min(bytes.len()));
    let mut cursor = Cursor::new(bytes);
    for _ in 0..count {
        let token = cursor.varint("token")?;
        tokens.push(i32::try_from(token).map_err(|_| cursor.damage(format!("token {token} exceeds 31 bits")))?);
    }
    cursor.finish("the last token")?;
    Ok(tokens)
}

/// Floats as four planes of bytes, the sign and exponent first.
pub fn floats(column: &[f32]) -> Vec<u8> {
    let mut out = vec![0; 4 * column.len()];
    for (at, value) in column.iter().enumerate() {
        for (plane, byte) in value.to_be_bytes().into_iter().enumerate() {
            out[plane * column.len() + at] = byte;
        }
    }
    out
}

/// `count` floats.
pub fn read_floats(bytes: &[u8], count: usize) -> Result<Vec<f32>, Damage> {
    if bytes.len() != 4 * count {
        let got = bytes.len();
        return Err(Damage { offset: 0, what: format!("{got} bytes of logprobs for {count} tokens") });
    }
    let byte = |plane: usize, at: usize| bytes[plane * count + at];
    Ok((0..count).map(|at| f32::from_be_bytes([byte(0, at), byte(1, at), byte(2, at), byte(3, at)])).collect())
}
