//! Virtual hosts that come by themselves: VHDS (contract section 6; xds.md D-01, D-13, V-02, W-07, F-01).

use outrigger_tests::Client;
use outrigger_tests::control_plane::{
    LDS, RDS, VHDS, Variant, ads, http_listener, rds, to_cluster,
};
use outrigger_tests::eventually;
use serde_json::{Value, json};

use super::{Scene, is_envoy};

/// Routes with a host of their own, and others from the aggregated stream.
fn hosted(own: &str) -> Value {
    let mut source = ads();
    source["initial_fetch_timeout"] = "0s".into();
    json!({
        "name": "hosted",
        "vhds": {"config_source": source},
        "virtual_hosts": [{"name": "own", "domains": [own], "routes": [to_cluster("a")]}],
    })
}

/// Says that to requests for a domain.
fn host(name: &str, domain: &str, says: &str) -> Value {
    json!({
        "name": format!("hosted/{name}"),
        "domains": [domain],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {
            "status": 200, "body": {"inline_string": says},
        }}],
    })
}

/// A listener `hosted` beside that of the scene.
#[track_caller]
fn start() -> Scene {
    let mut scene = Scene::start(Variant::Delta);
    scene.world.put(LDS, http_listener("hosted", &rds("hosted", ads())));
    scene.world.put(RDS, hosted("own.test"));
    scene.world.put(VHDS, host("one", "one.test", "1")).put(VHDS, host("two", "two.test", "2"));
    scene
}

/// What a request for a host is answered with: the body, or the status.
fn answer(scene: &Scene, host: &str) -> Option<String> {
    let address = scene.proxy.current_listener("hosted")?;
    let mut client = Client::try_connect(&address).ok()?;
    client.try_send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")).ok()?;
    let response = client.try_response().ok()?;
    Some(if response.status == 200 { response.text() } else { response.status.to_string() })
}

#[track_caller]
fn expect(scene: &Scene, host: &str, wanted: &str) {
    eventually(&format!("{wanted} of {host}"), || {
        answer(scene, host).filter(|answer| answer.starts_with(wanted))
    });
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn vhds_hosts_come_change_and_go_beside_those_of_their_table() {
    let mut scene = start();
    scene.publish();
    for (host, says) in [("one.test", "1"), ("two.test", "2"), ("own.test", "a GET"), ("x", "404")]
    {
        expect(&scene, host, says);
    }
    let request = scene.server.await_event("a request", 0, |event| event.is_request(VHDS));
    if !is_envoy() {
        // It asks for all without a name.
        assert_eq!(request.subscribe, ["hosted"]);
    }
    // One changes, one goes, one comes.
    scene.world.put(VHDS, host("one", "one.test", "3")).put(VHDS, host("more", "more.test", "4"));
    scene.world.remove(VHDS, "hosted/two");
    scene.publish();
    for (host, says) in [("one.test", "3"), ("two.test", "404"), ("more.test", "4")] {
        expect(&scene, host, says);
    }
    // The table changes around them.
    scene.world.put(RDS, hosted("new.test"));
    scene.publish();
    for (host, says) in [("new.test", "a GET"), ("own.test", "404"), ("one.test", "3")] {
        expect(&scene, host, says);
    }
    assert_eq!(scene.proxy.stat("listener_manager.listener_modified"), 0);
    // Without a source, its own are left.
    let mut alone = hosted("new.test");
    alone.as_object_mut().unwrap().remove("vhds");
    scene.world.put(RDS, alone);
    scene.publish();
    expect(&scene, "one.test", "404");
    expect(&scene, "new.test", "a GET");
    if !is_envoy() {
        scene.server.await_event("the end of it", 0, |event| event.unsubscribe == ["hosted"]);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_a_listener_waits_for_the_virtual_hosts_of_its_table() {
    let mut scene = start();
    scene.server.hold(&[VHDS]);
    scene.publish();
    scene.proxy.expect_stat("listener_manager.total_listeners_warming", 1);
    scene.expect_origin("/", "a");
    scene.server.release(&[VHDS]);
    expect(&scene, "one.test", "1");
    scene.proxy.expect_stat("listener_manager.total_listeners_warming", 0);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn v02_a_virtual_host_is_refused_and_the_one_before_it_stays() {
    let mut scene = start();
    scene.publish();
    expect(&scene, "one.test", "1");
    let from = scene.server.mark();
    scene.world.put(VHDS, host("one", "own.test", "3")).put(VHDS, host("two", "two.test", "4"));
    scene.publish();
    let refusal = scene.server.await_event("a refusal", from, |event| event.is_nack(VHDS));
    let (_, text) = refusal.error.unwrap();
    if is_envoy() {
        // It takes nothing of such a response.
        return expect(&scene, "two.test", "2");
    }
    let place = "VirtualHost hosted/one: domains: \"own.test\" is in its route configuration";
    assert!(text.contains(place), "{text}");
    for (host, says) in [("one.test", "1"), ("two.test", "4"), ("own.test", "a GET")] {
        expect(&scene, host, says);
    }
    scene.proxy.expect_stat("xds.vhds.update_rejected", 1);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn virtual_hosts_are_counted_and_shown_with_their_table() {
    let mut scene = start();
    scene.publish();
    expect(&scene, "one.test", "1");
    let shown = |scene: &Scene| {
        let dump = scene.proxy.admin_get("/config_dump?resource=dynamic_route_configs").text();
        let dump: Value = serde_json::from_str(&dump).unwrap();
        let all = dump["configs"].as_array().unwrap().clone();
        let mut tables = all.into_iter().filter(|it| it["route_config"]["name"] == "hosted");
        tables.next().unwrap()
    };
    let names = |table: &Value| -> Vec<String> {
        let hosts = table["route_config"]["virtual_hosts"].as_array().unwrap();
        hosts.iter().map(|host| host["name"].as_str().unwrap().to_owned()).collect()
    };
    let before = shown(&scene);
    assert_eq!(names(&before), ["own", "hosted/one", "hosted/two"]);
    let stat = |name: &str| format!("http.hosted.rds.{name}");
    scene.proxy.expect_stat(&stat("hosted.config_reload"), 1);
    scene.proxy.expect_stat(&stat("vhds.hosted.config_reload"), 1);
    for name in ["hosted.version", "vhds.hosted.version", "vhds.hosted.update_time"] {
        assert_ne!(scene.proxy.stat(&stat(name)), 0, "{name}");
    }
    scene.proxy.expect_stat(&stat("vhds.hosted.update_empty"), 0);
    scene.world.put(VHDS, host("more", "more.test", "3")).remove(VHDS, "hosted/two");
    scene.publish();
    expect(&scene, "more.test", "3");
    let table = shown(&scene);
    assert_eq!(names(&table), ["own", "hosted/more", "hosted/one"]);
    // As of what came last.
    assert_ne!(table["version_info"], before["version_info"]);
    scene.proxy.expect_stat(&stat("vhds.hosted.config_reload"), 2);
    let from = scene.server.mark();
    scene.world.put(VHDS, host("one", "own.test", "4"));
    scene.publish();
    scene.server.await_event("a refusal", from, |event| event.is_nack(VHDS));
    scene.proxy.expect_stat(&stat("vhds.hosted.update_rejected"), 1);
    scene.proxy.expect_stat(&stat("vhds.hosted.config_reload"), 2);
    if !is_envoy() {
        scene.proxy.expect_stat(&stat("hosted.config_reload"), 1);
        let state = &shown(&scene)["error_state"]["details"];
        let place = "VirtualHost hosted/one: domains: \"own.test\" is in its route configuration";
        assert!(state.as_str().unwrap().starts_with(place), "{state}");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d01_and_f01_virtual_hosts_outlive_their_stream() {
    let mut scene = start();
    scene.publish();
    expect(&scene, "one.test", "1");
    scene.server.stop();
    expect(&scene, "two.test", "2");
    let from = scene.server.mark();
    scene.server.restart();
    let first = scene.server.await_event("a request", from, |event| event.is_request(VHDS));
    let held: Vec<&str> = first.initial.keys().map(String::as_str).collect();
    assert_eq!(held, ["hosted/one", "hosted/two"]);
    if !is_envoy() {
        assert_eq!(first.subscribe, ["hosted"]);
    }
    expect(&scene, "one.test", "1");
    scene.world.remove(VHDS, "hosted/one");
    scene.publish();
    expect(&scene, "one.test", "404");
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn section_6_virtual_hosts_come_by_delta_only() {
    let mut scene = Scene::start(Variant::Sotw);
    let from = scene.server.mark();
    let mut hosted = hosted("own.test");
    hosted["name"] = "routes".into();
    scene.world.put(RDS, hosted);
    scene.publish();
    let refusal = scene.server.await_event("a refusal", from, |event| event.is_nack(RDS));
    let (_, text) = refusal.error.unwrap();
    if !is_envoy() {
        let place = "RouteConfiguration routes: vhds.config_source: virtual hosts come by";
        assert!(text.contains(place), "{text}");
    }
    scene.expect_origin("/", "a");
}
