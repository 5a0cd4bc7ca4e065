//! Images of Debian's nginx that differ in what they answer, one for each version.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ews_core::Digest;

/// Where what a version answers stands in an instance; nginx reads it when it starts and when it is told to.
pub(crate) const ANSWER: &str = "/etc/nginx/answer.conf";

/// What the program of a version does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// It serves.
    Good,
    /// It ends at its start.
    Exits,
    /// It serves, and says for ever that it is not ready.
    NeverReady,
    /// It is ready, and answers 500 to two of five requests.
    Sick,
}

/// The `docker` command on this engine: what it prints.
///
/// # Panics
/// Where it fails.
pub(crate) fn docker(host: &str, arguments: &[&str]) -> String {
    let output =
        Command::new("docker").args(["-H", host]).args(arguments).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "docker {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Builds a version on an engine: its id there.
pub(crate) fn build(host: &str, name: &str, version: &str, behaviour: Behaviour) -> Digest {
    let folder = tempfile::tempdir().unwrap();
    lay_out(folder.path(), version, behaviour).unwrap();
    let id = docker(host, &["build", "-q", "-t", name, folder.path().to_str().unwrap()]);
    id.lines().last().unwrap().parse().unwrap()
}

/// Debian's nginx with what it links to, its configuration, and what the version answers.
fn lay_out(folder: &Path, version: &str, behaviour: Behaviour) -> std::io::Result<()> {
    let program = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().map(Path::new).find(|path| path.exists());
    let program = program.expect("this test needs nginx: apt-get install nginx-light");
    let linked = Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&linked.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    let root = folder.join("root");
    for file in libraries.chain([program.to_owned()]) {
        let to = root.join(file.strip_prefix("/").unwrap());
        std::fs::create_dir_all(to.parent().unwrap())?;
        std::fs::copy(&file, to)?;
    }
    // Debian's own shape: the loader is looked for in /lib64, and found in /usr.
    for directory in ["lib", "lib64"] {
        let (usr, top) = (root.join("usr").join(directory), root.join(directory));
        if usr.is_dir() && !top.exists() {
            symlink(Path::new("usr").join(directory), top)?;
        }
    }
    // What is mounted over a directory of the image gets that directory's mode, and nginx does not run as root.
    std::fs::create_dir_all(root.join("tmp"))?;
    std::fs::set_permissions(root.join("tmp"), std::fs::Permissions::from_mode(0o1777))?;
    std::fs::create_dir_all(root.join("www"))?;
    std::fs::write(root.join("www/slow"), vec![b'x'; 50_000])?;
    let own = folder.join("own/etc/nginx");
    std::fs::create_dir_all(&own)?;
    std::fs::write(own.join("nginx.conf"), configuration(behaviour))?;
    std::fs::write(own.join("answer.conf"), answer(version, behaviour))?;
    let program = program.display();
    let dockerfile = format!(
        "FROM scratch\nCOPY root /\nCOPY own /\nENTRYPOINT [\"{program}\", \"-c\", \"/etc/nginx/nginx.conf\"]\n"
    );
    std::fs::write(folder.join("Dockerfile"), dockerfile)
}

fn configuration(behaviour: Behaviour) -> String {
    let broken = if behaviour == Behaviour::Exits { "column_price on;\n" } else { "" };
    let ready = if behaviour == Behaviour::NeverReady { "return 503" } else { "return 200" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path /tmp/{kind};\n"))
        .collect();
    format!(
        "daemon off;\nworker_processes 1;\nerror_log stderr notice;\npid /tmp/nginx.pid;\nevents {{ }}\n{broken}http {{\naccess_log off;\n\
         {temporary}split_clients \"$request_id\" $sick {{ 40% 1; * 0; }}\nserver {{\nlisten 8080;\nroot /www;\n\
         location = /ready {{ {ready}; }}\nlocation = /slow {{ limit_rate 40k; }}\nlocation = / {{ include {ANSWER}; }}\n}}\n}}\n"
    )
}

/// What a version answers, as its file says it.
pub(crate) fn answer(version: &str, behaviour: Behaviour) -> String {
    let sick = if behaviour == Behaviour::Sick {
        format!("if ($sick) {{ return 500 {}; }}\n", crate::load::SICK)
    } else {
        String::new()
    };
    format!("{sick}return 200 \"{version}\\n\";\n")
}
