//! Files for running instances, as a tar: each regular file by its path in the instance.

use std::io::Read as _;

use axum::Extension;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, Uri};
use ews_core::spec::lifecycle::Signal;
use ews_core::{Error, ErrorKind, Result, ServiceName};
use ews_deploy::{Hotfix, Reload, Strategy};

use super::wire::Accepted;
use super::{Answered, Api, Caller, json, parameters, service_name};

pub(super) async fn hotfix(
    State(api): State<Api>,
    Extension(caller): Extension<Caller>,
    Path(name): Path<String>,
    uri: Uri,
    body: Bytes,
) -> Answered {
    let service = service_name(&name)?;
    let parameters = parameters(&uri, &["reload", "reason", "strategy"])?;
    let reload = match parameters.get("reload") {
        Some(text) => reload(text)?,
        None => Reload::None,
    };
    let mut fix = tokio::task::spawn_blocking(move || unpack(service, &body))
        .await
        .map_err(|error| Error::internal("reading the archive failed").with_source(error))??
        .with_reload(reload)
        .with_reason(parameters.get("reason").cloned().unwrap_or_default());
    if let Some(text) = parameters.get("strategy") {
        fix.strategy = strategy(text)?;
    }
    let id = Box::pin(api.deployer().by(caller.0).hotfix(&fix)).await?;
    Ok(json(StatusCode::ACCEPTED, &Accepted::from(id)))
}

fn strategy(text: &str) -> Result<Strategy> {
    serde_json::from_str(text).map_err(|error| Error::invalid(format!("`strategy` can't be read: {error}")))
}

/// `none`, `restart`, `signal:HUP`, or `exec:` and a command as a JSON list of words.
fn reload(text: &str) -> Result<Reload> {
    let wrong = || {
        Error::invalid(
            "`reload` is none of what is known; accepted: `none`, `restart`, `signal:HUP`, `exec:[\"word\",…]`",
        )
    };
    match text.split_once(':') {
        None if text == "none" => Ok(Reload::None),
        None if text == "restart" => Ok(Reload::Restart),
        Some(("signal", signal)) => Ok(Reload::Signal(signal.parse::<Signal>()?)),
        Some(("exec", words)) => serde_json::from_str(words).map(Reload::Exec).map_err(|_| wrong()),
        _ => Err(wrong()),
    }
}

fn unpack(service: ServiceName, body: &[u8]) -> Result<Hotfix> {
    // Its own words would repeat what was sent.
    let broken = |error: std::io::Error| {
        Error::invalid(format!(
            "the body is no tar that can be read ({}); accepted: a tar of regular files",
            error.kind()
        ))
    };
    let mut fix = Hotfix::new(service);
    let mut archive = tar::Archive::new(body);
    for entry in archive.entries().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        let header = entry.header();
        if header.entry_type().is_dir() {
            continue;
        }
        let path = entry.path().map_err(broken)?.to_string_lossy().into_owned();
        if !header.entry_type().is_file() {
            let shown: String = path.chars().take(100).flat_map(char::escape_default).collect();
            return Err(Error::invalid(format!("`{shown}` is no regular file; accepted: only those")));
        }
        if fix.files.len() >= Hotfix::FILES || entry.size() > Hotfix::FILE as u64 {
            return Err(Error::new(
                ErrorKind::OutOfResources,
                format!(
                    "too much for a hotfix; accepted: at most {} files of {} bytes each",
                    Hotfix::FILES,
                    Hotfix::FILE
                ),
            ));
        }
        let path = format!("/{}", path.trim_start_matches("./").trim_start_matches('/'));
        let mut content = Vec::new();
        entry.take(Hotfix::FILE as u64).read_to_end(&mut content).map_err(broken)?;
        // Bits come from the file that is replaced, since an upload's are the operator's own.
        fix = fix.with_file(path, content);
    }
    Ok(fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_program_is_told_by_is_read_and_anything_else_refused() {
        assert_eq!(reload("none").unwrap(), Reload::None);
        assert_eq!(reload("restart").unwrap(), Reload::Restart);
        assert_eq!(reload("signal:HUP").unwrap(), Reload::Signal(Signal::HUP));
        assert_eq!(reload("exec:[\"a\",\"b c\"]").unwrap(), Reload::Exec(vec!["a".into(), "b c".into()]));
        for wrong in ["", "reboot", "signal:NOPE", "exec:a b", "restart:now"] {
            assert!(reload(wrong).unwrap_err().message().contains("accepted"), "{wrong}");
        }
    }

    #[test]
    fn only_regular_files_are_taken_and_no_garbage() {
        let service = || "web".parse::<ServiceName>().unwrap();
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_size(2);
        header.set_mode(0o600);
        tar.append_data(&mut header, "srv/app.js", &b"ok"[..]).unwrap();
        let good = tar.into_inner().unwrap();
        let fix = unpack(service(), &good).unwrap();
        assert_eq!(fix.files.keys().collect::<Vec<_>>(), ["/srv/app.js"]);
        assert_eq!(fix.files["/srv/app.js"].content, "ok");

        let mut tar = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        tar.append_link(&mut header, "srv/link", "/etc/shadow").unwrap();
        let link = tar.into_inner().unwrap();
        assert!(unpack(service(), &link).unwrap_err().message().contains("no regular file"));
        assert!(unpack(service(), &[7; 1024]).unwrap_err().message().contains("no tar"));
    }
}
