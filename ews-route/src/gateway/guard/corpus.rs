//! The requests of aws/http-desync-guardian (Apache-2.0), judged by the guard. They are not a part of this project: the
//! test reads them from the folder that `EWS_HTTP_DESYNC` names, and says that it did nothing where none is named.

use ews_core::document::{Format, Limits, read};

use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes: 32 * 1024, headers: 100 };

/// For what the guard refuses requests although the corpus would accept or mend them: nobody needs these to work, and not all
/// servers read them alike. Codings beside `chunked`, raw bytes and fragments in a target, names and values with control
/// characters, space before a colon, versions other than 1.0 and 1.1.
const STRICTER: [Refusal; 6] = [
    Refusal::TransferEncoding,
    Refusal::Target,
    Refusal::HeaderName,
    Refusal::HeaderValue,
    Refusal::Version,
    Refusal::RequestLine,
];

fn bytes_of(text: &str) -> Vec<u8> {
    // YAML's `\xff` is a character; on the wire it is a byte.
    text.chars()
        .flat_map(|c| u8::try_from(u32::from(c)).map_or(c.to_string().into_bytes(), |b| vec![b]))
        .collect()
}

#[test]
fn dangerous_requests_are_refused_and_ordinary_ones_pass() {
    let Ok(folder) = std::env::var("EWS_HTTP_DESYNC") else {
        println!("skipped: EWS_HTTP_DESYNC names no folder");
        return;
    };
    let (mut wrong, mut count) = (Vec::new(), 0);
    for file in [
        "rfc-compliant",
        "more-compliant-tests",
        "acceptable",
        "ambiguous",
        "severe",
        "bad-header-characters",
    ] {
        let text = std::fs::read_to_string(format!("{folder}/{file}.yaml")).unwrap();
        let tree = read(&text, Format::Yaml, Limits::default()).unwrap();
        for case in tree.as_list().unwrap() {
            let case = case.as_table().unwrap();
            let text_of = |table: &ews_core::document::Table, key: &str| -> Vec<u8> {
                let Some(tree) = table.get(key) else { return Vec::new() };
                match (tree.as_text(), tree.as_integer()) {
                    (Some(text), _) => bytes_of(text),
                    (None, Some(number)) => number.to_string().into_bytes(),
                    _ => Vec::new(),
                }
            };
            let name = String::from_utf8_lossy(&text_of(case, "name")).into_owned();
            let mut request =
                [text_of(case, "method"), text_of(case, "uri"), text_of(case, "version")].join(&b' ');
            request.extend(b"\r\nHost: a.example\r\n");
            for header in case.get("headers").and_then(|headers| headers.as_list()).unwrap_or_default() {
                let header = header.as_table().unwrap();
                let line =
                    [text_of(header, "name"), b": ".to_vec(), text_of(header, "value"), b"\r\n".to_vec()];
                // The corpus has `Host` in some cases; twice would be refused for that alone.
                if !line[0].eq_ignore_ascii_case(b"host") {
                    request.extend(line.concat());
                }
            }
            request.extend(b"\r\n");
            let tier = case.get("expected").unwrap().as_table().unwrap();
            let tier = String::from_utf8(text_of(tier, "tier")).unwrap();
            let verdict = Guard::new(LIMITS).advance(&request, &mut |_| {});
            count += 1;
            let is_dangerous = matches!(tier.as_str(), "Ambiguous" | "Severe");
            // A body of these is unambiguous here, and both connections end after the answer, as the corpus allows.
            let is_ended_after = request.starts_with(b"GET ") || request.starts_with(b"HEAD ");
            let is_right = match verdict {
                Verdict::Refused(_, refusal) => is_dangerous || STRICTER.contains(&refusal),
                Verdict::Fine => !is_dangerous || is_ended_after,
                Verdict::Broken(_) => false,
            };
            if !is_right {
                wrong.push(format!("{file}: {tier}: {name}: {verdict:?}\n    {}", request.escape_ascii()));
            }
        }
    }
    assert!(count > 100, "{count} cases were read");
    assert!(wrong.is_empty(), "{} of {count}:\n{}", wrong.len(), wrong.join("\n"));
}
