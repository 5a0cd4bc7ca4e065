//! What people write who come from Compose, Kubernetes, Nomad or Kamal, and what it is called here.
//!
//! Each function takes a key (or a word) that a table does not know and gives advice, or nothing where the name is no
//! other tool's. The nearest accepted name is found without them.

/// Other tools' names for fields of the same meaning, by table. Their values are read as the field's own would be, so a name
/// belongs here only if what stands under it is judged rightly by that.
type Names<const N: usize> = [(&'static str, &'static str); N];

pub(super) const SERVICE: Names<21> = [
    ("environment", "env"),
    ("replicaCount", "replicas"),
    ("replica_count", "replicas"),
    ("scale", "replicas"),
    ("instances", "replicas"),
    ("count", "replicas"),
    ("volumes", "mounts"),
    ("entrypoint", "command"),
    ("entryPoint", "command"),
    ("ENTRYPOINT", "command"),
    ("cmd", "args"),
    ("CMD", "args"),
    ("arguments", "args"),
    ("working_dir", "workdir"),
    ("workingDir", "workdir"),
    ("work_dir", "workdir"),
    ("cwd", "workdir"),
    ("restart_policy", "restart"),
    ("restartPolicy", "restart"),
    ("annotations", "labels"),
    ("ulimit", "ulimits"),
];
pub(super) const ARTIFACT: Names<6> = [
    ("path", "location"),
    ("url", "location"),
    ("uri", "location"),
    ("checksum", "digest"),
    ("sha256", "digest"),
    ("hash", "digest"),
];
pub(super) const FILE: Names<5> = [
    ("target", "path"),
    ("destination", "path"),
    ("mountPath", "path"),
    ("perms", "mode"),
    ("permissions", "mode"),
];
pub(super) const MOUNT: Names<7> = [
    ("destination", "target"),
    ("dst", "target"),
    ("mountPath", "target"),
    ("path", "target"),
    ("ro", "read_only"),
    ("host_path", "bind"),
    ("name", "volume"),
];
pub(super) const PORT: Names<8> = [
    ("containerPort", "number"),
    ("container_port", "number"),
    ("port", "number"),
    ("targetPort", "number"),
    ("hostPort", "publish"),
    ("host_port", "publish"),
    ("published", "publish"),
    ("nodePort", "publish"),
];
pub(super) const PROBES: Names<5> = [
    ("ready", "readiness"),
    ("readinessProbe", "readiness"),
    ("live", "liveness"),
    ("livenessProbe", "liveness"),
    ("startupProbe", "startup"),
];
pub(super) const PROBE: Names<10> = [
    ("httpGet", "http"),
    ("http_get", "http"),
    ("tcpSocket", "tcp"),
    ("tcp_socket", "tcp"),
    ("periodSeconds", "interval"),
    ("period", "interval"),
    ("timeoutSeconds", "timeout"),
    ("initialDelaySeconds", "initial_delay"),
    ("failureThreshold", "failure"),
    ("successThreshold", "success"),
];
pub(super) const HTTP_CHECK: Names<2> = [("expected_status", "status"), ("code", "status")];
pub(super) const STOP: Names<4> =
    [("timeout", "grace"), ("grace_period", "grace"), ("gracePeriod", "grace"), ("period", "grace")];
pub(super) const RESTART: Names<4> = [
    ("policy", "condition"),
    ("max_attempts", "attempts"),
    ("maximum_retry_count", "attempts"),
    ("retries", "attempts"),
];
pub(super) const LOG: Names<2> = [("max_file_size", "max_size"), ("max-file", "max_files")];
pub(super) const JOB: Names<4> = [
    ("timeout", "deadline"),
    ("activeDeadlineSeconds", "deadline"),
    ("backoffLimit", "retries"),
    ("attempts", "retries"),
];
pub(super) const PLACEMENT: Names<4> = [
    ("nodeSelector", "require"),
    ("node_selector", "require"),
    ("max_replicas_per_node", "max_per_node"),
    ("max_per_host", "max_per_node"),
];
pub(super) const RESOURCES: Names<4> =
    [("cpus", "cpu"), ("mem", "memory"), ("mem_limit", "memory"), ("ram", "memory")];
pub(super) const SECURITY: Names<4> = [
    ("cap_add", "add_capabilities"),
    ("cap_drop", "drop_capabilities"),
    ("read_only", "read_only_root"),
    ("readOnlyRootFilesystem", "read_only_root"),
];

pub(super) fn service(key: &str) -> Option<&'static str> {
    Some(match key {
        "environment" => "the environment is `env` here, a table of names and values",
        "env_file" | "envFile" | "envFrom" => {
            "files of variables are not read; write the variables into `env`, and secrets as NAME = { secret = \"…\" }"
        }
        "volumes" | "volumeMounts" | "volume_mount" | "volume" => {
            "volumes are `mounts` here, a list of { volume = \"data\", target = \"/var/lib/data\" }"
        }
        "tmpfs" => "memory is one of `mounts` here: { tmpfs = \"64MiB\", target = \"/tmp\" }",
        "shm_size" => "shared memory is one of `mounts` here: { tmpfs = \"256MiB\", target = \"/dev/shm\" }",
        "healthcheck" | "health_check" | "check" | "checks" => {
            "health is `probes` here, such as { readiness = { exec = { command = [\"/app/check\"] } } }: `readiness` decides about \
             traffic, `liveness` about restarts"
        }
        "livenessProbe" | "liveness" | "liveness_probe" => "this is `probes.liveness` here",
        "readinessProbe" | "readiness" | "readiness_probe" => "this is `probes.readiness` here",
        "startupProbe" | "startup" | "startup_probe" => "this is `probes.startup` here",
        "containerPort" | "container_port" | "port" | "expose" => {
            "ports are `ports` here, such as { http = 8080 }"
        }
        "publish" => "a port is published in `ports`: { http = { number = 8080, publish = 80 } }",
        "replicaCount" | "replica_count" | "scale" | "instances" | "count" => {
            "the number of instances is `replicas` here"
        }
        "deploy" => "there is no `deploy` here: use `replicas`, `resources`, `placement` and `restart`",
        "depends_on" | "dependsOn" => {
            "services do not name each other here; order between services belongs to the release that deploys them"
        }
        "entrypoint" | "entryPoint" | "ENTRYPOINT" => {
            "the program and its first arguments are `command` here, a list"
        }
        "cmd" | "CMD" | "arguments" => "arguments after the program are `args` here, a list",
        "container_name" | "service" | "id" => {
            "the service's name is `name`; instances are named by the runtime"
        }
        "working_dir" | "workingDir" | "work_dir" | "cwd" => "the working directory is `workdir` here",
        "build" | "context" | "dockerfile" => {
            "a service names a finished image in `image`; building is a step of the deployment"
        }
        "tag" | "version" | "digest" => "write it into `image`: image = \"registry.example/shop/web:1.2\"",
        "image_pull_policy" | "imagePullPolicy" | "pull_policy" | "pull" => {
            "when to pull is `pull` of `image`: image = { reference = \"…\", pull = \"always\" }"
        }
        "cap_add" | "capabilities" => "Linux capabilities are `security.add_capabilities` here",
        "cap_drop" => "Linux capabilities are dropped by `security.drop_capabilities` here",
        "privileged" => "this is `security.privileged` here",
        "read_only" | "readonly_rootfs" | "readOnlyRootFilesystem" => {
            "this is `security.read_only_root` here"
        }
        "security_opt" | "securityContext" => {
            "rights are `security` here: `no_new_privileges`, `read_only_root`, `add_capabilities`, `drop_capabilities`"
        }
        "mem_limit" | "memory" => "this is `resources.memory` here, such as \"512MiB\"",
        "cpus" | "cpu" | "cpu_limit" => "this is `resources.cpu` here, such as 0.5",
        "pids_limit" => "this is `resources.pids` here",
        "mem_reservation" => "this is `resources.memory_reserve` here",
        "limits" | "requests" | "reservations" => {
            "use `resources`: `cpu` and `memory` limit, `cpu_reserve` and `memory_reserve` set aside"
        }
        "ulimit" => "this is `ulimits` here, such as { nofile = 65536 }",
        "logging" | "logs" | "log_driver" => "this is `log` here, with `max_size` and `max_files`",
        "stop_signal" | "kill_signal" => "this is `stop.signal` here",
        "stop_grace_period" | "terminationGracePeriodSeconds" | "kill_timeout" | "stop_timeout" => {
            "this is `grace` in `stop` here, such as stop = { grace = \"30s\" }"
        }
        "restart_policy" | "restartPolicy" => {
            "this is `restart` here: \"always\", \"on-failure\" or \"never\""
        }
        "network" | "network_mode" => "networks are `networks` here, a list of names",
        "secrets" | "secret" => {
            "a secret is given where it is used: NAME = { secret = \"…\" } in `env`, or { path = \"…\", secret = \"…\" } in `files`"
        }
        "configs" | "config" | "templates" => {
            "a file is one of `files` here: { path = \"/etc/app.toml\", content = \"…\" }"
        }
        "annotations" | "tags" | "meta" => {
            "facts about a service are `labels` here, a table of keys and values"
        }
        "nodeSelector" | "node_selector" | "constraints" | "constraint" | "affinity" | "tolerations" => {
            "where instances may run is `placement.require` here, a selector such as \"zone=a\""
        }
        "hosts" | "servers" => {
            "nodes are not named here; choose them by `placement.require`, a selector on their labels"
        }
        "proxy" | "routes" | "domainname" => {
            "routing is no part of a service; it is configured at the balancer"
        }
        "schedule" | "periodic" | "cron" => "a service document has no schedule; `job` makes it run once",
        "completions" | "parallelism" => "a job runs one instance; start it several times for several runs",
        "extra_hosts" | "dns" | "sysctls" | "pid" | "ipc" | "userns_mode" | "cgroup_parent"
        | "stdin_open" | "tty" | "links" | "external_links" | "extends" | "profiles" | "runtime"
        | "group_add" | "oom_score_adj" => "there is nothing of this kind here; remove it",
        "services" => {
            "this is Compose's file of several services; one document here is one service: put the fields of one of them at \
             the top, with its `name`, and leave out the rest, such as `version`; some are other here: `environment` is `env`, \
             `volumes` are `mounts`, and a port is { http = 8080 }"
        }
        "apiVersion" | "kind" | "metadata" | "spec" | "template" | "containers" => {
            "this is a Kubernetes manifest; a document here is flat: `name` and `image`, which it needs, `replicas`, `ports` and so on \
             at the top"
        }
        "task" | "group" => {
            "this is a Nomad job; a document here is flat: `name`, `replicas`, `image` and so on at the top"
        }
        "driver" => "a service does not choose its driver; `image` or `artifact` says what runs",
        "type" => "a service runs for long unless it has `job`, which makes it run once",
        _ => return None,
    })
}

pub(super) fn image(key: &str) -> Option<&'static str> {
    Some(match key {
        "name" | "repository" | "image" | "ref" | "registry" => {
            "the whole name with its tag is one text: reference = \"registry.example/shop/web:1.2\""
        }
        "tag" | "digest" => {
            "it is a part of `reference`: \"registry.example/shop/web:1.2\" or \"…@sha256:…\""
        }
        "pullPolicy" | "pull_policy" | "imagePullPolicy" => {
            "this is `pull` here: \"if-missing\", \"always\" or \"never\""
        }
        "auth" | "username" | "password" | "credentials" | "pullSecrets" | "imagePullSecrets" => {
            "credentials belong to the registry's configuration, not to a service"
        }
        _ => return None,
    })
}

pub(super) fn pull(word: &str) -> Option<&'static str> {
    match word {
        "IfNotPresent" | "missing" | "if_not_present" => Some("this is \"if-missing\" here"),
        _ => None,
    }
}

pub(super) fn artifact(key: &str) -> Option<&'static str> {
    match key {
        "path" | "url" | "source" | "uri" => {
            Some("where it is, a path or an https:// address, is `location` here")
        }
        "checksum" | "sha256" | "hash" => Some("this is `digest` here, such as \"sha256:…\""),
        _ => None,
    }
}

pub(super) fn env_value(key: &str) -> Option<&'static str> {
    match key {
        "value" => Some(
            "for a secret write its name, NAME = { secret = \"[provider:]name\" }; only what is no secret is written as it is, \
             NAME = \"value\"",
        ),
        "valueFrom" | "secretKeyRef" | "from_secret" | "secretName" => {
            Some("a reference is one text here: { secret = \"provider:name\" }")
        }
        _ => None,
    }
}

pub(super) fn file(key: &str) -> Option<&'static str> {
    match key {
        "target" | "destination" | "mountPath" => Some("where the file is placed is `path` here"),
        "source" | "src" | "file" => Some("files are not read from disk; give their text in `content`"),
        "data" | "text" | "template" => {
            Some("the text of the file is `content` here; templates are not expanded")
        }
        "uid" | "gid" | "owner" => Some("a file belongs to the user that the instance runs as"),
        "perms" | "permissions" | "defaultMode" => Some("this is `mode` here, such as \"0644\""),
        _ => None,
    }
}

pub(super) fn mount(key: &str) -> Option<&'static str> {
    match key {
        "source" | "src" | "type" => Some(
            "what is mounted stands under its kind: bind = \"/srv/data\", volume = \"data\" or tmpfs = \"64MiB\"",
        ),
        "destination" | "dst" | "mountPath" | "path" => Some("where the program sees it is `target` here"),
        "name" => Some("the name of a volume is `volume` here"),
        "readonly" | "readOnly" | "ro" => Some("this is `read_only` here"),
        "hostPath" | "host_path" => Some("a path of the node is `bind` here"),
        "emptyDir" => Some("use tmpfs = \"64MiB\" for memory, or a volume"),
        "size" | "tmpfs_size" => Some("the size of memory is the value of `tmpfs`: tmpfs = \"64MiB\""),
        _ => None,
    }
}

pub(super) fn port(key: &str) -> Option<&'static str> {
    match key {
        "containerPort" | "container_port" | "port" | "target" | "targetPort" | "to" => {
            Some("the port that the program listens on is `number` here")
        }
        "hostPort" | "host_port" | "published" | "nodePort" | "static" => {
            Some("the node's port is `publish` here, such as publish = 80")
        }
        "hostIP" | "host_ip" | "address" => {
            Some("the node's address is a part of `publish`: { port = 80, address = \"127.0.0.1\" }")
        }
        "app_protocol" | "appProtocol" | "mode" => Some("there is nothing of this kind here; remove it"),
        _ => None,
    }
}

pub(super) fn protocol(word: &str) -> Option<&'static str> {
    match word {
        "http" | "https" | "http2" | "h2c" | "grpc" | "ws" | "tls" => Some("it runs over TCP, write \"tcp\""),
        "http3" | "quic" => Some("it runs over UDP, write \"udp\""),
        _ => None,
    }
}

pub(super) fn publish(key: &str) -> Option<&'static str> {
    match key {
        "number" | "host" | "published" | "hostPort" => Some("the node's port is `port` here"),
        "ip" | "host_ip" | "hostIP" => Some("the node's address is `address` here"),
        _ => None,
    }
}

pub(super) fn network(key: &str) -> Option<&'static str> {
    match key {
        "ipv4_address" | "ipv6_address" | "mac_address" => {
            Some("an instance has no fixed address, since many may run; remove it")
        }
        _ => None,
    }
}

pub(super) fn probes(key: &str) -> Option<&'static str> {
    match key {
        "http" | "tcp" | "exec" | "engine" | "interval" | "timeout" | "test" | "path" => {
            Some("it belongs into one of the probes, such as `probes.readiness`")
        }
        "ready" | "health" | "readinessProbe" => Some("this is `readiness` here"),
        "live" | "livenessProbe" => Some("this is `liveness` here"),
        "start" | "startupProbe" => Some("this is `startup` here"),
        _ => None,
    }
}

pub(super) fn probe(key: &str) -> Option<&'static str> {
    match key {
        "httpGet" | "http_get" => Some(
            "this is `http` here, with `path`, and with `port`, the name of one of `ports`, if there are several",
        ),
        "tcpSocket" | "tcp_socket" => Some("this is `tcp` here"),
        "grpc" => Some("gRPC is not probed; use `tcp`, or `exec` with a program that asks"),
        "test" | "cmd" | "command" | "script" => {
            Some("a command is `exec` here: exec = { command = [\"…\"] }")
        }
        "path" | "port" | "headers" | "status" => {
            Some("it belongs into `http`: http = { path = \"/health\" }")
        }
        "periodSeconds" | "period" => Some("this is `interval` here, with a unit, such as \"10s\""),
        "timeoutSeconds" => Some("this is `timeout` here, with a unit, such as \"5s\""),
        "initialDelaySeconds" | "start_period" | "startPeriod" | "start_interval" | "delay" => {
            Some("this is `initial_delay` here, with a unit; for a slow start use `probes.startup`")
        }
        "failureThreshold" | "retries" | "failures" => Some("this is `failure` here"),
        "successThreshold" | "successes" => Some("this is `success` here"),
        "disable" => Some("leave the probe out instead"),
        _ => None,
    }
}

pub(super) fn http_check(key: &str) -> Option<&'static str> {
    match key {
        "httpHeaders" => Some("this is `headers` here, a table of names and values"),
        "scheme" | "https" | "tls" => Some("probes speak plain HTTP; use `tcp` for a port that wants TLS"),
        "method" => Some("a probe sends GET; remove it"),
        "url" | "uri" => Some("write `path` and, if there are several ports, `port`"),
        "code" | "expected_status" | "expect" => Some("this is `status` here, such as \"200-399\""),
        _ => None,
    }
}

pub(super) fn exec_check(key: &str) -> Option<&'static str> {
    match key {
        "test" | "cmd" | "args" => Some("the program and its arguments are one list in `command`"),
        _ => None,
    }
}

pub(super) fn stop(key: &str) -> Option<&'static str> {
    match key {
        "timeout" | "grace_period" | "gracePeriod" | "period" => {
            Some("this is `grace` here, such as \"30s\"")
        }
        _ => None,
    }
}

pub(super) fn restart_word(word: &str) -> Option<&'static str> {
    match word {
        "no" | "none" | "Never" | "false" => Some("this is \"never\" here"),
        "OnFailure" | "on_failure" => Some("this is \"on-failure\" here"),
        "unless-stopped" => Some(
            "supervision knows what was stopped on purpose, so this is \"always\" here; for the engine's own restarts see `engine_restart`",
        ),
        _ if word.starts_with("on-failure:") => {
            Some("the number of attempts is written restart = { condition = \"on-failure\", attempts = 5 }")
        }
        _ => None,
    }
}

pub(super) fn engine_restart(word: &str) -> Option<&'static str> {
    match word {
        "no" | "none" => Some("this is \"never\" here"),
        "always" => Some("this is \"unless-stopped\" here, which is Docker's always but respects a stop"),
        _ => None,
    }
}

pub(super) fn restart(key: &str) -> Option<&'static str> {
    match key {
        "policy" | "mode" | "name" => Some("this is `condition` here"),
        "max_attempts" | "maximum_retry_count" | "retries" => Some("this is `attempts` here"),
        "interval" => Some("the time in which restarts are counted is `window` here"),
        "backoff" => Some("the pause is `delay`, its longest `max_delay`"),
        _ => None,
    }
}

pub(super) fn log(key: &str) -> Option<&'static str> {
    match key {
        "driver" | "options" => {
            Some("a service does not choose its log driver; write `max_size` and `max_files`")
        }
        "max-size" | "max_file_size" => Some("this is `max_size` here"),
        "max-file" => Some("this is `max_files` here"),
        _ => None,
    }
}

pub(super) fn job(key: &str) -> Option<&'static str> {
    match key {
        "timeout" | "activeDeadlineSeconds" => Some("this is `deadline` here, such as \"1h\""),
        "backoffLimit" | "attempts" => Some("this is `retries` here"),
        "schedule" | "cron" | "periodic" => Some("a document has no schedule; `job` makes it run once"),
        "parallelism" | "completions" => {
            Some("a job runs one instance; start it several times for several runs")
        }
        _ => None,
    }
}

pub(super) fn placement(key: &str) -> Option<&'static str> {
    match key {
        "constraints" | "nodeSelector" | "node_selector" | "nodes" => {
            Some("this is `require` here, a selector such as \"zone=a\"")
        }
        "preferences" | "affinity" | "preferred" => {
            Some("this is `prefer` here, a list of { selector = \"…\", weight = 50 }")
        }
        "spread" | "topologySpreadConstraints" => Some("this is `spread_by` here, a list of label keys"),
        "max_replicas_per_node" | "max_per_host" => Some("this is `max_per_node` here"),
        _ => None,
    }
}

pub(super) fn strategy(word: &str) -> Option<&'static str> {
    match word {
        "binpack" => Some("this is \"pack\" here"),
        _ => None,
    }
}

pub(super) fn preference(key: &str) -> Option<&'static str> {
    match key {
        "require" | "match" | "labels" => Some("this is `selector` here, such as \"disk=ssd\""),
        _ => None,
    }
}

pub(super) fn os(word: &str) -> Option<&'static str> {
    match word {
        "macos" | "osx" | "mac" => Some("this is \"darwin\" here"),
        "win" | "win32" | "win64" | "windows_nt" => Some("this is \"windows\" here"),
        "ubuntu" | "debian" | "alpine" => {
            Some("a distribution is a matter of the image; this is \"linux\" here")
        }
        _ => None,
    }
}

pub(super) fn arch(word: &str) -> Option<&'static str> {
    match word {
        "x86_64" | "x64" | "x86-64" => Some("this is \"amd64\" here"),
        "aarch64" | "arm64/v8" | "armv8" => Some("this is \"arm64\" here"),
        "i386" | "i686" | "x86" => Some("this is \"386\" here"),
        "armv7" | "armhf" | "arm/v7" | "arm/v6" => Some("this is \"arm\" here"),
        "loongarch64" => Some("this is \"loong64\" here"),
        _ => None,
    }
}

pub(super) fn isolation(word: &str) -> Option<&'static str> {
    match word {
        "hyper-v" | "vm" => Some("this is \"hyperv\" here"),
        "default" => Some("leave the field out for the engine's choice"),
        _ => None,
    }
}

pub(super) fn platform(key: &str) -> Option<&'static str> {
    match key {
        "architecture" => Some("this is `arch` here"),
        "variant" => Some("variants of an architecture are chosen by the engine; remove it"),
        "os_version" | "os.version" => {
            Some("the build is the image's, and placement compares it with the nodes'")
        }
        _ => None,
    }
}

pub(super) fn resources(key: &str) -> Option<&'static str> {
    match key {
        "limits" => Some(
            "limits stand directly here: `cpu`, `memory`, `pids`; what other tools call requests is `cpu_reserve`, \
             `memory_reserve`",
        ),
        "requests" | "reservations" => {
            Some("what placement sets aside is `cpu_reserve` and `memory_reserve` here")
        }
        "cpus" | "nano_cpus" => Some("this is `cpu` here, such as 0.5"),
        "mem" | "mem_limit" | "ram" => Some("this is `memory` here, such as \"512MiB\""),
        "memory_swap" | "swap" | "memswap_limit" | "gpus" | "gpu" | "disk" | "ephemeral_storage" => {
            Some("there is nothing of this kind here; remove it")
        }
        _ => None,
    }
}

pub(super) fn security(key: &str) -> Option<&'static str> {
    match key {
        "cap_add" | "capabilities" => Some("this is `add_capabilities` here"),
        "cap_drop" => Some("this is `drop_capabilities` here"),
        "read_only" | "readOnlyRootFilesystem" | "read_only_rootfs" => Some("this is `read_only_root` here"),
        "allowPrivilegeEscalation" => Some("this is `no_new_privileges` here, with the opposite meaning"),
        "runAsUser" | "run_as_user" | "runAsGroup" | "user" => Some("this is `user` beside `security`"),
        "runAsNonRoot" => Some("say who it runs as: `user` beside `security`"),
        "seccompProfile" | "seccomp" | "apparmor" | "seLinuxOptions" => {
            Some("profiles are the engine's; there is nothing of this kind here")
        }
        _ => None,
    }
}

pub(super) fn device(key: &str) -> Option<&'static str> {
    match key {
        "host_path" | "source" | "PathOnHost" => Some("the node's path is `path` here"),
        "container_path" | "PathInContainer" => Some("the path that the program sees is `target` here"),
        "permissions" | "cgroup_permissions" | "CgroupPermissions" => {
            Some("this is `access` here, such as \"rwm\"")
        }
        _ => None,
    }
}
