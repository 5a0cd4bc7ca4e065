//! The pure part: contents and rules in, a plan out.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use ews_core::{Digest, Error, Result, Timestamp};
use serde::{Deserialize, Serialize};

/// What a repository holds, as far as it can be seen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Contents {
    /// What each tag stands for.
    pub tags: BTreeMap<String, Digest>,
    /// The manifests and indexes. What an item refers to may be missing here: then the repository lacks it.
    pub manifests: BTreeMap<Digest, Item>,
}

impl Contents {
    /// These tags and these manifests and indexes.
    pub fn new(
        tags: impl IntoIterator<Item = (String, Digest)>,
        manifests: impl IntoIterator<Item = (Digest, Item)>,
    ) -> Self {
        Self { tags: tags.into_iter().collect(), manifests: manifests.into_iter().collect() }
    }
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Item {
    /// An index's manifests.
    pub children: Vec<Digest>,
    /// What it says something about.
    pub subject: Option<Digest>,
    /// When it was made, where it says so.
    pub created: Option<Timestamp>,
}

impl Item {
    /// A manifest that refers to no other.
    pub fn new() -> Self {
        Self::default()
    }

    /// With these manifests, as an index.
    #[must_use]
    pub fn with_children(mut self, children: impl IntoIterator<Item = Digest>) -> Self {
        self.children.extend(children);
        self
    }

    /// Saying something about this.
    #[must_use]
    pub fn with_subject(mut self, subject: Digest) -> Self {
        self.subject = Some(subject);
        self
    }

    /// Made at this time.
    #[must_use]
    pub fn with_created(mut self, created: Timestamp) -> Self {
        self.created = Some(created);
        self
    }
}

/// What is kept. Rules that keep nothing are refused.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Rules {
    /// Kept by digest: what runs, what may be gone back to, what a catalogue names. Default none.
    pub keep: BTreeSet<Digest>,
    /// Kept by tag: a tag as it is, or how it begins, with `*` at the end. Default none.
    pub pinned: Vec<String>,
    /// How many of the newest tagged images are kept, by the time they were made. One that does not say when counts as new and is kept beside
    /// them, and so is everything as old as the last of them. Default 0.
    pub last: usize,
    /// Whether what was named in no rule, has no tag and belongs to nothing goes too. Default: it stays, since somebody may use
    /// it by digest.
    pub untagged: bool,
}

impl Rules {
    /// Adds to [`keep`](Self::keep).
    #[must_use]
    pub fn with_kept(mut self, digests: impl IntoIterator<Item = Digest>) -> Self {
        self.keep.extend(digests);
        self
    }

    /// Adds to [`pinned`](Self::pinned).
    #[must_use]
    pub fn with_pinned(mut self, tag: impl Into<String>) -> Self {
        self.pinned.push(tag.into());
        self
    }

    /// Sets [`last`](Self::last).
    #[must_use]
    pub fn with_last(mut self, count: usize) -> Self {
        self.last = count;
        self
    }

    /// Sets [`untagged`](Self::untagged) to yes.
    #[must_use]
    pub fn with_untagged(mut self) -> Self {
        self.untagged = true;
        self
    }

    fn pins(&self, tag: &str) -> bool {
        self.pinned.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some(beginning) => tag.starts_with(beginning),
            None => tag == pattern,
        })
    }

    /// Refuses rules that can't be meant.
    ///
    /// # Errors
    /// `Invalid` where they keep nothing, or a pattern has its `*` elsewhere than at the end.
    pub fn check(&self) -> Result<()> {
        if self.keep.is_empty() && self.pinned.is_empty() && self.last == 0 {
            return Err(Error::invalid(
                "rules that keep nothing; accepted: at least one of `keep`, `pinned` and `last`",
            ));
        }
        let wrong = |pattern: &&String| {
            pattern.is_empty() || pattern.trim_end_matches('*').contains('*') || pattern.ends_with("**")
        };
        match self.pinned.iter().find(wrong) {
            Some(pattern) => Err(Error::invalid(format!(
                "`pinned` holds `{}`; accepted: a tag, or how it begins with one `*` at the end",
                pattern.chars().take(128).collect::<String>()
            ))),
            None => Ok(()),
        }
    }
}

/// Why a digest is kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum KeepReason {
    /// It is named in [`Rules::keep`].
    Named,
    /// This tag on it is pinned.
    Pinned(String),
    /// It is among the newest: this one from the newest on, counted from 1.
    Recent(usize),
    /// It does not say when it was made, so it may be among the newest.
    AgeUnknown,
    /// This kept index needs it.
    ChildOf(Digest),
    /// It says something about this, which is kept.
    About(Digest),
    /// It has no tag and belongs to nothing, and the rules leave such alone.
    Untagged,
}

/// Why a digest goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum DeleteReason {
    /// No rule keeps it.
    Unkept,
    /// It was a part of this, which goes.
    PartOf(Digest),
    /// It says something about this, which goes or is not there.
    About(Digest),
}

/// A digest that goes, and every tag that goes with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Deletion {
    /// The digest.
    pub digest: Digest,
    /// The tags on it.
    pub tags: Vec<String>,
    /// Why.
    pub why: DeleteReason,
}

/// What goes, in the order in which it goes, and what stays and why. Its [`Display`](fmt::Display) has a line for each.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Plan {
    /// What goes: an index before its manifests, and what is said about something before that, so that no moment has an index
    /// with missing children.
    pub delete: Vec<Deletion>,
    /// What stays, with every reason.
    pub keep: BTreeMap<Digest, BTreeSet<KeepReason>>,
}

/// Decides what may go. See the [module](super) for the rules.
///
/// # Errors
/// `Invalid` for rules that [`Rules::check`] refuses, and where nothing that has a tag would be left: then the rules are for another
/// repository.
pub fn plan(contents: &Contents, rules: &Rules) -> Result<Plan> {
    rules.check()?;
    let graph = Graph::of(contents);
    let keep = graph.kept(rules);
    let gone: BTreeSet<Digest> =
        contents.manifests.keys().filter(|digest| !keep.contains_key(*digest)).copied().collect();
    if !gone.is_empty()
        && !contents.tags.is_empty()
        && contents.tags.values().all(|digest| gone.contains(digest))
    {
        return Err(Error::invalid(format!(
            "these rules keep none of the {} tags; are they for another repository? Accepted: rules that keep at least one",
            contents.tags.len()
        )));
    }
    let delete = graph.ordered(&gone).into_iter().map(|digest| graph.deletion(digest, &gone)).collect();
    Ok(Plan { delete, keep })
}

/// The digest that a tag of the referrers' scheme speaks of: `sha256-…`, perhaps with an ending such as cosign's `.sig`.
pub(super) fn spoken_of(tag: &str) -> Option<Digest> {
    let hex = tag.strip_prefix("sha256-")?.split('.').next()?;
    format!("sha256:{hex}").parse().ok()
}

/// The contents with their edges in both directions.
struct Graph<'a> {
    contents: &'a Contents,
    /// The tags on each digest.
    tags: BTreeMap<Digest, Vec<&'a str>>,
    /// What each digest is a part of.
    parents: BTreeMap<Digest, BTreeSet<Digest>>,
    /// What each digest says something about.
    subjects: BTreeMap<Digest, BTreeSet<Digest>>,
    /// What is said about each digest.
    referrers: BTreeMap<Digest, BTreeSet<Digest>>,
}

impl<'a> Graph<'a> {
    fn of(contents: &'a Contents) -> Self {
        let mut graph = Self {
            contents,
            tags: BTreeMap::new(),
            parents: BTreeMap::new(),
            subjects: BTreeMap::new(),
            referrers: BTreeMap::new(),
        };
        for (digest, item) in &contents.manifests {
            for child in &item.children {
                graph.parents.entry(*child).or_default().insert(*digest);
            }
            if let Some(subject) = item.subject {
                graph.about(*digest, subject);
            }
        }
        for (tag, digest) in &contents.tags {
            graph.tags.entry(*digest).or_default().push(tag);
            if let Some(subject) = spoken_of(tag) {
                graph.about(*digest, subject);
            }
        }
        graph
    }

    fn about(&mut self, referrer: Digest, subject: Digest) {
        // Nothing speaks of itself, whatever its tag says.
        if referrer != subject {
            self.subjects.entry(referrer).or_default().insert(subject);
            self.referrers.entry(subject).or_default().insert(referrer);
        }
    }

    fn tags(&self, digest: Digest) -> &[&'a str] {
        self.tags.get(&digest).map(Vec::as_slice).unwrap_or_default()
    }

    /// When an item was made; an index as late as the latest of its manifests.
    fn created(&self, item: &Item) -> Option<Timestamp> {
        let of_child = |child: &Digest| self.contents.manifests.get(child).and_then(|child| child.created);
        item.created.or_else(|| item.children.iter().filter_map(of_child).max())
    }

    fn kept(&self, rules: &Rules) -> BTreeMap<Digest, BTreeSet<KeepReason>> {
        let mut found: BTreeMap<Digest, BTreeSet<KeepReason>> = BTreeMap::new();
        let mut keep = |digest: Digest, reason: KeepReason| {
            found.entry(digest).or_default().insert(reason);
        };
        let mut aged = Vec::new();
        for (digest, item) in &self.contents.manifests {
            let tags = self.tags(*digest);
            if rules.keep.contains(digest) {
                keep(*digest, KeepReason::Named);
            }
            for tag in tags.iter().filter(|tag| rules.pins(tag)) {
                keep(*digest, KeepReason::Pinned((*tag).to_owned()));
            }
            if rules.last > 0 && tags.iter().any(|tag| spoken_of(tag).is_none()) {
                match self.created(item) {
                    Some(created) => aged.push((created, *digest)),
                    None => keep(*digest, KeepReason::AgeUnknown),
                }
            }
            let belongs = self.parents.contains_key(digest) || self.subjects.contains_key(digest);
            if !rules.untagged && tags.is_empty() && !belongs {
                keep(*digest, KeepReason::Untagged);
            }
        }
        aged.sort_by(|(one, a), (other, b)| other.cmp(one).then(a.cmp(b)));
        let oldest = rules.last.checked_sub(1).and_then(|last| aged.get(last)).map(|(created, _)| *created);
        for (place, (created, digest)) in aged.into_iter().enumerate() {
            if place < rules.last || Some(created) == oldest {
                keep(digest, KeepReason::Recent(place + 1));
            }
        }
        self.close(&mut found);
        found
    }

    /// Adds what the kept ones need and what is said about them, until nothing is added.
    fn close(&self, kept: &mut BTreeMap<Digest, BTreeSet<KeepReason>>) {
        let mut open: Vec<Digest> = kept.keys().copied().collect();
        while let Some(digest) = open.pop() {
            let children =
                self.contents.manifests.get(&digest).map(|item| item.children.as_slice()).unwrap_or_default();
            let needed = children.iter().map(|child| (*child, KeepReason::ChildOf(digest)));
            let said = self
                .referrers
                .get(&digest)
                .into_iter()
                .flatten()
                .map(|said| (*said, KeepReason::About(digest)));
            for (next, reason) in needed.chain(said) {
                if !self.contents.manifests.contains_key(&next) {
                    continue;
                }
                if !kept.contains_key(&next) {
                    open.push(next);
                }
                kept.entry(next).or_default().insert(reason);
            }
        }
    }

    /// Indexes before their manifests, referrers before what they speak of.
    fn ordered(&self, gone: &BTreeSet<Digest>) -> Vec<Digest> {
        let before = |digest: &Digest, said_too: bool| -> usize {
            let parents = self.parents.get(digest).into_iter().flatten();
            let said = self.referrers.get(digest).into_iter().flatten().filter(|_| said_too);
            let both: BTreeSet<&Digest> = parents.chain(said).filter(|other| gone.contains(*other)).collect();
            both.len()
        };
        let mut waits: BTreeMap<Digest, usize> =
            gone.iter().map(|digest| (*digest, before(digest, true))).collect();
        let mut free: BTreeSet<Digest> =
            waits.iter().filter(|(_, count)| **count == 0).map(|(digest, _)| *digest).collect();
        let mut order = Vec::new();
        while !waits.is_empty() {
            // Tags may say that two speak of each other. Parts are by their digests never in a circle, so one is free of parents.
            let next = free.pop_first().or_else(|| {
                let done: BTreeSet<&Digest> = waits.keys().collect();
                let free = |digest: &&&Digest| {
                    self.parents.get(**digest).into_iter().flatten().all(|parent| !done.contains(parent))
                };
                done.iter().find(free).or(done.first()).map(|digest| **digest)
            });
            let Some(next) = next else { break };
            waits.remove(&next);
            order.push(next);
            let children =
                self.contents.manifests.get(&next).map(|item| item.children.iter()).into_iter().flatten();
            let after: BTreeSet<&Digest> =
                children.chain(self.subjects.get(&next).into_iter().flatten()).collect();
            for digest in after {
                if let Some(count) = waits.get_mut(digest) {
                    *count = count.saturating_sub(1);
                    if *count == 0 {
                        free.insert(*digest);
                    }
                }
            }
        }
        order
    }

    fn deletion(&self, digest: Digest, gone: &BTreeSet<Digest>) -> Deletion {
        let subject = self.subjects.get(&digest).into_iter().flatten();
        let subject = subject
            .copied()
            .find(|subject| gone.contains(subject) || !self.contents.manifests.contains_key(subject));
        let parent = self.parents.get(&digest).into_iter().flatten().copied().next();
        let tags: Vec<String> = self.tags(digest).iter().map(|tag| (*tag).to_owned()).collect();
        let why = match (subject, parent) {
            (Some(subject), _) => DeleteReason::About(subject),
            (None, Some(parent)) if tags.is_empty() => DeleteReason::PartOf(parent),
            _ => DeleteReason::Unkept,
        };
        Deletion { digest, tags, why }
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Deletion { digest, tags, why } in &self.delete {
            let why = match why {
                DeleteReason::Unkept => "no rule keeps it".to_owned(),
                DeleteReason::PartOf(parent) => format!("part of {}", parent.short()),
                DeleteReason::About(subject) => format!("about {}", subject.short()),
            };
            writeln!(f, "delete {digest} [{}] {why}", tags.join(" "))?;
        }
        for (digest, reasons) in &self.keep {
            let reasons: Vec<String> = reasons.iter().map(KeepReason::to_string).collect();
            writeln!(f, "keep   {digest} {}", reasons.join(", "))?;
        }
        write!(f, "{} to delete, {} to keep", self.delete.len(), self.keep.len())
    }
}

impl fmt::Display for KeepReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named => f.write_str("named"),
            Self::Pinned(tag) => write!(f, "pinned as {tag}"),
            Self::Recent(place) => write!(f, "recent, number {place}"),
            Self::AgeUnknown => f.write_str("age unknown"),
            Self::ChildOf(parent) => write!(f, "part of {}", parent.short()),
            Self::About(subject) => write!(f, "about {}", subject.short()),
            Self::Untagged => f.write_str("untagged"),
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
