//! What is said to Nacos over gRPC (registries.md section 13): JSON in one protobuf message.
//!
//! Answers are read leniently: versions of the server add fields, and leave out what is as by default.

use std::collections::{BTreeMap, HashMap};

use outrigger_xds::services_config::ServiceProtocol;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use thiserror::Error;

use super::super::super::name::ServiceName;
use super::super::super::provider::{Offer, Provider, ProviderError, WEIGHT_MAX};

/// The one message of both methods.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Payload {
    #[prost(message, optional, tag = "2")]
    metadata: Option<Metadata>,
    #[prost(message, optional, tag = "3")]
    body: Option<Body>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Metadata {
    #[prost(string, tag = "3")]
    kind: String,
    #[prost(map = "string, string", tag = "7")]
    headers: HashMap<String, String>,
    #[prost(string, tag = "8")]
    client_ip: String,
}

/// `google.protobuf.Any`, of which only the bytes are used.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

impl Payload {
    /// A message of `kind`; `token` is what the log-in gave.
    pub(super) fn new(kind: &str, body: &Value, token: Option<&str>) -> Payload {
        let headers = token.map(|token| ("accessToken".to_owned(), token.to_owned()));
        Payload {
            metadata: Some(Metadata {
                kind: kind.to_owned(),
                headers: headers.into_iter().collect(),
                client_ip: String::new(),
            }),
            body: Some(Body { type_url: String::new(), value: body.to_string().into_bytes() }),
        }
    }

    /// What it is.
    pub(super) fn kind(&self) -> &str {
        self.metadata.as_ref().map_or("", |metadata| &metadata.kind)
    }

    /// What it says.
    pub(super) fn body<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(self.body.as_ref().map_or(b"{}", |body| &body.value))
    }

    /// The id that an answer must have.
    pub(super) fn request_id(&self) -> String {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Identified {
            request_id: Option<String>,
        }
        self.body().ok().and_then(|body: Identified| body.request_id).unwrap_or_default()
    }
}

/// What every answer begins with.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    result_code: Option<i32>,
    #[serde(default)]
    error_code: i32,
    message: Option<String>,
}

/// A call was answered with a failure.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("error {code}: {message}")]
pub(super) struct Failure {
    pub(super) code: i32,
    pub(super) message: String,
}

impl Outcome {
    pub(super) fn into_result(self) -> Result<(), Failure> {
        match self.result_code {
            Some(SUCCESS) => Ok(()),
            code => Err(Failure {
                code: if self.error_code != 0 { self.error_code } else { code.unwrap_or(0) },
                message: self.message.unwrap_or_default(),
            }),
        }
    }
}

/// Where services are: what every call about one says.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    pub(super) namespace: String,
    pub(super) group: String,
}

impl Scope {
    /// A call about a service; `fields` are its own.
    pub(super) fn about(&self, service: &str, fields: Value) -> Value {
        let mut all = json!({
            "module": "naming",
            "namespace": self.namespace,
            "serviceName": service,
            "groupName": self.group,
        });
        if let (Value::Object(all), Value::Object(fields)) = (&mut all, fields) {
            all.extend(fields);
        }
        all
    }

    /// A service's own name, of one that may have the group before it.
    pub(super) fn own_name<'a>(&self, name: &'a str) -> &'a str {
        let own = name.strip_prefix(&*self.group).and_then(|rest| rest.strip_prefix("@@"));
        own.unwrap_or(name)
    }
}

/// What a service is called in Nacos: Dubbo's name keeps the colons of empty parts; SOFARPC's has no
/// version.
pub(super) fn service_name(name: &ServiceName) -> String {
    match name.protocol() {
        ServiceProtocol::Dubbo => {
            format!("providers:{}:{}:{}", name.interface(), name.version(), name.group())
        }
        ServiceProtocol::Bolt if name.unique_id().is_empty() => {
            format!("{}:DEFAULT", name.interface())
        }
        ServiceProtocol::Bolt => format!("{}:{}:DEFAULT", name.interface(), name.unique_id()),
    }
}

/// The service of Dubbo that is called so in Nacos; nothing for any other name.
pub(super) fn dubbo_service(name: &str) -> Option<ServiceName> {
    let mut parts = name.strip_prefix("providers:")?.split(':');
    let interface = parts.next()?;
    let (version, group) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    ServiceName::dubbo(interface, group, version).ok().filter(|_| parts.next().is_none())
}

/// An offer as an instance. With its service's name it is the same as long as it is offered.
pub(super) fn instance(offer: &Offer) -> Value {
    let mut metadata = offer.url_parameters();
    let (protocol, cluster) = match offer.name.protocol() {
        ServiceProtocol::Dubbo => ("dubbo", "DEFAULT"),
        ServiceProtocol::Bolt => ("bolt", "default-cluster"),
    };
    metadata.insert("protocol".to_owned(), protocol.to_owned());
    metadata.insert("path".to_owned(), offer.name.interface().to_owned());
    json!({
        "ip": offer.address.host,
        "port": offer.address.port,
        "weight": 1.0,
        "healthy": true,
        "enabled": true,
        "ephemeral": true,
        "clusterName": cluster,
        "serviceName": service_name(&offer.name),
        "metadata": metadata,
    })
}

/// A service and its instances.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceInfo {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) name: String,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) hosts: Vec<Instance>,
    /// When the server made this list; older ones are out of date.
    #[serde(default)]
    pub(super) last_ref_time: i64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Instance {
    ip: String,
    port: u16,
    #[serde(default = "one")]
    weight: f64,
    #[serde(default = "yes")]
    healthy: bool,
    #[serde(default = "yes")]
    enabled: bool,
    #[serde(default, deserialize_with = "null_is_default")]
    metadata: BTreeMap<String, String>,
}

/// An answer, or a push, that has a service.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct WithService {
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) service_info: ServiceInfo,
}

/// A page of names.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceList {
    #[serde(default)]
    pub(super) count: usize,
    #[serde(default, deserialize_with = "null_is_default")]
    pub(super) service_names: Vec<String>,
}

impl Instance {
    /// As a provider of the service in whose list it stands. `name` is Dubbo's; SOFARPC's has the
    /// version among the parameters.
    pub(super) fn to_provider(&self, name: &ServiceName) -> Result<Provider, ProviderError> {
        if !self.enabled {
            return Err(ProviderError::NotOurs("disabled"));
        }
        let name = match name.protocol() {
            ServiceProtocol::Dubbo => {
                if self.metadata.get("protocol").is_some_and(|protocol| protocol != "dubbo") {
                    return Err(ProviderError::NotOurs("another protocol"));
                }
                name.clone()
            }
            ServiceProtocol::Bolt => {
                let version = self.metadata.get("version").map_or("", |version| version);
                let (interface, unique_id) = (name.interface(), name.unique_id());
                ServiceName::bolt(&format!("{interface}:{version}:{unique_id}"))?
            }
        };
        let mut provider = Provider::from_parts(name, &self.ip, self.port, &self.metadata)?;
        // Both say how much: the provider of itself, and whoever looks after Nacos.
        let factor = if self.weight.is_finite() { self.weight.max(0.0) } else { 1.0 };
        let weight = (f64::from(provider.weight) * factor).ceil().min(f64::from(WEIGHT_MAX));
        provider.weight = weight as u32;
        provider.healthy = self.healthy;
        Ok(provider)
    }
}

fn null_is_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn one() -> f64 {
    1.0
}

fn yes() -> bool {
    true
}

/// Of [`Outcome::result_code`].
const SUCCESS: i32 = 200;

/// Of [`Failure::code`]: the server does not know this connection, or not yet.
pub(super) const UNREGISTERED: i32 = 301;

/// Of [`Failure::code`]: not allowed, most likely because the log-in is over.
pub(super) const NOT_ALLOWED: i32 = 403;

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;

    #[test]
    fn n1_health_check() {
        let hex = "12141a124865616c7468436865636b526571756573741a1712157b226d6f6475\
                   6c65223a22696e7465726e616c227d";
        let bytes: Vec<u8> = (0..hex.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
            .collect();
        let payload = Payload::new("HealthCheckRequest", &json!({"module": "internal"}), None);
        assert_eq!(payload.encode_to_vec(), bytes);
        let read = Payload::decode(&*bytes).unwrap();
        assert_eq!(read.kind(), "HealthCheckRequest");
        assert_eq!(read.body::<Value>().unwrap(), json!({"module": "internal"}));
        for end in 0..bytes.len() {
            // Cut off anywhere, it is an error or another message, and never a panic.
            let _ = Payload::decode(&bytes[..end]).map(|payload| payload.request_id());
        }
    }

    #[test]
    fn outcomes() {
        let read = |text: &str| serde_json::from_str::<Outcome>(text).unwrap().into_result();
        assert_eq!(read(r#"{"resultCode": 200, "errorCode": 0}"#), Ok(()));
        let failure = read(r#"{"resultCode": 500, "errorCode": 301, "message": "who?"}"#);
        assert_eq!(
            failure.unwrap_err(),
            Failure { code: UNREGISTERED, message: "who?".to_owned() }
        );
        assert!(read("{}").is_err());
    }

    #[test]
    fn names_in_nacos() {
        let name = ServiceName::dubbo("com.foo.Hello", "g1", "1.0.0").unwrap();
        assert_eq!(service_name(&name), "providers:com.foo.Hello:1.0.0:g1");
        assert_eq!(dubbo_service(&service_name(&name)), Some(name));
        let name = ServiceName::dubbo("com.foo.Hello", "", "").unwrap();
        assert_eq!(service_name(&name), "providers:com.foo.Hello::");
        assert_eq!(dubbo_service("providers:com.foo.Hello"), Some(name));
        for other in ["consumers:I::", "I:DEFAULT", "providers:I:1:g:x", "providers:a b::"] {
            assert_eq!(dubbo_service(other), None);
        }
        let bolt = |name: &str| service_name(&ServiceName::bolt(name).unwrap());
        assert_eq!(bolt("I:1.0"), "I:DEFAULT");
        assert_eq!(bolt("I:1.0:blue"), "I:blue:DEFAULT");
        let scope = Scope { namespace: String::new(), group: "G".to_owned() };
        assert_eq!((scope.own_name("G@@a"), scope.own_name("a@@b")), ("a", "a@@b"));
    }

    #[test]
    fn instances_are_providers_and_back() {
        for name in [
            ServiceName::dubbo("com.foo.Hello", "g1", "1.0.0").unwrap(),
            ServiceName::bolt("com.foo.Hello:2.0:blue").unwrap(),
        ] {
            let offer = Offer {
                name: name.clone(),
                address: "10.0.0.5:20880".parse().unwrap(),
                parameters: BTreeMap::from([("weight".to_owned(), "10".to_owned())]),
                since_ms: 1,
            };
            let mut json = instance(&offer);
            json["weight"] = json!(2.5);
            let read: Instance = serde_json::from_value(json).unwrap();
            let provider = read.to_provider(&name).unwrap();
            assert_eq!((provider.name, provider.weight), (name, 25));
        }
        let name = ServiceName::dubbo("I", "", "").unwrap();
        let read = |text: &str| serde_json::from_str::<Instance>(text).unwrap().to_provider(&name);
        let plain = read(r#"{"ip": "1.1.1.1", "port": 1, "healthy": false, "metadata": null}"#);
        assert!(!plain.unwrap().healthy);
        assert_eq!(read(r#"{"ip": "1.1.1.1", "port": 1, "weight": 0}"#).unwrap().weight, 0);
        for text in [
            r#"{"ip": "1.1.1.1", "port": 1, "enabled": false}"#,
            r#"{"ip": "1.1.1.1", "port": 0}"#,
            r#"{"ip": "name", "port": 1}"#,
            r#"{"ip": "1.1.1.1", "port": 1, "metadata": {"protocol": "tri"}}"#,
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
