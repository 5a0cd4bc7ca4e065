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

/// Without spaces and tabs around it, the only white space that HTTP knows.
pub(super) fn trim(value: &[u8]) -> &[u8] {
    let start = value.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(value.len());
    let value = value.get(start..).unwrap_or_default();
    let end = value.iter().rposition(|byte| !matches!(byte, b' ' | b'\t')).map_or(0, |last| last + 1);
    value.get(..end).unwrap_or_default()
}
