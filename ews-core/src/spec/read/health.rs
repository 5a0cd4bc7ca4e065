//! Probes.

use std::collections::BTreeMap;

use super::content::words;
use super::foreign;
use crate::document::walk::At;
use crate::document::{Tree, Value};
use crate::id::PortName;
use crate::spec::network::Port;
use crate::spec::probe::{Check, EngineCheck, ExecCheck, HttpCheck, Probe, Probes, StatusRange, TcpCheck};
use crate::spec::rules::{FAILURES, SUCCESSES};

pub(super) fn probes(at: &At<'_>, ports: &[Port]) -> Probes {
    let mut probes = Probes::default();
    let Some(mut fields) =
        at.table("a table with `startup`, `readiness` and `liveness`, each of which may be left out")
    else {
        return probes;
    };
    fields = fields.also_called(&foreign::PROBES);
    probes.startup = fields.take_present("startup").map(|at| probe(&at, ports));
    probes.readiness = fields.take_present("readiness").map(|at| probe(&at, ports));
    probes.liveness = fields.take_present("liveness").map(|at| probe(&at, ports));
    fields.finish(foreign::probes);
    probes
}

fn probe(at: &At<'_>, ports: &[Port]) -> Probe {
    read(at, ports).unwrap_or_else(|| Probe::new(Check::Engine(EngineCheck::default())))
}

fn read(at: &At<'_>, ports: &[Port]) -> Option<Probe> {
    let mut fields =
        at.table("a table with one of `http`, `tcp`, `exec`, `engine`")?.also_called(&foreign::PROBE);
    let http = fields.take_present("http");
    let tcp = fields.take_present("tcp");
    let exec = fields.take_present("exec");
    let engine = fields.take_present("engine");
    let names = ["http", "tcp", "exec", "engine"];
    let null = names.iter().filter(|key| fields.has(key)).count();
    let mut given = names
        .into_iter()
        .zip([&http, &tcp, &exec, &engine])
        .filter_map(|(name, at)| at.as_ref().map(|at| (name, at)));
    let none = given.clone().next().is_none();
    let check = if let (Some((first, _)), Some((second, at))) = (given.next(), given.next()) {
        at.fail(format!(
            "both `{first}` and `{second}` are given; accepted: exactly one of `http`, `tcp`, `exec`, `engine`"
        ));
        None
    } else if let Some(at) = &http {
        http_check(at, ports).map(Check::Http)
    } else if let Some(at) = &tcp {
        tcp_check(at, ports).map(Check::Tcp)
    } else if let Some(at) = &exec {
        exec_check(at).map(Check::Exec)
    } else if let Some(at) = &engine {
        engine_check(at).map(Check::Engine)
    } else {
        if none && null == 0 {
            fields.none_given(
                "check",
                &names,
                "`http` (such as { path = \"/health\" }), `tcp` ({} for the only port), `exec` ({ command = \
                 [\"…\"] }), `engine`",
            );
        }
        None
    };
    // In place of a check that could not be read: one that no rule objects to.
    let mut probe = Probe::new(check.unwrap_or_else(|| Check::Engine(EngineCheck::default())));
    if let Some(interval) = fields.take("interval").and_then(|at| at.duration()) {
        probe.interval = interval;
    }
    if let Some(timeout) = fields.take("timeout").and_then(|at| at.duration()) {
        probe.timeout = timeout;
    }
    if let Some(delay) = fields.take("initial_delay").and_then(|at| at.duration()) {
        probe.initial_delay = delay;
    }
    let count = |at: Option<At<'_>>, (least, most)| {
        at.and_then(|at| at.integer(least, most)).and_then(|n| u32::try_from(n).ok())
    };
    probe.success = count(fields.take("success"), SUCCESSES).unwrap_or(probe.success);
    probe.failure = count(fields.take("failure"), FAILURES).unwrap_or(probe.failure);
    fields.finish(foreign::probe);
    Some(probe)
}

fn port_name(at: &At<'_>, ports: &[Port]) -> Option<PortName> {
    if let Tree { value: Value::Integer(number), .. } = at.tree {
        let known = ports.iter().find(|port| port.number.map(i128::from) == Some(*number));
        let advice = match known {
            Some(port) => format!("; {number} is the port \"{}\" here", port.name),
            None => format!("; add it to `ports` as {{ name = {number} }} and write that name"),
        };
        at.fail(format!(
            "found the number {number}; accepted: the name of one of `ports`, in quotes{advice}"
        ));
        return None;
    }
    at.parsed("the name of one of `ports`")
}

fn http_check(at: &At<'_>, ports: &[Port]) -> Option<HttpCheck> {
    if let Some(path) = at.tree.as_text() {
        return Some(HttpCheck::new(path));
    }
    let mut fields = at
        .table("a path such as \"/health\", or a table with `path` and `port`")?
        .also_called(&foreign::HTTP_CHECK);
    let mut check = HttpCheck::new("/");
    check.port = fields.take("port").and_then(|at| port_name(&at, ports));
    if let Some(path) = fields.take("path").and_then(|at| at.text("a path such as \"/health\"")) {
        path.clone_into(&mut check.path);
    }
    check.host = fields.take("host").and_then(|at| at.text("a host name").map(str::to_owned));
    check.headers = fields.take("headers").map(|at| headers(&at)).unwrap_or_default();
    if let Some(status) = fields.take("status").and_then(|at| status(&at)) {
        check.status = status;
    }
    fields.finish(foreign::http_check);
    Some(check)
}

fn headers(at: &At<'_>) -> BTreeMap<String, String> {
    // A header may authorize.
    let at = at.clone().quiet();
    let entries = at.entries("a table of header names and values");
    entries.into_iter().map(|(name, at)| (name.to_owned(), at.word("a text").unwrap_or_default())).collect()
}

fn status(at: &At<'_>) -> Option<StatusRange> {
    const ACCEPTED: &str = "a status such as 204, or a range such as \"200-399\"";
    match &at.tree.value {
        Value::Integer(status) if at.tree.written.is_none() => at.read(&status.to_string()),
        _ => at.parsed(ACCEPTED),
    }
}

fn tcp_check(at: &At<'_>, ports: &[Port]) -> Option<TcpCheck> {
    let mut check = TcpCheck::default();
    if !matches!(at.tree.value, Value::Table(_)) {
        check.port = port_name(at, ports);
        return check.port.is_some().then_some(check);
    }
    let mut fields = at.table("a table")?;
    check.port = fields.take("port").and_then(|at| port_name(&at, ports));
    fields.finish(foreign::http_check);
    Some(check)
}

fn exec_check(at: &At<'_>) -> Option<ExecCheck> {
    if !matches!(at.tree.value, Value::Table(_)) {
        return Some(ExecCheck { command: words(at, "exec") });
    }
    let mut fields = at.table("a table")?;
    let command = fields.required("command", "a list of texts, one for each word");
    fields.finish(foreign::exec_check);
    Some(ExecCheck { command: words(&command?, "command") })
}

fn engine_check(at: &At<'_>) -> Option<EngineCheck> {
    let mut fields = at.table("a table with `command`, or {} for the image's own health check")?;
    let command = fields.take("command").map(|at| words(&at, "command")).unwrap_or_default();
    fields.finish(foreign::exec_check);
    Some(EngineCheck { command })
}
