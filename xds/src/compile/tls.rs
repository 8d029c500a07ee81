//! Transport sockets: plain text, or TLS (contract section 16).
//!
//! Files are named here and read by the engine, again and again. What can be checked without them is
//! checked, and anything that would leave a peer less verified than the file says is refused.

use std::sync::Arc;

use crate::compile::secret::Reference;
use crate::compile::{Context, invalid, secret};
use crate::fault::{Found, Problem};
use crate::snapshot::{
    DownstreamTls, OcspStaplePolicy, ServedSecrets, TlsParameters, TlsVersion, UpstreamSni,
    UpstreamTls, Validation,
};
use crate::view::{Unpacked, View};

/// The transport of a filter chain.
pub(crate) fn downstream_socket(
    chain: &View<'_>,
    context: &Context<'_>,
) -> Result<Option<DownstreamTls>, Found> {
    let handshake_timeout = chain.timeout("transport_socket_connect_timeout", None)?;
    let Some(socket) = typed_socket(chain)? else { return Ok(None) };
    if socket.kind() != DOWNSTREAM {
        return Err(socket.refuse());
    }
    let mut tls = downstream(&socket.view(chain.schema()), context)?;
    tls.handshake_timeout = handshake_timeout;
    Ok(Some(tls))
}

/// What the HTTP options of a cluster say about its TLS.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FromAuthority {
    /// `auto_sni`.
    pub(crate) server_name: bool,
    /// `auto_san_validation`.
    pub(crate) validation: bool,
}

/// The transport of a cluster.
pub(crate) fn upstream_socket(
    cluster: &View<'_>,
    from_authority: FromAuthority,
    context: &Context<'_>,
) -> Result<Option<UpstreamTls>, Found> {
    let Some(socket) = typed_socket(cluster)? else { return Ok(None) };
    if socket.kind() != UPSTREAM {
        return Err(socket.refuse());
    }
    upstream(&socket.view(cluster.schema()), from_authority, context).map(Some)
}

/// `None`: plain text, said or not.
fn typed_socket(view: &View<'_>) -> Result<Option<Unpacked>, Found> {
    let Some(socket) = view.message("transport_socket") else { return Ok(None) };
    socket.required_text("name")?;
    Ok(socket.unpack("typed_config")?.filter(|inner| inner.kind() != RAW_BUFFER))
}

fn downstream(view: &View<'_>, context: &Context<'_>) -> Result<DownstreamTls, Found> {
    let mut common = common_context(view, TlsVersion::Tls13, context)?;
    let at_common = view.at("common_tls_context");
    if common.certificates.is_empty() && common.served.certificates.is_empty() {
        return Err(Found::new(at_common.field("tls_certificates"), Problem::Required));
    }
    if view.wrapped_flag("require_sni") == Some(true) {
        return Err(Found::new(view.at("require_sni"), Problem::NotSupported));
    }
    let demanded = view.wrapped_flag("require_client_certificate").unwrap_or(false);
    let validation = common.validation.as_deref();
    let is_served = common.served.validation.is_some();
    if demanded && !is_served && validation.is_none_or(|validation| !validation.verifies()) {
        context.notes.advise(
            view.at("require_client_certificate"),
            "clients must show a certificate, but any will do: there is no trusted_ca",
        );
    }
    let ocsp_staple_policy = match view.choice("ocsp_staple_policy")?.as_str() {
        "LENIENT_STAPLING" => OcspStaplePolicy::Lenient,
        "STRICT_STAPLING" => OcspStaplePolicy::Strict,
        "MUST_STAPLE" => OcspStaplePolicy::Must,
        other => return Err(view.unsupported("ocsp_staple_policy", other)),
    };
    if ocsp_staple_policy == OcspStaplePolicy::Must
        && let Some(bare) = common.certificates.iter().find(|source| source.ocsp_staple.is_none())
    {
        let text = format!("{} has no ocsp_staple", bare.at);
        return Err(view.invalid("ocsp_staple_policy", text));
    }
    // Pins and names can only be found in a certificate, so that there has to be one.
    let require_client_certificate = demanded || validation.is_some_and(Validation::pins);
    let (session_ticket_keys, session_ticket_keys_file) =
        session_ticket_keys(view, context, &mut common.served)?;
    Ok(DownstreamTls {
        require_client_certificate,
        common,
        session_ticket_keys,
        session_ticket_keys_file,
        disable_stateless_resumption: view.flag("disable_stateless_session_resumption"),
        disable_stateful_resumption: view.flag("disable_stateful_session_resumption"),
        session_timeout: session_timeout(view)?,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch: view
            .wrapped_flag("full_scan_certs_on_sni_mismatch")
            .unwrap_or(false),
        handshake_timeout: None,
    })
}

/// Zero is the library's default, as it is BoringSSL's.
fn session_timeout(view: &View<'_>) -> Result<Option<std::time::Duration>, Found> {
    match view.timeout("session_timeout", None)? {
        Some(timeout) if timeout.as_secs() > u64::from(u32::MAX) => {
            Err(view.invalid("session_timeout", format!("must be at most {} seconds", u32::MAX)))
        }
        timeout => Ok(timeout),
    }
}

/// Those that are known, and the file that they are from; those of a server are noted in `served`.
fn session_ticket_keys(
    view: &View<'_>,
    context: &Context<'_>,
    served: &mut ServedSecrets,
) -> Result<secret::TicketKeys, Found> {
    if let Some(keys) = view.message("session_ticket_keys") {
        return Ok((secret::ticket_keys(&keys)?, None));
    }
    let Some(reference) = view.message("session_ticket_keys_sds_secret_config") else {
        return Ok((Vec::new(), None));
    };
    match secret::resolve(&reference, context)? {
        Reference::Known(secret) => secret.ticket_keys(&reference),
        Reference::Served(sds) => {
            served.session_ticket_keys = Some(sds);
            Ok((Vec::new(), None))
        }
    }
}

fn upstream(
    view: &View<'_>,
    from_authority: FromAuthority,
    context: &Context<'_>,
) -> Result<UpstreamTls, Found> {
    let common = common_context(view, TlsVersion::Tls12, context)?;
    let at_common = view.at("common_tls_context");
    if common.certificates.len() + common.served.certificates.len() > 1 {
        let text = "a client has one certificate";
        return Err(invalid(at_common.field("tls_certificates"), text));
    }
    if view.flag("allow_renegotiation") {
        return Err(Found::new(view.at("allow_renegotiation"), Problem::NotSupported));
    }
    let sni = sni(view, from_authority, context)?;
    let auto_san_validation = view.flag("auto_sni_san_validation") || from_authority.validation;
    let validation = common.validation.as_deref();
    let is_served = common.served.validation.is_some();
    let trusts_somebody = is_served || validation.is_some_and(Validation::has_trust_anchors);
    if auto_san_validation && !trusts_somebody {
        let at = if from_authority.validation {
            at_common.field("validation_context")
        } else {
            view.at("auto_sni_san_validation")
        };
        return Err(invalid(at, "names are worth nothing without a trusted_ca"));
    }
    if from_authority.validation && !from_authority.server_name {
        let text = "auto_san_validation needs auto_sni, whose name it looks for";
        return Err(view.fault(Problem::Invalid(text.to_owned())));
    }
    if !is_served && !validation.is_some_and(Validation::verifies) {
        // Section 21: honoured, and said aloud. The warning names the cluster.
        context.notes.advise(at_common, "servers are not verified: there is no trusted_ca");
    }
    Ok(UpstreamTls {
        common,
        sni,
        auto_san_validation,
        max_session_keys: view.wrapped_u32("max_session_keys").unwrap_or(1),
    })
}

fn sni(
    view: &View<'_>,
    from_authority: FromAuthority,
    context: &Context<'_>,
) -> Result<UpstreamSni, Found> {
    let literal: Option<Box<str>> = match view.optional_text("sni") {
        Some(name) if !is_dns_name(name) => {
            return Err(view.invalid("sni", format!("{name:?} is not a DNS name")));
        }
        name => name.map(Box::from),
    };
    if from_authority.server_name {
        if literal.is_some() || view.flag("auto_host_sni") {
            let field = if literal.is_some() { "sni" } else { "auto_host_sni" };
            context
                .notes
                .advise(view.at(field), "has no effect beside auto_sni of the HTTP options");
        }
        return Ok(UpstreamSni::RequestAuthority);
    }
    Ok(match literal {
        fallback if view.flag("auto_host_sni") => UpstreamSni::EndpointHostname(fallback),
        Some(name) => UpstreamSni::Literal(name),
        None => UpstreamSni::None,
    })
}

/// As TLS takes them (RFC 6066 section 3): no address, no final dot.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && bytes[0] != b'-'
            && bytes[bytes.len() - 1] != b'-'
    };
    name.len() <= DNS_NAME_BYTES_MAX
        && name.split('.').all(is_label)
        && name.parse::<std::net::IpAddr>().is_err()
}

/// CommonTlsContext; `newest` is the highest version where none is configured.
fn common_context(
    view: &View<'_>,
    newest: TlsVersion,
    context: &Context<'_>,
) -> Result<TlsParameters, Found> {
    let Some(view) = view.message("common_tls_context") else {
        return Ok(parameters(newest));
    };
    let mut parameters = parameters(newest);
    if let Some(params) = view.message("tls_params") {
        tls_params(&params, &mut parameters, context)?;
    }
    parameters.alpn = alpn(&view, context)?;
    certificates(&view, context, &mut parameters)?;
    validation(&view, context, &mut parameters)?;
    Ok(parameters)
}

fn parameters(newest: TlsVersion) -> TlsParameters {
    TlsParameters {
        min_version: TlsVersion::Tls12,
        max_version: newest,
        cipher_suites: Vec::new(),
        ecdh_curves: Vec::new(),
        signature_algorithms: Vec::new(),
        alpn: Vec::new(),
        certificates: Vec::new(),
        validation: None,
        served: ServedSecrets::default(),
    }
}

fn tls_params(
    view: &View<'_>,
    parameters: &mut TlsParameters,
    context: &Context<'_>,
) -> Result<(), Found> {
    let version = |field: &str| match view.choice(field)?.as_str() {
        "TLS_AUTO" => Ok(None),
        "TLSv1_2" => Ok(Some(TlsVersion::Tls12)),
        "TLSv1_3" => Ok(Some(TlsVersion::Tls13)),
        other => Err(view.unsupported(field, other)),
    };
    let min = version("tls_minimum_protocol_version")?;
    let max = version("tls_maximum_protocol_version")?;
    parameters.min_version = min.unwrap_or(parameters.min_version);
    // A client that is told its minimum only is not meant to have no version at all.
    parameters.max_version = max.unwrap_or(parameters.max_version.max(parameters.min_version));
    if parameters.max_version < parameters.min_version {
        let text = "must not be below tls_minimum_protocol_version";
        return Err(view.invalid("tls_maximum_protocol_version", text));
    }
    parameters.cipher_suites = known_names(view, "cipher_suites", CIPHER_SUITES, context)?;
    parameters.ecdh_curves = known_names(view, "ecdh_curves", CURVES, context)?;
    parameters.signature_algorithms =
        known_names(view, "signature_algorithms", SIGNATURE_ALGORITHMS, context)?;
    Ok(())
}

/// Those of the names in `field` that the library has, spelt as in `known`, which lists other
/// spellings after the first. Names that it lacks are ignored as long as one is left.
fn known_names(
    view: &View<'_>,
    field: &str,
    known: &[&[&str]],
    context: &Context<'_>,
) -> Result<Vec<Box<str>>, Found> {
    let mut names: Vec<Box<str>> = Vec::new();
    let entries = view.texts(field);
    for (entry, at) in &entries {
        // `[A|B]` is a group of equal preference, which is read as an order.
        let members = entry.split([':', '[', '|', ']']).map(str::trim);
        for member in members.filter(|member| !member.is_empty()) {
            match known.iter().find(|spellings| spellings.contains(&member)) {
                None => context.notes.ignore(at.clone(), "the TLS library does not have it"),
                Some(spellings) if names.iter().any(|name| **name == *spellings[0]) => {}
                Some(spellings) => names.push(spellings[0].into()),
            }
        }
    }
    if names.is_empty() && !entries.is_empty() {
        let first: Vec<&str> = known.iter().map(|spellings| spellings[0]).collect();
        let text = format!("the TLS library has none of them; it has {}", first.join(", "));
        return Err(view.invalid(field, text));
    }
    Ok(names)
}

/// Envoy's users write one protocol an entry, or all in one with commas.
fn alpn(view: &View<'_>, context: &Context<'_>) -> Result<Vec<Arc<[u8]>>, Found> {
    let mut protocols: Vec<Arc<[u8]>> = Vec::new();
    for (entry, at) in view.texts("alpn_protocols") {
        for protocol in entry.split(',') {
            if !(1..=ALPN_BYTES_MAX).contains(&protocol.len()) {
                let text = format!("a protocol is 1 to {ALPN_BYTES_MAX} bytes long");
                return Err(invalid(at, text));
            }
            if protocol == METADATA_EXCHANGE_ALPN {
                // TL-02: whoever negotiates it sends metadata before everything else.
                let reason = "the exchange of metadata is not implemented, so it is never offered";
                context.notes.ignore(at.clone(), reason);
                continue;
            }
            protocols.push(protocol.as_bytes().into());
        }
    }
    Ok(protocols)
}

/// Certificates that are given as such make those of secrets unread.
fn certificates(
    view: &View<'_>,
    context: &Context<'_>,
    parameters: &mut TlsParameters,
) -> Result<(), Found> {
    let own = view.messages("tls_certificates");
    let secrets = view.messages("tls_certificate_sds_secret_configs");
    for view in &own {
        parameters.certificates.push(secret::certificate(view, view.path().into())?);
    }
    if own.is_empty() {
        for reference in &secrets {
            match secret::resolve(reference, context)? {
                Reference::Known(secret) => {
                    parameters.certificates.push(secret.certificate(reference)?);
                }
                Reference::Served(sds) => parameters.served.certificates.push(sds),
            }
        }
    } else if !secrets.is_empty() {
        let at = view.at("tls_certificate_sds_secret_configs");
        context.notes.advise(at, "has no effect beside tls_certificates");
    }
    Ok(())
}

fn validation(
    view: &View<'_>,
    context: &Context<'_>,
    parameters: &mut TlsParameters,
) -> Result<(), Found> {
    let (validation, at) = if let Some(own) = view.message("validation_context") {
        (secret::validation(&own, own.path().into(), &context.notes)?, own)
    } else if let Some(reference) = view.message("validation_context_sds_secret_config") {
        match secret::resolve(&reference, context)? {
            Reference::Known(secret) => (secret.validation(&reference)?, reference),
            Reference::Served(sds) => {
                parameters.served.validation = Some(sds);
                return Ok(());
            }
        }
    } else if let Some(combined) = view.message("combined_validation_context") {
        let Some(base) = combined.message("default_validation_context") else {
            return Err(combined.required("default_validation_context"));
        };
        let Some(reference) = combined.message("validation_context_sds_secret_config") else {
            return Err(combined.required("validation_context_sds_secret_config"));
        };
        let base = secret::validation(&base, base.path().into(), &context.notes)?;
        match secret::resolve(&reference, context)? {
            Reference::Known(secret) => {
                (secret.validation(&reference)?.onto(Arc::new(base)), combined)
            }
            Reference::Served(sds) => {
                parameters.served.validation = Some(sds);
                // Whether it means anything shows when it is whole.
                parameters.validation = Some(Arc::new(base));
                return Ok(());
            }
        }
    } else {
        return Ok(());
    };
    if let Some(text) = secret::complaint(&validation) {
        return Err(at.fault(Problem::Invalid(text.to_owned())));
    }
    parameters.validation = Some(Arc::new(validation));
    Ok(())
}

const RAW_BUFFER: &str = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
const DOWNSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const UPSTREAM: &str = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

const DNS_NAME_BYTES_MAX: usize = 253;
/// Of Istio's metadata exchange on plain TCP.
const METADATA_EXCHANGE_ALPN: &str = "istio-peer-exchange";
/// RFC 7301 section 3.1: the length is one byte.
const ALPN_BYTES_MAX: usize = 255;

/// TLS 1.2 suites of the library, by their OpenSSL and their IANA names.
const CIPHER_SUITES: &[&[&str]] = &[
    &["ECDHE-ECDSA-AES128-GCM-SHA256", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256"],
    &["ECDHE-ECDSA-CHACHA20-POLY1305", "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256"],
    &["ECDHE-RSA-AES128-GCM-SHA256", "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
    &["ECDHE-RSA-CHACHA20-POLY1305", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256"],
    &["ECDHE-ECDSA-AES256-GCM-SHA384", "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"],
    &["ECDHE-RSA-AES256-GCM-SHA384", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"],
];

const CURVES: &[&[&str]] = &[
    &["X25519"],
    &["P-256", "prime256v1", "secp256r1"],
    &["P-384", "secp384r1"],
    &["X25519MLKEM768"],
];

const SIGNATURE_ALGORITHMS: &[&[&str]] = &[
    &["ecdsa_secp256r1_sha256"],
    &["ecdsa_secp384r1_sha384"],
    &["ecdsa_secp521r1_sha512"],
    &["ed25519"],
    &["rsa_pss_rsae_sha256"],
    &["rsa_pss_rsae_sha384"],
    &["rsa_pss_rsae_sha512"],
    &["rsa_pkcs1_sha256"],
    &["rsa_pkcs1_sha384"],
    &["rsa_pkcs1_sha512"],
];
