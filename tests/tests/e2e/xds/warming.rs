//! What waits for what, and what goes on meanwhile (rules W).

use std::net::SocketAddr;
use std::sync::{Arc, Barrier};

use outrigger_tests::config::transport_socket;
use outrigger_tests::control_plane::{
    CDS, EDS, LDS, RDS, SDS, Variant, World, ads, aggregated, assignment, eds_cluster,
    http_listener, http_manager, rds, route_table, static_cluster, to_cluster,
};
use outrigger_tests::http::Framing;
use outrigger_tests::tls::{self, Authority, Subject};
use outrigger_tests::{Client, ControlPlane, Origin, PATIENCE, eventually};
use serde_json::{Value, json};

use super::protocol::impatient;
use super::reconnect::saying;
use super::{BOTH, Scene, await_answer, await_listener, is_envoy, launch, named_origin};

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w03_listeners_come_after_clusters_and_serve_when_all_is_there() {
    for variant in BOTH {
        let origin = named_origin("a");
        let mut server = ControlPlane::python().listening(json!({}));
        server.hold_all();
        let mut world = World::default();
        world.put(CDS, eds_cluster("a", ads())).put(EDS, assignment("a", &[origin.address()]));
        world.put(LDS, http_listener("main", &rds("routes", ads())));
        world.put(RDS, route_table("routes", json!([to_cluster("a")])));
        world.publish(&mut server);
        let proxy = launch(&aggregated(server.address(), variant)).begin();
        let phases = [(CDS, "clusters"), (EDS, "endpoints"), (LDS, "listeners"), (RDS, "routes")];
        for (number, (kind, name)) in phases.into_iter().enumerate() {
            server.await_event(name, 0, |event| event.is_request(kind));
            let later: Vec<&str> = phases[number + 1..].iter().map(|(kind, _)| *kind).collect();
            let early: Vec<_> = server
                .events()
                .iter()
                .filter(|event| event.kind == "request" && later.contains(&&*event.type_url))
                .cloned()
                .collect();
            assert!(early.is_empty(), "{name}: {early:?}");
            assert!(!proxy.is_ready(), "{name}");
            assert_eq!(proxy.stat("listener_manager.workers_started"), 0, "{name}");
            let resources = world.all(kind);
            let response = super::response(variant, kind, "1", &resources);
            server.send(kind, response);
        }
        eventually("/ready", || proxy.is_ready().then_some(()));
        assert_eq!(proxy.stat("listener_manager.workers_started"), 1);
        await_answer(&proxy, "main", "/", "a", |response| response.header("x-origin") == Some("a"));
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w04_a_changed_cluster_serves_as_before_until_its_endpoints_are_there() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold(&[EDS]);
        let cluster = scene.world.get(CDS, "a");
        cluster["eds_cluster_config"]["service_name"] = "elsewhere".into();
        cluster["eds_cluster_config"]["eds_config"]["initial_fetch_timeout"] = "0s".into();
        let elsewhere = assignment("elsewhere", &[scene.b.address()]);
        scene.world.put(EDS, elsewhere);
        scene.publish();
        scene.proxy.expect_stat("cluster_manager.warming_clusters", 1);
        scene.expect_origin("/", "a");
        // What comes for others meanwhile is theirs.
        let table =
            json!([{"match": {"path": "/b"}, "direct_response": {"status": 204}}, to_cluster("a")]);
        scene.world.put(RDS, route_table("routes", table));
        scene.publish();
        scene.expect_status("/b", 204);
        scene.expect_origin("/", "a");
        scene.server.release(&[EDS]);
        scene.expect_origin("/", "b");
        scene.proxy.expect_stat("cluster_manager.warming_clusters", 0);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w05_a_changed_cluster_asks_again_for_its_endpoints() {
    for variant in BOTH {
        if is_envoy() && variant == Variant::Delta {
            // It takes those that it has when its patience ends.
            continue;
        }
        let mut scene = Scene::start(variant);
        let from = scene.server.mark();
        let cluster = scene.world.get(CDS, "a");
        cluster["connect_timeout"] = "7s".into();
        cluster["eds_cluster_config"]["eds_config"]["initial_fetch_timeout"] = "0s".into();
        scene.publish();
        let again = scene.server.await_event("a request", from, |event| event.is_request(EDS));
        match variant {
            Variant::Sotw => assert_eq!(again.names, ["a"]),
            Variant::Delta => assert_eq!(
                (again.nonce.as_str(), &again.subscribe[..]),
                ("", &["a".to_owned()][..])
            ),
        }
        scene.server.await_event("the end of it", from, |event| event.is_ack(CDS));
        scene.proxy.expect_stat("cluster_manager.warming_clusters", 0);
        scene.proxy.expect_stat("cluster_manager.cluster_modified", 1);
        scene.expect_origin("/", "a");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_a_new_listener_waits_for_its_routes_and_nobody_for_it() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold(&[RDS]);
        let mut patient = ads();
        patient["initial_fetch_timeout"] = "0s".into();
        let second = http_listener("second", &rds("more routes", patient.clone()));
        scene.world.put(LDS, second);
        let mut more = saying("more");
        more["name"] = "more routes".into();
        scene.world.put(RDS, more);
        scene.publish();
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 1);
        assert_eq!(scene.proxy.stat("listener_manager.total_listeners_active"), 1);
        scene.expect_origin("/", "a");
        // A third one passes it.
        let third = http_listener("third", &direct("third"));
        scene.world.put(LDS, third);
        scene.publish();
        says(&scene, "third", "third");
        assert_eq!(scene.proxy.stat("listener_manager.total_listeners_warming"), 1);
        // A change of one that serves waits too, and serves as before.
        let changed = http_listener("third", &rds("more routes", patient));
        scene.world.put(LDS, changed);
        scene.publish();
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 2);
        says(&scene, "third", "third");
        scene.server.release(&[RDS]);
        says(&scene, "second", "more");
        says(&scene, "third", "more");
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 0);
    }
}

fn direct(body: &str) -> Value {
    let mut table = saying(body);
    table["name"] = "".into();
    json!({"route_config": table})
}

#[track_caller]
fn says(scene: &Scene, listener: &str, body: &str) {
    await_answer(&scene.proxy, listener, "/", body, |response| response.text() == body);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_and_w11_a_listener_waits_for_its_secret_and_a_new_one_is_for_new_handshakes() {
    let authority = Authority::new("Outrigger tests");
    let [first, second] = ["first", "second"].map(|name| authority.issue(Subject::dns(&[name])));
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold(&[SDS]);
        let mut source = ads();
        source["initial_fetch_timeout"] = "0s".into();
        let context = json!({"common_tls_context": {"tls_certificate_sds_secret_configs": [
            {"name": "identity", "sds_config": source},
        ]}});
        let mut listener = http_listener("secure", &direct("secret"));
        listener["filter_chains"][0]["transport_socket"] =
            transport_socket(tls::DOWNSTREAM, context);
        scene.world.put(LDS, listener);
        let secret = |identity: &tls::Identity| json!({"name": "identity", "tls_certificate": identity.to_json()});
        scene.world.put(SDS, secret(&first));
        scene.publish();
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 1);
        assert_eq!(scene.proxy.stat("listener_manager.total_listeners_active"), 1);
        scene.server.release(&[SDS]);
        let address = await_listener(&scene.proxy, "secure");
        let connect = || Client::secure(&address, &tls::client(&[]), "first");
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 0);
        let mut old = connect();
        assert_eq!(old.stream().agreed().certificate.as_ref(), Some(&first.leaf));
        assert_eq!(old.get("/").text(), "secret");
        scene.world.put(SDS, secret(&second));
        scene.publish();
        eventually("the second certificate", || {
            let mut new = connect();
            let is_new = new.stream().agreed().certificate.as_ref() == Some(&second.leaf);
            is_new.then(|| assert_eq!(new.get("/").text(), "secret"))
        });
        let again = old.get("/");
        assert_eq!((again.text().as_str(), again.header("connection")), ("secret", None));
        // A key of another certificate is of no use, so the second stays.
        let from = scene.server.mark();
        let mut mixed = second.clone();
        mixed.key.clone_from(&first.key);
        scene.world.put(SDS, secret(&mixed));
        scene.publish();
        let refusal = scene.server.await_event("a refusal", from, |event| event.is_nack(SDS));
        let (_, text) = refusal.error.unwrap();
        assert!(text.contains("identity") && text.contains("does not belong"), "{text}");
        assert_eq!(connect().stream().agreed().certificate.as_ref(), Some(&second.leaf));
        scene.proxy.expect_stat("sds.identity.update_rejected", 1);
        assert_eq!(scene.proxy.stat("listener_manager.listener_modified"), 0);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w08_patience_ends() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold(&[EDS, RDS]);
        scene.world.put(LDS, http_listener("second", &rds("never", impatient())));
        scene.world.put(CDS, eds_cluster("never", impatient()));
        let mut third = direct("");
        third["route_config"]["virtual_hosts"][0]["routes"] = json!([to_cluster("never")]);
        third["route_config"]["validate_clusters"] = false.into();
        scene.world.put(LDS, http_listener("third", &third));
        scene.publish();
        await_answer(&scene.proxy, "second", "/", "404", |response| response.status == 404);
        await_answer(&scene.proxy, "third", "/", "503", |response| response.status == 503);
        scene.proxy.expect_stat("cluster_manager.warming_clusters", 0);
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 0);
        scene.proxy.expect_stat("cluster.never.init_fetch_timeout", 1);
        scene.proxy.expect_stat("http.second.rds.never.init_fetch_timeout", 1);
        scene.expect_origin("/", "a");
        // What comes late is as good.
        scene.world.put(EDS, assignment("never", &[scene.b.address()]));
        let mut never = saying("late");
        never["name"] = "never".into();
        scene.world.put(RDS, never);
        scene.publish();
        scene.server.release(&[EDS, RDS]);
        says(&scene, "second", "late");
        await_answer(&scene.proxy, "third", "/", "b", |response| {
            response.header("x-origin") == Some("b")
        });
    }
}

/// An origin that answers half, waits for the barrier, and answers the rest; anything but `/slow` it
/// answers at once.
fn slow_origin(barrier: &Arc<Barrier>) -> Origin {
    let barrier = Arc::clone(barrier);
    Origin::start(move |peer| {
        loop {
            let request = peer.request()?;
            peer.send("HTTP/1.1 200 OK\r\nx-origin: slow\r\ncontent-length: 8\r\n\r\nhalf")?;
            if request.target.starts_with("/slow") {
                barrier.wait();
            }
            peer.send("done")?;
        }
    })
}

/// A client whose request of `/slow` is half answered.
#[track_caller]
fn half_answered(scene: &Scene) -> Client {
    let mut client = Client::connect(&await_listener(&scene.proxy, "main"));
    client.send("GET /slow HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(client.response_head().status, 200);
    client
}

/// The whole body of that.
#[track_caller]
fn rest(client: &mut Client) -> String {
    let (body, _) = client.wire().body(Framing::Length(8)).unwrap();
    String::from_utf8(body).unwrap()
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w09_and_w12_what_is_under_way_ends_as_it_began() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        let barrier = Arc::new(Barrier::new(2));
        let slow = slow_origin(&barrier);
        scene.world.put(CDS, static_cluster("slow", &[slow.address()]));
        scene.world.put(RDS, route_table("routes", json!([to_cluster("slow")])));
        scene.publish();
        scene.expect_origin("/", "slow");
        let mut idle = Client::connect(&await_listener(&scene.proxy, "main"));
        assert_eq!(idle.get("/").header("x-origin"), Some("slow"));
        // W-12: a route away from it is for what comes next, on any connection.
        let mut client = half_answered(&scene);
        scene.world.put(RDS, route_table("routes", json!([to_cluster("a")])));
        scene.publish();
        scene.expect_origin("/", "a");
        assert_eq!(idle.get("/").header("x-origin"), Some("a"));
        barrier.wait();
        assert_eq!(rest(&mut client), "halfdone");
        assert_eq!(client.get("/").header("x-origin"), Some("a"));
        // W-09: and so is the end of its cluster.
        scene.world.put(RDS, route_table("routes", json!([to_cluster("slow")])));
        scene.publish();
        scene.expect_origin("/", "slow");
        let mut client = half_answered(&scene);
        scene.world.remove(CDS, "slow");
        scene.publish();
        scene.expect_status("/", 503);
        barrier.wait();
        assert_eq!(rest(&mut client), "halfdone");
        assert_eq!(client.get("/").status, 503);
        slow.wait_released();
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w10_connections_stay_on_chains_that_stay() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        let chain = |source: &str, body: &str| {
            json!({
                "filter_chain_match": {"source_prefix_ranges": [
                    {"address_prefix": source, "prefix_len": 32},
                ]},
                "filters": [http_manager("chains", &direct(body))],
            })
        };
        let listener = |changing: &str| {
            let mut listener = http_listener("chains", &direct("default"));
            listener["filter_chains"] =
                json!([chain("127.0.0.2", "staying"), chain("127.0.0.3", changing)]);
            listener
        };
        scene.world.put(LDS, listener("before"));
        scene.publish();
        let address = await_listener(&scene.proxy, "chains");
        let connect = |from: [u8; 4]| {
            let stream = address.connect_from(SocketAddr::from((from, 0)), PATIENCE).unwrap();
            Client::over(stream)
        };
        let (mut staying, mut leaving) = (connect([127, 0, 0, 2]), connect([127, 0, 0, 3]));
        assert_eq!(staying.get("/").text(), "staying");
        assert_eq!(leaving.get("/").text(), "before");
        scene.world.put(LDS, listener("after"));
        scene.publish();
        eventually("the new chain", || {
            (connect([127, 0, 0, 3]).get("/").text() == "after").then_some(())
        });
        assert_eq!(scene.proxy.current_listener("chains").as_ref(), Some(&address));
        // The old one says goodbye, when something is asked or at the end of the drain.
        loop {
            if leaving.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").is_err() {
                break;
            }
            let Ok(response) = leaving.try_response() else { break };
            assert_eq!(response.text(), "before");
            if response.header("connection") == Some("close") {
                break;
            }
        }
        let stays = |client: &mut Client| {
            let response = client.get("/");
            assert_eq!(
                (response.text().as_str(), response.header("connection")),
                ("staying", None)
            );
        };
        stays(&mut staying);
        scene.proxy.expect_stat("listener_manager.total_filter_chains_draining", 0);
        stays(&mut staying);

        // Another address is another listener.
        let mut moved = listener("after");
        moved["address"]["socket_address"]["address"] = "127.0.0.2".into();
        scene.world.put(LDS, moved);
        scene.publish();
        eventually("the new address", || {
            (scene.proxy.current_listener("chains")? != address).then_some(())
        });
        loop {
            if staying.try_send("GET / HTTP/1.1\r\nHost: test\r\n\r\n").is_err() {
                break;
            }
            let Ok(response) = staying.try_response() else { break };
            if response.header("connection") == Some("close") {
                break;
            }
        }
        // A removed one accepts nobody.
        let address = scene.proxy.current_listener("chains").unwrap();
        scene.world.remove(LDS, "chains");
        scene.publish();
        eventually("nobody listens", || address.connect(PATIENCE).is_err().then_some(()));
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w01_routes_before_clusters_and_endpoints_before_both() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        let before = scene.world.clone();
        for order in [[RDS, EDS, CDS], [EDS, RDS, CDS], [RDS, CDS, EDS]] {
            scene.server.hold(&order);
            scene.add_b();
            scene.publish();
            for kind in order {
                scene.server.release(&[kind]);
                // Whatever is missing, what was there is there.
                scene.expect_origin("/", "a");
            }
            scene.expect_origin("/b", "b");
            scene.world.become_again(&before);
            scene.publish();
            scene.expect_origin("/b", "a");
        }
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w13_endpoints_are_not_starved_by_clusters() {
    for variant in BOTH {
        let mut scene = Scene::start(variant);
        scene.server.hold_all();
        let mut clusters: Vec<Value> =
            (0..20).map(|number| static_cluster(&format!("many {number}"), &[])).collect();
        clusters.push(eds_cluster("a", ads()));
        let mut push = |scene: &mut Scene, version: u32| {
            clusters[0]["connect_timeout"] = format!("{}s", version + 1).into();
            scene.send(CDS, &version.to_string(), &clusters)
        };
        for version in 0..15 {
            push(&mut scene, version);
        }
        let moved = assignment("a", &[scene.b.address()]);
        let endpoints = scene.send(EDS, "moved", &[moved]);
        let mut last = String::new();
        for version in 15..40 {
            last = push(&mut scene, version);
        }
        assert_eq!(scene.server.await_answer(EDS, &endpoints).error, None);
        scene.server.await_answer(CDS, &last);
        let answers: Vec<String> = scene
            .server
            .events()
            .iter()
            .filter(|event| event.kind == "request")
            .map(|event| event.nonce.clone())
            .collect();
        let place = |nonce: &String| answers.iter().position(|one| one == nonce).unwrap();
        assert!(place(&endpoints) < place(&last));
        scene.expect_origin("/", "b");
    }
}
