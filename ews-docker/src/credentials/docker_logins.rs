//! Docker's `config.json`: what `docker login` left.
//!
//! The order is: the program of this registry (`credHelpers`), the program of all (`credsStore`), then what stands in the file
//! itself (`auths`). An empty program's name means none, and so does an empty answer: the next in the order is asked.
//!
//! The entries of `auths` are read by docker_credential, from a document that holds nothing but the one entry. Programs are
//! run by `program`, since docker_credential (1.4) gives them neither a deadline nor a bound, asks `credsStore` last, and takes
//! an empty `credsStore` for the name of one.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use docker_credential::{CredentialRetrievalError, DockerCredential};
use ews_core::{Error, ErrorKind, Result, SecretValue};
use serde_json::{Map, Value};

use super::{Credential, CredentialSource, program};

/// The largest configuration that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What Docker calls its own registry where it keeps credentials; `docker login` writes the first.
const DOCKER_NAMES: [&str; 4] =
    ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "registry-1.docker.io"];

/// The credentials of Docker's `config.json`, read anew for each operation.
#[derive(Debug, Clone)]
pub struct DockerLogins {
    path: Option<PathBuf>,
    deadline: Duration,
    folder: Option<PathBuf>,
}

impl DockerLogins {
    /// How long a credential program may take where nobody said otherwise: as long as one that asks a cloud needs at worst.
    pub const DEADLINE: Duration = Duration::from_secs(30);

    /// The file that Docker itself would read: `config.json` in the folder that `DOCKER_CONFIG` names, else in `.docker` of the home
    /// directory. Where it does not exist there are no credentials.
    pub fn from_env() -> Self {
        Self { path: None, deadline: Self::DEADLINE, folder: None }
    }

    /// This file, which must exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: Some(path.into()), ..Self::from_env() }
    }

    /// Looks for credential programs in this folder only. Default: where this program's `PATH` says.
    #[must_use]
    pub fn with_programs_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.folder = Some(folder.into());
        self
    }

    /// Gives a credential program this long. Default [`Self::DEADLINE`].
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    async fn read(&self) -> Result<Option<(PathBuf, Map<String, Value>)>> {
        let docker_would = || environment(|name| std::env::var_os(name));
        let Some(path) = self.path.clone().or_else(docker_would) else { return Ok(None) };
        let shown = |error: Error| error.with_context("file", path.display());
        let bytes = match read_file(&path).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.path.is_none() => {
                return Ok(None);
            }
            Err(error) => {
                let message =
                    "Docker's configuration can't be read; it must be a file that this user may read";
                return Err(shown(Error::new(ErrorKind::Unauthorized, message).with_source(error)));
            }
        };
        if bytes.len() as u64 > MAX_FILE {
            return Err(shown(Error::invalid(format!(
                "Docker's configuration has more than {MAX_FILE} bytes"
            ))));
        }
        // The parser's own words could repeat a part of the text.
        let document = serde_json::from_slice(&bytes).map_err(|error| {
            let (line, column) = (error.line(), error.column());
            shown(Error::invalid(format!(
                "Docker's configuration is not a JSON object (line {line}, column {column})"
            )))
        })?;
        Ok(Some((path, document)))
    }
}

async fn read_file(path: &Path) -> std::io::Result<Vec<u8>> {
    use tokio::io::AsyncReadExt as _;
    let mut bytes = Vec::new();
    tokio::fs::File::open(path).await?.take(MAX_FILE + 1).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

/// Where Docker would look, by these variables.
fn environment(get: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    let set = |name: &str| get(name).filter(|value| !value.is_empty());
    let folder = match set("DOCKER_CONFIG") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(set(if cfg!(windows) { "USERPROFILE" } else { "HOME" })?).join(".docker"),
    };
    Some(folder.join("config.json"))
}

#[async_trait]
impl CredentialSource for DockerLogins {
    async fn find(&self, registry: &str) -> Result<Option<Credential>> {
        let Some((path, document)) = self.read().await? else { return Ok(None) };
        let server = if registry == "docker.io" { DOCKER_NAMES[0] } else { registry };
        for name in programs(&document, registry) {
            let asked = program::ask(&name, server, self.deadline, self.folder.as_deref()).await;
            let found = asked.map_err(|error| error.with_context("file", path.display()))?;
            if found.is_some() {
                return Ok(found);
            }
        }
        in_file(&document, registry).map_err(|error| error.with_context("file", path.display()))
    }
}

/// The names under which a registry may stand.
fn names(registry: &str) -> Vec<&str> {
    if registry == "docker.io" { DOCKER_NAMES.to_vec() } else { vec![registry] }
}

/// The programs to ask, in order.
fn programs(document: &Map<String, Value>, registry: &str) -> Vec<String> {
    let of_registry = document
        .get("credHelpers")
        .and_then(|programs| names(registry).into_iter().find_map(|name| programs.get(name)?.as_str()));
    let of_all = document.get("credsStore").and_then(Value::as_str);
    let mut found: Vec<String> =
        of_registry.into_iter().chain(of_all).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    found.dedup();
    found
}

/// What stands in the file itself.
fn in_file(document: &Map<String, Value>, registry: &str) -> Result<Option<Credential>> {
    let Some(entries) = document.get("auths").and_then(Value::as_object) else { return Ok(None) };
    // Docker writes addresses too, with a scheme and a path.
    let host = |key: &str| {
        let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
        rest.split('/').next().unwrap_or_default().to_owned()
    };
    let names = names(registry);
    let entry = names.iter().find_map(|name| entries.get(*name)).or_else(|| {
        entries.iter().find(|(key, _)| names.contains(&host(key).as_str())).map(|(_, entry)| entry)
    });
    let Some(mut entry) = entry.and_then(Value::as_object).cloned() else { return Ok(None) };
    // An empty text is what Docker leaves where a program keeps the credential.
    entry.retain(|_, value| value.as_str().is_none_or(|text| !text.is_empty()));
    let alone = serde_json::json!({ "auths": { registry: entry } }).to_string();
    let wrong = |what: &str| {
        Error::invalid(format!(
            "the entry of `{registry}` under `auths` of Docker's configuration {what}; `docker login {registry}` writes it anew"
        ))
    };
    match docker_credential::get_credential_from_reader(alone.as_bytes(), registry) {
        Ok(DockerCredential::IdentityToken(token)) => {
            Ok(Some(Credential::IdentityToken(SecretValue::new(token)?)))
        }
        Ok(DockerCredential::UsernamePassword(user, password)) => {
            // Docker pads some passwords with zero bytes and takes them off again.
            let password = SecretValue::new(password.trim_end_matches('\0'))?;
            Ok(Some(Credential::Password { user, password }))
        }
        Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
        Err(CredentialRetrievalError::CredentialMismatchError) => Err(wrong("says two things")),
        Err(_) => Err(wrong("can't be read")),
    }
}

#[cfg(test)]
#[path = "docker_logins_tests.rs"]
mod tests;
