//! What goes over the wire, message by message (rules C, S, D, T and V of the reference).

use std::time::Instant;

use outrigger_tests::control_plane::{
    CDS, ECDS, EDS, Event, LDS, RDS, Variant, WRAPPER, World, ads, aggregated, assignment,
    eds_cluster, http_listener, rds, route_table, static_cluster, to_cluster,
};
use outrigger_tests::{Address, ControlPlane};
use serde_json::{Value, json};

use super::{BOTH, Scene, await_listener, is_envoy, launch, named_origin};

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c01_the_first_message_of_a_stream_has_the_node_and_others_only_if_asked() {
    for variant in BOTH {
        for first_only in [true, false] {
            let mut scene = Scene::tuned(variant, json!({}), |config| {
                config.with(json!({
                    "node": {
                        "id": "test-id", "cluster": "test-cluster",
                        "locality": {"region": "r", "zone": "z"},
                        "metadata": {"KEY": "value", "NESTED": {"list": [1, true, null]}},
                    },
                    "dynamic_resources": {"ads_config": {"set_node_on_first_message_only": first_only}},
                }))
            });
            scene.world.put(CDS, static_cluster("more", &[]));
            scene.publish();
            scene.server.await_event("the second update's answer", 0, |event| {
                event.is_ack(CDS) && event.nonce.ends_with("-5")
                    || event.is_ack(CDS) && event.version == "v2"
                    || variant == Variant::Delta && event.is_ack(CDS) && event.nonce != "1-1"
            });
            let events = scene.server.events();
            let requests: Vec<&Event> = events.iter().filter(|one| one.kind == "request").collect();
            let node = requests[0].node.as_ref().unwrap();
            assert_eq!(node["id"], "test-id");
            assert_eq!(node["cluster"], "test-cluster");
            assert_eq!(node["locality"], json!({"region": "r", "zone": "z"}));
            assert_eq!(node["metadata"]["KEY"], "value");
            assert_eq!(node["metadata"]["NESTED"], json!({"list": [1.0, true, null]}));
            assert!(node["user_agent_name"].is_string(), "{node}");
            for request in &requests[1..] {
                if first_only {
                    assert_eq!(request.node, None, "{request:?}");
                } else {
                    assert_eq!(request.node_hash, requests[0].node_hash, "{request:?}");
                }
            }
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c02_types_on_one_stream_are_independent() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let refused = scene.send(CDS, "bad", &[bad_cluster("bad"), eds_cluster("a", ads())]);
        let b = static_cluster("b", &[scene.b.address()]);
        let table = route_table("routes", json!([to_cluster("b")]));
        let routes = scene.send(RDS, "good", &[table]);
        let good = scene.send(CDS, "good", &[b, eds_cluster("a", ads())]);
        assert!(scene.server.await_answer(CDS, &refused).error.is_some());
        assert_eq!(scene.server.await_answer(RDS, &routes).error, None);
        assert_eq!(scene.server.await_answer(CDS, &good).error, None);
        scene.expect_origin("/", "b");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c04_every_response_is_answered_once_in_order() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let from = scene.server.mark();
        let mut nonces = Vec::new();
        for version in ["one", "two", "three"] {
            let table = route_table(
                "routes",
                json!([{"match": {"prefix": "/"}, "direct_response": {
                    "status": 200, "body": {"inline_string": version},
                }}]),
            );
            nonces.push(scene.send(RDS, version, &[table]));
        }
        scene.server.await_answer(RDS, &nonces[2]);
        scene.proxy_says("/", "three");
        let answers = answers(&mut scene.server, RDS, from);
        assert_eq!(answers, nonces);
    }
}

/// Nonces that have been answered, in order.
fn answers(server: &mut ControlPlane, type_url: &str, from: usize) -> Vec<String> {
    let events = server.events()[from..].iter();
    events
        .filter(|event| event.is_request(type_url) && !event.nonce.is_empty())
        .map(|event| event.nonce.clone())
        .collect()
}

impl Scene {
    /// Waits until a body of a direct response is there.
    #[track_caller]
    fn proxy_says(&self, target: &str, body: &str) {
        super::await_answer(&self.proxy, "main", target, body, |response| response.text() == body);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c05_an_answer_does_not_wait_for_warming() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold(&[EDS]);
        let from = scene.server.mark();
        scene.add_b();
        scene.publish();
        if !is_envoy() {
            // It says nothing of clusters while one of them warms.
            scene.server.await_event("an ACK", from, |event| event.is_ack(CDS));
        }
        scene.proxy.expect_stat("cluster_manager.warming_clusters", 1);
        // The route is there, its cluster is not.
        scene.expect_status("/b", 503);
        scene.expect_origin("/", "a");
        scene.server.release(&[EDS]);
        scene.expect_origin("/b", "b");
        scene.proxy.expect_stat("cluster_manager.warming_clusters", 0);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c06_versions_are_opaque() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        for (version, status) in [("2", 202), ("10", 210), ("1", 201), ("", 200), ("é\n", 203)] {
            let table = route_table(
                "routes",
                json!([{"match": {"prefix": "/"}, "direct_response": {"status": status}}]),
            );
            let nonce = scene.send(RDS, version, &[table]);
            let answer = scene.server.await_answer(RDS, &nonce);
            assert_eq!(answer.error, None);
            if variant == Variant::Sotw {
                // S-03
                assert_eq!(answer.version, version);
            }
            scene.expect_status("/", status);
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c07_what_was_not_asked_for_is_ignored() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let stranger = assignment("stranger", &[scene.b.address()]);
        let known = assignment("a", &[scene.a.address()]);
        let nonce = scene.send(EDS, "more", &[stranger, known]);
        assert_eq!(scene.server.await_answer(EDS, &nonce).error, None);
        let table = route_table("other", json!([to_cluster("b")]));
        let nonce = scene.send(RDS, "more", &[table]);
        assert_eq!(scene.server.await_answer(RDS, &nonce).error, None);
        scene.expect_origin("/", "a");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c08_a_resource_of_another_type_is_refused() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let mut response = scene.response(CDS, "mixed", &[eds_cluster("a", ads())]);
        let mut listener = http_listener("stranger", &rds("routes", ads()));
        listener["@type"] = LDS.into();
        let listener = match variant {
            Variant::Sotw => listener,
            Variant::Delta => json!({"name": "stranger", "version": "1", "resource": listener}),
        };
        response["resources"].as_array_mut().unwrap().push(listener);
        let nonce = scene.server.send(CDS, response);
        let error = scene.server.await_answer(CDS, &nonce).error;
        let (code, message) = error.expect("a refusal");
        if !is_envoy() {
            // V-01; Envoy has no such codes.
            assert_eq!(code, 3);
            assert!(message.contains("envoy.config.listener.v3.Listener"), "{message}");
        }
        scene.expect_origin("/", "a");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c09_a_name_that_comes_twice_is_refused() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let double = |origin: &Address| static_cluster("double", &[origin]);
        let twice = [eds_cluster("a", ads()), double(scene.a.address()), double(scene.b.address())];
        let table = route_table("routes", json!([to_cluster("double")]));
        let nonce = scene.send(CDS, "double", &twice);
        let error = scene.server.await_answer(CDS, &nonce).error;
        assert!(error.expect("a refusal").1.contains("double"));
        let nonce = scene.send(RDS, "double", &[table]);
        scene.server.await_answer(RDS, &nonce);
        if is_envoy() {
            // It keeps the first of a state of the world.
            continue;
        }
        scene.expect_status("/", 503);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c10_a_type_that_was_not_asked_for_is_ignored() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let from = scene.server.mark();
        let unknown = match variant {
            Variant::Sotw => json!({"version_info": "1", "nonce": "n1"}),
            Variant::Delta => json!({"system_version_info": "1", "nonce": "n1"}),
        };
        for type_url in [ECDS, "type.googleapis.com/no.such.Type", "no URL", ""] {
            let mut response = unknown.clone();
            response["type_url"] = type_url.into();
            scene.server.command("send", &json!({"stream": 1, "response": response}));
        }
        // The stream is there still.
        let table = route_table("routes", json!([to_cluster("b")]));
        let clusters = [eds_cluster("a", ads()), static_cluster("b", &[scene.b.address()])];
        scene.send(CDS, "next", &clusters);
        let nonce = scene.send(RDS, "next", &[table]);
        assert_eq!(scene.server.await_answer(RDS, &nonce).stream, 1);
        scene.expect_origin("/", "b");
        let events = &scene.server.events()[from..];
        let answered = events.iter().filter(|event| event.nonce == "n1" && event.kind == "request");
        assert_eq!(answered.count(), 0, "C-04 holds for types that were asked for");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c11_twenty_megabytes_are_accepted() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        let text = "x".repeat(500_000);
        for number in 0..40 {
            let mut cluster = static_cluster(&format!("big {number}"), &[scene.b.address()]);
            cluster["metadata"] = json!({"filter_metadata": {"big": {"text": text}}});
            scene.world.put(CDS, cluster);
        }
        scene.world.put(RDS, route_table("routes", json!([to_cluster("big 39")])));
        scene.publish();
        scene.expect_origin("/", "b");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c12_changes_of_one_turn_go_out_as_one_request() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold(&[EDS]);
        let from = scene.server.mark();
        for number in 0..1_000 {
            scene.world.put(CDS, eds_cluster(&format!("many {number}"), ads()));
        }
        scene.publish();
        let asks = |event: &Event| event.is_request(EDS) && event.error.is_none();
        let request = scene.server.await_event("a request", from, |event| {
            asks(event) && event.names.len() + event.subscribe.len() > 1
        });
        match variant {
            Variant::Sotw => assert_eq!(request.names.len(), 1_001),
            Variant::Delta => assert_eq!(request.subscribe.len(), 1_000),
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c13_a_rate_limit_delays_answers_and_drops_none() {
    for variant in BOTH {
        let mut scene = Scene::tuned(variant, json!({}), |config| {
            config.with(json!({"dynamic_resources": {"ads_config": {
                "rate_limit_settings": {"max_tokens": 1, "fill_rate": 10},
            }}}))
        });
        scene.server.hold_all();
        let from = scene.server.mark();
        let start = Instant::now();
        let nonces: Vec<String> = (0..5)
            .map(|number| {
                let version = number.to_string();
                let table = route_table("routes", json!([to_cluster("a")]));
                scene.send(RDS, &version, &[table])
            })
            .collect();
        scene.server.await_answer(RDS, &nonces[4]);
        if is_envoy() {
            // Only the newest of those that wait.
            continue;
        }
        // One from before may have been held back as well.
        assert!(answers(&mut scene.server, RDS, from).ends_with(&nonces));
        // One may go at once.
        assert!(start.elapsed().as_millis() >= 350, "{:?}", start.elapsed());
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn c14_the_name_of_the_server_is_known() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let table = route_table("routes", json!([to_cluster("a")]));
        let mut response = scene.response(RDS, "named", &[table]);
        response["control_plane"] = json!({"identifier": "a server of tests"});
        let nonce = scene.server.send(RDS, response);
        scene.server.await_answer(RDS, &nonce);
        outrigger_tests::eventually("the identifier", || {
            let stats = scene.proxy.admin_get("/stats?filter=control_plane").text();
            stats.contains("control_plane.identifier: \"a server of tests\"").then_some(())
        });
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn s01_to_s06_versions_and_nonces_of_the_state_of_the_world() {
    let mut server = ControlPlane::python().listening(json!({}));
    server.hold_all();
    let origin = named_origin("a");
    let _proxy = launch(&aggregated(server.address(), Variant::Sotw)).begin();

    let first = server.await_event("a request for clusters", 0, |event| event.is_request(CDS));
    // S-01, S-10: nothing held, and all are wanted.
    assert_eq!((first.version.as_str(), first.nonce.as_str()), ("", ""));
    assert_eq!(first.names, Vec::<String>::new());
    let response =
        |version: &str, cluster: Value| super::response(Variant::Sotw, CDS, version, &[cluster]);
    // S-04: with nothing accepted yet.
    let nonce = server.send(CDS, response("bad", bad_cluster("a")));
    let refusal = server.await_answer(CDS, &nonce);
    assert_eq!(refusal.version, "");
    assert!(refusal.error.is_some());
    // S-03
    let nonce = server.send(CDS, response("good", eds_cluster("a", ads())));
    // S-11: asked for when it is needed, by the name that is needed.
    let request = server.await_event("a request for endpoints", 0, |event| event.is_request(EDS));
    assert_eq!((request.version.as_str(), request.nonce.as_str()), ("", ""));
    assert_eq!(request.names, ["a"]);
    assert!(!server.events().iter().any(|event| event.is_request(RDS)));
    let endpoints = |version: &str, names: &[&str]| {
        let assignments = names.iter().map(|name| assignment(name, &[origin.address()]));
        super::response(Variant::Sotw, EDS, version, &assignments.collect::<Vec<_>>())
    };
    let endpoints_nonce = server.send(EDS, endpoints("endpoints", &["a"]));
    server.await_answer(EDS, &endpoints_nonce);
    let ack = server.await_answer(CDS, &nonce);
    assert_eq!((ack.version.as_str(), ack.error), ("good", None));
    // S-04: with something accepted.
    let nonce = server.send(CDS, response("worse", bad_cluster("a")));
    let refusal = server.await_answer(CDS, &nonce);
    assert_eq!(refusal.version, "good");
    assert!(refusal.error.is_some());
    // S-05: one more name, with the current version and the latest nonce.
    let mark = server.mark();
    let mut two = response("two", eds_cluster("a", ads()));
    let mut second = eds_cluster("b", ads());
    second["@type"] = CDS.into();
    two["resources"].as_array_mut().unwrap().push(second);
    let nonce = server.send(CDS, two);
    let request = server.await_event("a longer request", mark, |event| event.is_request(EDS));
    assert_eq!(sorted(&request.names), ["a", "b"]);
    assert_eq!((request.version.as_str(), &request.nonce), ("endpoints", &endpoints_nonce));
    // S-06: the request crossed this response, so its answer has it all again.
    let crossing = server.send(EDS, endpoints("again", &["a"]));
    let ack = server.await_answer(EDS, &crossing);
    assert_eq!((ack.version.as_str(), sorted(&ack.names)), ("again", vec!["a", "b"]));
    server.send(EDS, endpoints("both", &["a", "b"]));
    assert_eq!(server.await_answer(CDS, &nonce).version, "two");
}

fn sorted(names: &[String]) -> Vec<&str> {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn s08_and_s09_absence_deletes_clusters_and_listeners_only() {
    let mut scene = Scene::start(Variant::Sotw);
    scene.server.hold_all();
    // S-09: neither an empty response nor one without a name that is held changes anything.
    for type_url in [EDS, RDS] {
        let nonce = scene.send(type_url, "empty", &[]);
        assert_eq!(scene.server.await_answer(type_url, &nonce).error, None);
    }
    let clusters = [eds_cluster("a", ads()), eds_cluster("b", ads())];
    scene.send(CDS, "two", &clusters);
    let b = assignment("b", &[scene.b.address()]);
    let nonce = scene.send(EDS, "partial", &[b]);
    assert_eq!(scene.server.await_answer(EDS, &nonce).error, None);
    scene.expect_origin("/", "a");
    // S-08
    let nonce = scene.send(CDS, "one", &[eds_cluster("b", ads())]);
    assert_eq!(scene.server.await_answer(CDS, &nonce).error, None);
    scene.expect_status("/", 503);
    let other = http_listener("other", &rds("routes", ads()));
    scene.send(LDS, "other", &[other]);
    await_listener(&scene.proxy, "other");
    outrigger_tests::eventually("no listener main", || {
        scene.proxy.current_listener("main").is_none().then_some(())
    });
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn s11_nothing_is_asked_for_without_a_name() {
    for variant in BOTH {
        let mut server = ControlPlane::python().listening(json!({}));
        let mut world = World::default();
        world.put(CDS, static_cluster("a", &[]));
        world.put(LDS, http_listener("main", &json!({"route_config": {}})));
        world.publish(&mut server);
        let proxy = launch(&aggregated(server.address(), variant)).start();
        await_listener(&proxy, "main");
        let events = server.events().iter();
        let asked: Vec<&Event> = events
            .filter(|event| event.kind == "request" && ![CDS, LDS].contains(&&*event.type_url))
            .collect();
        assert_eq!(asked.len(), 0, "{asked:?}");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn s13_wrapped_resources_are_unwrapped() {
    let mut scene = Scene::start(Variant::Sotw);
    scene.server.hold_all();
    let wrapped = |name: &str, type_url: &str, mut resource: Value| {
        resource["@type"] = type_url.into();
        json!({"@type": WRAPPER, "name": name, "version": "w", "resource": resource})
    };
    let mut a = eds_cluster("a", ads());
    a["@type"] = CDS.into();
    let b = static_cluster("b", &[scene.b.address()]);
    let clusters = json!({"version_info": "w", "resources": [a, wrapped("b", CDS, b)]});
    let nonce = scene.server.send(CDS, clusters);
    assert_eq!(scene.server.await_answer(CDS, &nonce).error, None);
    let table = route_table("routes", json!([to_cluster("b")]));
    let routes = json!({"version_info": "w", "resources": [wrapped("routes", RDS, table)]});
    let nonce = scene.server.send(RDS, routes);
    assert_eq!(scene.server.await_answer(RDS, &nonce).error, None);
    scene.expect_origin("/", "b");
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d01_to_d05_names_and_nonces_of_delta() {
    let mut server = ControlPlane::python().listening(json!({}));
    server.hold_all();
    let origin = named_origin("a");
    let _proxy = launch(&aggregated(server.address(), Variant::Delta)).begin();
    let first = server.await_event("a request for clusters", 0, |event| event.is_request(CDS));
    // D-01, D-07. An explicit wildcard is as good.
    assert_eq!(first.nonce, "");
    assert!(first.initial.is_empty());
    assert!(first.subscribe.is_empty() || first.subscribe == ["*"], "{first:?}");
    let response =
        |version: &str, clusters: &[Value]| super::response(Variant::Delta, CDS, version, clusters);
    // D-03
    let nonce = server.send(CDS, response("bad", &[bad_cluster("a")]));
    assert!(server.await_answer(CDS, &nonce).error.is_some());
    let clusters = server.send(CDS, response("good", &[eds_cluster("a", ads())]));
    // D-04
    let request = server.await_event("a request for endpoints", 0, |event| event.is_request(EDS));
    assert_eq!((request.nonce.as_str(), &request.subscribe[..]), ("", &["a".to_owned()][..]));
    let endpoints = |name: &str| {
        super::response(Variant::Delta, EDS, "e", &[assignment(name, &[origin.address()])])
    };
    let nonce = server.send(EDS, endpoints("a"));
    assert_eq!(server.await_answer(EDS, &nonce).error, None);
    assert_eq!(server.await_answer(CDS, &clusters).error, None);
    let mark = server.mark();
    let clusters = server.send(CDS, response("b", &[eds_cluster("b", ads())]));
    let request = server.await_event("one more name", mark, |event| event.is_request(EDS));
    assert_eq!((request.nonce.as_str(), &request.subscribe[..]), ("", &["b".to_owned()][..]));
    assert!(request.initial.is_empty(), "{request:?}");
    server.send(EDS, endpoints("b"));
    assert_eq!(server.await_answer(CDS, &clusters).error, None);
    // D-05, and D-08: what goes is asked for no more, without an answer to it.
    let mark = server.mark();
    let nonce = server.send(CDS, json!({"system_version_info": "-", "removed_resources": ["b"]}));
    assert_eq!(server.await_answer(CDS, &nonce).error, None);
    let request = server.await_event("one name less", mark, |event| {
        event.is_request(EDS) && !event.unsubscribe.is_empty()
    });
    assert_eq!((request.nonce.as_str(), &request.unsubscribe[..]), ("", &["b".to_owned()][..]));
    for event in server.events().iter().filter(|event| event.kind == "request") {
        let names = event.subscribe.len() + event.unsubscribe.len();
        assert!(event.nonce.is_empty() || names == 0, "{event:?}");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d08_and_d15_removals_and_empty_responses_are_answered() {
    let mut scene = Scene::start(Variant::Delta);
    scene.server.hold_all();
    for type_url in [CDS, EDS, LDS, RDS] {
        let never = json!({"system_version_info": "x", "removed_resources": ["never seen"]});
        let nonce = scene.server.send(type_url, never);
        assert_eq!(scene.server.await_answer(type_url, &nonce).error, None);
        let nonce = scene.server.send(type_url, json!({}));
        assert_eq!(scene.server.await_answer(type_url, &nonce).error, None);
    }
    scene.expect_origin("/", "a");
    // A table that is gone answers nobody, and comes back.
    let nonce = scene.server.send(CDS, json!({"removed_resources": ["a"]}));
    assert_eq!(scene.server.await_answer(CDS, &nonce).error, None);
    scene.expect_status("/", 503);
    scene.server.command("release", &json!({}));
    let nonce = scene.send(CDS, "back", &[eds_cluster("a", ads())]);
    assert_eq!(scene.server.await_answer(CDS, &nonce).error, None);
    scene.expect_origin("/", "a");
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d14_a_name_both_given_and_removed_is_refused() {
    if is_envoy() {
        // The protocol does not say; it refuses some and takes others.
        return;
    }
    let mut scene = Scene::start(Variant::Delta);
    scene.server.hold_all();
    for (type_url, name, resource) in [
        (CDS, "b", static_cluster("b", &[])),
        (CDS, "a", eds_cluster("a", ads())),
        (LDS, "main", http_listener("main", &json!({"route_config": {}}))),
    ] {
        let mut response = scene.response(type_url, "both", &[resource]);
        response["removed_resources"] = json!([name]);
        let nonce = scene.server.send(type_url, response);
        let error = scene.server.await_answer(type_url, &nonce).error;
        assert!(error.expect("a refusal").1.contains(name));
    }
    scene.expect_origin("/", "a");
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn t01_to_t04_resources_live_as_long_as_they_are_told_to() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        if !is_envoy() {
            // Which says it only if the bootstrap does.
            let node = scene.server.events().iter().find_map(|event| event.node.clone()).unwrap();
            for feature in
                ["supports-resource-ttl", "resource-in-sotw", "supports-resource-in-sotw"]
            {
                let features = node["client_features"].as_array().unwrap();
                assert!(features.contains(&format!("xds.config.{feature}").into()), "{features:?}");
            }
        }
        scene.server.hold_all();
        let timed = |name: &str, ttl: &str| {
            let mut cluster = static_cluster(name, &[scene.b.address()]);
            cluster["@type"] = CDS.into();
            let mut wrapper = json!({"name": name, "version": "1", "resource": cluster});
            if !ttl.is_empty() {
                wrapper["ttl"] = ttl.into();
            }
            wrapper
        };
        let mut a = eds_cluster("a", ads());
        a["@type"] = CDS.into();
        let a = json!({"name": "a", "version": "1", "resource": a});
        let send = |server: &mut ControlPlane, wrappers: Vec<Value>| {
            let response = match variant {
                Variant::Sotw => json!({"version_info": "1", "resources": wrappers
                    .into_iter()
                    .map(|mut wrapper| {
                        wrapper["@type"] = WRAPPER.into();
                        wrapper
                    })
                    .collect::<Vec<_>>()}),
                Variant::Delta => json!({"resources": wrappers}),
            };
            let nonce = server.send(CDS, response);
            assert_eq!(server.await_answer(CDS, &nonce).error, None);
        };
        let server = &mut scene.server;
        // T-02: the second copy of `cancelled` has no end.
        let all = |cancelled: &str| {
            let [beating, cancelled, b] =
                [("beating", "1s"), ("cancelled", cancelled), ("b", "1.2s")]
                    .map(|(name, ttl)| timed(name, ttl));
            vec![a.clone(), beating, cancelled, b]
        };
        send(server, all("1s"));
        send(server, all(""));
        let beats = variant == Variant::Delta || !is_envoy();
        if beats {
            // T-03: it is no update, so the others stay; Envoy takes it for the state of the world.
            send(server, vec![json!({"name": "beating", "version": "1", "ttl": "100s"})]);
        }
        let routes = json!([
            {"match": {"prefix": "/beating"}, "route": {"cluster": "beating"}},
            {"match": {"prefix": "/cancelled"}, "route": {"cluster": "cancelled"}},
            to_cluster("b"),
        ]);
        scene.send(RDS, "ttl", &[route_table("routes", routes)]);
        scene.expect_origin("/", "b");
        // T-04: the end of the one that is told later than the others.
        scene.expect_status("/", 503);
        if beats {
            scene.expect_origin("/beating", "b");
        }
        scene.expect_origin("/cancelled", "b");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn v01_to_v03_a_bad_resource_is_named_and_the_good_ones_are_taken() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let rejected = scene.proxy.stat("cluster_manager.cds.update_rejected");
        let good = static_cluster("good", &[scene.b.address()]);
        let mut changed = eds_cluster("a", impatient());
        changed["connect_timeout"] = "6s".into();
        let nonce = scene.send(CDS, "mixed", &[good, bad_cluster("bad one"), changed]);
        let (code, message) = scene.server.await_answer(CDS, &nonce).error.unwrap();
        assert!(message.contains("bad one"), "{message}");
        if !is_envoy() {
            // V-01
            assert_eq!(code, 3);
            assert!(message.contains("Cluster bad one: load_assignment.endpoints[0]"), "{message}");
        }
        // V-02
        let table = route_table("routes", json!([to_cluster("good")]));
        scene.send(RDS, "good", &[table]);
        scene.expect_origin("/", "b");
        // V-03: what was there of a bad one stays.
        let bad = route_table(
            "routes",
            json!([
                {"match": {"safe_regex": {"regex": "("}}, "route": {"cluster": "a"}},
            ]),
        );
        let nonce = scene.send(RDS, "bad", &[bad]);
        let message = scene.server.await_answer(RDS, &nonce).error.unwrap().1;
        if !is_envoy() {
            // V-01
            let place = "RouteConfiguration routes: virtual_hosts[0].routes[0].match.safe_regex";
            assert!(message.contains(place), "{message}");
        }
        scene.expect_origin("/", "b");
        // V-07
        scene.proxy.expect_stat("cluster_manager.cds.update_rejected", rejected + 1);
        scene.proxy.expect_stat("http.main.rds.routes.update_rejected", 1);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn v08_what_has_not_changed_is_left_alone() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let mut client = scene.proxy_client();
        assert_eq!(client.get("/").header("x-origin"), Some("a"));
        let accepted = scene.a.log().accepted;
        let resources = [CDS, EDS, LDS, RDS].map(|kind| (kind, scene.world.all(kind)));
        let mut last = Vec::new();
        for number in 0..100 {
            let version = format!("same {number}");
            last = resources
                .iter()
                .map(|(kind, same)| (*kind, scene.send(kind, &version, same)))
                .collect();
        }
        for (kind, nonce) in last {
            assert_eq!(scene.server.await_answer(kind, &nonce).error, None);
        }
        let stats = scene.proxy.stats();
        assert_eq!(stats["listener_manager.listener_modified"], 0);
        assert_eq!(stats["cluster_manager.cluster_modified"], 0);
        assert_eq!(stats["listener_manager.total_listeners_draining"], 0);
        assert_eq!(client.get("/").header("x-origin"), Some("a"));
        assert_eq!(scene.a.log().accepted, accepted);
    }
}

impl Scene {
    /// A connection that stays.
    #[track_caller]
    fn proxy_client(&self) -> outrigger_tests::Client {
        outrigger_tests::Client::connect(&await_listener(&self.proxy, "main"))
    }
}

/// The aggregated stream, for which nobody waits long.
pub(super) fn impatient() -> Value {
    let mut source = ads();
    source["initial_fetch_timeout"] = "0.2s".into();
    source
}

/// A cluster that nobody accepts.
pub(super) fn bad_cluster(name: &str) -> Value {
    let mut cluster = static_cluster(name, &[&Address::port(1)]);
    let endpoint = &mut cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"];
    endpoint["address"]["socket_address"]["address"] = "no.address".into();
    cluster
}
