//! A table as nginx's configuration: a pure function, so that the same table gives the same text.
//!
//! Texts of routes are written by whoever deploys: each goes through [`quoted`] or [`spoken`], the only two ways into the
//! configuration, which leave nothing that nginx would read as its own. Host names and addresses hold nothing to escape.
//!
//! nginx's locations differ from routes in two ways that are evened out here. A prefix takes in what merely begins with it,
//! so `/api` becomes a location for `/api` itself and one for what lies below `/api/`. And nginx sends who asks for `/api`
//! to `/api/` where only the latter forwards, so such a path gets the rule that it has by the contract.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ews_core::balancer::{
    Member, MemberState, Object, ObjectKind, ObjectRef, PathMatch, RouteAction, RouteRule, RouteSet, Table,
    WeightedPool,
};
use ews_core::spec::network::Protocol;
use ews_core::{Error, ErrorKind, Result, RouteSetId};

use super::NginxConfig;
use super::nginx::Files;

/// nginx takes no word of 4,096 bytes or more in its configuration.
const MOST: usize = 4_000;
/// Statuses that nginx always answers with a `Location`.
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
/// The resolution of shares: a share of a share is rounded to so many parts.
const PARTS: u64 = 10_000;

/// Whether an object that is right by the contract is one that nginx can serve.
pub(super) fn check(object: &Object) -> Result<()> {
    let Object::RouteSet(set) = object else { return Ok(()) };
    for (index, rule) in set.rules.iter().enumerate() {
        let (what, text) = match (&rule.path, &rule.action) {
            (PathMatch::Exact(path) | PathMatch::Prefix(path), _) if quoted(path).len() > MOST => {
                ("path", quoted(path))
            }
            (_, RouteAction::Redirect { to, .. }) => ("address of a redirect", spoken(to)),
            (_, RouteAction::Respond { status, .. }) if REDIRECTS.contains(status) => {
                return Err(Error::invalid(format!(
                    "an answer with status {status}, which nginx takes for a redirect; accepted: `redirect`, or another status"
                ))
                .with_context("rule", index));
            }
            (_, RouteAction::Respond { body, .. }) => ("body", spoken(body)),
            _ => continue,
        };
        if text.len() > MOST {
            let message = format!("a {what} takes {} bytes in nginx's words; accepted: {MOST}", text.len());
            return Err(Error::new(ErrorKind::OutOfResources, message).with_context("rule", index));
        }
    }
    Ok(())
}

/// The whole configuration.
pub(super) fn config(table: &Table, config: &NginxConfig) -> String {
    let root = config.root.display().to_string();
    let path = |path: std::path::PathBuf| quoted(&path.display().to_string());
    let files = Files(&config.root);
    let mut text = format!(
        "daemon on;\nworker_processes {};\nworker_shutdown_timeout {}s;\npid {};\nerror_log {} notice;\n\
         events {{ worker_connections 4096; }}\nhttp {{\naccess_log off;\nserver_tokens off;\ndefault_type text/plain;\n\
         merge_slashes off;\nabsolute_redirect off;\nserver_names_hash_bucket_size 512;\nserver_names_hash_max_size 65536;\n\
         geo $ews_nothing {{ default \"\"; }}\ngeo $ews_dollar {{ default \"$\"; }}\n",
        config.workers,
        config.shutdown.as_secs().max(1),
        path(files.pid()),
        path(files.log()),
    );
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {};", quoted(&format!("{root}/temp-{kind}")));
    }
    let _ = writeln!(
        text,
        "server {{ listen {}; location = /generation {{ return 200 \"{}\\n\"; }} }}",
        quoted(&format!("unix:{}", files.status().display())),
        table.generation()
    );

    let mut names: BTreeMap<RouteSetId, Vec<String>> = BTreeMap::new();
    let mut fallback = None;
    for stored in table.stored(ObjectKind::Domain, None) {
        let Object::Domain(domain) = &stored.object else { continue };
        match domain.name.as_str() {
            "*" => fallback = Some(domain.routes.clone()),
            name => names.entry(domain.routes.clone()).or_default().push(name.to_owned()),
        }
    }
    let mut upstreams = 0;
    let fallback = fallback.map(|set| locations(table, &set, &mut upstreams));
    let (before, inside) = fallback.unwrap_or_else(|| (String::new(), NOT_FOUND.to_owned()));
    let _ = writeln!(
        text,
        "{before}server {{\nlisten {} default_server;\nserver_name _;\n{inside}}}",
        config.listen
    );
    for (set, names) in &names {
        let (before, inside) = locations(table, set, &mut upstreams);
        let _ = writeln!(
            text,
            "{before}server {{\nlisten {};\nserver_name {};\n{inside}}}",
            config.listen,
            names.join(" ")
        );
    }
    text.push_str("}\n");
    text
}

const NOT_FOUND: &str = "location / { return 404 \"$ews_nothing\"; }\n";

/// The upstreams that a route set needs, and its locations.
fn locations(table: &Table, set: &RouteSetId, upstreams: &mut usize) -> (String, String) {
    let stored = table.other(&ObjectRef::RouteSet(set.clone()));
    let Some(Object::RouteSet(RouteSet { rules, .. })) = stored.map(|stored| &stored.object) else {
        return (String::new(), NOT_FOUND.to_owned());
    };
    // The first one written holds; an exact path comes before the prefix that is as long.
    let mut places: BTreeMap<String, Option<&RouteRule>> = BTreeMap::new();
    let exact = |path: &str| format!("= {}", quoted(path));
    for rule in rules {
        if let PathMatch::Exact(path) = &rule.path {
            places.entry(exact(path)).or_insert(Some(rule));
        }
    }
    // `/api/` is longer than `/api`, and both take in what is below.
    let ends_with_slash =
        |rule: &&RouteRule| matches!(&rule.path, PathMatch::Prefix(path) if path.ends_with('/'));
    let (longer, shorter): (Vec<_>, Vec<_>) = rules.iter().partition(ends_with_slash);
    for rule in longer.into_iter().chain(shorter) {
        let PathMatch::Prefix(path) = &rule.path else { continue };
        match path.strip_suffix('/') {
            Some("") => {
                places.entry("\"/\"".to_owned()).or_insert(Some(rule));
            }
            Some(bare) => {
                places.entry(quoted(path)).or_insert(Some(rule));
                places.entry(exact(bare)).or_insert_with(|| longest(rules, bare));
            }
            None => {
                places.entry(exact(path)).or_insert(Some(rule));
                places.entry(quoted(&format!("{path}/"))).or_insert(Some(rule));
            }
        }
    }
    places.entry("\"/\"".to_owned()).or_insert(None);

    let (mut before, mut inside) = (String::new(), String::new());
    for (place, rule) in places {
        let does = rule.map_or_else(
            || "return 404 \"$ews_nothing\";".to_owned(),
            |rule| action(table, &rule.action, upstreams, &mut before),
        );
        let _ = writeln!(inside, "location {place} {{ {does} }}");
    }
    (before, inside)
}

/// The rule for a path that no rule names exactly: the one with the longest prefix.
fn longest<'a>(rules: &'a [RouteRule], path: &str) -> Option<&'a RouteRule> {
    let takes = |rule: &&RouteRule| match &rule.path {
        PathMatch::Exact(exact) => exact == path,
        PathMatch::Prefix(prefix) => {
            let below = path.strip_prefix(prefix.as_str());
            below.is_some_and(|below| below.is_empty() || prefix.ends_with('/') || below.starts_with('/'))
        }
        _ => false,
    };
    let length = |rule: &&RouteRule| match &rule.path {
        PathMatch::Exact(_) => usize::MAX,
        PathMatch::Prefix(prefix) => prefix.len(),
        _ => 0,
    };
    // Of equals the first one written.
    rules.iter().filter(takes).rev().max_by_key(length)
}

fn action(table: &Table, action: &RouteAction, upstreams: &mut usize, before: &mut String) -> String {
    match action {
        RouteAction::Forward(pools) => {
            let servers = servers(table, pools);
            if servers.is_empty() {
                return "return 503 \"$ews_nothing\";".to_owned();
            }
            let name = format!("ews_{upstreams}");
            *upstreams += 1;
            let _ = writeln!(before, "upstream {name} {{");
            for (member, weight) in servers {
                let _ = writeln!(before, "server {} weight={weight};", member.endpoint.address);
            }
            let _ = writeln!(before, "keepalive 16;\n}}");
            format!(
                "proxy_pass http://{name}; proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_set_header Host \
                 $http_host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;"
            )
        }
        RouteAction::Redirect { to, status } => format!("return {status} {};", spoken(to)),
        RouteAction::Respond { status, body } => format!("return {status} {};", spoken(body)),
        // Behind capabilities that this driver does not declare.
        _ => "return 501 \"$ews_nothing\";".to_owned(),
    }
}

/// The endpoints of these pools that may get traffic, each with its share of all: its pool's share, by its weight there.
/// The share of a pool without endpoints goes to the others.
fn servers<'a>(table: &'a Table, pools: &[WeightedPool]) -> Vec<(&'a Member, u64)> {
    let mut servers = Vec::new();
    for WeightedPool { pool, weight: share, .. } in pools.iter().filter(|share| share.weight > 0) {
        let serves = |member: &&Member| {
            let is_tcp = member.endpoint.protocol == Protocol::Tcp;
            member.state == MemberState::Active && member.weight > 0 && is_tcp
        };
        let sum: u64 = table.members(pool).filter(serves).map(|member| u64::from(member.weight)).sum();
        for member in table.members(pool).filter(serves) {
            let weight = u64::from(*share) * u64::from(member.weight) * PARTS / sum.max(1);
            servers.push((member, weight.max(1)));
        }
    }
    // Small numbers where they say the same.
    let divisor = servers.iter().fold(0, |divisor, (_, weight)| gcd(divisor, *weight)).max(1);
    servers.iter_mut().for_each(|(_, weight)| *weight /= divisor);
    servers
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// A text as one word of the configuration, where nginx replaces no variables.
fn quoted(text: &str) -> String {
    let mut word = String::from("\"");
    for c in text.chars() {
        if matches!(c, '"' | '\\') {
            word.push('\\');
        }
        word.push(c);
    }
    word.push('"');
    word
}

/// A text as one word where nginx replaces variables. It begins with an empty one, since nginx puts a page of its own
/// in place of a text that is empty.
fn spoken(text: &str) -> String {
    let word = quoted(text).replace('$', "${ews_dollar}");
    format!("\"${{ews_nothing}}{}", word.get(1..).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use ews_core::balancer::{Change, Domain, DomainName, Limits, Op, Pool};
    use ews_core::{CapabilitySet, ChangeId, Endpoint, EndpointKey, Incarnation, PoolId, Scope};

    use super::*;

    fn rule(path: PathMatch, body: &str) -> RouteRule {
        RouteRule::new(path, RouteAction::Respond { status: 200, body: body.to_owned() })
    }

    fn table(rules: Vec<RouteRule>, more: Vec<Op>) -> Table {
        let mut table = Table::new(CapabilitySet::all(), Limits::default());
        let id = RouteSetId::new("s").unwrap();
        let name = DomainName::new("shop.example").unwrap();
        let domain = Domain::new(name, id.clone());
        let mut ops = more;
        ops.push(Op::Put(Object::RouteSet(RouteSet::new(id, rules))));
        ops.push(Op::Put(Object::Domain(domain)));
        table.apply(&Change::new(ChangeId::new("c").unwrap(), ops)).unwrap();
        table
    }

    fn text(table: &Table) -> String {
        config(table, &NginxConfig::new("/srv/lb", "127.0.0.1:80".parse().unwrap()))
    }

    #[test]
    fn a_text_never_gets_out_of_its_quotes() {
        let body = "\"; } $host ${x} \\";
        let text = text(&table(vec![rule(PathMatch::Exact("/\"';}{$x\\".to_owned()), body)], vec![]));
        assert!(text.contains(r#"location = "/\"';}{$x\\" {"#), "{text}");
        assert!(text.contains(r#""${ews_nothing}\"; } ${ews_dollar}host ${ews_dollar}{x} \\";"#), "{text}");
    }

    #[test]
    fn prefixes_are_those_of_the_contract() {
        let prefix = |path: &str| PathMatch::Prefix(path.to_owned());
        let rules = vec![
            rule(prefix("/"), "root"),
            rule(prefix("/api"), "api"),
            rule(prefix("/api"), "second"),
            rule(prefix("/slash/"), "slash"),
            rule(PathMatch::Exact("/api/x".to_owned()), "exact"),
        ];
        let text = text(&table(rules, vec![]));
        for (place, body) in [
            ("\"/\"", "root"),
            ("= \"/api\"", "api"),
            ("\"/api/\"", "api"),
            ("\"/slash/\"", "slash"),
            ("= \"/slash\"", "root"),
            ("= \"/api/x\"", "exact"),
        ] {
            let wanted = format!("location {place} {{ return 200 \"${{ews_nothing}}{body}\"; }}");
            assert!(text.contains(&wanted), "{wanted} in {text}");
        }
        assert!(!text.contains("second"), "{text}");
    }

    #[test]
    fn shares_are_multiplied_and_who_drains_is_left_out() {
        let member = |pool: &str, number: u16, weight, state| {
            let key = EndpointKey {
                instance: format!("i{number}").parse().unwrap(),
                incarnation: Incarnation(1),
                port: "http".parse().unwrap(),
            };
            let address = std::net::SocketAddr::from(([127, 0, 0, 1], number));
            let endpoint = Endpoint { key, address, protocol: Protocol::Tcp, scope: Scope::Loopback };
            let mut member = Member::new(PoolId::new(pool).unwrap(), endpoint).weight(weight);
            member.state = state;
            Op::Put(Object::Endpoint(member))
        };
        let pool = |id: &str| Op::Put(Object::Pool(Pool::new(PoolId::new(id).unwrap())));
        let share = |pool: &str, weight| WeightedPool::new(PoolId::new(pool).unwrap(), weight);
        let forward = RouteAction::Forward(vec![share("a", 9), share("b", 1), share("empty", 5)]);
        let more = vec![
            pool("a"),
            pool("b"),
            pool("empty"),
            member("a", 1, 100, MemberState::Active),
            member("a", 2, 200, MemberState::Active),
            member("a", 3, 100, MemberState::Draining),
            member("b", 4, 100, MemberState::Active),
            member("b", 5, 0, MemberState::Active),
        ];
        let text = text(&table(vec![RouteRule::new(PathMatch::Prefix("/".to_owned()), forward)], more));
        let servers: Vec<&str> = text.lines().filter(|line| line.starts_with("server 127")).collect();
        assert_eq!(
            servers,
            ["server 127.0.0.1:1 weight=3;", "server 127.0.0.1:2 weight=6;", "server 127.0.0.1:4 weight=1;"]
        );
    }

    #[test]
    fn what_nginx_can_not_say_is_refused() {
        let check =
            |rule: RouteRule| check(&Object::RouteSet(RouteSet::new(RouteSetId::new("s").unwrap(), [rule])));
        let long = || rule(PathMatch::Prefix("/".to_owned()), &"$".repeat(400));
        assert_eq!(check(long()).unwrap_err().kind(), ErrorKind::OutOfResources);
        let mut moved = rule(PathMatch::Prefix("/".to_owned()), "");
        moved.action = RouteAction::Respond { status: 301, body: String::new() };
        assert_eq!(check(moved).unwrap_err().kind(), ErrorKind::Invalid);
        check(rule(PathMatch::Prefix("/".to_owned()), &"x".repeat(3_000))).unwrap();
    }
}
