//! What a bootstrap says of the process (contract section 1), and filters of access logs (section 15).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;

use common::*;
use outrigger_xds::bootstrap::{Loaded, Warning};
use outrigger_xds::process_config::{StatSelection, StatTagValue, StatsConfig};
use outrigger_xds::snapshot::Fraction;
use outrigger_xds::snapshot::log_filter::{Comparison, LogFilter, LogTypeName};
use serde_json::{Value, json};

fn with(field: &str, value: Value) -> Value {
    set(&http(), &format!("/{field}"), value)
}

fn typed(name: &str, kind: &str, fields: Value) -> Value {
    json!({ "name": name, "typed_config": any_with(kind, fields) })
}

fn stats(config: Value) -> StatsConfig {
    loaded(&with("stats_config", config)).process.stats
}

fn advice(loaded: &Loaded) -> Vec<String> {
    loaded.warnings.iter().map(Warning::to_string).collect()
}

#[test]
fn section_1_nothing_is_said_by_default() {
    let process = loaded(&http()).process;
    assert_eq!((process.log_format, process.connections_max), (None, None));
    assert!(process.stats.selection.takes("anything"));
    assert!(process.stats.has_default_tag("envoy.cluster_name"));
    assert_eq!(process.stats.bounds("anything"), None);
}

#[test]
fn section_1_the_application_log() {
    let of = |format: Value| with("application_log_config", json!({ "log_format": format }));
    let format = |format: Value| loaded(&of(format)).process.log_format.unwrap();
    assert_eq!(&*format(json!({ "text_format": "%l %v" })), "%l %v");
    let as_json = format(json!({ "json_format": { "level": "%l", "text": "%j" } }));
    let as_json: Value = serde_json::from_str(&as_json).unwrap();
    assert_eq!(as_json, json!({ "level": "%l", "text": "%j" }));
    let text = refusal(&of(json!({ "json_format": { "text": "%v" } })));
    assert!(text.ends_with("json_format: %v is not for JSON: use %j"), "{text}");
    assert!(refusal(&of(json!({}))).ends_with("log_format.log_format: is required"));
    // Nothing is said of lines.
    assert!(loaded(&with("application_log_config", json!({}))).process.log_format.is_none());
}

#[test]
fn section_1_which_statistics_there_are() {
    let only = |list: Value| stats(json!({ "stats_matcher": list })).selection;
    let istio = only(json!({ "inclusion_list": { "patterns": [
        { "prefix": "cluster_manager" },
        { "suffix": "downstream_cx_active" },
        { "safe_regex": { "google_re2": {}, "regex": "vhost\\.*\\.route\\.*" } },
    ]}}));
    assert!(istio.takes("cluster_manager.cds.update_success"));
    assert!(istio.takes("listener.0.0.0.0_80.downstream_cx_active"));
    assert!(!istio.takes("http.a.downstream_rq_total"));
    let except = only(json!({ "exclusion_list": { "patterns": [{ "contains": "ssl" }] } }));
    assert!(!except.takes("cluster.a.ssl.handshake") && except.takes("cluster.a.bind_errors"));
    assert!(matches!(only(json!({ "reject_all": true })), StatSelection::Nothing));
    assert!(matches!(only(json!({ "reject_all": false })), StatSelection::All));
    let text = refusal(&with("stats_config", json!({ "stats_matcher": {} })));
    assert!(text.ends_with("stats_matcher.stats_matcher: is required"), "{text}");
}

#[test]
fn section_1_labels() {
    let config = stats(json!({
        "use_all_default_tags": false,
        "stats_tags": [
            { "tag_name": "cluster_name", "regex": "^cluster\\.((.*?);\\.?)" },
            { "tag_name": "code", "regex": "_rq(_\\d{3})$" },
            { "tag_name": "zone", "fixed_value": "a" },
            { "tag_name": "envoy.tcp_prefix" },
        ],
    }));
    assert!(config.has_default_tag("envoy.tcp_prefix"));
    assert!(!config.has_default_tag("envoy.cluster_name"));
    let of = |index: usize, name: &str| {
        let found = config.tags[index].value.of(name);
        found.map(|(value, gone)| (value.to_owned(), name[gone].to_owned()))
    };
    let found = |value: &str, gone: &str| Some((value.to_owned(), gone.to_owned()));
    assert_eq!(of(0, "cluster.a|80;.upstream_rq_200"), found("a|80", "a|80;."));
    assert_eq!(of(0, "cluster.xds-grpc.upstream_rq_200"), None);
    // One group is both.
    assert_eq!(of(1, "cluster.a.upstream_rq_200"), found("_200", "_200"));
    assert!(matches!(&config.tags[2].value, StatTagValue::Fixed(value) if &**value == "a"));

    let tags = |tags: Value| with("stats_config", json!({ "stats_tags": tags }));
    let own = json!({ "tag_name": "envoy.cluster_name", "regex": "(a)" });
    for (list, expected) in [
        (json!([{ "tag_name": "a", "regex": "b" }]), "regex: not a regular expression"),
        (json!([{ "tag_name": "a", "regex": "(" }]), "regex: not a regular expression"),
        (json!([{ "tag_name": "a", "regex": "(a)".repeat(400) }]), "longer than 1024 bytes"),
        (json!([{ "tag_name": "a" }]), "has no regex, and is not a default tag"),
        (json!([own]), "\"envoy.cluster_name\" is there already"),
        (
            json!([{ "tag_name": "a", "fixed_value": "" }, { "tag_name": "a", "fixed_value": "b" }]),
            "\"a\" is there already",
        ),
    ] {
        let text = refusal(&tags(list));
        assert!(text.contains("Bootstrap: stats_config.stats_tags["), "{text}");
        assert!(text.contains(expected), "{text}");
    }
    // It takes the default's place where that is said.
    let config = stats(json!({ "stats_tags": [own], "allow_default_tag_overrides": true }));
    assert!(!config.has_default_tag("envoy.cluster_name"));
    assert!(config.has_default_tag("envoy.response_code"));
}

#[test]
fn section_1_bounds_of_histograms() {
    let config = stats(json!({ "histogram_bucket_settings": [
        { "match": { "prefix": "istiocustom" }, "buckets": [10, 0.5, 1], "bins": 7 },
        { "match": { "contains": "istio" }, "buckets": [2] },
    ]}));
    assert_eq!(config.bounds("istiocustom.istio_request_bytes"), Some(&[0.5, 1.0, 10.0][..]));
    assert_eq!(config.bounds("an.istio_request_bytes"), Some(&[2.0][..]));
    assert_eq!(config.bounds("cluster.a.upstream_rq_time"), None);
    let buckets = |buckets: Value| {
        let list = json!([{ "match": { "exact": "a" }, "buckets": buckets }]);
        refusal(&with("stats_config", json!({ "histogram_bucket_settings": list })))
    };
    assert!(buckets(json!([0])).ends_with("buckets: must be above zero"));
    assert!(buckets(json!([1, 1])).ends_with("buckets: must be different from each other"));
}

#[test]
fn section_1_the_limit_of_connections() {
    const MONITOR: &str =
        "envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig";
    let limited = |limit: Value| {
        let fields = json!({ "max_active_downstream_connections": limit });
        let monitor =
            typed("envoy.resource_monitors.global_downstream_max_connections", MONITOR, fields);
        with(
            "overload_manager",
            json!({ "resource_monitors": [monitor], "refresh_interval": "1s" }),
        )
    };
    let limit = |bootstrap: &Value| loaded(bootstrap).process.connections_max;
    assert_eq!(limit(&limited(json!("2147483647"))), Some(i32::MAX as u32));
    assert_eq!(limit(&limited(json!("9000000000"))), Some(u32::MAX));
    assert!(refusal(&limited(json!(0))).ends_with("must be above zero"));
    // Envoy's older way to say it, as Istio writes it.
    let key = json!({ "overload.global_downstream_max_connections": "50000" });
    let runtime = json!({ "layers": [{ "name": "l", "static_layer": key }] });
    assert_eq!(limit(&with("layered_runtime", runtime.clone())), Some(50_000));
    assert_eq!(limit(&set(&limited(json!(7)), "/layered_runtime", runtime)), Some(7));
    let heap = typed(
        "heap",
        "envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig",
        json!({}),
    );
    let text = refusal(&with("overload_manager", json!({ "resource_monitors": [heap] })));
    assert!(text.contains("overload_manager.resource_monitors[0]"), "{text}");
    let text = refusal(&with("overload_manager", json!({ "actions": [{ "name": "a" }] })));
    assert!(text.contains("overload_manager.actions: not supported"), "{text}");

    let exempt =
        set(&limited(json!(7)), &format!("{LISTENER}/ignore_global_conn_limit"), json!(true));
    let exempt = set(&exempt, &format!("{LISTENER}/bypass_overload_manager"), json!(true));
    assert!(loaded(&exempt).snapshot.listeners[0].ignores_connections_max);
    assert!(!loaded(&http()).snapshot.listeners[0].ignores_connections_max);
}

#[test]
fn section_1_extensions_of_the_process() {
    let struct_of = |kind: &str, fields: Value| {
        let holder = json!({ "type_url": format!("type.googleapis.com/{kind}"), "value": fields });
        json!({ "name": "e", "typed_config": any_with("udpa.type.v1.TypedStruct", holder) })
    };
    let internal = struct_of(
        "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
        json!({ "buffer_size_kb": 64 }),
    );
    let workloads = struct_of(
        "istio.workload.BootstrapExtension",
        json!({ "config_source": { "ads": {}, "resource_api_version": "V3" } }),
    );
    let both = loaded(&with("bootstrap_extensions", json!([internal, workloads])));
    let told = advice(&both);
    let is_told = told.iter().filter(|text| text.contains("peers that do not tell")).count();
    assert_eq!(is_told, 1, "{told:?}");
    let other = typed("e", "envoy.extensions.filters.http.cors.v3.Cors", json!({}));
    let text = refusal(&with("bootstrap_extensions", json!([other])));
    assert!(text.contains("bootstrap_extensions[0].typed_config"), "{text}");
}

#[test]
fn section_1_the_admin_interface() {
    let address = json!({ "socket_address": { "address": "127.0.0.1", "port_value": 1 } });
    let admin = json!({
        "address": address,
        "access_log": [typed("l", "envoy.extensions.access_loggers.file.v3.FileAccessLog",
            json!({ "path": "/dev/null" }))],
        "access_log_path": "/tmp/admin.log",
        "allow_paths": [{ "exact": "/ready" }, { "prefix": "/stats" }],
        "ignore_global_conn_limit": true,
        "profile_path": "/tmp/p",
    });
    let admin = loaded(&with("admin", admin)).admin.unwrap();
    assert_eq!(admin.access_log.len(), 2);
    assert!(admin.allow_paths[1].matches(b"/stats?usedonly"));
    assert!(loaded(&http()).admin.is_none());
}

#[test]
fn section_1_what_needs_nothing_is_accepted() {
    let bootstrap = with("stats_flush_interval", json!("5s"));
    let bootstrap = set(&bootstrap, "/stats_flush_on_admin", json!(false));
    let manager = json!({ "enable_deferred_cluster_creation": true,
        "outlier_detection": { "event_log_path": "/dev/stdout" } });
    let told = advice(&loaded(&set(&bootstrap, "/cluster_manager", manager)));
    for field in ["stats_flush_interval", "event_log_path", "enable_deferred_cluster_creation"] {
        assert!(told.iter().any(|text| text.contains(field)), "{field}: {told:?}");
    }
}

#[test]
fn u_12_an_admin_layer_is_changed_while_it_is_used() {
    let runtime = json!({ "layers": [
        { "name": "base", "static_layer": { "share": 10 } },
        { "name": "admin", "admin_layer": {} },
    ]});
    let bootstrap = with("layered_runtime", runtime.clone());
    let fraction = json!({ "runtime_key": "share", "default_value": { "numerator": 50 } });
    let bootstrap = set(&bootstrap, &format!("{ROUTE}/match/runtime_fraction"), fraction);
    let loaded = loaded(&bootstrap);
    let layers = loaded.ground.runtime_layers();
    let share = || table(hcm(&loaded)).routes()[0].matcher.fraction.as_ref().unwrap().get();
    let percent = |numerator| Fraction { numerator, denominator: 100 };
    assert_eq!(share(), percent(10));
    assert!(layers.modify(&[("share".to_owned(), "30".to_owned())]));
    assert_eq!(share(), percent(30));
    assert!(layers.modify(&[("share".to_owned(), String::new())]));
    assert_eq!(share(), percent(10));
    let twice = set(
        &with("layered_runtime", runtime),
        "/layered_runtime/layers/-",
        json!({ "name": "more", "admin_layer": {} }),
    );
    assert!(refusal(&twice).ends_with("admin_layer: there may be one only"));
}

fn filter(filter: Value) -> LogFilter {
    let log = json!([{ "name": "l", "filter": filter, "typed_config":
        any_with("envoy.extensions.access_loggers.file.v3.FileAccessLog",
            json!({ "path": "/dev/null" })) }]);
    let loaded = loaded(&set(&http(), &format!("{LISTENER}/access_log"), log));
    loaded.snapshot.listeners[0].access_log[0].filter.clone().unwrap()
}

#[test]
fn section_15_filters() {
    let compared = |op: &str, value: u32| {
        json!({ "comparison": { "op": op,
            "value": { "default_value": value, "runtime_key": "k" } } })
    };
    let status = filter(json!({ "status_code_filter": compared("GE", 500) }));
    assert!(matches!(status, LogFilter::Status(Comparison::AtLeast(500))));
    let time = filter(json!({ "duration_filter": compared("LE", 10) }));
    assert!(matches!(time, LogFilter::DurationMs(Comparison::AtMost(10))));
    let flags = filter(json!({ "response_flag_filter": { "flags": ["NR", "UF"] } }));
    assert!(matches!(flags, LogFilter::Flags(flags) if flags.len() == 2));
    let both = filter(json!({ "and_filter": { "filters": [
        { "not_health_check_filter": {} },
        { "or_filter": { "filters": [{ "traceable_filter": {} }, { "header_filter": {
            "header": { "name": "x", "present_match": true } } }] } },
    ]}}));
    assert_eq!(both.request_headers(), ["x"]);
    let share = filter(json!({ "runtime_filter": { "runtime_key": "k",
        "percent_sampled": { "numerator": 5 }, "use_independent_randomness": true } }));
    let LogFilter::Share { share, is_independent: true } = share else { panic!("{share:?}") };
    assert_eq!(share.get(), Fraction { numerator: 5, denominator: 100 });
    let grpc =
        filter(json!({ "grpc_status_filter": { "statuses": ["UNAVAILABLE"], "exclude": true } }));
    let LogFilter::GrpcStatus { statuses, excludes: true } = grpc else { panic!("{grpc:?}") };
    assert_eq!(*statuses, [14]);
    let kind =
        filter(json!({ "log_type_filter": { "types": ["TcpConnectionEnd", "TcpPeriodic"] } }));
    let LogFilter::Type { types, excludes: false } = kind else { panic!("{kind:?}") };
    assert_eq!(*types, [LogTypeName::TcpConnectionEnd]);
    let metadata = json!({ "metadata_filter": { "match_if_key_not_found": false } });
    assert!(matches!(filter(metadata), LogFilter::Always(false)));
    assert!(matches!(filter(json!({ "metadata_filter": {} })), LogFilter::Always(true)));
}

#[test]
fn section_15_filters_that_are_refused() {
    for (filter, expected) in [
        (json!({}), "filter.filter_specifier: is required"),
        (json!({ "status_code_filter": {} }), "status_code_filter.comparison: is required"),
        (json!({ "and_filter": { "filters": [{ "traceable_filter": {} }] } }), "at least two"),
        (json!({ "response_flag_filter": { "flags": ["XX"] } }), "\"XX\" is no response flag"),
        (json!({ "extension_filter": { "name": "cel" } }), "extension_filter: not supported"),
    ] {
        let log = json!([{ "name": "l", "filter": filter, "typed_config":
            any("envoy.extensions.access_loggers.stream.v3.StdoutAccessLog") }]);
        let text = refusal(&set(&http(), &format!("{HCM}/access_log"), log));
        assert!(text.contains("access_log[0].filter") && text.contains(expected), "{text}");
    }
}
