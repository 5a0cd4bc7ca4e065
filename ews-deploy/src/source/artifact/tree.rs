//! What an upload holds: names, kinds and where their bytes lie in scratch space, checked as a whole.
//!
//! An archive is a list of orders (make this, link that, write through it), and its order and repetitions matter to whoever follows it. A
//! tree is only what is there in the end, so it is checked as one: no name twice, nothing below what is no directory, no link out. What
//! passes can be written in one order only, and so the same content gives the same layer.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read, Write as _};
use std::sync::Arc;

use ews_core::archive::{ShownBytes, fault};
use ews_core::{Error, ErrorKind, Result};

use super::UploadLimits;
use super::names::Rules;
use crate::hotfix::OverlaidFile;
use crate::source::scratch::{Part, Scratch, ScratchFile, of_disk};

/// The most bytes of all names together: they are held in memory.
const MAX_NAMES: usize = 64 << 20;

/// One thing of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) enum Node {
    Directory,
    File { offset: u64, size: u64, executable: bool },
    Link(String),
}

/// What an upload holds.
#[derive(Debug, Clone)]
pub(in crate::source) struct Tree {
    nodes: BTreeMap<String, Node>,
    data: Arc<ScratchFile>,
}

impl Tree {
    /// One file, which is all of `data`.
    pub(in crate::source) fn single(name: &str, executable: bool, data: Arc<ScratchFile>) -> Self {
        let node = Node::File { offset: 0, size: data.size(), executable };
        Self { nodes: BTreeMap::from([(name.to_owned(), node)]), data }
    }

    /// In the order of their names, a directory before what lies in it.
    pub(in crate::source) fn nodes(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.nodes.iter().map(|(name, node)| (name.as_str(), node))
    }

    pub(in crate::source) fn data(&self, offset: u64, size: u64) -> Part<'_> {
        self.data.part(offset, size)
    }

    /// What lies below one directory, as if that were the top.
    ///
    /// # Errors
    /// `Invalid` where it is no directory of the tree, or a link below it leads out of it.
    pub(in crate::source) fn below(self, directory: &str, rules: &UploadLimits) -> Result<Self> {
        let rules = Rules { limits: rules, windows: false };
        let directory = rules.place(directory.as_bytes())?;
        if directory.is_empty() {
            return Ok(self);
        }
        if self.nodes.get(&directory) != Some(&Node::Directory) {
            let tops: Vec<&str> =
                self.nodes.keys().filter(|name| !name.contains('/')).take(10).map(String::as_str).collect();
            return Err(Error::invalid(format!(
                "the upload has no directory `{}`; at its top are: {}",
                ShownBytes(directory.as_bytes()),
                ShownBytes(tops.join(", ").as_bytes())
            )));
        }
        let front = format!("{directory}/");
        let mut nodes = BTreeMap::new();
        for (name, node) in self.nodes {
            let Some(below) = name.strip_prefix(&front) else { continue };
            if let Node::Link(target) = &node {
                rules.link(below, target.as_bytes())?;
            }
            nodes.insert(below.to_owned(), node);
        }
        Ok(Self { nodes, data: self.data })
    }
}

impl Tree {
    /// The only file, under this name.
    ///
    /// # Errors
    /// `Invalid` where there is another number of files, or a link.
    pub(in crate::source) fn only_file(self, name: &str) -> Result<Self> {
        let mut found = self.nodes.into_iter().filter(|(_, node)| *node != Node::Directory);
        match (found.next(), found.next()) {
            (Some((_, file @ Node::File { .. })), None) => {
                Ok(Self { nodes: BTreeMap::from([(name.to_owned(), file)]), data: self.data })
            }
            _ => Err(Error::invalid(
                "the result is taken as one file, and there is not exactly one; accepted: one file",
            )),
        }
    }
}

impl Tree {
    /// The tree with other files in place of some of its own, or beside them.
    ///
    /// # Errors
    /// `Invalid` for a name that no upload may have, and for one in place of what is no file; `OutOfResources` beyond a limit.
    pub(in crate::source) fn with_files(
        &self,
        files: &BTreeMap<String, OverlaidFile>,
        rules: &UploadLimits,
        scratch: &Scratch,
    ) -> Result<Self> {
        let names = Rules { limits: rules, windows: cfg!(windows) };
        let mut placed = BTreeMap::new();
        for (path, file) in files {
            let place = names.place(path.trim_start_matches('/').as_bytes())?;
            if let Some(node) = self.nodes.get(&place).filter(|node| !matches!(node, Node::File { .. })) {
                let what = if *node == Node::Directory { "a directory" } else { "a link" };
                return Err(Error::invalid(format!("`{path}` is {what} of the artifact; accepted: files")));
            }
            placed.insert(place, file);
        }
        // It was let in before, and what comes is bounded by itself.
        let mut tree = Planting::new(names, self.data.size().max(1), scratch)?;
        tree.left = u64::MAX;
        for (name, node) in &self.nodes {
            match node {
                _ if placed.contains_key(name) => {}
                Node::Directory => tree.directory(name.as_bytes())?,
                Node::File { offset, size, executable } => {
                    tree.file(name.as_bytes(), *executable, self.data(*offset, *size))?;
                }
                Node::Link(target) => tree.link(name.as_bytes(), target.as_bytes())?,
            }
        }
        for (name, file) in placed {
            tree.file(name.as_bytes(), file.mode & 0o111 != 0, &file.content[..])?;
        }
        tree.finish()
    }
}

/// A tree that grows, within limits.
pub(super) struct Planting<'a> {
    rules: Rules<'a>,
    nodes: BTreeMap<String, Node>,
    data: ScratchFile,
    /// What may still be unpacked, and which limit that is.
    left: u64,
    most: (u64, &'static str),
    names: usize,
}

impl<'a> Planting<'a> {
    /// From an upload of this size.
    pub(super) fn new(rules: Rules<'a>, packed: u64, scratch: &Scratch) -> Result<Self> {
        let most = rules.limits.unpacked_from(packed);
        Ok(Self { rules, nodes: BTreeMap::new(), data: scratch.file()?, left: most.0, most, names: 0 })
    }

    /// A directory; one that comes twice is one.
    pub(super) fn directory(&mut self, name: &[u8]) -> Result<()> {
        let place = self.rules.place(name)?;
        if place.is_empty() || self.nodes.get(&place) == Some(&Node::Directory) {
            return Ok(());
        }
        self.put(place, Node::Directory)
    }

    /// A file with what the reader has up to its end.
    pub(super) fn file(&mut self, name: &[u8], executable: bool, mut content: impl Read) -> Result<u64> {
        let place = self.named(name)?;
        let offset = self.data.size();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let count = match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(fault(error).with_context("entry", ShownBytes(name))),
            };
            self.spend(count as u64, &place)?;
            let piece = buffer.get(..count).unwrap_or_default();
            self.data.write_all(piece).map_err(|error| of_disk("the scratch space", error))?;
        }
        let size = self.data.size() - offset;
        self.put(place, Node::File { offset, size, executable })?;
        Ok(size)
    }

    /// A symbolic link.
    pub(super) fn link(&mut self, name: &[u8], target: &[u8]) -> Result<()> {
        let place = self.named(name)?;
        let target = self.rules.link(&place, target)?;
        self.put(place, Node::Link(target))
    }

    /// A second name of a file that came before: it becomes a file of its own, so that which of the two came first does not matter.
    pub(super) fn hard_link(&mut self, name: &[u8], target: &[u8]) -> Result<()> {
        let place = self.named(name)?;
        let first =
            self.rules.place(target).map_err(|error| error.with_context("hard_link", ShownBytes(name)))?;
        match self.nodes.get(&first) {
            Some(file @ Node::File { size, .. }) => {
                let (file, size) = (file.clone(), *size);
                self.spend(size, &place)?;
                self.put(place, file)
            }
            found => {
                let fault = if found.is_none() { "which did not come before it" } else { "which is no file" };
                Err(Error::invalid(format!(
                    "the hard link `{}` leads to `{}`, {fault}; accepted: links to files of the upload",
                    ShownBytes(name),
                    ShownBytes(target)
                )))
            }
        }
    }

    /// The tree, once nothing more comes.
    ///
    /// # Errors
    /// `Invalid` where something lies below what is no directory, or two names are one on Windows.
    pub(super) fn finish(mut self) -> Result<Tree> {
        let names: Vec<String> = self.nodes.keys().cloned().collect();
        for name in &names {
            // From the top down, so that the first fault is the one that is named.
            for (end, _) in name.match_indices('/') {
                let above = name.get(..end).unwrap_or_default();
                match self.nodes.get(above) {
                    Some(Node::Directory) => {}
                    None => self.put(above.to_owned(), Node::Directory)?,
                    Some(other) => {
                        let what = if matches!(other, Node::Link(_)) { "a symbolic link" } else { "a file" };
                        return Err(Error::invalid(format!(
                            "the entry `{}` is refused: it lies below `{}`, which is {what}; accepted: entries below directories",
                            ShownBytes(name.as_bytes()),
                            ShownBytes(above.as_bytes())
                        )));
                    }
                }
            }
        }
        if self.rules.windows {
            self.check_case()?;
        }
        Ok(Tree { nodes: self.nodes, data: Arc::new(self.data) })
    }

    fn check_case(&self) -> Result<()> {
        let mut folded: HashMap<String, &str> = HashMap::with_capacity(self.nodes.len());
        for name in self.nodes.keys() {
            if let Some(other) = folded.insert(name.to_uppercase().to_lowercase(), name) {
                return Err(Error::invalid(format!(
                    "`{}` and `{}` are one name on Windows; accepted: names that differ in more than their case",
                    ShownBytes(other.as_bytes()),
                    ShownBytes(name.as_bytes())
                )));
            }
        }
        Ok(())
    }

    /// The place of what can't be the top itself.
    fn named(&self, name: &[u8]) -> Result<String> {
        let place = self.rules.place(name)?;
        if place.is_empty() {
            return Err(Error::invalid(format!(
                "the entry `{}` is refused: only a directory can be the top; accepted: names below it",
                ShownBytes(name)
            )));
        }
        Ok(place)
    }

    fn put(&mut self, place: String, node: Node) -> Result<()> {
        self.names += place.len() + if let Node::Link(target) = &node { target.len() } else { 0 };
        if self.nodes.len() as u64 >= self.rules.limits.entries {
            return Err(too_much("entries", self.rules.limits.entries, "entries"));
        }
        if self.names > MAX_NAMES {
            return Err(too_much("names", MAX_NAMES as u64, "bytes of names"));
        }
        match self.nodes.entry(place) {
            std::collections::btree_map::Entry::Vacant(slot) => {
                slot.insert(node);
                Ok(())
            }
            std::collections::btree_map::Entry::Occupied(there) => Err(Error::invalid(format!(
                "the entry `{}` comes twice, and which of the two counts depends on who unpacks; accepted: each name once",
                ShownBytes(there.key().as_bytes())
            ))),
        }
    }

    fn spend(&mut self, bytes: u64, place: &str) -> Result<()> {
        let (most, limit) = self.most;
        self.left = self.left.checked_sub(bytes).ok_or_else(|| {
            too_much(limit, most, "bytes when unpacked").with_context("entry", ShownBytes(place.as_bytes()))
        })?;
        Ok(())
    }
}

/// What passed a limit of [`UploadLimits`].
pub(in crate::source) fn too_much(limit: &'static str, most: u64, of_what: &str) -> Error {
    Error::new(
        ErrorKind::OutOfResources,
        format!("the upload has more than {most} {of_what}, its limit `{limit}`"),
    )
    .with_context("limit", limit)
}
