//! What the gateway forwards, nginx and HAProxy behind it take for the same requests.
//!
//! Everything hostile that the guard lets through in some form is recorded as an endpoint gets it, and sent to real servers: each
//! must see the requests that were forwarded and nothing else, above all none from within a body. A machine without the
//! servers skips this and says so; `EWS_TEST_SERVERS=required`, as CI sets it, makes that a failure.

#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test that can't go on fails, and one that does nothing says so"
)]

mod stage;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ews_core::document::{Format, Limits, Table, read};
use stage::{Stage, until, with_timeouts};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// A request that nobody sent, if all agree where bodies end.
const WITHIN: &str = "GET /within HTTP/1.1\r\nHost: a\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
const MARKER: &str = "GET /marker HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

/// How requests say where they end, rightly and wrongly: header lines, and what follows the head.
fn framings() -> Vec<(String, Vec<u8>)> {
    let length = WITHIN.len();
    let chunk = format!("{length:x}\r\n{WITHIN}\r\n0\r\n\r\n");
    let mut all: Vec<(String, Vec<u8>)> = vec![(String::new(), Vec::new())];
    let mut add = |lines: &str, body: &str| all.push((lines.to_owned(), body.as_bytes().to_vec()));
    for value in [
        format!("{length}"),
        format!("+{length}"),
        format!("{length}, {length}"),
        format!("{length} "),
        format!("\t{length}"),
        format!("0{length}"),
        format!("{length}\u{b}"),
        format!("0x{length:x}"),
        format!("{length}.0"),
        "-1".to_owned(),
        "0".to_owned(),
        String::new(),
        "18446744073709551616".to_owned(),
    ] {
        add(&format!("Content-Length: {value}\r\n"), WITHIN);
    }
    for lines in [
        format!("Content-Length: {length}\r\nContent-Length: {length}\r\n"),
        format!("Content-Length: {length}\r\nContent-Length: 0\r\n"),
        format!("Content-Length: 0\r\nContent-Length: {length}\r\n"),
        format!("Content-Length : {length}\r\n"),
        format!(" Content-Length: {length}\r\n"),
        format!("X: y\r\n Content-Length: {length}\r\n"),
        format!("X: y\nContent-Length: {length}\r\n"),
        format!("X: y\rContent-Length: {length}\r\n"),
        format!("Content_Length: {length}\r\n"),
        format!("Content-Length\0: {length}\r\n"),
    ] {
        add(&lines, WITHIN);
    }
    for value in [
        "chunked",
        "Chunked",
        "chunked ",
        "\tchunked",
        "\u{b}chunked",
        " chunked",
        "chunked, chunked",
        "identity",
        "identity, chunked",
        "chunked, identity",
        "gzip, chunked",
        "xchunked",
        "chunked;q=1",
        "\"chunked\"",
        "chunked,",
        ",chunked",
        "",
    ] {
        add(&format!("Transfer-Encoding: {value}\r\n"), &chunk);
        add(&format!("Content-Length: 6\r\nTransfer-Encoding: {value}\r\n"), &chunk);
        add(&format!("Transfer-Encoding: {value}\r\nContent-Length: {}\r\n", chunk.len()), &chunk);
    }
    for lines in [
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "Connection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n",
        "Connection: content-length\r\nContent-Length: 0\r\n",
        "TE: trailers\r\nTransfer-Encoding: chunked\r\n",
        "Trailer: Content-Length\r\nTransfer-Encoding: chunked\r\n",
    ] {
        add(lines, &chunk);
    }
    for body in [
        format!("{length:X}\r\n{WITHIN}\r\n0\r\n\r\n"),
        format!("0000{length:x}\r\n{WITHIN}\r\n000\r\n\r\n"),
        format!("{length:x};a=b\r\n{WITHIN}\r\n0;c\r\n\r\n"),
        format!("{length:x};a=\"x\r\n{WITHIN}\r\n0\r\n\r\n"),
        format!("{length:x};a=\n{WITHIN}\r\n0\r\n\r\n"),
        format!("{length:x} \r\n{WITHIN}\r\n0\r\n\r\n"),
        format!(" {length:x}\r\n{WITHIN}\r\n0\r\n\r\n"),
        format!("0x{length:x}\r\n{WITHIN}\r\n0\r\n\r\n"),
        format!("+{length:x}\r\n{WITHIN}\r\n0\r\n\r\n"),
        format!("-1\r\n{WITHIN}\r\n0\r\n\r\n"),
        format!("{length:x}\n{WITHIN}\n0\n\n"),
        format!("{length:x}\r\n{WITHIN}0\r\n\r\n"),
        format!("{length:x}\r\n{WITHIN}\r\n0\r\nX: y\r\n\r\n"),
        format!("{length:x}\r\n{WITHIN}\r\n0\r\nContent-Length: 7\r\n\r\n"),
        format!("{length:x}\r\n{WITHIN}\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        format!("{length:x}\r\n{WITHIN}\r\n0\r\nX: y\nZ: z\r\n\r\n"),
        format!("{length:x}\r\n{WITHIN}\r\n0\r\n{WITHIN}"),
        format!("ffffffffffffffff\r\n{WITHIN}\r\n0\r\n\r\n"),
        format!("10000000000000000\r\n{WITHIN}\r\n0\r\n\r\n"),
        format!("1\r\nG\r\n{:x}\r\n{}\r\n0\r\n\r\n", length - 1, &WITHIN[1..]),
    ] {
        add("Transfer-Encoding: chunked\r\n", &body);
    }
    all
}

fn own_requests() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (lines, body) in framings() {
        for method in ["POST", "GET", "HEAD"] {
            for (target, more) in [
                ("/one?a=b", ""),
                ("http://a/two", "X: \u{80}\r\n"),
                ("/three%2f..%20", "Expect: 100-continue\r\n"),
                ("/four//.//%41", "Connection: keep-alive, x\r\n"),
            ] {
                let head = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n{more}{lines}\r\n");
                // A character above 127 is a byte here.
                let head = head.chars().map(|c| u8::try_from(u32::from(c)).unwrap());
                all.push(head.chain(body.iter().copied()).collect());
            }
        }
    }
    all
}

/// The corpus of aws/http-desync-guardian, where its folder is named: it is not a part of this project.
fn foreign_requests() -> Vec<Vec<u8>> {
    let Ok(folder) = std::env::var("EWS_HTTP_DESYNC") else {
        println!("without a corpus: EWS_HTTP_DESYNC names no folder");
        return Vec::new();
    };
    let bytes_of = |table: &Table, key: &str| -> Vec<u8> {
        let Some(tree) = table.get(key) else { return Vec::new() };
        let text = match (tree.as_text(), tree.as_integer()) {
            (Some(text), _) => text.to_owned(),
            (None, number) => number.map(|number| number.to_string()).unwrap_or_default(),
        };
        text.chars()
            .flat_map(|c| u8::try_from(u32::from(c)).map_or(c.to_string().into_bytes(), |b| vec![b]))
            .collect()
    };
    let mut all = Vec::new();
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
            let mut request =
                [bytes_of(case, "method"), bytes_of(case, "uri"), bytes_of(case, "version")].join(&b' ');
            request.extend(b"\r\nHost: a\r\n");
            for header in case.get("headers").and_then(|headers| headers.as_list()).unwrap_or_default() {
                let (name, value) = (
                    bytes_of(header.as_table().unwrap(), "name"),
                    bytes_of(header.as_table().unwrap(), "value"),
                );
                if !name.eq_ignore_ascii_case(b"host") {
                    request.extend([&name[..], b": ", &value, b"\r\n"].concat());
                }
            }
            request.extend(b"\r\n");
            request.extend(WITHIN.as_bytes());
            all.push(request);
        }
    }
    all
}

/// An endpoint that answers, and keeps what it got, byte by byte, a request at a time.
async fn recorder() -> (SocketAddr, Arc<Mutex<Vec<Vec<u8>>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, got) = (listener.local_addr().unwrap(), Arc::new(Mutex::new(Vec::new())));
    let all = got.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let all = all.clone();
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                loop {
                    if let Some(end) = whole(&buffer) {
                        all.lock().unwrap().push(buffer.drain(..end).collect::<Vec<u8>>());
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await.is_err() {
                            return;
                        }
                    } else if !matches!(stream.read_buf(&mut buffer).await, Ok(1..)) {
                        return;
                    }
                }
            });
        }
    });
    (address, got)
}

/// Where the first request here ends, read as strictly as can be: what is none is taken as one that never does.
fn whole(bytes: &[u8]) -> Option<usize> {
    let head = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&bytes[..head]).map(str::to_ascii_lowercase);
    let text = text.unwrap_or_else(|_| String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase());
    let value =
        |name: &str| text.split("\r\n").skip(1).find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    if let Some(coding) = value("transfer-encoding") {
        assert_eq!(coding, "chunked", "{text}");
        assert_eq!(value("content-length"), None, "{text}");
        let mut at = head;
        loop {
            let line = bytes[at..].windows(2).position(|window| window == b"\r\n")?;
            let size =
                usize::from_str_radix(std::str::from_utf8(&bytes[at..at + line]).unwrap(), 16).unwrap();
            at += line + 2;
            if size > 0 {
                at += size + 2;
                if bytes.len() < at {
                    return None;
                }
                continue;
            }
            loop {
                let line = bytes[at..].windows(2).position(|window| window == b"\r\n")?;
                at += line + 2;
                if line == 0 {
                    return Some(at);
                }
            }
        }
    }
    let length: usize = value("content-length").map_or(0, |length| length.parse().unwrap());
    (bytes.len() >= head + length).then_some(head + length)
}

/// The first line of a request, without its version.
fn asked(request: &[u8]) -> String {
    let line = request.split(|byte| *byte == b'\r').next().unwrap();
    let line = String::from_utf8_lossy(line).into_owned();
    line.strip_suffix(" HTTP/1.1").expect("a line of HTTP/1.1").to_owned()
}

struct Server {
    name: &'static str,
    address: SocketAddr,
    child: Child,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// nginx and HAProxy, each saying in a header of its answer what it was asked for.
async fn servers(folder: &Path) -> Vec<Server> {
    let mut servers = Vec::new();
    for (name, program) in [("nginx", "/usr/sbin/nginx"), ("haproxy", "/usr/sbin/haproxy")] {
        if !Path::new(program).exists() {
            let is_required = std::env::var("EWS_TEST_SERVERS").is_ok_and(|value| value == "required");
            assert!(!is_required, "EWS_TEST_SERVERS is `required`, and there is no {program}");
            println!("skipped: there is no {program}");
            continue;
        }
        let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (file, place) = (folder.join(name), folder.display());
        let (text, args) = if name == "nginx" {
            let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
                .map(|kind| format!("{kind}_temp_path {place}/{kind};"))
                .concat();
            let text = format!(
                "daemon off; master_process off; pid {place}/pid; error_log {place}/log crit;
                 events {{ }}
                 http {{ access_log off; {temporary} merge_slashes off;
                   server {{ listen {address}; location / {{
                     add_header X-Seen \"$request_method $request_uri\" always; return 200; }} }} }}"
            );
            (text, vec!["-p".to_owned(), place.to_string(), "-c".to_owned()])
        } else {
            let text = format!(
                "defaults\n mode http\n timeout client 20s\n timeout server 20s\n timeout connect 5s\nfrontend in\n bind {address}\n \
                 http-request wait-for-body time 10s\n http-request return status 200 hdr X-Seen \"%[method] %[url]\"\n"
            );
            (text, vec!["-db".to_owned(), "-f".to_owned()])
        };
        std::fs::write(&file, text).unwrap();
        let child = Command::new(program)
            .args(args)
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        servers.push(Server { name, address, child });
        until("the server listens", async || TcpStream::connect(address).await.is_ok()).await;
    }
    servers
}

/// Sends this, and reads to the end.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let mut answer = Vec::new();
    let exchanged = async {
        // Whoever refuses it may close before all is sent.
        let _ = stream.write_all(bytes).await;
        let _ = stream.read_to_end(&mut answer).await;
    };
    tokio::time::timeout(Duration::from_secs(30), exchanged).await.expect("an end of the answers");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nginx_and_haproxy_see_the_requests_that_were_forwarded() {
    let folder = tempfile::tempdir().unwrap();
    let servers = servers(folder.path()).await;
    if servers.is_empty() {
        return;
    }
    let (recorder, got) = recorder().await;
    let stage =
        Stage::with(with_timeouts(|timeouts| timeouts.stall = Duration::from_secs(1)), &[recorder]).await;
    let (mut forwarded, mut refused, mut wrong) = (0, 0, Vec::new());
    for request in own_requests().into_iter().chain(foreign_requests()) {
        // One more after it, so that the end is known, and that whatever is left over meets something.
        let sent = [&request, LAST.as_bytes()].concat();
        let answer = exchange(stage.address, &sent).await;
        let requests = std::mem::take(&mut *got.lock().unwrap());
        if requests.is_empty() {
            refused += 1;
            let answer = String::from_utf8_lossy(&answer);
            let last = answer.rsplit("HTTP/1.").next().unwrap_or_default();
            let status = last.split(' ').nth(1).unwrap_or_default();
            let is_refused = answer.is_empty() || status.starts_with(['4', '5']);
            assert!(is_refused, "{}\n{answer}", request.escape_ascii());
            continue;
        }
        forwarded += requests.len();
        let expected: Vec<String> =
            requests.iter().map(|request| asked(request)).chain(["GET /marker".to_owned()]).collect();
        let bytes = [requests.concat(), MARKER.as_bytes().to_vec()].concat();
        for server in &servers {
            let answer = exchange(server.address, &bytes).await;
            let answer = String::from_utf8_lossy(&answer).into_owned();
            let lines = answer.split("\r\n").filter_map(|line| line.split_once(": "));
            let seen: Vec<&str> = lines
                .filter(|(name, _)| name.eq_ignore_ascii_case("x-seen"))
                .map(|(_, value)| value)
                .collect();
            if seen != expected {
                wrong.push(format!(
                    "{} saw {seen:?} in place of {expected:?}:\n  from the client  {}\n  to the endpoint  {}\n  its answer  {answer:?}",
                    server.name,
                    request.escape_ascii(),
                    requests.concat().escape_ascii(),
                ));
            }
        }
    }
    assert!(forwarded > 100 && refused > 100, "{forwarded} requests were forwarded, {refused} refused");
    println!("{forwarded} requests were forwarded, {refused} refused");
    assert!(wrong.is_empty(), "{}:\n{}", wrong.len(), wrong.join("\n"));
}
