//! Which bytes may stand where, as tables.

const TOKEN: u8 = 1;
const VALUE: u8 = 2;
const TARGET: u8 = 4;
const HOST: u8 = 8;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0_u8;
    loop {
        let mut class = 0;
        let plain = byte.is_ascii_alphanumeric();
        // RFC 9110, section 5.6.2.
        let punctuation = matches!(
            byte,
            b'!' | b'#'
                | b'$'
                | b'%'
                | b'&'
                | b'\''
                | b'*'
                | b'+'
                | b'-'
                | b'.'
                | b'^'
                | b'_'
                | b'`'
                | b'|'
                | b'~'
        );
        if plain || punctuation {
            class |= TOKEN;
        }
        // RFC 9110, section 5.5: visible characters, space, tab and obs-text.
        if byte >= 0x20 && byte != 0x7f || byte == b'\t' {
            class |= VALUE;
        }
        // RFC 3986 knows fewer; browsers send `|`, `^`, `{` and the like, which fool nobody. A fragment is never sent.
        if byte > 0x20 && byte < 0x7f && byte != b'#' {
            class |= TARGET;
        }
        // RFC 3986, section 3.2.2, without user information: names, addresses, brackets, and the colon before a port.
        if plain || matches!(byte, b'-' | b'.' | b'_' | b':' | b'[' | b']' | b'~' | b'%') {
            class |= HOST;
        }
        #[expect(clippy::indexing_slicing, reason = "a byte is an index of 256 entries")]
        {
            table[byte as usize] = class;
        }
        if byte == u8::MAX {
            return table;
        }
        byte += 1;
    }
}

const fn is(byte: u8, class: u8) -> bool {
    #[expect(clippy::indexing_slicing, reason = "a byte is an index of 256 entries")]
    {
        CLASSES[byte as usize] & class != 0
    }
}

pub(super) const fn is_token(byte: u8) -> bool {
    is(byte, TOKEN)
}

pub(super) const fn is_value(byte: u8) -> bool {
    is(byte, VALUE)
}

pub(super) const fn is_target(byte: u8) -> bool {
    is(byte, TARGET)
}

pub(super) const fn is_host(byte: u8) -> bool {
    is(byte, HOST)
}

/// The same byte in every place of a word.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// The highest bit of the first byte that is below `limit`, which is at most 128, and of none where none is. Above the first
/// there may be more.
const fn below(word: u64, limit: u8) -> u64 {
    word.wrapping_sub(each(limit)) & !word & each(0x80)
}

/// Where the first line feed is; eight bytes at once.
pub(super) fn line_feed(bytes: &[u8]) -> Option<usize> {
    let (words, rest) = bytes.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let found = below(u64::from_le_bytes(*word) ^ each(b'\n'), 1);
        if found != 0 {
            return Some(at * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    rest.iter().position(|byte| *byte == b'\n').map(|at| words.len() * 8 + at)
}

/// Whether all of these may stand in a header's value; eight at once, and one by one where any may not, such as a tab.
pub(super) fn are_value(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<8>();
    let is_fine = |bytes: &[u8]| bytes.iter().all(|byte| is_value(*byte));
    words.iter().all(|bytes| {
        let word = u64::from_le_bytes(*bytes);
        below(word, 0x20) | below(word ^ each(0x7f), 1) == 0 || is_fine(bytes)
    }) && is_fine(rest)
}

/// Without spaces and tabs around it, the only white space that HTTP knows.
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let value = value.get(start..).unwrap_or_default();
    let end = value.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
    value.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn eight_at_once_is_the_same_as_one_by_one(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            prop_assert_eq!(line_feed(&bytes), bytes.iter().position(|byte| *byte == b'\n'));
            prop_assert_eq!(are_value(&bytes), bytes.iter().all(|byte| is_value(*byte)));
        }

        #[test]
        fn one_byte_of_any_kind_is_seen_at_any_place(byte in any::<u8>(), place in 0_usize..24) {
            let mut bytes = *b"text of a header's value";
            bytes[place] = byte;
            prop_assert_eq!(are_value(&bytes), is_value(byte));
            prop_assert_eq!(line_feed(&bytes), (byte == b'\n').then_some(place));
        }
    }
}
