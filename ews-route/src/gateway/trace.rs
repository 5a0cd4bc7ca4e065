//! Trace context (W3C): what ties a request to those that came before and after it elsewhere.

use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Leaves a context that is one as it is, since this gateway reports no span of its own; puts a new one where there is none.
pub(crate) fn ensure(headers: &mut HeaderMap, mut random: impl FnMut() -> u64) {
    let mut known = headers.get_all(TRACEPARENT).iter();
    if let (Some(parent), None) = (known.next(), known.next())
        && is_valid(parent.as_bytes())
    {
        return;
    }
    // What the state says belonged to something else.
    headers.remove(TRACESTATE);
    // Zero is no id. The flags say that nobody has decided to record it.
    let text = format!("00-{:016x}{:016x}-{:016x}-00", random(), random() | 1, random() | 1);
    if let Ok(value) = HeaderValue::from_str(&text) {
        headers.insert(TRACEPARENT, value);
    }
}

/// `00-<32 hexadecimal digits>-<16>-<2>`; versions after the first may say more behind that.
fn is_valid(text: &[u8]) -> bool {
    let part = |from: usize, to: usize| text.get(from..to).unwrap_or_default();
    let is_hex = |part: &[u8]| part.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_zero = |part: &[u8]| part.iter().all(|byte| *byte == b'0');
    let dashes = [2, 35, 52].iter().all(|at| text.get(*at) == Some(&b'-'));
    let (version, trace, parent, flags) = (part(0, 2), part(3, 35), part(36, 52), part(53, 55));
    let is_long_enough = match text.len() {
        55 => true,
        0..55 => false,
        _ => version != b"00" && text.get(55) == Some(&b'-'),
    };
    is_long_enough
        && dashes
        && [version, trace, parent, flags].into_iter().all(is_hex)
        && version != b"ff"
        && !is_zero(trace)
        && !is_zero(parent)
}

/// The trace that a request belongs to, where it says so in a form that can be read.
pub(crate) fn trace_id(parent: &HeaderValue) -> Option<&str> {
    let text = parent.as_bytes();
    if !is_valid(text) {
        return None;
    }
    std::str::from_utf8(text.get(3..35)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_kept_and_what_is_none_is_replaced() {
        let good = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-will-be-like";
        for text in [good, later] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_static(text));
            headers.insert(TRACESTATE, HeaderValue::from_static("congo=1"));
            ensure(&mut headers, || panic!("nothing is to be made"));
            assert_eq!((headers[TRACEPARENT].to_str().unwrap(), headers.len()), (text, 2));
            assert_eq!(trace_id(&headers[TRACEPARENT]), Some("4bf92f3577b34da6a3ce929d0e0e4736"));
        }
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00.4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(TRACEPARENT, HeaderValue::from_static(text));
            headers.insert(TRACESTATE, HeaderValue::from_static("congo=1"));
            assert_eq!(trace_id(&headers[TRACEPARENT]), None, "{text}");
            ensure(&mut headers, || 0);
            assert!(is_valid(headers[TRACEPARENT].as_bytes()) && headers.len() == 1, "{text}");
        }
        let mut two = HeaderMap::new();
        two.append(TRACEPARENT, HeaderValue::from_static(good));
        two.append(TRACEPARENT, HeaderValue::from_static(good));
        ensure(&mut two, || 7);
        assert_eq!(two.get_all(TRACEPARENT).iter().count(), 1);
        assert_ne!(two[TRACEPARENT], good);
    }
}
