//! Which endpoint a request goes to and how it is spoken to: priorities, transports by endpoint, source
//! addresses, destinations that requests name (contract section 10).

use outrigger_tests::config::transport_socket;
use outrigger_tests::tls::{self, Authority, Subject};
use outrigger_tests::{Address, Config, Origin, Proxy};
use serde_json::{Value, json};

fn endpoint(origin: &Address) -> Value {
    json!({"endpoint": {"address": origin.to_json()}})
}

/// A cluster called `origin` with these groups of endpoints.
fn groups(groups: Value) -> Value {
    json!({
        "name": "origin",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {"cluster_name": "origin", "endpoints": groups},
    })
}

fn to(cluster: Value) -> Config {
    Config::new()
        .raw_cluster(cluster)
        .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}))
}

#[test]
fn section_10_1_lower_priorities_serve_when_higher_ones_cannot() {
    let (first, second) = (Origin::ok(), Origin::ok());
    let group = |priority: u32, origin: &Origin, health: &str| {
        let mut member = endpoint(origin.address());
        member["health_status"] = health.into();
        json!({"priority": priority, "lb_endpoints": [member],
            "locality": {"zone": format!("z{priority}")}})
    };
    let shares = |health: &str| {
        let groups = groups(json!([group(0, &first, health), group(1, &second, "HEALTHY")]));
        let proxy = Proxy::start(&to(groups));
        let mut client = proxy.client();
        (0..20).for_each(|_| assert_eq!(client.get("/").status, 200));
        proxy.stop();
        let counts = (first.log().requests.len(), second.log().requests.len());
        first.forget();
        second.forget();
        counts
    };
    assert_eq!(shares("HEALTHY"), (20, 0));
    assert_eq!(shares("UNHEALTHY"), (0, 20));
    assert_eq!(shares("DRAINING"), (0, 20));
}

#[test]
fn section_10_1_localities_are_weighted_where_that_is_asked_for() {
    let (light, heavy) = (Origin::ok(), Origin::ok());
    let group = |weight: u32, origin: &Origin| {
        json!({"locality": {"zone": format!("z{weight}")}, "load_balancing_weight": weight,
            "lb_endpoints": [endpoint(origin.address())]})
    };
    let mut cluster = groups(json!([group(1, &light), group(9, &heavy)]));
    cluster["common_lb_config"] = json!({"locality_weighted_lb_config": {}});
    let proxy = Proxy::start(&to(cluster));
    let mut client = proxy.client();
    (0..400).for_each(|_| assert_eq!(client.get("/").status, 200));
    let share = light.log().requests.len();
    assert!((10..90).contains(&share), "{share} of 400 for a tenth of the weight");
    proxy.stop();
}

#[test]
fn b10_each_endpoint_has_the_transport_that_its_metadata_asks_for() {
    let authority = Authority::new("upstream");
    let identity = authority.issue(Subject::dns(&["mesh.test"]));
    let server = tls::server(&identity, None, &[]);
    let secure = Origin::start(move |peer| {
        peer.secure(&server)?;
        peer.answer_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecure")
    });
    let plain = Origin::answering("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain");
    let mut of_mesh = endpoint(secure.address());
    of_mesh["metadata"] = json!({"filter_metadata": {
        "envoy.transport_socket_match": {"tlsMode": "istio"}}});
    let members = json!([of_mesh, endpoint(plain.address())]);
    let mut cluster = groups(json!([{"lb_endpoints": members}]));
    let trusting = json!({"sni": "mesh.test", "common_tls_context": {"validation_context": {
        "trusted_ca": {"inline_string": authority.pem()}}}});
    cluster["transport_socket_matches"] = json!([
        {"name": "tlsMode-istio", "match": {"tlsMode": "istio"},
            "transport_socket": transport_socket(tls::UPSTREAM, trusting)},
        {"name": "tlsMode-disabled", "match": {}, "transport_socket": {
            "name": "raw", "typed_config": {"@type": "type.googleapis.com/\
                envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}},
    ]);
    let proxy = Proxy::start(&to(cluster));
    let mut client = proxy.client();
    let mut answers: Vec<String> = (0..4).map(|_| client.get("/").text()).collect();
    answers.sort();
    assert_eq!(answers, ["plain", "plain", "secure", "secure"]);
    assert_eq!(proxy.stat("cluster.origin.ssl.handshake"), 1);
    proxy.stop();
}

#[test]
fn section_10_upstream_bind_config_chooses_the_source_by_family() {
    let origin = Origin::start(|peer| {
        let client = peer.wire().stream().socket().peer_addr()?.as_socket().unwrap().ip();
        peer.request()?;
        let text = client.to_string();
        peer.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len()))?;
        peer.stall()
    });
    let bind = |sources: [&str; 2]| {
        let [first, extra] = sources.map(|address| json!({"address": address, "port_value": 0}));
        let config = Config::to(origin.address()).tune_cluster(json!({"upstream_bind_config": {
            "source_address": first, "extra_source_addresses": [{"address": extra}]}}));
        Proxy::start(&config)
    };
    let proxy = bind(["127.0.0.6", "::6"]);
    assert_eq!(proxy.client().get("/").text(), "127.0.0.6");
    proxy.stop();
    let proxy = bind(["::6", "127.0.0.7"]);
    assert_eq!(proxy.client().get("/").text(), "127.0.0.7");
    proxy.stop();
    // An address of nobody here.
    let proxy = bind(["192.0.2.1", "::6"]);
    assert_eq!(proxy.client().get("/").status, 503);
    assert_eq!(proxy.stat("cluster.origin.bind_errors"), 1);
    proxy.stop();
}

#[test]
fn section_10_a_request_may_name_its_destination_where_that_is_allowed() {
    let (one, two) = (Origin::answering(said("one")), Origin::answering(said("two")));
    let cluster = json!({
        "name": "origin",
        "type": "ORIGINAL_DST",
        "connect_timeout": "5s",
        "lb_policy": "CLUSTER_PROVIDED",
        "original_dst_lb_config": {"use_http_header": true},
    });
    let ask = |proxy: &Proxy, destination: &str| {
        let header = format!("x-envoy-original-dst-host: {destination}\r\n");
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.1\r\nhost: test\r\n{header}\r\n"));
        let response = client.response();
        (response.status, response.text())
    };
    let proxy = Proxy::start(&to(cluster.clone()));
    let named = |origin: &Origin| origin.address().to_string();
    for _ in 0..2 {
        assert_eq!(ask(&proxy, &named(&one)), (200, "one".into()));
        assert_eq!(ask(&proxy, &named(&two)), (200, "two".into()));
    }
    assert_eq!((one.log().accepted, two.log().accepted), (1, 1));
    // Nonsense counts, and no other destination is known.
    assert_eq!(ask(&proxy, "nonsense").0, 503);
    assert_eq!(proxy.stat("cluster.origin.original_dst_host_invalid"), 1);
    assert_eq!(proxy.client().get("/").status, 503);
    proxy.stop();

    // The port that is configured goes before the one that is named.
    let mut cluster = cluster;
    cluster["original_dst_lb_config"]["upstream_port_override"] = one.address().tcp().port().into();
    let proxy = Proxy::start(&to(cluster));
    assert_eq!(ask(&proxy, &named(&two)), (200, "one".into()));
    proxy.stop();
}

fn said(text: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}
