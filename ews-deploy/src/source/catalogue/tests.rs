//! Reading catalogues, and finding entries.

use ews_core::{Arch, ErrorKind};

use crate::source::artifact::Content;

use super::*;

const GOOD: &str = r#"
version = 1
[[entry]]
id = "a"
line = "1"
compatibility = "k"
base = [{ image = "docker.io/library/a:1", platforms = ["linux/amd64"] }]
takes = [{ kind = "files", to = "/app" }]
"#;

#[test]
fn the_catalogue_that_comes_along_has_what_it_promises() {
    let catalogue = Catalogue::built_in().unwrap();
    for (id, content) in [
        ("static-site", Content::TarGz),
        ("node", Content::Zip),
        ("python", Content::Directory),
        ("php", Content::Tar),
        ("java-tomcat", Content::War),
        ("java-jar", Content::Jar),
        ("dotnet", Content::Zip),
        ("dotnet-windows", Content::Zip),
        ("go", Content::Program { platform: None }),
        ("rust", Content::Program { platform: None }),
    ] {
        let entry = catalogue.find(id).unwrap();
        assert!(entry.taking(content).is_some() && entry.port.is_some() && entry.probe.is_some(), "{id}");
    }
    assert!(catalogue.find("go").unwrap().taking(Content::Zip).is_none());
    assert!(catalogue.find("java-tomcat").unwrap().taking(Content::War).unwrap().unpacks());
    assert!(!catalogue.find("java-jar").unwrap().taking(Content::Jar).unwrap().unpacks());
}

#[test]
fn faults_are_named_with_their_entry_and_field() {
    for (from, to, fault) in [
        ("version = 1", "version = 2", "`version`"),
        ("version = 1", "version = 1\nmore = 1", "field `more`"),
        ("line = \"1\"", "", "missing field `line`"),
        ("line = \"1\"", "line = \"1\"\ncolour = \"red\"", "unknown field `colour`"),
        ("\"linux/amd64\"", "\"linux\"", "`linux` is no platform"),
        ("\"linux/amd64\"", "\"linux/amd64\", \"windows/amd64\"", "entries of their own"),
        ("/app", "app", "`takes[0].to`"),
        ("/app", "/app/../etc", "`takes[0].to`"),
        ("\"files\"", "\"egg\"", "unknown variant `egg`"),
        ("\"k\"", "\"\"", "`compatibility`"),
        ("\"k\"", "\"k\"\nowner = \"www\"", "`owner`"),
        ("\"k\"", "\"k\"\nprobe = { tcp = true }", "`probe`: needs a `port`"),
        ("\"k\"", "\"k\"\nend-of-life = \"soon\"", "`end-of-life`"),
        ("\"k\"", "\"k\"\nstop-signal = \"SIGNOPE\"", "SIGNOPE"),
        (
            "\"k\"",
            "\"k\"\nbuilder = { image = \"x\", run = [\"a\\nFROM evil\"], output = \"/out\" }",
            "single lines",
        ),
        ("id = \"a\"", "id = \"A\"", "`id`"),
    ] {
        let error = Catalogue::read(&GOOD.replacen(from, to, 1), Format::Toml).unwrap_err();
        assert!(error.kind() == ErrorKind::Invalid && error.message().contains(fault), "{fault}: {error}");
    }
    let twice = format!("{GOOD}{}", GOOD.replace("version = 1", ""));
    let error = Catalogue::read(&twice, Format::Toml).unwrap_err();
    assert!(error.message().contains("entry[1] (a)") && error.message().contains("comes twice"), "{error}");
}

#[test]
fn an_id_means_its_first_stable_line_and_the_rest_is_named() {
    let line = |line: &str, channel: &str| {
        GOOD.replace("line = \"1\"", &format!("line = \"{line}\"\nchannel = \"{channel}\""))
    };
    let read = |text: &str| Catalogue::read(text, Format::Toml).unwrap();
    let catalogue =
        read(&line("3", "candidate")).with(read(&line("2", "retired"))).with(read(&line("1", "stable")));
    let catalogue = read(&line("0", "stable")).with(catalogue);
    assert_eq!(catalogue.find("a").unwrap().line, "1");
    assert_eq!(catalogue.find("a:2").unwrap().channel, Channel::Retired);
    let error = catalogue.find("a:9").unwrap_err();
    assert!(error.to_string().contains("a:3 (candidate)"), "{error}");
    assert_eq!(catalogue.find("b").unwrap_err().kind(), ErrorKind::NotFound);
    // The same id and line again: the newcomer wins.
    let other = read(&line("1", "stable").replace("\"k\"", "\"new\""));
    let catalogue = catalogue.with(other);
    assert_eq!((catalogue.find("a").unwrap().compatibility.as_str(), catalogue.entries().len()), ("new", 4));
}

#[test]
fn a_mirror_takes_the_place_of_one_registry() {
    let digest = ews_core::Digest::of(b"x");
    let pinned = GOOD.replace("a:1", &format!("a:1@{digest}"));
    let catalogue = Catalogue::read(&pinned, Format::Toml).unwrap();
    let mirrored = catalogue.clone().with_mirror("docker.io", "mirror.example:5000/hub/").unwrap();
    let image = &mirrored.find("a").unwrap().base[0].image;
    assert_eq!(image.to_string(), format!("mirror.example:5000/hub/library/a:1@{digest}"));
    assert_eq!(catalogue.clone().with_mirror("quay.io", "mirror.example").unwrap(), catalogue);
    assert!(catalogue.with_mirror("docker.io", "not a name").is_err());
    let platform = mirrored.find("a").unwrap().base[0].platforms[0];
    assert_eq!((platform.os, platform.arch), (ews_core::Os::Linux, Arch::Amd64));
}
