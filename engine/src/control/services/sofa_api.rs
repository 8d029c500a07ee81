//! The SOFA mesh HTTP API (registries.md part A): what SOFARPC's registry `mesh` calls.
//!
//! Every answer has status 200; success is in the body. Names are unique: the SDK leaves
//! `protocolType` out of some calls, so it tells nothing apart.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::Method;
use outrigger_xds::services_config::ServiceProtocol;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;

use super::Services;
use super::api::{Api, Ask, Reply};
use super::directory::Application;
use super::name::ServiceName;
use super::provider::Provider;
use crate::stats::ServiceApiStats;

/// The interface.
pub(super) struct SofaApi {
    services: Arc<Services>,
    stats: Arc<ServiceApiStats>,
}

impl SofaApi {
    pub(super) fn new(services: Arc<Services>, stats: Arc<ServiceApiStats>) -> SofaApi {
        SofaApi { services, stats }
    }
}

impl Api for SofaApi {
    const NAME: &'static str = "sofa_api";

    async fn answer(&self, ask: Ask) -> Reply {
        let post = ask.method == Method::POST;
        let stats = &*self.stats;
        match ask.path.as_str() {
            "/configs/application" if post => {
                stats.application.inc();
                self.done(self.application(&ask.body).await)
            }
            "/configs/application" => self.show_application(),
            "/services/publish" if post => {
                stats.publish.inc();
                self.done(self.publish(&ask.body).await)
            }
            "/services/unpublish" if post => {
                stats.unpublish.inc();
                self.done(self.unpublish(&ask.body).await)
            }
            "/services/subscribe" if post => {
                stats.subscribe.inc();
                self.subscribe(&ask.body).await
            }
            "/services/unsubscribe" if post => {
                stats.unsubscribe.inc();
                self.done(self.unsubscribe(&ask.body).await)
            }
            "/configs/registry" if !post => self.show_registries(),
            "/services" if !post => self.show_services(),
            path if post || WRITES.contains(&path) => match WRITES.contains(&path) {
                true => Reply::method_not_allowed(),
                false => Reply::not_found(),
            },
            path => match path.strip_prefix("/services/") {
                Some(name) if !name.contains('/') => self.show_service(name),
                _ => Reply::not_found(),
            },
        }
    }

    fn refuse(&self, reason: &str) -> Reply {
        Reply::json(&Outcome { success: false, error_message: reason })
    }

    fn stats(&self) -> &ServiceApiStats {
        &self.stats
    }
}

impl SofaApi {
    async fn application(&self, body: &[u8]) -> Result<(), String> {
        let told: ApplicationInfo = self.read(body)?;
        let ApplicationInfo { app_name, zone, data_center } = told;
        let application = Application { name: app_name, zone, data_center };
        let texts = [&application.name, &application.zone, &application.data_center];
        if texts.iter().any(|text| text.len() > TEXT_BYTES_MAX || text.contains(char::is_control)) {
            self.stats.rq_malformed.inc();
            return Err("a name is too long, or holds control characters".to_owned());
        }
        let changed = self.services.change(&self.stats, |directory| {
            directory.begin_application(application);
            Ok(())
        });
        changed.await.map_err(|refusal| refusal.to_string())
    }

    async fn publish(&self, body: &[u8]) -> Result<(), String> {
        let told: Publish = self.read(body)?;
        self.begun()?;
        let name = self.name(&told.service_name, &told.protocol_type)?;
        let parameters = told.provider_meta_info.into_parameters();
        let now_ms = crate::control::now_ms();
        let changed = self
            .services
            .change(&self.stats, |directory| directory.publish(name, parameters, None, now_ms));
        changed.await.map_err(|refusal| refusal.to_string())
    }

    async fn unpublish(&self, body: &[u8]) -> Result<(), String> {
        let told: Named = self.read(body)?;
        self.begun()?;
        let name = self.name(&told.service_name, &told.protocol_type)?;
        let changed = self.services.change(&self.stats, |directory| {
            directory.unpublish(&name, None);
            Ok(())
        });
        changed.await.map_err(|refusal| refusal.to_string())
    }

    async fn subscribe(&self, body: &[u8]) -> Reply {
        let subscribed = async {
            let told: Named = self.read(body)?;
            self.begun()?;
            let name = self.name(&told.service_name, &told.protocol_type)?;
            let changed = self.services.change(&self.stats, |directory| {
                directory.subscribe(name.clone(), None)?;
                Ok(addresses(&directory.providers_of(&name)))
            });
            let datas = changed.await.map_err(|refusal| refusal.to_string())?;
            Ok((told.service_name, datas))
        };
        match subscribed.await {
            // What is known now, which may be nothing: routing does not need it.
            Ok((service_name, datas)) => {
                let error_message = "";
                Reply::json(&Subscribed { success: true, error_message, service_name, datas })
            }
            Err(error) => self.done(Err(error)),
        }
    }

    async fn unsubscribe(&self, body: &[u8]) -> Result<(), String> {
        let told: Named = self.read(body)?;
        self.begun()?;
        let name = self.name(&told.service_name, &told.protocol_type)?;
        let changed = self.services.change(&self.stats, |directory| {
            directory.unsubscribe(&name, None);
            Ok(())
        });
        changed.await.map_err(|refusal| refusal.to_string())
    }

    fn show_application(&self) -> Reply {
        let application = self.services.directory().application().cloned().unwrap_or_default();
        let Application { name, zone, data_center } = application;
        Reply::json(&json!({ "appName": name, "zone": zone, "dataCenter": data_center }))
    }

    fn show_registries(&self) -> Reply {
        let registries: Vec<_> = self
            .services
            .config()
            .registries
            .iter()
            .map(|registry| {
                let kind = match (&registry.file, &registry.zookeeper) {
                    (Some(_), _) => "file",
                    (_, Some(_)) => "zookeeper",
                    _ => "nacos",
                };
                let stats = self.services.registry_stats(&registry.name);
                json!({
                    "name": registry.name,
                    "type": kind,
                    "protocols": registry.protocols,
                    "connected": stats.connected.value() == 1,
                    "stale": stats.stale.value() == 1,
                })
            })
            .collect();
        Reply::json(&json!({ "registries": registries }))
    }

    /// Addresses by service.
    fn show_services(&self) -> Reply {
        if let Err(error) = self.begun() {
            return self.done(Err(error));
        }
        let directory = self.services.directory();
        let all: BTreeMap<String, Vec<String>> = directory
            .subscriptions(ServiceProtocol::Bolt)
            .map(|name| (name.key(), addresses(&directory.providers_of(name))))
            .collect();
        Reply::json(&all)
    }

    fn show_service(&self, name: &str) -> Reply {
        // Percent-encoding, as clients write colons and at signs.
        let name = super::decode_path(name);
        let known = ServiceName::bolt(&name);
        let known = known.map(|name| addresses(&self.services.directory().providers_of(&name)));
        match known {
            Ok(datas) if !datas.is_empty() => Reply::json(&datas),
            _ => Reply::text("The services is empty."),
        }
    }

    /// The application must be told first.
    fn begun(&self) -> Result<(), String> {
        match self.services.directory().application() {
            Some(_) => Ok(()),
            None => Err("POST /configs/application comes first".to_owned()),
        }
    }

    fn read<'a, T: Deserialize<'a>>(&self, body: &'a [u8]) -> Result<T, String> {
        serde_json::from_slice(body).map_err(|error| {
            self.stats.rq_malformed.inc();
            format!("the body can't be read: {error}")
        })
    }

    fn name(&self, service_name: &str, protocol_type: &str) -> Result<ServiceName, String> {
        let is_bolt = |known: &&str| known.eq_ignore_ascii_case(protocol_type);
        if !protocol_type.is_empty() && !BOLT_NAMES.iter().any(is_bolt) {
            return Err(format!("protocolType {protocol_type:?} is not served"));
        }
        ServiceName::bolt(service_name).map_err(|error| {
            self.stats.rq_malformed.inc();
            error.to_string()
        })
    }

    fn done(&self, result: Result<(), String>) -> Reply {
        let failure = result.err();
        if let Some(error) = &failure {
            self.stats.rq_failed.inc();
            log::warn!("sofa_api: {error}");
        }
        let error_message = failure.as_deref().unwrap_or_default();
        Reply::json(&Outcome { success: failure.is_none(), error_message })
    }
}

fn addresses(providers: &[Provider]) -> Vec<String> {
    providers.iter().map(Provider::to_address).collect()
}

/// `{"errorMessage": "", "success": true}`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Outcome<'a> {
    error_message: &'a str,
    success: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Subscribed {
    success: bool,
    error_message: &'static str,
    service_name: String,
    datas: Vec<String>,
}

/// Flat: application parameters stand beside these, and are not needed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ApplicationInfo {
    #[serde(default, deserialize_with = "null_is_absent")]
    app_name: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    zone: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    data_center: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Publish {
    #[serde(default, deserialize_with = "null_is_absent")]
    service_name: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    protocol_type: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    provider_meta_info: MetaInfo,
}

/// Of subscribe, unsubscribe and unpublish.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Named {
    #[serde(default, deserialize_with = "null_is_absent")]
    service_name: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    protocol_type: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct MetaInfo {
    #[serde(default, deserialize_with = "null_is_absent")]
    serialize_type: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    app_name: String,
    #[serde(default, deserialize_with = "null_is_absent")]
    properties: BTreeMap<String, serde_json::Value>,
}

impl MetaInfo {
    /// The names of SOFARPC's provider URLs.
    fn into_parameters(self) -> BTreeMap<String, String> {
        let texts = self.properties.into_iter().take(super::PARAMETERS_MAX);
        let mut parameters: BTreeMap<String, String> = texts
            .filter_map(|(key, value)| match value {
                serde_json::Value::String(text) => Some((key, text)),
                serde_json::Value::Number(number) => Some((key, number.to_string())),
                serde_json::Value::Bool(flag) => Some((key, flag.to_string())),
                _ => None,
            })
            .collect();
        for (key, value) in [("serialization", self.serialize_type), ("appName", self.app_name)] {
            if !value.is_empty() {
                parameters.insert(key.to_owned(), value);
            }
        }
        parameters
    }
}

/// Java writes `null` for what is not set.
fn null_is_absent<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// `protocolType` of what the Bolt listener serves.
const BOLT_NAMES: [&str; 3] = ["bolt", "tr", "default"];

/// Paths that need POST.
const WRITES: [&str; 4] =
    ["/services/publish", "/services/unpublish", "/services/subscribe", "/services/unsubscribe"];

/// Bytes of a name that an application tells of itself.
const TEXT_BYTES_MAX: usize = 512;
