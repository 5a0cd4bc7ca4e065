//! The dependency graph of the workspace, read from the manifests: who may depend on whom, and what each crate inherits.

use toml::{Table, Value};

/// The crates that decide and act. None may know another: an embedder composes them.
const ENGINES: [&str; 5] = ["ews-docker", "ews-deploy", "ews-scale", "ews-route", "ews-monitor"];

/// The crates that compose everything, and are not published.
const COMPOSERS: [&str; 3] = ["ews-examples", "ews-host", "ews-benches"];

/// What is wrong with the manifest of a member, `text` at `path`, in the workspace whose root manifest is `root`.
pub(crate) fn check(root: &str, path: &str, text: &str) -> Vec<String> {
    let (Ok(root), Ok(manifest)) = (root.parse::<Table>(), text.parse::<Table>()) else {
        return vec!["is no TOML".to_owned()];
    };
    let mut wrong = Vec::new();

    let folder = path.strip_suffix("/Cargo.toml").unwrap_or(path);
    let members = at(&root, &["workspace", "members"]).and_then(Value::as_array);
    if !members.is_some_and(|members| members.iter().any(|member| member.as_str() == Some(folder))) {
        wrong.push("is no member of the workspace".to_owned());
    }
    for inherited in [["lints", "workspace"].as_slice(), &["package", "edition", "workspace"]] {
        if at(&manifest, inherited).and_then(Value::as_bool) != Some(true) {
            wrong.push(format!("`{}` must be true", inherited.join(".")));
        }
    }

    let name = at(&manifest, &["package", "name"]).and_then(Value::as_str).unwrap_or_default();
    let is_composer = COMPOSERS.contains(&name);
    if name != "ews-core" && !ENGINES.contains(&name) && !is_composer {
        wrong.push(format!("`{name}` has no place in the dependency graph yet: give it one here"));
    }
    if is_composer && at(&manifest, &["package", "publish"]).and_then(Value::as_bool) != Some(false) {
        wrong.push("`publish` must be false: this crate composes the others".to_owned());
    }
    for (section, package) in dependencies(&root, &manifest) {
        // A crate may name itself for its own tests, to turn on a feature of its own: that is no edge to another crate.
        let is_own_tests = package == name && section.ends_with("dev-dependencies");
        let allowed = match package.as_str() {
            _ if is_own_tests => true,
            "bollard" | "bollard-stubs" => name == "ews-docker",
            "ews-core" => name != "ews-core",
            other if other.starts_with("ews-") => is_composer && other != name,
            _ => true,
        };
        if !allowed {
            wrong.push(format!("`{name}` must not have `{package}` in {section}"));
        }
    }
    wrong
}

/// The value at a path of keys.
fn at<'a>(table: &'a Table, keys: &[&str]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    let value = table.get(*first)?;
    if rest.is_empty() { Some(value) } else { at(value.as_table()?, rest) }
}

/// Every dependency of every kind and for every target, under its package's real name, with the section it stands in.
fn dependencies(root: &Table, manifest: &Table) -> Vec<(String, String)> {
    let mut found = sections(root, manifest, "");
    for (target, table) in manifest.get("target").and_then(Value::as_table).into_iter().flatten() {
        if let Some(table) = table.as_table() {
            found.extend(sections(root, table, &format!("target.{target}.")));
        }
    }
    found
}

fn sections(root: &Table, table: &Table, prefix: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for kind in ["dependencies", "dev-dependencies", "build-dependencies"] {
        for (key, value) in table.get(kind).and_then(Value::as_table).into_iter().flatten() {
            // A dependency may go by another name here, or in the workspace's table that it is inherited from.
            let renamed = |value: &Value| value.get("package").and_then(Value::as_str).map(str::to_owned);
            let inherited = at(root, &["workspace", "dependencies", key])
                .filter(|_| value.get("workspace").and_then(Value::as_bool) == Some(true));
            let package =
                renamed(value).or_else(|| inherited.and_then(renamed)).unwrap_or_else(|| key.clone());
            found.push((format!("{prefix}{kind}"), package));
        }
    }
    found
}

#[cfg(test)]
const ROOT: &str = r#"
[workspace]
members = ["it"]
[workspace.dependencies]
engine = { package = "ews-route", path = "ews-route" }
docker-client = { package = "bollard", version = "1" }
ews-core = { path = "ews-core" }
"#;

#[cfg(test)]
fn manifest(name: &str, rest: &str) -> String {
    format!(
        "[package]\nname = \"{name}\"\nedition.workspace = true\npublish = false\n[lints]\nworkspace = true\n{rest}"
    )
}

#[test]
fn dependencies_against_the_graph_are_refused() {
    for (name, rest) in [
        ("ews-core", "[dependencies]\news-docker = { path = \"../ews-docker\" }"),
        ("ews-core", "[dev-dependencies]\news-examples = { path = \"../examples\" }"),
        ("ews-core", "[dependencies]\nbollard = \"1\""),
        ("ews-core", "[dependencies]\news-core = { path = \".\" }"),
        ("ews-scale", "[dependencies]\news-deploy.workspace = true"),
        ("ews-scale", "[dev-dependencies]\news-monitor = { path = \"../ews-monitor\" }"),
        ("ews-scale", "[build-dependencies]\news-monitor = { path = \"../ews-monitor\" }"),
        ("ews-scale", "[target.'cfg(windows)'.dependencies]\news-route = \"0.1\""),
        ("ews-scale", "[dependencies]\nroute = { package = \"ews-route\", version = \"0.1\" }"),
        ("ews-scale", "[dependencies]\nengine.workspace = true"),
        ("ews-scale", "[dependencies.ews-benches]\npath = \"../benches\""),
        ("ews-deploy", "[dependencies]\nbollard = \"1\""),
        ("ews-deploy", "[dev-dependencies]\ndocker-client = { workspace = true }"),
        ("ews-examples", "[dev-dependencies]\nbollard = \"1\""),
        ("ews-newcomer", ""),
    ] {
        let wrong = check(ROOT, "it/Cargo.toml", &manifest(name, rest));
        assert_eq!(wrong.len(), 1, "{name} with {rest}: {wrong:?}");
    }
}

#[test]
fn dependencies_along_the_graph_pass() {
    for (name, rest) in [
        ("ews-core", "[dependencies]\ntokio.workspace = true"),
        ("ews-core", "[dev-dependencies]\news-core = { path = \".\", features = [\"testkit\"] }"),
        ("ews-route", "[dependencies]\news-core.workspace = true\n[dev-dependencies]\news-core = \"0.1\""),
        ("ews-docker", "[dependencies]\nbollard = \"1\"\news-core.workspace = true"),
        ("ews-examples", "[dependencies]\nengine.workspace = true\news-docker = \"0.1\""),
    ] {
        let wrong = check(ROOT, "it/Cargo.toml", &manifest(name, rest));
        assert!(wrong.is_empty(), "{name} with {rest}: {wrong:?}");
    }
}

#[test]
fn a_crate_that_inherits_nothing_is_refused() {
    let good = manifest("ews-examples", "");
    assert_eq!(check(ROOT, "it/Cargo.toml", &good), Vec::<String>::new());
    for bad in [
        good.replace("[lints]\nworkspace = true", ""),
        good.replace("[lints]\nworkspace = true", "[lints.rust]\nunsafe_code = \"allow\""),
        good.replace("edition.workspace = true", "edition = \"2021\""),
        good.replace("publish = false\n", ""),
        format!("{good}]"),
    ] {
        assert_eq!(check(ROOT, "it/Cargo.toml", &bad).len(), 1, "{bad}");
    }
    assert_eq!(check(ROOT, "other/Cargo.toml", &good), ["is no member of the workspace"]);
}
