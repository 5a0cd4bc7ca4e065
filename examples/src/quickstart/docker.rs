//! The tour's ground on Docker: containers of Debian's nginx, in images that the tour builds, pushes to a registry of its own, and
//! pulls from there.
//!
//! `quickstart --runtime docker` needs an engine on this machine, and the Debian packages `nginx-light` and `docker-registry`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use ews_core::image::{BuildSpec, ImageStore as _, Progress, ProgressStream, PruneOptions};
use ews_core::runtime::{RemoveOptions, Runtime};
use ews_core::spec::lifecycle::Signal;
use ews_core::spec::network::{NetworkAttachment, Port, Publish};
use ews_core::spec::resources::{ByteSize, Cpu};
use ews_core::spec::source::{ImagePin, ImageSource, PullPolicy, Source};
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::{
    Digest, Error, ErrorKind, ImageRef, InstanceState, NetworkName, PortName, Result, Selector, ServiceSpec,
};
use ews_docker::{DockerConfig, DockerImages, DockerRuntime};
use futures_util::StreamExt as _;
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::time::{Duration, Instant, sleep};

use super::report::Report;
use super::{OWNER, PATIENCE, service};

/// What the presenter writes down for the controller: `Laid`.
const IMAGES: &str = "images.json";
/// The port that nginx listens on in its container.
const PORT: u16 = 8080;
/// The file that nginx answers with.
pub(super) const TEXT: &str = "/srv/text";
/// A service, a version of it, and what it calls.
pub(super) type Wanted = (&'static str, &'static str, Option<&'static str>);

/// The services and versions that the tour deploys.
pub(super) const OF_THE_TOUR: [Wanted; 11] = [
    ("hello", "v1", None),
    ("hello", "v2", None),
    ("hello", service::BROKEN, None),
    ("hello", "v4", None),
    ("hello", service::SICKLY, None),
    ("hello", "v6", None),
    ("stock", "v1", None),
    ("stock", "v2", None),
    ("basket", "v1", Some("stock")),
    ("basket", service::BROKEN, Some("stock")),
    ("front", "v1", Some("basket")),
];

/// The same for a soak, whose versions come round and round.
pub(super) const OF_THE_SOAK: [Wanted; 12] = [
    ("hello", "v1", None),
    ("hello", "u1", None),
    ("hello", "u2", None),
    ("hello", "u3", None),
    ("hello", service::BROKEN, None),
    ("stock", "v1", None),
    ("stock", "v2", None),
    ("basket", "b1", Some("stock")),
    ("basket", "b2", Some("stock")),
    ("basket", "b3", Some("stock")),
    ("basket", service::BROKEN, Some("stock")),
    ("front", "v1", Some("basket")),
];

/// What the controller is told of the images.
#[derive(Serialize, Deserialize)]
struct Laid {
    /// Whether containers are reached by a port of this machine, or on their own network.
    published: bool,
    /// Name and digest of each service's version.
    images: BTreeMap<String, (String, String)>,
}

/// The engine, with a registry beside it.
pub(super) struct Docker {
    runtime: DockerRuntime,
    store: DockerImages,
    registry: Option<Child>,
}

impl Docker {
    /// Connects, and removes what a tour that broke off has left.
    pub(super) async fn connect() -> Result<Self> {
        let config = DockerConfig::from_env()?;
        let runtime = DockerRuntime::connect(config.clone()).await?;
        let store = DockerImages::connect(config).await?;
        let docker = Self { runtime, store, registry: None };
        docker.remove_all().await?;
        Ok(docker)
    }

    /// Builds every version, pushes it, and removes it from the engine, so that it comes back from the registry alone.
    pub(super) async fn prepare(
        &mut self,
        root: &Path,
        report: &mut Report,
        wanted: &[Wanted],
        published: bool,
    ) -> Result<()> {
        report.step("images", "Debian's nginx in four services, through a registry of our own");
        let node = self.runtime.nodes().await?;
        let engine = node.first().map_or("none", |node| node.engine.as_str());
        report.show(&format!("the engine is {engine}"));
        let port = self.start_registry(root).await?;
        let mut images = BTreeMap::new();
        for &(service, version, calls) in wanted {
            let name: ImageRef = format!("127.0.0.1:{port}/ews-quickstart/{service}:{version}").parse()?;
            let folder = root.join("context").join(service).join(version);
            lay_out(&folder, service, version, calls)
                .map_err(|error| Error::internal("the build context can't be made").with_source(error))?;
            let mut spec = BuildSpec::new(name.clone());
            spec.labels.insert("ews.owner".to_owned(), OWNER.to_owned());
            let context = ews_docker::images::context(&folder, &spec.dockerfile)?;
            let (built, _) = finished(self.store.build(&spec, context).await?).await?;
            let (_, pushed) = finished(self.store.push(&name).await?).await?;
            let digest =
                pushed.ok_or_else(|| Error::internal("a push ended without the manifest's digest"))?;
            report.show(&format!("{service} {version} is {}", digest.short()));
            images.insert(format!("{service}:{version}"), (name.to_string(), digest.to_string()));
            report.check(&format!("{service} {version} was built"), built.is_some());
        }
        let removed = self.store.prune(&ours(OWNER)?).await?.len();
        report.check("no version is on the engine before it is deployed", removed == wanted.len());
        let text = serde_json::to_string(&Laid { published, images })
            .map_err(|error| Error::internal("the images can't be written down").with_source(error))?;
        std::fs::write(root.join(IMAGES), text)
            .map_err(|error| Error::internal("the images can't be written down").with_source(error))
    }

    async fn start_registry(&mut self, root: &Path) -> Result<u16> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .and_then(|listener| listener.local_addr())
            .map_err(|error| Error::internal("no port is free").with_source(error))?
            .port();
        let data = root.join("registry");
        let config = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"127.0.0.1:{port}\"}}\n",
            data.display()
        );
        let file = root.join("registry.yml");
        std::fs::write(&file, config)
            .map_err(|error| Error::internal("the registry can't be set up").with_source(error))?;
        let started = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn();
        self.registry = Some(started.map_err(|error| missing("docker-registry").with_source(error))?);
        let until = Instant::now() + PATIENCE;
        while tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_err() {
            if Instant::now() > until {
                return Err(Error::new(ErrorKind::Timeout, "the registry does not listen"));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(port)
    }

    /// SIGKILL to the engine whose process id stands in this file, and waits for the one that its supervisor starts.
    pub(super) async fn kill_engine(&self, pid_file: &Path) -> Result<()> {
        let unreadable = |error| Error::internal("the engine's process id can't be read").with_source(error);
        let before = std::fs::read_to_string(pid_file).map_err(unreadable)?;
        let killed = Command::new("kill").args(["-9", before.trim()]).status().await;
        if !killed.is_ok_and(|status| status.success()) {
            return Err(Error::internal("the engine can't be killed"));
        }
        let until = Instant::now() + PATIENCE * 2;
        loop {
            let another = std::fs::read_to_string(pid_file).is_ok_and(|now| now != before);
            if another && self.runtime.nodes().await.is_ok() {
                return Ok(());
            }
            if Instant::now() > until {
                return Err(Error::new(ErrorKind::Timeout, "nobody starts the engine again"));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// SIGKILL to one instance's program.
    pub(super) async fn kill_one(&self) -> Result<bool> {
        let running =
            self.instances().await?.into_iter().find(|instance| instance.state == InstanceState::Running);
        let Some(victim) = running else { return Ok(false) };
        self.runtime.signal(&victim.id, Signal::KILL).await?;
        Ok(true)
    }

    async fn instances(&self) -> Result<Vec<ews_core::Instance>> {
        self.runtime.list(&Selector::equal("ews/owner", OWNER)?).await
    }

    /// Nothing of ours is left, once images and networks are removed too.
    pub(super) async fn clean_end(&mut self, report: &mut Report) -> Result<()> {
        report.check("no container is left", self.instances().await?.is_empty());
        let pruned = self.runtime.prune_with_volumes(&OWNER.parse()?).await?;
        // A soak that happens to deploy no release has no network of one.
        report.show(&format!("networks removed: {}", pruned.networks.join(", ")));
        for kept in &pruned.kept {
            report.show(&format!("network or volume kept: {}: {}", kept.name, kept.reason));
        }
        let had_one = pruned.networks.iter().any(|network| network == "ews-quickstart");
        report.check("no network is left", had_one && pruned.kept.is_empty());
        let removed = self.store.prune(&ours(OWNER)?).await?;
        report.show(&format!("images removed: {}", removed.len()));
        let left = self.store.list(&Selector::equal("ews.owner", OWNER)?).await?;
        report.check("no image is left", left.is_empty());
        if let Some(mut registry) = self.registry.take() {
            let _ = registry.kill().await;
        }
        Ok(())
    }

    /// After a failure, and before a beginning.
    pub(super) async fn remove_all(&self) -> Result<()> {
        for instance in self.instances().await? {
            self.runtime.remove(&instance.id, &RemoveOptions::force()).await?;
        }
        self.runtime.prune_with_volumes(&OWNER.parse()?).await?;
        self.store.prune(&ours(OWNER)?).await?;
        Ok(())
    }
}

fn ours(owner: &str) -> Result<PruneOptions> {
    let mut options = PruneOptions::default();
    options.labels = Some(Selector::equal("ews.owner", owner)?);
    Ok(options)
}

fn missing(package: &str) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("this tour needs `{package}`: apt-get install nginx-light docker-registry"),
    )
}

/// Takes a stream to its end: the image's id, and the manifest's digest.
async fn finished(mut progress: ProgressStream) -> Result<(Option<Digest>, Option<Digest>)> {
    while let Some(step) = progress.next().await {
        if let Progress::Done { image, manifest } = step? {
            return Ok((image, manifest));
        }
    }
    Err(Error::internal("the engine stopped without an end"))
}

/// The files of an image: Debian's nginx, what it links to, and a configuration that says its version. The broken version's has a word that
/// nginx does not know.
fn lay_out(folder: &Path, service: &str, version: &str, calls: Option<&str>) -> std::io::Result<()> {
    let program = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().map(Path::new).find(|path| path.exists());
    let program =
        program.ok_or_else(|| std::io::Error::other(missing("nginx-light").message().to_owned()))?;
    let linked = std::process::Command::new("ldd").arg(program).output()?;
    let text = String::from_utf8_lossy(&linked.stdout).into_owned();
    let libraries = text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for file in libraries.chain([program.to_owned()]) {
        let to = folder.join("root").join(file.strip_prefix("/").unwrap_or(&file));
        if let Some(parent) = to.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::copy(&file, to)?;
    }
    // Debian's own shape: the loader is looked for in /lib64, and found in /usr.
    for directory in ["lib", "lib64"] {
        let (usr, top) = (folder.join("root/usr").join(directory), folder.join("root").join(directory));
        if usr.is_dir() && !top.exists() {
            symlink(Path::new("usr").join(directory), top)?;
        }
    }
    std::fs::create_dir_all(folder.join("root/etc/nginx"))?;
    // Memory that is mounted over a directory of the image gets that directory's mode, and nginx does not run as root.
    let tmp = folder.join("root/tmp");
    std::fs::create_dir_all(&tmp)?;
    std::fs::set_permissions(&tmp, std::fs::Permissions::from_mode(0o1777))?;
    std::fs::write(folder.join("root/etc/nginx/nginx.conf"), configuration(version, calls))?;
    std::fs::create_dir_all(folder.join("root/srv"))?;
    std::fs::write(folder.join("root").join(TEXT.trim_start_matches('/')), format!("{service} {version}\n"))?;
    let program = program.display();
    let dockerfile =
        format!("FROM scratch\nCOPY root /\nENTRYPOINT [\"{program}\", \"-c\", \"/etc/nginx/nginx.conf\"]\n");
    std::fs::write(folder.join("Dockerfile"), dockerfile)
}

fn configuration(version: &str, calls: Option<&str>) -> String {
    let broken = if version == service::BROKEN { "column_price on;\n" } else { "" };
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|kind| format!("{kind}_temp_path /tmp/{kind};\n"))
        .collect();
    let answer = match calls {
        _ if version == service::SICKLY => "return 500 \"the basket has no price\\n\";".to_owned(),
        // The engine's own resolver, by a variable so that the name is asked for again.
        Some(next) => format!(
            "resolver 127.0.0.11 valid=1s ipv6=off; set $next http://{next}:{PORT}; proxy_pass $next;"
        ),
        None => "root /srv; try_files /text =404;".to_owned(),
    };
    format!(
        "daemon off;\nmaster_process off;\nerror_log stderr notice;\npid /tmp/nginx.pid;\nevents {{ }}\n{broken}http {{\naccess_log off;\ndefault_type text/plain;\n{temporary}\
         server {{\nlisten {PORT};\nlocation = /ready {{ return 200 \"ready\"; }}\nlocation / {{ {answer} }}\n}}\n}}\n"
    )
}

/// Whether the tour that this controller belongs to runs on Docker.
pub(super) fn is_ground_of(root: &Path) -> bool {
    root.join(IMAGES).exists()
}

/// The controller's runtime.
pub(super) async fn runtime() -> Result<Arc<dyn Runtime>> {
    Ok(Arc::new(DockerRuntime::connect(DockerConfig::from_env()?).await?))
}

/// The service in this version: nginx, with no more rights than it needs.
pub(super) fn spec(root: &Path, service: &str, version: &str) -> Result<ServiceSpec> {
    let unreadable = || Error::internal("the list of images can't be read");
    let text = std::fs::read_to_string(root.join(IMAGES)).map_err(|error| unreadable().with_source(error))?;
    let laid: Laid = serde_json::from_str(&text).map_err(|error| unreadable().with_source(error))?;
    let key = format!("{service}:{version}");
    let (name, digest) = laid.images.get(&key).ok_or_else(|| Error::not_found("version", &key))?;
    let mut image = ImageSource::new(name.parse()?);
    image.pin = Some(ImagePin::Manifest(digest.parse()?));
    image.pull = PullPolicy::IfMissing;
    let mut spec = ServiceSpec::new(service.parse()?, Source::Image(image));
    let mut port = Port::new(PortName::new("http")?, Some(PORT));
    port.publish = laid.published.then(Publish::default);
    let instance = &mut spec.instance;
    instance.ports = vec![port];
    instance.networks = vec![NetworkAttachment::new(NetworkName::new("ews-quickstart")?)];
    instance.mounts = vec![Mount::new("/tmp", MountKind::Tmpfs(ByteSize::from_mib(8)))];
    instance.resources.memory = Some(ByteSize::from_mib(64));
    instance.resources.cpu = Some(Cpu::from_millis(500));
    instance.resources.pids = Some(32);
    instance.user = Some("65534:65534".to_owned());
    // A hotfix replaces a file of the one; the others have no need of that.
    instance.security.read_only_root = service != "hello";
    instance.security.no_new_privileges = true;
    instance.security.drop_capabilities = vec!["ALL".to_owned()];
    // What nginx takes as "finish what you have begun".
    instance.stop.signal = Signal::QUIT;
    Ok(spec)
}
