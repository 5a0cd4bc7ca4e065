//! The catalogue of official images: data, not code.
//!
//! An entry says which image an artifact goes onto, where in it, and how the result is run and asked whether it is ready. The server is
//! part of the base, never of the artifact: so a patch of Tomcat or of its distribution is a change of base layers and needs nobody's
//! source. EWS brings [a document](Catalogue::built_in) for common kinds; teams add documents of their own and point bases at their mirror.

pub(super) mod check;
mod entry;
#[cfg(test)]
mod tests;

use ews_core::document::{Format, Limits, Tree, Value, read};
use ews_core::{Error, ImageRef, Result};
use serde_json::Value as Json;

pub use entry::{
    Base, BasePlatform, Builder, CatalogueEntry, CatalogueProbe, Channel, Kind, OnProcess, Takes,
};

/// The version of the document's form.
const VERSION: i128 = 1;

/// Official images, by id and line.
///
/// ```
/// use ews_core::document::Format;
/// use ews_deploy::source::Catalogue;
///
/// let ours = r#"
/// version: 1
/// entry:
///   - id: shop-php
///     line: "8"
///     compatibility: our-php/8
///     base: [{image: "registry.example/base/php:8", platforms: [linux/amd64]}]
///     takes: [{kind: files, to: /srv/www}]
///     port: 8080
/// "#;
/// let catalogue = Catalogue::built_in()?
///     .with(Catalogue::read(ours, Format::Yaml)?)
///     .with_mirror("docker.io", "mirror.example:5000/hub")?;
/// assert_eq!(catalogue.find("shop-php")?.port, Some(8080));
/// let node = catalogue.find("node")?;
/// assert!(node.base[0].image.to_string().starts_with("mirror.example:5000/hub/library/node:"));
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Catalogue {
    entries: Vec<CatalogueEntry>,
}

impl Catalogue {
    /// No entries.
    pub fn empty() -> Self {
        Self::default()
    }

    /// What comes with EWS: static sites, Node, Python, PHP, Java (war and jar), .NET on Linux and on Windows, programs of Go and Rust.
    ///
    /// # Errors
    /// None in practice: a test holds the document to [`read`](Self::read).
    pub fn built_in() -> Result<Self> {
        Self::read(include_str!("built_in.toml"), Format::Toml)
    }

    /// Reads a document: `version = 1` and a list `entry` of [`CatalogueEntry`].
    ///
    /// # Errors
    /// `Invalid`, which names each entry with a fault, its place, and what would be accepted.
    pub fn read(text: &str, format: Format) -> Result<Self> {
        let wrong = |message: String| Error::invalid(message).with_operation("catalogue.read");
        let tree = read(text, format, Limits::default()).map_err(|problems| wrong(problems.to_string()))?;
        let table = tree.as_table().ok_or_else(|| wrong("the catalogue is no table".to_owned()))?;
        if let Some(other) =
            table.entries().iter().find(|field| !matches!(field.key.as_str(), "version" | "entry"))
        {
            return Err(wrong(format!(
                "the catalogue has a field `{}`; accepted: `version` and `entry`",
                other.key
            )));
        }
        if table.get("version").and_then(Tree::as_integer) != Some(VERSION) {
            return Err(wrong(format!(
                "the catalogue's `version` is missing or another; accepted: {VERSION}"
            )));
        }
        let list = table.get("entry").and_then(Tree::as_list);
        let list = list.ok_or_else(|| wrong("`entry` is missing or no list".to_owned()))?;
        let (mut entries, mut faults) = (Vec::new(), Vec::new());
        for (number, tree) in list.iter().enumerate() {
            let id = tree.as_table().and_then(|table| table.get("id")).and_then(Tree::as_text).unwrap_or("?");
            let at = tree.position(text).map(|position| format!(" at {position}")).unwrap_or_default();
            let mut fault =
                |fault: &dyn std::fmt::Display| faults.push(format!("entry[{number}] ({id}){at}: {fault}"));
            match serde_json::from_value::<CatalogueEntry>(json(tree)) {
                Ok(entry) => {
                    check::faults(&entry).iter().for_each(|found| fault(found));
                    if entries.iter().any(|other: &CatalogueEntry| other.name() == entry.name()) {
                        fault(&format!("`{}` comes twice", entry.name()));
                    }
                    entries.push(entry);
                }
                Err(error) => fault(&error),
            }
        }
        if faults.is_empty() { Ok(Self { entries }) } else { Err(wrong(faults.join("; "))) }
    }

    /// With another catalogue's entries, which win over those of the same id and line.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.entries.retain(|entry| other.entries.iter().all(|new| new.name() != entry.name()));
        // In front: where an id is named without a line, the newcomer's comes first.
        self.entries.splice(0..0, other.entries);
        self
    }

    /// With every image of a registry taken from a mirror: `docker.io` from `mirror.example:5000/hub`, where `library/node` is
    /// `mirror.example:5000/hub/library/node`. Digests stay: a mirror has the same content or is refused.
    ///
    /// # Errors
    /// `Invalid` where no name can be made so.
    pub fn with_mirror(mut self, registry: &str, mirror: &str) -> Result<Self> {
        for entry in &mut self.entries {
            let images = entry.base.iter_mut().map(|base| &mut base.image);
            for image in images.chain(entry.builder.as_mut().map(|builder| &mut builder.image)) {
                if image.registry() == registry {
                    *image = mirrored(image, mirror)?;
                }
            }
        }
        Ok(self)
    }

    /// The entries, in the order in which they are found.
    pub fn entries(&self) -> &[CatalogueEntry] {
        &self.entries
    }

    /// An entry by `id`, which means its first stable line, or by `id:line`.
    ///
    /// # Errors
    /// `NotFound`, which says what there is.
    pub fn find(&self, name: &str) -> Result<&CatalogueEntry> {
        let (id, line) = name.split_once(':').map_or((name, None), |(id, line)| (id, Some(line)));
        let found = self.entries.iter().find(|entry| {
            entry.id == id && line.map_or(entry.channel == Channel::Stable, |line| entry.line == line)
        });
        found.ok_or_else(|| {
            let shown =
                |entry: &CatalogueEntry| format!("{} ({:?})", entry.name(), entry.channel).to_lowercase();
            let of_id: Vec<String> = self.entries.iter().filter(|entry| entry.id == id).map(shown).collect();
            let there =
                if of_id.is_empty() { self.entries.iter().map(shown).take(40).collect() } else { of_id };
            Error::not_found("catalogue entry", ews_core::archive::ShownBytes(name.as_bytes()))
                .with_context("there", there.join(", "))
        })
    }
}

fn mirrored(image: &ImageRef, mirror: &str) -> Result<ImageRef> {
    let tag = image.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    let name: ImageRef = format!("{}/{}{tag}", mirror.trim_end_matches('/'), image.repository()).parse()?;
    Ok(match image.digest() {
        Some(digest) => name.with_digest(digest),
        None => name,
    })
}

fn json(tree: &Tree) -> Json {
    match &tree.value {
        Value::Bool(value) => Json::Bool(*value),
        Value::Integer(number) => {
            i64::try_from(*number).map_or_else(|_| Json::String(number.to_string()), Json::from)
        }
        Value::Float(number) => Json::from(*number),
        Value::Text(text) | Value::Time(text) => Json::String(text.clone()),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Table(table) => Json::Object(
            table.entries().iter().map(|field| (field.key.clone(), json(&field.value))).collect(),
        ),
        _ => Json::Null,
    }
}
