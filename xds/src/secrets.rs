//! Secrets that change while contexts are in use: sent by management servers (SDS), or in files.
//!
//! A TLS context that refers to a secret of a server names it ([`Sds`]); [`complete_downstream`] and
//! [`complete_upstream`] give the context with all of them in it, once they are there. One that refers
//! to a secret in a file carries its content and a [`SecretFile`] that says where it is from. Whoever
//! watches the file calls [`reread_downstream`] or [`reread_upstream`] when it was replaced, and gets
//! the context with everything from such files read anew. The invariant: an error leaves the old
//! context as it was.
//!
//! A file holds a DiscoveryResponse or a single Secret, as YAML or JSON.

use std::sync::Arc;

use serde_json::Value as Json;

use crate::bootstrap::{LoadError, Source, place};
use crate::compile::Notes;
use crate::compile::secret::{self, Secret};
use crate::fault::{FieldPath, Found, Problem, Resource, Trail};
use crate::mapping::{ReadOptions, Schema};
use crate::snapshot::{
    CertificateSource, DownstreamTls, OcspStaplePolicy, Sds, SecretFile, TlsParameters,
    UpstreamTls, Validation,
};
use crate::source;
use crate::support::Reviewer;
use crate::view::View;

/// A secret as a server sent it.
#[derive(Debug)]
pub struct ServedSecret(pub(crate) Secret);

impl ServedSecret {
    /// The certificate, if it is one.
    #[must_use]
    pub fn certificate(&self) -> Option<&CertificateSource> {
        match &self.0 {
            Secret::Certificate(certificate) => Some(certificate),
            _ => None,
        }
    }

    /// What peers are verified by, if it is that.
    #[must_use]
    pub fn validation(&self) -> Option<&Validation> {
        match &self.0 {
            Secret::Validation(validation) => Some(validation),
            _ => None,
        }
    }
}

/// Why a secret does not fit where it is used.
#[derive(Debug, thiserror::Error)]
pub enum UnfitSecret {
    /// It is something else.
    #[error("secret {name:?} is {is}, not {wanted}")]
    Kind {
        /// Its name.
        name: Box<str>,
        /// What it is.
        is: &'static str,
        /// What a context wants of it.
        wanted: &'static str,
    },
    /// With it, the context would ask for what can't be.
    #[error("{0}")]
    Context(String),
}

/// `tls` with all secrets that servers send; nothing while one is missing. `secret` gives those that
/// have come, by [`Sds::key`].
///
/// # Errors
/// If they do not come to a context.
pub fn complete_downstream(
    tls: &DownstreamTls,
    secret: &dyn Fn(&str) -> Option<Arc<ServedSecret>>,
) -> Result<Option<DownstreamTls>, UnfitSecret> {
    let mut whole = tls.clone();
    if !complete_parameters(&mut whole.common, secret)? {
        return Ok(None);
    }
    ask_for_what_is_pinned(&mut whole);
    if let Some(sds) = &tls.common.served.session_ticket_keys {
        let Some(served) = secret(&sds.key) else { return Ok(None) };
        whole.session_ticket_keys = match &served.0 {
            Secret::TicketKeys(keys) => keys.clone(),
            other => return Err(unfit_served(sds, other, secret::TICKET_KEYS)),
        };
    }
    if whole.ocsp_staple_policy == OcspStaplePolicy::Must
        && let Some(bare) =
            whole.common.certificates.iter().find(|source| source.ocsp_staple.is_none())
    {
        let text = format!("ocsp_staple_policy: {} has no ocsp_staple", bare.at);
        return Err(UnfitSecret::Context(text));
    }
    Ok(Some(whole))
}

/// As [`complete_downstream`].
///
/// # Errors
/// See there.
pub fn complete_upstream(
    tls: &UpstreamTls,
    secret: &dyn Fn(&str) -> Option<Arc<ServedSecret>>,
) -> Result<Option<UpstreamTls>, UnfitSecret> {
    let mut whole = tls.clone();
    if !complete_parameters(&mut whole.common, secret)? {
        return Ok(None);
    }
    let validation = whole.common.validation.as_deref();
    if whole.auto_san_validation && !validation.is_some_and(Validation::has_trust_anchors) {
        let text = "names are worth nothing without a trusted_ca";
        return Err(UnfitSecret::Context(text.to_owned()));
    }
    Ok(Some(whole))
}

/// Whether all is there.
fn complete_parameters(
    parameters: &mut TlsParameters,
    secret: &dyn Fn(&str) -> Option<Arc<ServedSecret>>,
) -> Result<bool, UnfitSecret> {
    for sds in &parameters.served.certificates {
        let Some(served) = secret(&sds.key) else { return Ok(false) };
        match served.certificate() {
            Some(certificate) => parameters.certificates.push(certificate.clone()),
            None => return Err(unfit_served(sds, &served.0, secret::CERTIFICATE)),
        }
    }
    let Some(sds) = &parameters.served.validation else { return Ok(true) };
    let Some(served) = secret(&sds.key) else { return Ok(false) };
    let Some(validation) = served.validation() else {
        return Err(unfit_served(sds, &served.0, secret::VALIDATION));
    };
    let whole = match parameters.validation.take() {
        Some(base) => validation.clone().onto(base),
        None => validation.clone(),
    };
    if let Some(text) = secret::complaint(&whole) {
        return Err(UnfitSecret::Context(format!("{}: {text}", whole.at)));
    }
    parameters.validation = Some(whole.into());
    Ok(true)
}

/// What new content asks of clients may be more than the old did.
fn ask_for_what_is_pinned(tls: &mut DownstreamTls) {
    let pins = tls.common.validation.as_deref().is_some_and(Validation::pins);
    tls.require_client_certificate |= pins;
}

fn unfit_served(sds: &Sds, secret: &Secret, wanted: &'static str) -> UnfitSecret {
    UnfitSecret::Kind { name: sds.name.clone(), is: secret.kind(), wanted }
}

/// `tls` with all that it has from files of secrets read again; other files are not touched.
///
/// # Errors
/// If a file cannot be read, is not a configuration, or lacks the secret.
pub fn reread_downstream(tls: &DownstreamTls) -> Result<DownstreamTls, LoadError> {
    let schema = Schema::default();
    let mut fresh = tls.clone();
    reread_parameters(&mut fresh.common, &schema)?;
    ask_for_what_is_pinned(&mut fresh);
    if let Some(file) = &tls.session_ticket_keys_file {
        fresh.session_ticket_keys = match read(file, &schema, &Notes::default())? {
            Secret::TicketKeys(keys) => keys,
            other => return Err(unfit(file, &other, secret::TICKET_KEYS)),
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
    reread_parameters(&mut fresh.common, &Schema::default())?;
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
            other => return Err(unfit(&file, &other, secret::CERTIFICATE)),
        };
    }
    if let Some(validation) = &parameters.validation
        && let Some(file) = &validation.file
    {
        let mut fresh = match read(file, schema, &Notes::default())? {
            Secret::Validation(fresh) => fresh,
            other => return Err(unfit(file, &other, secret::VALIDATION)),
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
