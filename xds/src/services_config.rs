//! `engine.services`: the interfaces through which applications and registries tell us of services.
//!
//! Everything here is what the operator wrote, parsed and checked; what is told at run time is kept
//! by the engine, and by its state file.

use std::collections::HashSet;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::engine_config::EngineConfigError;

/// The `services:` part of the `engine:` section. Without it nothing listens and nothing is asked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServicesConfig {
    /// The SOFA mesh HTTP API, for SOFARPC's registry `mesh`; `{}` has the default address.
    pub sofa_api: Option<SofaApi>,
    /// MOSN's HTTP API for Dubbo; `{}` has the default address.
    pub dubbo_api: Option<DubboApi>,
    /// Where published and subscribed services are kept over a restart; `None` nowhere.
    pub state_file: Option<PathBuf>,
    /// Where the applications of this host listen: published services lead there.
    pub applications: Applications,
    /// Where other hosts reach our listener in front of the applications: what registries are told.
    pub advertise: Advertise,
    /// Where providers are looked up and published services are registered.
    pub registries: Vec<RegistryConfig>,
    /// Name of a cluster whose settings (timeouts, circuit breakers, keepalive, TLS, balancing) the
    /// clusters of services have; without it, Envoy's defaults.
    pub cluster_template: Option<String>,
}

/// The SOFA mesh HTTP API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SofaApi {
    /// Where it listens.
    pub address: SocketAddr,
}

/// MOSN's HTTP API for Dubbo.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DubboApi {
    /// Where it listens.
    pub address: SocketAddr,
}

/// Where the applications of this host listen, by protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Applications {
    /// SOFABolt.
    pub bolt: SocketAddr,
    /// Dubbo 2.
    pub dubbo: SocketAddr,
}

/// Where other hosts reach our listener, by protocol. Registering needs it; subscribing does not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Advertise {
    /// SOFABolt.
    pub bolt: Option<HostPort>,
    /// Dubbo 2.
    pub dubbo: Option<HostPort>,
}

/// One registry: a name, what is looked up there, and exactly one of the kinds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryConfig {
    /// Names it in logs, statistics and the state file; unique.
    pub name: Box<str>,
    /// Whose services it has; at least one.
    pub protocols: Vec<ServiceProtocol>,
    /// Providers in a file, read again when it changes. Nothing is registered there.
    #[serde(default)]
    pub file: Option<FileRegistry>,
    /// ZooKeeper with Dubbo's layout.
    #[serde(default)]
    pub zookeeper: Option<ZooKeeperRegistry>,
    /// Nacos 2 or later, by gRPC.
    #[serde(default)]
    pub nacos: Option<NacosRegistry>,
}

/// A protocol whose services can be published and subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ServiceProtocol {
    /// SOFABolt.
    Bolt,
    /// Dubbo 2.
    Dubbo,
}

/// Providers in a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRegistry {
    /// YAML, or JSON where it ends in `.json`.
    pub path: PathBuf,
}

/// ZooKeeper with Dubbo's layout, which is SOFARPC's as well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ZooKeeperRegistry {
    /// Members of the ensemble, at least one. They are tried in turn.
    pub addresses: Vec<HostPort>,
    /// The node above all interfaces. Dubbo has `/dubbo`, SOFARPC `/sofa-rpc`; left out, the one of
    /// the registry's only protocol.
    #[serde(default)]
    pub root: Option<Box<str>>,
    /// For digest authentication; nodes we make are then the user's alone.
    #[serde(default)]
    pub username: Option<Box<str>>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// What is asked of the server for the session, in milliseconds: 1000..=3600000.
    #[serde(default = "session_timeout_ms")]
    pub session_timeout_ms: u32,
}

/// A Nacos server or cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NacosRegistry {
    /// Servers with their HTTP ports, at least one; gRPC is 1000 above.
    pub addresses: Vec<HostPort>,
    /// Id of the namespace; empty is the public one.
    #[serde(default)]
    pub namespace: Box<str>,
    /// Group of the services.
    #[serde(default = "nacos_group")]
    pub group: Box<str>,
    /// To log in with.
    #[serde(default)]
    pub username: Option<Box<str>>,
    /// Its password.
    #[serde(default)]
    pub password: Option<Secret>,
}

/// A host name or IP address, and a port above 0.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    /// Without the brackets of IPv6.
    pub host: Box<str>,
    /// Above 0.
    pub port: u16,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl ServiceProtocol {
    /// As [`RpcProtocol::name`](crate::snapshot::RpcProtocol::name) has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            ServiceProtocol::Bolt => "bolt",
            ServiceProtocol::Dubbo => "dubbo",
        }
    }
}

impl Applications {
    /// Where applications of `protocol` listen.
    #[must_use]
    pub fn of(&self, protocol: ServiceProtocol) -> SocketAddr {
        match protocol {
            ServiceProtocol::Bolt => self.bolt,
            ServiceProtocol::Dubbo => self.dubbo,
        }
    }
}

impl Advertise {
    /// Where others reach our listener for `protocol`.
    #[must_use]
    pub fn of(&self, protocol: ServiceProtocol) -> Option<&HostPort> {
        match protocol {
            ServiceProtocol::Bolt => self.bolt.as_ref(),
            ServiceProtocol::Dubbo => self.dubbo.as_ref(),
        }
    }
}

impl ZooKeeperRegistry {
    /// A server with everything else as it is by default.
    #[must_use]
    pub fn at(address: HostPort) -> ZooKeeperRegistry {
        ZooKeeperRegistry {
            addresses: vec![address],
            root: None,
            username: None,
            password: None,
            session_timeout_ms: SESSION_TIMEOUT_MS,
        }
    }
}

impl ServicesConfig {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.sofa_api.is_none() && self.dubbo_api.is_none()
    }

    /// Checks what the types do not say. Fields are named from `services` on.
    ///
    /// # Errors
    /// Names the first field that is wrong.
    pub fn validate(&self) -> Result<(), EngineConfigError> {
        let mut names = HashSet::new();
        if self.registries.len() > REGISTRIES_MAX {
            let count = self.registries.len();
            return Err(wrong("registries", count, "at most 16 registries"));
        }
        for (index, registry) in self.registries.iter().enumerate() {
            let at = format!("registries[{index}]");
            registry.validate(&at)?;
            if !names.insert(&registry.name) {
                let field = format!("{at}.name");
                return Err(wrong(&field, format!("{:?}", registry.name), "a name used once"));
            }
        }
        if self.state_file.as_ref().is_some_and(|path| path.file_name().is_none()) {
            let path = self.state_file.clone().unwrap_or_default();
            return Err(wrong("state_file", format!("{path:?}"), "the path of a file"));
        }
        Ok(())
    }
}

impl RegistryConfig {
    fn validate(&self, at: &str) -> Result<(), EngineConfigError> {
        let name = format!("{at}.name");
        let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let fits = (1..=64).contains(&self.name.len()) && self.name.chars().all(is_word);
        if !fits {
            let expected = "1 to 64 letters, digits, '-' and '_'";
            return Err(wrong(&name, format!("{:?}", self.name), expected));
        }
        if self.protocols.is_empty() {
            return Err(wrong(&format!("{at}.protocols"), "[]", "at least one protocol"));
        }
        let protocols = self.protocols.iter().collect::<HashSet<_>>();
        if protocols.len() != self.protocols.len() {
            let names: Vec<_> = self.protocols.iter().map(|protocol| protocol.name()).collect();
            let expected = "each protocol once";
            return Err(wrong(&format!("{at}.protocols"), format!("{names:?}"), expected));
        }
        let kinds = usize::from(self.file.is_some())
            + usize::from(self.zookeeper.is_some())
            + usize::from(self.nacos.is_some());
        if kinds != 1 {
            return Err(wrong(at, format!("a registry of {kinds} kinds"), EXACTLY_ONE_KIND));
        }
        if let Some(zookeeper) = &self.zookeeper {
            zookeeper.validate(&format!("{at}.zookeeper"), self.protocols.len())?;
        }
        if let Some(nacos) = &self.nacos {
            nacos.validate(&format!("{at}.nacos"))?;
        }
        Ok(())
    }
}

impl ZooKeeperRegistry {
    fn validate(&self, at: &str, protocols: usize) -> Result<(), EngineConfigError> {
        addresses(at, &self.addresses)?;
        credentials(at, self.username.as_deref(), self.password.as_ref())?;
        match self.root.as_deref() {
            None if protocols > 1 => {
                let field = format!("{at}.root");
                return Err(wrong(&field, "nothing", "a path, which two protocols need"));
            }
            Some(root) if !is_znode_path(root) => {
                let expected = "a path such as /dubbo";
                return Err(wrong(&format!("{at}.root"), format!("{root:?}"), expected));
            }
            _ => {}
        }
        if !(1000..=3_600_000).contains(&self.session_timeout_ms) {
            let field = format!("{at}.session_timeout_ms");
            return Err(wrong(&field, self.session_timeout_ms, "from 1000 to 3600000"));
        }
        Ok(())
    }
}

impl NacosRegistry {
    fn validate(&self, at: &str) -> Result<(), EngineConfigError> {
        addresses(at, &self.addresses)?;
        for (index, address) in self.addresses.iter().enumerate() {
            if address.port > u16::MAX - NACOS_GRPC_OFFSET {
                let field = format!("{at}.addresses[{index}]");
                return Err(wrong(&field, format!("\"{address}\""), "a port of at most 64535"));
            }
        }
        if self.group.is_empty() {
            return Err(wrong(&format!("{at}.group"), "\"\"", "a name"));
        }
        credentials(at, self.username.as_deref(), self.password.as_ref())
    }
}

fn addresses(at: &str, addresses: &[HostPort]) -> Result<(), EngineConfigError> {
    if (1..=ADDRESSES_MAX).contains(&addresses.len()) {
        return Ok(());
    }
    let found = format!("a list of {}", addresses.len());
    Err(wrong(&format!("{at}.addresses"), found, "a list of 1 to 64 addresses"))
}

fn credentials(
    at: &str,
    username: Option<&str>,
    password: Option<&Secret>,
) -> Result<(), EngineConfigError> {
    match (username, password) {
        (Some(name), Some(_)) if name.is_empty() || name.contains(':') => {
            let expected = "a name without colons";
            Err(wrong(&format!("{at}.username"), format!("{name:?}"), expected))
        }
        (Some(_), None) => Err(wrong(&format!("{at}.password"), "nothing", "a password")),
        (None, Some(_)) => Err(wrong(&format!("{at}.username"), "nothing", "a name")),
        _ => Ok(()),
    }
}

fn is_znode_path(path: &str) -> bool {
    let Some(steps) = path.strip_prefix('/') else { return false };
    let is_step =
        |step: &str| !matches!(step, "" | "." | "..") && !step.chars().any(char::is_control);
    path.len() <= 256 && steps.split('/').all(is_step)
}

fn wrong(field: &str, value: impl fmt::Display, expected: &'static str) -> EngineConfigError {
    EngineConfigError { field: format!("services.{field}"), value: value.to_string(), expected }
}

impl FromStr for HostPort {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<HostPort, &'static str> {
        const EXPECTED: &str = "expected host:port";
        if let Ok(address) = text.parse::<SocketAddr>() {
            if address.port() == 0 {
                return Err(EXPECTED);
            }
            return Ok(HostPort { host: address.ip().to_string().into(), port: address.port() });
        }
        let (host, port) = text.rsplit_once(':').ok_or(EXPECTED)?;
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        let fits = (1..=253).contains(&host.len()) && host.chars().all(is_name);
        match port.parse() {
            Ok(port) if port > 0 && fits => Ok(HostPort { host: host.into(), port }),
            _ => Err(EXPECTED),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Serialize for HostPort {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HostPort, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error| serde::de::Error::custom(format!("{error}, not {text:?}")))
    }
}

impl Secret {
    /// Wraps a text.
    #[must_use]
    pub fn new(text: impl Into<Box<str>>) -> Secret {
        Secret(text.into())
    }

    /// The text, for whoever it is to be proved to.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str("[redacted]")
    }
}

impl Default for SofaApi {
    fn default() -> SofaApi {
        SofaApi { address: loopback(SOFA_API_PORT) }
    }
}

impl Default for DubboApi {
    fn default() -> DubboApi {
        DubboApi { address: loopback(DUBBO_API_PORT) }
    }
}

impl Default for Applications {
    fn default() -> Applications {
        Applications { bolt: loopback(BOLT_PORT), dubbo: loopback(DUBBO_PORT) }
    }
}

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
}

fn session_timeout_ms() -> u32 {
    SESSION_TIMEOUT_MS
}

fn nacos_group() -> Box<str> {
    "DEFAULT_GROUP".into()
}

/// Where SOFARPC's registry `mesh` looks for the API.
pub const SOFA_API_PORT: u16 = 13330;

/// Where MOSN has its API for Dubbo.
pub const DUBBO_API_PORT: u16 = 22222;

/// Where SOFARPC servers listen.
pub const BOLT_PORT: u16 = 12200;

/// Where Dubbo providers listen.
pub const DUBBO_PORT: u16 = 20880;

/// Nacos serves gRPC so far above its HTTP port.
pub const NACOS_GRPC_OFFSET: u16 = 1000;

/// Survives a leader's election, and lets a dead host's services go within half a minute.
pub const SESSION_TIMEOUT_MS: u32 = 30_000;

/// More is a mistake.
const REGISTRIES_MAX: usize = 16;

/// More members of one ensemble or cluster are a mistake.
const ADDRESSES_MAX: usize = 64;

const EXACTLY_ONE_KIND: &str = "exactly one of file, zookeeper and nacos";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_and_ports() {
        for (text, host, port) in [
            ("127.0.0.1:80", "127.0.0.1", 80),
            ("[::1]:2181", "::1", 2181),
            ("zk-1.local:65535", "zk-1.local", 65535),
        ] {
            let address: HostPort = text.parse().unwrap();
            assert_eq!((&*address.host, address.port), (host, port));
            assert_eq!(address.to_string(), text);
        }
        for text in
            ["", "host", "host:", "host:0", ":80", "a b:80", "::1:80", "host:65536", "1.1.1.1:0"]
        {
            assert!(text.parse::<HostPort>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let secret = Secret::new("s3cret");
        assert_eq!(format!("{secret:?}"), "[redacted]");
        assert_eq!(serde_json::to_string(&secret).unwrap(), "\"[redacted]\"");
        assert_eq!(secret.reveal(), "s3cret");
    }

    #[test]
    fn node_paths() {
        assert!(is_znode_path("/dubbo") && is_znode_path("/a/b"));
        for path in ["", "/", "dubbo", "/dubbo/", "/a//b", "/a/../b", "/a\nb"] {
            assert!(!is_znode_path(path), "{path:?}");
        }
    }
}
