//! What the guard lets through, what it refuses, and that splits change neither.

use proptest::prelude::*;

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 2048, headers: 20 };

/// Feeds the pieces; what came out, and the first verdict that was not fine.
fn feed<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<u8>, Verdict) {
    let (mut guard, mut out) = (Guard::new(LIMITS), Vec::new());
    let mut found = Verdict::Fine;
    for piece in pieces {
        let verdict = guard.advance(piece, &mut |bytes| out.extend_from_slice(bytes));
        if found == Verdict::Fine {
            found = verdict;
        }
    }
    (out, found)
}

fn refused(text: &str) -> Option<Refusal> {
    match feed([text.as_bytes()]).1 {
        Verdict::Refused(_, refusal) | Verdict::Broken(refusal) => Some(refusal),
        Verdict::Fine => None,
    }
}

fn with(headers: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: a.example\r\n{headers}\r\n")
}

#[test]
fn ordinary_requests_pass_unchanged() {
    for text in [
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET /?a=b%20c&d=[1] HTTP/1.1\r\nHost: a.example:8080\r\nAccept: */*\r\nX: \t \r\nY:\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\n\r\n",
        "GET http://a.example/x HTTP/1.1\r\nHost: A.example\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET / HTTP/1.1\r\nHost: b\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n5;x=\"y\"\r\nhello\r\n0\r\nT: v\r\n\r\nGET / HTTP/1.1\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nName: \u{f6}\r\n\r\n",
    ] {
        let (out, verdict) = feed([text.as_bytes()]);
        assert_eq!((String::from_utf8_lossy(&out).as_ref(), verdict), (text, Verdict::Fine));
    }
    let (out, verdict) = feed([b"\r\n\r\nGET / HTTP/1.0\r\n\r\n".as_slice()]);
    assert_eq!((out.as_slice(), verdict), (b"GET / HTTP/1.0\r\n\r\n".as_slice(), Verdict::Fine));
}

#[test]
fn what_readers_could_disagree_on_is_refused() {
    use Refusal as R;
    for (text, wanted) in [
        ("GET / HTTP/1.1\nHost: a\n\n".to_owned(), R::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\n\r\n".to_owned(), R::BareLineEnd),
        ("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n".to_owned(), R::BareLineEnd),
        ("GET  / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::RequestLine),
        ("GET /\r\n\r\n".to_owned(), R::RequestLine),
        (" GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::RequestLine),
        ("GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::RequestLine),
        ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::RequestLine),
        ("GET / HTTP/1.2\r\nHost: a\r\n\r\n".to_owned(), R::Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), R::Version),
        ("GET / http/1.1\r\nHost: a\r\n\r\n".to_owned(), R::RequestLine),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n".to_owned(), R::Connect),
        ("GET /#a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::Target),
        ("GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::Target),
        ("GET a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::Target),
        ("GET * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::Target),
        ("GET https://a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::Target),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::Target),
        ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), R::Target),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), R::Host),
        (with("Host: a.example\r\n"), R::Host),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a:1:2\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".to_owned(), R::Host),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".to_owned(), R::Host),
        (with("X : a\r\n"), R::HeaderName),
        (with("X\r\n"), R::HeaderName),
        (with(": a\r\n"), R::HeaderName),
        (with("X\x00Y: a\r\n"), R::HeaderName),
        (with("X\u{e9}: a\r\n"), R::HeaderName),
        (with("X: a\x00\r\n"), R::HeaderValue),
        (with("X: a\x7f\r\n"), R::HeaderValue),
        (with("X: a\r\n b\r\n"), R::Folding),
        (with("\tX: a\r\n"), R::Folding),
        (with("Content-Length: 1\r\nContent-Length: 1\r\n"), R::ContentLength),
        (with("Content-Length: 1, 1\r\n"), R::ContentLength),
        (with("Content-Length: +1\r\n"), R::ContentLength),
        (with("Content-Length: -1\r\n"), R::ContentLength),
        (with("Content-Length: 0x1\r\n"), R::ContentLength),
        (with("Content-Length: 1 1\r\n"), R::ContentLength),
        (with("Content-Length:\r\n"), R::ContentLength),
        (with("Content-Length: 99999999999999999999\r\n"), R::ContentLength),
        (with("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n"), R::BothLengths),
        (with("Transfer-Encoding: chunked\r\ncontent-length: 1\r\n"), R::BothLengths),
        (with("Transfer-Encoding: gzip, chunked\r\n"), R::TransferEncoding),
        (with("Transfer-Encoding: identity\r\n"), R::TransferEncoding),
        (with("Transfer-Encoding: chunked, identity\r\n"), R::TransferEncoding),
        (with("Transfer-Encoding: xchunked\r\n"), R::TransferEncoding),
        (with("Transfer-Encoding: \x0bchunked\r\n"), R::HeaderValue),
        (with("Transfer-Encoding: \"chunked\"\r\n"), R::TransferEncoding),
        (with("Transfer-Encoding:\r\n"), R::TransferEncoding),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), R::TransferEncoding),
        (with("Transfer_Encoding: chunked\r\n"), R::Disguised),
        (with("content_length: 3\r\n"), R::Disguised),
        (with("Transfer---Encoding: chunked\r\n"), R::Disguised),
        (with("_transfer_encoding_: chunked\r\n"), R::Disguised),
        (with("ContentLength: 3\r\n"), R::Disguised),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), R::TransferEncoding),
        (with(&format!("X: {}\r\n", "a".repeat(3000))), R::HeadTooLarge),
        (with(&"X: a\r\n".repeat(30)), R::TooManyHeaders),
        ("\r\n".repeat(9), R::RequestLine),
        (with("Transfer-Encoding: chunked\r\n") + "x\r\n", R::Chunk),
        (with("Transfer-Encoding: chunked\r\n") + "\r\n", R::Chunk),
        (with("Transfer-Encoding: chunked\r\n") + "1\na\r\n", R::Chunk),
        (with("Transfer-Encoding: chunked\r\n") + "1 \r\na\r\n", R::Chunk),
        (with("Transfer-Encoding: chunked\r\n") + "0x1\r\na\r\n", R::Chunk),
        (with("Transfer-Encoding: chunked\r\n") + "1\r\nab\r\n", R::Chunk),
        (with("Transfer-Encoding: chunked\r\n") + "1\r\na\n0\r\n", R::Chunk),
        (with("Transfer-Encoding: chunked\r\n") + "1000000000000000\r\n", R::Chunk),
        (with("Transfer-Encoding: chunked\r\n") + "0\r\nX : y\r\n\r\n", R::Trailer),
        (with("Transfer-Encoding: chunked\r\n") + "0\r\n y\r\n\r\n", R::Trailer),
    ] {
        assert_eq!(refused(&text), Some(wanted), "{text:?}");
    }
}

#[test]
fn what_follows_a_refused_head_never_comes_out() {
    let good = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n";
    let text = format!("{good}GET /2 HTTP/1.1\r\n\r\n{good}");
    let (out, verdict) = feed([text.as_bytes()]);
    assert_eq!(verdict, Verdict::Refused(2, Refusal::Host));
    assert_eq!(out, [good.as_bytes(), SUBSTITUTE].concat());
}

#[test]
fn a_request_hidden_in_a_body_stays_body() {
    let hidden = "GET /admin HTTP/1.1\r\nHost: a\r\n\r\n";
    let text = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{hidden}", hidden.len());
    let mut guard = Guard::new(LIMITS);
    guard.advance(text.as_bytes(), &mut |_| {});
    assert!(guard.is_between_requests());
    assert_eq!(guard.heads, 1);
}

#[test]
fn a_head_that_takes_too_long_is_refused_in_its_place() {
    let (mut guard, mut out) = (Guard::new(LIMITS), Vec::new());
    guard.advance(b"GET / HTTP/1.1\r\nHo", &mut |bytes| out.extend_from_slice(bytes));
    assert!(out.is_empty() && guard.is_within_head());
    let verdict = guard.refuse(Refusal::HeadTimeout, &mut |bytes| out.extend_from_slice(bytes));
    assert_eq!((verdict, out.as_slice()), (Verdict::Refused(1, Refusal::HeadTimeout), SUBSTITUTE));
}

/// Bytes that are nearly requests: pieces of grammar in any order.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        2 => Just(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_vec()),
        2 => Just(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec()),
        1 => Just(b"\r\n".to_vec()),
        1 => Just(b"\r".to_vec()),
        1 => Just(b"\n".to_vec()),
        1 => Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        1 => Just(b"Host: b\r\n".to_vec()),
        1 => Just(b"5\r\nhello\r\n".to_vec()),
        1 => Just(vec![b'a'; 2100]),
        2 => proptest::collection::vec(any::<u8>(), 0..20),
    ];
    proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn splits_change_nothing(bytes in nearly(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let whole = feed([bytes.as_slice()]);
        let single = feed(bytes.chunks(1));
        prop_assert_eq!(&whole, &single);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        prop_assert_eq!(&whole, &feed(pieces));
    }

    #[test]
    fn nothing_is_let_through_but_whole_requests_and_the_substitute(bytes in nearly()) {
        let (out, verdict) = feed([bytes.as_slice()]);
        // What came out is read alike by a guard that sees it for the first time.
        let (again, second) = feed([out.as_slice()]);
        prop_assert_eq!(&again, &out);
        if matches!(verdict, Verdict::Fine | Verdict::Refused(..)) {
            prop_assert_eq!(second, Verdict::Fine);
        }
    }
}
