//! Answers as bytes, however they come; and connections that were closed a moment ago.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test that can't go on fails"
)]

use bytes::Bytes;
use hyper::HeaderMap;
use proptest::prelude::*;

use super::chunks::Chunks;
use super::head::{self, Framing, Interim, Malformed, Read};
use super::*;

fn room(bytes: &[u8]) -> (Bytes, HeaderMap) {
    (Bytes::copy_from_slice(bytes), HeaderMap::new())
}

/// Reads a head that comes in these pieces, and says how many bytes were held before it was one.
fn in_pieces(pieces: &[&[u8]], is_head: bool) -> Result<Option<Head>, Malformed> {
    let (mut kept, mut interim) = (Vec::new(), Interim::default());
    for piece in pieces {
        let from = kept.len();
        kept.extend_from_slice(piece);
        match head::read(&kept, from, is_head, &mut interim, room)? {
            Read::Whole(head) => return Ok(Some(head)),
            Read::Partial { used } => drop(kept.drain(..used)),
        }
    }
    Ok(None)
}

fn read(text: &str) -> Result<Head, Malformed> {
    in_pieces(&[text.as_bytes()], false).map(|head| head.unwrap_or_else(|| panic!("not whole: {text}")))
}

#[test]
fn how_an_answer_ends_is_told_in_one_way_only() {
    for (head, wanted) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n", Ok((Framing::Length(5), false))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n", Ok((Framing::Length(5), false))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n", Ok((Framing::Length(5), false))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nContent-Length: +5\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5 5\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n", Ok((Framing::Chunked, false))),
        // Whoever looks at the length alone finds another end, so nothing follows on this connection.
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            Ok((Framing::Chunked, true)),
        ),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n", Err(Malformed)),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\n", Ok((Framing::Close, true))),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: x, Close\r\n", Ok((Framing::Length(0), true))),
        ("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n", Ok((Framing::Length(3), true))),
        (
            "HTTP/1.0 200 OK\r\nContent-Length: 3\r\nConnection: keep-alive\r\n",
            Ok((Framing::Length(3), false)),
        ),
        ("HTTP/1.1 204 No Content\r\nContent-Length: 7\r\n", Ok((Framing::Length(0), false))),
        ("HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n", Ok((Framing::Length(0), false))),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n", Ok((Framing::Length(0), false))),
        (
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 404 No\r\nContent-Length: 1\r\n",
            Ok((Framing::Length(1), false)),
        ),
        ("HTTP/2.0 200 OK\r\n", Err(Malformed)),
        ("HTTP/1.1 20 OK\r\n", Err(Malformed)),
        ("HTTP/1.1 999999 OK\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nNo colon\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nA : b\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n", Err(Malformed)),
        ("HTTP/1.1 200 OK\r\nA: b\0c\r\n", Err(Malformed)),
        ("SSH-2.0-OpenSSH_9.2\r\n", Err(Malformed)),
    ] {
        let found = read(&format!("{head}\r\n")).map(|head| (head.framing, head.is_last));
        assert_eq!(found, wanted, "{head}");
    }
    let twice = read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello").unwrap();
    let lengths: Vec<_> =
        twice.response.headers().get_all("content-length").iter().map(|one| one.to_str().unwrap()).collect();
    assert_eq!((lengths, &twice.rest[..]), (vec!["5"], &b"hello"[..]));
    let both = read("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
    assert_eq!(both.response.headers().get("content-length"), None);
    let head = in_pieces(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"], true).unwrap().unwrap();
    assert_eq!(
        (head.framing, head.response.headers()["content-length"].to_str().unwrap()),
        (Framing::Length(0), "5")
    );
}

#[test]
fn heads_have_bounds() {
    let headers = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(count));
    assert!(read(&headers(128)).is_ok());
    assert_eq!(read(&headers(129)).unwrap_err(), Malformed);
    // One that never ends is given up, whether it comes at once or bit by bit.
    let endless = format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(256 * 1024));
    assert_eq!(in_pieces(&[endless.as_bytes()], false).unwrap_err(), Malformed);
    let pieces: Vec<&[u8]> = endless.as_bytes().chunks(1000).collect();
    assert_eq!(in_pieces(&pieces, false).unwrap_err(), Malformed);
    let interim = "HTTP/1.1 100 Continue\r\n\r\n".repeat(17);
    assert_eq!(in_pieces(&[interim.as_bytes()], false).unwrap_err(), Malformed);
    // Each of its own, so that nothing is held between them.
    let pieces: Vec<&[u8]> = interim.as_bytes().chunks(25).collect();
    assert_eq!(in_pieces(&pieces, false).unwrap_err(), Malformed);
}

/// An endpoint that speaks another protocol says so in its first words, and says nothing more.
#[test]
fn what_is_no_answer_is_found_out_at_once() {
    let settings = b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x64";
    let words = "220 mail.example.com ESMTP: this is no place for HTTP, and the line is longer than most of them are\r\n";
    let page = format!("<!doctype html><title>{}</title>", "HTTP/0.9 ".repeat(100));
    for greeting in [&settings[..], words.as_bytes(), page.as_bytes()] {
        assert_eq!(in_pieces(&[greeting], false).unwrap_err(), Malformed);
        let (first, rest) = greeting.split_at(1);
        assert_eq!(in_pieces(&[first, rest], false).unwrap_err(), Malformed);
    }
}

/// The body's own bytes, its trailers, and what was left over.
fn dechunked(pieces: &[&[u8]]) -> Result<(Vec<u8>, Option<HeaderMap>, usize), Malformed> {
    let (mut chunks, mut body, mut left) = (Chunks::new(), Vec::new(), 0);
    for piece in pieces {
        let mut rest = *piece;
        loop {
            let (data, used) = chunks.next(rest)?;
            body.extend_from_slice(&rest[data.clone()]);
            rest = &rest[used..];
            if data.is_empty() {
                break;
            }
        }
        assert!(rest.is_empty() || chunks.is_done());
        left += rest.len();
    }
    let trailers = if chunks.is_done() { chunks.take_trailers()? } else { None };
    Ok((body, trailers, left))
}

#[test]
fn chunks_are_unwrapped_wherever_they_are_cut() {
    let text =
        b"3\r\nabc\r\n5;name=value\r\nhello\r\na  \r\n0123456789\r\n0\r\nX-Sum: 7\r\nX-More: 8\r\n\r\nleft";
    for first in 0..text.len() {
        for second in first..text.len() {
            let (body, trailers, left) =
                dechunked(&[&text[..first], &text[first..second], &text[second..]]).unwrap();
            assert_eq!((&body[..], left), (&b"abchello0123456789"[..], 4));
            let trailers = trailers.unwrap();
            assert_eq!(
                (trailers.len(), &trailers["x-sum"], &trailers["x-more"]),
                (2, &"7".parse().unwrap(), &"8".parse().unwrap())
            );
        }
    }
    for wrong in [
        &b"x\r\n"[..],
        b"\r\n",
        b"5 6\r\nhello",
        b"5 \t6\r\nhello",
        b" 5\r\nhello",
        b"3\nabc",
        b"3\r\nabcd\r\n",
        b"-3\r\n",
        b"0x3\r\nabc",
        b"fffffffffffffffff\r\n",
        b"0\r\nno colon\r\n\r\n",
        b"0\r\na b: c\r\n\r\n",
    ] {
        assert_eq!(dechunked(&[wrong]).map(|_| ()), Err(Malformed), "{}", wrong.escape_ascii());
    }
}

proptest! {
    #[test]
    fn how_an_answer_was_cut_makes_no_difference(
        start in prop::sample::select(vec!["", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 X\r\nA: b\r\n\r\n"]),
        value in "[ -~]{0,80}",
        end in "[\\x00-\\xff]{0,40}",
        cuts in prop::collection::vec(0_usize..300, 0..6),
    ) {
        let text = format!("{start}HTTP/1.1 200 OK\r\nA: {value}\r\nContent-Length: 9\r\n\r\n{end}");
        let bytes = text.as_bytes();
        let mut at: Vec<usize> = cuts.into_iter().map(|cut| cut.min(bytes.len())).collect();
        at.extend([0, bytes.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let found = in_pieces(&pieces, false).unwrap().unwrap();
        prop_assert_eq!(found.framing, Framing::Length(9));
        prop_assert_eq!(found.response.headers()["a"].to_str().unwrap().trim(), value.trim());
        prop_assert!(end.as_bytes().starts_with(&found.rest));
    }

    #[test]
    fn bytes_without_sense_are_read_to_some_end(bytes in prop::collection::vec(any::<u8>(), 0..400), is_head in any::<bool>()) {
        let _ = in_pieces(&[&bytes], is_head);
        let _ = dechunked(&[&bytes]);
    }
}

#[tokio::test]
async fn a_connection_that_was_closed_just_now_is_not_asked_what_cannot_be_asked_twice() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = tokio::net::TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (peer, _) = listener.accept().await.unwrap();
    let connection = Http1::new(Stream::Plain(stream), 0, None);
    assert!(connection.is_open() && connection.is_surely_open());
    // By the standard library, so that this thread learns of it by no event: there is no turn for any before the look.
    drop(peer.into_std().unwrap());
    assert!(connection.is_open(), "no event has come yet");
    assert!(!connection.is_surely_open());
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    assert!(!connection.is_open());
}
