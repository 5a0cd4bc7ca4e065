//! The little of Protocol Buffers and gRPC that a session with BuildKit takes: fields of numbers and of bytes, one message to a frame.

/// A field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Field<'a> {
    pub(super) fn bytes(self) -> Option<&'a [u8]> {
        match self {
            Self::Bytes(bytes) => Some(bytes),
            Self::Number(_) => None,
        }
    }

    pub(super) fn number(self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(number),
            Self::Bytes(_) => None,
        }
    }

    pub(super) fn text(self) -> Option<String> {
        self.bytes().map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }
}

/// The fields of a message with their numbers, as far as it can be read. What follows a fault is left.
pub(super) fn fields(mut message: &[u8]) -> impl Iterator<Item = (u64, Field<'_>)> {
    std::iter::from_fn(move || {
        loop {
            let key = number(&mut message)?;
            let field = match key & 7 {
                0 => Field::Number(number(&mut message)?),
                2 => {
                    let length = usize::try_from(number(&mut message)?).ok()?;
                    Field::Bytes(take(&mut message, length)?)
                }
                // Numbers of a fixed width: nothing that is read here.
                1 => {
                    take(&mut message, 8)?;
                    continue;
                }
                5 => {
                    take(&mut message, 4)?;
                    continue;
                }
                _ => return None,
            };
            return Some((key >> 3, field));
        }
    })
}

/// The first field of this number.
pub(super) fn field(message: &[u8], wanted: u64) -> Option<Field<'_>> {
    fields(message).find(|(number, _)| *number == wanted).map(|(_, field)| field)
}

fn take<'a>(message: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, rest) = message.split_at_checked(length)?;
    *message = rest;
    Some(taken)
}

fn number(message: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for place in 0..10 {
        let (byte, rest) = message.split_first()?;
        *message = rest;
        number |= u64::from(byte & 0x7f).checked_shl(7 * place)?;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Adds a field of bytes.
pub(super) fn put(message: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    message.push(field << 3 | 2);
    let mut length = bytes.len();
    while length > 0x7f {
        message.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    message.push(length as u8);
    message.extend_from_slice(bytes);
}

/// A message as gRPC frames it: uncompressed, with its length.
pub(super) fn frame(message: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(message.len()).ok()?;
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    Some(frame)
}

/// The message in a frame; `None` for a compressed one, which nobody sends who was not told to.
pub(super) fn unframe(frame: &[u8]) -> Option<&[u8]> {
    let (head, message) = frame.split_first_chunk::<5>()?;
    let [0, a, b, c, d] = *head else { return None };
    message.get(..u32::from_be_bytes([a, b, c, d]) as usize)
}

/// Base64 with the usual alphabet and padding (RFC 4648).
pub(super) fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    for group in digits.chunks(4) {
        let mut bits = 0_u32;
        for digit in group {
            let value = match digit {
                b'A'..=b'Z' => digit - b'A',
                b'a'..=b'z' => digit - b'a' + 26,
                b'0'..=b'9' => digit - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => return None,
            };
            bits = bits << 6 | u32::from(value);
        }
        bits <<= 6 * (4 - group.len());
        let [_, one, two, three] = bits.to_be_bytes();
        bytes.extend([one, two, three].into_iter().take(group.len() * 6 / 8));
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn base64_is_rfc_4648s() {
        for (text, plain) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYmFy", "foobar"),
            ("+/+/", "\u{0}"),
        ] {
            let decoded = base64(text).unwrap();
            assert!(decoded == plain.as_bytes() || text == "+/+/" && decoded == [0xfb, 0xff, 0xbf], "{text}");
        }
        assert_eq!(base64("Zm-v"), None);
    }

    proptest! {
        #[test]
        fn what_is_put_is_read(parts in prop::collection::vec((1_u8..15, prop::collection::vec(any::<u8>(), 0..300)), 0..6)) {
            let mut message = Vec::new();
            for (number, bytes) in &parts {
                put(&mut message, *number, bytes);
            }
            let framed = frame(&message).unwrap();
            let read: Vec<_> = fields(unframe(&framed).unwrap())
                .map(|(number, field)| (number as u8, field.bytes().unwrap().to_vec()))
                .collect();
            prop_assert_eq!(read, parts);
        }

        #[test]
        fn no_message_is_too_much(bytes in prop::collection::vec(any::<u8>(), 0..60), text in "\\PC{0,20}") {
            let _ = fields(&bytes).count();
            unframe(&bytes);
            base64(&text);
        }
    }
}
