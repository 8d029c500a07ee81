//! Resources as they are shown: JSON without what is secret.

use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Value as Json, json};

/// JSON with proto field names, private keys left out. What cannot be printed, such as an optional
/// extension of unknown type, makes the whole unprintable; then there is nothing to show but that.
pub(crate) fn to_json(message: &DynamicMessage) -> Json {
    let options = SerializeOptions::new().use_proto_field_name(true);
    match message.serialize_with_options(serde_json::value::Serializer, &options) {
        Ok(mut json) => {
            redact(&mut json, false);
            json
        }
        Err(error) => json!({ "error": error.to_string() }),
    }
}

/// Overwrites bytes that stand in the file itself in fields that Envoy marks as sensitive. Both
/// spellings of names, because what is in a TypedStruct is printed as it was written.
fn redact(json: &mut Json, sensitive: bool) {
    match json {
        Json::Object(members) => {
            for (key, value) in members {
                if sensitive && INLINE_FIELDS.contains(&&**key) {
                    *value = json!("[redacted]");
                } else {
                    redact(value, sensitive || SENSITIVE_FIELDS.contains(&&**key));
                }
            }
        }
        Json::Array(items) => items.iter_mut().for_each(|item| redact(item, sensitive)),
        _ => {}
    }
}

const SENSITIVE_FIELDS: &[&str] = &[
    "private_key",
    "privateKey",
    "password",
    "pkcs12",
    "session_ticket_keys",
    "sessionTicketKeys",
    "generic_secret",
    "genericSecret",
];
const INLINE_FIELDS: &[&str] = &["inline_string", "inlineString", "inline_bytes", "inlineBytes"];
