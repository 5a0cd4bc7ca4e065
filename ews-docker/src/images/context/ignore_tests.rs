//! Patterns against paths: what Docker's documentation says, and what its own matcher does where that says nothing.

use proptest::prelude::*;

use super::*;

/// Whether a path is left out, asked on the way down as the walk asks.
fn leaves_out(patterns: &Patterns, path: &str) -> bool {
    let (mut above, mut out) = (Above::default(), false);
    for (at, _) in path.match_indices('/').chain([(path.len(), "")]) {
        let so_far = patterns.leaves_out(&path[..at], &above);
        (out, above) = so_far;
    }
    out
}

fn out(text: &str, path: &str) -> bool {
    leaves_out(&Patterns::read(text).unwrap(), path)
}

#[test]
fn the_reference_of_docker_build() {
    // Its examples: `*/temp*`, `*/*/temp*`, `temp?`, `**/*.go`, `*.md` with exceptions.
    for (text, path, expected) in [
        ("*/temp*", "somedir/temporary.txt", true),
        ("*/temp*", "somedir/temp", true),
        ("*/temp*", "temp", false),
        ("*/temp*", "a/b/temp", false),
        ("*/*/temp*", "somedir/subdir/temporary.txt", true),
        ("temp?", "tempa", true),
        ("temp?", "temp", false),
        ("temp?", "a/tempa", false),
        ("**/*.go", "a/b/c.go", true),
        ("**/*.go", "c.go", true),
        ("*.md\n!README.md", "README.md", false),
        ("*.md\n!README.md", "CHANGES.md", true),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
        ("*.md\n!README*.md\nREADME-secret.md", "README-x.md", false),
        ("*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false),
        ("/foo/bar", "foo/bar", true),
        ("foo/bar", "foo/bar/baz", true),
        ("foo/bar/", "foo/bar", true),
        ("foo/bar", "a/foo/bar", false),
        // A bare name is the root's alone, unlike in `.gitignore`.
        ("node_modules", "node_modules/x", true),
        ("node_modules", "web/node_modules", false),
        ("**/node_modules", "web/node_modules/x/y", true),
    ] {
        assert_eq!(out(text, path), expected, "{text:?} {path}");
    }
}

#[test]
fn lines_are_read_as_docker_reads_them() {
    for (text, path, expected) in [
        ("\u{feff}a", "a", true),
        ("# a\na", "a", true),
        ("#a", "#a", false),
        // A comment's mark counts at the line's very beginning only.
        (" #a", "#a", true),
        ("\\#a", "#a", true),
        ("  a  \r\n\r\n", "a", true),
        ("a//b/./c/../d", "a/b/d", true),
        ("!  a\n", "a", false),
        ("*\n!  a  ", "a", false),
        ("*\n!/a", "a", false),
        ("a b", "a b", true),
        (".", "a", false),
        ("/", "a", false),
        ("..", "a", false),
        ("*/..", "a", false),
    ] {
        assert_eq!(out(text, path), expected, "{text:?} {path}");
    }
}

#[test]
fn wildcards() {
    for (pattern, path, expected) in [
        ("**", "a/b", true),
        ("**/", "a/b", true),
        ("**/**", "a/b", true),
        ("dir/**", "dir", false),
        ("dir/**", "dir/a/b", true),
        ("**/dir2/*", "dir/dir2/file", true),
        ("**/dir2/**", "dir/dir2/a/b", true),
        ("**file", "dir/file", true),
        ("**file", "dir/myfile", true),
        ("**file*", "dir/myfile", false),
        ("**/file", "dir/myfile", false),
        ("**/.foo", "bar.foo", false),
        ("a**/*.txt", "a/b/c/file.txt", true),
        ("a/*.txt", "a/b/file.txt", false),
        ("a/*.txt**", "a/file.txt", true),
        ("a*b?c*x", "abxbbxdbxebxczzx", true),
        ("a*b?c*x", "abxbbxdbxebxczzy", false),
        ("a*b", "a/b", false),
        ("a?b", "a/b", false),
        ("a?b", "a☺b", true),
        (".*", ".foo", true),
        (".*", "foo", false),
        ("abc.def", "abcZdef", false),
        ("a.|)$(}+{bc", "a.|)$(}+{bc", true),
        ("a[b-d]e", "ace", true),
        ("a[b-d]e", "aae", false),
        ("a[^b-d]e", "aze", true),
        ("[a-ζ]x", "αx", true),
        ("[\\]a]", "]", true),
        ("[x\\-]", "-", true),
        ("a\\*b", "a*b", true),
        ("a\\*b", "axb", false),
    ] {
        assert_eq!(out(pattern, path), expected, "{pattern} {path}");
    }
}

#[test]
fn what_docker_refuses_is_refused_with_its_line() {
    for text in
        ["ok\n!", "ok\n! ", "ok\n[", "ok\n[]a]", "ok\n[-]", "ok\n[x-]", "ok\n[a-b-c]", "ok\na[^", "ok\n\\"]
    {
        let error = Patterns::read(text).unwrap_err();
        assert!(error.message().starts_with("line 2: "), "{text:?}: {error}");
    }
}

#[test]
fn a_directory_that_is_left_out_is_looked_into_where_something_may_be_taken_in() {
    let may = |text: &str, directory: &str| Patterns::read(text).unwrap().may_take_in_below(directory);
    assert!(!may("*", "a"));
    assert!(may("*\n!a/b", "a"));
    assert!(!may("*\n!a/b", "ab"));
    assert!(!may("*\n!a", "a/b"));
    assert!(may("*\n!**/keep", "a/b"));
    assert!(may("*\n!a*/keep", "ab"));
    assert!(!may("*\n!a*/keep", "b"));
}

#[test]
fn what_is_kept_is_kept_whatever_the_patterns_say() {
    let mut patterns = Patterns::read("**\n!x\n*").unwrap();
    patterns.keep("build/Dockerfile[1]");
    assert!(!leaves_out(&patterns, "build/Dockerfile[1]"));
    assert!(leaves_out(&patterns, "build/Dockerfile1"));
    assert!(patterns.may_take_in_below("build"));
}

proptest! {
    /// No text makes it panic, and a path is left out exactly when the last pattern that matches it or a parent says so.
    #[test]
    fn the_last_match_counts(
        lines in prop::collection::vec("!?[ab*?/]{1,5}", 0..6),
        path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let Ok(patterns) = Patterns::read(&lines.join("\n")) else { return Ok(()) };
        let mut expected = false;
        for line in &lines {
            let (takes_in, pattern) = line.strip_prefix('!').map_or((false, line.as_str()), |p| (true, p));
            let alone = Patterns::read(pattern).unwrap();
            if leaves_out(&alone, &path) {
                expected = !takes_in;
            }
        }
        prop_assert_eq!(leaves_out(&patterns, &path), expected);
    }

    #[test]
    fn no_text_is_too_much(text in "\\PC{0,60}", path in "[a-z*/\\[]{0,30}") {
        if let Ok(patterns) = Patterns::read(&text) {
            leaves_out(&patterns, &path);
            patterns.may_take_in_below(&path);
        }
    }

    #[test]
    fn cleaning_is_idempotent(path in "[a./]{0,12}") {
        let cleaned = clean(&path);
        prop_assert_eq!(clean(&cleaned), cleaned);
    }
}
