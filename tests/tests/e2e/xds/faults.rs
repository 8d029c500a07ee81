//! Servers that break the protocol, and resources that make no sense: a refusal or a new stream, and
//! requests that go on all the while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use outrigger_tests::control_plane::{
    CDS, EDS, LDS, RDS, Variant, ads, assignment, eds_cluster, http_listener, rds, route_table,
    static_cluster, to_cluster,
};
use outrigger_tests::{Client, ControlPlane, Proxy, eventually};
use serde_json::{Value, json};

use super::reconnect::saying;
use super::{BOTH, Scene, await_answer, await_listener, is_envoy, launch, named_origin};

/// Requests that go on beside a test, one after the other with a pause, since it is not about load.
struct Traffic {
    shared: Arc<Shared>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    answered: AtomicU64,
    stopping: AtomicBool,
}

impl Traffic {
    /// On one connection, which is to stay.
    #[track_caller]
    fn start(proxy: &Proxy) -> Traffic {
        let mut client = Client::connect(&await_listener(proxy, "main"));
        let shared = Arc::new(Shared::default());
        let counted = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !counted.stopping.load(Ordering::Relaxed) {
                assert_eq!(client.get("/").status, 200);
                counted.answered.fetch_add(1, Ordering::Relaxed);
                thread::sleep(PACE);
            }
        });
        let traffic = Traffic { shared, thread };
        traffic.goes_on();
        traffic
    }

    #[track_caller]
    fn goes_on(&self) {
        let count = || self.shared.answered.load(Ordering::Relaxed);
        let goal = count() + 10;
        eventually("requests that go on", || (count() >= goal).then_some(()));
    }

    /// All of it was answered.
    #[track_caller]
    fn was_unharmed(self) {
        self.goes_on();
        self.shared.stopping.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

impl Scene {
    /// The server is heard still, or again.
    #[track_caller]
    fn expect_to_hear(&mut self, word: &str) {
        let mut listener = http_listener("heard", &json!({"route_config": saying(word)}));
        listener["name"] = "heard".into();
        self.world.put(LDS, listener);
        self.publish();
        await_answer(&self.proxy, "heard", "/", word, |response| response.text() == word);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn messages_that_are_no_protobuf() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        let traffic = Traffic::start(&scene.proxy);
        let garbage = [
            "ff",                     // A tag that does not end.
            "0a05",                   // A field that is cut.
            "0aff ffffff 0f",         // A field longer than anything.
            "0a02c328",               // A string that is no UTF-8.
            "0b0b0b0b",               // Groups that do not end.
            &"12027a00".repeat(1000), // Resources without a type.
        ];
        for (number, hex) in garbage.iter().enumerate() {
            let hex = hex.replace(' ', "");
            scene.server.command("send", &json!({"type": CDS, "hex": hex}));
            // On this stream or on the next one.
            scene.expect_to_hear(&format!("heard {number}"));
            traffic.goes_on();
        }
        traffic.was_unharmed();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn resources_that_are_no_protobuf() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let traffic = Traffic::start(&scene.proxy);
        // With the way to a field that holds messages of any depth.
        for (kind, name, metadata) in [
            (CDS, "raw", &[25][..]),
            (EDS, "a", &[2, 9]),
            (LDS, "raw", &[6]),
            (RDS, "routes", &[17]),
        ] {
            let mut refused = |type_url: &str, hex: &str| {
                let raw = json!([{"type": type_url, "hex": hex, "name": name, "version": "1"}]);
                let nonce = scene.server.command("send", &json!({"type": kind, "raw": raw}));
                let answer = scene.server.await_answer(kind, nonce[0].as_str().unwrap());
                assert!(answer.error.is_some(), "{kind} {type_url} {hex:.20}");
            };
            for hex in ["ff", "0a05", "0aff", "0a02c328", "0b0b", &nested(metadata, 10_000)] {
                refused(kind, hex);
            }
            refused("", "0a0161");
            refused("type.googleapis.com/no.such.Type", "0a0161");
        }
        traffic.was_unharmed();
        let release = json!({});
        scene.server.command("release", &release);
        scene.expect_to_hear("in the end");
    }
}

/// A resource with a `Struct` within a `Struct` and so on in its metadata, as hexadecimal.
fn nested(metadata: &[usize], depth: usize) -> String {
    let fields = metadata.iter().copied().chain([1, 2]).chain([1, 2, 5].repeat(depth));
    let fields: Vec<usize> = fields.collect();
    // What is inside a field decides its length.
    let mut pieces = Vec::new();
    let mut length = 0;
    for field in fields.into_iter().rev() {
        let mut piece = varint(field << 3 | 2);
        piece.extend(varint(length));
        length += piece.len();
        pieces.push(piece);
    }
    pieces.iter().rev().flatten().map(|byte| format!("{byte:02x}")).collect()
}

fn varint(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while value >= 0x80 {
        bytes.push(u8::try_from(value & 0x7f).unwrap() | 0x80);
        value >>= 7;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn fields_that_nobody_knows() {
    if is_envoy() {
        // It ignores them; U-05.
        return;
    }
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        // A cluster `b` with field 31 of type 2, and one with field 6 of its connect_timeout.
        for (hex, path) in [("0a0162fa070161", "#127"), ("0a0162220232 00", "connect_timeout#6")] {
            let hex = hex.replace(' ', "");
            let raw = json!([{"type": CDS, "hex": hex, "name": "b", "version": "1"}]);
            let nonce = scene.server.command("send", &json!({"type": CDS, "raw": raw}));
            let nonce = nonce[0].as_str().unwrap();
            let (_, message) = scene.server.await_answer(CDS, nonce).error.expect("a refusal");
            assert!(message.contains("Cluster b") && message.contains(path), "{message}");
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn nonces_that_are_wrong() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let traffic = Traffic::start(&scene.proxy);
        let long = "n".repeat(1_000);
        for (number, nonce) in ["same", "same", "1-1", " ", &long].into_iter().enumerate() {
            let from = scene.server.mark();
            let table = route_table(
                "routes",
                json!([
                    {"match": {"path": "/new"}, "redirect": {"path_redirect": format!("/{number}")}},
                    to_cluster("a"),
                ]),
            );
            let mut response = scene.response(RDS, &number.to_string(), &[table]);
            response["nonce"] = nonce.into();
            scene.server.send(RDS, response);
            // C-04: whatever it is, it is given back.
            scene
                .server
                .await_event("an answer", from, |event| event.is_ack(RDS) && event.nonce == nonce);
            await_answer(&scene.proxy, "main", "/new", nonce, |response| {
                response.header("location").is_some_and(|to| to.ends_with(&format!("/{number}")))
            });
        }
        traffic.was_unharmed();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn connections_that_are_cut_inside_a_message() {
    for variant in BOTH {
        let mut scene = Scene::tuned(variant, json!({"through_relay": true}), |config| config);
        let traffic = Traffic::start(&scene.proxy);
        // In a frame's header, in its payload, between frames.
        for (number, cut_after) in [5, 20, 16_400, 50_000].into_iter().enumerate() {
            let from = scene.server.mark();
            scene.server.command("hurt", &json!({"cut_after": cut_after}));
            let mut big = static_cluster(&format!("big {number}"), &[scene.b.address()]);
            let text = "x".repeat(100_000);
            big["metadata"] = json!({"filter_metadata": {"big": {"text": text}}});
            scene.world.put(CDS, big);
            scene.publish();
            scene.server.await_event("a new stream", from, |event| event.is_request(RDS));
            scene.expect_to_hear(&format!("heard {number}"));
            traffic.goes_on();
            let name = format!("big {number}");
            scene.world.put(
                RDS,
                route_table(
                    "routes",
                    json!([
                        {"match": {"path": "/new"}, "route": {"cluster": name}},
                        to_cluster("a"),
                    ]),
                ),
            );
            scene.publish();
            scene.expect_origin("/new", "b");
        }
        traffic.was_unharmed();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn servers_that_refuse_and_stall() {
    for variant in BOTH {
        let mut scene = Scene::tuned(variant, json!({"through_relay": true}), |config| config);
        let traffic = Traffic::start(&scene.proxy);
        // Accepted, and closed at once: again and again.
        scene.server.command("hurt", &json!({"refuse": true, "cut_after": 0}));
        let fails = scene.proxy.stat("cluster.xds.upstream_cx_total");
        scene.proxy.await_stat("cluster.xds.upstream_cx_total", |count| count >= fails + 5);
        traffic.goes_on();
        scene.server.command("hurt", &json!({"refuse": false}));
        scene.expect_to_hear("after refusals");
        // Nothing moves for a while, and then all at once.
        scene.server.command("hurt", &json!({"stall": true}));
        for number in 0..20 {
            scene.world.put(CDS, static_cluster(&format!("stalled {number}"), &[]));
            scene.publish();
        }
        traffic.goes_on();
        scene.server.command("hurt", &json!({"stall": false}));
        scene.expect_to_hear("after the stall");
        traffic.was_unharmed();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn a_flood_of_responses() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let traffic = Traffic::start(&scene.proxy);
        let before = scene.proxy.process().rss();
        let mut routes: Vec<Value> = (0..50)
            .map(|number| {
                let path = format!("/{}/{number}", "x".repeat(1_000));
                json!({"match": {"path": path}, "route": {"cluster": "a"}})
            })
            .collect();
        routes.push(to_cluster("a"));
        let table = route_table("routes", json!(routes));
        let response = scene.response(RDS, "flood", &[table]);
        let words = json!({"type": RDS, "response": response, "times": 600});
        let nonces = scene.server.command("send", &words);
        let last = nonces.as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
        traffic.goes_on();
        assert_eq!(scene.server.await_answer(RDS, &last).error, None);
        let mut peak = scene.proxy.process().rss();
        // And one of refusals, each with a long text.
        let mut bad = route_table("routes", json!(routes));
        bad["virtual_hosts"][0]["routes"][7]["match"] = json!({"safe_regex": {"regex": "("}});
        let response = scene.response(RDS, "flood", &[bad]);
        let words = json!({"type": RDS, "response": response, "times": 200});
        let nonces = scene.server.command("send", &words);
        let last = nonces.as_array().unwrap().last().unwrap().as_str().unwrap().to_owned();
        assert!(scene.server.await_answer(RDS, &last).error.is_some());
        peak = peak.max(scene.proxy.process().rss());
        assert!(peak < before + FLOOD_MAX, "{before} {peak}");
        traffic.was_unharmed();
        scene.server.command("release", &json!({}));
        scene.expect_to_hear("after the flood");
    }
}

#[test]
#[ignore = "needs controlplane-peer, which .ci/run installs"]
fn a_server_that_repeats_what_was_refused() {
    // go-control-plane does so with the state of the world, without a pause.
    let mut server = ControlPlane::go().listening(json!({"repeats": true}));
    let origin = named_origin("a");
    let mut world = outrigger_tests::control_plane::World::default();
    world.put(CDS, eds_cluster("a", ads())).put(EDS, assignment("a", &[origin.address()]));
    world.put(LDS, http_listener("main", &rds("routes", ads())));
    world.put(RDS, route_table("routes", json!([to_cluster("a")])));
    world.publish(&mut server);
    let config = outrigger_tests::control_plane::aggregated(server.address(), Variant::Sotw);
    let proxy = launch(&config).start();
    await_answer(&proxy, "main", "/", "a", |response| response.status == 200);
    let traffic = Traffic::start(&proxy);
    world.put(CDS, super::protocol::bad_cluster("bad"));
    world.publish(&mut server);
    let rejected = "cluster_manager.cds.update_rejected";
    // We take our time to say again what was said.
    proxy.await_stat(rejected, |count| count >= 2);
    traffic.goes_on();
    // Others are heard.
    world.put(
        RDS,
        route_table(
            "routes",
            json!([
                {"match": {"path": "/new"}, "direct_response": {"status": 204}},
                to_cluster("a"),
            ]),
        ),
    );
    world.publish(&mut server);
    await_answer(&proxy, "main", "/new", "204", |response| response.status == 204);
    world.remove(CDS, "bad");
    world.put(CDS, static_cluster("good", &[origin.address()]));
    world.put(
        RDS,
        route_table(
            "routes",
            json!([
                {"match": {"path": "/new"}, "route": {"cluster": "good"}},
                to_cluster("a"),
            ]),
        ),
    );
    world.publish(&mut server);
    await_answer(&proxy, "main", "/new", "200", |response| response.status == 200);
    traffic.was_unharmed();
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn references_to_nothing_and_in_circles() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        let traffic = Traffic::start(&scene.proxy);
        let aggregate = |name: &str, members: &[&str]| {
            json!({
                "name": name,
                "connect_timeout": "5s",
                "lb_policy": "CLUSTER_PROVIDED",
                "cluster_type": {"name": "envoy.clusters.aggregate", "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.clusters.aggregate.v3.ClusterConfig",
                    "clusters": members,
                }},
            })
        };
        // Clusters of clusters, in circles; whether they are refused or not, all else goes on.
        for (name, members) in
            [("self", &["self"][..]), ("one", &["two"]), ("two", &["one"]), ("none", &["nothing"])]
        {
            scene.world.put(CDS, aggregate(name, members));
        }
        let redirects = json!([
            {"match": {"prefix": "/self"}, "route": {"cluster": "self"}},
            {"match": {"prefix": "/one"}, "route": {"cluster": "one"}},
            {"match": {"prefix": "/none"}, "route": {"cluster": "none"}},
            {"match": {"prefix": "/nothing"}, "route": {"cluster": "nothing"}},
            to_cluster("a"),
        ]);
        scene.world.put(RDS, route_table("routes", redirects));
        // Waits for what never comes.
        scene.world.put(CDS, eds_cluster("never", ads()));
        scene.world.put(LDS, http_listener("never", &rds("never routes", ads())));
        scene.publish();
        scene.expect_status("/nothing", 503);
        if !is_envoy() {
            // It has a stack that does not end.
            for target in ["/self", "/one", "/none"] {
                scene.expect_status(target, 503);
            }
        }
        traffic.goes_on();
        scene.expect_to_hear("beside them");
        traffic.was_unharmed();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn what_is_huge_is_taken_while_requests_go_on() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        let traffic = Traffic::start(&scene.proxy);
        let before = scene.proxy.process().rss();
        let small = scene.world.clone();
        for number in 0..1_000 {
            let name = format!("outbound|80||service-{number}.namespace.svc.cluster.local");
            scene.world.put(CDS, static_cluster(&name, &[scene.b.address()]));
        }
        scene.publish();
        scene.proxy.await_stat("cluster_manager.active_clusters", |count| count > 1_000);
        traffic.goes_on();
        // And gone again.
        scene.world.become_again(&small);
        scene.publish();
        scene.proxy.await_stat("cluster_manager.active_clusters", |count| count < 10);
        traffic.was_unharmed();
        eventually("the memory is given back", || {
            (scene.proxy.process().rss() < before + HUGE_MAX).then_some(())
        });
    }
}

/// Pause between two requests.
const PACE: Duration = Duration::from_millis(2);

/// What 800 responses of 50 KB, 40 MB in all, may leave behind, in bytes.
const FLOOD_MAX: u64 = 20 << 20;

/// What 1,000 clusters may leave behind, in bytes.
const HUGE_MAX: u64 = 30 << 20;
