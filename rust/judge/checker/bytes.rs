//! Bytes that two texts have in common, and blanks: what the comparisons spend their time on.

/// For each byte, whether it is a blank.
pub(super) type Blanks = [bool; 256];

/// Blanks as C's `isspace` has them, and as CodeContests has them: those without the form feed.
pub(super) static C_BLANKS: Blanks = blanks(b" \n\t\r\x0B\x0C");
pub(super) static CODE_CONTESTS_BLANKS: Blanks = blanks(b" \n\t\r\x0B");

const fn blanks(bytes: &[u8]) -> Blanks {
    let mut table = [false; 256];
    let mut index = 0;
    while index < bytes.len() {
        table[bytes[index] as usize] = true;
        index += 1;
    }
    table
}

/// How many of the first bytes are blanks, or are none.
pub(super) fn run_length(bytes: &[u8], blanks: &Blanks, blank: bool) -> usize {
    bytes.iter().position(|byte| blanks[usize::from(*byte)] != blank).unwrap_or(bytes.len())
}

/// How many of the last bytes are blanks, or are none.
pub(super) fn run_length_at_end(bytes: &[u8], blanks: &Blanks, blank: bool) -> usize {
    bytes.iter().rev().position(|byte| blanks[usize::from(*byte)] != blank).unwrap_or(bytes.len())
}

/// The length of the longest common prefix: the first bytes by words, as most differences of other blanks are there, the
/// rest by blocks, at the speed of a memory comparison.
pub(super) fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    const FIRST: usize = 64;
    const BLOCK: usize = 512;
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    let first = length.min(FIRST);
    let mut same = by_words(&a[..first], &b[..first]);
    if same < FIRST {
        return same;
    }
    let blocks = a[same..].chunks_exact(BLOCK).zip(b[same..].chunks_exact(BLOCK));
    same += BLOCK * blocks.take_while(|(x, y)| x == y).count();
    let last = length.min(same + BLOCK);
    same + by_words(&a[same..last], &b[same..last])
}

fn by_words(a: &[u8], b: &[u8]) -> usize {
    const WORD: usize = size_of::<u64>();
    let ((words_a, rest_a), (words_b, rest_b)) = (a.as_chunks::<WORD>(), b.as_chunks::<WORD>());
    for (index, (x, y)) in words_a.iter().zip(words_b).enumerate() {
        let difference = u64::from_le_bytes(*x) ^ u64::from_le_bytes(*y);
        if difference != 0 {
            return index * WORD + difference.trailing_zeros() as usize / 8;
        }
    }
    words_a.len() * WORD + rest_a.iter().zip(rest_b).take_while(|(x, y)| x == y).count()
}

#[cfg(test)]
mod tests {
    use super::common_prefix;

    #[test]
    fn the_common_prefix_ends_at_the_first_difference_wherever_it_is() {
        let text: Vec<u8> = (0..1400u32).map(|index| (index % 251) as u8).collect();
        for length in [0, 1, 7, 8, 9, 63, 64, 65, 575, 576, 577, 1087, 1088, 1089, 1400] {
            let (whole, shorter) = (&text[..length], &text[..length.saturating_sub(1)]);
            assert_eq!((common_prefix(whole, whole), common_prefix(whole, shorter)), (length, shorter.len()));
            for place in 0..length {
                let mut other = whole.to_vec();
                other[place] ^= 0x80;
                assert_eq!(common_prefix(whole, &other), place, "{length} bytes");
            }
        }
    }
}
