//! What we implement of Envoy's configuration: the one list that rule U-01 is about.
//!
//! Every field that a resource sets is looked up here. Honoured: the compiler reads it. Ignored: it may
//! be there and has no effect, and the load reports it with the reason (the I rows of the contract).
//! Anything else is refused with its path, so a message type that is missing here refuses whatever is
//! set in it. To implement a field is to add its name here and to read it in [`compile`](crate::compile).

use std::collections::HashMap;
use std::sync::LazyLock;

use prost_reflect::{DynamicMessage, MapKey, ReflectMessage, Value};

use crate::fault::{Found, Problem, Segment, Trail};
use crate::mapping::{self, ReadOptions, Schema, Warnings};

/// What we do with the fields of one message type.
pub(crate) struct Support {
    pub(crate) message: &'static str,
    /// The compiler reads them.
    pub(crate) honoured: &'static [&'static str],
    /// They have no effect, for this reason.
    pub(crate) ignored: &'static [(&'static str, &'static str)],
}

const fn honour(message: &'static str, honoured: &'static [&'static str]) -> Support {
    Support { message, honoured, ignored: &[] }
}

/// Own counterpart, or none needed.
const INTERNAL: &str = "process internals of Envoy";
const STATS: &str = "statistics only";
const NO_SINKS: &str = "there are no sinks";
const UNCOMPRESSED: &str = "nothing is compressed";
const NO_SPANS: &str = "there is no tracer, and no spans";

#[rustfmt::skip]
pub(crate) const SUPPORT: &[Support] = &[
    // Bootstrap (section 1).
    Support {
        message: "envoy.config.bootstrap.v3.Bootstrap",
        honoured: &["node", "static_resources", "dynamic_resources", "layered_runtime", "admin",
            "default_regex_engine", "application_log_config", "stats_config", "overload_manager",
            "bootstrap_extensions", "cluster_manager"],
        ignored: &[
            ("stats_flush_interval", NO_SINKS), ("stats_flush_on_admin", NO_SINKS),
            ("node_context_params", "only for xdstp names"),
            ("watchdog", INTERNAL), ("watchdogs", INTERNAL), ("flags_path", INTERNAL),
            ("perf_tracing_file_path", INTERNAL), ("memory_allocator_manager", INTERNAL),
            ("grpc_async_client_manager_config", INTERNAL), ("inline_headers", INTERNAL),
            ("stats_server_version_override", INTERNAL), ("listener_manager", INTERNAL),
            ("enable_worker_cpu_affinity", "shards are always pinned"), ("fatal_actions", INTERNAL),
            ("deferred_stat_options", STATS), ("stats_eviction_interval", STATS),
            ("enable_dispatcher_stats", STATS),
        ],
    },
    honour("envoy.config.bootstrap.v3.Bootstrap.StaticResources",
        &["listeners", "clusters", "secrets"]),
    honour("envoy.config.bootstrap.v3.Bootstrap.DynamicResources",
        &["lds_config", "cds_config", "ads_config"]),
    Support {
        message: "envoy.config.bootstrap.v3.Admin",
        honoured: &["address", "access_log", "access_log_path", "allow_paths"],
        ignored: &[("profile_path", "there is no profiler that writes that file"),
            ("ignore_global_conn_limit", "admin connections are never limited by that")],
    },
    honour("envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig", &["log_format"]),
    honour("envoy.config.bootstrap.v3.Bootstrap.ApplicationLogConfig.LogFormat",
        &["json_format", "text_format"]),
    Support {
        message: "envoy.config.bootstrap.v3.ClusterManager",
        honoured: &["outlier_detection"],
        ignored: &[("enable_deferred_cluster_creation", "clusters cost nothing before they are used")],
    },
    Support {
        message: "envoy.config.bootstrap.v3.ClusterManager.OutlierDetection",
        honoured: &[],
        ignored: &[("event_log_path", "no endpoint is ejected")],
    },
    Support {
        message: "envoy.config.overload.v3.OverloadManager",
        honoured: &["resource_monitors"],
        ignored: &[("refresh_interval", "what is limited is counted exactly")],
    },
    honour("envoy.config.overload.v3.ResourceMonitor", &["name", "typed_config"]),
    honour("envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
        &["max_active_downstream_connections"]),
    Support {
        message: "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
        honoured: &[],
        ignored: &[("buffer_size_kb", "there are no internal listeners")],
    },
    Support {
        message: "istio.workload.BootstrapExtension",
        honoured: &[],
        ignored: &[("config_source", "workloads are not looked up")],
    },
    honour("envoy.config.metrics.v3.StatsConfig",
        &["stats_tags", "use_all_default_tags", "stats_matcher", "histogram_bucket_settings",
          "allow_default_tag_overrides"]),
    honour("envoy.type.matcher.v3.ListStringMatcher", &["patterns"]),
    honour("envoy.config.metrics.v3.StatsMatcher",
        &["reject_all", "exclusion_list", "inclusion_list"]),
    honour("envoy.config.metrics.v3.TagSpecifier", &["tag_name", "regex", "fixed_value"]),
    Support {
        message: "envoy.config.metrics.v3.HistogramBucketSettings",
        honoured: &["match", "buckets"],
        ignored: &[("bins", "histograms have one resolution")],
    },
    honour("envoy.config.bootstrap.v3.LayeredRuntime", &["layers"]),
    honour("envoy.config.bootstrap.v3.RuntimeLayer",
        &["name", "static_layer", "disk_layer", "admin_layer", "rtds_layer"]),
    honour("envoy.config.bootstrap.v3.RuntimeLayer.DiskLayer",
        &["symlink_root", "subdirectory", "append_service_cluster"]),
    honour("envoy.config.bootstrap.v3.RuntimeLayer.RtdsLayer", &["name", "rtds_config"]),
    honour("envoy.service.runtime.v3.Runtime", &["name", "layer"]),
    honour("envoy.config.core.v3.Node",
        &["id", "cluster", "metadata", "locality", "dynamic_parameters", "client_features"]),
    honour("envoy.config.core.v3.Locality", &["region", "zone", "sub_zone"]),
    honour("xds.core.v3.ContextParams", &["params"]),
    honour("envoy.config.core.v3.TypedExtensionConfig", &["name", "typed_config"]),
    honour("envoy.extensions.regex_engines.v3.GoogleRE2", &[]),

    // Sources of resources (section 1).
    honour("envoy.config.core.v3.ConfigSource",
        &["path", "path_config_source", "api_config_source", "ads", "initial_fetch_timeout",
          "resource_api_version"]),
    honour("envoy.config.core.v3.PathConfigSource", &["path", "watched_directory"]),
    honour("envoy.config.core.v3.WatchedDirectory", &["path"]),
    honour("envoy.config.core.v3.AggregatedConfigSource", &[]),
    honour("envoy.config.core.v3.ApiConfigSource",
        &["api_type", "transport_api_version", "grpc_services", "rate_limit_settings",
          "set_node_on_first_message_only"]),
    honour("envoy.config.core.v3.RateLimitSettings", &["max_tokens", "fill_rate"]),
    honour("envoy.config.core.v3.GrpcService",
        &["envoy_grpc", "timeout", "initial_metadata", "retry_policy"]),
    honour("envoy.config.core.v3.GrpcService.EnvoyGrpc",
        &["cluster_name", "authority", "retry_policy", "max_receive_message_length"]),
    honour("envoy.config.core.v3.RetryPolicy", &["retry_back_off"]),
    honour("envoy.config.core.v3.BackoffStrategy", &["base_interval", "max_interval"]),

    // Addresses and sockets.
    honour("envoy.config.core.v3.Address", &["socket_address", "pipe"]),
    honour("envoy.config.core.v3.SocketAddress",
        &["protocol", "address", "port_value", "ipv4_compat"]),
    honour("envoy.config.core.v3.Pipe", &["path", "mode"]),
    honour("envoy.config.core.v3.CidrRange", &["address_prefix", "prefix_len"]),
    honour("envoy.config.core.v3.SocketOption",
        &["description", "level", "name", "int_value", "buf_value", "state"]),
    honour("envoy.config.core.v3.SocketOptionsOverride", &["socket_options"]),
    honour("envoy.config.core.v3.TcpKeepalive",
        &["keepalive_probes", "keepalive_time", "keepalive_interval"]),

    // Listener and filter chains (sections 2, 3).
    Support {
        message: "envoy.config.listener.v3.Listener",
        honoured: &[
            "name", "address", "additional_addresses", "stat_prefix", "filter_chains",
            "default_filter_chain", "per_connection_buffer_limit_bytes", "deprecated_v1",
            "use_original_dst", "listener_filters", "listener_filters_timeout",
            "continue_on_listener_filters_timeout",
            "transparent", "freebind", "socket_options", "tcp_fast_open_queue_length", "access_log",
            "traffic_direction", "connection_balance_config", "reuse_port", "enable_reuse_port",
            "tcp_backlog_size", "max_connections_to_accept_per_socket_event", "bind_to_port",
            "tcp_keepalive", "metadata", "ignore_global_conn_limit",
        ],
        ignored: &[("stats_matcher", STATS),
            ("bypass_overload_manager", "no overload action concerns listeners")],
    },
    honour("envoy.config.listener.v3.Listener.DeprecatedV1", &["bind_to_port"]),
    Support {
        message: "envoy.config.listener.v3.Listener.ConnectionBalanceConfig",
        honoured: &["exact_balance"],
        ignored: &[("cpu_locality_balance", "placement only")],
    },
    honour("envoy.config.listener.v3.AdditionalAddress",
        &["address", "socket_options", "tcp_keepalive"]),
    honour("envoy.config.listener.v3.FilterChain",
        &["filter_chain_match", "filters", "metadata", "transport_socket",
          "transport_socket_connect_timeout", "name"]),
    honour("envoy.config.listener.v3.FilterChainMatch",
        &["destination_port", "prefix_ranges", "server_names", "transport_protocol",
          "application_protocols", "direct_source_prefix_ranges", "source_type",
          "source_prefix_ranges", "source_ports"]),
    honour("envoy.config.listener.v3.Filter", &["name", "typed_config", "config_discovery"]),
    honour("envoy.config.listener.v3.ListenerFilter",
        &["name", "typed_config", "filter_disabled"]),
    honour("envoy.config.listener.v3.ListenerFilterChainMatchPredicate",
        &["or_match", "and_match", "not_match", "any_match", "destination_port_range"]),
    honour("envoy.config.listener.v3.ListenerFilterChainMatchPredicate.MatchSet", &["rules"]),
    honour("envoy.type.v3.Int32Range", &["start", "end"]),
    honour("envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        // enable_ja3_fingerprinting, enable_ja4_fingerprinting: refused when true.
        &["initial_read_buffer_size", "max_client_hello_size", "enable_ja3_fingerprinting",
          "enable_ja4_fingerprinting", "close_connection_on_client_hello_parsing_errors"]),
    honour("envoy.extensions.filters.listener.http_inspector.v3.HttpInspector", &[]),
    honour("envoy.extensions.filters.listener.original_dst.v3.OriginalDst", &[]),
    Support {
        message: "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol",
        honoured: &["allow_requests_without_proxy_protocol", "disallowed_versions"],
        ignored: &[("stat_prefix", STATS)],
    },
    // bind_port: refused when true, as Envoy does not implement it either.
    honour("envoy.extensions.filters.listener.original_src.v3.OriginalSrc", &["bind_port", "mark"]),

    // Transport sockets and secrets (section 16).
    honour("envoy.config.core.v3.TransportSocket", &["name", "typed_config"]),
    honour("envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer", &[]),
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        // require_sni: refused when true.
        honoured: &["common_tls_context", "require_client_certificate", "require_sni",
            "session_ticket_keys", "session_ticket_keys_sds_secret_config",
            "disable_stateless_session_resumption", "disable_stateful_session_resumption",
            "session_timeout", "ocsp_staple_policy", "full_scan_certs_on_sni_mismatch"],
        ignored: &[("prefer_client_ciphers", "the order is the TLS library's")],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        // allow_renegotiation: refused when true.
        honoured: &["common_tls_context", "sni", "auto_host_sni", "auto_sni_san_validation",
            "allow_renegotiation", "max_session_keys"],
        ignored: &[("enforce_rsa_key_usage", "always enforced")],
    },
    Support {
        message: "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        honoured: &["tls_params", "tls_certificates", "tls_certificate_sds_secret_configs",
            "validation_context", "validation_context_sds_secret_config",
            "combined_validation_context", "alpn_protocols"],
        ignored: &[("key_log", "keys are never logged")],
    },
    honour("envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.CombinedCertificateValidationContext",
        &["default_validation_context", "validation_context_sds_secret_config"]),
    honour("envoy.extensions.transport_sockets.tls.v3.TlsParameters",
        &["tls_minimum_protocol_version", "tls_maximum_protocol_version", "cipher_suites",
          "ecdh_curves", "signature_algorithms"]),
    honour("envoy.extensions.transport_sockets.tls.v3.TlsCertificate",
        &["certificate_chain", "private_key", "ocsp_staple", "watched_directory"]),
    honour("envoy.extensions.transport_sockets.tls.v3.TlsSessionTicketKeys", &["keys"]),
    honour("envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext",
        &["trusted_ca", "system_root_certs", "watched_directory", "verify_certificate_spki",
          "verify_certificate_hash", "match_typed_subject_alt_names", "match_subject_alt_names",
          "crl", "only_verify_leaf_cert_crl", "allow_expired_certificate",
          "trust_chain_verification", "max_verify_depth", "suppress_client_ca_list"]),
    honour("envoy.extensions.transport_sockets.tls.v3.CertificateValidationContext.SystemRootCerts",
        &[]),
    honour("envoy.extensions.transport_sockets.tls.v3.SubjectAltNameMatcher",
        &["san_type", "matcher"]),
    honour("envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig", &["name", "sds_config"]),
    honour("envoy.extensions.transport_sockets.tls.v3.Secret",
        &["name", "tls_certificate", "session_ticket_keys", "validation_context",
          "generic_secret"]),
    honour("envoy.extensions.transport_sockets.tls.v3.GenericSecret", &["secret", "secrets"]),
    honour("envoy.service.discovery.v3.DiscoveryResponse",
        &["version_info", "resources", "type_url", "nonce"]),

    // Istio's filters of connections (xds.md B9): they let everything pass.
    honour("envoy.tcp.metadataexchange.config.MetadataExchange",
        &["protocol", "enable_discovery", "additional_labels"]),

    // TcpProxy (section 4).
    honour("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        &["stat_prefix", "cluster", "weighted_clusters", "idle_timeout", "access_log",
          "max_connect_attempts", "max_downstream_connection_duration"]),
    honour("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster", &["clusters"]),
    honour("envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
        &["name", "weight"]),

    // RPC: our own filters, and Envoy's for Dubbo. Of weighted clusters, names and weights.
    honour("outrigger.filters.network.rpc_proxy.v1.RpcProxy",
        &["stat_prefix", "bolt", "dubbo", "hsf", "route_config", "sharing", "max_frame_bytes",
          "max_requests_per_connection", "frame_timeout", "idle_timeout", "downstream_keepalive",
          "upstream_keepalive", "upstream_connections", "allow_reverse_requests", "access_log"]),
    honour("outrigger.filters.network.rpc_proxy.v1.Bolt", &["crc_by_switch_only", "goaway"]),
    honour("outrigger.filters.network.rpc_proxy.v1.Dubbo", &[]),
    honour("outrigger.filters.network.rpc_proxy.v1.Hsf",
        &["rpc_type_first", "response_codec_first", "heartbeat_version_first",
          "rpc_protocol_byte", "announce_closing", "tb_local_errors"]),
    honour("outrigger.filters.network.rpc_proxy.v1.Keepalive",
        &["interval", "timeout", "max_misses"]),
    honour("outrigger.filters.network.rpc_proxy.v1.UpstreamConnections",
        &["max", "requests_each"]),
    honour("outrigger.filters.network.rpc_proxy.v1.RouteConfiguration",
        &["name", "routes", "validate_clusters", "request_headers_to_add",
          "request_headers_to_remove"]),
    honour("outrigger.filters.network.rpc_proxy.v1.Route",
        &["name", "match", "route", "request_headers_to_add", "request_headers_to_remove"]),
    honour("outrigger.filters.network.rpc_proxy.v1.RouteMatch",
        &["service", "method", "version", "group", "headers", "runtime_fraction"]),
    honour("outrigger.filters.network.rpc_proxy.v1.RouteAction",
        &["cluster", "weighted_clusters", "cluster_header", "service", "timeout", "retry_policy",
          "forward_remaining_timeout"]),
    honour("outrigger.filters.network.rpc_proxy.v1.RetryPolicy", &["retry_on", "num_retries"]),
    honour("outrigger.filters.network.protocol_detection.v1.ProtocolDetection",
        &["choices", "fallback", "timeout"]),
    honour("outrigger.filters.network.protocol_detection.v1.Choice", &["protocols", "filter"]),
    honour("envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy",
        &["stat_prefix", "protocol_type", "serialization_type", "route_config",
          "multiple_route_config", "dubbo_filters"]),
    honour("envoy.extensions.filters.network.dubbo_proxy.v3.DubboFilter", &["name", "config"]),
    honour("envoy.extensions.filters.network.dubbo_proxy.router.v3.Router", &[]),
    honour("envoy.extensions.filters.network.dubbo_proxy.v3.MultipleRouteConfiguration",
        &["name", "route_config"]),
    honour("envoy.extensions.filters.network.dubbo_proxy.v3.RouteConfiguration",
        &["name", "interface", "group", "version", "routes"]),
    honour("envoy.extensions.filters.network.dubbo_proxy.v3.Route", &["match", "route"]),
    honour("envoy.extensions.filters.network.dubbo_proxy.v3.RouteMatch", &["method", "headers"]),
    honour("envoy.extensions.filters.network.dubbo_proxy.v3.MethodMatch", &["name"]),
    honour("envoy.extensions.filters.network.dubbo_proxy.v3.RouteAction",
        &["cluster", "weighted_clusters"]),

    // HttpConnectionManager (section 5).
    honour("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        &["codec_type", "stat_prefix", "rds", "route_config", "scoped_routes", "http_filters", "add_user_agent",
          "common_http_protocol_options", "http1_safe_max_connection_duration",
          "http_protocol_options", "http2_protocol_options", "server_name", "server_header_transformation",
          "scheme_header_transformation", "max_request_headers_kb", "stream_idle_timeout",
          "stream_flush_timeout", "request_timeout", "request_headers_timeout", "drain_timeout",
          "delayed_close_timeout", "access_log", "use_remote_address", "xff_num_trusted_hops",
          "internal_address_config", "skip_xff_append", "via", "generate_request_id",
          "preserve_external_request_id", "always_set_request_id_in_response",
          "forward_client_cert_details", "set_current_client_cert_details",
          "proxy_100_continue",
          "represent_ipv4_remote_address_as_ipv4_mapped_ipv6", "upgrade_configs",
          "normalize_path", "merge_slashes", "path_with_escaped_slashes_action",
          "request_id_extension", "strip_matching_host_port", "strip_any_host_port",
          "strip_trailing_host_dot", "stream_error_on_invalid_http_message",
          "append_x_forwarded_port", "tracing"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes",
        &["name", "scope_key_builder", "rds_config_source", "scoped_route_configurations_list",
          "scoped_rds"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes.ScopeKeyBuilder",
        &["fragments"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes.ScopeKeyBuilder.FragmentBuilder",
        &["header_value_extractor"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes.ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor",
        &["name", "element_separator", "index", "element"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.ScopedRoutes.ScopeKeyBuilder.FragmentBuilder.HeaderValueExtractor.KvElement",
        &["separator", "key"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.ScopedRouteConfigurationsList",
        &["scoped_route_configurations"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.ScopedRds",
        &["scoped_rds_config_source"]),
    honour("envoy.config.route.v3.ScopedRouteConfiguration",
        &["on_demand", "name", "route_configuration_name", "route_configuration", "key"]),
    honour("envoy.config.route.v3.ScopedRouteConfiguration.Key", &["fragments"]),
    honour("envoy.config.route.v3.ScopedRouteConfiguration.Key.Fragment", &["string_key"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.InternalAddressConfig",
        &["unix_sockets", "cidr_ranges"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.UpgradeConfig",
        &["upgrade_type", "enabled"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.SetCurrentClientCertDetails",
        &["subject", "cert", "chain", "dns", "uri"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.RequestIDExtension",
        &["typed_config"]),
    honour("envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig",
        &["pack_trace_reason", "use_request_id_for_trace_sampling"]),
    Support {
        message: "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing",
        honoured: &["client_sampling", "random_sampling", "overall_sampling"],
        ignored: &[("verbose", NO_SPANS), ("max_path_tag_length", NO_SPANS),
            ("custom_tags", NO_SPANS), ("spawn_upstream_span", NO_SPANS),
            ("operation", NO_SPANS), ("upstream_operation", NO_SPANS),
            ("no_context_propagation", NO_SPANS)],
    },
    honour("envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter",
        &["name", "typed_config", "config_discovery", "is_optional", "disabled"]),
    honour("envoy.config.core.v3.ExtensionConfigSource",
        &["config_source", "default_config", "apply_default_config_without_warming", "type_urls"]),
    honour("envoy.extensions.filters.http.router.v3.Router",
        // start_child_span: there are no spans to start.
        &["dynamic_stats", "start_child_span", "suppress_envoy_headers",
          "respect_expected_rq_timeout"]),
    honour("envoy.extensions.filters.http.grpc_web.v3.GrpcWeb", &[]),
    honour("envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
        // emit_filter_state: messages are always counted.
        &["individual_method_stats_allowlist", "stats_for_all_methods", "enable_upstream_stats",
          "replace_dots_in_grpc_service_name", "emit_filter_state"]),
    Support {
        message: "envoy.extensions.filters.http.fault.v3.HTTPFault",
        honoured: &["delay", "abort", "upstream_cluster", "headers", "downstream_nodes",
            "max_active_faults", "delay_percent_runtime", "abort_percent_runtime",
            "delay_duration_runtime", "abort_http_status_runtime", "max_active_faults_runtime",
            "abort_grpc_status_runtime"],
        ignored: &[("disable_downstream_cluster_stats", STATS),
            ("filter_metadata", "for logs, which say by their flags what was injected")],
    },
    honour("envoy.extensions.filters.http.fault.v3.FaultAbort",
        &["http_status", "grpc_status", "header_abort", "percentage"]),
    honour("envoy.extensions.filters.http.fault.v3.FaultAbort.HeaderAbort", &[]),
    honour("envoy.extensions.filters.common.fault.v3.FaultDelay",
        &["fixed_delay", "header_delay", "percentage"]),
    honour("envoy.extensions.filters.common.fault.v3.FaultDelay.HeaderDelay", &[]),
    honour("envoy.extensions.filters.http.on_demand.v3.OnDemand", &["odcds"]),
    honour("envoy.extensions.filters.http.on_demand.v3.PerRouteConfig", &["odcds"]),
    honour("envoy.extensions.filters.http.on_demand.v3.OnDemandCds", &["source", "timeout"]),
    honour("envoy.extensions.filters.http.cors.v3.Cors", &[]),
    honour("envoy.extensions.filters.http.cors.v3.CorsPolicy",
        &["allow_origin_string_match", "allow_methods", "allow_headers", "expose_headers",
          "max_age", "allow_credentials", "filter_enabled", "shadow_enabled",
          "allow_private_network_access", "forward_not_matching_preflights"]),
    honour("envoy.config.route.v3.CorsPolicy",
        &["allow_origin_string_match", "allow_methods", "allow_headers", "expose_headers",
          "max_age", "allow_credentials", "filter_enabled", "shadow_enabled",
          "allow_private_network_access", "forward_not_matching_preflights"]),
    Support {
        // Accepted where only metrics are served, refused by the compiler elsewhere.
        message: "envoy.extensions.filters.http.compressor.v3.Compressor",
        honoured: &[],
        ignored: &[("compressor_library", UNCOMPRESSED), ("content_length", UNCOMPRESSED),
            ("content_type", UNCOMPRESSED), ("disable_on_etag_header", UNCOMPRESSED),
            ("remove_accept_encoding_header", UNCOMPRESSED), ("runtime_enabled", UNCOMPRESSED),
            ("request_direction_config", UNCOMPRESSED),
            ("response_direction_config", UNCOMPRESSED), ("choose_first", UNCOMPRESSED)],
    },

    // Istio's filters (xds.md B9).
    Support {
        message: "io.istio.http.peer_metadata.Config",
        honoured: &["downstream_discovery", "upstream_discovery", "downstream_propagation",
            "upstream_propagation", "additional_labels"],
        ignored: &[("shared_with_upstream", "there are no filters upstream to share it with")],
    },
    honour("io.istio.http.peer_metadata.Config.DiscoveryMethod",
        &["istio_headers", "workload_discovery"]),
    honour("io.istio.http.peer_metadata.Config.PropagationMethod", &["istio_headers"]),
    honour("io.istio.http.peer_metadata.Config.WorkloadDiscovery", &[]),
    honour("io.istio.http.peer_metadata.Config.IstioHeaders", &["skip_external_clusters"]),
    honour("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig", &["alpn_override"]),
    honour("istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig.AlpnOverride",
        &["upstream_protocol", "alpn_override"]),
    Support {
        message: "stats.PluginConfig",
        honoured: &["disable_host_header_fallback", "tcp_reporting_duration", "metrics",
            "reporter"],
        ignored: &[("rotation_interval", "a bound keeps metrics few"),
            ("graceful_deletion_interval", "a bound keeps metrics few")],
    },
    honour("stats.MetricConfig", &["name", "tags_to_remove", "drop"]),
    honour("outrigger.filters.http.soap.v1.Soap",
        &["max_inspect_bytes", "inspect_timeout", "match_body"]),
    honour("envoy.config.core.v3.GrpcMethodList", &["services"]),
    honour("envoy.config.core.v3.GrpcMethodList.Service", &["name", "method_names"]),
    honour("envoy.config.core.v3.HttpProtocolOptions",
        &["idle_timeout", "max_connection_duration", "max_connection_duration_jitter",
          "max_headers_count", "max_response_headers_kb", "max_stream_duration",
          "headers_with_underscores_action", "max_requests_per_connection"]),
    Support {
        message: "envoy.config.core.v3.Http1ProtocolOptions",
        honoured: &["allow_absolute_url", "accept_http_10", "default_host_for_http_10",
            "header_key_format", "enable_trailers", "override_stream_error_on_invalid_http_message"],
        ignored: &[("use_balsa_parser", "there is one parser"),
            ("allow_custom_methods", "any token method is accepted")],
    },
    honour("envoy.config.core.v3.Http1ProtocolOptions.HeaderKeyFormat",
        &["proper_case_words", "stateful_formatter"]),
    honour("envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig", &[]),
    Support {
        message: "envoy.config.core.v3.Http2ProtocolOptions",
        // disallow_obs_text: refused when true.
        honoured: &["hpack_table_size", "max_concurrent_streams", "initial_stream_window_size",
            "initial_connection_window_size", "allow_connect", "max_outbound_frames",
            "max_outbound_control_frames", "max_consecutive_inbound_frames_with_empty_payload",
            "max_inbound_priority_frames_per_stream",
            "max_inbound_window_update_frames_per_data_frame_sent",
            "stream_error_on_invalid_http_messaging",
            "override_stream_error_on_invalid_http_message", "connection_keepalive",
            "enable_huffman_encoding", "max_header_field_size_kb", "disallow_obs_text",
            "stream_reset_burst", "stream_reset_rate"],
        ignored: &[("use_oghttp2_codec", "there is one codec")],
    },
    honour("envoy.config.core.v3.KeepaliveSettings",
        &["interval", "timeout", "interval_jitter", "connection_idle_interval"]),
    honour("envoy.config.core.v3.UpstreamHttpProtocolOptions", &["auto_sni", "auto_san_validation"]),
    honour("envoy.config.core.v3.SchemeHeaderTransformation",
        &["scheme_to_overwrite", "match_upstream"]),

    // Routes (sections 6 to 8).
    honour("envoy.config.route.v3.RouteConfiguration",
        &["name", "virtual_hosts", "response_headers_to_add", "response_headers_to_remove",
          "request_headers_to_add", "request_headers_to_remove",
          "most_specific_header_mutations_wins", "validate_clusters",
          "max_direct_response_body_size_bytes", "ignore_port_in_host_matching", "metadata",
          "typed_per_filter_config", "vhds"]),
    honour("envoy.config.route.v3.Vhds", &["config_source"]),
    honour("envoy.config.route.v3.VirtualHost",
        &["name", "domains", "routes", "require_tls", "request_headers_to_add",
          "request_headers_to_remove", "response_headers_to_add", "response_headers_to_remove",
          "include_request_attempt_count", "include_attempt_count_in_response", "metadata",
          "typed_per_filter_config", "cors", "retry_policy", "hedge_policy",
          "per_request_buffer_limit_bytes", "request_body_buffer_limit"]),
    honour("envoy.config.route.v3.Route",
        &["name", "match", "route", "redirect", "direct_response", "non_forwarding_action",
          "metadata", "request_headers_to_add", "request_headers_to_remove",
          "response_headers_to_add", "response_headers_to_remove", "stat_prefix",
          "typed_per_filter_config", "decorator", "per_request_buffer_limit_bytes",
          "request_body_buffer_limit"]),
    honour("envoy.config.route.v3.Decorator", &["operation", "propagate"]),
    honour("envoy.config.route.v3.FilterConfig", &["config", "is_optional", "disabled"]),
    honour("envoy.config.route.v3.HedgePolicy",
        // Refused when they ask for more than one request.
        &["initial_requests", "additional_request_chance", "hedge_on_per_try_timeout"]),
    honour("envoy.config.route.v3.RetryPolicy",
        &["retry_on", "num_retries", "per_try_timeout", "per_try_idle_timeout", "retry_priority",
          "retry_host_predicate", "host_selection_retry_max_attempts", "retriable_status_codes",
          "retry_back_off", "rate_limited_retry_back_off", "retriable_headers",
          "retriable_request_headers"]),
    honour("envoy.config.route.v3.RetryPolicy.RetryPriority", &["name", "typed_config"]),
    honour("envoy.config.route.v3.RetryPolicy.RetryHostPredicate", &["name", "typed_config"]),
    honour("envoy.config.route.v3.RetryPolicy.RetryBackOff", &["base_interval", "max_interval"]),
    honour("envoy.config.route.v3.RetryPolicy.RateLimitedRetryBackOff",
        &["reset_headers", "max_interval"]),
    honour("envoy.config.route.v3.RetryPolicy.ResetHeader", &["name", "format"]),
    honour("envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", &[]),
    honour("envoy.extensions.retry.host.omit_canary_hosts.v3.OmitCanaryHostsPredicate", &[]),
    honour("envoy.extensions.retry.host.omit_host_metadata.v3.OmitHostMetadataConfig",
        &["metadata_match"]),
    honour("envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        &["update_frequency"]),
    honour("envoy.config.route.v3.RouteMatch",
        &["prefix", "path", "safe_regex", "connect_matcher", "path_separated_prefix",
          "case_sensitive", "runtime_fraction", "headers", "query_parameters", "grpc",
          "tls_context"]),
    honour("envoy.config.route.v3.RouteMatch.TlsContextMatchOptions", &["presented", "validated"]),
    honour("envoy.config.route.v3.HeaderMatcher",
        &["name", "exact_match", "safe_regex_match", "range_match", "present_match",
          "prefix_match", "suffix_match", "contains_match", "string_match", "invert_match",
          "treat_missing_header_as_empty"]),
    honour("envoy.config.route.v3.QueryParameterMatcher", &["name", "string_match", "present_match"]),
    honour("envoy.type.v3.Int64Range", &["start", "end"]),
    honour("envoy.type.matcher.v3.StringMatcher",
        &["exact", "prefix", "suffix", "safe_regex", "contains", "ignore_case"]),
    honour("envoy.type.matcher.v3.RegexMatcher", &["google_re2", "regex"]),
    honour("envoy.type.matcher.v3.RegexMatchAndSubstitute", &["pattern", "substitution"]),
    honour("envoy.config.core.v3.RuntimeFractionalPercent", &["default_value", "runtime_key"]),
    honour("envoy.type.v3.FractionalPercent", &["numerator", "denominator"]),
    honour("envoy.type.v3.Percent", &["value"]),
    honour("envoy.config.core.v3.HeaderValueOption",
        &["header", "append", "append_action", "keep_empty_value"]),
    honour("envoy.config.core.v3.HeaderValue", &["key", "value"]),
    Support {
        message: "envoy.config.route.v3.RouteAction",
        honoured: &["cluster", "cluster_header", "weighted_clusters",
            "cluster_not_found_response_code", "prefix_rewrite", "regex_rewrite", "path_rewrite",
            "host_rewrite_literal", "auto_host_rewrite", "host_rewrite_header",
            "host_rewrite_path_regex", "host_rewrite", "append_x_forwarded_host", "timeout",
            "idle_timeout", "upgrade_configs", "max_stream_duration", "max_grpc_timeout",
            "grpc_timeout_offset", "retry_policy", "hedge_policy", "cors"],
        ignored: &[("early_data_policy", "early data is never sent")],
    },
    honour("envoy.config.route.v3.RouteAction.MaxStreamDuration",
        &["max_stream_duration", "grpc_timeout_header_max", "grpc_timeout_header_offset"]),
    honour("envoy.config.route.v3.RouteAction.UpgradeConfig",
        &["upgrade_type", "enabled", "connect_config"]),
    honour("envoy.config.route.v3.WeightedCluster",
        &["clusters", "total_weight", "runtime_key_prefix", "header_name"]),
    honour("envoy.config.route.v3.WeightedCluster.ClusterWeight",
        &["name", "cluster_header", "weight", "request_headers_to_add", "request_headers_to_remove",
          "response_headers_to_add", "response_headers_to_remove", "host_rewrite_literal",
          "typed_per_filter_config"]),
    honour("envoy.config.route.v3.RedirectAction",
        &["https_redirect", "scheme_redirect", "host_redirect", "port_redirect", "path_redirect",
          "prefix_rewrite", "regex_rewrite", "response_code", "strip_query"]),
    honour("envoy.config.route.v3.DirectResponseAction", &["status", "body"]),
    honour("envoy.config.core.v3.DataSource",
        &["filename", "inline_bytes", "inline_string", "environment_variable"]),

    // Clusters and endpoints (sections 10, 11, 13, 14).
    Support {
        message: "envoy.config.cluster.v3.Cluster",
        honoured: &["name", "alt_stat_name", "type", "connect_timeout",
            "per_connection_buffer_limit_bytes", "lb_policy", "eds_cluster_config", "load_assignment",
            "max_requests_per_connection", "circuit_breakers", "common_http_protocol_options",
            "http_protocol_options", "http2_protocol_options", "upstream_http_protocol_options",
            "protocol_selection", "typed_extension_protocol_options", "dns_refresh_rate",
            "dns_jitter", "dns_failure_refresh_rate", "respect_dns_ttl", "dns_lookup_family",
            "wait_for_warm_on_init", "least_request_lb_config", "common_lb_config",
            "transport_socket", "transport_socket_matches", "metadata",
            "upstream_connection_options", "load_balancing_policy", "cluster_type",
            "original_dst_lb_config", "cleanup_interval", "upstream_bind_config", "filters"],
        ignored: &[("preconnect_policy", "changes only how warm the pool is")],
    },
    honour("envoy.config.cluster.v3.Cluster.CustomClusterType", &["name", "typed_config"]),
    honour("envoy.config.cluster.v3.Cluster.OriginalDstLbConfig",
        &["use_http_header", "http_header_name", "upstream_port_override"]),
    honour("envoy.extensions.clusters.original_dst.v3.OriginalDstCluster",
        &["use_http_header", "http_header_name", "upstream_port_override"]),
    honour("envoy.config.cluster.v3.Cluster.TransportSocketMatch",
        &["name", "match", "transport_socket"]),
    honour("envoy.config.cluster.v3.Filter", &["name", "typed_config"]),
    honour("envoy.config.core.v3.BindConfig",
        &["source_address", "freebind", "socket_options", "extra_source_addresses"]),
    honour("envoy.config.core.v3.ExtraSourceAddress", &["address", "socket_options"]),
    honour("envoy.config.cluster.v3.Cluster.RefreshRate", &["base_interval", "max_interval"]),
    honour("envoy.config.cluster.v3.Cluster.LeastRequestLbConfig",
        &["choice_count", "active_request_bias"]),
    honour("envoy.config.core.v3.RuntimeDouble", &["default_value", "runtime_key"]),
    honour("envoy.config.cluster.v3.Cluster.CommonLbConfig",
        &["healthy_panic_threshold", "zone_aware_lb_config", "locality_weighted_lb_config"]),
    honour("envoy.config.cluster.v3.Cluster.CommonLbConfig.LocalityWeightedLbConfig", &[]),
    honour("envoy.config.cluster.v3.Cluster.CommonLbConfig.ZoneAwareLbConfig",
        &["fail_traffic_on_panic"]),
    honour("envoy.config.cluster.v3.CircuitBreakers", &["thresholds"]),
    Support {
        message: "envoy.config.cluster.v3.CircuitBreakers.Thresholds",
        honoured: &["priority", "max_connections", "max_pending_requests", "max_requests",
            "max_retries"],
        ignored: &[("track_remaining", STATS)],
    },
    Support {
        message: "envoy.config.cluster.v3.UpstreamConnectionOptions",
        honoured: &["tcp_keepalive"],
        ignored: &[("set_local_interface_name_on_upstream_connections", "naming only")],
    },
    honour("envoy.config.cluster.v3.LoadBalancingPolicy", &["policies"]),
    honour("envoy.config.cluster.v3.LoadBalancingPolicy.Policy", &["typed_extension_config"]),
    honour("envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin", &[]),
    honour("envoy.extensions.load_balancing_policies.random.v3.Random", &[]),
    honour("envoy.extensions.load_balancing_policies.cluster_provided.v3.ClusterProvided", &[]),
    honour("envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        &["choice_count", "active_request_bias", "enable_full_scan", "selection_method"]),
    honour("envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        &["common_http_protocol_options", "upstream_http_protocol_options", "explicit_http_config",
          "use_downstream_protocol_config", "auto_config"]),
    honour("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
        &["http_protocol_options", "http2_protocol_options"]),
    honour("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
        &["http_protocol_options", "http2_protocol_options"]),
    honour("envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig",
        &["http_protocol_options", "http2_protocol_options"]),
    honour("envoy.config.cluster.v3.Cluster.EdsClusterConfig", &["eds_config", "service_name"]),
    honour("envoy.extensions.filters.network.http_connection_manager.v3.Rds",
        &["config_source", "route_config_name"]),
    honour("envoy.config.endpoint.v3.ClusterLoadAssignment",
        &["cluster_name", "endpoints", "policy"]),
    honour("envoy.config.endpoint.v3.ClusterLoadAssignment.Policy", &["overprovisioning_factor"]),
    Support {
        message: "envoy.config.endpoint.v3.LocalityLbEndpoints",
        honoured: &["locality", "metadata", "lb_endpoints", "load_balancing_weight", "priority"],
        ignored: &[("proximity", "naming only")],
    },
    honour("envoy.config.endpoint.v3.LbEndpoint",
        &["endpoint", "health_status", "metadata", "load_balancing_weight"]),
    Support {
        message: "envoy.config.endpoint.v3.Endpoint",
        honoured: &["address", "hostname"],
        ignored: &[("observability_name", "naming only")],
    },

    // Access logs (section 15).
    honour("envoy.config.accesslog.v3.AccessLog", &["name", "filter", "typed_config"]),
    honour("envoy.config.accesslog.v3.AccessLogFilter",
        &["status_code_filter", "duration_filter", "not_health_check_filter", "traceable_filter",
          "runtime_filter", "and_filter", "or_filter", "header_filter", "response_flag_filter",
          "grpc_status_filter", "metadata_filter", "log_type_filter"]),
    honour("envoy.config.accesslog.v3.StatusCodeFilter", &["comparison"]),
    honour("envoy.config.accesslog.v3.DurationFilter", &["comparison"]),
    honour("envoy.config.accesslog.v3.ComparisonFilter", &["op", "value"]),
    honour("envoy.config.core.v3.RuntimeUInt32", &["default_value", "runtime_key"]),
    honour("envoy.config.accesslog.v3.NotHealthCheckFilter", &[]),
    honour("envoy.config.accesslog.v3.TraceableFilter", &[]),
    honour("envoy.config.accesslog.v3.RuntimeFilter",
        &["runtime_key", "percent_sampled", "use_independent_randomness"]),
    honour("envoy.config.accesslog.v3.AndFilter", &["filters"]),
    honour("envoy.config.accesslog.v3.OrFilter", &["filters"]),
    honour("envoy.config.accesslog.v3.HeaderFilter", &["header"]),
    honour("envoy.config.accesslog.v3.ResponseFlagFilter", &["flags"]),
    honour("envoy.config.accesslog.v3.GrpcStatusFilter", &["statuses", "exclude"]),
    Support {
        message: "envoy.config.accesslog.v3.MetadataFilter",
        honoured: &["match_if_key_not_found"],
        ignored: &[("matcher", "no filter writes metadata: no key is ever there")],
    },
    honour("envoy.config.accesslog.v3.LogTypeFilter", &["types", "exclude"]),
    honour("envoy.extensions.access_loggers.file.v3.FileAccessLog",
        &["path", "format", "json_format", "typed_json_format", "log_format"]),
    honour("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog", &["log_format"]),
    honour("envoy.extensions.access_loggers.stream.v3.StderrAccessLog", &["log_format"]),
    honour("envoy.config.core.v3.SubstitutionFormatString",
        &["text_format", "json_format", "text_format_source", "omit_empty_values", "formatters",
          "json_format_options"]),
    honour("envoy.config.core.v3.JsonFormatOptions", &["sort_properties"]),
    honour("envoy.extensions.formatter.req_without_query.v3.ReqWithoutQuery", &[]),
];

/// Refused fields whose users can be told what to do.
const INSTEAD: &[(&str, &str, &str)] = &[
    ("envoy.config.core.v3.GrpcService", "google_grpc", "name a cluster in envoy_grpc"),
    ("envoy.config.core.v3.ConfigSource", "self", "say which source it is"),
];

/// Messages whose content is stored, whatever it is (U-13).
const METADATA: &str = "envoy.config.core.v3.Metadata";

/// A list of policies of which the first known one counts (section 10).
const POLICY: &str = "envoy.config.cluster.v3.LoadBalancingPolicy.Policy";

/// Holds an extension for whatever message it is in.
const TYPED_EXTENSION: &str = "envoy.config.core.v3.TypedExtensionConfig";

/// The same, for what is to come.
const EXTENSION_SOURCE: &str = "envoy.config.core.v3.ExtensionConfigSource";

/// U-06: the field that marks an extension as optional, in the messages that have it.
const IS_OPTIONAL: &str = "is_optional";

/// More refused fields than this in one load are not listed.
pub(crate) const FAULTS_MAX: usize = 50;

/// A walk looks up every message that it meets, and there is a walk for every resource.
static BY_MESSAGE: LazyLock<HashMap<&'static str, &'static Support>> =
    LazyLock::new(|| SUPPORT.iter().map(|support| (support.message, support)).collect());

/// What a walk over a resource found.
#[derive(Debug, Default)]
pub(crate) struct Review {
    pub(crate) faults: Vec<Found>,
    pub(crate) warnings: Warnings,
    /// Fields that are there and have no effect, with the reason.
    pub(crate) ignored: Vec<(Trail, &'static str)>,
    /// Optional extensions that are left out (U-06).
    pub(crate) skipped: Vec<(Trail, String)>,
}

/// Looks every field up that a message sets, at any depth.
pub(crate) struct Reviewer<'a> {
    schema: &'a Schema,
    options: ReadOptions,
    review: Review,
}

impl<'a> Reviewer<'a> {
    pub(crate) fn new(schema: &'a Schema, options: ReadOptions) -> Reviewer<'a> {
        Reviewer { schema, options, review: Review::default() }
    }

    pub(crate) fn finish(self) -> Review {
        self.review
    }

    /// `below` names fields of `message` itself that are reviewed apart, as resources of their own.
    pub(crate) fn message(&mut self, message: &DynamicMessage, at: &Trail, below: &[&str]) {
        self.fields(message, at, below, false);
    }

    /// `optional`: extensions in `message` that we do not know may be left out.
    fn fields(&mut self, message: &DynamicMessage, at: &Trail, below: &[&str], optional: bool) {
        let descriptor = message.descriptor();
        let optional = match descriptor.full_name() {
            POLICY => true,
            TYPED_EXTENSION | EXTENSION_SOURCE => optional,
            _ => descriptor
                .get_field_by_name(IS_OPTIONAL)
                .is_some_and(|field| message.get_field(&field).as_bool() == Some(true)),
        };
        let support = BY_MESSAGE.get(descriptor.full_name()).copied();
        let mut fields: Vec<_> = message.fields().collect();
        fields.sort_by_key(|(field, _)| field.number());
        for (field, value) in fields {
            let at = at.field(field.name());
            let honoured = support.is_some_and(|support| support.honoured.contains(&field.name()));
            let ignored = support
                .and_then(|support| support.ignored.iter().find(|(name, _)| *name == field.name()));
            if honoured {
                if !below.contains(&field.name()) {
                    self.value(value, &at, optional);
                }
            } else if let Some((_, reason)) = ignored {
                self.review.ignored.push((at, reason));
            } else {
                let instead = INSTEAD.iter().find(|(message, name, _)| {
                    (*message, *name) == (descriptor.full_name(), field.name())
                });
                let problem = match instead {
                    Some((_, _, instead)) => Problem::Instead(instead),
                    None => Problem::NotSupported,
                };
                self.fault(at, problem);
            }
        }
        self.unknown(message, at);
    }

    /// U-04, and U-05 where unknown fields are allowed.
    fn unknown(&mut self, message: &DynamicMessage, at: &Trail) {
        for unknown in message.unknown_fields() {
            let at = at.then(Segment::Unknown(unknown.number()));
            if self.options.allow_unknown_keys {
                self.review.warnings.push(Found::new(at, Problem::NotSupported));
            } else {
                self.fault(at, Problem::NotSupported);
            }
        }
    }

    fn value(&mut self, value: &Value, at: &Trail, optional: bool) {
        match value {
            Value::Message(message) => match message.descriptor().full_name() {
                "google.protobuf.Any" => self.any(message, at, optional),
                METADATA => {}
                name if name.starts_with("google.protobuf.") => self.unknown(message, at),
                _ => self.fields(message, at, &[], optional),
            },
            Value::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    self.value(item, &at.index(index), optional);
                }
            }
            Value::Map(entries) => {
                let mut entries: Vec<_> = entries.iter().collect();
                entries.sort_by_key(|(key, _)| map_key(key));
                for (key, value) in entries {
                    self.value(value, &at.key(&map_key(key)), optional);
                }
            }
            _ => {}
        }
    }

    fn any(&mut self, any: &DynamicMessage, at: &Trail, optional: bool) {
        match self.schema.unpack(any, at, self.options, &mut self.review.warnings) {
            Ok(Some((inner, at))) if self.knows(&inner) => self.message(&inner, &at, &[]),
            Ok(_) => {
                let type_url = mapping::type_url(self.schema, any);
                if optional {
                    self.review.skipped.push((at.clone(), type_url));
                } else {
                    self.fault(at.clone(), Problem::UnknownExtension(type_url));
                }
            }
            Err(found) => self.fault(found.trail, found.problem),
        }
    }

    fn knows(&self, message: &DynamicMessage) -> bool {
        BY_MESSAGE.contains_key(message.descriptor().full_name())
    }

    fn fault(&mut self, trail: Trail, problem: Problem) {
        if self.review.faults.len() < FAULTS_MAX {
            self.review.faults.push(Found::new(trail, problem));
        }
    }
}

/// Whether an extension of this type can be used at all.
pub(crate) fn is_known(full_name: &str) -> bool {
    SUPPORT.iter().any(|support| support.message == full_name)
}

pub(crate) fn map_key(key: &MapKey) -> String {
    match key {
        MapKey::String(text) => text.clone(),
        MapKey::Bool(value) => value.to_string(),
        MapKey::I32(value) => value.to_string(),
        MapKey::I64(value) => value.to_string(),
        MapKey::U32(value) => value.to_string(),
        MapKey::U64(value) => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_the_list_is_a_field_of_its_message() {
        let schema = Schema::default();
        let mut seen = std::collections::HashSet::new();
        for support in SUPPORT {
            let message = schema.message(support.message);
            let message = message.unwrap_or_else(|| panic!("no message {}", support.message));
            assert!(seen.insert(support.message), "{} is listed twice", support.message);
            let ignored = support.ignored.iter().map(|(name, _)| name);
            for name in support.honoured.iter().chain(ignored) {
                assert!(message.get_field_by_name(name).is_some(), "{}.{name}", support.message);
            }
        }
    }

    #[test]
    fn every_alternative_is_to_a_refused_field() {
        let schema = Schema::default();
        for (message, field, _) in INSTEAD {
            assert!(schema.message(message).unwrap().get_field_by_name(field).is_some());
            let support = SUPPORT.iter().find(|support| support.message == *message).unwrap();
            assert!(!support.honoured.contains(field), "{message}.{field}");
        }
    }

    #[test]
    fn u_04_an_unknown_field_number_is_refused_with_its_path() {
        let schema = Schema::default();
        let listener = schema.message("envoy.config.listener.v3.Listener").unwrap();
        // filter_chains (3) with one element, which holds field 999 as a varint: its tag is 7992.
        let bytes: &[u8] = &[0x1a, 0x03, 0xb8, 0x3e, 0x01];
        let message = DynamicMessage::decode(listener, bytes).unwrap();
        let mut reviewer = Reviewer::new(&schema, ReadOptions { allow_unknown_keys: false });
        reviewer.message(&message, &Trail::default(), &[]);
        let faults = reviewer.finish().faults;
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].trail.path().to_string(), "filter_chains[0]#999");
        assert_eq!(faults[0].problem, Problem::NotSupported);
    }
}
