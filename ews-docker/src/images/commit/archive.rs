//! Image archives with another config: alone, or over the layers of a saved image.

use std::io::{self, Cursor, Read as _};

use bytes::Bytes;
use ews_core::runtime::ByteStream;
use ews_core::{Digest, Error, ErrorKind, Result};
use serde::de::IgnoredAny;
use serde_json::{Value, json};
use tar::{Archive, Builder, EntryType, Header};

use crate::images::pipe::{self, PipeReader, PipeWriter};

/// The longest entry that is looked into: a config or a list. Layers are longer, or are no JSON.
const MAX_WORDS: u64 = 4 * 1024 * 1024;

/// A config that takes another's place.
#[derive(Clone)]
pub(super) struct Swap {
    pub(super) config: Bytes,
    /// The name that the image gets.
    pub(super) name: String,
    pub(super) layers: usize,
}

impl Swap {
    fn config_name(&self) -> String {
        let hex = Digest::of(&self.config).to_string();
        format!("{}.json", hex.strip_prefix("sha256:").unwrap_or(&hex))
    }

    /// The list of what is in the archive. `RepoTags` makes the engine name what it loads.
    fn list(&self, layers: &[String]) -> Vec<u8> {
        let list = json!([{"Config": self.config_name(), "RepoTags": [self.name], "Layers": layers}]);
        list.to_string().into_bytes()
    }

    /// An archive with the config and names of layers that are not in it: an engine that has them never opens them.
    pub(super) fn alone(&self) -> Result<Bytes> {
        let layers: Vec<String> = (0..self.layers).map(|number| format!("{number}/layer.tar")).collect();
        let mut archive = Builder::new(Vec::new());
        let written = file(&mut archive, &self.config_name(), &self.config)
            .and_then(|()| file(&mut archive, "manifest.json", &self.list(&layers)))
            .and_then(|()| archive.into_inner());
        written
            .map(Bytes::from)
            .map_err(|error| Error::internal("an archive can't be written").with_source(error))
    }

    /// The archive of a saved image with this config instead of its own, which must not travel on: it holds what was to be left out.
    pub(super) fn over(self, saved: ByteStream) -> ByteStream {
        let reader = pipe::reader(saved);
        let (writer, stream) = pipe::writer();
        tokio::task::spawn_blocking(move || {
            let mut archive = Builder::new(writer);
            match self.swap(reader, &mut archive) {
                Ok(()) => match archive.into_inner() {
                    Ok(writer) => writer.finish(),
                    Err(error) => tracing::debug!(%error, "nobody reads the archive any more"),
                },
                Err(error) => archive.get_mut().fail(error),
            }
        });
        stream
    }

    fn swap(&self, reader: PipeReader, archive: &mut Builder<PipeWriter>) -> Result<()> {
        let broken = |error: io::Error| {
            pipe::error(error, |error| {
                Error::new(ErrorKind::Decode, "the engine's archive can't be read")
                    .with_detail(error.to_string())
            })
        };
        let mut layers = None;
        let mut saved = Archive::new(reader);
        for entry in saved.entries().map_err(broken)? {
            let mut entry = entry.map_err(broken)?;
            let header = entry.header().clone();
            if header.entry_type() == EntryType::Regular && header.size().map_err(broken)? <= MAX_WORDS {
                let mut content = Vec::new();
                entry.read_to_end(&mut content).map_err(broken)?;
                if entry.path().map_err(broken)?.to_str() == Some("manifest.json") {
                    layers = Some(layers_of(&content)?);
                }
                // Configs, and in older archives each layer's own, hold the environment. A layer is never JSON.
                if serde_json::from_slice::<IgnoredAny>(&content).is_err() {
                    archive.append(&header, Cursor::new(content)).map_err(broken)?;
                }
            } else {
                archive.append(&header, &mut entry).map_err(broken)?;
            }
        }
        let layers = layers.filter(|layers| layers.len() == self.layers).ok_or_else(|| {
            Error::new(ErrorKind::Decode, "the engine's archive does not list the image's layers")
        })?;
        file(archive, &self.config_name(), &self.config)
            .and_then(|()| file(archive, "manifest.json", &self.list(&layers)))
            .map_err(broken)
    }
}

fn layers_of(list: &[u8]) -> Result<Vec<String>> {
    let list: Value = serde_json::from_slice(list).map_err(|error| {
        Error::new(ErrorKind::Decode, "the engine's archive has a list that can't be read").with_source(error)
    })?;
    let layers = list.pointer("/0/Layers").and_then(Value::as_array).into_iter().flatten();
    Ok(layers.filter_map(Value::as_str).map(str::to_owned).collect())
}

fn file<W: io::Write>(archive: &mut Builder<W>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, content)
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::TryStreamExt as _;

    fn swap() -> Swap {
        Swap { config: Bytes::from_static(b"{\"clean\":1}"), name: "r/a:1".to_owned(), layers: 2 }
    }

    fn saved(files: &[(&str, &[u8])]) -> ByteStream {
        let mut archive = Builder::new(Vec::new());
        for (name, content) in files {
            file(&mut archive, name, content).unwrap();
        }
        let bytes = archive.into_inner().unwrap();
        let pieces: Vec<_> = bytes.chunks(700).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
        Box::pin(futures_util::stream::iter(pieces))
    }

    #[tokio::test]
    async fn layers_travel_on_and_configs_do_not() {
        let large = vec![b'l'; MAX_WORDS as usize + 1];
        let stream = swap().over(saved(&[
            ("aa/VERSION", b"1.0"),
            ("aa/json", br#"{"config":{"Env":["PASSWORD=hunter2"]}}"#),
            ("aa/layer.tar", b"not {json"),
            ("bb/layer.tar", &large),
            ("cafe.json", br#"{"config":{"Env":["PASSWORD=hunter2"]}}"#),
            (
                "manifest.json",
                br#"[{"Config":"cafe.json","RepoTags":["q:1"],"Layers":["aa/layer.tar","bb/layer.tar"]}]"#,
            ),
            ("repositories", br#"{"q":{"1":"bb"}}"#),
        ]));
        let bytes = stream.try_collect::<Vec<Bytes>>().await.unwrap().concat();
        assert!(!bytes.windows(7).any(|window| window == b"hunter2"));
        let mut names = Vec::new();
        for entry in Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            names.push(entry.path().unwrap().display().to_string());
            if names.last().unwrap() == "manifest.json" {
                let mut list = String::new();
                entry.read_to_string(&mut list).unwrap();
                let list: Value = serde_json::from_str(&list).unwrap();
                assert_eq!(list[0]["Layers"], json!(["aa/layer.tar", "bb/layer.tar"]));
                assert_eq!(
                    (list[0]["RepoTags"][0].as_str(), list[0]["Config"].as_str()),
                    (Some("r/a:1"), names[2..].first().map(String::as_str))
                );
            }
        }
        assert_eq!(names.len(), 4, "{names:?}");
    }

    #[tokio::test]
    async fn what_is_no_archive_or_lists_other_layers_ends_with_an_error() {
        for files in [
            &[("manifest.json", &b"[{\"Layers\":[\"one\"]}]"[..])][..],
            &[("x", b"y")],
            &[("manifest.json", b"junk")],
        ] {
            let error = swap().over(saved(files)).try_collect::<Vec<Bytes>>().await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Decode);
        }
        let failing: ByteStream =
            Box::pin(futures_util::stream::iter([Err(Error::new(ErrorKind::Timeout, "hung"))]));
        let error = swap().over(failing).try_collect::<Vec<Bytes>>().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
}
