//! Virtual hosts and tables of scopes that are asked for when a request needs them (xds.md D-13, D-17).

use outrigger_tests::control_plane::{
    CDS, EDS, LDS, RDS, SRDS, VHDS, Variant, World, ads, aggregated, api_source, assignment,
    dynamic, eds_cluster, http_listener, rds, route_table, to_cluster,
};
use outrigger_tests::http2::Http2Client;
use outrigger_tests::{Client, ControlPlane, eventually};
use serde_json::{Value, json};

use super::{Scene, await_listener, is_envoy, launch, named_origin};

const ON_DEMAND: &str = "type.googleapis.com/envoy.extensions.filters.http.on_demand.v3.OnDemand";
const SOAP: &str = "type.googleapis.com/outrigger.filters.http.soap.v1.Soap";
const TYPED_STRUCT: &str = "type.googleapis.com/udpa.type.v1.TypedStruct";
const CANCEL: u32 = 8;

/// A listener with these filters before the router.
fn with_filters(mut listener: Value, filters: &[Value]) -> Value {
    let path = "/filter_chains/0/filters/0/typed_config/http_filters";
    let all = listener.pointer_mut(path).unwrap().as_array_mut().unwrap();
    for (at, filter) in filters.iter().enumerate() {
        all.insert(at, json!({"name": format!("f{at}"), "typed_config": filter}));
    }
    listener
}

fn on_demand(listener: Value) -> Value {
    with_filters(listener, &[json!({"@type": ON_DEMAND})])
}

/// Routes with a host of their own, and others from the aggregated stream.
fn hosted(patience: &str) -> Value {
    let mut source = ads();
    source["initial_fetch_timeout"] = patience.into();
    json!({
        "name": "hosted",
        "vhds": {"config_source": source},
        "virtual_hosts": [{"name": "own", "domains": ["own.test"], "routes": [to_cluster("a")]}],
    })
}

/// A virtual host that is known by its only domain, and says that.
fn host(domain: &str, says: &str) -> Value {
    json!({
        "name": format!("hosted/{domain}"),
        "domains": [domain],
        "routes": [{"match": {"prefix": "/"}, "direct_response": {
            "status": 200, "body": {"inline_string": says},
        }}],
    })
}

/// One whose requests go to the origin.
fn host_to_origin(domain: &str) -> Value {
    json!({
        "name": format!("hosted/{domain}"), "domains": [domain], "routes": [to_cluster("a")],
    })
}

/// A proxy of one shard with a listener `hosted`; the server says nothing more of virtual hosts by itself.
#[track_caller]
fn start(filters: &[Value]) -> Scene {
    let mut scene = started(ControlPlane::python(), filters, "0s");
    let ready = scene.server.await_event("a question", 0, |event| event.is_request(VHDS));
    assert!(is_envoy() || ready.subscribe == ["hosted"]);
    // The only one of which it says so unasked. Envoy waits for one.
    scene.send(VHDS, "0", &[host("first.test", "0")]);
    await_listener(&scene.proxy, "hosted");
    scene
}

#[track_caller]
fn started(server: ControlPlane, filters: &[Value], patience: &str) -> Scene {
    let mut server = server.listening(json!({}));
    let (a, b) = (named_origin("a"), named_origin("b"));
    let mut world = World::default();
    world.put(CDS, eds_cluster("a", ads())).put(EDS, assignment("a", &[a.address()]));
    world.put(LDS, http_listener("main", &rds("routes", ads())));
    world.put(RDS, route_table("routes", json!([to_cluster("a")])));
    world.publish(&mut server);
    let proxy = launch(&aggregated(server.address(), Variant::Delta)).shards(1).start();
    server.hold(&[VHDS]);
    let listener = http_listener("hosted", &rds("hosted", ads()));
    world.put(LDS, with_filters(listener, filters)).put(RDS, hosted(patience));
    world.publish(&mut server);
    Scene { server, world, proxy, a, b, variant: Variant::Delta }
}

impl Scene {
    fn hosted(&self) -> Client {
        Client::connect(&await_listener(&self.proxy, "hosted"))
    }

    /// Sends a request for a host, which is not answered yet.
    #[track_caller]
    fn ask(&self, host: &str) -> Client {
        let mut client = self.hosted();
        client.send(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        client
    }

    /// Waits until a virtual host was asked for.
    #[track_caller]
    fn await_question(&mut self, from: usize, name: &str) {
        let what = format!("a question for {name}");
        self.server.await_event(&what, from, |event| event.subscribe.iter().any(|it| it == name));
    }

    /// Says that there are no such virtual hosts.
    fn deny(&mut self, names: &[&str]) {
        let response = json!({"system_version_info": "x", "removed_resources": names});
        self.server.send(VHDS, response);
    }

    /// Waits until as many requests wait.
    #[track_caller]
    fn expect_held(&self, count: u64) {
        if !is_envoy() {
            self.proxy.expect_stat("on_demand.rq_held_active", count);
        }
    }

    /// Waits until a request for a host is answered so.
    #[track_caller]
    fn expect_host(&self, host: &str, wanted: &str) {
        eventually(&format!("{wanted} of {host}"), || {
            (answer(&mut self.ask(host)) == wanted).then_some(())
        });
    }
}

/// The body, or the status.
#[track_caller]
fn answer(client: &mut Client) -> String {
    let response = client.response();
    if response.status == 200 { response.text() } else { response.status.to_string() }
}

fn only_on_demand() -> [Value; 1] {
    [json!({"@type": ON_DEMAND})]
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d17_a_request_waits_for_its_virtual_host_which_changes_and_goes() {
    let mut scene = start(&only_on_demand());
    // What is there needs no waiting.
    assert!(answer(&mut scene.ask("own.test")).starts_with("a GET"));
    let from = scene.server.mark();
    let (mut one, mut other) = (scene.ask("One.test:81"), scene.ask("one.test:81"));
    scene.await_question(from, "hosted/one.test:81");
    scene.expect_held(2);
    scene.send(VHDS, "1", &[host("one.test:81", "1")]);
    assert_eq!((answer(&mut one), answer(&mut other)), ("1".to_owned(), "1".to_owned()));
    scene.expect_held(0);
    // It is asked for once, and what is pushed afterwards is in effect.
    scene.send(VHDS, "2", &[host("one.test:81", "2")]);
    scene.expect_host("one.test:81", "2");
    let asked = scene.server.events()[from..].iter().filter(|event| !event.subscribe.is_empty());
    assert_eq!(asked.count(), 1);
    // On HTTP/2, while another stream goes on.
    let from = scene.server.mark();
    let http2 = Http2Client::connect(&await_listener(&scene.proxy, "hosted"));
    let mut held = http2.open("GET", "/", &[(":authority", "two.test")], true);
    scene.await_question(from, "hosted/two.test");
    let fields = [(":authority", "one.test:81")];
    assert_eq!(http2.ask("GET", "/", &fields, b"").text(), "2");
    scene.send(VHDS, "3", &[host("two.test", "3")]);
    assert_eq!(held.response().unwrap().text(), "3");
    // What is taken away is asked for again when it is needed.
    scene.deny(&["hosted/one.test:81"]);
    if is_envoy() {
        return;
    }
    let is_left =
        |event: &outrigger_tests::control_plane::Event| event.unsubscribe == ["hosted/one.test:81"];
    scene.server.await_event("its end", from, is_left);
    let from = scene.server.mark();
    let mut one = scene.ask("one.test:81");
    scene.await_question(from, "hosted/one.test:81");
    scene.send(VHDS, "4", &[host("one.test:81", "4")]);
    assert_eq!(answer(&mut one), "4");
    scene.proxy.expect_stat("on_demand.virtual_hosts", 2);
    scene.proxy.expect_stat("listener_manager.listener_modified", 0);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d13_and_d17_an_answer_by_an_alias_ends_the_wait() {
    let mut scene = start(&only_on_demand());
    let from = scene.server.mark();
    let mut one = scene.ask("one.test");
    scene.await_question(from, "hosted/one.test");
    let mut wild = host("*.test", "wild");
    wild["@type"] = VHDS.into();
    let resource = json!({
        "name": "hosted/wild", "aliases": ["hosted/one.test"], "version": "1", "resource": wild,
    });
    scene.server.send(VHDS, json!({"system_version_info": "1", "resources": [resource]}));
    assert_eq!(answer(&mut one), "wild");
    assert_eq!(answer(&mut scene.ask("two.test")), "wild");
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d17_404_when_there_is_no_such_virtual_host() {
    let mut scene = start(&only_on_demand());
    let from = scene.server.mark();
    let mut one = scene.ask("one.test");
    scene.await_question(from, "hosted/one.test");
    if is_envoy() {
        // It waits on.
        return;
    }
    scene.deny(&["hosted/one.test"]);
    assert_eq!(answer(&mut one), "404");
    scene.server.await_event("its end", from, |event| event.unsubscribe == ["hosted/one.test"]);
    // An answer without a resource says so, too, by the name that was asked for.
    let from = scene.server.mark();
    let mut two = scene.ask("two.test");
    scene.await_question(from, "hosted/two.test");
    let nothing = json!({"name": "hosted/x", "aliases": ["hosted/two.test"]});
    scene.server.send(VHDS, json!({"system_version_info": "1", "resources": [nothing]}));
    assert_eq!(answer(&mut two), "404");
    // One that is refused is no answer that helps.
    let from = scene.server.mark();
    let mut three = scene.ask("three.test");
    scene.await_question(from, "hosted/three.test");
    let mut bad = host("own.test", "3");
    bad["name"] = "hosted/three.test".into();
    scene.send(VHDS, "2", &[bad]);
    scene.server.await_event("a refusal", from, |event| event.is_nack(VHDS));
    assert_eq!(answer(&mut three), "404");
    scene.proxy.expect_stat("on_demand.rq_missed", 3);
    scene.proxy.expect_stat("on_demand.rq_timeout", 0);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d17_a_virtual_host_that_has_no_route_may_give_way_to_another() {
    let mut scene = start(&only_on_demand());
    let from = scene.server.mark();
    let mut zero = scene.hosted();
    zero.send("GET /there HTTP/1.1\r\nHost: zero.test\r\n\r\n");
    scene.await_question(from, "hosted/zero.test");
    let mut wild = host("*.test", "wild");
    wild["@type"] = VHDS.into();
    wild["routes"][0]["match"] = json!({"path": "/there"});
    let resource = json!({
        "name": "hosted/wild", "aliases": ["hosted/zero.test"], "version": "1", "resource": wild,
    });
    scene.server.send(VHDS, json!({"system_version_info": "1", "resources": [resource]}));
    assert_eq!(answer(&mut zero), "wild");
    let mut one = scene.ask("one.test");
    scene.await_question(from, "hosted/one.test");
    scene.send(VHDS, "2", &[host("one.test", "1")]);
    assert_eq!(answer(&mut one), "1");
    if is_envoy() {
        // It asks again and again for what it has, and waits for a route in it.
        return;
    }
    // What is here by that name is all that the server has, which says when it changes.
    let mut bare = host("one.test", "2");
    bare["routes"] = json!([]);
    let nonce = scene.send(VHDS, "3", &[bare]);
    scene.server.await_answer(VHDS, &nonce);
    scene.expect_host("one.test", "404");
    let from = scene.server.mark();
    for _ in 0..20 {
        assert_eq!(answer(&mut scene.ask("one.test")), "404");
    }
    let events = &scene.server.events()[from..];
    assert!(!events.iter().any(|event| event.is_request(VHDS)), "{events:?}");
    scene.send(VHDS, "4", &[host("one.test", "4")]);
    scene.expect_host("one.test", "4");
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d17_a_body_waits_at_the_client() {
    // The server knows no types of ours.
    let soap = json!({"@type": TYPED_STRUCT, "type_url": SOAP, "value": {"match_body": true}});
    let chains = [only_on_demand().to_vec(), [vec![soap], only_on_demand().to_vec()].concat()];
    for (at, filters) in chains.iter().enumerate().take(if is_envoy() { 1 } else { 2 }) {
        let mut scene = start(filters);
        let envelope = "<Envelope><Body><get/></Body></Envelope>";
        let body = envelope.to_owned() + &" ".repeat(BODY_BYTES);
        let head = format!(
            "POST / HTTP/1.1\r\nHost: big.test\r\ncontent-type: text/xml\r\nsoapaction: \"\"\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let from = scene.server.mark();
        let mut client = scene.hosted();
        let sender = std::thread::spawn(move || {
            client.send(head).send(body);
            client
        });
        scene.await_question(from, "hosted/big.test");
        scene.expect_held(1);
        if !is_envoy() {
            // No more of it is here than a connection may have unread.
            assert!(!sender.is_finished(), "{at}");
        }
        scene.send(VHDS, "1", &[host_to_origin("big.test")]);
        let response = sender.join().unwrap().response();
        assert_eq!(response.status, 200, "{at}");
        assert!(response.text().ends_with(&format!("[{envelope}{}]", " ".repeat(BODY_BYTES))));
    }
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d17_a_client_that_goes_away_leaves_nothing_behind() {
    let mut scene = start(&only_on_demand());
    let from = scene.server.mark();
    let one = scene.ask("one.test");
    scene.await_question(from, "hosted/one.test");
    scene.expect_held(1);
    one.reset();
    scene.proxy.expect_stat("http.hosted.downstream_rq_active", 0);
    scene.expect_held(0);
    let http2 = Http2Client::connect(&await_listener(&scene.proxy, "hosted"));
    let mut held = http2.open("GET", "/", &[(":authority", "one.test")], true);
    let mut other = http2.open("GET", "/", &[(":authority", "one.test")], true);
    scene.expect_held(2);
    held.reset(CANCEL);
    scene.expect_held(1);
    if is_envoy() {
        return;
    }
    scene.deny(&["hosted/one.test"]);
    assert_eq!(other.response().unwrap().status, 404);
    scene.proxy.expect_stat("on_demand.virtual_hosts", 0);
    scene.proxy.expect_stat("http.hosted.downstream_rq_active", 0);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d17_requests_that_wait_are_bounded() {
    if is_envoy() {
        // It has no bound.
        return;
    }
    let mut scene = start(&only_on_demand());
    let clients: Vec<Client> =
        (0..HELD_MAX + 8).map(|at| scene.ask(&format!("{at}.test"))).collect();
    scene.expect_held(HELD_MAX as u64);
    scene.proxy.expect_stat("on_demand.rq_overflow", 8);
    // Others are served meanwhile.
    assert!(answer(&mut scene.ask("own.test")).starts_with("a GET"));
    // The server denies them all.
    scene.world.put(VHDS, host("there.test", "there"));
    scene.publish();
    scene.server.release(&[VHDS]);
    for mut client in clients {
        assert_eq!(answer(&mut client), "404");
    }
    scene.expect_held(0);
    assert_eq!(answer(&mut scene.ask("there.test")), "there");
    scene.proxy.await_stat("on_demand.virtual_hosts", |count| count <= 1);
}

#[test]
#[ignore = "needs xds-python, which .ci/run installs"]
fn d17_hosts_that_clients_make_up_leave_nothing_behind() {
    if is_envoy() {
        return;
    }
    let mut scene = start(&only_on_demand());
    scene.world.put(VHDS, host("there.test", "there"));
    scene.publish();
    scene.server.release(&[VHDS]);
    scene.expect_host("there.test", "there");
    let mut client = scene.hosted();
    for at in 0..MADE_UP {
        client.send(format!("GET / HTTP/1.1\r\nHost: {at}.made-up.test\r\n\r\n"));
        assert_eq!(client.response().status, 404);
    }
    scene.proxy.expect_stat("on_demand.rq_missed", MADE_UP);
    scene.expect_held(0);
    scene.proxy.await_stat("on_demand.virtual_hosts", |count| count <= 1);
    let subscribed = scene.server.events().iter().map(|event| event.subscribe.len()).sum::<usize>();
    let is_left = || {
        scene.server.events().iter().map(|event| event.unsubscribe.len()).sum::<usize>()
            >= MADE_UP as usize
    };
    assert!(subscribed >= MADE_UP as usize);
    let mut is_left = is_left;
    eventually("the end of them", || is_left().then_some(()));
}

#[test]
#[ignore = "needs controlplane-peer, which .ci/run installs"]
fn d17_a_server_that_knows_only_names_is_asked_by_name() {
    let mut scene = started(ControlPlane::go(), &only_on_demand(), "0.5s");
    scene.world.put(VHDS, host("one.test", "1"));
    scene.publish();
    scene.server.release(&[VHDS]);
    await_listener(&scene.proxy, "hosted");
    assert_eq!(answer(&mut scene.ask("one.test")), "1");
    scene.world.put(VHDS, host("one.test", "2")).put(VHDS, host("two.test", "2"));
    scene.publish();
    scene.expect_host("one.test", "2");
    assert_eq!(answer(&mut scene.ask("two.test")), "2");
    if is_envoy() {
        return;
    }
    // It says nothing of what it has not.
    assert_eq!(answer(&mut scene.ask("three.test")), "404");
    scene.proxy.expect_stat("on_demand.rq_missed", 1);
    scene.server.await_event("its end", 0, |event| event.unsubscribe == ["hosted/three.test"]);
    // What was asked for is asked for again on the next stream.
    let from = scene.server.mark();
    scene.server.stop();
    scene.server.restart();
    scene.await_question(from, "hosted/one.test");
    scene.world.put(VHDS, host("one.test", "3"));
    scene.publish();
    scene.expect_host("one.test", "3");
}

/// Routes by the header `x-scope`.
fn scoped() -> Value {
    json!({"scoped_routes": {
        "name": "scopes",
        "scope_key_builder": {"fragments": [{"header_value_extractor": {
            "name": "x-scope", "index": 0,
        }}]},
        "rds_config_source": ads(),
        "scoped_rds": {"scoped_rds_config_source": ads()},
    }})
}

#[test]
#[ignore = "needs xds-python and controlplane-peer, which .ci/run installs"]
fn d17_the_table_of_a_scope_is_asked_for_when_a_request_needs_it() {
    // The one in Go keeps tables back until all of them are asked for, unless by delta.
    let servers: [(Variant, fn() -> ControlPlane); 3] = [
        (Variant::Sotw, ControlPlane::python),
        (Variant::Delta, ControlPlane::python),
        (Variant::Delta, ControlPlane::go),
    ];
    for (variant, server) in servers {
        let mut server = server().listening(json!({}));
        let origin = named_origin("a");
        let mut world = World::default();
        world.put(CDS, eds_cluster("a", ads())).put(EDS, assignment("a", &[origin.address()]));
        world.put(LDS, on_demand(http_listener("demanding", &scoped())));
        world.put(LDS, http_listener("plain", &scoped()));
        for (name, on_demand) in [("now", false), ("later", true)] {
            world.put(
                SRDS,
                json!({
                    "name": name, "on_demand": on_demand, "route_configuration_name": name,
                    "key": {"fragments": [{"string_key": name}]},
                }),
            );
            world.put(RDS, route_table(name, json!([to_cluster("a")])));
        }
        world.publish(&mut server);
        let proxy = launch(&aggregated(server.address(), variant)).start();
        let get = |listener: &str, scope: &str| {
            let mut client = Client::connect(&await_listener(&proxy, listener));
            let fields = format!("Host: test\r\nx-scope: {scope}");
            client.send(format!("GET /{scope} HTTP/1.1\r\n{fields}\r\n\r\n")).response().status
        };
        eventually("the scopes", || (get("plain", "now") == 200).then_some(()));
        // Without the filter nobody asks.
        assert_eq!(get("plain", "later"), 404);
        let is_asked = |event: &outrigger_tests::control_plane::Event| {
            event.is_request(RDS)
                && event.names.iter().chain(&event.subscribe).any(|name| name == "later")
        };
        assert!(!server.events().iter().any(is_asked));
        assert_eq!(get("demanding", "now"), 200);
        assert_eq!(get("demanding", "none"), 404);
        assert_eq!(get("demanding", "later"), 200);
        server.await_event("a question", 0, is_asked);
        assert_eq!(get("plain", "later"), 200);
        // It changes like any other.
        world.put(
            RDS,
            route_table(
                "later",
                json!([
            {"match": {"prefix": "/"}, "direct_response": {"status": 418}}]),
            ),
        );
        world.publish(&mut server);
        eventually("the change", || (get("demanding", "later") == 418).then_some(()));
    }
}

/// A filter that asks the aggregated stream for clusters.
fn clusters_on_demand(timeout: &str) -> Value {
    json!({"@type": ON_DEMAND, "odcds": {"source": ads(), "timeout": timeout}})
}

#[test]
#[ignore = "needs xds-python and controlplane-peer, which .ci/run installs"]
fn d17_a_cluster_is_asked_for_when_a_request_needs_it() {
    let servers: [fn() -> ControlPlane; 2] = [ControlPlane::python, ControlPlane::go];
    for server in servers {
        let mut server = server().listening(json!({}));
        let origin = named_origin("a");
        let mut world = World::default();
        let routes = json!([
            {"match": {"prefix": "/a"}, "route": {"cluster": "a"}},
            {"match": {"prefix": "/none"}, "route": {"cluster": "none"}},
            {"match": {"prefix": "/"}, "route": {"cluster_header": "x-cluster"}},
        ]);
        world.put(RDS, route_table("routes", routes));
        let listener = |name| http_listener(name, &rds("routes", ads()));
        world.put(LDS, with_filters(listener("demanding"), &[clusters_on_demand("1s")]));
        world.put(LDS, listener("plain"));
        // Only who asks for them by name is told of them.
        for name in ["a", "b"] {
            world.put(CDS, eds_cluster(name, ads()));
            world.put(EDS, assignment(name, &[origin.address()]));
        }
        world.publish(&mut server);
        let mut source = api_source(Variant::Delta);
        source["set_node_on_first_message_only"] = true.into();
        let resources = json!({"ads_config": source, "lds_config": ads()});
        let proxy = launch(&dynamic(server.address(), resources)).start();
        let get = |listener: &str, target: &str, cluster: &str| {
            let mut client = Client::connect(&await_listener(&proxy, listener));
            let fields = format!("Host: test\r\nx-cluster: {cluster}");
            client.send(format!("GET {target} HTTP/1.1\r\n{fields}\r\n\r\n")).response().status
        };
        // Without it in the filter nobody asks.
        assert_eq!(get("plain", "/a", ""), 503);
        let is_asked = |name: &'static str| {
            move |event: &outrigger_tests::control_plane::Event| {
                event.is_request(CDS) && event.subscribe == [name]
            }
        };
        assert!(!server.events().iter().any(is_asked("a")));
        assert_eq!(get("demanding", "/a", ""), 200);
        server.await_event("a question", 0, is_asked("a"));
        assert_eq!(get("plain", "/a", ""), 200);
        // By a header's value, too.
        assert_eq!(get("demanding", "/", "b"), 200);
        server.await_event("a question", 0, is_asked("b"));
        // One that is not there, or goes.
        assert_eq!(get("demanding", "/none", ""), 503);
        assert_eq!(get("demanding", "/", "a b"), 503);
        world.remove(CDS, "b").remove(EDS, "b");
        world.publish(&mut server);
        eventually("its end", || (get("plain", "/", "b") == 503).then_some(()));
        if !is_envoy() {
            server.await_event("its end", 0, |event| event.unsubscribe == ["none"]);
            proxy.expect_stat("on_demand.clusters", 1);
            proxy.expect_stat("on_demand.rq_held_active", 0);
        }
    }
}

/// Much more than sockets and a connection of the proxy hold.
const BODY_BYTES: usize = 16 << 20;

/// Requests of one shard that may wait.
const HELD_MAX: usize = 512;

/// Hosts that a client makes up, more than a shard remembers.
const MADE_UP: u64 = 1500;
