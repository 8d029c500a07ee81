//! A proxy started for these measurements: its bootstrap, and when it is ready.
//!
//! Outrigger and Envoy get the same bootstrap, as elsewhere in the harness; Outrigger's `engine`
//! section and Envoy's `--concurrency` give both as many workers as there are CPUs in the list.

use std::{
    fmt::Write,
    io,
    net::SocketAddr,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::{Variant, XdsError, ads::Ads, http};
use crate::{
    compare::{CompareError, free_address, io_error},
    target::{
        Target,
        config::{Launch, bootstrapped},
        server::{PAUSE, Scratch, Server, ServerError},
    },
};

/// A running proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    pub(super) target: Target,
    pub(super) server: Server,
    pub(super) admin: SocketAddr,
    /// Just before it was started.
    pub(super) begun: Instant,
}

/// Where a proxy has its configuration from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    /// A management server.
    Ads(SocketAddr, Variant),
    /// These `static_resources`.
    Fixed(&'a str),
}

/// How a proxy is to run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Setup<'a> {
    pub(super) target: Target,
    pub(super) program: &'a Path,
    /// CPUs of its workers.
    pub(super) cpus: &'a [usize],
    /// A CPU for all of it, or `None` for any.
    pub(super) pin: Option<usize>,
}

/// When a proxy was ready, each counted from its start.
#[derive(Debug, Clone, Copy)]
pub(super) struct Readiness {
    /// Its admin interface said so.
    pub(super) said: Duration,
    /// It answered a request by its last virtual host.
    pub(super) answered: Duration,
}

/// Time for a proxy to become ready.
pub(super) const READY_TIME: Duration = Duration::from_secs(120);

impl Proxy {
    /// Starts a proxy and waits for nothing.
    ///
    /// # Errors
    ///
    /// That it can't be started.
    pub(super) fn start(setup: &Setup<'_>, source: Source<'_>) -> Result<Self, XdsError> {
        let Setup { target, program, cpus, pin } = *setup;
        let directory = Scratch::new().map_err(io_error("making a temporary directory"))?;
        let admin = free_address()?;
        let launch = launch(target, cpus, directory.path(), admin, source);
        let begun = Instant::now();
        let server = Server::spawn(target.name(), program, &launch, directory, pin)
            .map_err(CompareError::from)?;
        Ok(Self { target, server, admin, begun })
    }

    /// Waits until the proxy says that it is ready, and answers requests for these authorities at
    /// these addresses.
    ///
    /// # Errors
    ///
    /// That it ended, did not become ready in time, or refused what the management server sent.
    pub(super) fn wait_until_ready(
        &mut self,
        questions: &[(SocketAddr, String)],
        ads: Option<&Ads>,
        stop: &AtomicBool,
    ) -> Result<Readiness, XdsError> {
        let (mut said, mut answered) = (None, None);
        let mut open = questions.iter();
        let mut question = open.next();
        let mut refusal = String::new();
        while self.begun.elapsed() < READY_TIME {
            self.server.check().map_err(CompareError::from)?;
            if let Some(words) = ads.and_then(|ads| ads.log().complaint.clone()) {
                return Err(XdsError::Refused { target: self.target, words });
            }
            if stop.load(Ordering::Relaxed) {
                return Err(CompareError::Interrupted.into());
            }
            if said.is_none() {
                match is_ok(self.admin, "admin", "/ready") {
                    Ok(()) => said = Some(self.begun.elapsed()),
                    Err(error) => refusal = format!("/ready: {error}"),
                }
            }
            while let Some((address, authority)) = question {
                match is_ok(*address, authority, "/") {
                    Ok(()) => question = open.next(),
                    Err(error) => {
                        refusal = format!("{authority}: {error}");
                        break;
                    }
                }
            }
            if question.is_none() {
                answered.get_or_insert_with(|| self.begun.elapsed());
            }
            if let (Some(said), Some(answered)) = (said, answered) {
                return Ok(Readiness { said, answered });
            }
            thread::sleep(PAUSE);
        }
        Err(CompareError::from(self.silent(refusal)).into())
    }

    /// The median and the 99 % point of a histogram of the proxy's, in its own unit; `None` where it
    /// has none of that name or nothing in it.
    pub(super) fn histogram(&self, name: &str) -> Option<(f64, f64)> {
        /// Many clusters have many statistics.
        const PATIENCE: Duration = Duration::from_secs(60);
        let path = format!("/stats?filter=^{name}$");
        let answer = http::get(self.admin, "admin", &path, PATIENCE).ok()?;
        quantiles(&String::from_utf8_lossy(&answer.body), name)
    }

    fn silent(&self, refusal: String) -> ServerError {
        self.server.silent(READY_TIME, refusal)
    }
}

fn is_ok(address: SocketAddr, authority: &str, path: &str) -> io::Result<()> {
    /// A proxy that has no time yet is asked again.
    const PATIENCE: Duration = Duration::from_secs(2);
    match http::get(address, authority, path, PATIENCE)?.status {
        200 => Ok(()),
        status => Err(io::Error::other(format!("status {status}"))),
    }
}

/// Reads `name: P0(interval,all) ... P50(...) ... P99(...) ...`.
fn quantiles(text: &str, name: &str) -> Option<(f64, f64)> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let quantile = |percent: &str| {
        let found = line.split_whitespace().find_map(|word| word.strip_prefix(percent))?;
        let (_, all) = found.strip_suffix(')')?.split_once(',')?;
        all.parse().ok()
    };
    Some((quantile("P50(")?, quantile("P99(")?))
}

fn launch(
    target: Target,
    cpus: &[usize],
    directory: &Path,
    admin: SocketAddr,
    source: Source<'_>,
) -> Launch {
    let mut text = format!(
        "node: {{ id: outrigger-perf, cluster: outrigger-perf }}\nadmin:\n  address: {}\n",
        address(admin)
    );
    match source {
        Source::Fixed(resources) => text += resources,
        // Writing to a String can't fail.
        Source::Ads(server, variant) => {
            let _ = write!(
                text,
                r#"dynamic_resources:
  ads_config:
    api_type: {}
    transport_api_version: V3
    set_node_on_first_message_only: true
    grpc_services:
    - envoy_grpc: {{ cluster_name: xds }}
  cds_config: {{ ads: {{}}, resource_api_version: V3 }}
  lds_config: {{ ads: {{}}, resource_api_version: V3 }}
static_resources:
  clusters:
  - name: xds
    type: STATIC
    connect_timeout: 5s
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {{}}
    load_assignment:
      cluster_name: xds
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {}
"#,
                variant.api_type(),
                address(server)
            );
        }
    }
    bootstrapped(target, cpus, directory, text)
}

fn address(address: SocketAddr) -> String {
    let (ip, port) = (address.ip(), address.port());
    format!("{{ socket_address: {{ address: {ip}, port_value: {port} }} }}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_quantiles_of_its_own_name_alone() {
        let text = "x.apply_time_more: P50(1,1) P99(1,1)\n\
                    x.apply_time: P0(nan,1) P50(nan,2.5) P95(nan,3) P99(nan,4) P99.9(nan,9)\n";
        assert_eq!(quantiles(text, "x.apply_time"), Some((2.5, 4.0)));
        assert_eq!(quantiles("x.apply_time: No recorded values\n", "x.apply_time"), None);
        assert_eq!(quantiles("", "x.apply_time"), None);
    }

    #[test]
    fn one_bootstrap_for_both() {
        let directory = Path::new("/dir");
        let admin = "127.0.0.1:1".parse().unwrap();
        let source = Source::Ads("127.0.0.1:2".parse().unwrap(), Variant::Delta);
        let text = |target| launch(target, &[0, 1], directory, admin, source).files.remove(0).1;
        let theirs = text(Target::Envoy);
        assert!(theirs.contains("api_type: DELTA_GRPC") && theirs.contains("port_value: 2 }"));
        let ours = text(Target::Outrigger);
        assert_eq!(ours.strip_prefix(&theirs), Some("engine:\n  shards: 2\n  cores: [0, 1]\n"));
    }
}
