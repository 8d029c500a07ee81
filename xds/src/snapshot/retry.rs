//! Retry policies (contract section 9.1).

use std::num::NonZeroU32;
use std::time::Duration;

use super::headers::HeaderName;
use super::matcher::HeaderMatcher;

/// When and how a request is sent again.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    /// After which outcomes.
    pub on: RetryOn,
    /// How often at most.
    pub num_retries: u32,
    /// From the moment a connection has the whole request; `None` is the route's timeout alone.
    pub per_try_timeout: Option<Duration>,
    /// Without a byte from upstream for so long, the try has failed.
    pub per_try_idle_timeout: Option<Duration>,
    /// Statuses of `retriable-status-codes`.
    pub status_codes: Box<[u16]>,
    /// Conditions of `retriable-headers`, on the response; any is enough.
    pub headers: Box<[HeaderMatcher]>,
    /// Only requests that satisfy one of these are sent again; empty: any request.
    pub request_headers: Box<[HeaderMatcher]>,
    /// How long to wait.
    pub back_off: BackOff,
    /// How long to wait where the response says it.
    pub rate_limited: Option<RateLimitedBackOff>,
    /// Which endpoints are passed over.
    pub avoid: AvoidHosts,
    /// The priorities of endpoints that had the request are passed over, looked at after every so many
    /// tries; once all were, they begin anew. `None`: every try chooses among all.
    pub previous_priorities: Option<NonZeroU32>,
    /// How often another endpoint is chosen in place of one that is to be avoided; the last one is then
    /// taken, whatever it is.
    pub host_attempts: u32,
}

/// A set of outcomes after which a request is sent again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryOn(u32);

macro_rules! conditions {
    ($( $(#[$meta:meta])* $name:ident = $bit:literal, $text:literal; )*) => {
        impl RetryOn {
            $( $(#[$meta])* pub const $name: RetryOn = RetryOn(1 << $bit); )*

            /// The condition of this name.
            #[must_use]
            pub fn named(name: &str) -> Option<RetryOn> {
                match name {
                    $( $text => Some(RetryOn::$name), )*
                    _ => None,
                }
            }
        }
    };
}

conditions! {
    /// Any 5xx, or no response.
    SERVER_ERROR = 0, "5xx";
    /// 502, 503, 504, or no response.
    GATEWAY_ERROR = 1, "gateway-error";
    /// No response.
    RESET = 2, "reset";
    /// No response, and nothing of the request went out.
    RESET_BEFORE_REQUEST = 3, "reset-before-request";
    /// No connection could be made.
    CONNECT_FAILURE = 4, "connect-failure";
    /// The response has `x-envoy-ratelimited`.
    RATE_LIMITED = 5, "envoy-ratelimited";
    /// 409.
    RETRIABLE_4XX = 6, "retriable-4xx";
    /// The endpoint said that it did nothing (HTTP/2's REFUSED_STREAM).
    REFUSED_STREAM = 7, "refused-stream";
    /// One of [`RetryPolicy::status_codes`].
    STATUS_CODES = 8, "retriable-status-codes";
    /// One of [`RetryPolicy::headers`].
    HEADERS = 9, "retriable-headers";
    /// gRPC status 1.
    CANCELLED = 10, "cancelled";
    /// gRPC status 4.
    DEADLINE_EXCEEDED = 11, "deadline-exceeded";
    /// gRPC status 13.
    INTERNAL = 12, "internal";
    /// gRPC status 8.
    RESOURCE_EXHAUSTED = 13, "resource-exhausted";
    /// gRPC status 14.
    UNAVAILABLE = 14, "unavailable";
}

impl RetryOn {
    /// The conditions of a list with commas, and whether all of its names are known.
    #[must_use]
    pub fn list(text: &str) -> (RetryOn, bool) {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        names.fold((RetryOn::default(), true), |(all, known), name| match RetryOn::named(name) {
            Some(one) => (all.with(one), known),
            // A condition of HTTP/3, which is not spoken.
            None => (all, known && name == "http3-post-connect-failure"),
        })
    }

    /// Both sets.
    #[must_use]
    pub const fn with(self, other: RetryOn) -> RetryOn {
        RetryOn(self.0 | other.0)
    }

    /// Whether any of `other` is in the set.
    #[must_use]
    pub fn any(self, other: RetryOn) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// Exponential back-off with full jitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// Above zero.
    pub base: Duration,
    /// Not below `base`.
    pub max: Duration,
}

impl BackOff {
    /// The wait before retry number `retry` (from 1): random in [0, base x (2^retry - 1)), capped; `random`
    /// is uniform over u64.
    #[must_use]
    pub fn wait(&self, retry: u32, random: u64) -> Duration {
        let base = self.base.as_millis().max(1) as u64;
        let span = base.saturating_mul((1u64 << retry.clamp(1, 32)) - 1);
        let max = self.max.as_millis() as u64;
        Duration::from_millis((random % span.max(1)).min(max))
    }
}

/// How long to wait where the response says it.
#[derive(Debug, Clone)]
pub struct RateLimitedBackOff {
    /// The first that the response has counts.
    pub reset_headers: Box<[(HeaderName, ResetFormat)]>,
    /// Longer waits are not believed.
    pub max: Duration,
}

/// What the value of a reset header is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFormat {
    /// Seconds from now.
    Seconds,
    /// Seconds since 1970.
    UnixTimestamp,
}

/// Which endpoints a retry passes over.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct AvoidHosts {
    /// Those that had the request already.
    pub previous: bool,
    /// Those whose metadata says `envoy.lb` `canary`.
    pub canary: bool,
    /// Those whose `envoy.lb` metadata holds all of these.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

impl AvoidHosts {
    /// Whether no endpoint is passed over.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.previous && !self.canary && self.metadata.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn section_9_1_lists_of_conditions() {
        let (on, known) = RetryOn::list("connect-failure, refused-stream,5xx");
        assert!(known && on.any(RetryOn::SERVER_ERROR) && on.any(RetryOn::CONNECT_FAILURE));
        assert!(!on.any(RetryOn::RESET));
        assert_eq!(RetryOn::list("5xx,unheard-of"), (RetryOn::SERVER_ERROR, false));
        assert_eq!(RetryOn::list(" , "), (RetryOn::default(), true));
    }

    #[test]
    fn section_9_1_back_off_has_full_jitter_and_a_cap() {
        let back_off = BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };
        for retry in 1..40 {
            let span = 25 * ((1u64 << retry.min(32)) - 1);
            assert_eq!(back_off.wait(retry, 0), Duration::ZERO);
            let longest = (span - 1).min(250);
            assert_eq!(back_off.wait(retry, span - 1), Duration::from_millis(longest));
        }
        assert!(back_off.wait(0, 7) <= back_off.max);
    }
}
