//! Connections that netfilter gives to the proxy, as it does in a pod under Istio: each is served by
//! the listener it was meant for, and goes where it was meant to go (xds.md B8, B11).

use std::net::SocketAddr;

use outrigger_tests::config::{
    HTTP_CONNECTION_MANAGER, HTTP_INSPECTOR, ORIGINAL_DST, ORIGINAL_SRC, ROUTER, TCP_PROXY,
    TLS_INSPECTOR, access_log,
};
use outrigger_tests::{
    Address, Client, Config, Http2Client, Launch, Namespace, Origin, PATIENCE, Proxy, eventually,
};
use serde_json::{Value, json};

/// What the proxy's own connections are marked with, so that they are not redirected.
const MARK: u32 = 1337;

fn socket(address: &str, port: u16) -> Value {
    json!({"socket_address": {"address": address, "port_value": port}})
}

fn tcp(address: &str) -> Address {
    Address::Tcp(address.parse().unwrap())
}

/// A listener filter.
fn filter(kind: &str) -> Value {
    json!({"name": kind.rsplit('.').next(), "typed_config": {"@type": kind}})
}

/// The terminal filter that sends bytes to a cluster.
fn to(cluster: &str) -> Value {
    json!([{"name": "tcp", "typed_config": {
        "@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": cluster}}])
}

/// The terminal filter with these routes.
fn http(routes: Value) -> Value {
    json!([{"name": "http", "typed_config": {
        "@type": HTTP_CONNECTION_MANAGER,
        "stat_prefix": "main",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    }}])
}

/// The terminal filter that answers with this text.
fn saying(text: &str) -> Value {
    http(json!([{"match": {"prefix": "/"},
        "direct_response": {"status": 200, "body": {"inline_string": text}}}]))
}

/// A listener that others capture for: it has no socket.
fn captured(address: &str, port: u16, filters: Value) -> Value {
    json!({
        "name": format!("{address}_{port}"),
        "address": socket(address, port),
        "bind_to_port": false,
        "filter_chains": [{"filters": filters}],
    })
}

/// What `virtualOutbound` is under Istio.
fn outbound(address: &str) -> Value {
    json!({
        "name": "virtualOutbound",
        "address": socket(address, 15001),
        "use_original_dst": true,
        "filter_chains": [
            {"name": "blackhole", "filter_chain_match": {"destination_port": 15001},
                "filters": to("BlackHoleCluster")},
            {"name": "catchall", "filters": to("PassthroughCluster")},
        ],
    })
}

/// A cluster that goes where the client meant to, with the mark.
fn passthrough() -> Value {
    json!({
        "name": "PassthroughCluster",
        "type": "ORIGINAL_DST",
        "connect_timeout": "10s",
        "lb_policy": "CLUSTER_PROVIDED",
        "upstream_bind_config": {
            "source_address": {"address": "0.0.0.0", "port_value": 0},
            "extra_source_addresses": [{"address": {"address": "::", "port_value": 0}}],
            "socket_options": [
                {"level": libc::SOL_SOCKET, "name": libc::SO_MARK, "int_value": MARK}],
        },
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/\
                    envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "use_downstream_protocol_config": {
                    "http_protocol_options": {}, "http2_protocol_options": {}},
            },
        },
    })
}

fn black_hole() -> Value {
    json!({"name": "BlackHoleCluster", "type": "STATIC", "connect_timeout": "10s"})
}

fn config(listeners: Value, clusters: Value) -> Config {
    Config::new().with(json!({"static_resources": {"listeners": listeners, "clusters": clusters}}))
}

/// Everything to these addresses goes to `virtualOutbound`, unless the proxy sends it.
fn redirect(namespace: &Namespace, destination: &str) {
    let rule = format!(
        "-t nat -A OUTPUT -p tcp -d {destination} -m mark ! --mark {MARK} -j REDIRECT --to-ports 15001"
    );
    if destination.contains(':') { namespace.ip6tables(&rule) } else { namespace.iptables(&rule) }
}

#[track_caller]
fn answer(address: &str) -> String {
    Client::connect(&tcp(address)).get("/").text()
}

/// An origin that answers with the address of its client.
fn mirror(address: &str) -> Origin {
    Origin::start_on(&tcp(address), |peer| {
        let client = peer.wire().stream().socket().peer_addr()?.as_socket().unwrap().ip();
        let text = client.to_canonical().to_string();
        loop {
            peer.request()?;
            peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()))?;
        }
    })
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn l_01_a_redirected_connection_is_served_by_the_listener_it_was_meant_for() {
    Namespace::run(|namespace| {
        namespace.address("10.9.0.1/32");
        namespace.address("10.9.0.2/32");
        redirect(namespace, "10.9.0.0/24");
        let origin = Origin::start_on(&tcp("10.9.0.2:81"), |peer| {
            peer.answer_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\norigin")
        });
        let listeners = json!([
            outbound("0.0.0.0"),
            captured("10.9.0.1", 80, saying("exact")),
            captured("0.0.0.0", 80, saying("wildcard")),
        ]);
        let config = config(listeners, json!([passthrough(), black_hole()]));
        let proxy = Launch::outrigger(&config).shards(2).start();
        for _ in 0..4 {
            assert_eq!(answer("10.9.0.1:80"), "exact");
            assert_eq!(answer("10.9.0.2:80"), "wildcard");
            // No listener has that port: the capturing one's own chains.
            assert_eq!(answer("10.9.0.2:81"), "origin");
        }
        assert_eq!(origin.log().accepted, 4);
        // L-02: what has no socket can't be connected to.
        let refused = tcp("127.0.0.1:80").connect(PATIENCE).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
        // Nobody was redirected here: to its own port nothing is passed on.
        Client::connect(&tcp("127.0.0.1:15001")).expect_close();
        // Each connection counts where it is served.
        assert_eq!(proxy.stat("listener.10.9.0.1_80.downstream_cx_total"), 4);
        assert_eq!(proxy.stat("listener.0.0.0.0_15001.downstream_cx_total"), 5);
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn l_01_a_connection_to_the_proxy_itself_is_not_passed_on_to_the_proxy() {
    Namespace::run(|_| {
        let listener = json!({
            "name": "virtualOutbound",
            "address": socket("0.0.0.0", 15001),
            "use_original_dst": true,
            "filter_chains": [{"filters": to("PassthroughCluster")}],
        });
        let proxy = Proxy::start(&config(json!([listener]), json!([passthrough()])));
        Client::connect(&tcp("127.0.0.1:15001")).expect_close();
        assert_eq!(proxy.stat("cluster.PassthroughCluster.upstream_cx_none_healthy"), 1);
        assert_eq!(proxy.stat("cluster.PassthroughCluster.upstream_cx_total"), 0);
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn l_01_ipv6_is_captured_too() {
    Namespace::run(|namespace| {
        namespace.address("fd00:9::1/128");
        namespace.address("fd00:9::2/128");
        redirect(namespace, "fd00:9::/64");
        let origin = mirror("[fd00:9::2]:81");
        let listeners = json!([
            outbound("::"),
            captured("fd00:9::1", 80, saying("exact")),
            captured("::", 80, saying("wildcard")),
        ]);
        let proxy = Proxy::start(&config(listeners, json!([passthrough(), black_hole()])));
        assert_eq!(answer("[fd00:9::1]:80"), "exact");
        assert_eq!(answer("[fd00:9::2]:80"), "wildcard");
        assert_eq!(answer("[fd00:9::2]:81"), "fd00:9::2");
        drop(origin);
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn l_01_a_dual_stack_listener_captures_ipv4() {
    Namespace::run(|namespace| {
        namespace.address("10.9.0.1/32");
        redirect(namespace, "10.9.0.0/24");
        let origin = mirror("10.9.0.1:81");
        let mut capturing = outbound("::");
        capturing["address"]["socket_address"]["ipv4_compat"] = json!(true);
        let listeners = json!([capturing, captured("10.9.0.1", 80, saying("exact"))]);
        let proxy = Proxy::start(&config(listeners, json!([passthrough(), black_hole()])));
        assert_eq!(answer("10.9.0.1:80"), "exact");
        assert_eq!(answer("10.9.0.1:81"), "10.9.0.1");
        drop(origin);
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn b9_logs_show_where_the_client_meant_to_go_and_where_it_came_in() {
    Namespace::run(|namespace| {
        namespace.address("10.9.0.1/32");
        redirect(namespace, "10.9.0.0/24");
        let directory = outrigger_tests::process::Scratch::new();
        let file = directory.file("log");
        let format = "%DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_DIRECT_LOCAL_ADDRESS%\n";
        let mut filters = saying("exact");
        filters[0]["typed_config"]["access_log"] = access_log(&file, format);
        let listeners = json!([outbound("0.0.0.0"), captured("10.9.0.1", 80, filters)]);
        let proxy = Proxy::start(&config(listeners, json!([passthrough(), black_hole()])));
        assert_eq!(answer("10.9.0.1:80"), "exact");
        proxy.stop();
        let text = std::fs::read_to_string(&file).unwrap();
        assert_eq!(text, "10.9.0.1:80 127.0.0.1:15001\n");
    });
}

/// What `virtualInbound` is under Istio: one listener with a chain for each port.
fn inbound(filters: Value, chains: Value) -> Value {
    json!({
        "name": "virtualInbound",
        "address": socket("0.0.0.0", 15006),
        "listener_filters": filters,
        "continue_on_listener_filters_timeout": true,
        "filter_chains": chains,
    })
}

/// A chain for connections that match.
fn chain(name: &str, criteria: Value, filters: Value) -> Value {
    json!({"name": name, "filter_chain_match": criteria, "filters": filters})
}

/// Redirects what comes to an address to `virtualInbound`, unless it comes from the proxy.
fn redirect_inbound(namespace: &Namespace, destination: &str) {
    namespace.iptables(&format!(
        "-t nat -A OUTPUT -p tcp -d {destination} ! -s 127.0.0.6 -j REDIRECT --to-ports 15006"
    ));
}

fn inbound_passthrough() -> Value {
    let mut cluster = passthrough();
    cluster["name"] = json!("InboundPassthroughCluster");
    cluster["upstream_bind_config"] =
        json!({"source_address": {"address": "127.0.0.6", "port_value": 0}});
    cluster
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn l_08_chains_are_chosen_by_the_original_destination() {
    Namespace::run(|namespace| {
        namespace.address("10.9.0.1/32");
        namespace.address("10.9.0.2/32");
        redirect_inbound(namespace, "10.9.0.0/24");
        let ip = json!([{"address_prefix": "10.9.0.2", "prefix_len": 32}]);
        let chains = json!([
            chain("port", json!({"destination_port": 8080}), saying("port")),
            chain(
                "both",
                json!({"destination_port": 8080, "prefix_ranges": ip}),
                saying("port and address")
            ),
            chain("blackhole", json!({"destination_port": 15006}), to("BlackHoleCluster")),
            chain("rest", json!({}), to("InboundPassthroughCluster")),
        ]);
        let listener = inbound(json!([filter(ORIGINAL_DST)]), chains);
        let origin = mirror("10.9.0.1:8081");
        let clusters = json!([inbound_passthrough(), black_hole()]);
        let proxy = Proxy::start(&config(json!([listener]), clusters));
        assert_eq!(answer("10.9.0.1:8080"), "port");
        assert_eq!(answer("10.9.0.2:8080"), "port and address");
        // B11: the source by which netfilter knows that it is not to be redirected again.
        assert_eq!(answer("10.9.0.1:8081"), "127.0.0.6");
        Client::connect(&tcp("127.0.0.1:15006")).expect_close();
        drop(origin);
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn l_04_inspectors_are_disabled_by_the_original_port() {
    Namespace::run(|namespace| {
        namespace.address("10.9.0.1/32");
        redirect_inbound(namespace, "10.9.0.0/24");
        let disabled = json!({"destination_port_range": {"start": 3306, "end": 3307}});
        let mut inspectors = [filter(TLS_INSPECTOR), filter(HTTP_INSPECTOR)];
        for inspector in &mut inspectors {
            inspector["filter_disabled"] = disabled.clone();
        }
        let [tls, plain] = inspectors;
        let chains = json!([
            chain("http", json!({"application_protocols": ["http/1.1"]}), saying("http")),
            chain("rest", json!({}), to("InboundPassthroughCluster")),
        ]);
        let mut listener = inbound(json!([filter(ORIGINAL_DST), tls, plain]), chains);
        // Longer than a test may take.
        listener["listener_filters_timeout"] = json!("3600s");
        // A server that speaks first, as MySQL's do.
        let origin = Origin::start_on(&tcp("10.9.0.1:3306"), |peer| {
            peer.send("hello")?;
            peer.stall()
        });
        let proxy = Proxy::start(&config(json!([listener]), json!([inbound_passthrough()])));
        let mut client = Client::connect(&tcp("10.9.0.1:3306"));
        assert_eq!(client.wire().exactly(5).unwrap(), b"hello");
        assert_eq!(answer("10.9.0.1:8080"), "http");
        drop((client, origin));
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn l_05_and_l_06_a_server_that_speaks_first_is_only_late_and_its_port_is_shown() {
    Namespace::run(|namespace| {
        namespace.address("10.9.0.1/32");
        redirect_inbound(namespace, "10.9.0.0/24");
        let filters = json!([filter(ORIGINAL_DST), filter(TLS_INSPECTOR), filter(HTTP_INSPECTOR)]);
        let chains = json!([
            chain(
                "http",
                json!({"application_protocols": ["http/1.1"],
                "transport_protocol": "raw_buffer"}),
                saying("http")
            ),
            chain(
                "plain",
                json!({"transport_protocol": "raw_buffer"}),
                to("InboundPassthroughCluster")
            ),
            chain("tls", json!({"transport_protocol": "tls"}), to("BlackHoleCluster")),
        ]);
        let mut listener = inbound(filters, chains);
        listener["listener_filters_timeout"] = json!("0.1s");
        let origin = Origin::start_on(&tcp("10.9.0.1:3306"), |peer| {
            peer.send("hello")?;
            peer.stall()
        });
        let clusters = json!([inbound_passthrough(), black_hole()]);
        let proxy = Proxy::start(&config(json!([listener]), clusters));
        let mut client = Client::connect(&tcp("10.9.0.1:3306"));
        assert_eq!(client.wire().exactly(5).unwrap(), b"hello");
        let listener = "listener.0.0.0.0_15006.downstream_pre_cx";
        assert_eq!(proxy.stat(&format!("{listener}_timeout")), 1);
        assert_eq!(proxy.stat(&format!("{listener}_timeout_port_3306")), 1);
        drop((client, origin));
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn what_the_capturing_listener_found_out_is_known_to_the_other() {
    Namespace::run(|namespace| {
        namespace.address("10.9.0.1/32");
        redirect(namespace, "10.9.0.0/24");
        let mut capturing = outbound("0.0.0.0");
        capturing["listener_filters"] = json!([filter(ORIGINAL_DST), filter(HTTP_INSPECTOR)]);
        let other = json!({
            "name": "10.9.0.1_80",
            "address": socket("10.9.0.1", 80),
            "bind_to_port": false,
            "filter_chains": [
                chain("http", json!({"application_protocols": ["http/1.1"]}), saying("http")),
                chain("rest", json!({}), to("BlackHoleCluster")),
            ],
        });
        let clusters = json!([passthrough(), black_hole()]);
        let proxy = Proxy::start(&config(json!([capturing, other]), clusters));
        assert_eq!(answer("10.9.0.1:80"), "http");
        let mut client = Client::connect(&tcp("10.9.0.1:80"));
        client.send("\x01\x02\x03\x04\n").expect_close();
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn b11_passthrough_speaks_what_the_client_speaks_and_keeps_connections() {
    Namespace::run(|namespace| {
        let first = Origin::ok();
        let second = Origin::http2_ok();
        for origin in [&first, &second] {
            let port = origin.address().tcp().port();
            redirect(namespace, &format!("127.0.0.1 --dport {port}"));
        }
        let routes = json!([{"match": {"prefix": "/"},
            "route": {"cluster": "PassthroughCluster"}}]);
        let mut listener = outbound("127.0.0.1");
        listener["filter_chains"] = json!([{"filters": http(routes)}]);
        let mut cluster = passthrough();
        cluster["cleanup_interval"] = json!("0.1s");
        let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        cluster["typed_extension_protocol_options"][options]["common_http_protocol_options"] =
            json!({"idle_timeout": "0.5s"});
        let proxy = Proxy::start(&config(json!([listener]), json!([cluster])));
        for _ in 0..3 {
            assert_eq!(Client::connect(first.address()).get("/").text(), "ok");
        }
        let client = Http2Client::connect(second.address());
        for _ in 0..3 {
            assert_eq!(client.get("/").text(), "ok");
        }
        // One connection to each destination.
        assert_eq!((first.log().accepted, second.log().accepted), (1, 1));
        let hosts = |proxy: &Proxy| {
            let text = proxy.admin_get("/clusters").text();
            let shown = |origin: &Origin| {
                text.contains(&format!("PassthroughCluster::{}::", origin.address()))
            };
            (shown(&first), shown(&second))
        };
        assert_eq!(hosts(&proxy), (true, true));
        // They end when they are idle, and with the last one the endpoint is dropped.
        drop(client);
        first.wait_released();
        eventually("the endpoints to be dropped", || {
            (hosts(&proxy) == (false, false)).then_some(())
        });
        assert_eq!(Client::connect(first.address()).get("/").text(), "ok");
        proxy.stop();
    });
}

#[test]
#[ignore = "needs root and iptables, which .ci/run installs"]
fn l_07_a_transparent_proxy_keeps_the_clients_address() {
    Namespace::run(|namespace| {
        for address in ["10.9.0.1/32", "10.9.0.5/32", "10.9.0.6/32"] {
            namespace.address(address);
        }
        namespace.iptables(&format!(
            "-t mangle -A PREROUTING -p tcp -d 10.9.0.1 -m mark ! --mark {MARK} \
             -j TPROXY --on-port 15006 --tproxy-mark 1"
        ));
        let origin = mirror("10.9.0.1:8080");
        let mut source = filter(ORIGINAL_SRC);
        source["typed_config"]["mark"] = json!(MARK);
        let mut cluster = passthrough();
        cluster.as_object_mut().unwrap().remove("upstream_bind_config");
        let routes = json!([{"match": {"prefix": "/"},
            "route": {"cluster": "PassthroughCluster"}}]);
        let chains = json!([
            chain("http", json!({"destination_port": 8080}), http(routes)),
            chain("tcp", json!({}), to("PassthroughCluster")),
        ]);
        let mut listener = inbound(json!([filter(ORIGINAL_DST), source]), chains);
        listener["transparent"] = json!(true);
        let proxy = Proxy::start(&config(json!([listener]), json!([cluster])));
        let get = |from: &str, to: &str| {
            let from: SocketAddr = format!("{from}:0").parse().unwrap();
            let stream = tcp(to).connect_from(from, PATIENCE).unwrap();
            Client::over(stream).get("/").text()
        };
        // A connection made for one client is never used for another.
        for _ in 0..2 {
            assert_eq!(get("10.9.0.5", "10.9.0.1:8080"), "10.9.0.5");
            assert_eq!(get("10.9.0.6", "10.9.0.1:8080"), "10.9.0.6");
        }
        assert_eq!(origin.log().accepted, 2);
        let second = mirror("10.9.0.1:8081");
        assert_eq!(get("10.9.0.6", "10.9.0.1:8081"), "10.9.0.6");
        drop(second);
        proxy.stop();
    });
}
