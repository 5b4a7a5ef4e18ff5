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

/// The length of the longest common prefix, in which ASCII letters may be of `ANY_CASE`: the first bytes by words, as most
/// differences of other blanks are there, the rest by blocks, at the speed of a memory comparison.
pub(super) fn common_prefix<const ANY_CASE: bool>(a: &[u8], b: &[u8]) -> usize {
    const FIRST: usize = 64;
    const BLOCK: usize = 512;
    let length = a.len().min(b.len());
    let (a, b) = (&a[..length], &b[..length]);
    let first = length.min(FIRST);
    let mut same = by_words::<ANY_CASE>(&a[..first], &b[..first]);
    if same < FIRST {
        return same;
    }
    let blocks = a[same..].chunks_exact(BLOCK).zip(b[same..].chunks_exact(BLOCK));
    same += BLOCK * blocks.take_while(|(x, y)| x == y || (ANY_CASE && same_in_any_case(x, y))).count();
    let last = length.min(same + BLOCK);
    same + by_words::<ANY_CASE>(&a[same..last], &b[same..last])
}

const WORD: usize = size_of::<u64>();

fn by_words<const ANY_CASE: bool>(a: &[u8], b: &[u8]) -> usize {
    let ((words_a, rest_a), (words_b, rest_b)) = (a.as_chunks::<WORD>(), b.as_chunks::<WORD>());
    for (index, (x, y)) in words_a.iter().zip(words_b).enumerate() {
        let [x, y] = [*x, *y].map(|word| if ANY_CASE { in_lower_case(word) } else { u64::from_le_bytes(word) });
        if x != y {
            return index * WORD + (x ^ y).trailing_zeros() as usize / 8;
        }
    }
    let same = |x: &u8, y: &u8| x == y || (ANY_CASE && x.eq_ignore_ascii_case(y));
    words_a.len() * WORD + rest_a.iter().zip(rest_b).take_while(|(x, y)| same(x, y)).count()
}

/// Whether two texts of whole words are the same, whatever the case; without branches, so that it is done many at once.
fn same_in_any_case(a: &[u8], b: &[u8]) -> bool {
    let words = a.as_chunks::<WORD>().0.iter().zip(b.as_chunks::<WORD>().0);
    words.fold(0, |differences, (x, y)| differences | (in_lower_case(*x) ^ in_lower_case(*y))) == 0
}

/// Eight bytes with their ASCII letters in lower case.
fn in_lower_case(bytes: [u8; WORD]) -> u64 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x80 * EACH;
    let word = u64::from_le_bytes(bytes);
    // The high bit of each byte tells whether it is at least `A`, and whether it is beyond `Z`.
    let from_a = (word & !HIGH) + (0x80 - u64::from(b'A')) * EACH;
    let beyond_z = (word & !HIGH) + (0x7F - u64::from(b'Z')) * EACH;
    let is_upper = from_a & !beyond_z & !word & HIGH;
    word | (is_upper >> 2)
}

#[cfg(test)]
mod tests {
    use super::{common_prefix, in_lower_case};

    #[test]
    fn the_common_prefix_ends_at_the_first_difference_wherever_it_is() {
        let text: Vec<u8> = (0..1400u32).map(|index| (index % 251) as u8).collect();
        for length in [0, 1, 7, 8, 9, 63, 64, 65, 575, 576, 577, 1087, 1088, 1089, 1400] {
            let (whole, shorter) = (&text[..length], &text[..length.saturating_sub(1)]);
            let upper = whole.to_ascii_uppercase();
            assert_eq!((prefix(whole, whole), prefix(whole, shorter)), (length, shorter.len()));
            assert_eq!(
                (prefix_in_any_case(&upper, whole), prefix_in_any_case(shorter, &upper)),
                (length, shorter.len())
            );
            for place in 0..length {
                let mut other = whole.to_vec();
                other[place] ^= 0x80;
                assert_eq!(
                    (prefix(whole, &other), prefix_in_any_case(&upper, &other)),
                    (place, place),
                    "{length} bytes"
                );
            }
        }
    }

    fn prefix(a: &[u8], b: &[u8]) -> usize {
        common_prefix::<false>(a, b)
    }

    fn prefix_in_any_case(a: &[u8], b: &[u8]) -> usize {
        common_prefix::<true>(a, b)
    }

    #[test]
    fn only_ascii_letters_are_put_in_lower_case() {
        for byte in 0..=u8::MAX {
            assert_eq!(in_lower_case([byte; 8]).to_le_bytes(), [byte.to_ascii_lowercase(); 8]);
            let mixed = [byte, b'Z', 0xFF, byte, b'[', b'@', 0, byte];
            assert_eq!(in_lower_case(mixed).to_le_bytes(), mixed.map(|byte| byte.to_ascii_lowercase()));
        }
    }
}
