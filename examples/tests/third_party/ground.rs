//! What programs run on: processes of this machine, or containers of an engine, each with the versions that are laid out for it.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use ews_core::process::{ProcessConfig, ProcessRuntime, ShimProgram};
use ews_core::spec::content::EnvValue;
use ews_core::spec::network::{Port, Publish};
use ews_core::spec::probe::Probe;
use ews_core::spec::resources::ByteSize;
use ews_core::spec::source::{ArtifactSource, ImagePin, ImageSource, PullPolicy};
use ews_core::spec::storage::{Mount, MountKind};
use ews_core::{Labels, PortName, Runtime, ServiceSpec, Source};
use ews_docker::{DockerConfig, DockerRuntime};

use crate::image::{DATA, NOBODY, docker, import};
use crate::program::Program;

/// The port of every program in its container.
const PORT: u16 = 8080;

/// The first of the ports that no runtime of this process has yet; runs side by side begin at different places.
static NEXT: AtomicU16 = AtomicU16::new(24_000);

pub(crate) struct Ground {
    program: Arc<dyn Program>,
    pub(crate) runtime: Arc<dyn Runtime>,
    /// A word that no other test has: the owner's name, and that of its images.
    pub(crate) word: String,
    folder: tempfile::TempDir,
    engine: Option<Engine>,
}

struct Engine {
    host: String,
    id: String,
    images: Vec<String>,
}

impl Ground {
    pub(crate) async fn processes(program: &Arc<dyn Program>) -> Self {
        let folder = folder();
        let shim = ShimProgram::Path(env!("CARGO_BIN_EXE_quickstart").into());
        // Runtimes side by side that know nothing of each other would allot the same ports.
        let first = NEXT.fetch_add(100, Ordering::Relaxed) + (std::process::id() % 8) as u16 * 1_000;
        let config = ProcessConfig::new(folder.path().join("runtime")).with_shim(shim);
        let config = config.with_ports(first..=first + 99).unwrap();
        let runtime = Arc::new(ProcessRuntime::open(config).await.unwrap());
        let data = folder.path().join("data");
        fs::create_dir(&data).unwrap();
        if is_root() {
            std::os::unix::fs::chown(&data, Some(NOBODY as u32), Some(NOBODY as u32)).unwrap();
        }
        Self { program: Arc::clone(program), runtime, word: word(program, "p"), folder, engine: None }
    }

    /// `None`, said aloud, where no engine answers.
    pub(crate) async fn docker(program: &Arc<dyn Program>) -> Option<Self> {
        let config = DockerConfig::from_env().unwrap();
        let host = config.address.to_string();
        let runtime = match DockerRuntime::connect(config).await {
            Ok(runtime) => runtime,
            Err(error) => {
                let required = std::env::var("EWS_TEST_DOCKER").is_ok_and(|value| value == "required");
                assert!(!required, "EWS_TEST_DOCKER=required, and no engine answers: {error}");
                println!("skipped: no Docker Engine answers: {error}");
                return None;
            }
        };
        if std::env::var("EWS_TEST_PUBLISHED").is_ok_and(|value| value == "unreachable") {
            println!("skipped, as EWS_TEST_PUBLISHED=unreachable says");
            return None;
        }
        let word = word(program, "d");
        let base = format!("{word}:base");
        import(&host, &base, &program.parts());
        let engine = Engine { host, id: runtime.engine_id().to_owned(), images: vec![base] };
        let (program, runtime, folder) = (Arc::clone(program), Arc::new(runtime), folder());
        Some(Self { program, runtime, word, folder, engine: Some(engine) })
    }

    /// Lays a version out: the service that runs it.
    pub(crate) fn version(&mut self, version: &str) -> ServiceSpec {
        let tree = self.folder.path().join(version).join("own");
        for (path, content) in self.program.files(version) {
            let to = tree.join(path.trim_start_matches('/'));
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::write(to, content).unwrap();
        }
        let source = match &mut self.engine {
            None => Source::Artifact(ArtifactSource::new(tree.to_str().unwrap())),
            Some(engine) => Source::Image(engine.build(&self.word, version, tree.parent().unwrap())),
        };
        let on_docker = self.engine.is_some();
        let mut spec = ServiceSpec::new(self.program.name().parse().unwrap(), source);
        spec.replicas = if self.program.keeps_data() { 1 } else { 2 };
        spec.restart.delay = Duration::from_millis(200);
        let instance = &mut spec.instance;
        instance.labels = Labels::new([("version", version)]).unwrap();
        instance.command = ["/bin/sh", "-c", &self.program.start()].map(str::to_owned).to_vec();
        let mut readiness = Probe::new(self.program.check());
        readiness.interval = Duration::from_millis(250);
        instance.probes.readiness = Some(readiness);
        let mut main = Port::new(PortName::new("main").unwrap(), on_docker.then_some(PORT));
        main.publish = on_docker.then(Publish::default);
        instance.ports = vec![main];
        let mut env = vec![("BIND".to_owned(), if on_docker { "0.0.0.0" } else { "127.0.0.1" }.to_owned())];
        if on_docker {
            env.push(("PORT".to_owned(), PORT.to_string()));
            instance.user = Some(format!("{NOBODY}:{NOBODY}"));
            instance.mounts.push(Mount::new("/tmp", MountKind::Tmpfs(ByteSize::from_mib(64))));
        } else if is_root() {
            instance.user = Some("nobody".to_owned());
        }
        for (name, number) in self.program.more_ports().iter().zip(PORT + 1..) {
            instance.ports.push(Port::new(PortName::new(*name).unwrap(), on_docker.then_some(number)));
            if on_docker {
                env.push((format!("PORT_{}", name.to_uppercase()), number.to_string()));
            }
        }
        if self.program.keeps_data() {
            let data = if on_docker { DATA.into() } else { self.folder.path().join("data") };
            env.push(("DATA".to_owned(), data.join("main").to_str().unwrap().to_owned()));
            if on_docker {
                instance.mounts.push(Mount::new(DATA, MountKind::Volume(self.word.parse().unwrap())));
            }
        }
        instance.env.extend(env.into_iter().map(|(name, value)| (name, EnvValue::Plain(value))));
        self.program.refine(instance);
        spec
    }

    /// What is left of instances: processes, directories, containers.
    pub(crate) fn left(&self) -> Vec<String> {
        let Some(engine) = &self.engine else {
            let instances = fs::read_dir(self.folder.path().join("runtime/instances")).unwrap();
            let paths = instances.map(|entry| entry.unwrap().path().display().to_string());
            return paths.chain(self.processes_here()).collect();
        };
        engine.containers(&self.word)
    }

    /// The processes whose place or environment is in the folder: nothing else tells programs that know nothing of us.
    fn processes_here(&self) -> Vec<String> {
        let here = self.folder.path();
        let bytes = here.as_os_str().as_encoded_bytes();
        let is_ours = |process: &Path| {
            let place = fs::read_link(process.join("cwd")).is_ok_and(|place| place.starts_with(here));
            let named = |environment: Vec<u8>| environment.windows(bytes.len()).any(|part| part == bytes);
            place || fs::read(process.join("environ")).is_ok_and(named)
        };
        let processes = fs::read_dir("/proc").unwrap().filter_map(|entry| Some(entry.ok()?.path()));
        let numbers = processes.filter(|path| is_ours(path)).filter_map(|path| number(&path));
        numbers.collect()
    }

    /// Removes the images and, where there were data, the volume, which has to be there still.
    pub(crate) fn end(mut self) {
        if let Some(engine) = self.engine.take() {
            if self.program.keeps_data() {
                engine.docker(&["volume", "rm", &self.word]);
            }
            for image in engine.images.iter().rev() {
                engine.docker(&["rmi", "-f", image]);
            }
        } else if self.program.keeps_data() {
            assert!(self.folder.path().join("data/main/PG_VERSION").exists(), "data outlive instances");
        }
    }
}

/// What a test that fails leaves behind.
impl Drop for Ground {
    fn drop(&mut self) {
        let quietly = |program: &str, arguments: &[&str]| {
            let mut command = Command::new(program);
            let _ = command.args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
        };
        match &self.engine {
            Some(engine) => {
                // Nothing here fails the test again: a panic while another is under way would hide it.
                for container in engine.listed(&self.word).unwrap_or_default() {
                    quietly("docker", &["-H", &engine.host, "rm", "-f", "-v", &container]);
                }
                quietly("docker", &["-H", &engine.host, "volume", "rm", &self.word]);
                for image in engine.images.iter().rev() {
                    quietly("docker", &["-H", &engine.host, "rmi", "-f", image]);
                }
            }
            None => self.processes_here().iter().for_each(|pid| quietly("kill", &["-KILL", pid])),
        }
    }
}

impl Engine {
    fn docker(&self, arguments: &[&str]) -> String {
        docker(&self.host, arguments)
    }

    fn containers(&self, word: &str) -> Vec<String> {
        self.listed(word).expect("the engine lists its containers")
    }

    fn listed(&self, word: &str) -> Option<Vec<String>> {
        let filter = format!("label=ews.owner={word}");
        let mut command = Command::new("docker");
        command.args(["-H", &self.host, "ps", "-aq", "--filter", &filter]).stdin(Stdio::null());
        let output = command.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
    }

    /// Lays the tree `own` of this folder over the base.
    fn build(&mut self, word: &str, version: &str, folder: &Path) -> ImageSource {
        fs::write(folder.join("Dockerfile"), format!("FROM {word}:base\nCOPY own /\nWORKDIR /\n")).unwrap();
        let name = format!("{word}:{version}");
        let built = self.docker(&["build", "-q", "-t", &name, folder.to_str().unwrap()]);
        let image_id = built.lines().last().unwrap().parse().unwrap();
        let mut image = ImageSource::new(name.parse().unwrap());
        image.pin = Some(ImagePin::Local { engine: self.id.clone(), image_id });
        image.pull = PullPolicy::Never;
        self.images.push(name);
        image
    }
}

fn word(program: &Arc<dyn Program>, ground: &str) -> String {
    format!("third-{}-{ground}{}", program.name(), std::process::id())
}

/// A folder that other users may pass through, as a program's own user must.
fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

fn is_root() -> bool {
    fs::metadata("/proc/self").unwrap().uid() == 0
}

fn number(process: &Path) -> Option<String> {
    let name = process.file_name()?.to_str()?;
    name.bytes().all(|byte| byte.is_ascii_digit()).then(|| name.to_owned())
}
