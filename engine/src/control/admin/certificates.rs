//! `/certs`: what is loaded, and until when it is valid.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::config::timestamp_of;
use super::page::{Answer, Ask};
use crate::tls::{CertificateFacts, LoadedCertificate, LoadedContext};

pub(super) fn certs(ask: &Ask<'_>) -> Answer {
    let contexts = ask.state.tls();
    let contexts = contexts.map(|contexts| contexts.certificates()).unwrap_or_default();
    let list: Vec<Value> = contexts.iter().map(context).collect();
    Answer::json(&json!({ "certificates": list }))
}

/// `envoy.admin.v3.Certificate`
fn context(context: &LoadedContext) -> Value {
    let mut json = Map::new();
    for (field, list) in [("ca_cert", &context.trusted), ("cert_chain", &context.own)] {
        if !list.is_empty() {
            json.insert(field.to_owned(), list.iter().map(certificate).collect());
        }
    }
    json.into()
}

/// `envoy.admin.v3.CertificateDetails`
fn certificate(loaded: &LoadedCertificate) -> Value {
    let LoadedCertificate { path, facts } = loaded;
    let CertificateFacts { dns_sans, uri_sans, ip_sans, .. } = facts;
    let dns = dns_sans.iter().map(|name| json!({ "dns": name }));
    let uris = uri_sans.iter().map(|name| json!({ "uri": name }));
    let addresses = ip_sans.iter().map(|address| json!({ "ip_address": address.to_string() }));
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let left = facts.not_after_unix_s.saturating_sub_unsigned(now.as_secs());
    let days = left.max(0) / SECONDS_PER_DAY;
    json!({
        "path": path,
        "serial_number": facts.serial,
        "subject_alt_names": dns.chain(uris).chain(addresses).collect::<Vec<_>>(),
        "days_until_expiration": days.to_string(),
        "valid_from": timestamp_of(facts.not_before_unix_s),
        "expiration_time": timestamp_of(facts.not_after_unix_s),
    })
}

const SECONDS_PER_DAY: i64 = 24 * 60 * 60;
