//! The PROXY protocol, versions 1 and 2: whom a connection speaks for, said before its first byte.
//!
//! See <https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt>. Read here are the addresses alone; what version 2 may
//! say beyond is passed over.

use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ews_core::balancer::ProxyProtocol;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

/// How version 2 begins.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest line of version 1, its end included.
const MAX_LINE: usize = 107;
/// The most that is read after the addresses' length.
const MAX_REST: usize = 4 * 1024;

/// Reads what stands before a connection's own bytes, and nothing of these. `None` where the peer speaks for itself.
///
/// # Errors
/// `InvalidData` for anything else than the protocol, and what the socket gives.
pub(crate) async fn read(stream: &mut TcpStream) -> Result<Option<SocketAddr>> {
    let mut begin = [0; SIGNATURE.len()];
    stream.read_exact(&mut begin).await?;
    if begin != SIGNATURE {
        return read_line(stream, &begin).await;
    }
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let [version_and_command, family, high, low] = head;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_REST {
        return Err(invalid("it is too long"));
    }
    let mut rest = vec![0; length];
    stream.read_exact(&mut rest).await?;
    match version_and_command {
        // The proxy's own, such as a check of it.
        0x20 => Ok(None),
        0x21 => binary(family, &rest),
        _ => Err(invalid("an unknown version or command")),
    }
}

/// The source of version 2; `None` for families that have no address here.
fn binary(family: u8, rest: &[u8]) -> Result<Option<SocketAddr>> {
    let short = || invalid("the addresses are cut short");
    let port = |at: usize| -> Result<u16> {
        let bytes: [u8; 2] =
            rest.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
        Ok(u16::from_be_bytes(bytes))
    };
    match family {
        0x11 => {
            let source: [u8; 4] = rest.get(..4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
            // The destination's port comes last: it must be there.
            port(10)?;
            Ok(Some(SocketAddr::new(Ipv4Addr::from(source).into(), port(8)?)))
        }
        0x21 => {
            let source: [u8; 16] =
                rest.get(..16).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)?;
            port(34)?;
            Ok(Some(SocketAddr::new(IpAddr::from(source).to_canonical(), port(32)?)))
        }
        0x00 | 0x12 | 0x22 | 0x31 | 0x32 => Ok(None),
        _ => Err(invalid("an unknown family of addresses")),
    }
}

/// The line of version 1. What is looked at and holds no end belongs to it as a whole, so no byte after it is taken.
async fn read_line(stream: &mut TcpStream, begin: &[u8]) -> Result<Option<SocketAddr>> {
    if !begin.starts_with(b"PROXY ") {
        return Err(invalid("it is missing"));
    }
    let mut line = begin.to_vec();
    while !line.ends_with(b"\n") {
        let mut seen = [0; MAX_LINE];
        let room = MAX_LINE - line.len().min(MAX_LINE);
        if room == 0 {
            return Err(invalid("the line is too long"));
        }
        let count = stream.peek(seen.get_mut(..room).unwrap_or_default()).await?;
        let seen = seen.get(..count).unwrap_or_default();
        if seen.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let take = seen.iter().position(|byte| *byte == b'\n').map_or(count, |at| at + 1);
        let mut taken = vec![0; take];
        stream.read_exact(&mut taken).await?;
        line.extend_from_slice(&taken);
    }
    text(&line)
}

fn text(line: &[u8]) -> Result<Option<SocketAddr>> {
    let line = line.strip_suffix(b"\r\n").and_then(|line| std::str::from_utf8(line).ok());
    let line = line.ok_or_else(|| invalid("the line does not end as it should"))?;
    let mut words = line.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (_, family) = (next(), next());
    if family == "UNKNOWN" {
        return Ok(None);
    }
    let wrong = || invalid("the line's addresses can't be read");
    let (source, destination) = (next(), next());
    let port = |text: &str| {
        // As the protocol has it: digits alone, no zero in front.
        let is_number =
            text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| is_number).ok_or_else(wrong)
    };
    let (from, _) = (port(next())?, port(next())?);
    if words.next().is_some() {
        return Err(wrong());
    }
    let address: IpAddr = match family {
        "TCP4" => {
            destination.parse::<Ipv4Addr>().map_err(|_| wrong())?;
            source.parse::<Ipv4Addr>().map_err(|_| wrong())?.into()
        }
        "TCP6" => {
            destination.parse::<Ipv6Addr>().map_err(|_| wrong())?;
            source.parse::<Ipv6Addr>().map_err(|_| wrong())?.into()
        }
        _ => return Err(wrong()),
    };
    Ok(Some(SocketAddr::new(address.to_canonical(), from)))
}

/// Reads the two forms from memory.
#[cfg(fuzzing)]
pub(crate) fn parse(bytes: &[u8]) {
    let _ = text(bytes);
    if let Some((family, rest)) = bytes.split_first() {
        let _ = binary(*family, rest);
    }
}

/// What a connection to an endpoint begins with: whom it is for, and where that one arrived.
pub(crate) fn head(version: ProxyProtocol, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = (source.ip().to_canonical(), destination.ip().to_canonical());
    let both = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => Ok((from, to)),
        // One of each kind: both are written as the longer one.
        (from, to) => Err((long(from), long(to))),
    };
    let (source, destination) = (source.port(), destination.port());
    if version == ProxyProtocol::V1 {
        return match both {
            Ok((from, to)) => format!("PROXY TCP4 {from} {to} {source} {destination}\r\n"),
            Err((from, to)) => format!("PROXY TCP6 {from} {to} {source} {destination}\r\n"),
        }
        .into_bytes();
    }
    let (family, addresses) = match both {
        Ok((from, to)) => (0x11, [from.octets(), to.octets()].concat()),
        Err((from, to)) => (0x21, [from.octets(), to.octets()].concat()),
    };
    let length: u8 = if family == 0x11 { 12 } else { 36 };
    let mut head = SIGNATURE.to_vec();
    head.extend([0x21, family, 0, length]);
    head.extend(addresses);
    head.extend(source.to_be_bytes());
    head.extend(destination.to_be_bytes());
    head
}

fn long(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

fn invalid(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("the PROXY protocol: {what}"))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What is read of these bytes, byte by byte or at once, and what is left.
    async fn announced(bytes: &[u8], at_once: bool) -> (Result<Option<SocketAddr>>, Vec<u8>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.set_nodelay(true).unwrap();
        let bytes = bytes.to_vec();
        let writing = tokio::spawn(async move {
            if at_once {
                client.write_all(&bytes).await.unwrap();
            } else {
                for byte in bytes {
                    client.write_all(&[byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            }
        });
        let result = read(&mut server).await;
        writing.await.unwrap();
        let mut left = Vec::new();
        if result.is_ok() {
            server.read_to_end(&mut left).await.unwrap();
        }
        (result, left)
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, rest].concat()
    }

    #[tokio::test]
    async fn both_versions_are_read_and_not_a_byte_more() {
        let four = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0, 80];
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[33]) = (0x20, 0x01, 7, 9);
        let known = [
            (b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(), Some("192.0.2.1:4711")),
            (b"PROXY TCP6 2001::7 ::1 9 80\r\n".to_vec(), Some("[2001::7]:9")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (b"PROXY UNKNOWN ff:ff::1 whatever 1 2\r\n".to_vec(), None),
            (version_2(0x21, 0x11, &four), Some("192.0.2.1:4711")),
            (version_2(0x21, 0x11, &[&four[..], &[4, 0, 1, 0]].concat()), Some("192.0.2.1:4711")),
            (version_2(0x21, 0x21, &six), Some("[2001::7]:9")),
            (version_2(0x20, 0x11, &four), None),
            (version_2(0x20, 0, &[]), None),
            (version_2(0x21, 0, &[]), None),
        ];
        for (head, wanted) in known {
            for at_once in [true, false] {
                let bytes = [&head[..], b"GET \n"].concat();
                let (result, left) = announced(&bytes, at_once).await;
                let wanted: Option<SocketAddr> = wanted.map(|text| text.parse().unwrap());
                assert_eq!(result.unwrap(), wanted, "{}", head.escape_ascii());
                assert_eq!(left, b"GET \n", "{}", head.escape_ascii());
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read() {
        for (source, destination) in [
            ("192.0.2.1:4711", "10.0.0.1:80"),
            ("[2001::7]:9", "[::1]:443"),
            ("[::ffff:192.0.2.1]:4711", "10.0.0.1:80"),
            ("192.0.2.1:1", "[2001::1]:65535"),
        ] {
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let source: SocketAddr = source.parse().unwrap();
                let head = head(version, source, destination.parse().unwrap());
                let (read, left) = announced(&[&head[..], b"x"].concat(), true).await;
                let wanted = SocketAddr::new(source.ip().to_canonical(), source.port());
                assert_eq!(read.unwrap(), Some(wanted), "{}", head.escape_ascii());
                assert_eq!(left, b"x");
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_announcement_is_refused() {
        let four = [192, 0, 2, 1, 10, 0, 0, 1, 0x12, 0x67, 0];
        let long = [b"PROXY TCP4 ".to_vec(), vec![b'1'; 200]].concat();
        for bytes in [
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 04711 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 65536\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711 80 1\r\n".to_vec(),
            b"PROXY TCP4 ::1 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1  4711 80\r\n".to_vec(),
            b"PROXY UDP4 192.0.2.1 10.0.0.1 4711 80\r\n".to_vec(),
            b"PROXY TCP4 192.0.2.1 10.0.0.1 4711".to_vec(),
            long,
            version_2(0x11, 0x11, &four),
            version_2(0x21, 0x11, &four),
            version_2(0x21, 0x99, &[0; 40]),
            version_2(0x22, 0x11, &[0; 40]),
            version_2(0x21, 0x21, &vec![0; MAX_REST + 1]),
            SIGNATURE.to_vec(),
        ] {
            let (result, _) = announced(&bytes, true).await;
            assert!(result.is_err(), "{}", bytes.escape_ascii());
        }
    }
}
