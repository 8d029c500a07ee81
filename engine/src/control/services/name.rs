//! What a service is called, in terms that all interfaces and registries share.
//!
//! Invariant: the parts of a [`ServiceName`] hold none of the characters that tell parts apart in
//! keys, paths and URLs, so that two names never have one key.

use std::fmt;

use outrigger_xds::services_config::ServiceProtocol;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A service. In a subscription, group and version may be [`ANY`], and the group a list (Dubbo's rules,
/// registries.md section 9).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "Parts", into = "Parts")]
pub struct ServiceName {
    protocol: ServiceProtocol,
    interface: Box<str>,
    group: Box<str>,
    version: Box<str>,
    unique_id: Box<str>,
}

/// A part of a name that it can't have.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{part}: {text:?} is not {expected}")]
pub struct NameError {
    /// Which part.
    pub part: &'static str,
    /// What it was, or its beginning.
    pub text: String,
    /// What would do.
    pub expected: &'static str,
}

/// Whatever there is.
pub const ANY: &str = "*";

impl ServiceName {
    /// A service of SOFARPC by its unique name, `interface[:version[:uniqueId]]`.
    ///
    /// # Errors
    /// When it is none.
    pub fn bolt(unique_name: &str) -> Result<ServiceName, NameError> {
        // Some clients write the data id of SOFARegistry.
        let name = unique_name.strip_suffix("@DEFAULT").unwrap_or(unique_name);
        let mut parts = name.splitn(3, ':');
        let interface = part("serviceName", parts.next().unwrap_or_default(), Rule::Word)?;
        let version = match parts.next() {
            None | Some("") => BOLT_VERSION,
            Some(version) => version,
        };
        Ok(ServiceName {
            protocol: ServiceProtocol::Bolt,
            interface,
            group: Box::default(),
            version: part("version", version, Rule::Word)?,
            unique_id: part("uniqueId", parts.next().unwrap_or_default(), Rule::WordOrNothing)?,
        })
    }

    /// A service of Dubbo. Version `0.0.0` is no version.
    ///
    /// # Errors
    /// When a part is none.
    pub fn dubbo(interface: &str, group: &str, version: &str) -> Result<ServiceName, NameError> {
        Ok(ServiceName {
            protocol: ServiceProtocol::Dubbo,
            interface: part("interface", interface, Rule::Word)?,
            group: part("group", group, Rule::Group)?,
            version: part("version", no_version(version), Rule::Version)?,
            unique_id: Box::default(),
        })
    }

    /// Which protocol's.
    pub fn protocol(&self) -> ServiceProtocol {
        self.protocol
    }

    /// The interface, never empty.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// The group; may be empty. Dubbo only.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The version; may be empty with Dubbo.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// SOFARPC's `uniqueId`; may be empty.
    pub fn unique_id(&self) -> &str {
        &self.unique_id
    }

    /// Whether it stands for more than one service.
    pub fn is_pattern(&self) -> bool {
        self.version.contains(ANY) || self.group.contains([',', '*'])
    }

    /// Whether a subscription to `self` takes the service `offered` (registries.md section 9, Match).
    pub fn takes(&self, offered: &ServiceName) -> bool {
        let in_group = |wanted: &str| wanted == ANY || wanted == &*offered.group;
        self.protocol == offered.protocol
            && self.interface == offered.interface
            && self.unique_id == offered.unique_id
            && (*self.version == *ANY || self.version == offered.version)
            && self.group.split(',').any(in_group)
    }

    /// What remains of a pattern when only what is certain is kept: the name under which requests come
    /// that say no version or group.
    pub fn without_patterns(&self) -> ServiceName {
        let plain = |text: &str| !text.contains([',', '*']);
        let keep = |text: &str| if plain(text) { text.into() } else { Box::default() };
        ServiceName { group: keep(&self.group), version: keep(&self.version), ..self.clone() }
    }

    /// The key by which requests find it, as codecs write it (`RpcCodec::put_service_key`).
    pub fn key(&self) -> String {
        let ServiceName { interface, group, version, unique_id, .. } = self;
        match self.protocol {
            ServiceProtocol::Bolt if unique_id.is_empty() => format!("{interface}:{version}"),
            ServiceProtocol::Bolt => format!("{interface}:{version}:{unique_id}"),
            ServiceProtocol::Dubbo => {
                let mut key = String::new();
                if !group.is_empty() {
                    key.push_str(group);
                    key.push('/');
                }
                key.push_str(interface);
                if !version.is_empty() {
                    key.push(':');
                    key.push_str(version);
                }
                key
            }
        }
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.protocol.name(), self.key())
    }
}

/// A name as the state file has it.
#[derive(Serialize, Deserialize)]
struct Parts {
    protocol: ServiceProtocol,
    interface: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    version: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    unique_id: String,
}

impl From<ServiceName> for Parts {
    fn from(name: ServiceName) -> Parts {
        Parts {
            protocol: name.protocol,
            interface: name.interface.into(),
            group: name.group.into(),
            version: name.version.into(),
            unique_id: name.unique_id.into(),
        }
    }
}

impl TryFrom<Parts> for ServiceName {
    type Error = NameError;

    fn try_from(parts: Parts) -> Result<ServiceName, NameError> {
        let Parts { protocol, interface, group, version, unique_id } = parts;
        match protocol {
            ServiceProtocol::Bolt => {
                ServiceName::bolt(&format!("{interface}:{version}:{unique_id}"))
            }
            ServiceProtocol::Dubbo => ServiceName::dubbo(&interface, &group, &version),
        }
    }
}

/// Dubbo takes `0.0.0` for no version at all.
fn no_version(version: &str) -> &str {
    if version == "0.0.0" { "" } else { version }
}

#[derive(Clone, Copy, PartialEq)]
enum Rule {
    Word,
    WordOrNothing,
    /// A word, nothing or [`ANY`].
    Version,
    /// Words with commas between them, nothing or [`ANY`].
    Group,
}

fn part(name: &'static str, text: &str, rule: Rule) -> Result<Box<str>, NameError> {
    let is_word = |word: &str| !word.is_empty() && !word.chars().any(tells_apart);
    let fits = text.len() <= PART_BYTES_MAX
        && match rule {
            Rule::Word => is_word(text),
            Rule::WordOrNothing => text.is_empty() || is_word(text),
            Rule::Version => text.is_empty() || text == ANY || is_word(text),
            Rule::Group => text.is_empty() || text == ANY || text.split(',').all(is_word),
        };
    if fits {
        return Ok(text.into());
    }
    let text: String = text.chars().take(64).collect();
    Err(NameError { part: name, text, expected: "the name of a Java interface, group or version" })
}

fn tells_apart(c: char) -> bool {
    c.is_control() || c.is_whitespace() || "/:?&|,*=%#@\"'\\<>".contains(c)
}

/// SOFARPC's default.
const BOLT_VERSION: &str = "1.0";

/// Bytes of one part: far above what a class file can call an interface.
const PART_BYTES_MAX: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_codecs() {
        for (unique_name, key) in [
            ("com.foo.Hello:1.0", "com.foo.Hello:1.0"),
            ("com.foo.Hello", "com.foo.Hello:1.0"),
            ("com.foo.Hello:", "com.foo.Hello:1.0"),
            ("com.foo.Hello:2.0:blue", "com.foo.Hello:2.0:blue"),
            ("com.foo.Hello:1.0@DEFAULT", "com.foo.Hello:1.0"),
        ] {
            assert_eq!(ServiceName::bolt(unique_name).unwrap().key(), key);
        }
        for ((interface, group, version), key) in [
            (("com.foo.Hello", "", ""), "com.foo.Hello"),
            (("com.foo.Hello", "g1", "1.0.0"), "g1/com.foo.Hello:1.0.0"),
            (("com.foo.Hello", "", "0.0.0"), "com.foo.Hello"),
            (("com.foo.Hello", "g1", ""), "g1/com.foo.Hello"),
        ] {
            assert_eq!(ServiceName::dubbo(interface, group, version).unwrap().key(), key);
        }
    }

    #[test]
    fn what_would_confuse_keys_is_refused() {
        for name in ["", ":1.0", "a b:1", "a/b:1", "a\n:1", "a:1:b:c", "a:*", "a:1:x*"] {
            assert!(ServiceName::bolt(name).is_err(), "{name:?}");
        }
        let long = "x".repeat(PART_BYTES_MAX + 1);
        assert!(ServiceName::bolt(&long).is_err() && ServiceName::bolt(&long[1..]).is_ok());
        for (interface, group, version) in
            [("", "", ""), ("*", "", ""), ("a", "b/c", ""), ("a", "b,", ""), ("a", "", "1,2")]
        {
            assert!(ServiceName::dubbo(interface, group, version).is_err());
        }
    }

    #[test]
    fn subscriptions_match_as_dubbo_does() {
        let name = |group: &str, version: &str| ServiceName::dubbo("I", group, version).unwrap();
        for ((group, version), offered, takes) in [
            (("", ""), name("", ""), true),
            (("", ""), name("", "0.0.0"), true),
            (("", ""), name("", "1.0"), false),
            (("", "1.0"), name("", "1.0"), true),
            (("", "1.0"), name("", ""), false),
            (("", "*"), name("", "1.0"), true),
            (("", "*"), name("g", "1.0"), false),
            (("*", "*"), name("g", ""), true),
            (("a,b", ""), name("b", ""), true),
            (("a,b", ""), name("c", ""), false),
            (("a,b", ""), name("", ""), false),
            (("g", ""), name("", ""), false),
        ] {
            assert_eq!(name(group, version).takes(&offered), takes, "{group} {version} {offered}");
        }
        assert!(!name("", "").takes(&ServiceName::dubbo("J", "", "").unwrap()));
        let bolt = |name: &str| ServiceName::bolt(name).unwrap();
        assert!(bolt("I:1.0:a").takes(&bolt("I:1.0:a")) && !bolt("I").takes(&bolt("I:1.0:a")));
    }

    #[test]
    fn patterns_leave_what_is_certain() {
        let name = |group: &str, version: &str| ServiceName::dubbo("I", group, version).unwrap();
        assert!(name("*", "").is_pattern() && name("a,b", "1").is_pattern());
        assert!(name("", "*").is_pattern() && !name("a", "1").is_pattern());
        assert_eq!(name("*", "1").without_patterns(), name("", "1"));
        assert_eq!(name("a,b", "*").without_patterns(), name("", ""));
    }

    #[test]
    fn names_go_through_the_state_file() {
        for name in [
            ServiceName::bolt("I:1.0:a").unwrap(),
            ServiceName::bolt("I").unwrap(),
            ServiceName::dubbo("I", "a,b", "*").unwrap(),
        ] {
            let text = serde_json::to_string(&name).unwrap();
            assert_eq!(serde_json::from_str::<ServiceName>(&text).unwrap(), name);
        }
        let bad = r#"{"protocol": "bolt", "interface": "a b"}"#;
        assert!(serde_json::from_str::<ServiceName>(bad).is_err());
    }
}
