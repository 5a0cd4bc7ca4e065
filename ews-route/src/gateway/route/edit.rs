//! What a rule changes on the way: headers, host, path.

use ews_core::balancer::{HeaderEdits, HeaderField, PathMatch, PathRewrite, RouteFilter};
use ews_core::{Error, Result};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{HeaderMap, Uri};

/// All that a rule changes.
#[derive(Debug, Default)]
pub(crate) struct Edits {
    request: Vec<Edit>,
    response: Vec<Edit>,
    host: Option<HeaderValue>,
    path: Option<PathEdit>,
}

#[derive(Debug)]
enum Edit {
    Remove(HeaderName),
    Set(HeaderName, HeaderValue),
    Add(HeaderName, HeaderValue),
}

/// Another path.
#[derive(Debug)]
pub(super) enum PathEdit {
    Full(Box<str>),
    /// This in place of so many bytes.
    Prefix(usize, Box<str>),
}

impl Edits {
    /// The filters of a rule; `None` where there are none.
    pub(super) fn new(filters: &[RouteFilter], rule: &PathMatch) -> Result<Option<Self>> {
        if filters.is_empty() {
            return Ok(None);
        }
        let mut edits = Self::default();
        for filter in filters {
            match filter {
                RouteFilter::RequestHeaders(wanted) => push(&mut edits.request, wanted)?,
                RouteFilter::ResponseHeaders(wanted) => push(&mut edits.response, wanted)?,
                RouteFilter::Rewrite(rewrite) => {
                    if let Some(host) = &rewrite.host {
                        edits.host = Some(value(host)?);
                    }
                    if let Some(path) = &rewrite.path {
                        edits.path = Some(PathEdit::new(path, rule)?);
                    }
                }
                _ => return Err(Error::invalid("a filter that this gateway does not know")),
            }
        }
        Ok(Some(edits))
    }

    /// Changes a request on its way to an endpoint. Its target has no authority.
    pub(crate) fn request(&self, headers: &mut HeaderMap, target: &mut Uri) {
        if let Some(host) = &self.host {
            headers.insert(header::HOST, host.clone());
        }
        if let Some(path) = &self.path {
            let query = target.query().map(str::to_owned);
            // A target of `*` is no path.
            if target.path().starts_with('/')
                && let Some(changed) = path.target(target.path(), query.as_deref())
            {
                *target = changed;
            }
        }
        self.request.iter().for_each(|edit| edit.apply(headers));
    }

    /// Changes a response on its way to the client.
    pub(crate) fn response(&self, headers: &mut HeaderMap) {
        self.response.iter().for_each(|edit| edit.apply(headers));
    }
}

impl Edit {
    fn apply(&self, headers: &mut HeaderMap) {
        match self {
            Self::Remove(name) => drop(headers.remove(name)),
            Self::Set(name, value) => drop(headers.insert(name, value.clone())),
            Self::Add(name, value) => drop(headers.append(name, value.clone())),
        }
    }
}

impl PathEdit {
    pub(super) fn new(rewrite: &PathRewrite, rule: &PathMatch) -> Result<Self> {
        let (edit, path) = match (rewrite, rule) {
            (PathRewrite::Full(path), _) => (Self::Full(path.as_str().into()), path),
            (PathRewrite::Prefix(path), PathMatch::Prefix(prefix)) => {
                let with = path.strip_suffix('/').unwrap_or(path);
                (Self::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).len(), with.into()), path)
            }
            _ => return Err(Error::invalid("a rewrite that this gateway does not know")),
        };
        path.parse::<PathAndQuery>()
            .map_err(|error| Error::invalid(format!("`{}` is no path: {error}", path.escape_debug())))?;
        Ok(edit)
    }

    /// This path in place of that one.
    pub(super) fn path(&self, path: &str) -> String {
        match self {
            Self::Full(full) => full.to_string(),
            Self::Prefix(length, with) => {
                let rest = path.get(*length..).unwrap_or_default();
                let changed = [with, rest].concat();
                if changed.is_empty() { "/".to_owned() } else { changed }
            }
        }
    }

    fn target(&self, path: &str, query: Option<&str>) -> Option<Uri> {
        let mut text = self.path(path);
        if let Some(query) = query {
            text.push('?');
            text.push_str(query);
        }
        Some(Uri::from(PathAndQuery::try_from(text).ok()?))
    }
}

fn push(edits: &mut Vec<Edit>, wanted: &HeaderEdits) -> Result<()> {
    let pair =
        |HeaderField { name: of, value: text }: &HeaderField| -> Result<_> { Ok((name(of)?, value(text)?)) };
    for gone in &wanted.remove {
        edits.push(Edit::Remove(name(gone)?));
    }
    for field in &wanted.set {
        let (name, value) = pair(field)?;
        edits.push(Edit::Set(name, value));
    }
    for field in &wanted.add {
        let (name, value) = pair(field)?;
        edits.push(Edit::Add(name, value));
    }
    Ok(())
}

pub(super) fn name(text: &str) -> Result<HeaderName> {
    HeaderName::from_bytes(text.as_bytes())
        .map_err(|_| Error::invalid(format!("`{}` is no header's name", text.escape_debug())))
}

pub(super) fn value(text: &str) -> Result<HeaderValue> {
    HeaderValue::from_bytes(text.as_bytes())
        .map_err(|_| Error::invalid(format!("`{}` can't be a header's value", text.escape_debug())))
}

#[cfg(test)]
mod tests {
    use ews_core::balancer::Rewrite;

    use super::*;

    fn rewritten(rule: PathMatch, path: PathRewrite, target: &str) -> String {
        let filter = RouteFilter::Rewrite(Rewrite::default().with_path(path));
        let edits = Edits::new(&[filter], &rule).unwrap().unwrap();
        let mut target = target.parse().unwrap();
        edits.request(&mut HeaderMap::new(), &mut target);
        target.to_string()
    }

    #[test]
    fn a_prefix_is_replaced_and_the_query_stays() {
        for (prefix, with, target, wanted) in [
            ("/api", "/", "/api/x?q=1", "/x?q=1"),
            ("/api", "/", "/api", "/"),
            ("/api/", "/", "/api/", "/"),
            ("/api", "/v2", "/api/x", "/v2/x"),
            ("/api", "/v2/", "/api?q", "/v2?q"),
            ("/", "/base", "/x", "/base/x"),
            ("/", "/base", "/", "/base/"),
        ] {
            let rule = PathMatch::Prefix(prefix.to_owned());
            let found = rewritten(rule, PathRewrite::Prefix(with.to_owned()), target);
            assert_eq!(found, wanted, "{prefix} {with} {target}");
        }
        let full = rewritten(PathMatch::Exact("/x".to_owned()), PathRewrite::Full("/y".to_owned()), "/x?a=b");
        assert_eq!(full, "/y?a=b");
    }

    #[test]
    fn headers_go_then_are_set_then_added() {
        let edits = HeaderEdits::new()
            .with_set("x-a", "1")
            .with_added("X-A", "2")
            .with_added("x-b", "3")
            .with_removed("X-B")
            .with_removed("x-c");
        let rule = PathMatch::Prefix("/".to_owned());
        let edits = Edits::new(&[RouteFilter::ResponseHeaders(edits)], &rule).unwrap().unwrap();
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "old"), ("x-b", "old"), ("x-c", "old"), ("x-d", "kept")] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        edits.response(&mut headers);
        let mut left: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        left.sort_unstable();
        assert_eq!(left, [("x-a", &b"1"[..]), ("x-a", b"2"), ("x-b", b"3"), ("x-d", b"kept")]);
    }
}
