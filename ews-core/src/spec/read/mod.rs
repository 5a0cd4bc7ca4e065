//! Reads a [`ServiceSpec`] or an [`InstanceSpec`] from a document's tree, and checks specs that programs built.
//!
//! Reading notes what can't be understood, puts a stand-in in its place and goes on; then the rules (`super::rules`) look at
//! the whole. A finding that could follow from a stand-in is dropped, so that one slip gives one problem.

mod content;
mod foreign;
mod health;
mod lifecycle;
mod network;
mod platform;
mod source;

use serde::{Deserialize, Deserializer};

pub(super) use self::platform::did_you_mean;
use super::rules;
use super::source::{ArtifactSource, ImageSource, Source};
use super::{InstanceSpec, ServiceSpec};
pub(super) use crate::document::walk::Quoted;
use crate::document::walk::{At, Fields, Sink};
use crate::document::{Format, Limits, Problems, Tree, read};
use crate::error::Error;
use crate::id::ServiceName;

const SERVICE: &str = "the service spec";
const INSTANCE: &str = "the instance spec";

impl ServiceSpec {
    /// Reads a document in this format; [`Limits::default`] holds.
    ///
    /// # Errors
    /// Every [`Problem`](crate::document::Problem) that could be found, or the one syntax error.
    ///
    /// ```
    /// use ews_core::spec::ServiceSpec;
    /// use ews_core::document::Format;
    ///
    /// let text = "name: web\nimage: registry.example/shop/web:1.2\nreplica: 3\nports: { http: 80800 }\n";
    /// let problems = ServiceSpec::from_document(text, Format::Yaml).unwrap_err();
    /// assert_eq!(
    ///     problems.iter().map(|p| p.to_string().split(';').next().unwrap().to_owned()).collect::<Vec<_>>(),
    ///     [
    ///         "replica (line 3, column 1): unknown field `replica`, did you mean `replicas`?".to_owned()
    ///             + " accepted: name, replicas, restart, placement, job, image, artifact, command, args, env, files, ports, \
    ///                mounts, networks, resources, ulimits, platform, probes, stop, log, security, devices, user, workdir, \
    ///                hostname, init, engine_restart, labels",
    ///         "ports.http (line 4, column 16): found the number 80800".to_owned(),
    ///     ]
    /// );
    /// ```
    pub fn from_document(text: &str, format: Format) -> Result<Self, Problems> {
        let tree = read(text, format, Limits::default())?;
        Self::from_tree(&tree, Some((text, format)))
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// As [`Self::from_document`].
    pub fn from_toml(text: &str) -> Result<Self, Problems> {
        Self::from_document(text, Format::Toml)
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// As [`Self::from_document`].
    pub fn from_json(text: &str) -> Result<Self, Problems> {
        Self::from_document(text, Format::Json)
    }

    /// Reads YAML.
    ///
    /// # Errors
    /// As [`Self::from_document`].
    pub fn from_yaml(text: &str) -> Result<Self, Problems> {
        Self::from_document(text, Format::Yaml)
    }

    /// Reads a tree; `source` is the text that the tree was read from and its format, so that problems get their line and
    /// column, and examples the right form.
    ///
    /// # Errors
    /// Every problem that could be found.
    pub fn from_tree(tree: &Tree, source: Option<(&str, Format)>) -> Result<Self, Problems> {
        let sink = Sink::new(source);
        let spec = service(&At::root(tree, &sink));
        if let Some(spec) = &spec {
            sink.add_findings(tree, rules::service(spec));
        }
        finish(sink, SERVICE, spec)
    }

    /// Checks a spec that a program built, by the rules that documents are checked by.
    ///
    /// # Errors
    /// Every problem that was found, by the paths that a document would have.
    pub fn check(&self) -> Result<(), Problems> {
        checked(rules::service(self), SERVICE)
    }
}

impl InstanceSpec {
    /// Checks a spec that a program built, by the rules that documents are checked by.
    ///
    /// # Errors
    /// Every problem that was found, by the paths that a document would have.
    pub fn check(&self) -> Result<(), Problems> {
        checked(rules::instance(self), INSTANCE)
    }
}

fn checked(findings: Vec<crate::document::walk::Finding>, what: &'static str) -> Result<(), Problems> {
    let problems = findings.into_iter().map(crate::document::walk::Finding::into_problem).collect();
    Problems::of(what, problems, 0).map_or(Ok(()), Err)
}

fn finish<T>(sink: Sink<'_>, what: &'static str, spec: Option<T>) -> Result<T, Problems> {
    sink.finish(what)?;
    // Only a stand-in that could not be made gives no spec without a problem, and stand-ins are constants.
    spec.ok_or_else(|| {
        let problem = crate::document::Problem::new(crate::document::Path::root(), "it could not be read");
        Problems::content(what, problem)
    })
}

impl<'de> Deserialize<'de> for ServiceSpec {
    /// Reads any self-describing format through the same checks as [`ServiceSpec::from_document`], so that a stored spec
    /// can't go around them.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tree = Tree::deserialize(deserializer)?;
        Self::from_tree(&tree, None).map_err(serde::de::Error::custom)
    }
}

impl<'de> Deserialize<'de> for InstanceSpec {
    /// Reads any self-describing format through the same checks as a service's document.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let tree = Tree::deserialize(deserializer)?;
        let sink = Sink::new(None);
        let at = At::root(&tree, &sink);
        let spec = at.table("a table of an instance's fields").and_then(|mut fields| {
            let spec = instance(&mut fields);
            fields.finish(foreign::service);
            spec
        });
        if let Some(spec) = &spec {
            sink.add_findings(&tree, rules::instance(spec));
        }
        finish(sink, INSTANCE, spec).map_err(serde::de::Error::custom)
    }
}

impl TryFrom<&Tree> for ServiceSpec {
    type Error = Error;
    fn try_from(tree: &Tree) -> Result<Self, Error> {
        Ok(Self::from_tree(tree, None)?)
    }
}

fn service(at: &At<'_>) -> Option<ServiceSpec> {
    if at.is_null() {
        at.fail("the document is empty; accepted: at least `name` and `image` or `artifact`");
        return None;
    }
    let mut fields =
        at.table("a table of a service's fields, such as `name` and `image`")?.also_called(&foreign::SERVICE);
    // Another tool's whole file is one mistake, not one for each of its fields.
    if let Some(key) =
        ["apiVersion", "services"].into_iter().find(|key| fields.has(key) && !fields.has("image"))
    {
        fields.only(key, foreign::service);
        return None;
    }
    let name = fields
        .required("name", "a name such as \"web\"")
        .and_then(|at| at.parsed::<ServiceName>("a name such as \"web\""));
    let replicas = fields
        .take("replicas")
        .and_then(|at| at.integer(0, ServiceSpec::MAX_REPLICAS.into()))
        .and_then(|n| u32::try_from(n).ok());
    let restart = fields.take("restart");
    let placement = fields.take("placement").map(|at| lifecycle::placement(&at)).unwrap_or_default();
    let job = fields.take_present("job").map(|at| lifecycle::job(&at));
    let is_job = fields.has("job");
    let instance = instance(&mut fields)?;
    fields.finish(foreign::service);
    Some(ServiceSpec {
        // A stand-in for a name that could not be read.
        name: name.or_else(|| ServiceName::new("unread").ok())?,
        replicas: replicas.unwrap_or(1),
        instance,
        restart: lifecycle::restart(restart.as_ref(), is_job),
        placement,
        job,
    })
}

fn instance(fields: &mut Fields<'_>) -> Option<InstanceSpec> {
    // What could not be read is a stand-in; its problem is noted.
    let stand_in = if fields.has("artifact") {
        Source::Artifact(ArtifactSource::new("/unread"))
    } else {
        Source::Image(ImageSource::new("unread".parse().ok()?))
    };
    let source = source::source(fields).unwrap_or(stand_in);
    let mut spec = InstanceSpec::new(source);
    let words = |at: Option<At<'_>>, field| at.map(|at| content::words(&at, field)).unwrap_or_default();
    spec.command = words(fields.take("command"), "command");
    spec.args = words(fields.take("args"), "args");
    spec.env = fields.take("env").map(|at| content::env(&at)).unwrap_or_default();
    spec.files = fields.take("files").map(|at| content::files(&at)).unwrap_or_default();
    spec.ports = fields.take("ports").and_then(|at| network::ports(&at)).unwrap_or_default();
    spec.mounts = fields.take("mounts").and_then(|at| content::mounts(&at)).unwrap_or_default();
    spec.networks = fields.take("networks").and_then(|at| network::networks(&at)).unwrap_or_default();
    spec.resources = fields.take("resources").map(|at| platform::resources(&at)).unwrap_or_default();
    spec.ulimits = fields.take("ulimits").map(|at| platform::ulimits(&at)).unwrap_or_default();
    spec.platform = fields.take("platform").map(|at| platform::platform(&at)).unwrap_or_default();
    spec.probes = fields.take("probes").map(|at| health::probes(&at, &spec.ports)).unwrap_or_default();
    spec.stop = fields.take("stop").map(|at| lifecycle::stop(&at)).unwrap_or_default();
    spec.log = fields.take("log").map(|at| lifecycle::log(&at)).unwrap_or_default();
    spec.security = fields.take("security").map(|at| platform::security(&at)).unwrap_or_default();
    spec.devices = fields.take("devices").map(|at| platform::devices(&at)).unwrap_or_default();
    spec.user = fields.take("user").and_then(|at| at.word("a user such as \"app\" or \"1000:1000\""));
    spec.workdir = fields.take("workdir").and_then(|at| at.text("an absolute path").map(str::to_owned));
    spec.hostname = fields.take("hostname").and_then(|at| at.text("a host name").map(str::to_owned));
    spec.init = fields.take("init").and_then(|at| at.boolean()).unwrap_or_default();
    spec.engine_restart =
        fields.take("engine_restart").and_then(|at| lifecycle::engine_restart(&at)).unwrap_or_default();
    spec.labels = fields.take("labels").map(|at| content::labels(&at)).unwrap_or_default();
    Some(spec)
}
