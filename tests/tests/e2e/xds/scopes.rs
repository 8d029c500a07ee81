//! Scopes of routes: SRDS, and those of listeners (contract section 5; xds.md V-02, V-03, W-07, S-08).

use outrigger_tests::control_plane::{
    CDS, EDS, LDS, RDS, SRDS, Variant, World, ads, aggregated, assignment, eds_cluster,
    http_listener,
};
use outrigger_tests::{Client, ControlPlane, Origin, Proxy};
use serde_json::{Value, json};

use super::reconnect::saying;
use super::{BOTH, is_envoy, launch, named_origin};

/// Scoped routes by the value of `tenant` in the header `x-route`, the tables from the aggregated
/// stream.
fn scoped(source: Value) -> Value {
    let mut scoped = json!({
        "name": "tenants",
        "scope_key_builder": {"fragments": [{"header_value_extractor": {
            "name": "x-route", "element_separator": ";",
            "element": {"separator": "=", "key": "tenant"},
        }}]},
        "rds_config_source": ads(),
    });
    scoped.as_object_mut().unwrap().extend(source.as_object().unwrap().clone());
    json!({ "scoped_routes": scoped })
}

fn by_srds() -> Value {
    scoped(json!({"scoped_rds": {"scoped_rds_config_source": ads()}}))
}

fn scope(name: &str, tenant: &str, table: &str) -> Value {
    json!({
        "name": name,
        "route_configuration_name": table,
        "key": {"fragments": [{"string_key": tenant}]},
    })
}

/// A table that says its name to everyone, or more.
fn table(name: &str, says: &str) -> Value {
    let mut table = saying(says);
    table["name"] = name.into();
    table
}

struct Scene {
    server: ControlPlane,
    world: World,
    proxy: Proxy,
    _origin: Origin,
}

impl Scene {
    /// A listener `main` with these routes, and two tenants, `a` and `b`, with a table each.
    #[track_caller]
    fn start(variant: Variant, routes: &Value) -> Scene {
        Scene::with(ControlPlane::python(), variant, routes)
    }

    #[track_caller]
    fn with(server: ControlPlane, variant: Variant, routes: &Value) -> Scene {
        let mut server = server.listening(json!({}));
        let origin = named_origin("a");
        let mut world = World::default();
        world.put(CDS, eds_cluster("a", ads())).put(EDS, assignment("a", &[origin.address()]));
        world.put(LDS, http_listener("main", routes));
        world.put(SRDS, scope("one", "a", "table-a")).put(SRDS, scope("two", "b", "table-b"));
        world.put(RDS, table("table-a", "a")).put(RDS, table("table-b", "b"));
        world.publish(&mut server);
        let proxy = launch(&aggregated(server.address(), variant)).start();
        Scene { server, world, proxy, _origin: origin }
    }

    #[track_caller]
    fn publish(&mut self) {
        self.world.publish(&mut self.server);
    }

    /// What a request with that header is answered with: the body, or the status.
    fn answer(&self, route: &str) -> Option<String> {
        let address = self.proxy.current_listener("main")?;
        let mut client = Client::try_connect(&address).ok()?;
        let request = format!("GET / HTTP/1.1\r\nHost: test\r\nx-route: {route}\r\n\r\n");
        client.try_send(request).ok()?;
        let response = client.try_response().ok()?;
        Some(if response.status == 200 { response.text() } else { response.status.to_string() })
    }

    /// Waits until requests of a tenant are answered so.
    #[track_caller]
    fn expect(&self, tenant: &str, wanted: &str) {
        let mut last = None;
        let start = std::time::Instant::now();
        while start.elapsed() < outrigger_tests::PATIENCE {
            last = self.answer(&format!("x=y;tenant={tenant}"));
            if last.as_deref() == Some(wanted) {
                return;
            }
            std::thread::sleep(super::GLANCE);
        }
        panic!("{tenant}: not {wanted} but {last:?}");
    }
}

#[test]
#[ignore = "needs xds-python and controlplane-peer, which .ci/run installs"]
fn srds_routes_requests_by_their_scopes_as_these_change() {
    let servers: [fn() -> ControlPlane; 2] = [ControlPlane::python, ControlPlane::go];
    for (variant, server) in BOTH.into_iter().flat_map(|it| servers.map(|server| (it, server))) {
        let mut scene = Scene::with(server(), variant, &by_srds());
        scene.expect("a", "a");
        scene.expect("b", "b");
        scene.expect("c", "404");
        assert_eq!(scene.answer("tenant").as_deref(), Some("404"));
        assert_eq!(scene.answer("").as_deref(), Some("404"));
        // A third, with the table of the first.
        scene.world.put(SRDS, scope("three", "c", "table-a"));
        scene.publish();
        scene.expect("c", "a");
        // A table that changes does so in all of its scopes.
        scene.world.put(RDS, table("table-a", "a2"));
        scene.publish();
        scene.expect("a", "a2");
        scene.expect("c", "a2");
        scene.expect("b", "b");
        // One that goes leaves its table to the other.
        scene.world.remove(SRDS, "one");
        scene.publish();
        scene.expect("a", "404");
        scene.expect("c", "a2");
        // Another takes the key at the same time as its owner gives it up, and they change places.
        scene.world.put(SRDS, scope("two", "c", "table-b"));
        scene.world.put(SRDS, scope("three", "b", "table-a"));
        scene.publish();
        scene.expect("c", "b");
        scene.expect("b", "a2");
        // No connection or listener was touched.
        assert_eq!(scene.proxy.stat("listener_manager.listener_modified"), 0);
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn srds_a_scope_is_refused_and_the_one_before_it_stays() {
    for variant in BOTH {
        let mut scene = Scene::start(variant, &by_srds());
        scene.expect("a", "a");
        let from = scene.server.mark();
        // A key that another has.
        scene.world.put(SRDS, scope("two", "a", "table-b"));
        scene.publish();
        let refusal = scene.server.await_event("a refusal", from, |event| event.is_nack(SRDS));
        let (_, text) = refusal.error.unwrap();
        if !is_envoy() {
            assert!(text.contains("key: is that of scope \"one\", too"), "{text}");
        }
        scene.expect("a", "a");
        scene.expect("b", "b");
        if !is_envoy() {
            scene.proxy.expect_stat("xds.srds.update_rejected", 1);
        }
        let stat = |name: &str| format!("http.main.scoped_rds.tenants.{name}");
        let counts = [("update_rejected", 1), ("config_reload", 1), ("all_scopes", 2)];
        for (name, count) in counts.into_iter().chain([("active_scopes", 2)]) {
            scene.proxy.expect_stat(&stat(name), count);
        }
        for name in ["version", "update_time"] {
            assert_ne!(scene.proxy.stat(&stat(name)), 0, "{name}");
        }
        scene.proxy.expect_stat(&stat("update_empty"), 0);
        // Mended, it is taken.
        scene.world.put(SRDS, scope("two", "c", "table-b"));
        scene.publish();
        scene.expect("c", "b");
        scene.expect("b", "404");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn w07_a_listener_waits_for_scopes_and_their_tables_and_later_scopes_wait_for_theirs() {
    for variant in BOTH {
        let mut scene = Scene::start(variant, &by_srds());
        scene.expect("a", "a");
        scene.server.hold(&[SRDS, RDS]);
        let mut other = by_srds();
        other["scoped_routes"]["scoped_rds"]["scoped_rds_config_source"] = patient();
        other["scoped_routes"]["rds_config_source"] = patient();
        scene.world.put(SRDS, scope("late", "d", "table-d"));
        scene.world.put(RDS, table("table-d", "d"));
        // A scope whose routes come late is served when they are there, and nobody waits for it.
        scene.publish();
        scene.server.release(&[SRDS]);
        scene.proxy.expect_stat("http.main.rds.table-d.update_attempt", 1);
        assert_eq!(scene.answer("tenant=d").as_deref(), Some("404"));
        scene.expect("a", "a");
        // One whose routes are to be others has those it had meanwhile.
        scene.world.put(SRDS, scope("one", "a", "table-e"));
        scene.world.put(RDS, table("table-e", "e"));
        scene.publish();
        scene.proxy.expect_stat("http.main.rds.table-e.update_attempt", 1);
        if !is_envoy() {
            scene.expect("a", "a");
        }
        // A listener that comes now waits.
        let second = http_listener("second", &other);
        scene.world.put(LDS, second);
        scene.publish();
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 1);
        scene.server.release(&[RDS]);
        scene.proxy.expect_stat("listener_manager.total_listeners_warming", 0);
        scene.expect("d", "d");
        scene.expect("a", "e");
        scene.expect("b", "b");
    }
}

fn patient() -> Value {
    let mut source = ads();
    source["initial_fetch_timeout"] = "0s".into();
    source
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn scopes_of_a_listener_have_tables_of_their_own_and_from_servers() {
    if is_envoy() {
        // It has no tables from servers for scopes of a listener.
        return;
    }
    for variant in BOTH {
        let mut inline = scope("inline", "c", "");
        inline.as_object_mut().unwrap().remove("route_configuration_name");
        inline["route_configuration"] = table("inline", "c");
        let scopes = json!([inline, scope("named", "a", "table-a")]);
        let routes = scoped(json!({"scoped_route_configurations_list":
            {"scoped_route_configurations": scopes}}));
        let mut scene = Scene::start(variant, &routes);
        scene.expect("c", "c");
        scene.expect("a", "a");
        scene.expect("b", "404");
        scene.world.put(RDS, table("table-a", "a2"));
        scene.publish();
        scene.expect("a", "a2");
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn config_dump_shows_scopes() {
    let scene = Scene::start(Variant::Delta, &by_srds());
    scene.expect("a", "a");
    let list = "dynamic_scoped_route_configs";
    let page = scene.proxy.admin_get(&format!("/config_dump?resource={list}"));
    let dump: Value = serde_json::from_str(&page.text()).unwrap();
    let one = &dump["configs"][0];
    assert_eq!(one["name"], "tenants");
    assert_eq!(one["scoped_route_configs"][0]["name"], "one");
    assert_eq!(one["scoped_route_configs"][0]["route_configuration_name"], "table-a");
    if !is_envoy() {
        assert_eq!(one["client_status"], "ACKED");
    }
}
