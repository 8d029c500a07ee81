//! When a request is sent again (contract section 9.1), as far as that can be decided without doing
//! anything.

use std::rc::Rc;
use std::time::Duration;

use outrigger_codecs::http::{Field, FieldKind, ResponseHead};
use outrigger_xds::snapshot::{
    AvoidHosts, HeaderMatcher, RateLimitedBackOff, RequestView, ResetFormat, RetryOn, RetryPolicy,
};
use serde_json::Value;

use crate::cluster::{Admission, Host};

use super::reply::UpstreamFailure;

/// How one request is retried. The memory is kept for the next.
#[derive(Default)]
pub(super) struct Retries {
    /// After which outcomes; none: never.
    pub(super) on: RetryOn,
    /// How often yet.
    pub(super) left: u32,
    /// How often it was.
    pub(super) done: u32,
    /// The response would have been followed by another try, had there been one left.
    pub(super) gave_up: bool,
    pub(super) per_try_timeout: Option<Duration>,
    pub(super) per_try_idle_timeout: Option<Duration>,
    /// Statuses that the request itself says.
    status_codes: Vec<u16>,
    /// Response headers that the request itself says.
    header_names: Vec<Box<str>>,
    /// Endpoints that had the request.
    pub(super) tried: Vec<Rc<Host>>,
    /// Its place under the limit of retries, while it is being retried.
    pub(super) admission: Option<Admission>,
}

impl Retries {
    /// Begins with what the route says, and with what the request itself says where `fields` may.
    pub(super) fn begin<R: RequestView>(
        &mut self,
        policy: Option<&RetryPolicy>,
        request: &R,
        fields: Option<&[Field<'_>]>,
    ) {
        let own = Own::read(fields.unwrap_or_default());
        self.on = policy.map(|policy| policy.on).unwrap_or_default().with(own.on);
        if let Some(policy) = policy {
            let mut conditions = policy.request_headers.iter();
            if !policy.request_headers.is_empty()
                && !conditions.any(|header| header.matches(request))
            {
                self.on = RetryOn::default();
            }
            self.per_try_timeout = policy.per_try_timeout;
            self.per_try_idle_timeout = policy.per_try_idle_timeout;
        }
        self.left = own.max_retries.unwrap_or(policy.map_or(1, |policy| policy.num_retries));
        self.status_codes.extend(own.status_codes());
        self.header_names.extend(own.header_names());
        if let Some(timeout) = own.per_try_timeout {
            self.per_try_timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
        }
    }

    /// Whether the request may be sent again at all.
    pub(super) fn is_armed(&self) -> bool {
        !self.on.is_empty()
    }

    /// Nothing more is sent again.
    pub(super) fn disarm(&mut self) {
        self.on = RetryOn::default();
        self.admission = None;
    }

    /// Forgets everything but the memory.
    pub(super) fn clear(&mut self) {
        let Self {
            on,
            left,
            done,
            gave_up,
            per_try_timeout,
            per_try_idle_timeout,
            status_codes,
            header_names,
            tried,
            admission,
        } = self;
        status_codes.clear();
        header_names.clear();
        tried.clear();
        *on = RetryOn::default();
        (*left, *done, *gave_up) = (0, 0, false);
        (*per_try_timeout, *per_try_idle_timeout) = (None, None);
        *admission = None;
    }

    /// Whether a try that ended without a response is to be followed by another one. `sent`: something of
    /// the request went out.
    pub(super) fn after_failure(&self, failure: UpstreamFailure, sent: bool) -> bool {
        use UpstreamFailure::{
            Closed, Connect, ConnectTimeout, Local, Overflow, Protocol, Refused,
        };
        use UpstreamFailure::{Reset, TryIdle, TryTimeout};
        let none = RetryOn::SERVER_ERROR.with(RetryOn::GATEWAY_ERROR).with(RetryOn::RESET);
        let none = if sent { none } else { none.with(RetryOn::RESET_BEFORE_REQUEST) };
        match failure {
            Overflow => false,
            Connect | ConnectTimeout | Local => {
                self.on.any(none.with(RetryOn::CONNECT_FAILURE).with(RetryOn::RESET_BEFORE_REQUEST))
            }
            Refused => self.on.any(none.with(RetryOn::REFUSED_STREAM)),
            Closed | Protocol | Reset | TryIdle | TryTimeout => self.on.any(none),
        }
    }

    /// Whether a response is not to be passed on, but followed by another try.
    pub(super) fn after_response(
        &self,
        policy: Option<&RetryPolicy>,
        head: &ResponseHead<'_, '_>,
    ) -> bool {
        let on = self.on;
        if has(head, "x-envoy-ratelimited") {
            return on.any(RetryOn::RATE_LIMITED);
        }
        let grpc = || head.field("grpc-status").and_then(|field| grpc_condition(field.value));
        let listed = |known: &[u16]| known.contains(&head.status);
        let view = ResponseView(head);
        let marked = |headers: &[HeaderMatcher]| headers.iter().any(|header| header.matches(&view));
        (on.any(RetryOn::SERVER_ERROR) && (500..600).contains(&head.status))
            || (on.any(RetryOn::GATEWAY_ERROR) && (502..=504).contains(&head.status))
            || (on.any(RetryOn::RETRIABLE_4XX) && head.status == 409)
            || (on.any(RetryOn::STATUS_CODES)
                && (listed(&self.status_codes)
                    || policy.is_some_and(|policy| listed(&policy.status_codes))))
            || (on.any(RetryOn::HEADERS)
                && (policy.is_some_and(|policy| marked(&policy.headers))
                    || self.header_names.iter().any(|name| has(head, name))))
            || (on.any(GRPC_CONDITIONS) && grpc().is_some_and(|condition| on.any(condition)))
    }
}

/// The conditions that are about gRPC's status.
const GRPC_CONDITIONS: RetryOn = RetryOn::CANCELLED
    .with(RetryOn::DEADLINE_EXCEEDED)
    .with(RetryOn::INTERNAL)
    .with(RetryOn::RESOURCE_EXHAUSTED)
    .with(RetryOn::UNAVAILABLE);

fn grpc_condition(status: &[u8]) -> Option<RetryOn> {
    match status {
        b"1" => Some(RetryOn::CANCELLED),
        b"4" => Some(RetryOn::DEADLINE_EXCEEDED),
        b"8" => Some(RetryOn::RESOURCE_EXHAUSTED),
        b"13" => Some(RetryOn::INTERNAL),
        b"14" => Some(RetryOn::UNAVAILABLE),
        _ => None,
    }
}

fn has(head: &ResponseHead<'_, '_>, name: &str) -> bool {
    head.field(name).is_some()
}

/// How long a response asks to wait, if it does.
pub(super) fn asked_wait(
    rules: &RateLimitedBackOff,
    head: &ResponseHead<'_, '_>,
    unix_seconds: u64,
) -> Option<Duration> {
    rules.reset_headers.iter().find_map(|(name, format)| {
        let value: u64 = std::str::from_utf8(head.field(name)?.value).ok()?.parse().ok()?;
        let wait = match format {
            ResetFormat::Seconds => value,
            ResetFormat::UnixTimestamp => value.checked_sub(unix_seconds)?,
        };
        // A longer one is not believed.
        Some(Duration::from_secs(wait)).filter(|wait| *wait <= rules.max)
    })
}

/// Whether another endpoint is to be preferred to this one.
pub(super) fn is_avoided(avoid: &AvoidHosts, host: &Rc<Host>, tried: &[Rc<Host>]) -> bool {
    let same = |known: &Rc<Host>| known.endpoint.address == host.endpoint.address;
    let lb = host.endpoint.metadata.as_ref().and_then(|metadata| metadata.get("envoy.lb"));
    let is_canary = || lb.and_then(|lb| lb.get("canary")).and_then(Value::as_bool) == Some(true);
    let has_all = |wanted: &serde_json::Map<String, Value>| {
        wanted.iter().all(|(key, value)| lb.and_then(|lb| lb.get(key)) == Some(value))
    };
    (avoid.previous && tried.iter().any(same))
        || (avoid.canary && is_canary())
        || avoid.metadata.as_ref().is_some_and(has_all)
}

/// What a request says of its own retries (contract section 8.1).
#[derive(Default)]
struct Own<'b> {
    on: RetryOn,
    max_retries: Option<u32>,
    per_try_timeout: Option<Duration>,
    codes: Option<&'b [u8]>,
    names: Option<&'b [u8]>,
}

impl<'b> Own<'b> {
    fn read(fields: &[Field<'b>]) -> Self {
        let mut own = Self::default();
        for field in fields.iter().filter(|field| field.kind == FieldKind::XEnvoy) {
            let Some(steer) = Steer::of(field.name) else { continue };
            let text = std::str::from_utf8(field.value).unwrap_or_default();
            match steer {
                Steer::RetryOn | Steer::RetryGrpcOn => own.on = own.on.with(RetryOn::list(text).0),
                Steer::MaxRetries => own.max_retries = text.parse().ok(),
                Steer::PerTryTimeout => {
                    own.per_try_timeout = text.parse().ok().map(Duration::from_millis);
                }
                Steer::StatusCodes => own.codes = Some(field.value),
                Steer::HeaderNames => own.names = Some(field.value),
                Steer::Hedge | Steer::AltStatName | Steer::AltResponse => {}
            }
        }
        own
    }

    fn status_codes(&self) -> impl Iterator<Item = u16> {
        let codes = outrigger_codecs::http::tokens(self.codes.unwrap_or_default());
        codes.take(LISTED_MAX).filter_map(|code| std::str::from_utf8(code).ok()?.parse().ok())
    }

    fn header_names(&self) -> impl Iterator<Item = Box<str>> {
        let names = outrigger_codecs::http::tokens(self.names.unwrap_or_default());
        names.take(LISTED_MAX).filter_map(|name| std::str::from_utf8(name).ok().map(Box::from))
    }
}

/// Statuses or names that a request may list.
const LISTED_MAX: usize = 32;

/// A header by which internal callers steer the router. It ends here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Steer {
    RetryOn,
    RetryGrpcOn,
    MaxRetries,
    StatusCodes,
    HeaderNames,
    PerTryTimeout,
    Hedge,
    AltStatName,
    AltResponse,
}

impl Steer {
    /// What a name means that begins with `x-envoy-`.
    pub(super) fn of(name: &str) -> Option<Self> {
        let suffix = name.get("x-envoy-".len()..)?;
        // All of them begin with one of three letters, as few others do.
        if !matches!(
            suffix.as_bytes().first().map(|byte| byte | 0x20),
            Some(b'r' | b'm' | b'u' | b'h')
        ) {
            return None;
        }
        STEERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(suffix)).map(|(_, steer)| *steer)
    }
}

const STEERS: [(&str, Steer); 9] = [
    ("retry-on", Steer::RetryOn),
    ("retry-grpc-on", Steer::RetryGrpcOn),
    ("max-retries", Steer::MaxRetries),
    ("retriable-status-codes", Steer::StatusCodes),
    ("retriable-header-names", Steer::HeaderNames),
    ("upstream-rq-per-try-timeout-ms", Steer::PerTryTimeout),
    ("hedge-on-per-try-timeout", Steer::Hedge),
    ("upstream-alt-stat-name", Steer::AltStatName),
    ("upstream-rq-timeout-alt-response", Steer::AltResponse),
];

/// A response as header conditions see it: nothing but headers.
struct ResponseView<'a>(&'a ResponseHead<'a, 'a>);

impl RequestView for ResponseView<'_> {
    fn method(&self) -> &[u8] {
        b""
    }

    fn scheme(&self) -> &[u8] {
        b""
    }

    fn authority(&self) -> &[u8] {
        b""
    }

    fn path_and_query(&self) -> &[u8] {
        b""
    }

    fn is_internal(&self) -> bool {
        false
    }

    fn header_values<'v>(&'v self, name: &str) -> impl Iterator<Item = &'v [u8]> {
        let fields = self.0.fields.iter();
        fields.filter(move |field| field.name.eq_ignore_ascii_case(name)).map(|field| field.value)
    }
}
