//! Names made of what a webhook says: text with placeholders, of which only known ones are accepted.

use ews_core::{Error, ImageRef, Result};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::heard::Heard;

/// The name of an image with placeholders: `registry.example/acme/web:{sha}`.
///
/// | Placeholder | Stands for |
/// |---|---|
/// | `{sha}`, `{short}` | the commit, and its first 12 digits |
/// | `{branch}`, `{tag}` | the branch or tag, where it can be an image's tag as it is |
/// | `{branch_slug}` | the branch in lower case, with `-` for whatever is no letter or digit, at most 63 characters |
/// | `{repository}` | the repository, or the image's, in lower case |
/// | `{image}` | the whole name of the image that was pushed, without a tag |
/// | `{digest}` | the digest, `sha256:…` |
///
/// Everything that is put in is checked by the grammar of what it is, and the result is read as the name of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(String);

const PLACEHOLDERS: [&str; 8] =
    ["sha", "short", "branch", "branch_slug", "tag", "repository", "image", "digest"];

impl Template {
    /// The longest template, in bytes.
    pub const MAX_LEN: usize = 512;

    /// The name that comes of it.
    ///
    /// # Errors
    /// `Invalid` where something is wanted that was not said, or can't stand there.
    pub(super) fn fill(&self, heard: &Heard) -> Result<ImageRef> {
        let mut name = String::new();
        for piece in pieces(&self.0)? {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Placeholder(placeholder) => name.push_str(&value(placeholder, heard)?),
            }
        }
        name.parse()
    }
}

enum Piece<'a> {
    Text(&'a str),
    Placeholder(&'a str),
}

fn pieces(text: &str) -> Result<Vec<Piece<'_>>> {
    let wrong = || {
        Error::invalid(format!(
            "an unknown placeholder; accepted: {}",
            PLACEHOLDERS.map(|p| format!("{{{p}}}")).join(", ")
        ))
    };
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once('{') {
        let (placeholder, after) = after.split_once('}').ok_or_else(wrong)?;
        if !PLACEHOLDERS.contains(&placeholder) {
            return Err(wrong());
        }
        pieces.push(Piece::Text(before));
        pieces.push(Piece::Placeholder(placeholder));
        rest = after;
    }
    if rest.contains('}') {
        return Err(wrong());
    }
    pieces.push(Piece::Text(rest));
    Ok(pieces)
}

fn value(placeholder: &str, heard: &Heard) -> Result<String> {
    let missing = || Error::invalid(format!("the webhook says nothing that stands for `{{{placeholder}}}`"));
    let as_tag = |text: &Option<String>| {
        let text = text.clone().ok_or_else(missing)?;
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let good = text.len() <= 128
            && text.starts_with(word)
            && text.chars().all(|c| word(c) || matches!(c, '.' | '-'));
        let wrong = || Error::invalid(format!("what stands for `{{{placeholder}}}` can't be an image's tag"));
        if good { Ok(text) } else { Err(wrong()) }
    };
    match placeholder {
        "sha" => heard.sha.clone().ok_or_else(missing),
        "short" => Ok(heard.sha.as_ref().ok_or_else(missing)?.chars().take(12).collect()),
        "branch" => as_tag(&heard.branch),
        "tag" => as_tag(&heard.tag),
        "branch_slug" => {
            let branch = heard.branch.as_ref().ok_or_else(missing)?.to_ascii_lowercase();
            let dashed: String =
                branch.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
            let slug = dashed.trim_matches('-');
            if slug.is_empty() { Err(missing()) } else { Ok(slug.to_owned()) }
        }
        "repository" if heard.repository.is_empty() => Err(missing()),
        "repository" => {
            // A repository that holds a `:` or an `@` would change where the name ends.
            let lower = heard.repository.to_ascii_lowercase();
            let plain =
                |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-' | '/');
            let wrong = || Error::invalid("the repository's name can't stand in an image's");
            if lower.chars().all(plain) && !lower.starts_with('/') { Ok(lower) } else { Err(wrong()) }
        }
        "image" => {
            let image: ImageRef = heard.image.as_ref().ok_or_else(missing)?.parse()?;
            Ok(format!("{}/{}", image.registry(), image.repository()))
        }
        "digest" => Ok(heard.digest.ok_or_else(missing)?.to_string()),
        _ => Err(missing()),
    }
}

impl std::str::FromStr for Template {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        if text.is_empty() || text.len() > Self::MAX_LEN {
            return Err(Error::invalid(format!(
                "a template of {} bytes; accepted: 1 to {}",
                text.len(),
                Self::MAX_LEN
            )));
        }
        let template = Self(text.to_owned());
        // With something in each place it must be a name, so that what never could be is refused at once.
        template.fill(&Heard::sample()).map_err(|error| error.with_context("template", text))?;
        Ok(template)
    }
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Template {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fill(template: &str, heard: &Heard) -> Result<String> {
        Ok(template.parse::<Template>()?.fill(heard)?.to_string())
    }

    #[test]
    fn only_known_placeholders_and_only_names_come_of_them() {
        let mut heard = Heard::sample();
        heard.branch = Some("feature/Basket_2".to_owned());
        assert_eq!(fill("r.example/a:{branch_slug}", &heard).unwrap(), "r.example/a:feature-basket-2");
        assert_eq!(
            fill("r.example/{repository}:{short}", &heard).unwrap(),
            "r.example/acme/web:0123456789ab"
        );
        assert!(
            fill("r.example/a:{branch}", &heard).unwrap_err().message().contains("can't be an image's tag")
        );
        for bad in
            ["r.example/a:{env}", "r.example/a:{sha", "r.example/a:}", "{", "r.example/a:{}", "", "A:{sha}"]
        {
            assert!(bad.parse::<Template>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_put_in_does_not_move_where_the_image_is_from() {
        let mut heard = Heard::sample();
        for evil in ["x@sha256:00", "x:y", "/etc", "evil.example:5000/x", "a//b", "../x", "a b"] {
            heard.repository = evil.to_owned();
            assert!(fill("r.example/{repository}:{sha}", &heard).is_err(), "{evil}");
        }
        for evil in ["x/y", "x@sha256:0", "-x", "", "x y", "x\n"] {
            heard.tag = Some(evil.to_owned());
            assert!(fill("r.example/a:{tag}", &heard).is_err(), "{evil:?}");
        }
        heard.sha = None;
        assert!(fill("r.example/a:{sha}", &heard).unwrap_err().message().contains("says nothing"));
    }
}
