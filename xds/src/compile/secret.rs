//! Secrets: certificates, what peers are verified by, and ticket keys; in place, in
//! `static_resources.secrets`, in files of their own, or sent by servers (contract section 16, SDS).

use std::path::Path;
use std::sync::Arc;

use base64::Engine;

use crate::compile::{Context, Notes, config_source, invalid, matcher};
use crate::fault::{Found, Problem};
use crate::secrets;
use crate::snapshot::{
    CertificateSource, DataSource, SanKind, SanMatcher, Sds, SecretFile, Validation,
};
use crate::view::View;

/// The content of an `envoy.extensions.transport_sockets.tls.v3.Secret`.
#[derive(Debug, Clone)]
pub(crate) enum Secret {
    Certificate(CertificateSource),
    Validation(Validation),
    TicketKeys(Vec<DataSource>),
    /// Of no use to TLS.
    Generic,
}

/// Session ticket keys, and the file of secrets that they are from.
pub(crate) type TicketKeys = (Vec<DataSource>, Option<Arc<SecretFile>>);

/// What a context refers to.
#[derive(Debug)]
pub(crate) enum Reference {
    Known(Resolved),
    /// A server sends it.
    Served(Arc<Sds>),
}

/// A secret that is known.
#[derive(Debug)]
pub(crate) struct Resolved {
    secret: Secret,
    file: Option<Arc<SecretFile>>,
}

/// Compiles a Secret.
pub(crate) fn compile(view: &View<'_>, notes: &Notes) -> Result<Secret, Found> {
    let name = view.required_text("name")?;
    let at = || format!("secret {name:?}").into();
    let kinds = ["tls_certificate", "session_ticket_keys", "validation_context", "generic_secret"];
    let kind = view.required_which("type", &kinds)?;
    let Some(inner) = view.message(kind) else { return Err(view.required(kind)) };
    Ok(match kind {
        "tls_certificate" => Secret::Certificate(certificate(&inner, at())?),
        "session_ticket_keys" => Secret::TicketKeys(ticket_keys(&inner)?),
        "validation_context" => Secret::Validation(validation(&inner, at(), notes)?),
        _ => {
            if let Some(source) = inner.message("secret") {
                data_source(&source)?;
            }
            for (_, source) in inner.entries("secrets") {
                data_source(&source)?;
            }
            Secret::Generic
        }
    })
}

/// The secret that an SdsSecretConfig names.
pub(crate) fn resolve(view: &View<'_>, context: &Context<'_>) -> Result<Reference, Found> {
    let name = view.required_text("name")?;
    let Some(source) = view.message("sds_config") else {
        return match context.secrets.get(name) {
            Some(secret) => Ok(Reference::Known(Resolved { secret: secret.clone(), file: None })),
            None => {
                let text = format!("there is no {name:?} in static_resources.secrets");
                Err(view.invalid("name", text))
            }
        };
    };
    if source.which(&["ads", "api_config_source"]).is_some() {
        let source = config_source::compile(&source, context.sources)?;
        let key = source.place.key(name);
        return Ok(Reference::Served(Arc::new(Sds { key, name: name.into(), source })));
    }
    // A file that is there needs no waiting, but the value has to be one.
    source.duration("initial_fetch_timeout")?;
    match source.choice("resource_api_version")?.as_str() {
        "AUTO" | "V3" => {}
        other => return Err(source.unsupported("resource_api_version", other)),
    }
    let (path, watched_directory, at) = match source.message("path_config_source") {
        Some(file) => (file.required_text("path")?, watched_directory(&file)?, file.at("path")),
        None => {
            source.required_which("config_source_specifier", &["path"])?;
            (source.required_text("path")?, None, source.at("path"))
        }
    };
    let file = SecretFile { path: Path::new(path).into(), watched_directory, name: name.into() };
    let secret = secrets::read(&file, view.schema(), &context.notes)
        .map_err(|error| invalid(at, error.to_string()))?;
    Ok(Reference::Known(Resolved { secret, file: Some(Arc::new(file)) }))
}

impl Resolved {
    pub(crate) fn certificate(self, reference: &View<'_>) -> Result<CertificateSource, Found> {
        match self.secret {
            Secret::Certificate(source) => Ok(CertificateSource { file: self.file, ..source }),
            other => Err(other.mistaken_for(CERTIFICATE, reference)),
        }
    }

    pub(crate) fn validation(self, reference: &View<'_>) -> Result<Validation, Found> {
        match self.secret {
            Secret::Validation(validation) => Ok(Validation { file: self.file, ..validation }),
            other => Err(other.mistaken_for(VALIDATION, reference)),
        }
    }

    pub(crate) fn ticket_keys(self, reference: &View<'_>) -> Result<TicketKeys, Found> {
        match self.secret {
            Secret::TicketKeys(keys) => Ok((keys, self.file)),
            other => Err(other.mistaken_for(TICKET_KEYS, reference)),
        }
    }
}

impl Secret {
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Secret::Certificate(_) => CERTIFICATE,
            Secret::Validation(_) => VALIDATION,
            Secret::TicketKeys(_) => TICKET_KEYS,
            Secret::Generic => "a generic secret",
        }
    }

    fn mistaken_for(&self, wanted: &str, reference: &View<'_>) -> Found {
        let name = reference.text("name");
        reference.invalid("name", format!("{name:?} is {}, not {wanted}", self.kind()))
    }
}

/// TlsCertificate. `at` is how messages call it.
pub(crate) fn certificate(view: &View<'_>, at: Box<str>) -> Result<CertificateSource, Found> {
    let source = |field: &str| match view.message(field) {
        Some(source) => data_source(&source),
        None => Err(view.required(field)),
    };
    let ocsp_staple = match view.message("ocsp_staple") {
        // DER, which no text holds.
        Some(staple) if staple.has("inline_string") => {
            return Err(staple.invalid("inline_string", "must be inline_bytes: a response is DER"));
        }
        Some(staple) => Some(data_source(&staple)?),
        None => None,
    };
    Ok(CertificateSource {
        chain: source("certificate_chain")?,
        key: source("private_key")?,
        ocsp_staple,
        watched_directory: watched_directory(view)?,
        file: None,
        at,
    })
}

/// TlsSessionTicketKeys.
pub(crate) fn ticket_keys(view: &View<'_>) -> Result<Vec<DataSource>, Found> {
    let keys = view.messages("keys");
    if keys.is_empty() {
        return Err(view.required("keys"));
    }
    keys.iter()
        .map(|view| match data_source(view)? {
            DataSource::Inline(bytes) if bytes.len() != TICKET_KEY_BYTES => {
                let text = format!("is {} bytes long, not {TICKET_KEY_BYTES}", bytes.len());
                Err(view.fault(Problem::Invalid(text)))
            }
            source => Ok(source),
        })
        .collect()
}

/// CertificateValidationContext. `at` is how messages call it.
pub(crate) fn validation(
    view: &View<'_>,
    at: Box<str>,
    notes: &Notes,
) -> Result<Validation, Found> {
    let optional = |field: &str| view.message(field).map(|source| data_source(&source)).transpose();
    let spki_hashes = view.texts("verify_certificate_spki").into_iter().map(|(text, at)| {
        spki_hash(text).ok_or_else(|| invalid(at, "is not the base64 of a SHA-256 hash"))
    });
    let certificate_hashes = view.texts("verify_certificate_hash").into_iter().map(|(text, at)| {
        certificate_hash(text).ok_or_else(|| invalid(at, "is not a SHA-256 hash in hexadecimal"))
    });
    let max_verify_depth = view.wrapped_u32("max_verify_depth");
    if max_verify_depth.is_some_and(|depth| depth > VERIFY_DEPTH_MAX) {
        return Err(view.invalid("max_verify_depth", format!("must be at most {VERIFY_DEPTH_MAX}")));
    }
    Ok(Validation {
        trusted_ca: optional("trusted_ca")?,
        system_root_certs: view.has("system_root_certs"),
        spki_hashes: spki_hashes.collect::<Result<_, Found>>()?,
        certificate_hashes: certificate_hashes.collect::<Result<_, Found>>()?,
        subject_alt_names: subject_alt_names(view, notes)?,
        crl: optional("crl")?,
        only_verify_leaf_cert_crl: view.flag("only_verify_leaf_cert_crl"),
        allow_expired_certificate: view.flag("allow_expired_certificate"),
        accept_untrusted: match view.choice("trust_chain_verification")?.as_str() {
            "VERIFY_TRUST_CHAIN" => false,
            "ACCEPT_UNTRUSTED" => true,
            other => return Err(view.unsupported("trust_chain_verification", other)),
        },
        max_verify_depth,
        suppress_client_ca_list: view.flag("suppress_client_ca_list"),
        watched_directory: watched_directory(view)?,
        file: None,
        base: None,
        at,
    })
}

/// Typed matchers make the older, untyped ones unread.
fn subject_alt_names(view: &View<'_>, notes: &Notes) -> Result<Vec<SanMatcher>, Found> {
    let typed = view.messages("match_typed_subject_alt_names");
    let untyped = view.messages("match_subject_alt_names");
    if typed.is_empty() {
        let any = |view: &View<'_>| {
            Ok(SanMatcher { kind: SanKind::Any, matcher: matcher::string(view)? })
        };
        return untyped.iter().map(any).collect();
    }
    if !untyped.is_empty() {
        let at = view.at("match_subject_alt_names");
        notes.advise(at, "has no effect beside match_typed_subject_alt_names");
    }
    typed.iter().map(san_matcher).collect()
}

fn san_matcher(view: &View<'_>) -> Result<SanMatcher, Found> {
    let kind = match view.choice("san_type")?.as_str() {
        "EMAIL" => SanKind::Email,
        "DNS" => SanKind::Dns,
        "URI" => SanKind::Uri,
        "IP_ADDRESS" => SanKind::Ip,
        "SAN_TYPE_UNSPECIFIED" => return Err(view.required("san_type")),
        other => return Err(view.unsupported("san_type", other)),
    };
    let Some(matcher) = view.message("matcher") else { return Err(view.required("matcher")) };
    Ok(SanMatcher { kind, matcher: matcher::string(&matcher)? })
}

/// What is wrong with a context as a whole, after all that it is merged from: demands that mean
/// nothing where no chain is verified. Envoy refuses them too.
pub(crate) fn complaint(validation: &Validation) -> Option<&'static str> {
    if validation.has_trust_anchors() {
        None
    } else if !validation.subject_alt_names.is_empty() {
        Some("matchers of subject alternative names are worth nothing without a trusted_ca")
    } else if validation.crl.is_some() {
        Some("a crl is worth nothing without a trusted_ca")
    } else if validation.allow_expired_certificate {
        Some("allow_expired_certificate means nothing without a trusted_ca")
    } else {
        None
    }
}

/// 44 characters of base64.
fn spki_hash(text: &str) -> Option<[u8; 32]> {
    base64::engine::general_purpose::STANDARD.decode(text).ok()?.try_into().ok()
}

/// 64 hexadecimal digits, with a colon between each two or without.
fn certificate_hash(text: &str) -> Option<[u8; 32]> {
    let mut bytes = text.as_bytes().chunks_exact(if text.len() == HEX_BYTES { 2 } else { 3 });
    let digit = |byte: u8| (byte as char).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut hash = [0; 32];
    let last = hash.len() - 1;
    for (index, byte) in hash.iter_mut().enumerate() {
        let chunk = match bytes.next() {
            Some(chunk) => chunk,
            None if index == last => bytes.remainder(),
            None => return None,
        };
        let (high, low) = match chunk {
            [high, low] => (high, low),
            [high, low, b':'] if index < last => (high, low),
            _ => return None,
        };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    matches!(text.len(), HEX_BYTES | HEX_AND_COLONS_BYTES).then_some(hash)
}

/// DataSource whose file is read later, and again when it changes.
fn data_source(view: &View<'_>) -> Result<DataSource, Found> {
    let fields = ["filename", "inline_bytes", "inline_string", "environment_variable"];
    let field = view.required_which("specifier", &fields)?;
    let bytes = match field {
        "filename" => return Ok(DataSource::File(Path::new(view.required_text(field)?).into())),
        "inline_bytes" => view.bytes(field).to_vec(),
        "inline_string" => view.text(field).as_bytes().to_vec(),
        _ => {
            let name = view.required_text(field)?;
            let value = std::env::var(name);
            value.map_err(|error| view.invalid(field, format!("{name}: {error}")))?.into_bytes()
        }
    };
    if bytes.is_empty() {
        return Err(view.invalid(field, "is empty"));
    }
    Ok(DataSource::Inline(bytes.into()))
}

fn watched_directory(view: &View<'_>) -> Result<Option<Arc<Path>>, Found> {
    match view.message("watched_directory") {
        Some(directory) => Ok(Some(Path::new(directory.required_text("path")?).into())),
        None => Ok(None),
    }
}

/// What messages call the kinds.
pub(crate) const CERTIFICATE: &str = "a certificate";
pub(crate) const VALIDATION: &str = "a validation context";
pub(crate) const TICKET_KEYS: &str = "a list of session ticket keys";

/// A name, a key to decrypt by and one to authenticate by: 16 + 32 + 32.
const TICKET_KEY_BYTES: usize = 80;
/// Envoy's bound.
const VERIFY_DEPTH_MAX: u32 = 100;
const HEX_BYTES: usize = 64;
const HEX_AND_COLONS_BYTES: usize = 95;
