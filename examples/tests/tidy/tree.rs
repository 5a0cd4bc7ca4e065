//! The files of the source tree, found by walking it.

use std::io;
use std::path::Path;

/// A text file: its path from the top with `/` between the parts, and what it holds.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All text files, sorted by path. What cargo builds, what git keeps for itself and caches are skipped, and so is a
/// file that is not UTF-8.
pub(crate) fn files() -> io::Result<Vec<File>> {
    let mut files = Vec::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), "", &mut files)?;
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn walk(folder: &Path, prefix: &str, files: &mut Vec<File>) -> io::Result<()> {
    for entry in folder.read_dir()? {
        let entry = entry?;
        // A name that is not text names nothing that the rules read.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let path = format!("{prefix}{name}");
        if is_skipped(&path) {
            continue;
        }
        let kind = entry.file_type()?;
        if kind.is_dir() {
            walk(&entry.path(), &format!("{path}/"), files)?;
        } else if kind.is_file() {
            match std::fs::read_to_string(entry.path()) {
                Ok(text) => files.push(File { path, text }),
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// What .gitignore names at the top and in `fuzz`, and git's own folder (a file, in a worktree).
fn is_skipped(path: &str) -> bool {
    let built = path.starts_with("target") && !path.contains('/');
    let fuzzed = ["fuzz/target", "fuzz/corpus", "fuzz/artifacts", "fuzz/coverage"].contains(&path);
    built || fuzzed || path == ".git" || path == ".cache"
}

#[test]
fn built_folders_are_skipped_and_others_are_not() {
    for skipped in ["target", "target-windows", "fuzz/target", ".git", ".cache"] {
        assert!(is_skipped(skipped), "{skipped}");
    }
    for walked in ["ews-core/src/target", ".ci", ".gitignore", "cache"] {
        assert!(!is_skipped(walked), "{walked}");
    }
}
