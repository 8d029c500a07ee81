//! MOSN's HTTP API for Dubbo (registries.md part B), on interface, group and version.
//!
//! Every answer has status 200 and `err_no`. The registry that a call names is used as it says, beside
//! those of the configuration; one that the configuration has as well is that one.
//!
//! MOSN reads no version in `/sub` and `/unsub`, and routes whatever the interface has. So what is
//! left out there, version or group, stands for all; what is given, even as empty text, is meant.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::Method;
use outrigger_xds::services_config::HostPort;
use serde::{Deserialize, Serialize};

use super::Services;
use super::api::{Api, Ask, Reply};
use super::directory::{Credentials, Place};
use super::name::{ANY, ServiceName};
use crate::stats::ServiceApiStats;

/// The interface.
pub(super) struct DubboApi {
    services: Arc<Services>,
    stats: Arc<ServiceApiStats>,
}

impl DubboApi {
    pub(super) fn new(services: Arc<Services>, stats: Arc<ServiceApiStats>) -> DubboApi {
        DubboApi { services, stats }
    }
}

impl Api for DubboApi {
    const NAME: &'static str = "dubbo_api";

    async fn answer(&self, ask: Ask) -> Reply {
        let stats = &*self.stats;
        let (call, success) = match ask.path.as_str() {
            "/pub" => (Call::Publish, "publish success"),
            "/unpub" => (Call::Unpublish, "unpub success"),
            "/sub" => (Call::Subscribe, "subscribe success"),
            "/unsub" => (Call::Unsubscribe, "unsubscribe success"),
            _ => return Reply::not_found(),
        };
        if ask.method != Method::POST {
            return Reply::method_not_allowed();
        }
        match call {
            Call::Publish => stats.publish.inc(),
            Call::Unpublish => stats.unpublish.inc(),
            Call::Subscribe => stats.subscribe.inc(),
            Call::Unsubscribe => stats.unsubscribe.inc(),
        }
        match self.perform(call, &ask.body).await {
            Ok(()) => Reply::json(&Outcome { err_no: 0, err_msg: success }),
            Err(error) => {
                stats.rq_failed.inc();
                log::warn!("dubbo_api: {}: {error}", ask.path);
                Reply::json(&Outcome { err_no: 1, err_msg: &error })
            }
        }
    }

    fn refuse(&self, reason: &str) -> Reply {
        Reply::json(&Outcome { err_no: 1, err_msg: reason })
    }

    fn stats(&self) -> &ServiceApiStats {
        &self.stats
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Call {
    Publish,
    Unpublish,
    Subscribe,
    Unsubscribe,
}

impl DubboApi {
    async fn perform(&self, call: Call, body: &[u8]) -> Result<(), String> {
        let malformed = |error: String| {
            self.stats.rq_malformed.inc();
            error
        };
        let request: Request = serde_json::from_slice(body)
            .map_err(|error| malformed(format!("the body can't be read: {error}")))?;
        let place = request.registry.place().map_err(malformed)?;
        let ServiceInfo { interface, methods, group, version } = request.service;
        let whole = matches!(call, Call::Publish | Call::Unpublish);
        let left_out = if whole { "" } else { ANY };
        let group = group.as_deref().unwrap_or(left_out);
        let version = version.as_deref().unwrap_or(left_out);
        let name = ServiceName::dubbo(&interface, group, version)
            .map_err(|error| malformed(format!("service.{error}")))?;
        let now_ms = crate::control::now_ms();
        let changed = self.services.change(&self.stats, |directory| match call {
            Call::Publish => {
                let methods = methods.join(",");
                let parameters = BTreeMap::from([("methods".to_owned(), methods)]);
                directory.publish(name, parameters, Some(place), now_ms)
            }
            Call::Unpublish => {
                directory.unpublish(&name, Some(&place));
                Ok(())
            }
            Call::Subscribe => directory.subscribe(name, Some(place)),
            Call::Unsubscribe => {
                directory.unsubscribe(&name, Some(&place));
                Ok(())
            }
        });
        changed.await.map_err(|refusal| refusal.to_string())
    }
}

#[derive(Serialize)]
struct Outcome<'a> {
    err_no: u8,
    err_msg: &'a str,
}

#[derive(Deserialize)]
struct Request {
    registry: RegistryInfo,
    service: ServiceInfo,
}

#[derive(Deserialize)]
struct RegistryInfo {
    r#type: String,
    addr: String,
    username: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
struct ServiceInfo {
    interface: String,
    methods: Vec<String>,
    group: Option<String>,
    version: Option<String>,
}

impl RegistryInfo {
    fn place(self) -> Result<Place, String> {
        if self.r#type != "zookeeper" {
            return Err(format!("registry.type: {:?} is not \"zookeeper\"", self.r#type));
        }
        let address: HostPort = self
            .addr
            .parse()
            .map_err(|error| format!("registry.addr: {error}, not {:?}", self.addr))?;
        let username = self.username.filter(|name| !name.is_empty());
        let credentials = username
            .map(|username| Credentials { username, password: self.password.unwrap_or_default() });
        if credentials.as_ref().is_some_and(|known| known.username.contains(':')) {
            return Err("registry.username: holds a colon".to_owned());
        }
        Ok(Place { address, credentials })
    }
}
