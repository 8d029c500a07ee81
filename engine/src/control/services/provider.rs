//! Where a service is offered, and the two ways in which that is written: Dubbo's provider URLs
//! (registries.md section 9), which SOFARPC uses in ZooKeeper as well, and SOFARPC's address strings
//! (section 8).
//!
//! Whatever a registry holds was written by others: what can't be read is an error of that one entry.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use outrigger_xds::services_config::{HostPort, ServiceProtocol};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::name::{NameError, ServiceName};

/// One provider of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Provider {
    /// What it offers; never a pattern.
    pub name: ServiceName,
    /// Where.
    pub address: SocketAddr,
    /// Its share of the requests, at most [`WEIGHT_MAX`]; 0 is none. Warm-up is not followed: the
    /// full weight counts from the start.
    pub weight: u32,
    /// What the registry says of its health; it is still used when too few others are.
    pub healthy: bool,
    /// Of a SOFARPC provider, its parameters as they were written, without the question mark: its
    /// subscribers are shown them. Left out when longer than [`QUERY_BYTES_MAX`].
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub query: Box<str>,
}

/// Why an entry of a registry is no provider.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProviderError {
    /// It is written otherwise.
    #[error("it can't be read: {0}")]
    Syntax(&'static str),
    /// It is of another protocol or category, or disabled.
    #[error("it is not for us: {0}")]
    NotOurs(&'static str),
    /// It has a host name, which the data path does not resolve.
    #[error("{0:?} is not an IP address")]
    NotAnAddress(String),
    /// What it offers has no name that we could use.
    #[error(transparent)]
    Name(#[from] NameError),
}

/// A service of ours, as registries are told of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Offer {
    /// What is offered.
    pub name: ServiceName,
    /// Where others reach it: our listener, not the application.
    pub address: HostPort,
    /// What the application says of it.
    pub parameters: BTreeMap<String, String>,
    /// When it was first published, in milliseconds since 1970; the same over restarts, so that the
    /// entry is too.
    pub since_ms: u64,
}

impl Provider {
    /// Reads a provider URL of `protocol`. Dubbo's says of which service itself; SOFARPC's says the
    /// interface only where `interface` does not.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub fn from_url(
        url: &str,
        protocol: ServiceProtocol,
        interface: &str,
    ) -> Result<Provider, ProviderError> {
        let (scheme, rest) = url.split_once("://").ok_or(ProviderError::Syntax("no scheme"))?;
        if scheme != protocol.name() {
            return Err(ProviderError::NotOurs("another protocol"));
        }
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let parameters = Parameters::of(query);
        let (authority, path) = place.split_once('/').unwrap_or((place, ""));
        let interface = match parameters.get("interface") {
            Some(own) if !own.is_empty() => own,
            _ if interface.is_empty() => path,
            _ => interface,
        };
        let name = parameters.service(protocol, interface)?;
        if !parameters.is_for_use() {
            return Err(ProviderError::NotOurs("disabled, or of another category"));
        }
        let authority = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        Ok(Provider {
            name,
            address: address(authority, default_port(protocol))?,
            weight: parameters.weight(),
            healthy: true,
            query: shown(query, protocol),
        })
    }

    /// Reads an address string of SOFARPC, `host[:port][/path][?key=value&…]`.
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub fn from_address(text: &str, name: &ServiceName) -> Result<Provider, ProviderError> {
        let (place, query) = text.split_once('?').unwrap_or((text, ""));
        let place = place.split_once("://").map_or(place, |(_, place)| place);
        let place = place.split('/').next().unwrap_or_default();
        let weight = Parameters::of(query).weight();
        Ok(Provider {
            name: name.clone(),
            address: address(place, default_port(name.protocol()))?,
            weight,
            healthy: true,
            query: shown(query, name.protocol()),
        })
    }

    /// Reads what a registry has as address and parameters (Nacos).
    ///
    /// # Errors
    /// See [`ProviderError`].
    pub fn from_parts(
        name: ServiceName,
        host: &str,
        port: u16,
        parameters: &BTreeMap<String, String>,
    ) -> Result<Provider, ProviderError> {
        let ip: IpAddr = host
            .parse()
            .map_err(|_| ProviderError::NotAnAddress(host.chars().take(64).collect()))?;
        if port == 0 {
            return Err(ProviderError::Syntax("port 0"));
        }
        let query = query_of(parameters);
        let read = Parameters::of(&query);
        if !read.is_for_use() {
            return Err(ProviderError::NotOurs("disabled, or of another category"));
        }
        let (weight, address) = (read.weight(), SocketAddr::new(ip, port));
        let query = shown(&query, name.protocol());
        Ok(Provider { name, address, weight, healthy: true, query })
    }

    /// As SOFARPC's registries show it: `ip:port?key=value&…`.
    pub fn to_address(&self) -> String {
        let Provider { address, query, .. } = self;
        if query.is_empty() { address.to_string() } else { format!("{address}?{query}") }
    }
}

impl Offer {
    /// Its provider URL.
    pub fn to_url(&self) -> String {
        let Offer { name, address, .. } = self;
        let query = query_of(&self.url_parameters());
        match name.protocol() {
            ServiceProtocol::Dubbo => format!("dubbo://{address}/{}?{query}", name.interface()),
            ServiceProtocol::Bolt => format!("bolt://{address}?{query}"),
        }
    }

    /// The parameters of its provider URL, in the order of their names, which makes the URL the same
    /// every time.
    pub fn url_parameters(&self) -> BTreeMap<String, String> {
        let Offer { name, parameters, .. } = self;
        let mut all = parameters.clone();
        let mut set = |key: &str, value: &str| all.insert(key.to_owned(), value.to_owned());
        set("interface", name.interface());
        match name.protocol() {
            ServiceProtocol::Dubbo => {
                set("anyhost", "true");
                set("category", "providers");
                set("dubbo", DUBBO_PROTOCOL_VERSION);
                set("side", "provider");
                set("timestamp", &self.since_ms.to_string());
                for (key, value) in [("group", name.group()), ("version", name.version())] {
                    if !value.is_empty() {
                        set(key, value);
                    }
                }
            }
            ServiceProtocol::Bolt => {
                set("protocol", "bolt");
                set("uniqueId", name.unique_id());
                set("version", name.version());
                set("startTime", &self.since_ms.to_string());
                set("dynamic", "true");
            }
        }
        all
    }

    /// What [`Provider::query`] says of it: SOFARPC's address string (section 8).
    pub fn query(&self) -> Box<str> {
        match self.name.protocol() {
            ServiceProtocol::Bolt => shown(&self.sofa_query(), ServiceProtocol::Bolt),
            ServiceProtocol::Dubbo => Box::default(),
        }
    }

    fn sofa_query(&self) -> String {
        let mut all = self.parameters.clone();
        let renamed = [("serialization", "_SERIALIZETYPE"), ("weight", "_WEIGHT")];
        for (name, sofa_name) in renamed.into_iter().chain([("appName", "app_name")]) {
            if let Some(value) = all.remove(name) {
                all.entry(sofa_name.to_owned()).or_insert(value);
            }
        }
        let own = [("p", "1"), ("v", "4.0"), ("startTime", &self.since_ms.to_string())];
        for (key, value) in own {
            all.entry(key.to_owned()).or_insert_with(|| value.to_owned());
        }
        query_of(&all)
    }
}

/// What is kept of a provider's parameters.
fn shown(query: &str, protocol: ServiceProtocol) -> Box<str> {
    let keeps = protocol == ServiceProtocol::Bolt && query.len() <= QUERY_BYTES_MAX;
    if keeps { query.into() } else { Box::default() }
}

/// The parameters of a URL. Keys may be repeated; the first counts.
struct Parameters<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Parameters<'a> {
    fn of(query: &'a str) -> Parameters<'a> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Parameters(pairs.map(|pair| pair.split_once('=').unwrap_or((pair, ""))).collect())
    }

    fn get(&self, key: &str) -> Option<&'a str> {
        self.0.iter().find(|(known, _)| *known == key).map(|(_, value)| *value)
    }

    fn service(
        &self,
        protocol: ServiceProtocol,
        interface: &str,
    ) -> Result<ServiceName, NameError> {
        let text = |key| self.get(key).unwrap_or_default();
        match protocol {
            ServiceProtocol::Dubbo => ServiceName::dubbo(interface, text("group"), text("version")),
            ServiceProtocol::Bolt => {
                let (version, unique_id) = (text("version"), text("uniqueId"));
                ServiceName::bolt(&format!("{interface}:{version}:{unique_id}"))
            }
        }
    }

    fn is_for_use(&self) -> bool {
        let providers = |category: &str| category.split(',').any(|one| one == "providers");
        self.get("category").is_none_or(|category| category.is_empty() || providers(category))
            && self.get("enabled") != Some("false")
            && self.get("disabled") != Some("true")
    }

    /// The newer name wins (section 8).
    fn weight(&self) -> u32 {
        let number = |key| self.get(key)?.parse::<i64>().ok();
        let weight = number("weight").or_else(|| number("_WEIGHT"));
        let weight = weight
            .map_or(WEIGHT_DEFAULT, |weight| u32::try_from(weight.max(0)).unwrap_or(WEIGHT_MAX));
        weight.min(WEIGHT_MAX)
    }
}

/// Joins parameters; those that would be read as something else are left out.
fn query_of(parameters: &BTreeMap<String, String>) -> String {
    let mut query = String::new();
    let breaks = |c: char| c.is_control() || matches!(c, '&' | '#');
    for (key, value) in parameters {
        if key.is_empty() || key.contains(|c| breaks(c) || c == '=') || value.contains(breaks) {
            continue;
        }
        if !query.is_empty() {
            query.push('&');
        }
        query.push_str(key);
        query.push('=');
        query.push_str(value);
    }
    query
}

/// `host:port` or `host`; IPv6 with brackets, or without where there is a port.
fn address(text: &str, default_port: u16) -> Result<SocketAddr, ProviderError> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return match address.port() {
            0 => Err(ProviderError::Syntax("port 0")),
            _ => Ok(address),
        };
    }
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, default_port));
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let ip: IpAddr =
        host.parse().map_err(|_| ProviderError::NotAnAddress(host.chars().take(64).collect()))?;
    match port.parse() {
        Ok(port) if port > 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(ProviderError::Syntax("no port")),
    }
}

fn default_port(protocol: ServiceProtocol) -> u16 {
    match protocol {
        ServiceProtocol::Bolt => outrigger_xds::services_config::BOLT_PORT,
        ServiceProtocol::Dubbo => outrigger_xds::services_config::DUBBO_PORT,
    }
}

/// Parameters of a provider that are kept; those of the SDK are a few hundred bytes.
pub const QUERY_BYTES_MAX: usize = 4096;

/// What Dubbo 2 and 3 alike say that they speak.
const DUBBO_PROTOCOL_VERSION: &str = "2.0.2";

/// Dubbo's and SOFARPC's default.
const WEIGHT_DEFAULT: u32 = 100;

/// The weights of all providers there may be of a service add up to less than 2^32.
pub const WEIGHT_MAX: u32 = 100_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn dubbo(url: &str) -> Result<Provider, ProviderError> {
        Provider::from_url(url, ServiceProtocol::Dubbo, "com.foo.Hello")
    }

    #[test]
    fn provider_urls_of_dubbo() {
        let provider = dubbo(
            "dubbo://10.0.0.5:20880/com.foo.Hello?anyhost=true&group=g1&version=1.0.0&weight=7",
        )
        .unwrap();
        assert_eq!(provider.name, ServiceName::dubbo("com.foo.Hello", "g1", "1.0.0").unwrap());
        assert_eq!(provider.address, "10.0.0.5:20880".parse().unwrap());
        assert_eq!((provider.weight, provider.healthy), (7, true));

        let of = |query: &str| dubbo(&format!("dubbo://u:p@[::1]:1/com.foo.Hello?{query}"));
        assert_eq!(of("").unwrap().weight, 100);
        assert_eq!(of("weight=x").unwrap().weight, 100);
        assert_eq!(of("weight=-3").unwrap().weight, 0);
        assert_eq!(of("weight=99999999999").unwrap().weight, WEIGHT_MAX);
        assert_eq!(of("version=0.0.0").unwrap().name.version(), "");
        for query in ["enabled=false", "disabled=true", "category=routers"] {
            assert!(matches!(of(query), Err(ProviderError::NotOurs(_))), "{query}");
        }
        assert!(of("category=configurators,providers&enabled=true").is_ok());
        // The path may have a prefix, and the interface is then a parameter.
        let nested = dubbo("dubbo://1.1.1.1:1/api/x?interface=com.foo.Bye").unwrap();
        assert_eq!(nested.name.interface(), "com.foo.Bye");
    }

    #[test]
    fn what_is_no_provider_of_ours_is_refused() {
        for url in ["", "dubbo:/", "dubbo://", "dubbo:///x", "dubbo://1.1.1.1:0/x"] {
            assert!(dubbo(url).is_err(), "{url}");
        }
        assert!(matches!(dubbo("tri://1.1.1.1:1/x"), Err(ProviderError::NotOurs(_))));
        assert!(matches!(dubbo("empty://0.0.0.0/x"), Err(ProviderError::NotOurs(_))));
        let named = dubbo("dubbo://host.local:20880/com.foo.Hello");
        assert_eq!(named, Err(ProviderError::NotAnAddress("host.local".to_owned())));
    }

    #[test]
    fn address_strings_of_sofarpc() {
        let name = ServiceName::bolt("com.foo.Hello:1.0").unwrap();
        let text = "11.166.22.163:12200?v=4.0&p=1&_SERIALIZETYPE=hessian2&_WEIGHT=10&a=b=c&flag";
        let provider = Provider::from_address(text, &name).unwrap();
        assert_eq!(provider.address, "11.166.22.163:12200".parse().unwrap());
        assert_eq!(provider.weight, 10);
        assert_eq!(provider.to_address(), text);
        let read = |text| Provider::from_address(text, &name).unwrap();
        assert_eq!(read("1.2.3.4").address, "1.2.3.4:12200".parse().unwrap());
        assert_eq!(read("1.2.3.4:5/path?weight=3&_WEIGHT=9").weight, 3);
        assert_eq!(read("bolt://[::1]:5").address, "[::1]:5".parse().unwrap());
        assert_eq!(read("1.2.3.4:5?_WEIGHT=0").weight, 0);
    }

    #[test]
    fn offers_are_read_back_as_what_they_are() {
        for name in [
            ServiceName::dubbo("com.foo.Hello", "g1", "1.0.0").unwrap(),
            ServiceName::dubbo("com.foo.Hello", "", "").unwrap(),
            ServiceName::bolt("com.foo.Hello:2.0:blue").unwrap(),
        ] {
            let parameters = [("methods", "a,b"), ("weight", "5"), ("bad&key", "x"), ("bad", "&")];
            let offer = Offer {
                name: name.clone(),
                address: "10.1.2.3:12201".parse().unwrap(),
                parameters: parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
                since_ms: 1_700_000_000_000,
            };
            let url = offer.to_url();
            let interface = "com.foo.Hello";
            let provider = Provider::from_url(&url, name.protocol(), interface).unwrap();
            assert_eq!((provider.name, provider.weight), (name, 5));
            assert_eq!(provider.address, "10.1.2.3:12201".parse().unwrap());
            assert!(url.contains("methods=a,b") && !url.contains("bad"), "{url}");
        }
    }

    #[test]
    fn address_strings_say_what_the_sdk_wrote() {
        let parameters = [("serialization", "hessian2"), ("appName", "bar"), ("weight", "50")];
        let offer = Offer {
            name: ServiceName::bolt("I").unwrap(),
            address: "10.1.2.3:12201".parse().unwrap(),
            parameters: parameters.map(|(k, v)| (k.to_owned(), v.to_owned())).into(),
            since_ms: 17,
        };
        let query = "_SERIALIZETYPE=hessian2&_WEIGHT=50&app_name=bar&p=1&startTime=17&v=4.0";
        assert_eq!(offer.sofa_query(), query);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "\\PC{0,80}") {
            let name = ServiceName::bolt("I").unwrap();
            let _ = Provider::from_address(&text, &name);
            let _ = Provider::from_url(&text, ServiceProtocol::Dubbo, "I");
            let _ = Provider::from_url(&format!("bolt://{text}"), ServiceProtocol::Bolt, "");
        }
    }
}
