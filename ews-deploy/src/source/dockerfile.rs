//! What a Dockerfile builds on: every image that it names, read without a builder. Pure.
//!
//! This is a gate, so it errs on one side. Every line counts as an instruction, those within a here-document too: a builder that does not
//! know here-documents would obey them. What can't be read (a variable that nobody sets, a frontend of one's own that reads the rest as it
//! likes) is refused rather than let through.

use std::collections::BTreeMap;

use ews_core::archive::ShownBytes;
use ews_core::{Error, ImageRef, Result};

use super::catalogue::Catalogue;

/// Which images a build may start from.
///
/// ```
/// use ews_deploy::source::BasePolicy;
///
/// let policy = BasePolicy::nothing().with("registry.example/base/*").with("docker.io/library/node");
/// assert!(policy.allows(&"registry.example/base/jre:21".parse()?));
/// assert!(policy.allows(&"node:24".parse()?));
/// assert!(!policy.allows(&"docker.io/somebody/node:24".parse()?));
/// # Ok::<(), ews_core::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BasePolicy {
    patterns: Vec<String>,
}

impl BasePolicy {
    /// No image but the empty one, `scratch`.
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Every image.
    pub fn anything() -> Self {
        Self { patterns: vec!["*".to_owned()] }
    }

    /// The bases and builders of a catalogue, in every version.
    pub fn of(catalogue: &Catalogue) -> Self {
        let images = catalogue.entries().iter().flat_map(|entry| {
            entry
                .base
                .iter()
                .map(|base| &base.image)
                .chain(entry.builder.iter().map(|builder| &builder.image))
        });
        Self { patterns: images.map(whole).collect() }
    }

    /// These too: `registry/repository` means that repository, and `registry/path/*` all that lie below.
    #[must_use]
    pub fn with(mut self, pattern: impl Into<String>) -> Self {
        self.patterns.push(pattern.into());
        self
    }

    /// Whether a build may start from this image.
    pub fn allows(&self, image: &ImageRef) -> bool {
        let name = whole(image);
        self.patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
            Some("") => true,
            // With the stroke, so that `base/*` does not take `base-of-others/x`.
            Some(front) => front.ends_with('/') && name.starts_with(front),
            None => *pattern == name,
        })
    }
}

fn whole(image: &ImageRef) -> String {
    format!("{}/{}", image.registry(), image.repository())
}

/// What a Dockerfile names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dockerfile {
    stages: Vec<Stage>,
    /// Images that stages start from or that are copied or mounted from, and a frontend.
    pub(super) images: Vec<ImageRef>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Stage {
    name: Option<String>,
    from: From,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum From {
    Scratch,
    Stage(usize),
    Image(ImageRef),
}

impl Dockerfile {
    /// Reads one.
    ///
    /// # Errors
    /// `Invalid`, with the line.
    pub(super) fn parse(text: &str, args: &BTreeMap<String, String>) -> Result<Self> {
        let mut read = Self { stages: Vec::new(), images: Vec::new() };
        let directives = Directives::of(text)?;
        if let Some(frontend) = directives.frontend {
            let image: ImageRef = frontend.parse()?;
            // Docker's own reads what is read here.
            if (image.registry(), image.repository()) != ("docker.io", "docker/dockerfile") {
                read.images.push(image);
            }
        }
        let mut known = BTreeMap::new();
        for (number, line) in instructions(text, directives.escape) {
            read.take(&line, directives.escape, args, &mut known)
                .map_err(|error| error.with_context("line", number))?;
        }
        if read.stages.is_empty() {
            return Err(Error::invalid("the Dockerfile has no `FROM`"));
        }
        Ok(read)
    }

    fn take(
        &mut self,
        line: &str,
        escape: char,
        args: &BTreeMap<String, String>,
        known: &mut BTreeMap<String, String>,
    ) -> Result<()> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        if word.eq_ignore_ascii_case("ARG") && self.stages.is_empty() {
            for arg in rest.split_whitespace() {
                let (name, default) = arg.split_once('=').unwrap_or((arg, ""));
                let default = default.trim_matches(['"', '\'']);
                let said = args.get(name).map_or(default, String::as_str);
                if !said.is_empty() {
                    let value = substituted(said, known)?;
                    known.insert(name.to_owned(), value);
                }
            }
        } else if word.eq_ignore_ascii_case("FROM") {
            let mut words = rest.split_whitespace().filter(|word| !word.starts_with("--"));
            let from = words.next().ok_or_else(|| Error::invalid("a `FROM` without an image"))?;
            let from = self.from(&substituted(from, known)?)?;
            let named = words.next().is_some_and(|word| word.eq_ignore_ascii_case("AS"));
            let name = words.next().filter(|_| named).map(str::to_ascii_lowercase);
            self.stages.push(Stage { name, from });
        }
        // Quotes and escapes may stand within a flag, and builders take them off. A quoted blank within one ends it here and not there, so
        // where there are quotes every word is looked at; else the flags are those in front.
        let plain: String = line.chars().filter(|c| !matches!(c, '"' | '\'') && *c != escape).collect();
        let quoted = plain.len() != line.len();
        let words = plain.split_whitespace().skip_while(|word| word.eq_ignore_ascii_case("ONBUILD")).skip(1);
        let flags = words.take_while(|word| quoted || word.starts_with("--"));
        for flag in flags.filter(|word| word.starts_with("--from=") || word.starts_with("--mount=")) {
            for (at, _) in flag.match_indices("from=") {
                let value = flag.get(at + "from=".len()..).unwrap_or_default();
                let value = value.split(',').next().unwrap_or_default();
                if !value.is_empty() && !value.bytes().all(|byte| byte.is_ascii_digit()) {
                    self.from(&substituted(value, &BTreeMap::new())?)?;
                }
            }
        }
        Ok(())
    }

    fn from(&mut self, name: &str) -> Result<From> {
        let lower = name.to_ascii_lowercase();
        if let Some(stage) = self.stages.iter().position(|stage| stage.name.as_deref() == Some(&lower)) {
            return Ok(From::Stage(stage));
        }
        if name == "scratch" {
            return Ok(From::Scratch);
        }
        let image: ImageRef = name.parse()?;
        self.images.push(image.clone());
        Ok(From::Image(image))
    }

    /// The image that the result stands on: of this stage, or of the last. None where it is `scratch`.
    ///
    /// # Errors
    /// `Invalid` for a stage that is not there.
    pub(super) fn base(&self, target: Option<&str>) -> Result<Option<&ImageRef>> {
        let wanted = match target {
            Some(name) => {
                let lower = name.to_ascii_lowercase();
                let by_name = self.stages.iter().position(|stage| stage.name.as_deref() == Some(&lower));
                by_name.or_else(|| name.parse().ok()).filter(|at| *at < self.stages.len())
            }
            None => self.stages.len().checked_sub(1),
        };
        let mut at = wanted.ok_or_else(|| {
            Error::invalid(format!(
                "the Dockerfile has no stage `{}`",
                ShownBytes(target.unwrap_or_default().as_bytes())
            ))
        })?;
        // A stage stands on an earlier one only, so this ends.
        loop {
            match self.stages.get(at).map(|stage| &stage.from) {
                Some(From::Stage(earlier)) => at = *earlier,
                Some(From::Image(image)) => return Ok(Some(image)),
                Some(From::Scratch) | None => return Ok(None),
            }
        }
    }
}

/// What the first lines say about the rest.
struct Directives<'a> {
    escape: char,
    frontend: Option<&'a str>,
}

impl<'a> Directives<'a> {
    fn of(text: &'a str) -> Result<Self> {
        let mut read = Self { escape: '\\', frontend: None };
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim();
        if first.starts_with("//") || first.starts_with('{') || first.starts_with("#!") {
            return Err(Error::invalid(
                "the Dockerfile starts with `//`, `{` or `#!`, by which it can name a frontend of its own; accepted: `# syntax=…`",
            ));
        }
        for line in text.lines() {
            let Some(comment) = line.trim().strip_prefix('#') else { break };
            let Some((name, value)) = comment.split_once('=') else { break };
            match name.trim().to_ascii_lowercase().as_str() {
                "escape" => match value.trim() {
                    "\\" => {}
                    "`" => read.escape = '`',
                    _ => return Err(Error::invalid("the directive `escape` is neither `\\` nor a backtick")),
                },
                "syntax" => read.frontend = Some(value.trim()),
                "check" => {}
                _ => break,
            }
        }
        // BuildKit looks for it in every comment at the top.
        let hidden = text.lines().take_while(|line| line.trim().is_empty() || line.trim().starts_with('#'));
        let names = |line: &str| line.to_ascii_lowercase().replace(' ', "").starts_with("#syntax=");
        if read.frontend.is_none() && hidden.map(str::trim).any(names) {
            return Err(Error::invalid(
                "`# syntax=` stands behind another comment; accepted: in the first line",
            ));
        }
        Ok(read)
    }
}

/// The instructions with the numbers of their first lines, continued lines put together.
fn instructions(text: &str, escape: char) -> Vec<(usize, String)> {
    let (mut all, mut open): (_, Option<(usize, String)>) = (Vec::new(), None);
    for (number, line) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().enumerate() {
        let trimmed = line.trim();
        // A comment or a blank line within a continued one is left out.
        if trimmed.is_empty() || trimmed.starts_with('#') {
            continue;
        }
        let (_, whole) = open.get_or_insert_with(|| (number + 1, String::new()));
        match trimmed.strip_suffix(escape) {
            Some(front) => whole.push_str(if whole.is_empty() {
                front
            } else {
                line.trim_end().strip_suffix(escape).unwrap_or(front)
            }),
            None => {
                whole.push_str(if whole.is_empty() { trimmed } else { line.trim_end() });
                all.extend(open.take());
            }
        }
    }
    all.extend(open);
    all
}

/// Puts values for `$NAME`, `${NAME}`, `${NAME:-other}` and `${NAME:+other}`.
fn substituted(text: &str, known: &BTreeMap<String, String>) -> Result<String> {
    let refused = || {
        Error::invalid(format!(
            "`{}` holds a variable that nobody sets before the first `FROM`, so its image is not known",
            ShownBytes(text.as_bytes())
        ))
    };
    let (mut out, mut rest) = (String::new(), text);
    while let Some((front, behind)) = rest.split_once('$') {
        out.push_str(front);
        let word = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').count();
        if let Some(braced) = behind.strip_prefix('{') {
            let (inner, after) = braced.split_once('}').ok_or_else(refused)?;
            let (name, how) = inner.split_at_checked(word(inner)).ok_or_else(refused)?;
            let value = known.get(name).map(String::as_str);
            out.push_str(match (how.get(..2).unwrap_or(how), value) {
                ("", Some(value)) | (":-", Some(value)) => value,
                (":-", None) | (":+", Some(_)) => {
                    how.get(2..).filter(|other| !other.contains('$')).ok_or_else(refused)?
                }
                (":+", None) => "",
                _ => return Err(refused()),
            });
            rest = after;
        } else {
            let (name, after) = behind.split_at_checked(word(behind)).ok_or_else(refused)?;
            out.push_str(known.get(name).ok_or_else(refused)?);
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(text: &str) -> Result<Vec<String>> {
        let args = BTreeMap::from([("GIVEN".to_owned(), "given:1".to_owned())]);
        Dockerfile::parse(text, &args).map(|read| read.images.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_image_that_is_named_is_found_however_it_is_written() {
        for (text, found) in [
            ("FROM a:1\nRUN x", &["docker.io/library/a:1"][..]),
            ("  from --platform=$BUILDPLATFORM a:1 as b\nFROM b", &["docker.io/library/a:1"]),
            ("# comment\n\nFROM scratch", &[]),
            (
                "ARG V=2\nFROM a:$V\nFROM b:${V}-x\nFROM c:${W:-3}",
                &["docker.io/library/a:2", "docker.io/library/b:2-x", "docker.io/library/c:3"],
            ),
            ("ARG GIVEN=default:1\nFROM ${GIVEN}", &["docker.io/library/given:1"]),
            ("FROM \\\n  # a comment between\n\n  evil:1", &["docker.io/library/evil:1"]),
            ("FROM a\nRUN x \\\n && y\nFROM evil", &["docker.io/library/a", "docker.io/library/evil"]),
            (
                "# escape=`\nFROM a\nRUN x `\n y\nFROM evil",
                &["docker.io/library/a", "docker.io/library/evil"],
            ),
            ("# escape=`\nFROM a\nRUN c:\\\nFROM evil", &["docker.io/library/a", "docker.io/library/evil"]),
            (
                "FROM a AS One\nFROM b\nCOPY --from=one /x /x\nCOPY --from=0 /x /x",
                &["docker.io/library/a", "docker.io/library/b"],
            ),
            ("FROM a\nCOPY --from=evil:1 /x /x", &["docker.io/library/a", "docker.io/library/evil:1"]),
            ("FROM a\nCOPY --fr\"om\"=evil:1 /x /x", &["docker.io/library/a", "docker.io/library/evil:1"]),
            ("FROM a\nCOPY --fr\\\nom=evil:1 /x /x", &["docker.io/library/a", "docker.io/library/evil:1"]),
            (
                "FROM a\nRUN --mount=type=bind,from=evil:1,target=/x y",
                &["docker.io/library/a", "docker.io/library/evil:1"],
            ),
            (
                "FROM a\nRUN --mount=type=bind,\"from=evil:1\" y",
                &["docker.io/library/a", "docker.io/library/evil:1"],
            ),
            (
                "FROM a\nONBUILD COPY --chown=1 --from=evil:1 /x /x",
                &["docker.io/library/a", "docker.io/library/evil:1"],
            ),
            (
                "FROM a\nCOPY --chown=\"a b\" --from=evil:1 /x /x",
                &["docker.io/library/a", "docker.io/library/evil:1"],
            ),
            // A program's own argument is none of ours.
            ("FROM a\nRUN tool --from=b", &["docker.io/library/a"]),
            // A builder without here-documents would obey it.
            ("FROM a\nRUN <<E\nFROM evil\nE", &["docker.io/library/a", "docker.io/library/evil"]),
            ("# syntax=docker/dockerfile:1\nFROM a", &["docker.io/library/a"]),
            ("# syntax = evil/frontend\nFROM a", &["docker.io/evil/frontend", "docker.io/library/a"]),
        ] {
            assert_eq!(images(text).unwrap(), found, "{text}");
        }
    }

    #[test]
    fn what_can_not_be_told_is_refused() {
        for text in [
            "",
            "RUN x",
            "FROM",
            "FROM $UNSET",
            "FROM ${UNSET}",
            "FROM a:${V:?x}",
            "FROM a\nARG LATE=evil\nFROM $LATE",
            "FROM a\nCOPY --from=$X /x /x",
            "//syntax=evil\nFROM a",
            "{\"syntax\": \"evil\"}\nFROM a",
            "# a comment\n# syntax=evil/frontend\nFROM a",
            "FROM \"quoted\"",
        ] {
            assert!(images(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_result_stands_on_the_image_of_its_stage() {
        let text = "FROM build:1 AS build\nFROM run:1 AS base\nFROM base AS app\nCOPY --from=build /x /x\nFROM scratch AS none";
        let read = Dockerfile::parse(text, &BTreeMap::new()).unwrap();
        let base = |target| read.base(target).unwrap().map(ToString::to_string);
        assert_eq!(base(Some("app")).as_deref(), Some("docker.io/library/run:1"));
        assert_eq!(base(Some("BUILD")).as_deref(), Some("docker.io/library/build:1"));
        assert_eq!(base(Some("2")).as_deref(), Some("docker.io/library/run:1"));
        assert_eq!(base(None), None);
        assert!(read.base(Some("missing")).is_err() && read.base(Some("9")).is_err());
    }
}
