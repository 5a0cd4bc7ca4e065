//! Docker contexts: the engines that the `docker` command knows by name, in files under `~/.docker`.

use std::path::{Path, PathBuf};

use ews_core::{Digest, Error, ErrorKind, Result};
use serde::Deserialize;

use super::{EngineAddress, TlsFiles};

/// The longest configuration file that is read.
const MAX_FILE: u64 = 1024 * 1024;

/// `DOCKER_CONFIG`, else `.docker` in the home directory.
pub(super) fn config_directory(variable: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    if let Some(directory) = variable("DOCKER_CONFIG") {
        return Some(directory.into());
    }
    let home = variable(if cfg!(windows) { "USERPROFILE" } else { "HOME" })?;
    Some(Path::new(&home).join(".docker"))
}

/// The current context of `config.json`, where there is one.
pub(super) fn current(directory: &Path) -> Result<Option<String>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Config {
        current_context: Option<String>,
    }
    let path = directory.join("config.json");
    let Some(text) = read(&path)? else { return Ok(None) };
    let config: Config = serde_json::from_str(&text).map_err(|error| unreadable(&path, &error))?;
    Ok(config.current_context.filter(|name| !name.is_empty()))
}

/// The address of a context.
pub(super) fn address(directory: &Path, name: &str) -> Result<EngineAddress> {
    #[derive(Deserialize)]
    struct Meta {
        #[serde(rename = "Endpoints", default)]
        endpoints: std::collections::BTreeMap<String, Endpoint>,
    }
    #[derive(Deserialize)]
    struct Endpoint {
        #[serde(rename = "Host", default)]
        host: String,
        #[serde(rename = "SkipTLSVerify", default)]
        skip_tls_verify: bool,
    }
    // A context's directory is the digest of its name, so that a name needs no escaping.
    let id = Digest::of(name.as_bytes()).to_string().trim_start_matches("sha256:").to_owned();
    let path = directory.join("contexts/meta").join(&id).join("meta.json");
    let shown = || name.chars().take(100).collect::<String>().escape_debug().to_string();
    let Some(text) = read(&path)? else {
        return Err(Error::invalid(format!(
            "there is no Docker context `{}`; `docker context ls` lists those there are",
            shown()
        )));
    };
    let meta: Meta = serde_json::from_str(&text).map_err(|error| unreadable(&path, &error))?;
    let endpoint = meta
        .endpoints
        .get("docker")
        .ok_or_else(|| Error::invalid(format!("the Docker context `{}` has no engine", shown())))?;
    let address: EngineAddress =
        endpoint.host.parse().map_err(|error: Error| error.with_context("docker_context", shown()))?;
    let certificates = directory.join("contexts/tls").join(&id).join("docker");
    match address {
        EngineAddress::Tcp { host, port } if certificates.join("ca.pem").exists() => {
            Ok(EngineAddress::Tls { host, port, tls: TlsFiles::in_directory(certificates) })
        }
        EngineAddress::Tcp { .. } if endpoint.skip_tls_verify => Err(Error::invalid(format!(
            "the Docker context `{}` skips the check of the engine's certificate, which is refused: give it a `ca.pem`",
            shown()
        ))),
        address => Ok(address),
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    let fault = |error: std::io::Error| {
        Error::new(ErrorKind::Invalid, "a file of Docker's configuration can't be read")
            .with_context("path", path.display())
            .with_source(error)
    };
    match std::fs::metadata(path) {
        Ok(meta) if meta.len() > MAX_FILE => {
            Err(Error::invalid("a file of Docker's configuration is larger than 1 MiB")
                .with_context("path", path.display()))
        }
        Ok(_) => std::fs::read_to_string(path).map(Some).map_err(fault),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault(error)),
    }
}

fn unreadable(path: &Path, error: &serde_json::Error) -> Error {
    // The file holds credentials beside what we look for: serde's words quote what they choke on, so only the place is told.
    Error::invalid("a file of Docker's configuration is not the JSON that Docker writes")
        .with_context("path", path.display())
        .with_context("line", error.line())
        .with_context("column", error.column())
}

#[cfg(test)]
pub(super) fn write_for_test(directory: &Path, name: &str, host: &str, tls: bool) {
    let id = Digest::of(name.as_bytes()).to_string().trim_start_matches("sha256:").to_owned();
    let meta = directory.join("contexts/meta").join(&id);
    std::fs::create_dir_all(&meta).unwrap();
    let text = format!(
        r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{host}","SkipTLSVerify":false}}}}}}"#
    );
    std::fs::write(meta.join("meta.json"), text).unwrap();
    if tls {
        let certificates = directory.join("contexts/tls").join(&id).join("docker");
        std::fs::create_dir_all(&certificates).unwrap();
        for file in ["ca.pem", "cert.pem", "key.pem"] {
            std::fs::write(certificates.join(file), "").unwrap();
        }
    }
}
