//! Why a request ended as it did: the set that Envoy prints as `%RESPONSE_FLAGS%`.

/// A set of response flags: 32 bits, copied freely.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ResponseFlags(u32);

/// Declares every flag once: constant, short name, long name. The order is Envoy's, in which flags
/// are also printed.
macro_rules! response_flags {
    ($( $(#[$meta:meta])* $flag:ident, $short:literal, $long:literal; )*) => {
        response_flags!(@consts 0u32; $( $(#[$meta])* $flag )*);

        /// Short and long name of each flag, by bit.
        const NAMES: &[(&str, &str)] = &[$(($short, $long)),*];
    };
    (@consts $bit:expr; $(#[$meta:meta])* $flag:ident $($rest:tt)*) => {
        impl ResponseFlags {
            $(#[$meta])*
            pub const $flag: ResponseFlags = ResponseFlags(1 << ($bit));
        }
        response_flags!(@consts $bit + 1; $($rest)*);
    };
    (@consts $bit:expr;) => {};
}

response_flags! {
    /// The local service failed its health check.
    FAILED_LOCAL_HEALTH_CHECK, "LH", "FailedLocalHealthCheck";
    /// No healthy upstream host.
    NO_HEALTHY_UPSTREAM, "UH", "NoHealthyUpstream";
    /// Upstream request timeout.
    UPSTREAM_REQUEST_TIMEOUT, "UT", "UpstreamRequestTimeout";
    /// The stream was reset locally.
    LOCAL_RESET, "LR", "LocalReset";
    /// The upstream reset the stream.
    UPSTREAM_REMOTE_RESET, "UR", "UpstreamRemoteReset";
    /// Connecting to the upstream failed.
    UPSTREAM_CONNECTION_FAILURE, "UF", "UpstreamConnectionFailure";
    /// The upstream closed the connection.
    UPSTREAM_CONNECTION_TERMINATION, "UC", "UpstreamConnectionTermination";
    /// A circuit breaker overflowed.
    UPSTREAM_OVERFLOW, "UO", "UpstreamOverflow";
    /// No route, or no filter chain.
    NO_ROUTE_FOUND, "NR", "NoRouteFound";
    /// A delay was injected.
    DELAY_INJECTED, "DI", "DelayInjected";
    /// A fault was injected.
    FAULT_INJECTED, "FI", "FaultInjected";
    /// A rate limit refused it.
    RATE_LIMITED, "RL", "RateLimited";
    /// External authorization refused it.
    UNAUTHORIZED_EXTERNAL_SERVICE, "UAEX", "UnauthorizedExternalService";
    /// The rate limit service failed.
    RATE_LIMIT_SERVICE_ERROR, "RLSE", "RateLimitServiceError";
    /// The downstream closed the connection.
    DOWNSTREAM_CONNECTION_TERMINATION, "DC", "DownstreamConnectionTermination";
    /// The limit of retries or of connection attempts was reached.
    UPSTREAM_RETRY_LIMIT_EXCEEDED, "URX", "UpstreamRetryLimitExceeded";
    /// The stream was idle for too long.
    STREAM_IDLE_TIMEOUT, "SI", "StreamIdleTimeout";
    /// A header that must be strict was not valid.
    INVALID_ENVOY_REQUEST_HEADERS, "IH", "InvalidEnvoyRequestHeaders";
    /// The downstream broke the protocol.
    DOWNSTREAM_PROTOCOL_ERROR, "DPE", "DownstreamProtocolError";
    /// The upstream's stream lived too long.
    UPSTREAM_MAX_STREAM_DURATION_REACHED, "UMSDR", "UpstreamMaxStreamDurationReached";
    /// Answered from a cache.
    RESPONSE_FROM_CACHE_FILTER, "RFCF", "ResponseFromCacheFilter";
    /// A filter's configuration was not there.
    NO_FILTER_CONFIG_FOUND, "NFCF", "NoFilterConfigFound";
    /// The connection or stream lived too long.
    DURATION_TIMEOUT, "DT", "DurationTimeout";
    /// The upstream broke the protocol.
    UPSTREAM_PROTOCOL_ERROR, "UPE", "UpstreamProtocolError";
    /// The cluster does not exist.
    NO_CLUSTER_FOUND, "NC", "NoClusterFound";
    /// The overload manager stopped it.
    OVERLOAD_MANAGER, "OM", "OverloadManagerTerminated";
    /// A name did not resolve.
    DNS_RESOLUTION_FAILURE, "DF", "DnsResolutionFailed";
    /// Dropped by the cluster's `drop_overloads`.
    DROP_OVERLOAD, "DO", "DropOverload";
    /// The downstream reset the stream.
    DOWNSTREAM_REMOTE_RESET, "DR", "DownstreamRemoteReset";
    /// Dropped without condition by the cluster's `drop_overloads`.
    UNCONDITIONAL_DROP_OVERLOAD, "UDO", "UnconditionalDropOverload";
}

impl ResponseFlags {
    /// The flag of a short name such as `UH`.
    pub fn from_short_name(name: &str) -> Option<ResponseFlags> {
        let bit = NAMES.iter().position(|(short, _)| *short == name)?;
        Some(ResponseFlags(1 << bit))
    }

    /// Adds the flags of `other`.
    pub fn insert(&mut self, other: ResponseFlags) {
        self.0 |= other.0;
    }

    /// Whether all flags of `other` are set.
    pub fn contains(self, other: ResponseFlags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether any flag of `other` is set.
    pub fn intersects(self, other: ResponseFlags) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether no flag is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The short names of the flags set, in Envoy's order.
    pub fn short_names(self) -> impl Iterator<Item = &'static str> {
        self.names().map(|(short, _)| *short)
    }

    /// The long names of the flags set, in Envoy's order.
    pub fn long_names(self) -> impl Iterator<Item = &'static str> {
        self.names().map(|(_, long)| *long)
    }

    fn names(self) -> impl Iterator<Item = &'static (&'static str, &'static str)> {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            // Bits are declared next to their names, so every bit that can be set has one.
            let name = NAMES.get(rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(name)
        })
    }
}

impl std::ops::BitOr for ResponseFlags {
    type Output = ResponseFlags;

    fn bitor(self, other: ResponseFlags) -> ResponseFlags {
        ResponseFlags(self.0 | other.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_in_order_whatever_the_order_of_insertion() {
        let mut flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED;
        assert!(!flags.is_empty());
        flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.short_names().collect::<Vec<_>>(), ["UF", "URX"]);
        assert_eq!(
            flags.long_names().collect::<Vec<_>>(),
            ["UpstreamConnectionFailure", "UpstreamRetryLimitExceeded"]
        );
    }

    #[test]
    fn every_short_name_of_the_reference_is_known_and_unique() {
        let reference = [
            "UH", "UF", "UO", "NR", "NC", "URX", "DC", "UC", "UT", "LR", "UR", "LH", "DT", "DI",
            "FI", "RL", "UAEX", "RLSE", "IH", "SI", "DPE", "UPE", "UMSDR", "RFCF", "NFCF", "OM",
            "DF", "DO", "DR", "UDO",
        ];
        assert_eq!(reference.len(), NAMES.len());
        let mut all = ResponseFlags::default();
        for name in reference {
            let flag = ResponseFlags::from_short_name(name).expect(name);
            assert!(!all.intersects(flag));
            all.insert(flag);
            assert_eq!(flag.short_names().collect::<Vec<_>>(), [name]);
        }
        assert_eq!(ResponseFlags::from_short_name("XX"), None);
        assert!(all.contains(ResponseFlags::NO_CLUSTER_FOUND | ResponseFlags::DROP_OVERLOAD));
    }
}
