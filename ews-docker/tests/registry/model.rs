//! A registry in memory behind the stand-in, with the manners that Debian's does not have: tokens that run out, blobs behind redirects
//! to another host, no HEAD, no chunks, cut uploads, rate limits, denied repositories.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use ews_core::{Digest, ImageRef};
use ews_docker::registry::OciRegistryConfig;
use serde_json::{Value, json};

use self::base64_lite::decode;
use crate::standin::{Reply, Request, StandIn};

/// How it behaves.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manners {
    /// Bearer tokens, each good for so many requests.
    pub(crate) tokens: Option<u32>,
    /// Blobs lie on another host, behind redirects.
    pub(crate) store: bool,
    /// HEAD is not allowed.
    pub(crate) no_head: bool,
    /// Uploads come in one piece.
    pub(crate) no_chunks: bool,
    /// Each third chunk is taken by half, and the connection is lost.
    pub(crate) cut_chunks: bool,
    /// Every blob is cut on its way, as often as it is longer than this.
    pub(crate) cut_blobs: Option<usize>,
    /// Ranges are not understood.
    pub(crate) no_ranges: bool,
    /// Pages of tags have so many, in no order.
    pub(crate) page: Option<usize>,
}

#[derive(Default)]
pub(crate) struct State {
    repositories: BTreeMap<String, Repository>,
    uploads: BTreeMap<u64, Vec<u8>>,
    tokens: BTreeMap<String, (u32, Vec<String>)>,
    next: u64,
    chunks: u64,
    pub(crate) denied: BTreeSet<String>,
    pub(crate) limited: u32,
    corrupt: BTreeMap<Digest, Vec<u8>>,
}

#[derive(Default)]
struct Repository {
    blobs: BTreeMap<Digest, Vec<u8>>,
    manifests: BTreeMap<Digest, (String, Vec<u8>)>,
    tags: BTreeMap<String, Digest>,
}

/// The registry, its token service and its store.
pub(crate) struct Model {
    pub(crate) registry: StandIn,
    pub(crate) service: StandIn,
    pub(crate) store: StandIn,
    pub(crate) state: Arc<Mutex<State>>,
}

pub(crate) const USER: &str = "deploy";
pub(crate) const PASSWORD: &str = "Xk9-hunter2-swordfish";

impl Model {
    pub(crate) async fn start(manners: Manners) -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let shared = state.clone();
        let service = StandIn::start(move |request| shared.lock().unwrap().token(request)).await;
        let shared = state.clone();
        let store = StandIn::start(move |request| shared.lock().unwrap().store(request)).await;
        let (realm, there, shared) = (service.host(), store.host(), state.clone());
        let registry =
            StandIn::start(move |request| shared.lock().unwrap().answer(request, manners, &realm, &there))
                .await;
        Self { registry, service, store, state }
    }

    /// All three hosts may be spoken to without TLS.
    pub(crate) fn config(&self) -> OciRegistryConfig {
        self.registry.config().with_plain_http(self.service.host()).with_plain_http(self.store.host())
    }

    pub(crate) fn name(&self, repository: &str) -> ImageRef {
        format!("{}/{repository}", self.registry.host()).parse().unwrap()
    }

    pub(crate) fn corrupt(&self, digest: &Digest, bytes: &[u8]) {
        self.state.lock().unwrap().corrupt.insert(*digest, bytes.to_vec());
    }
}

fn error(status: u16, code: &str) -> Reply {
    Reply::new(status)
        .with("content-type", "application/json")
        .body(json!({ "errors": [{ "code": code, "message": code }] }).to_string())
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// The token service: the one password, or nobody, who may read only.
    fn token(&mut self, request: &Request) -> Reply {
        let mut scopes = request.query("scope");
        match request.header("authorization") {
            Some(header) => {
                let shown = header.strip_prefix("Basic ").map(decode).unwrap_or_default();
                if shown != format!("{USER}:{PASSWORD}").into_bytes() {
                    return error(401, "UNAUTHORIZED");
                }
            }
            None => {
                scopes.iter_mut().for_each(|scope| *scope = scope.replace(",push", "").replace(",delete", ""))
            }
        }
        let number = self.number();
        let token = format!("tkn-{number}-{}", "s3cr3t".repeat(3));
        self.tokens.insert(token.clone(), (0, scopes));
        Reply::new(200).body(json!({ "token": token, "expires_in": 300 }).to_string())
    }

    /// The object store: signed addresses only, and no other credentials.
    fn store(&mut self, request: &Request) -> Reply {
        if request.header("authorization").is_some() || request.query("signature") != ["good"] {
            return Reply::new(400).body("<Error>InvalidArgument</Error>");
        }
        let mut parts = request.path().trim_start_matches('/').rsplitn(2, '/');
        let (digest, repository) = (parts.next().unwrap().parse().unwrap(), parts.next().unwrap().to_owned());
        self.blob(&repository, &digest, request, Manners::default())
    }

    fn may(&mut self, request: &Request, repository: &str, limit: u32) -> bool {
        let action = match request.method.as_str() {
            "GET" | "HEAD" => "pull",
            "DELETE" if request.path().contains("/manifests/") => "delete",
            _ => "push",
        };
        let Some(token) = request.header("authorization").and_then(|header| header.strip_prefix("Bearer "))
        else {
            return false;
        };
        let Some((used, scopes)) = self.tokens.get_mut(token) else { return false };
        *used += 1;
        let wanted = format!("repository:{repository}:");
        *used <= limit
            && scopes.iter().any(|scope| {
                scope
                    .strip_prefix(&wanted)
                    .is_some_and(|actions| actions.split(',').any(|given| given == action))
            })
    }

    fn answer(&mut self, request: &Request, manners: Manners, realm: &str, store: &str) -> Reply {
        let path = request.path().trim_start_matches("/v2/").to_owned();
        let (repository, kind, rest) = ["/manifests/", "/blobs/", "/tags/"]
            .iter()
            .find_map(|kind| {
                path.split_once(kind)
                    .map(|(repository, rest)| (repository.to_owned(), *kind, rest.to_owned()))
            })
            .expect("a path of the API");
        if let Some(limit) = manners.tokens
            && !self.may(request, &repository, limit)
        {
            let challenge = format!(
                "Bearer realm=\"http://{realm}/token\",service=\"model\",scope=\"repository:{repository}:pull\""
            );
            return error(401, "UNAUTHORIZED").with("www-authenticate", challenge);
        }
        if self.denied.contains(&repository) {
            return error(403, "DENIED");
        }
        if self.limited > 0 {
            self.limited -= 1;
            return error(429, "TOOMANYREQUESTS").with("retry-after", 0);
        }
        if manners.no_head && request.method == "HEAD" {
            return Reply::new(405);
        }
        match kind {
            "/manifests/" => self.manifest(&repository, &rest, request),
            "/tags/" => self.tags(&repository, request, manners),
            _ if rest.starts_with("uploads/") => {
                self.upload(&repository, &rest["uploads/".len()..], request, manners)
            }
            _ => {
                let digest: Digest = rest.parse().unwrap();
                let there =
                    self.repositories.get(&repository).is_some_and(|found| found.blobs.contains_key(&digest));
                if manners.store && there {
                    return Reply::new(307)
                        .with("location", format!("http://{store}/{repository}/{digest}?signature=good"));
                }
                self.blob(&repository, &digest, request, manners)
            }
        }
    }

    fn blob(&self, repository: &str, digest: &Digest, request: &Request, manners: Manners) -> Reply {
        let found = self.repositories.get(repository).and_then(|found| found.blobs.get(digest));
        let Some(bytes) = found.map(|bytes| self.corrupt.get(digest).unwrap_or(bytes)) else {
            return error(404, "BLOB_UNKNOWN");
        };
        let range = request
            .header("range")
            .filter(|_| !manners.no_ranges)
            .map(|range| range.strip_prefix("bytes=").unwrap());
        let reply = match range.map(|range| range.split_once('-').unwrap()) {
            None => Reply::new(200).with("docker-content-digest", digest).body(bytes.clone()),
            Some((first, last)) => {
                let first: usize = first.parse().unwrap();
                if first >= bytes.len() {
                    return Reply::new(416).with("content-range", format!("bytes */{}", bytes.len()));
                }
                let last = last.parse().unwrap_or(bytes.len() - 1).min(bytes.len() - 1);
                Reply::new(206)
                    .with("content-range", format!("bytes {first}-{last}/{}", bytes.len()))
                    .body(&bytes[first..=last])
            }
        };
        match manners.cut_blobs {
            // The whole way again each time, where ranges are not understood: then it must get further.
            Some(every) => reply.cut_after(every * (request.number + 1)),
            None => reply,
        }
    }

    fn manifest(&mut self, repository: &str, reference: &str, request: &Request) -> Reply {
        let digest =
            |found: &Repository| reference.parse().ok().or_else(|| found.tags.get(reference).copied());
        match request.method.as_str() {
            "PUT" => {
                let document: Value = serde_json::from_slice(&request.body).unwrap();
                let found = self.repositories.entry(repository.to_owned()).or_default();
                let blobs = document["layers"].as_array().into_iter().flatten().chain(document.get("config"));
                let missing = blobs
                    .map(|part| part["digest"].as_str().unwrap().parse().unwrap())
                    .any(|d| !found.blobs.contains_key(&d));
                let children = document["manifests"].as_array().into_iter().flatten();
                let lost = children
                    .map(|part| part["digest"].as_str().unwrap().parse().unwrap())
                    .any(|d| !found.manifests.contains_key(&d));
                if missing || lost {
                    // As some do: not 400.
                    return error(404, "MANIFEST_BLOB_UNKNOWN");
                }
                let digest = Digest::of(&request.body);
                let media_type = request.header("content-type").unwrap().to_owned();
                found.manifests.insert(digest, (media_type, request.body.clone()));
                if reference.parse::<Digest>().is_err() {
                    found.tags.insert(reference.to_owned(), digest);
                }
                Reply::new(201).with("docker-content-digest", digest)
            }
            "DELETE" => {
                let digest: Digest = reference.parse().unwrap();
                let Some(found) = self.repositories.get_mut(repository) else {
                    return error(404, "NAME_UNKNOWN");
                };
                found.tags.retain(|_, tagged| *tagged != digest);
                if found.manifests.remove(&digest).is_some() {
                    Reply::new(202)
                } else {
                    error(404, "MANIFEST_UNKNOWN")
                }
            }
            _ => {
                let Some(found) = self.repositories.get(repository) else {
                    return error(404, "NAME_UNKNOWN");
                };
                let document = digest(found).and_then(|digest| Some((digest, found.manifests.get(&digest)?)));
                let Some((digest, (media_type, bytes))) = document else {
                    return error(404, "MANIFEST_UNKNOWN");
                };
                Reply::new(200)
                    .with("content-type", media_type)
                    .with("docker-content-digest", digest)
                    .body(bytes.clone())
            }
        }
    }

    fn tags(&self, repository: &str, request: &Request, manners: Manners) -> Reply {
        let Some(found) = self.repositories.get(repository) else { return error(404, "NAME_UNKNOWN") };
        // Backwards: no client may count on the order.
        let all: Vec<&String> = found.tags.keys().rev().collect();
        let start: usize = request.query("from").first().map_or(0, |from| from.parse().unwrap());
        let page = manners.page.unwrap_or(usize::MAX);
        let tags: Vec<_> = all.iter().skip(start).take(page).collect();
        let reply = Reply::new(200).body(json!({ "name": repository, "tags": tags }).to_string());
        match start.checked_add(page).filter(|end| *end < all.len()) {
            Some(end) => reply.with("link", format!("</v2/{repository}/tags/list?from={end}>; rel=\"next\"")),
            None => reply,
        }
    }

    fn upload(&mut self, repository: &str, id: &str, request: &Request, manners: Manners) -> Reply {
        let place = |id: u64| format!("/v2/{repository}/blobs/uploads/{id}");
        let at = |reply: Reply, id: u64, length: usize| {
            reply.with("location", place(id)).with("range", format!("0-{}", length.saturating_sub(1)))
        };
        if request.method == "POST" {
            if let [digest] = request.query("mount").as_slice() {
                let digest: Digest = digest.parse().unwrap();
                let from = request.query("from").pop().unwrap();
                let bytes = self.repositories.get(&from).and_then(|found| found.blobs.get(&digest)).cloned();
                if let Some(bytes) = bytes {
                    self.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest, bytes);
                    return Reply::new(201).with("location", "/");
                }
            }
            let id = self.number();
            self.uploads.insert(id, Vec::new());
            return at(Reply::new(202), id, 0);
        }
        let id: u64 = id.parse().unwrap();
        self.chunks += u64::from(request.method == "PATCH");
        let Some(upload) = self.uploads.get_mut(&id) else { return error(404, "BLOB_UPLOAD_UNKNOWN") };
        match request.method.as_str() {
            "GET" => at(Reply::new(204), id, upload.len()),
            "DELETE" => {
                self.uploads.remove(&id);
                Reply::new(204)
            }
            "PATCH" => {
                if manners.no_chunks {
                    return error(405, "UNSUPPORTED");
                }
                let first: usize =
                    request.header("content-range").unwrap().split_once('-').unwrap().0.parse().unwrap();
                if first != upload.len() {
                    return error(416, "BLOB_UPLOAD_INVALID");
                }
                if manners.cut_chunks && self.chunks.is_multiple_of(3) {
                    upload.extend_from_slice(&request.body[..request.body.len() / 2]);
                    return Reply::lost();
                }
                upload.extend_from_slice(&request.body);
                let length = upload.len();
                at(Reply::new(202), id, length)
            }
            _ => {
                upload.extend_from_slice(&request.body);
                let digest: Digest = request.query("digest")[0].parse().unwrap();
                let bytes = self.uploads.remove(&id).unwrap();
                if Digest::of(&bytes) != digest {
                    return error(400, "DIGEST_INVALID");
                }
                self.repositories.entry(repository.to_owned()).or_default().blobs.insert(digest, bytes);
                Reply::new(201).with("docker-content-digest", digest)
            }
        }
    }

    /// Uploads that were begun and neither committed nor taken back.
    pub(crate) fn uploads(&self) -> usize {
        self.uploads.len()
    }
}

/// Just enough of base64 to read what a client shows.
mod base64_lite {
    pub(super) fn decode(text: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = text.bytes().filter_map(|byte| DIGITS.iter().position(|digit| *digit == byte));
        let (mut bytes, mut bits, mut count) = (Vec::new(), 0_u32, 0);
        for digit in digits {
            bits = (bits << 6) | digit as u32;
            count += 6;
            if count >= 8 {
                count -= 8;
                bytes.push((bits >> count) as u8);
            }
        }
        bytes
    }
}
