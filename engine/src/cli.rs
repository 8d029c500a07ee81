//! The command line, parsed into what the process is to do.
//!
//! Options are Envoy's wherever Envoy has them, so that supervisors written for it (and their
//! habits) work unchanged. [`Invocation`] has one variant per way to run, each with exactly what it
//! needs: a combination that makes no sense does not get past parsing.

use std::env;
use std::ffi::OsString;
use std::fmt::{self, Display};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use outrigger_xds::bootstrap::{self, AddressError, LoadError, Source};
use outrigger_xds::environment::node_metadata;
use outrigger_xds::snapshot::access_log::Sink as LogTarget;
use outrigger_xds::source::Format;
use serde_json::{Value, json};
use thiserror::Error;

use crate::control::hand_over::operator::Operation;
use crate::logging::{self, ComponentLevel, ComponentLevelError, Level, Pattern};

/// What the process is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Invocation {
    /// Serve the built-in demonstration.
    Demo(Process),
    /// Forward HTTP from one address to another.
    Forward(Forward, Process),
    /// Serve a configuration.
    Serve(ConfigSource, Process),
    /// Check a configuration and exit.
    Validate(ConfigSource, Process),
    /// Have the running process do something.
    Operate(Operation, ControlSocket, Process),
}

/// Where the running process is found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ControlSocket {
    /// At this path.
    At(PathBuf),
    /// Where `engine.upgrade.socket` of a configuration says.
    In(ConfigSource),
}

impl Invocation {
    /// Reads the process's own arguments; prints help, version or an error and exits as asked.
    pub fn from_process() -> Invocation {
        Invocation::parse_from(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    /// Reads arguments, the program's name first.
    pub fn parse_from<T: Into<OsString> + Clone>(
        arguments: impl IntoIterator<Item = T>,
    ) -> Result<Invocation, clap::Error> {
        let options = Options::try_parse_from(arguments)?;
        let process = options.process();
        if let Some(tool) = options.tool {
            let (operation, socket) = tool.parse();
            return Ok(Invocation::Operate(operation, socket, process));
        }
        let config = ConfigSource::of(options.source.config_path, options.source.config_yaml);
        let forward = options.source.listen.zip(options.source.upstream);
        Ok(match (options.mode, config, forward) {
            (Mode::Serve, Some(config), _) => Invocation::Serve(config, process),
            (Mode::Validate, Some(config), _) => Invocation::Validate(config, process),
            (Mode::Serve, None, Some((listen, upstream))) => {
                let admin = options.source.admin;
                Invocation::Forward(Forward { listen, upstream, admin }, process)
            }
            (Mode::Serve, None, None) => Invocation::Demo(process),
            (Mode::Validate, None, _) => {
                let message = "--mode validate needs --config-path or --config-yaml";
                return Err(Options::command().error(ErrorKind::MissingRequiredArgument, message));
            }
        })
    }

    /// What does not depend on the way to run.
    pub fn process(&self) -> &Process {
        match self {
            Invocation::Demo(process)
            | Invocation::Forward(_, process)
            | Invocation::Serve(_, process)
            | Invocation::Validate(_, process)
            | Invocation::Operate(_, _, process) => process,
        }
    }
}

/// Where the configuration is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ConfigSource {
    /// In a file, YAML or JSON.
    File(PathBuf),
    /// In the argument itself.
    Inline(String),
    /// In a file, with the argument merged over it.
    Merged {
        /// The file.
        file: PathBuf,
        /// The argument.
        inline: String,
    },
}

impl ConfigSource {
    /// The texts to load, with what the environment says of the node. Reads the file.
    pub fn read(&self) -> Result<Source, LoadError> {
        let source = match self {
            ConfigSource::File(file) => Source::file(file)?,
            ConfigSource::Inline(yaml) => Source::text(INLINE_NAME, yaml, Format::Yaml),
            ConfigSource::Merged { file, inline } => {
                Source::file(file)?.with_yaml(INLINE_NAME, inline)
            }
        };
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        let metadata = node_metadata(env::vars_os().filter_map(text))?;
        if metadata.is_empty() {
            return Ok(source);
        }
        let node = json!({ "node": { "metadata": metadata } });
        Ok(source.with_yaml("the environment", node.to_string()))
    }

    fn of(file: Option<PathBuf>, inline: Option<String>) -> Option<ConfigSource> {
        match (file, inline) {
            (Some(file), Some(inline)) => Some(ConfigSource::Merged { file, inline }),
            (Some(file), None) => Some(ConfigSource::File(file)),
            (None, Some(inline)) => Some(ConfigSource::Inline(inline)),
            (None, None) => None,
        }
    }
}

/// Forwarding without a configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Forward {
    /// Where to accept.
    pub listen: Endpoint,
    /// Where to send requests.
    pub upstream: Endpoint,
    /// Where to serve the admin interface, if at all.
    pub admin: Option<Endpoint>,
}

impl Forward {
    /// The configuration to load.
    pub fn source(&self) -> Result<Source, AddressError> {
        let source = bootstrap::simple(&self.listen.to_string(), &self.upstream.to_string())?;
        Ok(match &self.admin {
            None => source,
            Some(admin) => {
                let admin = json!({"admin": {"address": admin.to_json()}});
                source.with_yaml("--admin", admin.to_string())
            }
        })
    }
}

/// An address on the command line: `127.0.0.1:80`, `[::1]:80`, `:80`, `name:80`, `unix:/path`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// IP address and port; `:80` is every IPv4 address.
    Ip(SocketAddr),
    /// A name to be resolved, and a port.
    Name {
        /// The name.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket; abstract if the path begins with `@`.
    Unix(String),
}

impl Endpoint {
    /// As an `envoy.config.core.v3.Address`.
    fn to_json(&self) -> Value {
        let socket = |host: &str, port: u16| json!({"socket_address": {"address": host, "port_value": port}});
        match self {
            Endpoint::Ip(address) => socket(&address.ip().to_string(), address.port()),
            Endpoint::Name { host, port } => socket(host, *port),
            Endpoint::Unix(path) => json!({"pipe": {"path": path}}),
        }
    }
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Endpoint, EndpointError> {
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" | "@" => Err(EndpointError::EmptyPath),
                path => Ok(Endpoint::Unix(path.to_owned())),
            };
        }
        if let Ok(address) = text.parse() {
            return Ok(Endpoint::Ip(address));
        }
        let (host, port) = text.rsplit_once(':').ok_or(EndpointError::NoPort)?;
        let port = port.parse().map_err(|_| EndpointError::BadPort(port.to_owned()))?;
        match host {
            "" => Ok(Endpoint::Ip(SocketAddr::from(([0, 0, 0, 0], port)))),
            host if is_host_name(host) => Ok(Endpoint::Name { host: host.to_owned(), port }),
            host => Err(EndpointError::BadHost(host.to_owned())),
        }
    }
}

impl Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Ip(address) => address.fmt(f),
            Endpoint::Name { host, port } => write!(f, "{host}:{port}"),
            Endpoint::Unix(path) => write!(f, "unix:{path}"),
        }
    }
}

/// What is wrong with an address.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum EndpointError {
    /// The host is neither an IP address nor a name.
    #[error("{0:?} is neither an IP address nor a host name (IPv6 goes in brackets)")]
    BadHost(String),
    /// The port is no number up to 65535.
    #[error("{0:?} is not a port")]
    BadPort(String),
    /// `unix:` and nothing more.
    #[error("unix: needs a path")]
    EmptyPath,
    /// No `:`.
    #[error("the port is missing (ADDRESS:PORT)")]
    NoPort,
}

/// What does not depend on the way to run.
#[derive(Clone, Debug, PartialEq)]
pub struct Process {
    /// Shards wanted, at least 1; `None` is for the configuration, else the machine, to say.
    pub concurrency: Option<u32>,
    /// How draining goes.
    pub drain: Drain,
    /// After this long a predecessor is to be gone.
    pub parent_shutdown_time: Duration,
    /// Which local address counts as the host's own.
    pub local_address_ip_version: IpVersion,
    /// Longest time an access log line waits to be written.
    pub file_flush_interval: Duration,
    /// What unknown fields in files and unknown fields from a control plane lead to.
    pub unknown_fields: UnknownFieldPolicies,
    /// Overrides of `node` in the configuration.
    pub node: NodeOverrides,
    /// File that gets the admin interface's address, once it is known.
    pub admin_address_path: Option<PathBuf>,
    /// Tells processes on one host apart.
    pub base_id: u32,
    /// How often the process was restarted, as the supervisor counts.
    pub restart_epoch: u32,
    /// Labels on every statistic in Prometheus output.
    pub stats_tags: Vec<StatsTag>,
    /// The application log.
    pub logging: logging::Options,
    /// What of the command line is without effect, to be logged as a warning or not.
    pub remarks: Vec<Remark>,
    /// Core files may be written.
    pub core_dump: bool,
    /// A batch of access log lines is written when it has this many bytes.
    pub file_flush_min_bytes: usize,
    /// `command_line_options` of `/server_info`.
    pub echo: Value,
}

/// Something about the command line that its author should know.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remark {
    /// What.
    pub text: String,
    /// Whether it is probably not meant.
    pub is_warning: bool,
}

/// A `component:level`, of a component that we may not have.
#[derive(Clone, Debug)]
struct ComponentChoice {
    text: String,
    known: Option<ComponentLevel>,
}

impl FromStr for ComponentChoice {
    type Err = ComponentLevelError;

    fn from_str(text: &str) -> Result<ComponentChoice, ComponentLevelError> {
        let known = match text.parse() {
            Ok(known) => Some(known),
            Err(ComponentLevelError::UnknownComponent(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(ComponentChoice { text: text.to_owned(), known })
    }
}

/// How draining goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Drain {
    /// How long it may take.
    pub time: Duration,
    /// How connections are closed within that time.
    pub strategy: DrainStrategy,
}

/// How connections are closed while draining.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum DrainStrategy {
    /// The longer it lasts, the likelier a response closes its connection.
    Gradual,
    /// The next response of every connection closes it.
    Immediate,
}

/// A version of IP.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum IpVersion {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// What unknown fields lead to, by where they come from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownFieldPolicies {
    /// In the file.
    pub in_static: UnknownFields,
    /// From a control plane.
    pub in_dynamic: UnknownFields,
}

/// What an unknown field leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum UnknownFields {
    /// The resource is refused.
    Refuse,
    /// A warning and a counter.
    Warn,
}

impl UnknownFields {
    fn warn_if(warn: bool) -> UnknownFields {
        if warn { UnknownFields::Warn } else { UnknownFields::Refuse }
    }
}

/// Overrides of `node` in the configuration.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeOverrides {
    /// `node.cluster`
    pub cluster: Option<String>,
    /// `node.id`
    pub id: Option<String>,
    /// `node.locality.zone`
    pub zone: Option<String>,
}

/// A label on every statistic, written `tag:value`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StatsTag {
    /// Letters, digits and `_`.
    pub name: String,
    /// Anything without a dot.
    pub value: String,
}

impl FromStr for StatsTag {
    type Err = StatsTagError;

    fn from_str(text: &str) -> Result<StatsTag, StatsTagError> {
        let (name, value) = text.split_once(':').ok_or(StatsTagError::NoColon)?;
        let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if !starts_well || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
            return Err(StatsTagError::BadName(name.to_owned()));
        }
        if value.contains('.') {
            return Err(StatsTagError::DotInValue(value.to_owned()));
        }
        Ok(StatsTag { name: name.to_owned(), value: value.to_owned() })
    }
}

/// What is wrong with a statistics tag.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum StatsTagError {
    /// The name has other characters than letters, digits and `_`, or begins with a digit.
    #[error("tag name {0:?} may have letters, digits and _ only, and not begin with a digit")]
    BadName(String),
    /// The value has a dot.
    #[error("tag value {0:?} must not have a dot")]
    DotInValue(String),
    /// No `:`.
    #[error("is not of the form tag:value")]
    NoColon,
}

/// A sidecar proxy. Without arguments it serves a demonstration.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, about, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
struct Options {
    #[command(subcommand)]
    tool: Option<Tool>,

    #[command(flatten)]
    source: What,

    /// `serve`, or `validate`: check the configuration, say what is wrong with it, and exit.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,

    #[command(flatten)]
    run: Run,

    #[command(flatten)]
    log: Log,

    #[command(flatten)]
    compatibility: Compatibility,
}

/// What is done with a process that runs.
#[derive(Debug, Subcommand)]
enum Tool {
    /// Has the running process start its successor, and waits until that serves.
    Upgrade {
        /// The successor's binary, if not the path that the running process was started by.
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,

        /// Ends the hand-over that is under way instead; refused once connections have moved.
        #[arg(long, conflicts_with = "binary")]
        abort: bool,

        #[command(flatten)]
        place: Place,
    },
    /// Shows who serves, and how far hand-overs are.
    Status {
        /// For programs.
        #[arg(long)]
        json: bool,

        #[command(flatten)]
        place: Place,
    },
}

#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Place {
    /// The running process's engine.upgrade.socket.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,

    /// A configuration file that says it.
    #[arg(short, long, value_name = "FILE")]
    config_path: Option<PathBuf>,
}

impl Tool {
    fn parse(self) -> (Operation, ControlSocket) {
        let (operation, place) = match self {
            Tool::Upgrade { abort: true, place, .. } => (Operation::Abort, place),
            Tool::Upgrade { binary, place, .. } => (Operation::Upgrade { binary }, place),
            Tool::Status { json, place } => (Operation::Status { json }, place),
        };
        let file = || place.config_path.unwrap_or_default();
        let socket = place.socket.map(ControlSocket::At);
        (operation, socket.unwrap_or_else(|| ControlSocket::In(ConfigSource::File(file()))))
    }
}

#[derive(Args, Debug)]
#[command(next_help_heading = "What to serve")]
struct What {
    /// Envoy v3 bootstrap file, YAML or JSON, with an optional `engine:` section.
    #[arg(short, long, value_name = "FILE", conflicts_with_all = ["listen", "upstream"])]
    config_path: Option<PathBuf>,

    /// The same as text; merged over --config-path if both are given.
    #[arg(long, value_name = "YAML", conflicts_with_all = ["listen", "upstream"])]
    config_yaml: Option<String>,

    /// Accept HTTP here and forward it to --upstream; no file needed.
    #[arg(long, value_name = "ADDR", requires = "upstream")]
    listen: Option<Endpoint>,

    /// Where --listen forwards to: IP:PORT, NAME:PORT or unix:PATH.
    #[arg(long, value_name = "ADDR", requires = "listen")]
    upstream: Option<Endpoint>,

    /// Admin interface for --listen; files say it themselves.
    #[arg(long, value_name = "ADDR", requires = "listen")]
    admin: Option<Endpoint>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "How to run")]
struct Run {
    /// Number of shards, each on a core of its own. Default: as configured, else one for each core
    /// the process may use.
    #[arg(long, value_name = "N")]
    concurrency: Option<u32>,

    /// Longest time that draining (SIGTERM, /drain_listeners, removal) may take.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_time_s: u32,

    /// Draining closes connections with a probability that grows over the drain time, or each with
    /// its next response.
    #[arg(long, value_enum, default_value_t = DrainStrategy::Gradual)]
    drain_strategy: DrainStrategy,

    /// Time after which a predecessor is to be gone.
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    parent_shutdown_time_s: u32,

    /// IP version of the host's own address.
    #[arg(long, value_enum, default_value_t = IpVersion::V4)]
    local_address_ip_version: IpVersion,

    /// Longest time an access log line waits before it is written.
    #[arg(long, value_name = "MSEC", default_value_t = 10_000)]
    file_flush_interval_msec: u32,

    /// Unknown fields in the configuration file are warnings, not errors.
    #[arg(long, alias = "allow-unknown-fields")]
    allow_unknown_static_fields: bool,

    /// Refuse unknown fields from a control plane; this is the default.
    #[arg(long, overrides_with = "ignore_unknown_dynamic_fields")]
    reject_unknown_dynamic_fields: bool,

    /// Unknown fields from a control plane are warnings, not errors.
    #[arg(long)]
    ignore_unknown_dynamic_fields: bool,

    /// Overrides node.cluster.
    #[arg(long, value_name = "NAME")]
    service_cluster: Option<String>,

    /// Overrides node.id.
    #[arg(long, value_name = "NAME")]
    service_node: Option<String>,

    /// Overrides node.locality.zone.
    #[arg(long, value_name = "NAME")]
    service_zone: Option<String>,

    /// File that the admin interface's address is written to.
    #[arg(long, value_name = "FILE")]
    admin_address_path: Option<PathBuf>,

    /// Label on every statistic in Prometheus output; may be repeated.
    #[arg(long, value_name = "TAG:VALUE")]
    stats_tag: Vec<StatsTag>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Application log")]
struct Log {
    /// trace, debug, info, warning, error, critical or off.
    #[arg(short, long, value_name = "LEVEL", default_value_t = Level::Info)]
    log_level: Level,

    /// Levels of single components, such as `upstream:debug,config:trace`.
    #[arg(long, value_name = "LEVELS", value_delimiter = ',')]
    component_log_level: Vec<ComponentChoice>,

    /// File for the application log, instead of standard error; reopened on SIGUSR1.
    #[arg(long, value_name = "FILE")]
    log_path: Option<PathBuf>,

    /// Shape of a line, with spdlog's flags; `[%Y-%m-%d %T.%e][%t][%l][%n] %v` if nothing says otherwise.
    #[arg(long, value_name = "PATTERN")]
    log_format: Option<Pattern>,

    /// Write control characters in messages as escape sequences.
    #[arg(long)]
    log_format_escaped: bool,
}

/// Options of Envoy's that supervisors pass. All are accepted.
#[derive(Args, Debug)]
#[command(next_help_heading = "Accepted for Envoy's sake")]
struct Compatibility {
    /// Tells processes on one host apart; shown in /server_info.
    #[arg(long, value_name = "N", default_value_t = 0)]
    base_id: u32,

    /// The supervisor's count of restarts; shown in statistics and /server_info.
    #[arg(long, value_name = "N", default_value_t = 0)]
    restart_epoch: u32,

    /// No effect: there is no hot restart over shared memory.
    #[arg(long)]
    disable_hot_restart: bool,

    /// No effect: cores are always taken from the set the process may use.
    #[arg(long)]
    cpuset_threads: bool,

    /// No effect.
    #[arg(long)]
    use_dynamic_base_id: bool,

    /// No effect.
    #[arg(long, value_name = "FILE")]
    base_id_path: Option<PathBuf>,

    /// No effect.
    #[arg(long)]
    skip_hot_restart_on_no_parent: bool,

    /// No effect.
    #[arg(long)]
    skip_hot_restart_parent_stats: bool,

    /// No effect.
    #[arg(long, value_name = "PATH", default_value = "@envoy_domain_socket")]
    socket_path: String,

    /// No effect.
    #[arg(long, value_name = "MODE", default_value = "600")]
    socket_mode: String,

    /// Access log lines are written when there are so many; 64 is the most.
    #[arg(long, value_name = "KB", default_value_t = 64)]
    file_flush_min_size_kb: u32,

    /// No effect: an extension is refused if it is not built in.
    #[arg(long, value_name = "NAMES")]
    disable_extensions: Option<String>,

    /// No effect: levels are per component, see --component-log-level.
    #[arg(long)]
    enable_fine_grain_logging: bool,

    /// No effect.
    #[arg(long)]
    enable_mutex_tracing: bool,

    /// Core files may be written.
    #[arg(long)]
    enable_core_dump: bool,

    /// No effect.
    #[arg(long)]
    log_stacktrace_single_entry: bool,

    /// No effect.
    #[arg(long)]
    skip_deprecated_logs: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
enum Mode {
    Serve,
    Validate,
}

impl Options {
    fn process(&self) -> Process {
        let Options { run, log, compatibility, .. } = self;
        Process {
            // Envoy takes 0 for 1.
            concurrency: run.concurrency.map(|n| n.max(1)),
            drain: Drain {
                time: Duration::from_secs(run.drain_time_s.into()),
                strategy: run.drain_strategy,
            },
            parent_shutdown_time: Duration::from_secs(run.parent_shutdown_time_s.into()),
            local_address_ip_version: run.local_address_ip_version,
            file_flush_interval: Duration::from_millis(run.file_flush_interval_msec.into()),
            unknown_fields: UnknownFieldPolicies {
                in_static: UnknownFields::warn_if(run.allow_unknown_static_fields),
                in_dynamic: UnknownFields::warn_if(run.ignore_unknown_dynamic_fields),
            },
            node: NodeOverrides {
                cluster: run.service_cluster.clone(),
                id: run.service_node.clone(),
                zone: run.service_zone.clone(),
            },
            admin_address_path: run.admin_address_path.clone(),
            base_id: compatibility.base_id,
            restart_epoch: compatibility.restart_epoch,
            stats_tags: run.stats_tag.clone(),
            logging: logging::Options {
                level: log.log_level,
                components: log.component_log_level.iter().filter_map(|c| c.known).collect(),
                pattern: log.log_format.clone(),
                escaped: log.log_format_escaped,
                target: match &log.log_path {
                    Some(path) => LogTarget::File(path.as_path().into()),
                    None => LogTarget::Stderr,
                },
            },
            remarks: self.remarks(),
            core_dump: compatibility.enable_core_dump,
            file_flush_min_bytes: compatibility.file_flush_min_size_kb as usize * 1024,
            echo: self.echo(),
        }
    }

    fn remarks(&self) -> Vec<Remark> {
        let given = &self.compatibility;
        let unknown = self.log.component_log_level.iter().filter(|choice| choice.known.is_none());
        let unknown = unknown.map(|choice| Remark {
            text: format!("--component-log-level {}: there is no such component", choice.text),
            is_warning: true,
        });
        let without_effect = [
            (
                given.disable_hot_restart,
                "--disable-hot-restart: there is no restart over shared memory",
            ),
            (given.cpuset_threads, "--cpuset-threads: shards are on allowed CPUs in any case"),
            (given.use_dynamic_base_id, "--use-dynamic-base-id: no effect"),
            (given.base_id_path.is_some(), "--base-id-path: no effect"),
            (given.skip_hot_restart_on_no_parent, "--skip-hot-restart-on-no-parent: no effect"),
            (given.skip_hot_restart_parent_stats, "--skip-hot-restart-parent-stats: no effect"),
            (given.disable_extensions.is_some(), "--disable-extensions: no effect"),
            (given.enable_fine_grain_logging, "--enable-fine-grain-logging: no effect"),
            (given.enable_mutex_tracing, "--enable-mutex-tracing: no effect"),
            (given.log_stacktrace_single_entry, "--log-stacktrace-single-entry: no effect"),
            (given.skip_deprecated_logs, "--skip-deprecated-logs: no effect"),
        ];
        let without_effect = without_effect.into_iter().filter(|(is_given, _)| *is_given);
        let without_effect =
            without_effect.map(|(_, text)| Remark { text: text.to_owned(), is_warning: false });
        unknown.chain(without_effect).collect()
    }

    /// The options as Envoy's `CommandLineOptions` message, in its JSON form.
    fn echo(&self) -> Value {
        let Options { source, mode, run, log, compatibility, .. } = self;
        let components: Vec<&str> =
            log.component_log_level.iter().map(|choice| choice.text.as_str()).collect();
        let tags: Vec<_> =
            run.stats_tag.iter().map(|tag| format!("{}:{}", tag.name, tag.value)).collect();
        let extensions = compatibility.disable_extensions.as_deref().unwrap_or_default();
        json!({
            "base_id": compatibility.base_id.to_string(),
            "use_dynamic_base_id": compatibility.use_dynamic_base_id,
            "base_id_path": path_text(compatibility.base_id_path.as_ref()),
            "concurrency": run.concurrency.unwrap_or_default(),
            "config_path": path_text(source.config_path.as_ref()),
            "config_yaml": source.config_yaml.as_deref().unwrap_or_default(),
            "allow_unknown_static_fields": run.allow_unknown_static_fields,
            "reject_unknown_dynamic_fields": !run.ignore_unknown_dynamic_fields,
            "ignore_unknown_dynamic_fields": run.ignore_unknown_dynamic_fields,
            "admin_address_path": path_text(run.admin_address_path.as_ref()),
            "local_address_ip_version": match run.local_address_ip_version {
                IpVersion::V4 => "v4",
                IpVersion::V6 => "v6",
            },
            "log_level": log.log_level.name(),
            "component_log_level": components.join(","),
            "log_format": log.log_format.clone().unwrap_or_default().to_string(),
            "log_format_escaped": log.log_format_escaped,
            "log_path": path_text(log.log_path.as_ref()),
            "service_cluster": run.service_cluster.as_deref().unwrap_or_default(),
            "service_node": run.service_node.as_deref().unwrap_or_default(),
            "service_zone": run.service_zone.as_deref().unwrap_or_default(),
            "drain_strategy": match run.drain_strategy {
                DrainStrategy::Gradual => "Gradual",
                DrainStrategy::Immediate => "Immediate",
            },
            "mode": match mode {
                Mode::Serve => "Serve",
                Mode::Validate => "Validate",
            },
            "disable_hot_restart": compatibility.disable_hot_restart,
            "restart_epoch": compatibility.restart_epoch,
            "file_flush_interval": seconds(run.file_flush_interval_msec.into()),
            "drain_time": seconds(u64::from(run.drain_time_s) * 1000),
            "parent_shutdown_time": seconds(u64::from(run.parent_shutdown_time_s) * 1000),
            "cpuset_threads": compatibility.cpuset_threads,
            "disabled_extensions": extensions.split_terminator(',').collect::<Vec<_>>(),
            "stats_tag": tags,
        })
    }
}

/// A name that could be a host's (RFC 1123 section 2.1), underscores included as they are in use.
fn is_host_name(text: &str) -> bool {
    text.len() <= HOST_NAME_BYTES_MAX
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

fn path_text(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

/// A duration as protobuf's JSON mapping writes it.
fn seconds(ms: u64) -> String {
    match ms % 1000 {
        0 => format!("{}s", ms / 1000),
        rest => format!("{}.{rest:03}s", ms / 1000),
    }
}

/// What messages call the text of --config-yaml.
const INLINE_NAME: &str = "--config-yaml";

/// RFC 1035 section 2.3.4.
const HOST_NAME_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Invocation, ErrorKind> {
        let arguments = std::iter::once(&"outrigger").chain(arguments);
        Invocation::parse_from(arguments).map_err(|error| error.kind())
    }

    #[test]
    fn the_definition_is_sound() {
        Options::command().debug_assert();
    }

    #[test]
    fn no_arguments_is_the_demo_with_envoys_defaults() {
        let Ok(Invocation::Demo(process)) = parse(&[]) else { panic!() };
        assert_eq!(process.concurrency, None);
        assert_eq!(process.drain.time, Duration::from_secs(600));
        assert_eq!(process.drain.strategy, DrainStrategy::Gradual);
        assert_eq!(process.file_flush_interval, Duration::from_secs(10));
        assert_eq!(process.unknown_fields.in_dynamic, UnknownFields::Refuse);
        assert_eq!(process.logging.level, Level::Info);
        assert_eq!(process.logging.target, LogTarget::Stderr);
        assert_eq!(process.echo["parent_shutdown_time"], "900s");
    }

    #[test]
    fn a_supervisors_command_line_is_understood() {
        let invocation = parse(&[
            "-c",
            "/etc/proxy/bootstrap.json",
            "--restart-epoch",
            "1",
            "--drain-time-s",
            "45",
            "--drain-strategy",
            "immediate",
            "--parent-shutdown-time-s",
            "60",
            "--local-address-ip-version",
            "v6",
            "--file-flush-interval-msec",
            "1000",
            "--disable-hot-restart",
            "--allow-unknown-static-fields",
            "-l",
            "warning",
            "--component-log-level",
            "misc:error,upstream:debug,wasm:info",
            "--log-format",
            "%Y-%m-%dT%T.%fZ\t%l\tenvoy %n %g:%#\t%v\tthread=%t",
            "--concurrency",
            "0",
            "--service-cluster",
            "c",
            "--service-node",
            "n",
            "--base-id",
            "7",
            "--stats-tag",
            "zone:a",
            "--skip-deprecated-logs",
            "--enable-core-dump",
            "--file-flush-min-size-kb",
            "16",
        ]);
        let Ok(Invocation::Serve(ConfigSource::File(path), process)) = invocation else {
            panic!("{invocation:?}")
        };
        assert_eq!(path, PathBuf::from("/etc/proxy/bootstrap.json"));
        assert_eq!(process.concurrency, Some(1));
        assert_eq!(process.drain.strategy, DrainStrategy::Immediate);
        assert_eq!(process.file_flush_interval, Duration::from_secs(1));
        assert_eq!(process.local_address_ip_version, IpVersion::V6);
        assert_eq!(process.unknown_fields.in_static, UnknownFields::Warn);
        assert_eq!(process.logging.components.len(), 2);
        assert_eq!(process.node.id.as_deref(), Some("n"));
        assert_eq!((process.base_id, process.restart_epoch), (7, 1));
        assert_eq!(process.stats_tags[0], StatsTag { name: "zone".into(), value: "a".into() });
        assert_eq!(process.echo["file_flush_interval"], "1s");
        assert_eq!(process.echo["component_log_level"], "misc:error,upstream:debug,wasm:info");
        assert!(process.core_dump);
        assert_eq!(process.file_flush_min_bytes, 16 << 10);
        let remarks: Vec<_> = process.remarks.iter().map(|remark| remark.text.as_str()).collect();
        assert_eq!(
            remarks,
            [
                "--component-log-level wasm:info: there is no such component",
                "--disable-hot-restart: there is no restart over shared memory",
                "--skip-deprecated-logs: no effect",
            ]
        );
    }

    #[test]
    fn configuration_comes_from_file_text_or_both() {
        let source = |arguments: &[&str]| match parse(arguments) {
            Ok(Invocation::Serve(source, _)) => source,
            other => panic!("{other:?}"),
        };
        assert_eq!(source(&["--config-yaml", "{}"]), ConfigSource::Inline("{}".to_owned()));
        assert_eq!(
            source(&["-c", "f", "--config-yaml", "{}"]),
            ConfigSource::Merged { file: "f".into(), inline: "{}".to_owned() }
        );
    }

    #[test]
    fn validate_needs_something_to_validate() {
        assert_eq!(parse(&["--mode", "validate"]), Err(ErrorKind::MissingRequiredArgument));
        let validate = parse(&["--mode", "validate", "-c", "f"]);
        assert!(matches!(validate, Ok(Invocation::Validate(ConfigSource::File(_), _))));
    }

    #[test]
    fn forwarding_needs_both_ends_and_no_file() {
        let invocation = parse(&["--listen", ":8080", "--upstream", "app:80"]);
        let Ok(Invocation::Forward(forward, _)) = invocation else { panic!("{invocation:?}") };
        assert_eq!(forward.listen, Endpoint::Ip("0.0.0.0:8080".parse().unwrap()));
        assert_eq!(forward.upstream, Endpoint::Name { host: "app".to_owned(), port: 80 });
        assert_eq!(forward.admin, None);
        for incomplete in [&["--listen", ":80"][..], &["--upstream", ":80"], &["--admin", ":80"]] {
            assert_eq!(parse(incomplete), Err(ErrorKind::MissingRequiredArgument));
        }
        let both = parse(&["--listen", ":1", "--upstream", ":2", "-c", "f"]);
        assert_eq!(both, Err(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn endpoints() {
        let parse = |text: &str| text.parse::<Endpoint>();
        assert_eq!(parse("[::1]:80"), Ok(Endpoint::Ip("[::1]:80".parse().unwrap())));
        assert_eq!(parse("unix:@name"), Ok(Endpoint::Unix("@name".to_owned())));
        assert_eq!(parse("unix:/a/b").unwrap().to_string(), "unix:/a/b");
        assert_eq!(parse("unix:"), Err(EndpointError::EmptyPath));
        assert_eq!(parse("127.0.0.1"), Err(EndpointError::NoPort));
        assert_eq!(parse("a:65536"), Err(EndpointError::BadPort("65536".to_owned())));
        assert_eq!(parse("::1:80"), Err(EndpointError::BadHost("::1".to_owned())));
    }

    #[test]
    fn bad_values_are_refused() {
        for arguments in [
            &["-l", "loud"][..],
            &["--log-format", "%Q"],
            &["--stats-tag", "a.b:c"],
            &["--stats-tag", "a:b.c"],
            &["--component-log-level", "misc:loud"],
            &["--component-log-level", "misc"],
            &["--listen", "x", "--upstream", ":1"],
        ] {
            assert_eq!(parse(arguments), Err(ErrorKind::ValueValidation), "{arguments:?}");
        }
        assert_eq!(parse(&["--mode", "dance"]), Err(ErrorKind::InvalidValue));
        assert_eq!(parse(&["--no-such-option"]), Err(ErrorKind::UnknownArgument));
    }

    #[test]
    fn durations_are_written_as_protobuf_does() {
        assert_eq!(seconds(600_000), "600s");
        assert_eq!(seconds(500), "0.500s");
    }
}
