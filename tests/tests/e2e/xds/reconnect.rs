//! Servers that come, go and come back, and the ways to reach them (rules F, and what C, S, D and T
//! say of new streams).

use outrigger_tests::config::transport_socket;
use outrigger_tests::control_plane::{
    CDS, EDS, Event, LDS, RDS, SDS, Variant, WRAPPER, World, ads, aggregated, eds_cluster,
    http_listener, own_stream, rds, route_table, server_cluster, static_cluster, to_cluster,
};
use outrigger_tests::process::Scratch;
use outrigger_tests::tls::{self, Authority, Identity, Subject};
use outrigger_tests::{Address, Client, ControlPlane, Proxy, eventually, origin};
use serde_json::{Value, json};

use super::protocol::bad_cluster;
use super::{BOTH, Scene, await_answer, await_listener, is_envoy, launch, named_origin};

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn f01_a_dead_server_takes_nothing_away_and_a_new_stream_goes_on() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.add_b();
        scene.publish();
        scene.expect_origin("/b", "b");
        let mut client = Client::connect(&await_listener(&scene.proxy, "main"));
        client.get("/");
        let connections = scene.a.log().accepted;
        scene.proxy.expect_stat("control_plane.connected_state", 1);

        scene.server.stop();
        scene.proxy.expect_stat("control_plane.connected_state", 0);
        scene.expect_origin("/", "a");
        scene.expect_origin("/b", "b");
        let from = scene.server.mark();
        scene.server.restart();
        scene.proxy.expect_stat("control_plane.connected_state", 1);

        for kind in [CDS, EDS, LDS, RDS] {
            let first =
                scene.server.await_event("a first request", from, |event| event.is_request(kind));
            // C-03
            assert_eq!(first.nonce, "", "{first:?}");
            let held = match kind {
                CDS | EDS => vec!["a", "b"],
                LDS => vec!["main"],
                _ => vec!["routes"],
            };
            match variant {
                Variant::Sotw => {
                    // S-02
                    let version = if kind == LDS { "v1" } else { "v2" };
                    assert_eq!(first.version, version);
                    let wildcard = [CDS, LDS].contains(&kind);
                    assert_eq!(sorted(&first.names), if wildcard { vec![] } else { held });
                }
                Variant::Delta => {
                    // D-01
                    assert_eq!(first.initial.keys().collect::<Vec<_>>(), held);
                    assert!(first.initial.values().all(|version| version.len() == 12));
                    if ![CDS, LDS].contains(&kind) {
                        assert_eq!(sorted(&first.subscribe), held);
                    }
                }
            }
        }
        let events = &scene.server.events()[from..];
        let node = events.iter().find(|event| event.kind == "request").unwrap();
        assert!(node.node.is_some(), "C-01: {node:?}");
        // Nothing was built anew.
        assert_eq!(client.get("/").header("x-origin"), Some("a"));
        assert_eq!(scene.a.log().accepted, connections);
        assert_eq!(scene.proxy.stat("listener_manager.listener_modified"), 0);
        assert_eq!(scene.proxy.stat("cluster_manager.cluster_modified"), 0);
        // And the new stream is heard.
        scene.world.put(RDS, route_table("routes", json!([to_cluster("b")])));
        scene.publish();
        scene.expect_origin("/", "b");
    }
}

fn sorted(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
#[ignore = "needs controlplane-peer, which .ci/run installs"]
fn go_control_plane_is_taken_up_again_after_a_restart() {
    for variant in BOTH {
        let mut server = ControlPlane::go().listening(json!({}));
        let origin = named_origin("a");
        let mut world = World::default();
        world.put(CDS, static_cluster("a", &[origin.address()]));
        world.put(LDS, http_listener("main", &rds("routes", ads())));
        world.put(RDS, route_table("routes", json!([to_cluster("a")])));
        world.publish(&mut server);
        let proxy = launch(&aggregated(server.address(), variant)).start();
        await_origin(&proxy, "main", "a");
        for target in ["/first", "/second"] {
            server.stop();
            proxy.expect_stat("control_plane.connected_state", 0);
            await_origin(&proxy, "main", "a");
            // It learns something while it is away.
            let redirect =
                json!([{"match": {"path": target}, "redirect": {"path_redirect": "/x"}}]);
            world.put(RDS, route_table("routes", redirect));
            world.publish(&mut server);
            server.restart();
            await_answer(&proxy, "main", target, "301", |response| response.status == 301);
            world.put(RDS, route_table("routes", json!([to_cluster("a")])));
            world.publish(&mut server);
            await_origin(&proxy, "main", "a");
        }
    }
}

#[track_caller]
fn await_origin(proxy: &Proxy, listener: &str, name: &str) {
    await_answer(proxy, listener, "/", name, |response| response.header("x-origin") == Some(name));
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d12_what_was_refused_is_asked_for_again() {
    let mut scene = Scene::start(Variant::Delta);
    scene.server.hold_all();
    let good = static_cluster("c", &[scene.b.address()]);
    let nonce = scene.send(CDS, "good", &[good]);
    assert_eq!(scene.server.await_answer(CDS, &nonce).error, None);
    let nonce = scene.send(CDS, "bad", &[bad_cluster("c"), bad_cluster("new")]);
    assert!(scene.server.await_answer(CDS, &nonce).error.is_some());
    let from = scene.server.mark();
    scene.server.command("close", &json!({"type": CDS}));
    let first = scene.server.await_event("a new stream", from, |event| event.is_request(CDS));
    assert_eq!(first.initial.get("c").map(String::as_str), Some("good"));
    assert_eq!(first.initial.get("new"), None);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn f05_however_a_stream_ends_there_is_a_new_one() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        for (number, status) in
            ["OK", "UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED", "UNIMPLEMENTED"]
                .iter()
                .enumerate()
        {
            let from = scene.server.mark();
            scene
                .server
                .command("close", &json!({"type": CDS, "status": status, "details": "test"}));
            scene.server.await_event("a new stream", from, |event| event.is_request(RDS));
            let to = if number % 2 == 0 { "/x" } else { "/y" };
            scene.world.put(
                RDS,
                route_table(
                    "routes",
                    json!([
                        {"match": {"prefix": "/"}, "redirect": {"path_redirect": to}},
                    ]),
                ),
            );
            scene.publish();
            await_answer(&scene.proxy, "main", "/", status, |response| {
                response.header("location").is_some_and(|location| location.ends_with(to))
            });
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w03_a_server_that_comes_late_is_awaited() {
    for variant in BOTH {
        // A port that is free again.
        let (socket, address) = origin::refusing();
        let proxy = launch(&aggregated(&address, variant)).begin();
        proxy.await_stat("cluster.xds.upstream_cx_connect_fail", |count| count >= 2);
        assert!(!proxy.is_ready());
        drop(socket);
        let mut server = ControlPlane::python().listening_on(&address, json!({}));
        let origin = named_origin("a");
        let mut world = World::default();
        world.put(CDS, static_cluster("a", &[origin.address()]));
        world.put(LDS, http_listener("main", &rds("routes", ads())));
        world.put(RDS, route_table("routes", json!([to_cluster("a")])));
        world.publish(&mut server);
        eventually("/ready", || proxy.is_ready().then_some(()));
        await_origin(&proxy, "main", "a");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn f03_the_second_server_is_asked_when_the_first_does_not_answer() {
    if is_envoy() {
        // It can, but not unless a runtime guard says so.
        return;
    }
    for variant in BOTH {
        let (_socket, refusing) = origin::refusing();
        let mut first = ControlPlane::python().listening(json!({}));
        let mut second = ControlPlane::python().listening(json!({}));
        let origin = named_origin("a");
        let mut world = World::default();
        world.put(CDS, static_cluster("a", &[origin.address()]));
        world.put(LDS, http_listener("main", &rds("routes", ads())));
        world.put(RDS, route_table("routes", json!([to_cluster("a")])));
        world.clone().publish(&mut first);
        world.publish(&mut second);
        let service = |cluster: &str| {
            json!({"envoy_grpc": {"cluster_name": cluster, "retry_policy": {
                "retry_back_off": {"base_interval": "0.05s", "max_interval": "0.2s"},
            }}})
        };
        let config = aggregated(&refusing, variant)
            .raw_cluster(server_cluster("first", first.address()))
            .raw_cluster(server_cluster("second", second.address()))
            .with(json!({"dynamic_resources": {"ads_config": {
                "grpc_services": [service("xds"), service("first"), service("second")],
            }}}));
        let proxy = launch(&config).start();
        await_origin(&proxy, "main", "a");
        assert_eq!(second.events().len(), 0);
        first.stop();
        second.await_event("a stream", 0, |event| event.is_request(RDS));
        world.put(
            RDS,
            route_table(
                "routes",
                json!([
                    {"match": {"prefix": "/"}, "redirect": {"path_redirect": "/second"}},
                ]),
            ),
        );
        world.publish(&mut second);
        await_answer(&proxy, "main", "/", "301", |response| response.status == 301);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn f04_a_half_open_connection_is_noticed() {
    for variant in BOTH {
        let keepalive = json!({"connection_keepalive": {"interval": "0.2s", "timeout": "0.2s"}});
        let mut scene = Scene::tuned(variant, json!({"through_relay": true}), |config| {
            config.tune_cluster(outrigger_tests::config::http2_upstream(&keepalive))
        });
        let from = scene.server.mark();
        scene.server.command("hurt", &json!({"stall": true}));
        scene.proxy.expect_stat("control_plane.connected_state", 0);
        scene.expect_origin("/", "a");
        scene.server.command("hurt", &json!({"stall": false}));
        scene.server.await_event("a new stream", from, |event| event.is_request(RDS));
        scene.world.put(CDS, static_cluster("b", &[scene.b.address()]));
        scene.world.put(RDS, route_table("routes", json!([to_cluster("b")])));
        scene.publish();
        scene.expect_origin("/", "b");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn t05_lifetimes_go_on_without_a_server() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let mut cluster = static_cluster("b", &[scene.b.address()]);
        cluster["@type"] = CDS.into();
        let wrapper = json!({"name": "b", "version": "1", "ttl": "1s", "resource": cluster});
        let mut response = scene.response(CDS, "ttl", &[eds_cluster("a", ads())]);
        let wrapper = match variant {
            Variant::Sotw => {
                let mut typed = wrapper;
                typed["@type"] = WRAPPER.into();
                typed
            }
            Variant::Delta => wrapper,
        };
        response["resources"].as_array_mut().unwrap().push(wrapper);
        let nonce = scene.server.send(CDS, response);
        scene.server.await_answer(CDS, &nonce);
        scene.send(RDS, "ttl", &[route_table("routes", json!([to_cluster("b")]))]);
        scene.expect_origin("/", "b");
        scene.server.stop();
        scene.expect_status("/", 503);
    }
}

/// What all tests of connections need: a listener that answers by itself.
fn simple_world() -> World {
    let mut world = World::default();
    world.put(CDS, static_cluster("none", &[]));
    world.put(LDS, http_listener("main", &json!({"route_config": {"virtual_hosts": [{
        "name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "direct_response": {
            "status": 200, "body": {"inline_string": "from the server"},
        }}],
    }]}})));
    world
}

#[test]
#[ignore = "needs xds-python and controlplane-peer, which .ci/run installs"]
fn servers_on_unix_sockets() {
    for variant in BOTH {
        for python in [true, false] {
            let directory = Scratch::new();
            let address = Address::Unix(directory.file("xds"));
            let server = if python { ControlPlane::python() } else { ControlPlane::go() };
            let mut server = server.listening_on(&address, json!({}));
            simple_world().publish(&mut server);
            let proxy = launch(&aggregated(&address, variant)).start();
            let response = Client::connect(proxy.listener("main")).get("/");
            assert_eq!(response.text(), "from the server");
        }
    }
}

#[test]
#[ignore = "needs xds-python and controlplane-peer, which .ci/run installs"]
fn servers_with_tls_that_is_verified() {
    let authority = Authority::new("Outrigger tests");
    let identity = authority.issue(Subject::dns(&["xds.test"]));
    let options = json!({"certificate": identity.chain, "key": identity.key});
    for variant in BOTH {
        for python in [true, false] {
            let server = if python { ControlPlane::python() } else { ControlPlane::go() };
            let mut server = server.listening(options.clone());
            simple_world().publish(&mut server);
            let config = |name: &str| {
                let context = json!({
                    "sni": "xds.test",
                    "common_tls_context": {"alpn_protocols": ["h2"], "validation_context": {
                        "trusted_ca": {"inline_string": authority.pem()},
                        "match_typed_subject_alt_names": [
                            {"san_type": "DNS", "matcher": {"exact": name}},
                        ],
                    }},
                });
                aggregated(server.address(), variant).tune_cluster(
                    json!({"transport_socket": transport_socket(tls::UPSTREAM, context)}),
                )
            };
            let (good, bad) = (config("xds.test"), config("other.test"));
            let proxy = launch(&good).start();
            assert_eq!(Client::connect(proxy.listener("main")).get("/").text(), "from the server");
            for (name, count) in [
                ("ssl.handshake", 1),
                ("ssl.versions.TLSv1.2", 1),
                ("ssl.connection_error", 0),
                ("ssl.fail_verify_san", 0),
                ("upstream_cx_total", 1),
                ("upstream_cx_http2_total", 1),
                ("upstream_cx_active", 1),
                ("upstream_cx_connect_fail", 0),
                ("upstream_cx_destroy", 0),
                ("upstream_rq_total", 1),
                ("upstream_rq_active", 1),
                ("upstream_rq_pending_active", 0),
                ("upstream_rq_200", 1),
            ] {
                proxy.expect_stat(&format!("cluster.xds.{name}"), count);
            }
            for bytes in ["upstream_cx_rx_bytes_total", "upstream_cx_tx_bytes_total"] {
                assert!(proxy.stat(&format!("cluster.xds.{bytes}")) > 100);
            }
            let from = server.mark();
            let stranger = launch(&bad).begin();
            stranger.await_stat("cluster.xds.upstream_cx_connect_fail", |count| count >= 2);
            stranger.await_stat("cluster.xds.ssl.fail_verify_san", |count| count >= 2);
            stranger.expect_stat("cluster.xds.ssl.handshake", 0);
            stranger.expect_stat("cluster.xds.upstream_rq_total", 0);
            assert!(!stranger.is_ready());
            assert_eq!(server.events()[from..].len(), 0);
            // Killed, it says no farewell, which would let the proxy be the first to close.
            drop(server);
            proxy.await_stat("cluster.xds.upstream_cx_connect_fail", |count| count >= 1);
            for (name, count) in [
                ("upstream_cx_destroy_remote", 1),
                ("upstream_cx_active", 0),
                ("upstream_rq_active", 0),
            ] {
                proxy.expect_stat(&format!("cluster.xds.{name}"), count);
            }
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn streams_carry_initial_metadata() {
    let mut server = ControlPlane::python().listening(json!({}));
    simple_world().publish(&mut server);
    let mut config = aggregated(server.address(), Variant::Delta);
    let mut services = config.json()["dynamic_resources"]["ads_config"]["grpc_services"].clone();
    services[0]["initial_metadata"] = json!([{"key": "x-token", "value": "secret"}]);
    config = config.with(json!({"dynamic_resources": {"ads_config": {"grpc_services": services}}}));
    let _proxy = launch(&config).start();
    let open = &server.events()[0];
    assert_eq!(open.metadata.get("x-token").map(String::as_str), Some("secret"), "{open:?}");
    let method = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
    assert_eq!(open.method, method);
}

/// A table with one route for all, that answers by itself.
pub(super) fn saying(body: &str) -> Value {
    route_table(
        "routes",
        json!([{"match": {"prefix": "/"}, "direct_response": {
            "status": 200, "body": {"inline_string": body},
        }}]),
    )
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn is08_and_is09_secrets_have_streams_of_their_own() {
    let authority = Authority::new("Outrigger tests");
    let [good, next, bad] =
        ["good", "next", "bad"].map(|name| authority.issue(Subject::dns(&[name])));
    // As the agent of a sidecar: a stream of delta for all, and of the state of the world for each
    // secret, from another server.
    let mut server = ControlPlane::python().listening(json!({}));
    let mut agent = ControlPlane::python().listening(json!({}));
    agent.hold_all();
    let mut source = own_stream(Variant::Sotw);
    source["api_config_source"]["grpc_services"][0]["envoy_grpc"]["cluster_name"] = "agent".into();
    source["initial_fetch_timeout"] = "0s".into();
    let mut world = World::default();
    world.put(CDS, static_cluster("none", &[]));
    for name in ["good", "bad"] {
        let context = json!({"common_tls_context": {"tls_certificate_sds_secret_configs": [
            {"name": name, "sds_config": source},
        ]}});
        let mut listener = simple_world().get(LDS, "main").clone();
        listener["name"] = name.into();
        listener["filter_chains"][0]["transport_socket"] =
            transport_socket(tls::DOWNSTREAM, context);
        world.put(LDS, listener);
    }
    world.publish(&mut server);
    let config = aggregated(server.address(), Variant::Delta)
        .raw_cluster(server_cluster("agent", agent.address()));
    let proxy = launch(&config).begin();

    let asked_for =
        |name: &'static str| move |event: &Event| event.is_request(SDS) && event.names == [name];
    let good_stream = agent.await_event("a request", 0, asked_for("good")).stream;
    let bad_stream = agent.await_event("a request", 0, asked_for("bad")).stream;
    assert_ne!(good_stream, bad_stream);
    let secret = |agent: &mut ControlPlane, stream: u64, name: &str, identity: &Identity| {
        let secret = json!({"name": name, "@type": SDS, "tls_certificate": identity.to_json()});
        let response = json!({"version_info": name, "resources": [secret]});
        agent.command("send", &json!({"type": SDS, "stream": stream, "response": response}));
    };
    secret(&mut agent, good_stream, "good", &good);
    // What cannot be had fails its own stream, again and again.
    let mut from = 0;
    for _ in 0..3 {
        let stream = agent.await_event("a request", from, asked_for("bad")).stream;
        from = agent.mark();
        let close = json!({"stream": stream, "status": "UNAVAILABLE", "details": "no such secret"});
        agent.command("close", &close);
    }
    let await_certificate = |name: &str, identity: &Identity| {
        eventually(name, || {
            let address = proxy.current_listener(name)?;
            let mut client = Client::try_secure(&address, &tls::client(&[]), "test").ok()?;
            let is_it = client.stream().agreed().certificate.as_ref() == Some(&identity.leaf);
            is_it.then(|| client.get("/"))
        })
    };
    if !is_envoy() {
        // Whose first listeners wait for each other.
        assert_eq!(await_certificate("good", &good).text(), "from the server");
    }
    secret(&mut agent, good_stream, "good", &next);
    let stream = agent.await_event("a request", from, asked_for("bad")).stream;
    secret(&mut agent, stream, "bad", &bad);
    assert_eq!(await_certificate("good", &next).text(), "from the server");
    assert_eq!(await_certificate("bad", &bad).text(), "from the server");
    assert_eq!(
        agent
            .events()
            .iter()
            .filter(|event| event.stream == good_stream && event.kind == "close")
            .count(),
        0
    );
}
