//! A web archive, made without any tool of Java's: a zip whose files lie in it as they are.

/// An archive of these files.
pub(crate) fn pack(files: &[(&str, &str)]) -> Vec<u8> {
    let (mut archive, mut directory) = (Vec::new(), Vec::new());
    for (name, text) in files {
        // Of the first day that a zip can name, and at another time of it for another text: Tomcat compiles a page anew when its time has
        // changed, not when its text has. Hours, minutes and pairs of seconds are 5, 6 and 5 bits.
        let sum = checksum(text.as_bytes());
        let pairs = (sum % (24 * 1800)) as u16;
        let time = ((pairs / 1800) << 11) | ((pairs / 30 % 60) << 5) | (pairs % 30);
        // Version 1.0, no flags, stored.
        let mut facts = Vec::new();
        for word in [10_u16, 0, 0, time, 0x21] {
            facts.extend(word.to_le_bytes());
        }
        let size = text.len() as u32;
        for word in [sum, size, size] {
            facts.extend(word.to_le_bytes());
        }
        // The length of its name, and nothing further.
        facts.extend((name.len() as u16).to_le_bytes());
        facts.extend([0, 0]);
        let begins = archive.len() as u32;
        archive.extend(b"PK\x03\x04");
        archive.extend(&facts);
        archive.extend(name.bytes().chain(text.bytes()));
        directory.extend(b"PK\x01\x02\x0a\x00");
        directory.extend(&facts);
        // No comment, the first disk, no attributes.
        directory.extend([0; 10]);
        directory.extend(begins.to_le_bytes());
        directory.extend(name.bytes());
    }
    let (begins, count) = (archive.len() as u32, files.len() as u16);
    archive.extend(&directory);
    archive.extend(b"PK\x05\x06\0\0\0\0");
    archive.extend(count.to_le_bytes());
    archive.extend(count.to_le_bytes());
    archive.extend((directory.len() as u32).to_le_bytes());
    archive.extend(begins.to_le_bytes());
    archive.extend([0, 0]);
    archive
}

/// CRC-32 as zip has it.
fn checksum(bytes: &[u8]) -> u32 {
    let step = |sum: u32| if sum & 1 == 1 { (sum >> 1) ^ 0xedb8_8320 } else { sum >> 1 };
    !bytes.iter().fold(u32::MAX, |sum, byte| (0..8).fold(sum ^ u32::from(*byte), |sum, _| step(sum)))
}

#[test]
fn the_checksum_is_the_one_that_everybody_has() {
    // The value that the catalogue of CRC algorithms gives as its check.
    assert_eq!(checksum(b"123456789"), 0xcbf4_3926);
}
