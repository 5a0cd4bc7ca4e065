//! Images of what is installed here: files and directories of Debian's packages, what they link to, and a shell, on nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read as _, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tar::{Builder, EntryType, Header};

/// Whoever a program is in its container.
pub(crate) const NOBODY: u64 = 65_534;
/// What is mounted here outlives a container, and belongs to [`NOBODY`].
pub(crate) const DATA: &str = "/data";

/// What nobody runs, by far the most of what a package of a language holds.
const LEFT_OUT: [&str; 8] =
    ["test", "idlelib", "ensurepip", "__pycache__", "dist-packages", "ct.sym", "src.zip", "man"];

/// The `docker` command on an engine: what it prints.
///
/// # Panics
/// Where it fails.
pub(crate) fn docker(host: &str, arguments: &[&str]) -> String {
    let output =
        Command::new("docker").args(["-H", host]).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Makes an image of one layer that holds these files and directories of this machine.
pub(crate) fn import(host: &str, name: &str, parts: &[PathBuf]) {
    let mut import = Command::new("docker")
        .args(["-H", host, "import", "-", name])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let written = pack(import.stdin.take().unwrap(), parts);
    assert!(import.wait().unwrap().success(), "docker import of {name}");
    written.unwrap();
}

fn pack(into: impl Write, parts: &[PathBuf]) -> io::Result<()> {
    let mut found = BTreeSet::new();
    for part in parts.iter().map(PathBuf::as_path).chain([Path::new("/bin/dash"), Path::new("/bin/sh")]) {
        gather(part, &mut found)?;
    }
    for library in linked(&found)? {
        gather(&library, &mut found)?;
    }
    let mut archive = Builder::new(io::BufWriter::new(into));
    archive.follow_symlinks(false);
    // Debian's own shape: the loader is looked for in /lib64, and found in /usr.
    for top in ["bin", "lib", "lib64", "sbin"] {
        if let Ok(target) = fs::read_link(Path::new("/").join(top)) {
            archive.append_link(&mut header(EntryType::Symlink, 0o777, 0), top, target)?;
        }
    }
    let mut directories = BTreeMap::from([(PathBuf::from("tmp"), (0o1777, 0))]);
    directories.insert(DATA.trim_start_matches('/').into(), (0o700, NOBODY));
    for directory in found.iter().chain([&PathBuf::from("/etc/x")]).flat_map(|path| path.ancestors().skip(1))
    {
        let name = directory.strip_prefix("/").unwrap();
        if !name.as_os_str().is_empty() {
            directories.entry(name.to_owned()).or_insert((0o755, 0));
        }
    }
    for (name, (mode, owner)) in directories {
        archive.append_data(&mut header(EntryType::Directory, mode, owner), name, io::empty())?;
    }
    for path in found {
        archive.append_path_with_name(&path, path.strip_prefix("/").unwrap())?;
    }
    for (name, text) in [
        ("etc/passwd", format!("nobody:x:{NOBODY}:{NOBODY}:nobody:/tmp:/bin/sh\n")),
        ("etc/group", format!("nogroup:x:{NOBODY}:\n")),
    ] {
        let mut header = header(EntryType::Regular, 0o644, 0);
        header.set_size(text.len() as u64);
        archive.append_data(&mut header, name, text.as_bytes())?;
    }
    archive.into_inner()?.flush()
}

fn header(kind: EntryType, mode: u32, owner: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(0);
    header.set_mode(mode);
    header.set_uid(owner);
    header.set_gid(owner);
    header
}

/// The files at a path and below it, by their true places; what a link points to comes with the link.
fn gather(path: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let name = path.file_name().unwrap();
    if LEFT_OUT.iter().any(|left_out| name == *left_out) {
        return Ok(());
    }
    let place = path.parent().unwrap().canonicalize()?.join(name);
    let kind = place.symlink_metadata()?.file_type();
    if kind.is_dir() {
        for entry in fs::read_dir(&place)? {
            gather(&entry?.path(), found)?;
        }
    } else if kind.is_symlink() {
        // Some lead to packages that are not installed.
        if let Ok(target) = place.canonicalize()
            && found.insert(place)
        {
            gather(&target, found)?;
        }
    } else if kind.is_file() {
        found.insert(place);
    }
    Ok(())
}

/// The libraries that these link to.
fn linked(files: &BTreeSet<PathBuf>) -> io::Result<BTreeSet<PathBuf>> {
    let is_program = |path: &&PathBuf| {
        let mut magic = [0; 4];
        let read = fs::File::open(path).and_then(|mut file| file.read_exact(&mut magic));
        read.is_ok() && magic == *b"\x7fELF"
    };
    let output = Command::new("ldd").args(files.iter().filter(is_program)).stderr(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // A line that ends with a colon names the file that the next ones are about.
    let lines = text.lines().filter(|line| !line.ends_with(':'));
    let libraries = lines.flat_map(str::split_whitespace).filter(|word| word.starts_with('/'));
    Ok(libraries.map(PathBuf::from).collect())
}
