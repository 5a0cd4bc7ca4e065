//! What the peers are told: the same that ours does, as far as they can do it. Connections to the upstream are kept, the usual
//! headers are added, the upstream is checked (nginx can't), requests are not logged.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use super::load::Addresses;

/// The certificate that all of them have: a P-256 key, as most have today. No client here looks at the name in it.
const CHAIN: &str = include_str!("../../../../ews-route/tests/certificates/shop.pem");
const KEY: &str = include_str!("../../../../ews-route/tests/certificates/shop.key");

/// Where everything is.
pub(crate) struct Names<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) addresses: Addresses,
    pub(crate) upstream: SocketAddr,
}

/// As files: `chain`, `key`, and `both`, which HAProxy wants.
pub(crate) fn write_certificate(folder: &Path) {
    for (name, text) in
        [("chain", CHAIN.to_owned()), ("key", KEY.to_owned()), ("both", format!("{CHAIN}{KEY}"))]
    {
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(folder.join(name)).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }
}

pub(crate) fn nginx(names: &Names<'_>) -> String {
    let Names { folder, addresses: Addresses { plain, tls, h2c }, upstream } = names;
    let folder = folder.display();
    format!(
        "daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/nginx.errors crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  proxy_max_temp_file_size 0;
  keepalive_requests 100000000;
  ssl_protocols TLSv1.2 TLSv1.3; ssl_certificate {folder}/chain; ssl_certificate_key {folder}/key;
  upstream up {{ server {upstream}; keepalive 256; keepalive_requests 100000000; }}
  proxy_http_version 1.1;
  server {{
    listen {plain}; listen {h2c} http2; listen {tls} ssl http2; server_name bench.example;
    location / {{
      proxy_pass http://up;
      proxy_set_header Connection \"\"; proxy_set_header Host $http_host;
      proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id;
    }}
    location /echo {{
      proxy_pass http://up;
      proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade; proxy_set_header Host $http_host;
    }}
  }}
}}
"
    )
}

pub(crate) fn haproxy(names: &Names<'_>) -> String {
    let Names { folder, addresses: Addresses { plain, tls, h2c }, upstream } = names;
    let folder = folder.display();
    format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h
  http-reuse always
frontend in
  bind {plain}
  bind {h2c} proto h2
  bind {tls} ssl crt {folder}/both alpn h2,http/1.1
  unique-id-format %rt-%Ts
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header X-Forwarded-For %[src]
  default_backend up
backend up
  option httpchk GET /small
  server one {upstream} check inter 2s pool-max-conn -1
"
    )
}

/// HAProxy that looks at no byte: what no proxy that reads HTTP can be below.
pub(crate) fn relay(names: &Names<'_>) -> String {
    let Names { addresses: Addresses { plain, .. }, upstream, .. } = names;
    format!(
        "global
  nbthread 1
  maxconn 4096
defaults
  mode tcp
  timeout connect 5s
  timeout client 60s
  timeout server 60s
frontend in
  bind {plain}
  default_backend up
backend up
  server one {upstream} check inter 2s
"
    )
}
