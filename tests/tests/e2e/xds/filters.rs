//! Filters that come by name: ECDS (rules W-07, W-10, V-03, T-04, D-14), of HTTP and of connections.

use outrigger_tests::config::{CORS, FAULT, HTTP_CONNECTION_MANAGER, ROUTER, TCP_PROXY};
use outrigger_tests::control_plane::{
    CDS, ECDS, EDS, LDS, RDS, Variant, World, ads, aggregated, assignment, eds_cluster,
    http_listener, own_stream, rds, route_table, to_cluster,
};
use outrigger_tests::{Address, Client, ControlPlane, eventually};
use serde_json::{Value, json};

use super::{BOTH, Scene, await_listener, is_envoy, launch, named_origin};

/// A listener `main` with a filter `ext` before the router, which comes from that source.
pub(super) fn listener(source: Value, more: &Value) -> Value {
    let mut discovery = json!({"config_source": source, "type_urls": [FAULT]});
    discovery.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let mut listener = http_listener("main", &rds("routes", ads()));
    let filters = &mut listener["filter_chains"][0]["filters"][0]["typed_config"]["http_filters"];
    filters
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"name": "ext", "config_discovery": discovery}));
    listener
}

/// A source whose answers are waited for.
fn patient(mut source: Value) -> Value {
    source["initial_fetch_timeout"] = "0s".into();
    source
}

/// A configuration that answers everything with this status; 0: that does nothing.
pub(super) fn fault(status: u16) -> Value {
    let mut config = json!({"@type": FAULT});
    if status > 0 {
        config["abort"] = json!({"http_status": status, "percentage": {"numerator": 100}});
    }
    config
}

fn extension(config: Value) -> Value {
    json!({"name": "ext", "typed_config": config})
}

/// A proxy whose listener `main` is that one, and which has all but what is held back.
fn scene(variant: Variant, listener: Value, held: &[&str], first: Option<Value>) -> Scene {
    let mut server = ControlPlane::python().listening(json!({}));
    server.hold(held);
    let (a, b) = (named_origin("a"), named_origin("b"));
    let mut world = World::default();
    world.put(CDS, eds_cluster("a", ads())).put(EDS, assignment("a", &[a.address()]));
    world.put(LDS, listener).put(RDS, route_table("routes", json!([to_cluster("a")])));
    if let Some(config) = first {
        world.put(ECDS, extension(config));
    }
    world.publish(&mut server);
    let proxy = launch(&aggregated(server.address(), variant)).begin();
    Scene { server, world, proxy, a, b, variant }
}

/// Whether a connection is closed without an answer.
fn is_closed(address: &Address) -> bool {
    let mut client = Client::connect(address);
    let _ = client.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    client.try_response().is_err()
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_a_listener_waits_for_its_filters_and_changes_with_them() {
    for variant in BOTH {
        for source in [ads(), own_stream(variant)] {
            let wanted = listener(patient(source), &json!({}));
            let mut scene = scene(variant, wanted, &[ECDS], Some(fault(0)));
            let asked = scene.server.await_event("a filter", 0, |event| event.is_request(ECDS));
            let names = if variant == Variant::Sotw { &asked.names } else { &asked.subscribe };
            assert_eq!(*names, ["ext"]);
            scene.proxy.expect_stat("listener_manager.total_listeners_warming", 1);
            assert_eq!(scene.proxy.stat("listener_manager.total_listeners_active"), 0);
            let cold = scene.proxy.admin_get("/init_dump").text();
            assert!(cold.contains("listener main: filter ext"), "{cold}");
            scene.server.release(&[ECDS]);
            scene.expect_origin("/", "a");
            let mut client = Client::connect(&await_listener(&scene.proxy, "main"));
            assert_eq!(client.get("/").status, 200);
            // A change is for the next request, on any connection.
            scene.world.put(ECDS, extension(fault(418)));
            scene.publish();
            scene.expect_status("/", 418);
            assert_eq!(client.get("/").status, 418);
            // What is refused changes nothing.
            for wrong in [fault(17), json!({"@type": CORS})] {
                let from = scene.server.mark();
                scene.world.put(ECDS, extension(wrong));
                scene.publish();
                let nack = scene.server.await_event("a NACK", from, |event| event.is_nack(ECDS));
                let (_, text) = nack.error.unwrap();
                assert!(text.contains("TypedExtensionConfig ext: typed_config"), "{text}");
                assert_eq!(client.get("/").status, 418);
            }
            let dump = scene.proxy.admin_get("/config_dump?resource=ecds_filters").text();
            let dump: Value = serde_json::from_str(&dump).unwrap();
            let [shown] = &dump["configs"].as_array().unwrap()[..] else { panic!("{dump}") };
            assert_eq!(shown["client_status"], "NACKED");
            let config = &shown["ecds_filter"]["typed_config"];
            assert_eq!(config["abort"]["http_status"], 418, "{dump}");
            scene.world.put(ECDS, extension(fault(0)));
            scene.publish();
            scene.expect_origin("/", "a");
            assert_eq!(client.get("/").status, 200);
            scene.proxy.expect_stat("listener_manager.listener_modified", 0);
            let root = "extension_config_discovery.http_filter.ext";
            assert_eq!(scene.proxy.stat(&format!("{root}.update_rejected")), 2);
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w08_without_a_filter_in_time_its_default_serves_or_nothing_does() {
    for variant in BOTH {
        let mut source = ads();
        source["initial_fetch_timeout"] = "0.1s".into();
        for (more, status) in [(json!({}), 500), (json!({"default_config": fault(503)}), 503)] {
            let wanted = listener(source.clone(), &more);
            let mut scene = scene(variant, wanted, &[ECDS], Some(fault(0)));
            scene.expect_status("/", status);
            scene.proxy.expect_stat("xds.ecds.init_fetch_timeout", 1);
            // What comes late is as good.
            scene.server.release(&[ECDS]);
            scene.expect_origin("/", "a");
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_a_default_may_serve_until_there_is_more() {
    for variant in BOTH {
        let more =
            json!({"default_config": fault(503), "apply_default_config_without_warming": true});
        let wanted = listener(patient(ads()), &more);
        let mut scene = scene(variant, wanted, &[ECDS], Some(fault(418)));
        scene.expect_status("/", 503);
        scene.server.release(&[ECDS]);
        scene.expect_status("/", 418);
        if variant == Variant::Delta {
            // What a server takes away gives way to the default again.
            scene.world.remove(ECDS, "ext");
            scene.publish();
            scene.expect_status("/", 503);
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn t04_without_a_default_nothing_is_left_of_a_filter_that_is_taken_away() {
    let wanted = listener(patient(ads()), &json!({}));
    let mut scene = scene(Variant::Delta, wanted, &[], Some(fault(0)));
    scene.expect_origin("/", "a");
    let mut client = Client::connect(&await_listener(&scene.proxy, "main"));
    assert_eq!(client.get("/").status, 200);
    scene.world.remove(ECDS, "ext");
    scene.publish();
    scene.expect_status("/", 500);
    // Requests of connections that are there, too.
    assert_eq!(client.get("/").status, 500);
    scene.proxy.expect_stat("extension_config_discovery.http_filter.ext.config_reload", 2);
    scene.world.put(ECDS, extension(fault(0)));
    scene.publish();
    scene.expect_origin("/", "a");
    assert_eq!(client.get("/").status, 200);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn v03_a_listener_that_does_not_list_the_type_has_its_default_or_nothing() {
    for variant in BOTH {
        let source = || patient(ads());
        let mut scene = scene(variant, listener(source(), &json!({})), &[], Some(fault(418)));
        scene.expect_status("/", 418);
        let root = "extension_config_discovery.http_filter.ext";
        let others = json!({"type_urls": [CORS]});
        let with_default = json!({"type_urls": [CORS], "default_config": {"@type": CORS}});
        for (more, status, conflicts) in [(&others, 500, 1), (&with_default, 200, 2)] {
            let from = scene.server.mark();
            scene.world.put(LDS, listener(source(), more));
            scene.publish();
            scene.expect_status("/", status);
            scene.server.await_event("an ACK", from, |event| event.is_ack(LDS));
            scene.proxy.expect_stat(&format!("{root}.config_conflict"), conflicts);
        }
        if !is_envoy() {
            let dump = scene.proxy.admin_get("/config_dump?resource=ecds_filters").text();
            assert!(dump.contains("which type_urls of listener main does not list"), "{dump}");
        }
        // What it does not list is refused, and what it lists is taken once nobody else is left.
        let from = scene.server.mark();
        scene.world.put(ECDS, extension(fault(503)));
        scene.publish();
        scene.server.await_event("a NACK", from, |event| event.is_nack(ECDS));
        scene.world.put(LDS, listener(source(), &json!({})));
        scene.publish();
        scene.expect_status("/", 418);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn t04_a_filter_whose_time_is_over_gives_way_to_its_default() {
    for variant in BOTH {
        let wanted = listener(patient(ads()), &json!({"default_config": fault(503)}));
        let mut scene = scene(variant, wanted, &[], Some(fault(418)));
        scene.expect_status("/", 418);
        scene.server.hold_all();
        let mut config = extension(fault(404));
        config["@type"] = ECDS.into();
        let wrapper = json!({"name": "ext", "version": "short", "ttl": "0.3s", "resource": config});
        let mut response = scene.response(ECDS, "short", &[]);
        response["resources"] = match variant {
            Variant::Delta => json!([wrapper]),
            Variant::Sotw => {
                let mut typed = wrapper;
                typed["@type"] = outrigger_tests::control_plane::WRAPPER.into();
                json!([typed])
            }
        };
        let nonce = scene.server.send(ECDS, response);
        assert_eq!(scene.server.await_answer(ECDS, &nonce).error, None);
        scene.expect_status("/", 503);
        scene.proxy.expect_stat("xds.ecds.expired", 1);
    }
}

/// A listener `main` of TCP with a filter `ext` in front of the proxy, which comes from that source.
fn tcp_listener(source: Value) -> Value {
    json!({
        "name": "main",
        "stat_prefix": "main",
        "address": Address::any().to_json(),
        "filter_chains": [{"filters": [
            {"name": "ext", "config_discovery": {
                "config_source": source, "type_urls": ["type.googleapis.com/stats.PluginConfig"],
            }},
            {"name": "tcp", "typed_config": {
                "@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": "a",
            }},
        ]}],
    })
}

/// Metrics of Istio without these.
fn stats(dropped: &[&str]) -> Value {
    let drop = |metric: &&str| json!({"name": metric, "drop": true});
    let metrics: Vec<Value> = dropped.iter().map(drop).collect();
    json!({
        "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
        "type_url": "type.googleapis.com/stats.PluginConfig",
        "value": {"metrics": metrics},
    })
}

/// How many connections were counted in one of Istio's metrics.
fn counted(scene: &Scene, metric: &str) -> u64 {
    let text = scene.proxy.admin_get("/stats/prometheus").text();
    let lines = text.lines().filter(|line| line.starts_with(&format!("istio_{metric}{{")));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()).sum()
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_filters_of_connections_come_by_name_too() {
    const OPENED: &str = "tcp_connections_opened_total";
    const CLOSED: &str = "tcp_connections_closed_total";
    for variant in BOTH {
        let wanted = tcp_listener(patient(ads()));
        let mut scene = scene(variant, wanted, &[ECDS], Some(stats(&[])));
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 1);
        let cold = scene.proxy.admin_get("/init_dump").text();
        assert!(cold.contains("listener main: filter ext"), "{cold}");
        scene.server.release(&[ECDS]);
        let address = await_listener(&scene.proxy, "main");
        let mut first = Client::connect(&address);
        assert_eq!(first.get("/").header("x-origin"), Some("a"));
        eventually("a connection counts", || (counted(&scene, OPENED) == 1).then_some(()));
        // Another version is for connections that begin now, and ends none.
        scene.world.put(ECDS, extension(stats(&[OPENED])));
        scene.publish();
        let mut made = 1;
        eventually("a connection does not count as opened", || {
            made += 1;
            let before = counted(&scene, OPENED);
            let mut client = Client::connect(&address);
            assert_eq!(client.get("/").header("x-origin"), Some("a"));
            (counted(&scene, OPENED) == before).then_some(())
        });
        let opened = counted(&scene, OPENED);
        assert_eq!(first.get("/").header("x-origin"), Some("a"));
        // What is refused changes nothing.
        let from = scene.server.mark();
        scene.world.put(ECDS, extension(json!({"@type": CORS})));
        scene.publish();
        let nack = scene.server.await_event("a NACK", from, |event| event.is_nack(ECDS));
        let (_, text) = nack.error.unwrap();
        assert!(text.contains("TypedExtensionConfig ext: typed_config"), "{text}");
        drop(first);
        eventually("all count as closed", || (counted(&scene, CLOSED) == made).then_some(()));
        assert_eq!(counted(&scene, OPENED), opened);
        scene.proxy.expect_stat("listener_manager.listener_modified", 0);
        let root = "extension_config_discovery.network_filter.ext";
        assert_eq!(scene.proxy.stat(&format!("{root}.update_rejected")), 1);
        assert_eq!(scene.proxy.stat(&format!("{root}.update_success")), 2);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w08_without_a_filter_in_time_connections_are_closed() {
    for variant in BOTH {
        let mut source = ads();
        source["initial_fetch_timeout"] = "0.1s".into();
        let mut scene = scene(variant, tcp_listener(source), &[ECDS], Some(stats(&[])));
        let address = await_listener(&scene.proxy, "main");
        assert!(is_closed(&address));
        scene.proxy.expect_stat("listener.main.network_extension_config_missing", 1);
        // What comes late is as good.
        scene.server.release(&[ECDS]);
        scene.expect_origin("/", "a");
    }
}

/// A listener `main` of which the last filter is `ext`, which comes from that source.
fn by_name(source: Value, more: &Value) -> Value {
    let types = [TCP_PROXY, HTTP_CONNECTION_MANAGER];
    let mut discovery = json!({"config_source": source, "type_urls": types});
    discovery.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({
        "name": "main",
        "stat_prefix": "main",
        "address": Address::any().to_json(),
        "filter_chains": [{"filters": [{"name": "ext", "config_discovery": discovery}]}],
    })
}

/// A proxy of TCP to a cluster.
pub(super) fn proxy_to(cluster: &str) -> Value {
    json!({"@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": cluster})
}

/// A connection manager that has its routes from that source.
fn manager(routes: &Value) -> Value {
    let mut manager = json!({
        "@type": HTTP_CONNECTION_MANAGER,
        "stat_prefix": "main",
        "http_filters": [{"name": "router", "typed_config": {"@type": ROUTER}}],
    });
    manager.as_object_mut().unwrap().extend(routes.as_object().unwrap().clone());
    manager
}

/// A scene with a second cluster `b`, in which the listener ends in what comes by name.
fn scene_by_name(variant: Variant, source: Value, more: &Value) -> Scene {
    let mut scene = scene(variant, by_name(source, more), &[ECDS], Some(proxy_to("a")));
    scene.world.put(CDS, eds_cluster("b", ads())).put(EDS, assignment("b", &[scene.b.address()]));
    scene.publish();
    scene
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_the_last_filter_comes_by_name_and_connections_stay_with_theirs() {
    for variant in BOTH {
        for source in [ads(), own_stream(variant)] {
            let mut scene = scene_by_name(variant, patient(source), &json!({}));
            scene.proxy.expect_stat("listener_manager.total_listeners_warming", 1);
            let cold = scene.proxy.admin_get("/init_dump").text();
            assert!(cold.contains("listener main: filter ext"), "{cold}");
            scene.server.release(&[ECDS]);
            let address = await_listener(&scene.proxy, "main");
            let mut first = Client::connect(&address);
            assert_eq!(first.get("/").header("x-origin"), Some("a"));
            // Another version is for connections that begin now, and ends none.
            scene.world.put(ECDS, extension(proxy_to("b")));
            scene.publish();
            scene.expect_origin("/", "b");
            assert_eq!(first.get("/").header("x-origin"), Some("a"));
            // It may be something else, which waits for what it needs.
            let mut second = Client::connect(&address);
            assert_eq!(second.get("/").header("x-origin"), Some("b"));
            scene.world.put(
                RDS,
                route_table(
                    "routes",
                    json!([{
                        "match": {"prefix": "/"}, "direct_response": {"status": 418},
                    }]),
                ),
            );
            scene.world.put(ECDS, extension(manager(&rds("routes", ads()))));
            scene.publish();
            scene.expect_status("/", 418);
            let mut third = Client::connect(&address);
            assert_eq!(third.get("/").status, 418);
            // What is refused changes nothing.
            for wrong in [json!({"@type": TCP_PROXY}), json!({"@type": CORS})] {
                let from = scene.server.mark();
                scene.world.put(ECDS, extension(wrong));
                scene.publish();
                let nack = scene.server.await_event("a NACK", from, |event| event.is_nack(ECDS));
                let (_, text) = nack.error.unwrap();
                assert!(text.contains("TypedExtensionConfig ext: typed_config"), "{text}");
                assert_eq!(third.get("/").status, 418);
            }
            // Nor do routes that a connection began with go with the manager's successor.
            scene.world.put(ECDS, extension(proxy_to("a")));
            scene.publish();
            scene.expect_origin("/", "a");
            scene.proxy.expect_stat("http.main.downstream_cx_active", 1);
            assert_eq!(third.get("/").status, 418);
            for (client, origin) in [(&mut first, "a"), (&mut second, "b")] {
                assert_eq!(client.get("/").header("x-origin"), Some(origin));
            }
            let root = "extension_config_discovery.network_filter.ext";
            for (name, count) in [
                ("config_reload", 4),
                ("config_fail", 2),
                ("config_conflict", 0),
                ("update_success", 4),
                ("update_rejected", 2),
            ] {
                scene.proxy.expect_stat(&format!("{root}.{name}"), count);
            }
            scene.proxy.expect_stat("listener_manager.listener_modified", 0);
            // W-10: the chain goes with all of its connections, whatever they began with.
            let mut other = by_name(patient(ads()), &json!({}));
            other["filter_chains"][0]["name"] = "other".into();
            scene.world.put(LDS, other);
            scene.publish();
            for client in [&mut first, &mut second, &mut third] {
                client.expect_close();
            }
            scene.expect_origin("/", "a");
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w08_without_a_last_filter_in_time_its_default_serves_or_nothing_does() {
    for variant in BOTH {
        let mut source = ads();
        source["initial_fetch_timeout"] = "0.1s".into();
        let mut scene = scene_by_name(variant, source.clone(), &json!({}));
        let address = await_listener(&scene.proxy, "main");
        assert!(is_closed(&address));
        scene.proxy.expect_stat("listener.main.network_extension_config_missing", 1);
        let root = "extension_config_discovery.network_filter.ext";
        scene.proxy.expect_stat(&format!("{root}.init_fetch_timeout"), 1);
        scene.proxy.expect_stat(&format!("{root}.config_fail"), 1);
        // What comes late is as good.
        scene.server.release(&[ECDS]);
        scene.expect_origin("/", "a");

        let default = json!({"default_config": proxy_to("b")});
        let mut scene = scene_by_name(variant, source, &default);
        scene.expect_origin("/", "b");
        scene.server.release(&[ECDS]);
        scene.expect_origin("/", "a");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn t04_a_last_filter_that_is_taken_away_gives_way_to_its_default() {
    let more = json!({
        "default_config": proxy_to("b"), "apply_default_config_without_warming": true,
    });
    let mut scene = scene_by_name(Variant::Delta, patient(ads()), &more);
    scene.expect_origin("/", "b");
    scene.server.release(&[ECDS]);
    scene.expect_origin("/", "a");
    let mut client = Client::connect(&await_listener(&scene.proxy, "main"));
    assert_eq!(client.get("/").header("x-origin"), Some("a"));
    scene.world.remove(ECDS, "ext");
    scene.publish();
    scene.expect_origin("/", "b");
    assert_eq!(client.get("/").header("x-origin"), Some("a"));
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn t04_without_a_default_connections_that_come_later_are_closed() {
    let mut scene = scene_by_name(Variant::Delta, patient(ads()), &json!({}));
    scene.world.put(ECDS, extension(manager(&rds("routes", ads()))));
    scene.publish();
    scene.server.release(&[ECDS]);
    scene.expect_origin("/", "a");
    let address = await_listener(&scene.proxy, "main");
    let mut first = Client::connect(&address);
    assert_eq!(first.get("/").header("x-origin"), Some("a"));
    scene.world.remove(ECDS, "ext");
    scene.publish();
    eventually("a connection that is closed", || is_closed(&address).then_some(()));
    scene.proxy.expect_stat("listener.main.network_extension_config_missing", 1);
    // One that is there goes on with what it began with, and with its routes.
    assert_eq!(first.get("/").header("x-origin"), Some("a"));
    scene.world.put(ECDS, extension(proxy_to("b")));
    scene.publish();
    scene.expect_origin("/", "b");
    assert_eq!(first.get("/").header("x-origin"), Some("a"));
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_what_a_detection_chooses_comes_by_name() {
    if is_envoy() {
        return;
    }
    let source = json!({"config_source": patient(ads()), "type_urls": [TCP_PROXY]});
    let filter = json!({"name": "ext", "config_discovery": source});
    let mut wanted = by_name(ads(), &json!({}));
    // The server does not know the type.
    wanted["filter_chains"][0]["filters"][0] = json!({"name": "detection", "typed_config": {
        "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
        "type_url": "type.googleapis.com/outrigger.filters.network.protocol_detection.v1.ProtocolDetection",
        "value": {"choices": [{"protocols": ["HTTP1"], "filter": filter}]},
    }});
    let mut scene = scene(Variant::Delta, wanted, &[], Some(proxy_to("a")));
    scene.world.put(CDS, eds_cluster("b", ads())).put(EDS, assignment("b", &[scene.b.address()]));
    scene.publish();
    scene.expect_origin("/", "a");
    let address = await_listener(&scene.proxy, "main");
    let mut first = Client::connect(&address);
    assert_eq!(first.get("/").header("x-origin"), Some("a"));
    scene.world.put(ECDS, extension(proxy_to("b")));
    scene.publish();
    scene.expect_origin("/", "b");
    scene.world.remove(ECDS, "ext");
    scene.publish();
    eventually("a connection that is closed", || is_closed(&address).then_some(()));
    scene.proxy.expect_stat("listener.main.network_extension_config_missing", 1);
    assert_eq!(first.get("/").header("x-origin"), Some("a"));
    scene.proxy.expect_stat("extension_config_discovery.network_filter.ext.config_reload", 3);
}
