//! The command line of the harness.

use std::{
    fs, io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    num::NonZeroU64,
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use clap::{Args, Parser, Subcommand};
use outrigger_perf::{
    check::{self, Finding, Verdict},
    compare::{self, Layout, RateOf},
    http2::wire::MESSAGE_PREFIX_BYTES,
    idle::{self, IdleOptions},
    load::{self, Outcome, Pace, Plan},
    origin,
    protocol::{
        AnyProtocol, Fault,
        http1::{Http1, Http1Options},
        http2::{Call, Http2, Http2Options, STREAMS_MAX},
        rpc::{RpcLoad, RpcOptions},
    },
    relay, report,
    rpc::Rpc,
    sys,
    target::{Locations, Profile, Target},
    tls::{self, Alpn, TlsClient},
    upgrade::{
        self,
        report::{Tongue, UpgradeCase},
    },
    variant::ProtocolName,
    xds::{
        self, Scenario, Variant,
        report::XdsReport,
        world::{COUNT_MAX, ENDPOINTS_MAX, Size},
    },
};
use serde::{Serialize, de::DeserializeOwned};
use signal_hook::consts::{SIGINT, SIGTERM};

type Failure = Box<dyn std::error::Error>;

/// Measures Outrigger beside its peers.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measure targets side by side under the same load.
    Compare(Box<CompareArgs>),
    /// Measure memory per idle connection, and CPU use at idle.
    Idle(IdleArgs),
    /// Measure configuration by xDS: a big one at the start, changes, and what they cost requests.
    Xds(Box<XdsArgs>),
    /// Replace processes under load, and count what that costs clients.
    Upgrade(Box<UpgradeArgs>),
    /// Judge what is required on what `compare`, `idle` and `xds` wrote.
    Check(CheckArgs),
    /// Load any server of HTTP/1.1 or HTTP/2, or one of Bolt or Dubbo that answers as `origin` does.
    Load(LoadArgs),
    /// Serve bodies of any size: /b/N answers with N bytes, /h1/N and /h2/N in that version only,
    /// and so do calls of Bolt and Dubbo for the method bodyN.
    Origin(OriginArgs),
    /// Relay to one upstream with the least work possible on io_uring: the floor.
    Relay(RelayArgs),
}

#[derive(Debug, Args)]
struct CompareArgs {
    /// Other proxies to measure, in the protocols they speak.
    #[arg(long, value_delimiter = ',', default_value = "nginx,haproxy,envoy,mosn")]
    peers: Vec<String>,
    /// What to measure besides peers: any of direct, floor, outrigger.
    #[arg(long, value_delimiter = ',', default_value = "direct,floor,outrigger")]
    targets: Vec<Target>,
    #[arg(long, value_delimiter = ',', default_value = "http1")]
    protocol: Vec<ProtocolName>,
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,512")]
    connections: Vec<usize>,
    /// Streams per connection, for protocols that have them; for Bolt and Dubbo calls in flight.
    #[arg(long, value_delimiter = ',', default_value = "16", value_parser = streams)]
    streams: Vec<usize>,
    /// Response body lengths; of messages for gRPC, of results for Bolt and Dubbo.
    #[arg(long, value_delimiter = ',', default_value = "128,16384,1048576")]
    body: Vec<usize>,
    /// Send POST requests with a body of so many bytes; for gRPC, Bolt and Dubbo the length of the
    /// call's body, otherwise that of the response.
    #[arg(long)]
    post: Option<usize>,
    /// Seconds of each measured window.
    #[arg(long, default_value_t = 3.0, value_parser = seconds)]
    duration: f64,
    /// Seconds of load before each window.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// Windows per case; results are medians over them.
    #[arg(long, default_value = "5")]
    repetitions: usize,
    /// shared: all on one CPU; split: the proxy on its own.
    #[arg(long, value_delimiter = ',', default_value = "shared")]
    layout: Vec<Layout>,
    /// observed: with access log and per-route statistics.
    #[arg(long, value_delimiter = ',', default_value = "plain")]
    profile: Vec<Profile>,
    /// Open loop at so many requests per second over all connections, instead of closed loop.
    #[arg(long)]
    rate: Option<NonZeroU64>,
    /// After the closed loop, open loop at a share of what a target did in it, for example mosn:0.5.
    #[arg(long, value_name = "TARGET:SHARE", conflicts_with = "rate", value_parser = rate_of)]
    rate_of: Option<RateOf>,
    /// Send open-loop requests at even distances instead of at random within their slots.
    #[arg(long)]
    no_jitter: bool,
    #[command(flatten)]
    locations: LocationArgs,
    /// Where to write the results.
    #[arg(long)]
    json: PathBuf,
    /// Where to write them as a page.
    #[arg(long)]
    html: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct LocationArgs {
    /// The outrigger binary; beside this program when not given.
    #[arg(long)]
    outrigger: Option<PathBuf>,
    /// The envoy binary; found through PATH and Python when not given.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// The mosn binary; found through PATH when not given.
    #[arg(long)]
    mosn: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct IdleArgs {
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    #[arg(long, value_delimiter = ',', default_value = "outrigger")]
    targets: Vec<Target>,
    #[arg(long, value_delimiter = ',', default_value = "http1")]
    protocol: Vec<ProtocolName>,
    /// Shards of Outrigger, at most one per CPU.
    #[arg(long, default_value_t = 2)]
    shards: usize,
    /// Seconds of watching CPU use.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    watch: f64,
    #[command(flatten)]
    locations: LocationArgs,
    /// Where to write the results.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct XdsArgs {
    /// Any of outrigger, envoy.
    #[arg(long, value_delimiter = ',', default_value = "outrigger,envoy")]
    targets: Vec<Target>,
    #[arg(long, value_delimiter = ',', default_value = "sotw,delta")]
    variants: Vec<Variant>,
    #[arg(long, value_delimiter = ',', default_value = "load,change,updates,lookup")]
    scenarios: Vec<Scenario>,
    #[arg(long, default_value_t = 10_000, value_parser = count)]
    clusters: usize,
    /// Endpoints of each cluster.
    #[arg(long, default_value_t = 5, value_parser = endpoints)]
    endpoints: usize,
    /// Routes, each in a virtual host of its own.
    #[arg(long, default_value_t = 10_000, value_parser = count)]
    routes: usize,
    /// Listeners, each with its share of the virtual hosts in a route configuration of its own.
    #[arg(long, default_value_t = 1, value_parser = listeners)]
    listeners: usize,
    /// Workers in `load` and `change`, at most one per CPU; elsewhere there is one.
    #[arg(long, default_value_t = 2)]
    shards: usize,
    /// Starts of each target in `load`, windows of each case in `lookup`.
    #[arg(long, default_value_t = 3)]
    repetitions: usize,
    /// Changes in `change`, one after the other.
    #[arg(long, default_value_t = 200, value_parser = count)]
    changes: usize,
    /// Connections of the load.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests per second in `updates`, over all connections.
    #[arg(long, default_value = "2000")]
    rate: NonZeroU64,
    /// Pushes per second in `updates`.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    updates: u32,
    /// Windows of a quarter of a second in `updates` without pushes, and as many with them.
    #[arg(long, default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=3600))]
    windows: u32,
    /// Seconds of each window in `lookup`.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    duration: f64,
    /// Seconds of load before each window.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// In `updates`: shared, all on one CPU; split, the proxy on its own.
    #[arg(long, default_value = "split")]
    layout: Layout,
    #[command(flatten)]
    locations: LocationArgs,
    /// Judge the results at once; the exit code is that of `check`.
    #[arg(long)]
    check: bool,
    /// Where to write the results.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct UpgradeArgs {
    /// Any of outrigger, envoy, haproxy, nginx, mosn.
    #[arg(long, value_delimiter = ',', default_value = "outrigger")]
    targets: Vec<Target>,
    /// Other proxies beside them, each by its own way to upgrade, in the protocols it has.
    #[arg(long, value_delimiter = ',')]
    peers: Vec<String>,
    #[arg(long, value_delimiter = ',', default_value = "http1,http2,bolt,dubbo,tcp")]
    protocol: Vec<Tongue>,
    /// Clients of each protocol: half of them quick, a quarter slow, a quarter with long contents.
    #[arg(long, default_value = "32", value_parser = clients)]
    connections: usize,
    /// Upgrades of each target, one after the other.
    #[arg(long, default_value = "10", value_parser = clap::value_parser!(u32).range(1..=10_000))]
    upgrades: u32,
    /// Timed requests per second of each protocol.
    #[arg(long, default_value = "200", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// The longest that the origin takes for a slow answer, in seconds; calls of RPC say that they wait 3.
    #[arg(long, default_value_t = 2.5, value_parser = patience)]
    slow: f64,
    /// Length of long contents.
    #[arg(long, default_value = "262144", value_parser = clap::value_parser!(u32).range(32..=4_194_304))]
    large: u32,
    /// Seconds of load before the first upgrade, and after the last.
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    calm: f64,
    /// Seconds between an upgrade's end and the next.
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    pause: f64,
    /// Seconds that an old process has at most, by its own option for that.
    #[arg(long, default_value = "5", value_parser = clap::value_parser!(u32).range(1..=3600))]
    drain_time_s: u32,
    /// Do not wait until the old process is gone: a third may start while the first drains.
    #[arg(long)]
    overlap: bool,
    /// Workers of each proxy.
    #[arg(long, default_value = "1", value_parser = clap::value_parser!(u32).range(1..=64))]
    shards: u32,
    /// Another outrigger binary: processes are of the one and of the other in turn.
    #[arg(long)]
    next: Option<PathBuf>,
    #[command(flatten)]
    locations: LocationArgs,
    /// Where to write the results.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct CheckArgs {
    /// What `compare` wrote; several runs together are judged as one.
    #[arg(long)]
    json: Vec<PathBuf>,
    /// What `idle` wrote; also several.
    #[arg(long)]
    idle: Vec<PathBuf>,
    /// What `xds` wrote; also several.
    #[arg(long)]
    xds: Vec<PathBuf>,
    /// Fail also when a requirement was not measured.
    #[arg(long)]
    complete: bool,
}

#[derive(Debug, Args)]
struct LoadArgs {
    /// For example http://127.0.0.1:8080/path; https is TLS 1.3 without a look at the certificate;
    /// bolt://HOST and dubbo://HOST are RPC
    #[arg(long)]
    target: String,
    /// HTTP/2: with prior knowledge, or by ALPN over TLS.
    #[arg(long)]
    http2: bool,
    /// Unary gRPC calls with messages of so many bytes, over HTTP/2.
    #[arg(long, conflicts_with = "post")]
    grpc: Option<usize>,
    /// Streams per connection, with HTTP/2; calls in flight, with RPC.
    #[arg(long, default_value = "1", value_parser = streams)]
    streams: usize,
    /// A new connection for each request.
    #[arg(long, conflicts_with = "rate")]
    fresh: bool,
    #[arg(long, default_value_t = 16)]
    connections: usize,
    #[arg(long, default_value_t = 5.0, value_parser = seconds)]
    duration: f64,
    #[arg(long, default_value_t = 1.0, value_parser = seconds)]
    warmup: f64,
    /// Open loop at so many requests per second over all connections, instead of closed loop.
    #[arg(long)]
    rate: Option<NonZeroU64>,
    /// Send open-loop requests at even distances instead of at random within their slots.
    #[arg(long)]
    no_jitter: bool,
    /// Send POST requests with a body of so many bytes; with RPC, calls.
    #[arg(long)]
    post: Option<usize>,
    /// Length that every response body must have; of the message for gRPC. Calls of RPC ask for it.
    #[arg(long)]
    expect_body: Option<u64>,
    /// Seconds after which an unanswered request has failed.
    #[arg(long, default_value_t = 10.0, value_parser = seconds)]
    timeout: f64,
    /// CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Where to write the results.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct OriginArgs {
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// Listen at all loopback addresses, 127.0.0.0/8, with the port of --listen.
    #[arg(long)]
    all_loopback: bool,
    /// Body length where the path names none.
    #[arg(long, default_value_t = 128)]
    body: usize,
    /// Microseconds before each answer.
    #[arg(long, default_value_t = 0)]
    delay_us: u64,
    /// Certificate chain (PEM) for clients that begin TLS.
    #[arg(long, requires = "key")]
    certificate: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(long, requires = "certificate")]
    key: Option<PathBuf>,
    /// CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// End after so many seconds.
    #[arg(long)]
    lifetime_s: Option<u64>,
}

#[derive(Debug, Args)]
struct RelayArgs {
    #[arg(long)]
    listen: SocketAddr,
    #[arg(long)]
    upstream: SocketAddr,
    /// CPU to run on.
    #[arg(long)]
    cpu: Option<usize>,
    /// End after so many seconds.
    #[arg(long)]
    lifetime_s: Option<u64>,
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("outrigger-perf: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Compare(args) => run_compare(*args),
        Command::Idle(args) => run_idle(args),
        Command::Xds(args) => run_xds(*args),
        Command::Upgrade(args) => run_upgrade(*args),
        Command::Check(args) => run_check(&args),
        Command::Load(args) => run_load(&args),
        Command::Origin(args) => {
            let listener = listen(args.listen, args.all_loopback, args.cpu, args.lifetime_s)?;
            let delay = Duration::from_micros(args.delay_us);
            let tls = match (&args.certificate, &args.key) {
                (Some(certificate), Some(key)) => Some(tls::server_config(certificate, key)?),
                _ => None,
            };
            origin::serve(&listener, origin::Options { body_bytes: args.body, delay, tls })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Relay(args) => {
            let listener = listen(args.listen, false, args.cpu, args.lifetime_s)?;
            relay::relay(&listener, args.upstream)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What a server of ours does first. It says where it listens, for callers that gave port 0.
fn listen(
    address: SocketAddr,
    all_loopback: bool,
    cpu: Option<usize>,
    lifetime_s: Option<u64>,
) -> io::Result<TcpListener> {
    const FILES: u64 = 65_536;
    sys::raise_open_files(FILES)?;
    if let Some(seconds) = lifetime_s {
        sys::end_after(Duration::from_secs(seconds));
    }
    cpu.map_or(Ok(()), sys::pin)?;
    let listener =
        if all_loopback { sys::listen_on_loopback(address.port()) } else { sys::listen(address) }?;
    println!("listening on {}", listener.local_addr()?);
    Ok(listener)
}

/// Set by SIGINT and SIGTERM; the second one ends the process at once.
fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn run_compare(args: CompareArgs) -> Result<ExitCode, Failure> {
    let mut targets = args.targets;
    for peer in args.peers.iter().filter(|peer| !peer.is_empty()) {
        targets.push(clap::ValueEnum::from_str(peer, true)?);
    }
    targets.sort_unstable();
    targets.dedup();
    let options = compare::Options {
        targets,
        protocols: args.protocol,
        connections: sorted(args.connections),
        streams: sorted(args.streams),
        bodies: sorted(args.body),
        layouts: args.layout,
        profiles: args.profile,
        rate: args.rate,
        rate_of: args.rate_of,
        jitter: !args.no_jitter,
        post_bytes: args.post,
        warmup: Duration::from_secs_f64(args.warmup),
        duration: Duration::from_secs_f64(args.duration),
        repetitions: args.repetitions.max(1),
        locations: args.locations.into(),
        command: command_line(),
    };
    let report = compare::compare(&options, stop_flag()?.as_ref())?;
    print!("{}", report::table::render(&report));
    write_json(&args.json, &report)?;
    if let Some(path) = args.html {
        fs::write(path, report::html::render(&report)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_idle(args: IdleArgs) -> Result<ExitCode, Failure> {
    let options = IdleOptions {
        targets: args.targets,
        protocols: args.protocol,
        connections: args.connections,
        shards: args.shards,
        watch: Duration::from_secs_f64(args.watch),
        locations: args.locations.into(),
        command: command_line(),
    };
    let report = idle::idle(&options, stop_flag()?.as_ref())?;
    print!("{}", idle::render(&report));
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn run_xds(args: XdsArgs) -> Result<ExitCode, Failure> {
    let options = xds::Options {
        targets: sorted(args.targets),
        variants: sorted(args.variants),
        scenarios: sorted(args.scenarios),
        size: Size {
            clusters: args.clusters,
            endpoints: args.endpoints,
            virtual_hosts: args.routes,
            listeners: args.listeners.min(args.routes),
        },
        shards: args.shards,
        repetitions: args.repetitions.max(1),
        changes: args.changes,
        connections: args.connections.max(1),
        rate: args.rate,
        updates_per_second: args.updates,
        windows: args.windows,
        duration: Duration::from_secs_f64(args.duration),
        warmup: Duration::from_secs_f64(args.warmup),
        layout: args.layout,
        locations: args.locations.into(),
        command: command_line(),
    };
    let report = xds::run(&options, stop_flag()?.as_ref())?;
    print!("{}", xds::report::render(&report));
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    if args.check {
        return Ok(judge(&xds::check::check(&[report]), false));
    }
    Ok(ExitCode::SUCCESS)
}

/// Fails if Outrigger is not flawless; what peers do is shown.
fn run_upgrade(args: UpgradeArgs) -> Result<ExitCode, Failure> {
    let mut targets = args.targets;
    for peer in args.peers.iter().filter(|peer| !peer.is_empty()) {
        targets.push(clap::ValueEnum::from_str(peer, true)?);
    }
    if let Some(next) = args.next.as_ref().filter(|next| !next.is_file()) {
        return Err(format!("--next {}: no such file", next.display()).into());
    }
    let options = upgrade::Options {
        targets: sorted(targets),
        protocols: sorted(args.protocol),
        connections: args.connections,
        upgrades: args.upgrades,
        rate: args.rate,
        slow: Duration::from_secs_f64(args.slow),
        large_bytes: args.large,
        calm: Duration::from_secs_f64(args.calm),
        pause: Duration::from_secs_f64(args.pause),
        drain: Duration::from_secs(args.drain_time_s.into()),
        overlap: args.overlap,
        shards: args.shards,
        locations: args.locations.into(),
        next: args.next,
        command: command_line(),
    };
    let report = upgrade::run(&options, stop_flag()?.as_ref())?;
    print!("{}", upgrade::report::render(&report));
    if let Some(path) = &args.json {
        write_json(path, &report)?;
    }
    let ours = report.cases.iter().filter(|case| case.target == Target::Outrigger.name());
    let is_flawless = ours.clone().all(UpgradeCase::is_flawless);
    Ok(if is_flawless { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_check(args: &CheckArgs) -> Result<ExitCode, Failure> {
    let mut findings = Vec::new();
    if !args.json.is_empty() {
        findings.extend(check::check(&read_all(&args.json)?));
    }
    if !args.idle.is_empty() {
        findings.extend(check::check_idle(&read_all(&args.idle)?));
    }
    if !args.xds.is_empty() {
        findings.extend(xds::check::check(&read_all::<XdsReport>(&args.xds)?));
    }
    if findings.is_empty() {
        return Err("nothing to check: give --json FILE, --idle FILE, --xds FILE or several".into());
    }
    Ok(judge(&findings, args.complete))
}

/// Prints findings. With `complete`, what was not measured fails too.
fn judge(findings: &[Finding], complete: bool) -> ExitCode {
    for finding in findings {
        println!("{finding}");
    }
    let failed = findings.iter().any(|finding| match finding.verdict {
        Verdict::Met(_) => false,
        Verdict::Missed(_) => true,
        Verdict::NotMeasured(_) => complete,
    });
    if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

fn read_all<T: DeserializeOwned>(paths: &[PathBuf]) -> Result<Vec<T>, Failure> {
    let read = |path: &PathBuf| -> Result<T, Failure> {
        let named = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let text = fs::read(path).map_err(|error| named(&error))?;
        Ok(serde_json::from_slice(&text).map_err(|error| named(&error))?)
    };
    paths.iter().map(read).collect()
}

fn run_load(args: &LoadArgs) -> Result<ExitCode, Failure> {
    let Url { scheme, host, path } = split_url(&args.target)?;
    let secure = scheme == Scheme::Https;
    let http2 = args.http2 || args.grpc.is_some();
    let target = host.to_socket_addrs()?.next().ok_or("the target has no address")?;
    if let Some(cpu) = args.cpu {
        sys::pin(cpu)?;
    }
    sys::precise_timers();
    compare::ensure_files(args.connections as u64 + 64)?;
    let plan = Plan {
        target,
        sources: Vec::new(),
        connections: args.connections,
        tls: match (secure, http2) {
            (false, _) => None,
            (true, false) => Some(TlsClient::new(Alpn::Http1)?),
            (true, true) => Some(TlsClient::new(Alpn::Http2)?),
        },
        fresh: args.fresh,
        pace: match args.rate {
            None => Pace::Closed,
            Some(rate) => Pace::Open { rate, jitter: !args.no_jitter },
        },
        warmup: Duration::from_secs_f64(args.warmup),
        duration: Duration::from_secs_f64(args.duration),
        parts: 0,
        request_timeout: Duration::from_secs_f64(args.timeout),
    };
    let in_flight = if args.fresh { 1 } else { args.streams };
    let protocol = if let Scheme::Rpc(rpc) = scheme {
        const BYTES: usize = 128;
        let response_bytes = args.expect_body.map_or(Ok(BYTES), usize::try_from)?;
        AnyProtocol::Rpc(RpcLoad::new(RpcOptions {
            rpc,
            request_bytes: args.post.unwrap_or(BYTES),
            response_bytes,
            exact: args.expect_body.is_some(),
            in_flight,
            close: args.fresh,
        }))
    } else if http2 {
        AnyProtocol::Http2(Http2::new(Http2Options {
            secure,
            authority: host,
            path,
            streams: in_flight,
            call: match (args.grpc, args.post) {
                (Some(bytes), _) => Call::Grpc(bytes),
                (None, Some(bytes)) => Call::Post(bytes),
                (None, None) => Call::Get,
            },
            expected_body: match (args.grpc, args.expect_body) {
                (Some(_), Some(bytes)) => Some(bytes + MESSAGE_PREFIX_BYTES as u64),
                (_, bytes) => bytes,
            },
            close: args.fresh,
        }))
    } else {
        AnyProtocol::Http1(Http1::new(&Http1Options {
            host,
            path,
            post_bytes: args.post,
            expected_body: args.expect_body,
            close: args.fresh,
        }))
    };
    let outcome = load::run(&plan, &protocol, stop_flag()?.as_ref(), &mut |_| Ok(()))?;
    let summary = LoadSummary::new(&outcome);
    println!("{}", serde_json::to_string_pretty(&summary)?);
    if let Some(path) = &args.json {
        write_json(path, &summary)?;
    }
    Ok(if outcome.completed == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// What `load` prints.
#[derive(Debug, Serialize)]
struct LoadSummary {
    completed: u64,
    rps: f64,
    bytes_per_second: f64,
    latency_us: report::Percentiles,
    /// How late open-loop requests were sent.
    lateness_us: Option<report::Percentiles>,
    errors: u64,
    error_kinds: std::collections::BTreeMap<Fault, u64>,
    errors_in_warmup: u64,
    reconnects: u64,
}

impl LoadSummary {
    fn new(outcome: &Outcome) -> Self {
        let kinds = Fault::ALL.into_iter().map(|fault| (fault, outcome.faults[fault.index()]));
        Self {
            completed: outcome.completed,
            rps: outcome.rate(),
            bytes_per_second: outcome.body_bytes as f64 / outcome.elapsed.as_secs_f64(),
            latency_us: report::Percentiles::of(&outcome.latency),
            lateness_us: (!outcome.lateness.is_empty())
                .then(|| report::Percentiles::of(&outcome.lateness)),
            errors: outcome.errors(),
            error_kinds: kinds.filter(|(_, count)| *count > 0).collect(),
            errors_in_warmup: outcome.faults_in_warmup,
            reconnects: outcome.reconnects,
        }
    }
}

impl From<LocationArgs> for Locations {
    fn from(args: LocationArgs) -> Self {
        Self { outrigger: args.outrigger, envoy: args.envoy, mosn: args.mosn }
    }
}

/// Whom to load.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    scheme: Scheme,
    /// With port.
    host: String,
    path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    Rpc(Rpc),
}

fn split_url(url: &str) -> Result<Url, Failure> {
    /// What begins URLs, and the usual ports.
    const SCHEMES: [(&str, Scheme, u16); 4] = [
        ("http://", Scheme::Http, 80),
        ("https://", Scheme::Https, 443),
        ("bolt://", Scheme::Rpc(Rpc::Bolt), 12200),
        ("dubbo://", Scheme::Rpc(Rpc::Dubbo), 20880),
    ];
    let split = SCHEMES
        .iter()
        .find_map(|(begin, scheme, port)| Some((*scheme, *port, url.strip_prefix(begin)?)));
    let Some((scheme, port, rest)) = split else {
        let known = SCHEMES.map(|(begin, ..)| begin).join(", ");
        return Err(format!("the target must begin with one of {known}").into());
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    if host.is_empty() || url.bytes().any(|byte| byte.is_ascii_control() || byte == b' ') {
        return Err("the target must be SCHEME://HOST[:PORT][/PATH]".into());
    }
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let host = if has_port { host.to_owned() } else { format!("{host}:{port}") };
    let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
    Ok(Url { scheme, host, path })
}

fn rate_of(text: &str) -> Result<RateOf, String> {
    const MOST: f64 = 100.0;
    let parsed = text.split_once(':').and_then(|(target, share)| {
        let target = <Target as clap::ValueEnum>::from_str(target, true).ok()?;
        let share = share.parse().ok().filter(|share| *share > 0.0 && *share <= MOST)?;
        Some(RateOf { target, share })
    });
    parsed.ok_or_else(|| format!("must be TARGET:SHARE, the share above 0 and at most {MOST}"))
}

fn streams(text: &str) -> Result<usize, String> {
    up_to(text, STREAMS_MAX)
}

fn seconds(text: &str) -> Result<f64, String> {
    const MOST: f64 = 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=MOST).contains(&seconds) => Ok(seconds),
        _ => Err(format!("must be a number from 0 to {MOST}")),
    }
}

fn patience(text: &str) -> Result<f64, String> {
    const MOST: f64 = 2.5;
    seconds(text).ok().filter(|seconds| *seconds <= MOST).ok_or(format!("at most {MOST}"))
}

fn count(text: &str) -> Result<usize, String> {
    up_to(text, COUNT_MAX)
}

fn endpoints(text: &str) -> Result<usize, String> {
    up_to(text, ENDPOINTS_MAX)
}

fn clients(text: &str) -> Result<usize, String> {
    const MOST: usize = 100_000;
    match up_to(text, MOST)? {
        0..4 => Err("must be at least 4: there are four kinds of clients".to_owned()),
        number => Ok(number),
    }
}

fn listeners(text: &str) -> Result<usize, String> {
    const MOST: usize = 100;
    up_to(text, MOST)
}

fn up_to(text: &str, most: usize) -> Result<usize, String> {
    match text.parse() {
        Ok(number) if (1..=most).contains(&number) => Ok(number),
        _ => Err(format!("must be a number from 1 to {most}")),
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}

/// The arguments as given, without the path of the program.
fn command_line() -> String {
    std::env::args().skip(1).collect::<Vec<_>>().join(" ")
}

fn write_json(path: &PathBuf, value: &impl Serialize) -> Result<(), Failure> {
    let mut text = serde_json::to_vec_pretty(value)?;
    text.push(b'\n');
    fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Cli as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn urls() {
        let split = |url| split_url(url).ok();
        let url = |scheme, host: &str, path: &str| {
            Some(Url { scheme, host: host.to_owned(), path: path.to_owned() })
        };
        assert_eq!(split("http://a:1/x?y"), url(Scheme::Http, "a:1", "/x?y"));
        assert_eq!(split("http://a"), url(Scheme::Http, "a:80", "/"));
        assert_eq!(split("http://[::1]:7"), url(Scheme::Http, "[::1]:7", "/"));
        assert_eq!(split("https://a/"), url(Scheme::Https, "a:443", "/"));
        assert_eq!(split("bolt://a"), url(Scheme::Rpc(Rpc::Bolt), "a:12200", "/"));
        assert_eq!(split("dubbo://a:1"), url(Scheme::Rpc(Rpc::Dubbo), "a:1", "/"));
        assert_eq!(split("ftp://a/"), None);
        assert_eq!(split("http:///x"), None);
        assert_eq!(split("http://a/x y"), None);
    }

    #[test]
    fn shares_of_a_rate() {
        assert_eq!(rate_of("mosn:0.5"), Ok(RateOf { target: Target::Mosn, share: 0.5 }));
        for text in ["mosn", "nobody:0.5", "mosn:0", "mosn:-1", "mosn:x", "mosn:101"] {
            assert!(rate_of(text).is_err(), "{text}");
        }
    }
}
