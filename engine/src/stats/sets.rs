//! The sets of statistics, one struct per subject, with Envoy's names.
//!
//! A field that Envoy does not have says so in its comment. Histograms of time are in milliseconds.
//! A *level* is a gauge of which every shard knows the same fact (how many members a cluster has):
//! merging takes the largest, where a gauge's shards are added up.

use std::time::Duration;

use outrigger_codecs::http2::Counters;
use outrigger_xds::snapshot::TlsVersion;
use rustls::{CipherSuite, NamedGroup};

use crate::tls::{CertificateFault, HandshakeError, TlsSession};

use super::cell::{CodeCounters, Counter, Gauge, PortCounters, class_index};
use super::histogram::Histogram;

/// One cell as a visitor meets it.
#[derive(Clone, Copy, Debug)]
pub enum Stat<'a> {
    /// A growing number; shards add up.
    Counter(u64),
    /// A number that goes up and down; shards add up.
    Gauge(&'a Gauge),
    /// A number all shards agree on; the largest counts.
    Level(&'a Gauge),
    /// A distribution; shards are merged.
    Histogram(&'a Histogram),
}

impl Stat<'_> {
    /// Whether it was ever written.
    pub fn is_used(self) -> bool {
        match self {
            Stat::Counter(n) => n > 0,
            Stat::Gauge(gauge) | Stat::Level(gauge) => gauge.is_used(),
            Stat::Histogram(histogram) => histogram.is_used(),
        }
    }
}

/// A struct of cells that can list them.
pub trait StatSet: Default + Send + Sync + 'static {
    /// Calls `visit` once per cell, always in the same order, with its name inside the set.
    fn visit<'a>(&'a self, visit: &mut dyn FnMut(&str, Stat<'a>));
}

/// Declares a set: the struct, its documentation and its name table in one place.
///
/// `name` alone is both the field and the statistic; `field = "a.b"` gives the statistic a name
/// that is no identifier.
macro_rules! stat_set {
    (
        $(#[$meta:meta])*
        pub struct $set:ident {
            counters { $( $(#[$cm:meta])* $c:ident $(= $cn:literal)? ),* $(,)? }
            gauges { $( $(#[$gm:meta])* $g:ident $(= $gn:literal)? ),* $(,)? }
            levels { $( $(#[$lm:meta])* $l:ident $(= $ln:literal)? ),* $(,)? }
            histograms { $( $(#[$hm:meta])* $h:ident $(= $hn:literal)? ),* $(,)? }
            $( codes { $(#[$xm:meta])* $x:ident: $xt:ty = $xn:literal } )?
        }
    ) => {
        $(#[$meta])*
        // Two shards must not share a cache line, nor a pair of lines that are prefetched together.
        #[repr(align(128))]
        #[derive(Debug, Default)]
        pub struct $set {
            $( #[doc = concat!("Counter `", stat_set!(@name $c $(= $cn)?), "`.")] $(#[$cm])*
               pub $c: Counter, )*
            $( #[doc = concat!("Gauge `", stat_set!(@name $g $(= $gn)?), "`.")] $(#[$gm])*
               pub $g: Gauge, )*
            $( #[doc = concat!("Level `", stat_set!(@name $l $(= $ln)?), "`.")] $(#[$lm])*
               pub $l: Gauge, )*
            $( #[doc = concat!("Histogram `", stat_set!(@name $h $(= $hn)?), "`.")] $(#[$hm])*
               pub $h: Histogram, )*
            $( #[doc = concat!("Counters `", $xn, "<code>`.")] $(#[$xm])*
               pub $x: $xt, )?
        }

        impl StatSet for $set {
            fn visit<'a>(&'a self, visit: &mut dyn FnMut(&str, Stat<'a>)) {
                $( visit(stat_set!(@name $c $(= $cn)?), Stat::Counter(self.$c.value())); )*
                $( visit(stat_set!(@name $g $(= $gn)?), Stat::Gauge(&self.$g)); )*
                $( visit(stat_set!(@name $l $(= $ln)?), Stat::Level(&self.$l)); )*
                $( visit(stat_set!(@name $h $(= $hn)?), Stat::Histogram(&self.$h)); )*
                $( self.$x.for_each(|code, n| {
                    visit(&format!(concat!($xn, "{}"), code), Stat::Counter(n));
                }); )?
            }
        }
    };
    (@name $field:ident) => { stringify!($field) };
    (@name $field:ident = $name:literal) => { $name };
}

stat_set! {
    /// `listener.<address>.`: the connections of one listener on one shard.
    pub struct ListenerStats {
        counters {
            downstream_cx_total,
            downstream_cx_destroy,
            downstream_cx_overflow,
            downstream_cx_overload_reject,
            downstream_global_cx_overflow,
            downstream_cx_transport_socket_connect_timeout,
            downstream_listener_filter_error,
            downstream_listener_filter_remote_close,
            downstream_pre_cx_timeout,
            no_filter_chain_match,
            /// A filter of the chain is to come by name, and has not.
            network_extension_config_missing,
            /// Outrigger's own: how often accepting stopped for lack of file descriptors.
            accept_paused,
        }
        gauges { downstream_cx_active, downstream_pre_cx_active }
        levels {}
        histograms {
            downstream_cx_length_ms,
            /// Outrigger's own: how long listener filters waited for bytes, or in vain (L-05).
            downstream_pre_cx_length_ms,
        }
        codes {
            /// Outrigger's own: the ports that clients of `downstream_pre_cx_timeout` meant (L-06). To
            /// exclude one from inspection takes the wait away from its clients.
            downstream_pre_cx_timeout_port: PortCounters = "downstream_pre_cx_timeout_port_"
        }
    }
}

stat_set! {
    /// `http.<stat_prefix>.`: one HTTP connection manager on one shard.
    pub struct HttpStats {
        counters {
            downstream_cx_total,
            downstream_cx_http1_total,
            downstream_cx_http2_total,
            downstream_cx_ssl_total,
            downstream_cx_destroy,
            downstream_cx_destroy_local,
            downstream_cx_destroy_remote,
            downstream_cx_destroy_active_rq,
            downstream_cx_destroy_local_active_rq,
            downstream_cx_destroy_remote_active_rq,
            downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total,
            downstream_cx_protocol_error,
            downstream_cx_idle_timeout,
            downstream_cx_delayed_close_timeout,
            downstream_cx_max_duration_reached,
            downstream_cx_max_requests_reached,
            downstream_cx_overload_disable_keepalive,
            downstream_cx_drain_close,
            downstream_cx_upgrades_total,
            downstream_flow_control_paused_reading_total,
            downstream_flow_control_resumed_reading_total,
            downstream_rq_total,
            downstream_rq_http1_total,
            downstream_rq_http2_total,
            downstream_rq_completed,
            downstream_rq_1xx,
            downstream_rq_2xx,
            downstream_rq_3xx,
            downstream_rq_4xx,
            downstream_rq_5xx,
            downstream_rq_timeout,
            downstream_rq_idle_timeout,
            downstream_rq_header_timeout,
            downstream_rq_max_duration_reached,
            downstream_rq_rx_reset,
            downstream_rq_tx_reset,
            downstream_rq_too_large,
            downstream_rq_overload_close,
            downstream_rq_non_relative_path,
            downstream_rq_failed_path_normalization,
            downstream_rq_redirected_with_normalized_path,
            downstream_rq_response_before_rq_complete,
            downstream_rq_ws_on_non_ws_route,
            no_route,
            no_cluster,
            rq_total,
            rq_direct_response,
            rq_redirect,
            rq_reset_after_downstream_response_started,
            rs_too_large,
        }
        gauges {
            downstream_cx_active,
            downstream_cx_http1_active,
            downstream_cx_http2_active,
            downstream_cx_ssl_active,
            downstream_cx_upgrades_active,
            downstream_cx_rx_bytes_buffered,
            downstream_cx_tx_bytes_buffered,
            downstream_rq_active,
        }
        levels {}
        histograms { downstream_cx_length_ms, downstream_rq_time }
    }
}

impl HttpStats {
    /// Counts a completed response: `downstream_rq_completed` and its class.
    #[inline]
    pub fn response(&self, code: u16) {
        self.downstream_rq_completed.inc();
        let classes = [
            &self.downstream_rq_1xx,
            &self.downstream_rq_2xx,
            &self.downstream_rq_3xx,
            &self.downstream_rq_4xx,
            &self.downstream_rq_5xx,
        ];
        if let Some(class) = class_index(code) {
            classes[class].inc();
        }
    }
}

stat_set! {
    /// `http.<stat_prefix>.fault.`: the fault filters of a connection manager on one shard.
    pub struct FaultStats {
        counters {
            aborts_injected = "fault.aborts_injected",
            delays_injected = "fault.delays_injected",
            faults_overflow = "fault.faults_overflow",
        }
        gauges { active_faults = "fault.active_faults" }
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `http.<stat_prefix>.cors.`: the CORS filters of a connection manager on one shard.
    pub struct CorsStats {
        counters {
            origin_valid = "cors.origin_valid",
            origin_invalid = "cors.origin_invalid",
        }
        gauges {}
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `<protocol>.<stat_prefix>.`: one RPC proxy on one shard. The names are those of Envoy's Dubbo
    /// proxy, where it has them.
    pub struct RpcStats {
        counters {
            cx_total,
            cx_destroy,
            cx_destroy_remote,
            cx_destroy_with_active_rq,
            cx_protocol_error,
            cx_idle_timeout,
            cx_frame_timeout,
            cx_drain_close,
            /// Clients that did not read their answers.
            cx_slow_reader,
            cx_rx_bytes_total,
            cx_tx_bytes_total,
            request,
            request_twoway,
            request_oneway,
            request_decoding_error,
            request_edit_error,
            request_overflow,
            no_route,
            no_cluster,
            response,
            response_success,
            response_business_exception,
            response_error,
            local_response_error,
            heartbeats_answered,
            heartbeats_sent,
            /// Peers that answered no heartbeat, or did not complete a frame.
            upstream_dead,
            downstream_dead,
            /// Answers that belong to no request, and requests where none are taken.
            upstream_unexpected,
            downstream_unexpected,
            reverse_requests,
            /// Frames of no known kind.
            opaque,
        }
        gauges { cx_active, request_active }
        levels {}
        histograms { request_time_ms }
    }
}

stat_set! {
    /// `cluster.<name>.`: the upstream side of one cluster on one shard.
    pub struct ClusterStats {
        counters {
            upstream_cx_total,
            upstream_cx_http1_total,
            upstream_cx_http2_total,
            upstream_cx_connect_fail,
            upstream_cx_connect_timeout,
            upstream_cx_connect_attempts_exceeded,
            upstream_cx_overflow,
            upstream_cx_pool_overflow,
            upstream_cx_destroy,
            upstream_cx_destroy_local,
            upstream_cx_destroy_remote,
            upstream_cx_destroy_with_active_rq,
            upstream_cx_destroy_local_with_active_rq,
            upstream_cx_destroy_remote_with_active_rq,
            upstream_cx_close_notify,
            upstream_cx_idle_timeout,
            upstream_cx_max_requests,
            upstream_cx_max_duration_reached,
            upstream_cx_none_healthy,
            upstream_cx_protocol_error,
            upstream_cx_rx_bytes_total,
            upstream_cx_tx_bytes_total,
            upstream_flow_control_paused_reading_total,
            upstream_flow_control_resumed_reading_total,
            upstream_rq_total,
            upstream_rq_completed,
            upstream_rq_1xx,
            upstream_rq_2xx,
            upstream_rq_3xx,
            upstream_rq_4xx,
            upstream_rq_5xx,
            upstream_rq_timeout,
            upstream_rq_per_try_timeout,
            upstream_rq_per_try_idle_timeout,
            upstream_rq_max_duration_reached,
            upstream_rq_pending_total,
            upstream_rq_pending_overflow,
            upstream_rq_pending_failure_eject,
            upstream_rq_active_overflow,
            upstream_rq_cancelled,
            upstream_rq_maintenance_mode,
            upstream_rq_rx_reset,
            upstream_rq_tx_reset,
            upstream_rq_retry,
            upstream_rq_retry_success,
            upstream_rq_retry_overflow,
            upstream_rq_retry_limit_exceeded,
            upstream_rq_retry_backoff_exponential,
            upstream_rq_retry_backoff_ratelimited,
            bind_errors,
            lb_healthy_panic,
            original_dst_host_invalid,
            /// Outrigger's own: destinations that were refused because there were too many.
            original_dst_hosts_overflow,
            membership_change,
            /// Of EDS.
            init_fetch_timeout,
            /// Of EDS.
            update_rejected,
            retry_or_shadow_abandoned,
            update_attempt,
            update_success,
            update_failure,
            update_empty,
            update_no_rebuild,
        }
        gauges {
            upstream_cx_active,
            upstream_cx_rx_bytes_buffered,
            upstream_cx_tx_bytes_buffered,
            upstream_rq_active,
            upstream_rq_pending_active,
        }
        levels {
            membership_total,
            membership_healthy,
            membership_degraded,
            membership_excluded,
            default_cx_open = "circuit_breakers.default.cx_open",
            default_cx_pool_open = "circuit_breakers.default.cx_pool_open",
            default_rq_open = "circuit_breakers.default.rq_open",
            default_rq_pending_open = "circuit_breakers.default.rq_pending_open",
            default_rq_retry_open = "circuit_breakers.default.rq_retry_open",
            high_cx_open = "circuit_breakers.high.cx_open",
            high_cx_pool_open = "circuit_breakers.high.cx_pool_open",
            high_rq_open = "circuit_breakers.high.rq_open",
            high_rq_pending_open = "circuit_breakers.high.rq_pending_open",
            high_rq_retry_open = "circuit_breakers.high.rq_retry_open",
        }
        histograms {
            upstream_cx_connect_ms,
            upstream_cx_length_ms,
            upstream_rq_time,
            upstream_rq_per_cx,
        }
        codes {
            /// Only codes that occurred appear.
            upstream_rq_code: CodeCounters = "upstream_rq_"
        }
    }
}

impl ClusterStats {
    /// Counts a completed response: `upstream_rq_completed`, its class and its code.
    #[inline]
    pub fn response(&self, code: u16) {
        self.upstream_rq_completed.inc();
        self.upstream_rq_code.inc(code);
        let classes = [
            &self.upstream_rq_1xx,
            &self.upstream_rq_2xx,
            &self.upstream_rq_3xx,
            &self.upstream_rq_4xx,
            &self.upstream_rq_5xx,
        ];
        if let Some(class) = class_index(code) {
            classes[class].inc();
        }
    }
}

stat_set! {
    /// `http2.` and `cluster.<name>.http2.`: the HTTP/2 codecs of one shard.
    pub struct Http2Stats {
        counters {
            goaway_sent = "http2.goaway_sent",
            header_overflow = "http2.header_overflow",
            continuation_flood = "http2.inbound_continuation_frames_flood",
            inbound_empty_frames_flood = "http2.inbound_empty_frames_flood",
            inbound_ping_frames_flood = "http2.inbound_ping_frames_flood",
            inbound_priority_frames_flood = "http2.inbound_priority_frames_flood",
            inbound_settings_frames_flood = "http2.inbound_settings_frames_flood",
            inbound_window_update_frames_flood = "http2.inbound_window_update_frames_flood",
            outbound_control_flood = "http2.outbound_control_flood",
            /// Connections ended because the peer reset streams faster than its allowance.
            rapid_reset = "http2.rapid_reset",
            rx_messaging_error = "http2.rx_messaging_error",
            rx_reset = "http2.rx_reset",
            stream_refused = "http2.stream_refused",
            trailers = "http2.trailers",
            tx_reset = "http2.tx_reset",
            keepalive_timeout = "http2.keepalive_timeout",
            tx_flush_timeout = "http2.tx_flush_timeout",
        }
        gauges {}
        levels {}
        histograms {}
    }
}

impl Http2Stats {
    /// Adds what a codec counted.
    pub fn take(&self, counted: &Counters) {
        if *counted == Counters::default() {
            return;
        }
        for (counter, count) in [
            (&self.goaway_sent, counted.goaway_sent),
            (&self.header_overflow, counted.header_overflow),
            (&self.continuation_flood, counted.continuation_flood),
            (&self.inbound_empty_frames_flood, counted.inbound_empty_frames_flood),
            (&self.inbound_ping_frames_flood, counted.inbound_ping_frames_flood),
            (&self.inbound_priority_frames_flood, counted.inbound_priority_frames_flood),
            (&self.inbound_settings_frames_flood, counted.inbound_settings_frames_flood),
            (&self.inbound_window_update_frames_flood, counted.inbound_window_update_frames_flood),
            (&self.outbound_control_flood, counted.outbound_control_flood),
            (&self.rapid_reset, counted.rapid_reset),
            (&self.rx_messaging_error, counted.rx_messaging_error),
            (&self.rx_reset, counted.rx_reset),
            (&self.stream_refused, counted.stream_refused),
            (&self.trailers, counted.trailers),
            (&self.tx_reset, counted.tx_reset),
        ] {
            counter.add(count.into());
        }
    }
}

stat_set! {
    /// `listener.<address>.ssl.` and `cluster.<name>.ssl.`: TLS handshakes of one shard.
    pub struct TlsStats {
        counters {
            handshake = "ssl.handshake",
            session_reused = "ssl.session_reused",
            /// Errors of TLS, except for those of certificates.
            connection_error = "ssl.connection_error",
            no_certificate = "ssl.no_certificate",
            fail_verify_no_cert = "ssl.fail_verify_no_cert",
            fail_verify_error = "ssl.fail_verify_error",
            fail_verify_san = "ssl.fail_verify_san",
            fail_verify_cert_hash = "ssl.fail_verify_cert_hash",
            ocsp_staple_failed = "ssl.ocsp_staple_failed",
            ocsp_staple_omitted = "ssl.ocsp_staple_omitted",
            ocsp_staple_requests = "ssl.ocsp_staple_requests",
            ocsp_staple_responses = "ssl.ocsp_staple_responses",
            /// Connections for which no certificate was there.
            no_context = "ssl.no_context",
            /// Outrigger's own: the peer refused us by an alert.
            fail_alert = "ssl.fail_alert",
            /// Outrigger's own: nothing both sides can do.
            fail_incompatible = "ssl.fail_incompatible",
            /// Outrigger's own: the peer broke the protocol, or it is none.
            fail_protocol = "ssl.fail_protocol",
            /// Outrigger's own: the connection ended before the handshake did.
            fail_closed = "ssl.fail_closed",
            tls12 = "ssl.versions.TLSv1.2",
            tls13 = "ssl.versions.TLSv1.3",
            x25519 = "ssl.curves.X25519",
            p256 = "ssl.curves.P-256",
            p384 = "ssl.curves.P-384",
            x25519_mlkem768 = "ssl.curves.X25519MLKEM768",
            tls13_aes128 = "ssl.ciphers.TLS_AES_128_GCM_SHA256",
            tls13_aes256 = "ssl.ciphers.TLS_AES_256_GCM_SHA384",
            tls13_chacha20 = "ssl.ciphers.TLS_CHACHA20_POLY1305_SHA256",
            ecdsa_aes128 = "ssl.ciphers.ECDHE-ECDSA-AES128-GCM-SHA256",
            ecdsa_aes256 = "ssl.ciphers.ECDHE-ECDSA-AES256-GCM-SHA384",
            ecdsa_chacha20 = "ssl.ciphers.ECDHE-ECDSA-CHACHA20-POLY1305",
            rsa_aes128 = "ssl.ciphers.ECDHE-RSA-AES128-GCM-SHA256",
            rsa_aes256 = "ssl.ciphers.ECDHE-RSA-AES256-GCM-SHA384",
            rsa_chacha20 = "ssl.ciphers.ECDHE-RSA-CHACHA20-POLY1305",
        }
        gauges {}
        levels {}
        histograms {}
    }
}

impl TlsStats {
    /// Counts a handshake that succeeded.
    pub fn handshake(&self, session: &TlsSession) {
        self.handshake.inc();
        if session.resumed {
            self.session_reused.inc();
        }
        if session.peer.is_none() {
            self.no_certificate.inc();
        }
        let staple = session.staple;
        self.ocsp_staple_requests.add(staple.asked.into());
        self.ocsp_staple_responses.add(staple.stapled.into());
        self.ocsp_staple_omitted.add(staple.omitted.into());
        match session.version {
            TlsVersion::Tls12 => self.tls12.inc(),
            TlsVersion::Tls13 => self.tls13.inc(),
        }
        let curve = match session.group {
            Some(NamedGroup::X25519) => Some(&self.x25519),
            Some(NamedGroup::secp256r1) => Some(&self.p256),
            Some(NamedGroup::secp384r1) => Some(&self.p384),
            Some(NamedGroup::X25519MLKEM768) => Some(&self.x25519_mlkem768),
            _ => None,
        };
        let cipher = match session.cipher {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(&self.tls13_aes128),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(&self.tls13_aes256),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(&self.tls13_chacha20),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => Some(&self.ecdsa_aes128),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => Some(&self.ecdsa_aes256),
            CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => {
                Some(&self.ecdsa_chacha20)
            }
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => Some(&self.rsa_aes128),
            CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(&self.rsa_aes256),
            CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Some(&self.rsa_chacha20),
            _ => None,
        };
        curve.into_iter().chain(cipher).for_each(Counter::inc);
    }

    /// Counts a handshake that failed, by its reason.
    pub fn failed(&self, error: &HandshakeError) {
        let reason = match error {
            HandshakeError::Certificate(fault) => {
                // Not a connection_error, as with Envoy.
                return match fault {
                    CertificateFault::Missing => self.fail_verify_no_cert.inc(),
                    CertificateFault::Name => self.fail_verify_san.inc(),
                    CertificateFault::Hash => self.fail_verify_cert_hash.inc(),
                    CertificateFault::Chain(_)
                    | CertificateFault::Unreadable
                    | CertificateFault::Signature => self.fail_verify_error.inc(),
                };
            }
            HandshakeError::Closed | HandshakeError::Transport(_) => {
                return self.fail_closed.inc();
            }
            HandshakeError::OcspStaple => Some(&self.ocsp_staple_failed),
            HandshakeError::Alert(_) => Some(&self.fail_alert),
            HandshakeError::Incompatible(_) => Some(&self.fail_incompatible),
            HandshakeError::Protocol(_) => Some(&self.fail_protocol),
            HandshakeError::ServerName | HandshakeError::Internal(_) => None,
        };
        reason.into_iter().for_each(Counter::inc);
        self.connection_error.inc();
    }
}

stat_set! {
    /// One endpoint of a cluster on one shard; shown by `/clusters`, not by `/stats`.
    pub struct HostStats {
        counters { cx_connect_fail, cx_total, rq_error, rq_success, rq_timeout, rq_total }
        gauges { cx_active, rq_active, rq_pending_active }
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `tcp.<stat_prefix>.`: one TCP proxy on one shard.
    pub struct TcpStats {
        counters {
            downstream_cx_total,
            downstream_cx_no_route,
            downstream_cx_drain_close,
            downstream_cx_overload_close,
            downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total,
            downstream_flow_control_paused_reading_total,
            downstream_flow_control_resumed_reading_total,
            idle_timeout,
            max_downstream_connection_duration,
            upstream_flush_total,
        }
        gauges {
            downstream_cx_rx_bytes_buffered,
            downstream_cx_tx_bytes_buffered,
            upstream_flush_active,
        }
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `shard.<n>.`: the engine of one shard. Outrigger's own.
    pub struct ShardStats {
        counters {
            /// Turns of the driver loop.
            turns,
            /// Times the shard ran out of work for longer than the linger and truly parked.
            parks,
            /// Times it blocked in its own ring for at most the linger.
            lingers,
            /// Times the watchdog found it stalled; written by the watchdog alone.
            stalls,
            /// Times a receive waited because the buffer ring was dry.
            buffer_waits,
            accepts,
            /// Connections given to another shard because this one had too many.
            handed_over,
            /// Connections taken from another shard.
            taken_over,
            /// Messages this shard could not send because the receiving mailbox was full.
            mailbox_full,
            /// Connection tasks that ended in a panic.
            panics,
            /// Requests and connections that count in no metric of Istio, because there are too many.
            istio_metrics_overflow,
            /// Ends and resets of connections that the kernel had not told.
            rechecks,
            /// Completions reaped from the socket ring.
            completions,
            /// `io_uring_enter` calls.
            enters,
        }
        gauges {
            buffers_in_use,
            buffers_published,
            connections,
        }
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `access_log.`: lines of the access log on one shard, or the writer thread's share.
    pub struct AccessLogStats {
        counters {
            lines,
            bytes,
            /// Lines lost because the writer was behind or the file could not be written.
            dropped,
            reopened,
        }
        gauges {}
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `filesystem.`: what Envoy counts about writing log files.
    pub struct FilesystemStats {
        counters {
            write_buffered,
            write_completed,
            write_failed,
            flushed_by_timer,
            reopen_failed,
        }
        gauges {
            /// Bytes handed to the writer thread and not yet written.
            write_total_buffered,
        }
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `server.`: facts of the process, written by the control thread.
    pub struct ServerStats {
        counters {
            static_unknown_fields,
            dynamic_unknown_fields,
            /// Outrigger's own: TLS contexts built anew because their files changed.
            tls_reload,
            /// Outrigger's own: those that could not be, and stay as they were.
            tls_reload_failed,
        }
        gauges {}
        levels {
            uptime,
            live,
            state,
            concurrency,
            hot_restart_epoch,
            memory_allocated,
            memory_heap_size,
            memory_physical_size,
            total_connections,
        }
        histograms { initialization_time_ms }
    }
}

stat_set! {
    /// `cluster_manager.cds.`, `listener_manager.lds.`, and `xds.<service>.` for the other types: what
    /// servers were asked and said of one type, written by the control thread.
    pub struct DiscoveryStats {
        counters {
            update_attempt,
            update_success,
            update_failure,
            update_rejected,
            init_fetch_timeout,
            /// Responses that only kept resources alive. Outrigger's own.
            heartbeat,
            /// Resources that nobody had asked for. Outrigger's own.
            unsolicited,
            /// Resources whose time to live ran out. Outrigger's own.
            expired,
        }
        gauges {}
        levels {
            /// A hash of the last version that was taken whole.
            version,
            /// When something was last taken, since the epoch, in milliseconds.
            update_time,
        }
        histograms {}
    }
}

stat_set! {
    /// `http.<prefix>.rds.<routes>.`, `http.<prefix>.rds.vhds.<routes>.` and
    /// `http.<prefix>.scoped_rds.<name>.`: what came of routes, beside what [`DiscoveryStats`] says. Written by
    /// the control thread.
    pub struct ReloadStats {
        counters {
            config_reload,
            /// Responses that said that there is nothing.
            update_empty,
        }
        gauges {}
        levels {
            /// When the former was last counted, since the epoch.
            config_reload_time_ms,
        }
        histograms {}
    }
}

stat_set! {
    /// `http.<prefix>.scoped_rds.<name>.`: how many scopes there are, written by the control thread.
    pub struct ScopeStats {
        counters {}
        gauges {}
        levels {
            all_scopes,
            /// Those whose routes are there, or asked for.
            active_scopes,
            /// Those whose routes are asked for on demand.
            on_demand_scopes,
        }
        histograms {}
    }
}

stat_set! {
    /// `extension_config_discovery.<place>.<name>.`: what became of a filter by name beside what
    /// [`DiscoveryStats`] says, written by the control thread.
    pub struct ExtensionStats {
        counters {
            /// Changes of what the filter is.
            config_reload,
            /// Configurations that were refused, could not be read, or did not come in time.
            config_fail,
            /// Listeners that do not list the type that the filter is known to be of.
            config_conflict,
        }
        gauges {}
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `control_plane.`: streams to management servers, written by the control thread.
    pub struct ControlPlaneStats {
        counters {
            /// Responses of types that were never asked for on their stream. Outrigger's own.
            ignored,
        }
        gauges {
            /// Streams that are open, or being opened.
            connected_state,
        }
        levels {}
        histograms {}
    }
}

stat_set! {
    /// What a shard drains.
    pub struct DrainStats {
        counters {}
        gauges {}
        levels {
            total_listeners_draining = "listener_manager.total_listeners_draining",
            total_filter_chains_draining = "listener_manager.total_filter_chains_draining",
        }
        histograms {}
    }
}

stat_set! {
    /// `on_demand.`: what requests needed and was asked for. Outrigger's own.
    pub struct DemandStats {
        counters {
            /// Waits of requests.
            rq_held_total = "on_demand.rq_held_total",
            /// Requests that found nothing after they had waited.
            rq_missed = "on_demand.rq_missed",
            /// Requests that waited for as long as one may.
            rq_timeout = "on_demand.rq_timeout",
            /// Requests that did not wait because too many did.
            rq_overflow = "on_demand.rq_overflow",
            /// Things that were not asked for because too many were. Written by the control thread.
            overflow = "on_demand.overflow",
        }
        gauges {
            rq_held_active = "on_demand.rq_held_active",
        }
        levels {
            /// Virtual hosts that are asked for one by one. Written by the control thread.
            virtual_hosts = "on_demand.virtual_hosts",
            /// Clusters, likewise.
            clusters = "on_demand.clusters",
        }
        histograms {}
    }
}

stat_set! {
    /// What is in force of the configuration, written by the control thread.
    pub struct ConfigStats {
        counters {
            /// Configurations that all shards came to serve. Outrigger's own.
            config_applied = "config.applied",
            cluster_added = "cluster_manager.cluster_added",
            cluster_modified = "cluster_manager.cluster_modified",
            cluster_removed = "cluster_manager.cluster_removed",
            listener_added = "listener_manager.listener_added",
            listener_modified = "listener_manager.listener_modified",
            listener_removed = "listener_manager.listener_removed",
            /// The file with the last good configuration. Outrigger's own.
            cache_write = "config.cache_write",
            cache_write_failed = "config.cache_write_failed",
        }
        gauges {}
        levels {
            workers_started = "listener_manager.workers_started",
            active_clusters = "cluster_manager.active_clusters",
            warming_clusters = "cluster_manager.warming_clusters",
            total_listeners_active = "listener_manager.total_listeners_active",
            total_listeners_warming = "listener_manager.total_listeners_warming",
            /// 1 while what is served is from the file, and no management server has answered.
            from_cache = "config.from_cache",
            cache_bytes = "config.cache_bytes",
        }
        histograms {
            /// From a change to its being served on every shard, in microseconds. Outrigger's own.
            config_apply_time = "config.apply_time_us",
        }
    }
}

impl ConfigStats {
    /// Every shard serves a configuration, after this time.
    pub fn applied(&self, after: Duration) {
        self.config_applied.inc();
        self.config_apply_time.record(after.as_micros().try_into().unwrap_or(u64::MAX));
    }
}

stat_set! {
    /// `services.`: what is published and subscribed, written by the control thread. Outrigger's own.
    pub struct ServicesStats {
        counters {
            /// Snapshots that were made because a service or its providers changed.
            update,
            state_write,
            state_write_failed,
            /// State files that could not be read at start.
            state_read_failed,
            /// Providers left out because there were more than there may be.
            provider_overflow,
        }
        gauges {}
        levels {
            published,
            subscribed,
            /// Endpoints of subscribed services.
            providers,
            state_bytes,
        }
        histograms {}
    }
}

stat_set! {
    /// `upgrade.`: hand-overs between processes, written by the control thread. Outrigger's own.
    pub struct UpgradeStats {
        counters {
            /// Successors that this process handed over to.
            handed_over,
            /// Hand-overs that ended with this process serving on.
            failed,
            /// Successors that were not let in.
            refused,
        }
        gauges {}
        levels {
            /// Processes that served before this one.
            generation,
            /// Whether a successor is getting ready.
            preparing,
            /// Predecessors that still drain.
            predecessors,
            /// Connections that all of them together moved.
            predecessor_moved,
            /// Connections that were to move and stayed.
            predecessor_declined,
            /// Connections that they still serve.
            predecessor_left,
            /// Seconds until the last of them closes what is left.
            predecessor_seconds_left,
        }
        histograms {}
    }
}

stat_set! {
    /// `services.api.<name>.`: one interface for applications. Outrigger's own.
    pub struct ServiceApiStats {
        counters {
            cx_total,
            rq_total,
            application,
            publish,
            unpublish,
            subscribe,
            unsubscribe,
            /// Requests that were answered with a failure.
            rq_failed,
            /// Those of them that were not as the interface has them.
            rq_malformed,
            /// Bodies above the limit.
            rq_too_large,
            /// Changes that were not in effect, or not in the state file, when their time was over.
            rq_late,
        }
        gauges { cx_active }
        levels {}
        histograms {}
    }
}

stat_set! {
    /// `services.registry.<name>.`: one registry. Outrigger's own.
    pub struct ServiceRegistryStats {
        counters {
            connect,
            connect_fail,
            disconnect,
            /// Sessions that began anew, so that everything was registered again.
            session,
            register,
            register_fail,
            unregister,
            /// Lists of providers that came.
            update,
            update_fail,
            /// Providers that can't be used: another protocol, no IP address, not to be read.
            provider_ignored,
        }
        gauges {}
        levels {
            connected,
            /// 1 while what is known may be old because the registry is lost.
            stale,
            published,
            subscribed,
            providers,
        }
        histograms {}
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn names(set: &impl StatSet) -> Vec<String> {
        let mut names = Vec::new();
        set.visit(&mut |name, _| names.push(name.to_owned()));
        names
    }

    #[test]
    fn names_are_unique() {
        fn check(set: &impl StatSet) {
            let names = names(set);
            assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len(), "{names:?}");
        }
        check(&ListenerStats::default());
        check(&HttpStats::default());
        check(&ClusterStats::default());
        check(&HostStats::default());
        check(&TcpStats::default());
        check(&ShardStats::default());
        check(&ServerStats::default());
        check(&ConfigStats::default());
        check(&ControlPlaneStats::default());
        check(&DiscoveryStats::default());
        check(&ReloadStats::default());
        check(&ScopeStats::default());
        check(&ExtensionStats::default());
        check(&DrainStats::default());
        check(&DemandStats::default());
        check(&ServicesStats::default());
        check(&UpgradeStats::default());
        check(&ServiceApiStats::default());
        check(&ServiceRegistryStats::default());
    }

    #[test]
    fn dotted_names_and_codes_are_listed() {
        let cluster = ClusterStats::default();
        cluster.response(204);
        cluster.response(999);
        assert_eq!(cluster.upstream_rq_completed.value(), 2);
        assert_eq!(cluster.upstream_rq_2xx.value(), 1);
        let names = names(&cluster);
        assert!(names.iter().any(|name| name == "circuit_breakers.default.rq_pending_open"));
        assert!(names.iter().any(|name| name == "upstream_rq_204"));
        assert!(!names.iter().any(|name| name == "upstream_rq_999"));
    }

    #[test]
    fn http_responses_are_counted_by_class() {
        let http = HttpStats::default();
        for code in [101, 200, 301, 404, 503, 599] {
            http.response(code);
        }
        assert_eq!(http.downstream_rq_completed.value(), 6);
        assert_eq!(http.downstream_rq_1xx.value(), 1);
        assert_eq!(http.downstream_rq_5xx.value(), 2);
    }

    #[test]
    fn shards_never_share_a_cache_line() {
        assert_eq!(std::mem::align_of::<ClusterStats>(), 128);
        assert_eq!(std::mem::size_of::<ShardStats>() % 128, 0);
    }
}
