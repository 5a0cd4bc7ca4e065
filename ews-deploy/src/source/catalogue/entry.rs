//! One entry of a catalogue: an official image, and what an artifact needs to run on it.

use std::collections::BTreeMap;
use std::fmt;

use ews_core::spec::lifecycle::Signal;
use ews_core::{Arch, ImageRef, Os};
use serde::{Deserialize, Serialize};

use crate::source::artifact::Content;

/// An official image, and what an artifact needs to run on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct CatalogueEntry {
    /// What it is, such as `java-tomcat`: lower-case letters, digits and `-`.
    pub id: String,
    /// Which line of it, such as `10.1-jdk21`.
    pub line: String,
    /// How far it may be trusted. Default stable.
    #[serde(default)]
    pub channel: Channel,
    /// For people. Default empty.
    #[serde(default)]
    pub title: String,
    /// What an artifact relies on: it moves to another base only where this is the same. Patches of the distribution and the runtime do
    /// not change it; their major versions, the C library and the user do.
    pub compatibility: String,
    /// The day after which its makers patch nothing any more, `2028-04-30`. Default unknown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_of_life: Option<String>,
    /// The bases; at least one.
    pub base: Vec<Base>,
    /// How source is compiled for it. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub builder: Option<Builder>,
    /// What it takes, and where that goes; at least one.
    pub takes: Vec<Takes>,
    /// Who owns the files of the artifact, by numbers. Default `0:0`: a program can't change itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Who the program runs as. Default: the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The working directory. Default: the base's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// The program and its arguments; replaces the base's entrypoint and arguments. `{main}` stands for what a request names. Default: the
    /// base's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// The environment, on top of the base's. Default empty.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// The port that the program listens on. Default none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// How its readiness is known. Default not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<CatalogueProbe>,
    /// How it is asked to stop. Default: SIGTERM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<Signal>,
    /// Whether it tells clients when a file changed, so that files of one fixed time would never be fetched again. Default false.
    #[serde(default)]
    pub serves_files: bool,
    /// How the artifact runs without an image. Default: not at all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<OnProcess>,
}

impl CatalogueEntry {
    /// `id:line`, by which a request names it.
    pub fn name(&self) -> String {
        format!("{}:{}", self.id, self.line)
    }

    /// How it takes this content.
    pub(in crate::source) fn taking(&self, content: Content) -> Option<&Takes> {
        let kind = match content {
            Content::Program { .. } => Kind::Program,
            Content::Jar => Kind::Jar,
            Content::War => Kind::War,
            Content::Directory | Content::Tar | Content::TarGz | Content::Zip => Kind::Files,
        };
        let by = |kind: Kind| self.takes.iter().find(|takes| takes.kind == kind);
        // A jar is a zip archive that says what it is: where nobody wants one, its files may be wanted.
        by(kind).or_else(|| if matches!(kind, Kind::Jar | Kind::War) { by(Kind::Files) } else { None })
    }
}

/// How far an entry may be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Channel {
    /// For everybody.
    #[default]
    Stable,
    /// To be tried; found only where its line is named.
    Candidate,
    /// For what runs on it already; found only where its line is named, and with a warning.
    Retired,
}

/// One base image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct Base {
    /// Its name, with a digest where it is pinned. It may be an index.
    pub image: ImageRef,
    /// Which platforms of it are used; at least one.
    pub platforms: Vec<BasePlatform>,
}

/// A system and an architecture, written `linux/amd64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BasePlatform {
    /// The system.
    pub os: Os,
    /// The architecture.
    pub arch: Arch,
}

impl fmt::Display for BasePlatform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        ews_core::Platform::new(self.os, self.arch).fmt(f)
    }
}

impl Serialize for BasePlatform {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for BasePlatform {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let word = |word: &str| serde_json::Value::String(word.to_owned());
        let read = text.split_once('/').and_then(|(os, arch)| {
            Some(Self {
                os: serde_json::from_value(word(os)).ok()?,
                arch: serde_json::from_value(word(arch)).ok()?,
            })
        });
        read.ok_or_else(|| {
            serde::de::Error::custom(format!(
                "`{text}` is no platform; accepted: a system and an architecture, as `linux/amd64`"
            ))
        })
    }
}

/// How source is compiled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct Builder {
    /// The image that it is compiled in, which has a shell.
    pub image: ImageRef,
    /// What is run there in the source tree, line by line, by the shell; at least one.
    pub run: Vec<String>,
    /// The directory with the result: absolute, or within the source tree.
    pub output: String,
}

/// One kind of artifact, and where it goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct Takes {
    /// The kind.
    pub kind: Kind,
    /// Where it goes, absolute and with `/` on Windows too: the directory for what is unpacked, the file itself for what is not.
    pub to: String,
    /// Whether a war or a jar is unpacked. Files always are, a program never. Default false.
    #[serde(default)]
    pub unpack: bool,
}

impl Takes {
    pub(in crate::source) fn unpacks(&self) -> bool {
        self.unpack || self.kind == Kind::Files
    }
}

/// A kind of artifact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Kind {
    /// Files: a directory, tar, tar.gz, zip.
    Files,
    /// A Java web application.
    War,
    /// A Java archive.
    Jar,
    /// A single program.
    Program,
}

/// How readiness is known.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub enum CatalogueProbe {
    /// An HTTP request for this path is answered with 200 to 299.
    Http(String),
    /// The port accepts a connection (`tcp = true`).
    Tcp(bool),
}

/// How an artifact runs without an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
#[non_exhaustive]
pub struct OnProcess {
    /// The program and its arguments, run where the artifact was unpacked. `{main}` stands for what a request names.
    /// Empty: the artifact is the program.
    #[serde(default)]
    pub command: Vec<String>,
}
