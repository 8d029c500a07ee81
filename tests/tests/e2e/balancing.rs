//! Which endpoint gets a request, and how endpoints are found.

use outrigger_tests::net::Address;
use outrigger_tests::{Config, Origin, Proxy};
use serde_json::{Value, json};

/// Sends so many requests and returns how many each origin got.
fn spread(policy: &str, origins: &[Origin], requests: usize) -> Vec<usize> {
    let addresses: Vec<&Address> = origins.iter().map(Origin::address).collect();
    let config = Config::new()
        .cluster("origin", &addresses)
        .tune_cluster(json!({"lb_policy": policy}))
        .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for _ in 0..requests {
        assert_eq!(client.get("/").status, 200);
    }
    drop(client);
    proxy.stop();
    origins.iter().map(|origin| origin.log().requests.len()).collect()
}

fn three() -> [Origin; 3] {
    [Origin::ok(), Origin::ok(), Origin::ok()]
}

#[test]
fn round_robin_takes_turns() {
    assert_eq!(spread("ROUND_ROBIN", &three(), 30), [10, 10, 10]);
}

#[test]
fn random_takes_all() {
    let counts = spread("RANDOM", &three(), 300);
    assert_eq!(counts.iter().sum::<usize>(), 300);
    // 100 each, with a standard deviation of 8: six of those.
    assert!(counts.iter().all(|count| (50..=150).contains(count)), "{counts:?}");
}

#[test]
fn least_request_avoids_the_busy() {
    let idle = Origin::ok();
    let busy = Origin::start(|peer| {
        peer.request()?;
        peer.stall()
    });
    // With so many choices the idle one is almost always among them.
    let config = Config::new()
        .cluster("origin", &[idle.address(), busy.address()])
        .tune_cluster(json!({
            "lb_policy": "LEAST_REQUEST",
            "least_request_lb_config": {"choice_count": 10},
        }))
        .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}));
    let proxy = Proxy::start(&config);
    let mut clients = Vec::new();
    // Which of the two gets the next request.
    let mut next_is_busy = || {
        let before = busy.log().requests.len();
        let arrived = idle.log().requests.len() + before + 1;
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
        outrigger_tests::eventually("the request arrives", || {
            (idle.log().requests.len() + busy.log().requests.len() >= arrived).then_some(())
        });
        let went_to_busy = busy.log().requests.len() > before;
        if !went_to_busy {
            assert_eq!(client.response().status, 200);
        }
        clients.push(client);
        went_to_busy
    };
    // One request has to hang at the busy one first; until then they are equal.
    while !next_is_busy() {}
    let wrong = (0..40).filter(|_| next_is_busy()).count();
    assert!(wrong <= 2, "{wrong} of 40 to the busy one");
    drop(clients);
    proxy.stop();
}

#[test]
fn endpoint_weights_count() {
    let (light, heavy) = (Origin::ok(), Origin::ok());
    let endpoint = |origin: &Origin, weight: u32| json!({"endpoint": {"address": origin.address().to_json()}, "load_balancing_weight": weight});
    let config = Config::new()
        .raw_cluster(json!({
            "name": "origin",
            "type": "STATIC",
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": "origin", "endpoints": [
                {"lb_endpoints": [endpoint(&light, 1), endpoint(&heavy, 3)]},
            ]},
        }))
        .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for _ in 0..40 {
        assert_eq!(client.get("/").status, 200);
    }
    let counts = [light.log().requests.len(), heavy.log().requests.len()];
    assert_eq!(counts, [10, 30]);
    drop(client);
    proxy.stop();
}

#[test]
fn unhealthy_and_draining_endpoints_are_left_out() {
    let [good, bad, leaving] = three();
    let endpoint = |origin: &Origin, health: &str| json!({"endpoint": {"address": origin.address().to_json()}, "health_status": health});
    let config = Config::new()
        .raw_cluster(json!({
            "name": "origin",
            "type": "STATIC",
            "connect_timeout": "5s",
            "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [
                endpoint(&good, "HEALTHY"),
                endpoint(&bad, "UNHEALTHY"),
                endpoint(&leaving, "DRAINING"),
            ]}]},
        }))
        .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for _ in 0..10 {
        assert_eq!(client.get("/").status, 200);
    }
    let counts = [&good, &bad, &leaving].map(|origin| origin.log().requests.len());
    assert_eq!(counts, [10, 0, 0]);
    drop(client);
    proxy.stop();
}

/// A cluster that finds its endpoint by name.
fn by_name(kind: &str, name: &str, port: u16) -> Value {
    json!({
        "name": "origin",
        "type": kind,
        "connect_timeout": "5s",
        "dns_lookup_family": "V4_ONLY",
        "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [{
            "endpoint": {"address": {"socket_address": {"address": name, "port_value": port}}},
        }]}]},
    })
}

#[test]
fn names_are_resolved_before_anything_is_served() {
    for kind in ["STRICT_DNS", "LOGICAL_DNS"] {
        let origin = Origin::ok();
        let port = origin.address().tcp().port();
        let config = Config::new()
            .raw_cluster(by_name(kind, "localhost", port))
            .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}));
        let proxy = Proxy::start(&config);
        let mut client = proxy.client();
        for _ in 0..3 {
            assert_eq!(client.get("/").status, 200, "{kind}");
        }
        let clusters = proxy.admin_get("/clusters").text();
        assert!(clusters.contains(&format!("origin::127.0.0.1:{port}::")), "{clusters}");
        assert_eq!(proxy.stat("cluster.origin.membership_total"), 1);
        drop(client);
        proxy.stop();
    }
}

#[test]
fn auto_host_rewrite_uses_the_name() {
    let origin = Origin::ok();
    let config = Config::new()
        .raw_cluster(by_name("STRICT_DNS", "localhost", origin.address().tcp().port()))
        .route(json!({
            "match": {"prefix": "/"},
            "route": {"cluster": "origin", "auto_host_rewrite": true},
        }));
    let proxy = Proxy::start(&config);
    assert_eq!(proxy.client().get("/").status, 200);
    assert_eq!(origin.only_request().headers.get("host"), Some("localhost"));
    proxy.stop();
}

#[test]
fn a_cluster_without_endpoints_is_503() {
    let config = Config::new()
        .cluster("origin", &[])
        .route(json!({"match": {"prefix": "/"}, "route": {"cluster": "origin"}}));
    let proxy = Proxy::start(&config);
    let response = proxy.client().get("/");
    assert_eq!((response.status, response.text().as_str()), (503, "no healthy upstream"));
    proxy.stop();
}

#[test]
fn weighted_clusters_are_chosen_by_weight() {
    let [first, second, never] = three();
    let config = Config::new()
        .cluster("first", &[first.address()])
        .cluster("second", &[second.address()])
        .cluster("never", &[never.address()])
        .route(json!({"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "first", "weight": 75},
            {"name": "second", "weight": 25},
            {"name": "never", "weight": 0},
        ]}}}));
    let proxy = Proxy::start(&config);
    let mut client = proxy.client();
    for _ in 0..400 {
        assert_eq!(client.get("/").status, 200);
    }
    let counts = [&first, &second, &never].map(|origin| origin.log().requests.len());
    // 300 and 100, with a standard deviation of 8.7: six of those.
    assert!((248..=352).contains(&counts[0]), "{counts:?}");
    assert_eq!((counts[0] + counts[1], counts[2]), (400, 0));
    drop(client);
    proxy.stop();
}
