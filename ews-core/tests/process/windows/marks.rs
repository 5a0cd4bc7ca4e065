//! Which processes carry a mark. Nobody can read another process's environment here, so a program that finds `EWS_MARK` in its own
//! keeps a file open that nobody else can open meanwhile: the system closes it when the program ends, however that comes.

use std::fs::{self, File, OpenOptions};
use std::os::windows::fs::OpenOptionsExt as _;
use std::path::PathBuf;

/// Beside this program, which all that look for marks are.
fn folder() -> PathBuf {
    std::env::current_exe().unwrap().with_file_name("process-windows-marks")
}

fn alone(create: bool) -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(create).share_mode(0);
    options
}

/// Carries the mark of the environment for as long as the file is kept.
pub(super) fn carry() -> Option<File> {
    let folder = folder().join(std::env::var("EWS_MARK").ok()?);
    fs::create_dir_all(&folder).unwrap();
    Some(alone(true).open(folder.join(std::process::id().to_string())).unwrap())
}

/// How many processes carry this mark.
pub(super) fn count(mark: &str) -> usize {
    let files = fs::read_dir(folder().join(mark)).into_iter().flatten().flatten();
    files.filter(|file| alone(false).open(file.path()).is_err()).count()
}

/// Takes away the files of all marks.
pub(super) fn remove_all() {
    let _ = fs::remove_dir_all(folder());
}
