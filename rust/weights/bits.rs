//! Streams of bits, the lowest of a byte first.

/// Zeros behind what is read, so that eight bytes can be taken anywhere.
const PADDING: usize = 8;

/// Gathers bits.
#[derive(Default)]
pub(super) struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    num_pending: u32,
}

impl BitWriter {
    /// Appends the lowest `count` bits of `value`, whose others are zero; at most 32.
    pub(super) fn write(&mut self, value: u32, count: u32) {
        self.pending |= u64::from(value) << self.num_pending;
        self.num_pending += count;
        if self.num_pending >= 32 {
            self.bytes.extend_from_slice(&(self.pending as u32).to_le_bytes());
            self.pending >>= 32;
            self.num_pending -= 32;
        }
    }

    /// The bytes, the last filled up with zeros.
    pub(super) fn finish(mut self) -> Vec<u8> {
        let left = self.num_pending.div_ceil(8) as usize;
        self.bytes.extend_from_slice(&self.pending.to_le_bytes()[..left]);
        self.bytes
    }
}

/// Reads bits back.
pub(super) struct BitReader {
    padded: Vec<u8>,
    next: usize,
}

impl BitReader {
    pub(super) fn new(bytes: &[u8]) -> Self {
        BitReader { padded: [bytes, &[0; PADDING]].concat(), next: 0 }
    }

    /// The next 57 bits or more, lowest first; they stay.
    #[inline(always)]
    pub(super) fn peek(&self) -> Result<u64, String> {
        let bytes = self.padded.get(self.next / 8..).and_then(|rest| rest.first_chunk::<PADDING>());
        Ok(u64::from_le_bytes(*bytes.ok_or("a stream of bits ends early")?) >> (self.next % 8))
    }

    /// Goes over `count` bits.
    #[inline(always)]
    pub(super) fn skip(&mut self, count: u32) {
        self.next += count as usize;
    }

    /// Whether all was read, but for what fills the last byte up.
    pub(super) fn is_at_end(&self) -> bool {
        self.next.div_ceil(8) + PADDING == self.padded.len()
    }
}
