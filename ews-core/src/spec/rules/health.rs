//! Rules of probes.

use std::time::Duration;

use super::{FAILURES, Rules, SUCCESSES, field};
use crate::document::Path;
use crate::id::PortName;
use crate::spec::InstanceSpec;
use crate::spec::network::Protocol;
use crate::spec::probe::{Check, HttpCheck, Probe};
use crate::time::Shown;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// The most headers of an HTTP probe, and the longest of them in bytes.
const MAX_HEADERS: usize = 64;
const MAX_HEADER: usize = 8 * 1024;

impl Rules {
    pub(super) fn probes(&mut self, spec: &InstanceSpec) {
        let probes = &spec.probes;
        let all =
            [("startup", &probes.startup), ("readiness", &probes.readiness), ("liveness", &probes.liveness)];
        for (name, probe) in all {
            let Some(probe) = probe else { continue };
            let at = field("probes").key(name);
            self.probe(&at, probe, spec);
            // Kubernetes' rule: starting and being alive have no half-way.
            if name != "readiness" && probe.success > 1 {
                let message = format!(
                    "found the number {}; accepted: 1, since only a readiness probe may ask for several passes in a row",
                    probe.success
                );
                self.find(at.key("success"), message);
            }
        }
    }

    fn probe(&mut self, at: &Path, probe: &Probe, spec: &InstanceSpec) {
        self.duration(at.key("interval"), probe.interval, Duration::from_millis(100), DAY);
        self.duration(at.key("timeout"), probe.timeout, Duration::from_millis(1), Duration::from_secs(3600));
        self.duration(at.key("initial_delay"), probe.initial_delay, Duration::ZERO, DAY);
        self.whole(at.key("success"), probe.success.into(), SUCCESSES);
        self.whole(at.key("failure"), probe.failure.into(), FAILURES);
        match &probe.check {
            Check::Http(check) => {
                let at = at.key("http");
                self.probed_port(&at, check.port.as_ref(), spec);
                self.http(&at, check);
            }
            Check::Tcp(check) => self.probed_port(&at.key("tcp"), check.port.as_ref(), spec),
            Check::Exec(check) => {
                let at = at.key("exec").key("command");
                if check.command.first().is_none_or(String::is_empty) {
                    self.find(at.clone(), "the command is empty; accepted: a list with the program first, such as [\"/app/check\"]");
                }
                for (index, word) in check.command.iter().enumerate() {
                    self.word(at.index(index), word);
                }
            }
            Check::Engine(check) => {
                for (index, word) in check.command.iter().enumerate() {
                    self.word(at.key("engine").key("command").index(index), word);
                }
            }
        }
    }

    fn probed_port(&mut self, at: &Path, name: Option<&PortName>, spec: &InstanceSpec) {
        let needs = [field("ports")];
        let tcp = || spec.ports.iter().filter(|port| port.protocol == Protocol::Tcp);
        let names: Vec<String> = tcp().take(10).map(|port| format!("\"{}\"", port.name)).collect();
        let names = names.join(", ");
        match name {
            Some(name) => match spec.ports.iter().find(|port| port.name == *name) {
                Some(port) if port.protocol != Protocol::Tcp => {
                    let message =
                        format!("the port \"{name}\" is not a TCP port; accepted: the name of a TCP port");
                    self.find_with(at.key("port"), &needs, message);
                }
                Some(_) => {}
                None if names.is_empty() => {
                    let message = format!(
                        "there is no port \"{name}\", since `ports` names no TCP port; accepted: a name that `ports` has, so add \
                         ports = {{ {name} = 8080 }} with the right number"
                    );
                    self.find_with(at.key("port"), &needs, message);
                }
                None => {
                    let message = format!("there is no port \"{name}\" in `ports`; accepted: {names}");
                    self.find_with(at.key("port"), &needs, message);
                }
            },
            None => match tcp().count() {
                1 => {}
                0 => {
                    let message = "there is no TCP port to probe; accepted: the field `ports` at the top of the document, such as { http = 8080 }";
                    self.find_with(at.key("port"), &needs, message);
                }
                count => {
                    let message = format!(
                        "the service has {count} TCP ports, so the probe must say which; accepted: the field `port` with one of {names}"
                    );
                    self.find_with(at.key("port"), &needs, message);
                }
            },
        }
    }

    fn http(&mut self, at: &Path, check: &HttpCheck) {
        let path = check.path.as_str();
        if !path.starts_with('/')
            || path.len() > 2048
            || path.chars().any(|c| !c.is_ascii_graphic())
            || path.contains('#')
        {
            let message = format!(
                "\"{}\" is not a path; accepted: a path and query of at most 2048 characters without spaces, such as \
                 \"/health?full=1\"",
                Shown(path)
            );
            self.find(at.key("path"), message);
        }
        if let Some(host) = &check.host {
            let bare = host
                .rsplit_once(':')
                .map_or(host.as_str(), |(name, port)| if port.parse::<u16>().is_ok() { name } else { host });
            if bare.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_err() {
                self.host_name(at.key("host"), bare);
            }
        }
        let at = at.key("headers");
        if !self.at_most(at.clone(), check.headers.len(), MAX_HEADERS) {
            return;
        }
        for (name, value) in &check.headers {
            let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
            if name.is_empty() || name.len() > 256 || !name.chars().all(token) {
                self.find(
                    at.key(name),
                    "this is not the name of a header; accepted: letters, digits and `-`, such as X-Probe",
                );
            } else if name.eq_ignore_ascii_case("host") {
                self.find(
                    at.key(name),
                    "the Host header has a field of its own; accepted: `host` beside `headers`",
                );
            }
            // The value may authorize and is not shown.
            if value.len() > MAX_HEADER || value.chars().any(|c| c.is_control() && c != '\t') {
                let message = format!(
                    "the value of this header is too long or holds a line break or control character; accepted: one line of at \
                     most {MAX_HEADER} bytes"
                );
                self.find(at.key(name), message);
            }
        }
    }
}
