//! Starts while no management server answers (`engine.config_cache`). Outrigger's own: Envoy has none.

use std::fs;
use std::path::Path;
use std::time::Instant;

use outrigger_tests::config::TCP_PROXY;
use outrigger_tests::control_plane::{
    CDS, ECDS, EDS, LDS, RDS, Variant, World, ads, aggregated, assignment, eds_cluster,
    http_listener, rds, route_table, to_cluster,
};
use outrigger_tests::process::Scratch;
use outrigger_tests::proxy::Launch;
use outrigger_tests::{Client, Config, ControlPlane, Origin, Proxy, eventually};
use serde_json::{Value, json};

use crate::hand_over::{expect_end, succeed, upgradable};

use super::filters::{fault, listener, proxy_to};
use super::reconnect::saying;
use super::{BOTH, await_answer, await_listener, is_envoy, launch, named_origin};

/// Two clusters that have their endpoints from the server, and a route to each.
fn world(a: &Origin, b: &Origin) -> World {
    let mut world = World::default();
    world.put(CDS, eds_cluster("a", ads())).put(EDS, assignment("a", &[a.address()]));
    world.put(CDS, eds_cluster("b", ads())).put(EDS, assignment("b", &[b.address()]));
    world.put(LDS, http_listener("main", &rds("routes", ads())));
    let routes = json!([
        {"match": {"prefix": "/b"}, "route": {"cluster": "b"}},
        to_cluster("a"),
    ]);
    world.put(RDS, route_table("routes", routes));
    world
}

/// A server with its world, and a configuration for proxies that keep what they hear from it.
struct Scene {
    server: ControlPlane,
    world: World,
    config: Config,
    _origins: [Origin; 2],
    _files: Scratch,
}

impl Scene {
    /// With more about the file.
    fn new(variant: Variant, more: Value) -> Scene {
        let files = Scratch::new();
        let origins = [named_origin("a"), named_origin("b")];
        let server = ControlPlane::python().listening(json!({}));
        let world = world(&origins[0], &origins[1]);
        let config = aggregated(server.address(), variant);
        let config = kept_in(config, &files.file("cache"), more);
        Scene { server, world, config, _origins: origins, _files: files }
    }
}

fn kept_in(config: Config, path: &Path, more: Value) -> Config {
    let mut cache = more;
    cache["path"] = path.to_str().unwrap().into();
    config.engine(json!({ "config_cache": cache }))
}

#[track_caller]
fn expect_origin(proxy: &Proxy, target: &str, origin: &str) {
    await_answer(proxy, "main", target, origin, |response| {
        response.header("x-origin") == Some(origin)
    });
}

/// A process that hears from its server, and keeps what it heard.
#[track_caller]
fn fill(config: &Config) {
    let first = launch(config).start();
    expect_origin(&first, "/b", "b");
    assert_eq!(first.stat("config.from_cache"), 0);
    first.await_stat("config.cache_write", |count| count >= 1);
    assert!(first.stat("config.cache_bytes") > 0);
    first.stop();
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn a_start_without_a_server_goes_on_with_what_was_there() {
    if is_envoy() {
        return;
    }
    for variant in BOTH {
        let Scene { server, world, config, .. } = &mut Scene::new(variant, json!({}));
        world.publish(server);
        fill(config);
        server.stop();
        let second = launch(config).start();
        expect_origin(&second, "/", "a");
        expect_origin(&second, "/b", "b");
        assert_eq!(second.stat("config.from_cache"), 1);

        // What has changed meanwhile counts as soon as a server is there, and what has gone goes.
        server.restart();
        let all_to_a = json!([
            {"match": {"prefix": "/b"}, "route": {"cluster": "a"}},
            to_cluster("a"),
        ]);
        world.put(RDS, route_table("routes", all_to_a));
        world.remove(CDS, "b").remove(EDS, "b");
        world.publish(server);
        expect_origin(&second, "/b", "a");
        second.expect_stat("config.from_cache", 0);
        second.expect_stat("cluster_manager.active_clusters", 2);
        expect_origin(&second, "/", "a");
        second.stop();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn a_server_that_says_nothing_is_as_good_as_none() {
    if is_envoy() {
        return;
    }
    for variant in BOTH {
        let more = json!({"wait_ms": 100});
        let Scene { server, world, config, .. } = &mut Scene::new(variant, more);
        world.publish(server);
        fill(config);
        server.hold(&[CDS, EDS, LDS, RDS]);
        let second = launch(config).start();
        expect_origin(&second, "/b", "b");
        assert_eq!(second.stat("config.from_cache"), 1);
        server.release(&[CDS, EDS, LDS, RDS]);
        second.expect_stat("config.from_cache", 0);
        expect_origin(&second, "/b", "b");
        assert_eq!(second.stat("cluster_manager.cluster_removed"), 0);
        second.stop();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn filters_by_name_are_kept_as_well() {
    if is_envoy() {
        return;
    }
    for variant in BOTH {
        let Scene { server, world, config, .. } = &mut Scene::new(variant, json!({}));
        // One of HTTP, and the last of a filter chain.
        let more = json!({"default_config": fault(503)});
        world.put(LDS, listener(ads(), &more));
        world.put(ECDS, json!({"name": "ext", "typed_config": fault(418)}));
        let mut tcp = http_listener("tcp", &json!({}));
        tcp["filter_chains"][0]["filters"] = json!([{"name": "last", "config_discovery": {
            "config_source": ads(), "type_urls": [TCP_PROXY],
        }}]);
        world.put(LDS, tcp).put(ECDS, json!({"name": "last", "typed_config": proxy_to("b")}));
        world.publish(server);
        let expect_both = |proxy: &Proxy| {
            await_answer(proxy, "main", "/", "418", |response| response.status == 418);
            let mut client = Client::connect(&await_listener(proxy, "tcp"));
            assert_eq!(client.get("/").header("x-origin"), Some("b"));
        };
        let first = launch(config).start();
        expect_both(&first);
        first.stop();
        server.stop();
        let second = launch(config).start();
        expect_both(&second);
        assert_eq!(second.stat("config.from_cache"), 1);
        // A server's word counts again as soon as there is one.
        server.restart();
        world.put(ECDS, json!({"name": "ext", "typed_config": fault(404)}));
        world.publish(server);
        await_answer(&second, "main", "/", "404", |response| response.status == 404);
        second.expect_stat("config.from_cache", 0);
        second.stop();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn a_flood_of_changes_is_written_seldom_and_the_last_of_it_always() {
    if is_envoy() {
        return;
    }
    for variant in BOTH {
        let Scene { server, world, config, .. } = &mut Scene::new(variant, json!({}));
        world.publish(server);
        let began = Instant::now();
        let first = launch(config).start();
        for round in 1..=200 {
            world.put(RDS, saying(&format!("round {round}")));
            world.publish(server);
        }
        await_answer(&first, "main", "/", "the last", |response| response.text() == "round 200");
        first.await_stat("config.cache_write", |count| count >= 1);
        let writes = first.stat("config.cache_write");
        assert!(writes <= 1 + began.elapsed().as_secs() / 5, "{writes} writes");
        // What is not written yet is at the end.
        first.stop();
        server.stop();
        let second = launch(config).start();
        await_answer(&second, "main", "/", "the last", |response| response.text() == "round 200");
        assert_eq!(second.stat("config.from_cache"), 1);
        second.stop();
    }
}

#[test]
fn a_file_that_is_of_no_use_is_told() {
    if is_envoy() {
        return;
    }
    let files = Scratch::new();
    let path = files.file("cache");
    fs::write(&path, "something else").unwrap();
    let (_socket, refusing) = outrigger_tests::origin::refusing();
    let config = aggregated(&refusing, BOTH[0]);
    let mut proxy = launch(&kept_in(config, &path, json!({}))).begin();
    proxy.await_stat("cluster.xds.upstream_cx_connect_fail", |count| count >= 2);
    assert!(!proxy.is_ready());
    let log = proxy.process().stderr();
    assert!(log.contains("is of no use: is not a cache of a configuration"), "{log}");
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn only_the_process_that_serves_writes_the_file() {
    if is_envoy() {
        return;
    }
    let Scene { server, world, config, _files: files, .. } =
        &mut Scene::new(Variant::Delta, json!({}));
    world.publish(server);
    let path = files.file("cache");
    // Whose node is in the file says who wrote it.
    let node = |id: &str| upgradable(config.clone(), files).with(json!({"node": {"id": id}}));
    let is_of = |id: &str| {
        let content = fs::read(&path).unwrap_or_default();
        content.windows(id.len()).any(|part| part == id.as_bytes())
    };
    let first = Launch::outrigger(&node("the-first")).arguments(&["--drain-time-s", "60"]).start();
    expect_origin(&first, "/b", "b");
    eventually("the first's file", || is_of("the-first").then_some(()));
    // A request whose end is still to come keeps it alive.
    let mut held = Client::connect(&await_listener(&first, "main"));
    held.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    first.expect_stat("http.main.downstream_rq_active", 1);
    let second = succeed(&node("the-second"), 1);
    eventually("the second's file", || is_of("the-second").then_some(()));
    let mut change = |target: &str| {
        let from = server.mark();
        let route = json!({"match": {"path": target}, "route": {"cluster": "b"}});
        world.put(RDS, route_table("routes", json!([route, to_cluster("a")])));
        world.publish(server);
        for id in ["the-first", "the-second"] {
            server.await_event("an ACK", from, |event| event.client == id && event.is_ack(RDS));
        }
    };
    // The first could write earlier what both are told, since its last write is longer ago.
    change("/one");
    let written = second.stat("config.cache_write");
    eventually("another write of the second", || {
        assert!(is_of("the-second"));
        (second.stat("config.cache_write") > written).then_some(())
    });
    // Nor does it at its end what the second has not written yet.
    change("/two");
    held.send("x");
    assert_eq!(held.response().status, 200);
    expect_end(first);
    assert!(is_of("the-second"));
    second.stop();
}
