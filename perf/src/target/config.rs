//! Equivalent configurations: one listener, one worker, one route to one upstream, in the versions of
//! HTTP that the protocol variant names, with keep-alive. Those for RPC are in `rpc.rs` beside this.
//!
//! Equivalent means: each proxy does what it does by default to a request, with everything off that
//! costs and that the others don't do, and with limits out of the way.
//!
//! | | plain | observed |
//! |---|---|---|
//! | nginx | access log off | log file with a 64 KiB buffer, flushed every second; it has no per-route counters |
//! | HAProxy | no log | its HTTP log format, one unbuffered write per request to a file as stdout (it has no buffered file log); proxy and server counters, which are always on |
//! | Envoy, Outrigger | no log, router without dynamic statistics, no request id | file access log, dynamic statistics, statistics of the route |
//!
//! nginx keeps response bodies in memory (`proxy_max_temp_file_size 0`) and gets buffers that suit
//! long bodies; HAProxy may reuse any idle upstream connection (`http-reuse always`), and keeps them
//! although they are as many as downstream ones (`tune.pool-*-fd-ratio`). Without these they would be
//! slower, not different.
//!
//! HTTP/2 and TLS, which differ in what the proxies have:
//!
//! | | HTTP/2 upstream | HTTP/2 downstream | TLS downstream |
//! |---|---|---|---|
//! | nginx | `grpc_pass`, its only one, for gRPC and for everything else: one request at a time on each pooled connection | `listen ... http2` | `ssl`, HTTP/2 by ALPN |
//! | HAProxy | `proto h2`, up to 100 streams per connection | `proto h2` | `ssl`, ALPN as named |
//! | Envoy, Outrigger | explicit HTTP/2 options of the cluster | `codec_type: HTTP2` | `DownstreamTlsContext`, ALPN as named |
//!
//! All accept TLS 1.3 only, have the same certificate and keep their defaults for session tickets; the
//! generator leaves them one suite and one group to choose.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use super::{Profile, Target, rpc};
use crate::{
    tls::Identity,
    variant::{Sides, Version},
};

/// What a target is to do.
#[derive(Debug, Clone)]
pub struct Setup<'a> {
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it sends requests.
    pub origin: SocketAddr,
    /// An empty directory for its files.
    pub directory: &'a Path,
    /// What it speaks.
    pub sides: Sides,
    /// Its certificate, where it speaks TLS.
    pub identity: &'a Identity,
    /// What it writes down.
    pub profile: Profile,
    /// CPUs of Outrigger's shards, one shard each.
    pub cpus: &'a [usize],
    /// Most connections that will be open.
    pub connections: usize,
    /// Most requests in flight on each.
    pub streams: usize,
    /// How long our own servers live at most, in seconds.
    pub lifetime_s: u64,
}

/// How to start a target: arguments, and files to write before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Arguments of the program.
    pub arguments: Vec<OsString>,
    /// Files and their contents.
    pub files: Vec<(PathBuf, String)>,
}

/// How to start `target`; for direct, the origin itself is the target and there is nothing to start,
/// and neither is there for one that does not [speak](Target::speaks) the protocol.
#[must_use]
pub fn launch(target: Target, setup: &Setup<'_>) -> Option<Launch> {
    let file = |name: &str| setup.directory.join(name);
    let launch = match target {
        Target::Direct => return None,
        Target::Floor => Launch {
            arguments: arguments(&[
                &"relay",
                &"--listen",
                &setup.listen.to_string(),
                &"--upstream",
                &setup.origin.to_string(),
                &"--lifetime-s",
                &setup.lifetime_s.to_string(),
            ]),
            files: Vec::new(),
        },
        Target::Outrigger => outrigger_with(outrigger(setup), setup.directory),
        Target::Nginx => {
            let path = file("nginx.conf");
            let log = file("error.log");
            Launch {
                arguments: arguments(&[&"-p", &setup.directory, &"-e", &log, &"-c", &path]),
                files: vec![(path, nginx(setup))],
            }
        }
        Target::Haproxy => {
            let path = file("haproxy.cfg");
            Launch {
                arguments: arguments(&[&"-db", &"-f", &path]),
                files: vec![(path, haproxy(setup))],
            }
        }
        Target::Envoy => {
            let text = match setup.sides.rpc() {
                None => envoy(setup),
                Some(_) => rpc::envoy(setup),
            };
            envoy_with(text, 1, setup.directory)
        }
        Target::Mosn => {
            let path = rpc::mosn_path(setup);
            let text = rpc::mosn(setup, setup.sides.rpc()?);
            Launch { arguments: arguments(&[&"start", &"-c", &path]), files: vec![(path, text)] }
        }
    };
    Some(launch)
}

/// How to start Envoy or Outrigger with an Envoy bootstrap, one worker for each CPU. Only Outrigger's
/// are pinned.
#[must_use]
pub fn bootstrapped(target: Target, cpus: &[usize], directory: &Path, bootstrap: String) -> Launch {
    match target {
        Target::Outrigger => outrigger_with(bootstrap + &engine(cpus), directory),
        _ => envoy_with(bootstrap, cpus.len(), directory),
    }
}

fn outrigger_with(text: String, directory: &Path) -> Launch {
    let path = directory.join("outrigger.yaml");
    Launch { arguments: arguments(&[&"-c", &path]), files: vec![(path, text)] }
}

fn envoy_with(text: String, workers: usize, directory: &Path) -> Launch {
    let path = directory.join("envoy.yaml");
    Launch {
        arguments: arguments(&[
            &"--concurrency",
            &workers.to_string(),
            &"--disable-hot-restart",
            &"--log-level",
            &"error",
            &"-c",
            &path,
        ]),
        files: vec![(path, text)],
    }
}

fn arguments(list: &[&dyn AsRef<std::ffi::OsStr>]) -> Vec<OsString> {
    list.iter().map(|argument| argument.as_ref().to_owned()).collect()
}

/// Requests and seconds after which nothing ends: no proxy closes a connection during a run.
const MANY: u32 = 1_000_000_000;
pub(super) const HOUR_S: u32 = 3600;

/// nginx.conf. One worker under a master, as in production.
#[must_use]
pub fn nginx(setup: &Setup<'_>) -> String {
    let Setup { listen, origin, directory, sides, identity, profile, connections, streams, .. } =
        setup;
    let directory = directory.display();
    // Those downstream, one upstream per request in flight, and some for the listener and the log.
    let limit = connections + connections * streams + 1024;
    let idle = connections * streams + 64;
    let mut speech = String::new();
    let mut tls = String::new();
    if sides.tls {
        speech += " ssl";
        tls = format!(
            r"
        ssl_certificate {};
        ssl_certificate_key {};
        ssl_protocols TLSv1.3;",
            identity.certificate.display(),
            identity.key.display()
        );
    }
    if sides.downstream == Version::Http2 {
        speech += " http2";
    }
    let pass = match sides.upstream {
        Version::Http1 | Version::Rpc(_) => {
            r#"proxy_pass http://origin;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_max_temp_file_size 0;
            proxy_buffer_size 16k;
            proxy_buffers 16 32k;
            proxy_busy_buffers_size 128k;"#
        }
        Version::Http2 => {
            r"grpc_pass grpc://origin;
            grpc_buffer_size 16k;"
        }
    };
    let log = match profile {
        Profile::Plain => "access_log off;".to_owned(),
        Profile::Observed => {
            format!("access_log {directory}/access.log main buffer=64k flush=1s;")
        }
    };
    // Started by root, workers would become another user who can't reach the directory.
    // SAFETY: takes and touches nothing.
    let user = if unsafe { libc::geteuid() } == 0 { "user root;\n" } else { "" };
    format!(
        r#"{user}worker_processes 1;
worker_rlimit_nofile {limit};
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/error.log error;
events {{
    worker_connections {limit};
}}
http {{
    log_format main '[$time_iso8601] "$request" $status $body_bytes_sent $request_time '
                    '$upstream_addr $upstream_response_time "$http_user_agent" "$http_host"';
    {log}
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    keepalive_requests {MANY};
    keepalive_timeout {HOUR_S}s;
    client_header_timeout {HOUR_S}s;
    client_max_body_size 0;
    upstream origin {{
        server {origin};
        keepalive {idle};
        keepalive_requests {MANY};
        keepalive_timeout {HOUR_S}s;
    }}
    server {{
        listen {listen}{speech} backlog=4096;{tls}
        location / {{
            {pass}
        }}
    }}
}}
"#
    )
}

/// haproxy.cfg.
#[must_use]
pub fn haproxy(setup: &Setup<'_>) -> String {
    let Setup { listen, origin, sides, identity, profile, connections, .. } = setup;
    let bind = match (sides.tls, sides.downstream) {
        (false, Version::Http2) => " proto h2".to_owned(),
        (false, _) => String::new(),
        (true, version) => format!(
            " ssl crt {} alpn {} ssl-min-ver TLSv1.3",
            identity.both.display(),
            version.name()
        ),
    };
    let server = if sides.upstream == Version::Http2 { " proto h2" } else { "" };
    let limit = connections + 1024;
    let (global_log, log) = match profile {
        Profile::Plain => ("", "no log"),
        Profile::Observed => {
            ("    log stdout format raw local0\n", "log global\n    option httplog")
        }
    };
    format!(
        r"global
    nbthread 1
    maxconn {limit}
    no strict-limits
    tune.pool-low-fd-ratio 95
    tune.pool-high-fd-ratio 100
{global_log}
defaults
    mode http
    {log}
    timeout connect 5s
    timeout client {HOUR_S}s
    timeout server {HOUR_S}s
    timeout http-request {HOUR_S}s
    timeout http-keep-alive {HOUR_S}s
    http-reuse always

frontend downstream
    bind {listen} backlog 4096{bind}
    maxconn {limit}
    default_backend upstream

backend upstream
    server origin {origin}{server}
"
    )
}

/// An Envoy v3 bootstrap.
#[must_use]
pub fn envoy(setup: &Setup<'_>) -> String {
    let Setup { listen, directory, sides, identity, profile, .. } = setup;
    let codec = if sides.downstream == Version::Http2 { "HTTP2" } else { "HTTP1" };
    let transport = if sides.tls {
        format!(
            r#"
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: ["{}"]
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3 }}
            tls_certificates:
            - certificate_chain: {{ filename: {} }}
              private_key: {{ filename: {} }}"#,
            sides.downstream.name(),
            identity.certificate.display(),
            identity.key.display()
        )
    } else {
        String::new()
    };
    let upstream = match sides.upstream {
        Version::Http1 | Version::Rpc(_) => "",
        Version::Http2 => {
            r#"
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {}"#
        }
    };
    let (listen_address, listen_port) = (listen.ip(), listen.port());
    let (log, statistics, router) = match profile {
        Profile::Plain => (String::new(), "", "\n              dynamic_stats: false"),
        Profile::Observed => (
            format!(
                r#"
          access_log:
          - name: envoy.access_loggers.file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: {}/access.log"#,
                directory.display()
            ),
            "\n                stat_prefix: all",
            "",
        ),
    };
    format!(
        r#"static_resources:
  listeners:
  - name: downstream
    address:
      socket_address: {{ address: {listen_address}, port_value: {listen_port} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: downstream
          codec_type: {codec}
          generate_request_id: false{log}
          route_config:
            name: all
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}{statistics}
                route: {{ cluster: origin, timeout: 60s }}
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router{router}{transport}
{}"#,
        cluster(setup, upstream)
    )
}

/// The cluster of a bootstrap, without limits that are in the way; `options` are more of its lines.
pub(super) fn cluster(setup: &Setup<'_>, options: &str) -> String {
    let (address, port) = (setup.origin.ip(), setup.origin.port());
    format!(
        r"  clusters:
  - name: origin
    type: STATIC
    connect_timeout: 5s{options}
    circuit_breakers:
      thresholds:
      - max_connections: 1000000
        max_pending_requests: 1000000
        max_requests: 1000000
    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: {{ address: {address}, port_value: {port} }}
"
    )
}

/// Envoy's file, or its like for RPC, and the section that only Outrigger has.
#[must_use]
pub fn outrigger(setup: &Setup<'_>) -> String {
    let bootstrap = match setup.sides.rpc() {
        None => envoy(setup),
        Some(rpc) => rpc::outrigger(setup, rpc),
    };
    bootstrap + &engine(setup.cpus)
}

/// The section that only Outrigger has.
fn engine(cpus: &[usize]) -> String {
    let list: Vec<String> = cpus.iter().map(ToString::to_string).collect();
    format!("engine:\n  shards: {}\n  cores: [{}]\n", list.len(), list.join(", "))
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::OnceLock;

    use super::*;
    use crate::variant::ProtocolName;

    static IDENTITY: OnceLock<Identity> = OnceLock::new();

    fn setup(profile: Profile) -> Setup<'static> {
        of(ProtocolName::Http1, profile)
    }

    pub(in crate::target) fn of(protocol: ProtocolName, profile: Profile) -> Setup<'static> {
        Setup {
            sides: protocol.sides(),
            identity: IDENTITY.get_or_init(|| Identity {
                certificate: "/dir/c.pem".into(),
                key: "/dir/k.pem".into(),
                both: "/dir/b.pem".into(),
            }),
            listen: "127.0.0.1:1000".parse().unwrap(),
            origin: "127.0.0.1:2000".parse().unwrap(),
            directory: Path::new("/dir"),
            profile,
            cpus: &[1, 3],
            connections: 512,
            streams: 1,
            lifetime_s: 60,
        }
    }

    #[test]
    fn nginx_text() {
        let text = nginx(&setup(Profile::Plain));
        for line in [
            "listen 127.0.0.1:1000 backlog=4096;",
            "server 127.0.0.1:2000;",
            "keepalive 576;",
            "worker_connections 2048;",
            "access_log off;",
            "proxy_http_version 1.1;",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(
            nginx(&setup(Profile::Observed))
                .contains("access_log /dir/access.log main buffer=64k flush=1s;")
        );
    }

    #[test]
    fn haproxy_text() {
        let text = haproxy(&setup(Profile::Plain));
        for line in ["bind 127.0.0.1:1000", "server origin 127.0.0.1:2000", "nbthread 1", "no log"]
        {
            assert!(text.contains(line), "{line} in {text}");
        }
        assert!(haproxy(&setup(Profile::Observed)).contains("log stdout format raw local0"));
    }

    #[test]
    fn outrigger_text_is_envoys_and_the_engine() {
        for profile in [Profile::Plain, Profile::Observed] {
            let text = outrigger(&setup(profile));
            let theirs = envoy(&setup(profile));
            assert_eq!(text.strip_prefix(&theirs), Some("engine:\n  shards: 2\n  cores: [1, 3]\n"));
            assert_eq!(theirs.contains("dynamic_stats: false"), profile == Profile::Plain);
            assert_eq!(theirs.contains("/dir/access.log"), profile == Profile::Observed);
            assert!(theirs.contains("generate_request_id: false"));
        }
    }

    #[test]
    fn versions_and_tls_where_they_belong() {
        use ProtocolName::{Grpc, H2H1, H2Tls, Http1, Https};
        for (protocol, nginx_lines, haproxy_lines, envoy_lines) in [
            (
                Http1,
                ["listen 127.0.0.1:1000 backlog", "proxy_pass http://origin;"],
                ["backlog 4096\n", "server origin 127.0.0.1:2000\n"],
                ["codec_type: HTTP1", "connect_timeout: 5s\n    circuit_breakers"],
            ),
            (
                Grpc,
                ["listen 127.0.0.1:1000 http2 backlog", "grpc_pass grpc://origin;"],
                ["backlog 4096 proto h2\n", "server origin 127.0.0.1:2000 proto h2\n"],
                ["codec_type: HTTP2", "http2_protocol_options: {}"],
            ),
            (
                H2H1,
                ["listen 127.0.0.1:1000 http2 backlog", "proxy_pass http://origin;"],
                ["backlog 4096 proto h2\n", "server origin 127.0.0.1:2000\n"],
                ["codec_type: HTTP2", "connect_timeout: 5s\n    circuit_breakers"],
            ),
            (
                Https,
                ["listen 127.0.0.1:1000 ssl backlog", "ssl_certificate_key /dir/k.pem;"],
                ["ssl crt /dir/b.pem alpn http/1.1 ssl-min-ver TLSv1.3\n", "server origin"],
                ["alpn_protocols: [\"http/1.1\"]", "private_key: { filename: /dir/k.pem }"],
            ),
            (
                H2Tls,
                ["listen 127.0.0.1:1000 ssl http2 backlog", "proxy_pass http://origin;"],
                ["ssl crt /dir/b.pem alpn h2 ssl-min-ver", "server origin 127.0.0.1:2000\n"],
                ["alpn_protocols: [\"h2\"]", "codec_type: HTTP2"],
            ),
        ] {
            let setup = of(protocol, Profile::Plain);
            let texts = [nginx(&setup), haproxy(&setup), envoy(&setup)];
            for (text, lines) in texts.iter().zip([nginx_lines, haproxy_lines, envoy_lines]) {
                for line in lines {
                    assert!(text.contains(line), "{protocol:?}: {line} in {text}");
                }
            }
            let Sides { tls, upstream, .. } = protocol.sides();
            assert_eq!(texts[0].contains("ssl_"), tls, "{protocol:?}");
            assert_eq!(texts[2].contains("transport_socket"), tls, "{protocol:?}");
            let http2 = upstream == Version::Http2;
            assert_eq!(texts[2].contains("explicit_http_config"), http2, "{protocol:?}");
        }
    }

    #[test]
    fn every_target_but_direct_starts_something() {
        assert_eq!(launch(Target::Direct, &setup(Profile::Plain)), None);
        let floor = launch(Target::Floor, &setup(Profile::Plain)).unwrap();
        assert_eq!(floor.arguments[..3], ["relay", "--listen", "127.0.0.1:1000"]);
        for (target, protocol) in [
            (Target::Outrigger, ProtocolName::Http1),
            (Target::Nginx, ProtocolName::Http1),
            (Target::Haproxy, ProtocolName::Http1),
            (Target::Envoy, ProtocolName::Http1),
            (Target::Outrigger, ProtocolName::Bolt),
            (Target::Mosn, ProtocolName::Bolt),
            (Target::Envoy, ProtocolName::Dubbo),
        ] {
            let launch = launch(target, &of(protocol, Profile::Plain)).unwrap();
            let path = launch.files[0].0.as_os_str();
            assert_eq!(launch.arguments.last().map(OsString::as_os_str), Some(path));
        }
    }
}
