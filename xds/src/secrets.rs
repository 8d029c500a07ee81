//! Files of secrets: SDS without a management server.
//!
//! A TLS context that refers to a secret in such a file carries its content and a [`SecretFile`] that
//! says where it is from. Whoever watches the file calls [`reread_downstream`] or [`reread_upstream`]
//! when it was replaced, and gets the context with everything from such files read anew. The
//! invariant: an error leaves the old context as it was.
//!
//! A file holds a DiscoveryResponse or a single Secret, as YAML or JSON.

use serde_json::Value as Json;

use crate::bootstrap::{LoadError, Source, place};
use crate::compile::Notes;
use crate::compile::secret::{self, Secret};
use crate::fault::{FieldPath, Found, Problem, Resource, Trail};
use crate::mapping::{ReadOptions, Schema};
use crate::snapshot::{DownstreamTls, SecretFile, TlsParameters, UpstreamTls, Validation};
use crate::source;
use crate::support::Reviewer;
use crate::view::View;

/// `tls` with all that it has from files of secrets read again; other files are not touched.
///
/// # Errors
/// If a file cannot be read, is not a configuration, or lacks the secret.
pub fn reread_downstream(tls: &DownstreamTls) -> Result<DownstreamTls, LoadError> {
    let schema = Schema::load();
    let mut fresh = tls.clone();
    reread_parameters(&mut fresh.common, &schema)?;
    // What the new content asks of clients may be more than the old did.
    let pins = fresh.common.validation.as_deref().is_some_and(Validation::pins);
    fresh.require_client_certificate |= pins;
    if let Some(file) = &tls.session_ticket_keys_file {
        fresh.session_ticket_keys = match read(file, &schema, &Notes::default())? {
            Secret::TicketKeys(keys) => keys,
            other => return Err(unfit(file, &other, "a list of session ticket keys")),
        };
    }
    Ok(fresh)
}

/// As [`reread_downstream`].
///
/// # Errors
/// See there.
pub fn reread_upstream(tls: &UpstreamTls) -> Result<UpstreamTls, LoadError> {
    let mut fresh = tls.clone();
    reread_parameters(&mut fresh.common, &Schema::load())?;
    Ok(fresh)
}

fn reread_parameters(parameters: &mut TlsParameters, schema: &Schema) -> Result<(), LoadError> {
    for certificate in &mut parameters.certificates {
        let Some(file) = certificate.file.clone() else { continue };
        *certificate = match read(&file, schema, &Notes::default())? {
            Secret::Certificate(mut fresh) => {
                fresh.file = Some(file);
                fresh
            }
            other => return Err(unfit(&file, &other, "a certificate")),
        };
    }
    if let Some(validation) = &parameters.validation
        && let Some(file) = &validation.file
    {
        let mut fresh = match read(file, schema, &Notes::default())? {
            Secret::Validation(fresh) => fresh,
            other => return Err(unfit(file, &other, "a validation context")),
        };
        fresh.file = Some(file.clone());
        if let Some(base) = &validation.base {
            fresh = fresh.onto(base.clone());
        }
        if let Some(text) = secret::complaint(&fresh) {
            return Err(refused(file, Problem::Invalid(text.to_owned())));
        }
        parameters.validation = Some(fresh.into());
    }
    Ok(())
}

/// The secret of the file's name.
pub(crate) fn read(file: &SecretFile, schema: &Schema, notes: &Notes) -> Result<Secret, LoadError> {
    let source = Source::file(&file.path)?;
    let fault = |found| LoadError::Faults(vec![place(&source.texts, resource(file), found)]);
    let [text] = &source.texts[..] else { return Err(missing(file)) };
    let mut json = source::parse(text)?;
    let is_list = json.get("resources").is_some();
    if !is_list && let Some(kind) = json.as_object_mut().and_then(|json| json.remove("@type")) {
        let is_secret = kind.as_str().is_some_and(|kind| kind.ends_with(&format!("/{SECRET}")));
        if !is_secret {
            return Err(fault(Found::new(
                Trail::default(),
                Problem::UnknownExtension(shown(&kind)),
            )));
        }
    }
    let descriptor = schema.message(if is_list { DISCOVERY_RESPONSE } else { SECRET });
    let descriptor = descriptor.expect("the descriptor set holds both messages");
    let options = ReadOptions { allow_unknown_keys: false };
    let message = schema.read(&descriptor, json, options, &mut Vec::new()).map_err(fault)?;

    let mut reviewer = Reviewer::new(schema, options);
    reviewer.message(&message, &Trail::default(), &[]);
    let faults = reviewer.finish().faults;
    if !faults.is_empty() {
        let place = |found| place(&source.texts, resource(file), found);
        return Err(LoadError::Faults(faults.into_iter().map(place).collect()));
    }
    let view = View::new(&message, schema);
    if !is_list {
        return match view.text("name") == &*file.name {
            true => secret::compile(&view, notes).map_err(fault),
            false => Err(missing(file)),
        };
    }
    for any in view.messages("resources") {
        let Some(unpacked) = any.unpack_self().map_err(fault)? else { continue };
        if unpacked.kind() != SECRET {
            return Err(fault(unpacked.refuse()));
        }
        let view = unpacked.view(schema);
        if view.text("name") == &*file.name {
            return secret::compile(&view, notes).map_err(fault);
        }
    }
    Err(missing(file))
}

fn shown(kind: &Json) -> String {
    kind.as_str().map_or_else(|| kind.to_string(), str::to_owned)
}

fn missing(file: &SecretFile) -> LoadError {
    refused(file, Problem::Invalid(format!("is not in {}", file.path.display())))
}

fn unfit(file: &SecretFile, secret: &Secret, wanted: &str) -> LoadError {
    let text = format!("is {} in {}, not {wanted}", secret.kind(), file.path.display());
    refused(file, Problem::Invalid(text))
}

/// A complaint about the secret as a whole.
fn refused(file: &SecretFile, problem: Problem) -> LoadError {
    LoadError::Faults(vec![place(&[], resource(file), Found::new(Trail::default(), problem))])
}

fn resource(file: &SecretFile) -> Resource {
    Resource { kind: "Secret", name: file.name.clone(), at: FieldPath::default() }
}

const DISCOVERY_RESPONSE: &str = "envoy.service.discovery.v3.DiscoveryResponse";
const SECRET: &str = "envoy.extensions.transport_sockets.tls.v3.Secret";
