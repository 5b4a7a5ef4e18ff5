//! Reading and writing of the small primitives (varints, strings, floats) that every encoding here is made of. Reading
//! never trusts a length: it is checked against a named cap and against the bytes that are there, before allocation.

/// What is wrong with a piece of bytes, and where in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Offset in the bytes that were being read.
    pub offset: usize,
    /// What is wrong there.
    pub what: String,
}

/// Appends an unsigned LEB128 number.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a length-prefixed byte string.
pub fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Tags of the floats that come most: they take no byte besides. Rewards, temperatures and shares are mostly these.
const SHORT_FLOATS: [(u8, f64); 3] = [(2, -1.0), (3, 0.0), (4, 1.0)];

/// Appends a float: a tag alone for -1, 0 and 1, else as [`put_long_float`].
pub fn put_float(out: &mut Vec<u8>, value: f64) {
    match SHORT_FLOATS.iter().find(|(_, short)| short.to_bits() == value.to_bits()) {
        Some(&(tag, _)) => out.push(tag),
        None => put_long_float(out, value),
    }
}

/// Appends a float: four bytes after a 0 where that is exact, else eight bytes after a 1.
pub fn put_long_float(out: &mut Vec<u8>, value: f64) {
    let narrow = value as f32;
    if f64::from(narrow).to_bits() == value.to_bits() {
        out.push(0);
        out.extend_from_slice(&narrow.to_le_bytes());
    } else {
        out.push(1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// A place in some bytes, moving forward.
pub struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        Cursor { bytes, at: 0 }
    }

    /// The offset of the next byte.
    pub fn offset(&self) -> usize {
        self.at
    }

    /// The damage `what`, at this place.
    pub fn damage(&self, what: impl Into<String>) -> Damage {
        Damage { offset: self.at, what: what.into() }
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize, what: &str) -> Result<&'a [u8], Damage> {
        let left = &self.bytes[self.at..];
        let taken = left
            .get(..count)
            .ok_or_else(|| self.damage(format!("{what} needs {count} bytes, {} are left", left.len())))?;
        self.at += count;
        Ok(taken)
    }

    /// The next bytes as an array.
    pub fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], Damage> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// One byte.
    pub fn byte(&mut self, what: &str) -> Result<u8, Damage> {
        Ok(self.array::<1>(what)?[0])
    }

    /// An unsigned LEB128 number.
    #[inline]
    pub fn varint(&mut self, what: &str) -> Result<u64, Damage> {
        match self.bytes.get(self.at..self.at + 2) {
            Some(&[byte, _]) if byte < 0x80 => {
                self.at += 1;
                Ok(u64::from(byte))
            }
            Some(&[low, high]) if high < 0x80 => {
                self.at += 2;
                Ok(u64::from(low & 0x7f) | u64::from(high) << 7)
            }
            _ => self.long_varint(what),
        }
    }

    fn long_varint(&mut self, what: &str) -> Result<u64, Damage> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let Some(&byte) = self.bytes.get(self.at) else { return self.byte(what).map(u64::from) };
            self.at += 1;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(self.damage(format!("{what} is a number of more than 64 bits")))
    }

    /// A number that counts or measures something, at most `cap`.
    pub fn length(&mut self, cap: usize, what: &str) -> Result<usize, Damage> {
        let value = self.varint(what)?;
        match usize::try_from(value) {
            Ok(value) if value <= cap => Ok(value),
            _ => Err(self.damage(format!("{what} is {value}, the limit is {cap}"))),
        }
    }

    /// A length-prefixed string of at most `cap` bytes.
    pub fn text(&mut self, cap: usize, what: &str) -> Result<&'a str, Damage> {
        let length = self.length(cap, what)?;
        let bytes = self.take(length, what)?;
        std::str::from_utf8(bytes).map_err(|_| self.damage(format!("{what} is not UTF-8")))
    }

    /// A float as [`put_float`] or [`put_long_float`] writes it.
    pub fn float(&mut self, what: &str) -> Result<f64, Damage> {
        match self.byte(what)? {
            0 => Ok(f64::from(f32::from_le_bytes(self.array(what)?))),
            1 => Ok(f64::from_le_bytes(self.array(what)?)),
            tag => match SHORT_FLOATS.iter().find(|(short, _)| *short == tag) {
                Some(&(_, value)) => Ok(value),
                None => Err(self.damage(format!("{what} has the unknown width tag {tag}"))),
            },
        }
    }

    /// Checks that nothing is left.
    pub fn finish(&self, what: &str) -> Result<(), Damage> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            left => Err(self.damage(format!("{left} bytes are left after {what}"))),
        }
    }
}
