//! JSON read piece by piece, so that values of any size are compared without being built in memory.

/// The rest of a JSON text.
#[derive(Clone, Copy)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Reader(text)
    }

    /// The first byte of what comes next, behind blanks.
    pub(super) fn peek(&mut self) -> Option<u8> {
        let blanks = self.0.iter().take_while(|byte| matches!(byte, b' ' | b'\n' | b'\t' | b'\r')).count();
        self.0 = &self.0[blanks..];
        self.0.first().copied()
    }

    /// Takes this byte, if it comes next.
    pub(super) fn take(&mut self, byte: u8) -> bool {
        let comes = self.peek() == Some(byte);
        if comes {
            self.0 = &self.0[1..];
        }
        comes
    }

    /// The next item's separator: true for a comma, false for the end of the list; `None` for anything else.
    pub(super) fn goes_on(&mut self, end: u8) -> Option<bool> {
        if self.take(b',') { Some(true) } else { self.take(end).then_some(false) }
    }

    /// A number, as text; true and false count as 1 and 0.
    pub(super) fn number(&mut self) -> Option<&'a [u8]> {
        match self.peek()? {
            b't' => self.word(b"true").then_some(b"1"),
            b'f' => self.word(b"false").then_some(b"0"),
            _ => {
                let length = number_length(self.0)?;
                let (number, rest) = self.0.split_at(length);
                self.0 = rest;
                Some(number)
            }
        }
    }

    /// Takes this word, if it comes next.
    pub(super) fn word(&mut self, word: &[u8]) -> bool {
        self.peek();
        let rest = self.0.strip_prefix(word);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    /// A string, as it is written between its quotes.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        if !self.take(b'"') {
            return None;
        }
        let mut length = 0;
        loop {
            length += memchr::memchr2(b'"', b'\\', &self.0[length..])?;
            if self.0[length] == b'"' {
                break;
            }
            length += 2;
            if length > self.0.len() {
                return None;
            }
        }
        let (string, rest) = self.0.split_at(length);
        self.0 = &rest[1..];
        Some(string)
    }

    /// Takes a value and gives its text; `None` where there is none, or one nested deeper than `depth`.
    pub(super) fn value(&mut self, depth: usize) -> Option<&'a [u8]> {
        let begin = self.0;
        let first = self.peek()?;
        match first {
            b'[' | b'{' => {
                let end = if first == b'[' { b']' } else { b'}' };
                self.take(first);
                let mut more = !self.take(end);
                while more {
                    if first == b'{' && (self.string().is_none() || !self.take(b':')) {
                        return None;
                    }
                    self.value(depth.checked_sub(1)?)?;
                    more = self.goes_on(end)?;
                }
            }
            b'"' => drop(self.string()?),
            b'n' => drop(self.word(b"null").then_some(())?),
            _ => drop(self.number()?),
        }
        Some(&begin[..begin.len() - self.0.len()])
    }
}

/// The length of the number at the start of a text, by JSON's grammar.
fn number_length(text: &[u8]) -> Option<usize> {
    let digits =
        |from: usize| text.get(from..).map_or(0, |rest| rest.iter().take_while(|b| b.is_ascii_digit()).count());
    let at = |place: usize| text.get(place).copied();
    let mut length = usize::from(at(0) == Some(b'-'));
    length += match (at(length), digits(length)) {
        (_, 0) => return None,
        (Some(b'0'), _) => 1,
        (_, count) => count,
    };
    if at(length) == Some(b'.') {
        let count = digits(length + 1);
        if count == 0 {
            return None;
        }
        length += 1 + count;
    }
    if matches!(at(length), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(at(length + 1), Some(b'+' | b'-')));
        let count = digits(length + 1 + sign);
        if count == 0 {
            return None;
        }
        length += 1 + sign + count;
    }
    Some(length)
}

/// What a string's text stands for, in units of UTF-16: Python's strings may hold half a pair of them. `None` for what is
/// no JSON.
pub(super) fn unescaped(text: &[u8]) -> Option<Vec<u16>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut units = Vec::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character < ' ' {
            return None;
        }
        if character != '\\' {
            units.extend_from_slice(character.encode_utf16(&mut [0; 2]));
            continue;
        }
        units.push(match characters.next()? {
            plain @ ('"' | '\\' | '/') => plain as u16,
            'b' => 8,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'u' => {
                let digits = characters.as_str().get(..4).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
                characters = characters.as_str()[4..].chars();
                u16::from_str_radix(digits, 16).ok()?
            }
            _ => return None,
        });
    }
    Some(units)
}
