//! Scoped routes: keys of requests, scopes of a listener and of servers (contract section 5; xds.md
//! V-02, V-03, W-07).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]
#![allow(clippy::needless_pass_by_value, reason = "arguments are written where they are used")]

mod common;
#[path = "common/request.rs"]
mod request;

use std::fs;
use std::sync::Arc;

use common::*;
use outrigger_xds::client::ResourceType;
use outrigger_xds::snapshot::*;
use outrigger_xds::store::{Incoming, Interest, Outcome, ScopeCounts, Store, Watched};
use proptest::prelude::{ProptestConfig, prop, prop_assert_eq, proptest};
use serde_json::{Value, json};

const SCOPE: &str = "envoy.config.route.v3.ScopedRouteConfiguration";
const TABLES: &str = "envoy.config.route.v3.RouteConfiguration";

/// The listener `web` with these scoped routes.
fn scoped(fields: Value) -> Value {
    let mut bootstrap = http();
    let manager = bootstrap.pointer_mut(HCM).unwrap().as_object_mut().unwrap();
    manager.remove("route_config");
    let mut scoped = json!({"name": "scopes", "scope_key_builder": by_index("x-scope", "", 0)});
    scoped.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    manager.insert("scoped_routes".to_owned(), scoped);
    bootstrap
}

fn by_index(header: &str, separator: &str, index: u32) -> Value {
    json!({"fragments": [{"header_value_extractor":
        {"name": header, "element_separator": separator, "index": index}}]})
}

fn table_to(name: &str, status: u32) -> Value {
    json!({"name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": status}}]}]})
}

fn key(fragments: &[&str]) -> Value {
    let fragments: Vec<_> = fragments.iter().map(|text| json!({"string_key": text})).collect();
    json!({ "fragments": fragments })
}

fn inline_scope(name: &str, fragments: &[&str], status: u32) -> Value {
    json!({"name": name, "key": key(fragments), "route_configuration": table_to("t", status)})
}

fn named_scope(name: &str, fragments: &[&str], table: &str) -> Value {
    json!({"name": name, "key": key(fragments), "route_configuration_name": table})
}

fn list(scopes: &[Value]) -> Value {
    json!({"scoped_route_configurations_list": {"scoped_route_configurations": scopes}})
}

fn file(path: &str) -> Value {
    json!({"path_config_source": {"path": path}})
}

fn served() -> Value {
    scoped(json!({"rds_config_source": file("/tables"),
        "scoped_rds": {"scoped_rds_config_source": file("/scopes")}}))
}

fn place(path: &str) -> ConfigPlace {
    ConfigPlace::Path(Arc::new(PathConfigSource {
        path: std::path::Path::new(path).into(),
        watched_directory: None,
    }))
}

/// A store, and how its scopes are looked up.
struct Scene {
    store: Store,
    scoped: Arc<ScopedRoutes>,
}

impl Scene {
    #[track_caller]
    fn new(bootstrap: &Value) -> Scene {
        let loaded = loaded(bootstrap);
        let RouteSource::Scoped(scoped) = &hcm(&loaded).routes else { panic!("not scoped") };
        let scoped = Arc::clone(scoped);
        Scene { store: Store::new(loaded.ground, &loaded.snapshot, false), scoped }
    }

    fn incoming(&self, kind: &str, resource: &Value) -> Incoming {
        let content = json!({"version_info": resource.to_string(),
            "resources": [any_with(kind, resource.clone())]});
        let path = std::env::temp_dir().join(format!(
            "outrigger-scopes-{}-{:?}.json",
            std::process::id(),
            std::thread::current().id()
        ));
        fs::write(&path, content.to_string()).unwrap();
        let mut read = self.store.read_file(&path).unwrap();
        fs::remove_file(&path).unwrap();
        read.resources.remove(0).1
    }

    /// Puts the scopes of one response.
    fn put(&mut self, scopes: &[Value]) -> Vec<Result<(), String>> {
        let kind = ResourceType::ScopedRouteConfiguration;
        let place = place("/scopes");
        let all: Vec<_> = scopes.iter().map(|scope| self.incoming(SCOPE, scope)).collect();
        let put = all.iter().map(|it| self.store.put(kind, &place, it, &mut Nothing));
        let mut outcome: Vec<_> = put.collect();
        let mut refused = self.store.judge_together(kind, &place);
        for (incoming, outcome) in all.iter().zip(&mut outcome) {
            *outcome = refused.remove(&*incoming.name).map_or(outcome.clone(), Err);
        }
        self.store.answered(kind, &place);
        outcome
    }

    fn remove(&mut self, name: &str) {
        self.store.remove(ResourceType::ScopedRouteConfiguration, &place("/scopes"), name);
    }

    fn put_table(&mut self, name: &str, status: u32) {
        let incoming = self.incoming(TABLES, &table_to(name, status));
        let kind = ResourceType::RouteConfiguration;
        self.store.put(kind, &place("/tables"), &incoming, &mut Nothing).unwrap();
    }

    /// What a request is answered with; nothing where it has no scope, or that no routes.
    fn status(&mut self, headers: &[(&'static str, &'static str)]) -> Option<u16> {
        self.store.take_changes();
        let map = Arc::clone(self.store.snapshot().scopes.get(&self.scoped.key)?);
        let request = request::Request::to("host", "/").with(headers);
        let (_, table) = map.find(&self.scoped.key_builder, &request)?;
        match &table.find(&request, 0)?.action {
            RouteAction::DirectResponse(direct) => Some(direct.status),
            other => panic!("{other:?}"),
        }
    }

    fn status_of(&mut self, scope: &'static str) -> Option<u16> {
        self.status(&[("x-scope", scope)])
    }

    /// The words of what was asked for since this was last called.
    fn asked(&mut self) -> Vec<String> {
        let interests = self.store.take_interests().into_iter().map(|interest| match interest {
            Interest::All(kind, _) => format!("all {}", kind.service()),
            Interest::One(kind, _, name) => format!("{} {name}", kind.service()),
            Interest::Again(kind, _, name) => format!("again {} {name}", kind.service()),
            Interest::None(kind, _, name) => format!("no {} {name}", kind.service()),
        });
        interests.collect()
    }

    fn is_served(&self) -> bool {
        self.store.snapshot().listener("web").is_some()
    }
}

/// How a request's key is made; `None`: it has none.
fn fragment(builder: Value, headers: &[(&'static str, &'static str)]) -> Option<String> {
    let fields = json!({"scope_key_builder": builder,
        "scoped_route_configurations_list":
            {"scoped_route_configurations": [inline_scope("a", &["a"], 200)]}});
    let scene = Scene::new(&scoped(fields));
    let request = request::Request::to("host:80", "/path").with(headers);
    let finds = |key: &str| {
        let map = [(Box::from([key.into()]), Arc::new(RouteTable::empty("")))];
        ScopeMap::new(map).find(&scene.scoped.key_builder, &request).is_some()
    };
    let values = ["", "a", "b", "c", "a=b", "a=1;b=2", "1", "2", "2=3", "x,y", "host:80", "/path"];
    values.into_iter().find(|key| finds(key)).map(str::to_owned)
}

#[test]
fn section_5_a_fragment_is_an_element_by_its_number() {
    let is = |builder: Value, value: &'static str| fragment(builder, &[("x-scope", value)]);
    assert_eq!(is(by_index("X-Scope", "", 0), "x,y").as_deref(), Some("x,y"));
    assert_eq!(is(by_index("x-scope", ",", 0), "a,b").as_deref(), Some("a"));
    assert_eq!(is(by_index("x-scope", ",", 2), "a,b,c").as_deref(), Some("c"));
    assert_eq!(is(by_index("x-scope", ",", 1), "a,").as_deref(), Some(""));
    assert_eq!(is(by_index("x-scope", ",", 2), "a,b"), None);
    assert_eq!(is(by_index("x-scope", "::", 1), "x::b").as_deref(), Some("b"));
    assert_eq!(is(by_index("x-other", ",", 0), "a"), None);
    // Of several fields of a name, the first.
    let twice = [("x-scope", "a"), ("x-scope", "b")];
    assert_eq!(fragment(by_index("x-scope", "", 0), &twice).as_deref(), Some("a"));
    assert_eq!(fragment(by_index(":authority", "", 0), &[]).as_deref(), Some("host:80"));
    assert_eq!(fragment(by_index(":path", "", 0), &[]).as_deref(), Some("/path"));
}

#[test]
fn section_5_a_fragment_is_the_value_of_a_key() {
    let by_key = |separator: &str| {
        json!({"fragments": [{"header_value_extractor": {"name": "x-scope",
            "element_separator": separator, "element": {"separator": "=", "key": "b"}}}]})
    };
    let is = |separator, value: &'static str| fragment(by_key(separator), &[("x-scope", value)]);
    assert_eq!(is(";", "a=1;b=2").as_deref(), Some("2"));
    assert_eq!(is(";", "b=1;b=2").as_deref(), Some("1"));
    assert_eq!(is(";", "b=2=3").as_deref(), Some("2=3"));
    assert_eq!(is(";", "a;b").as_deref(), Some(""));
    assert_eq!(is(";", "a=b"), None);
    assert_eq!(is("", "b=a=1;b=2").as_deref(), Some("a=1;b=2"));
}

#[test]
fn section_5_what_is_wrong_with_scoped_routes_is_refused_with_its_path() {
    let at = "Listener web: filter_chains[0].filters[0].typed_config(HttpConnectionManager)";
    let builder = |fragments: Value| json!({"scope_key_builder": {"fragments": fragments}});
    let element = |fields: Value| {
        let mut fields = fields;
        fields["name"] = "x".into();
        let one = builder(json!([{ "header_value_extractor": fields }]));
        let mut all = list(&[inline_scope("a", &["a"], 200)]);
        all.as_object_mut().unwrap().extend(one.as_object().unwrap().clone());
        all
    };
    let scopes = "scoped_routes.scoped_route_configurations_list.scoped_route_configurations";
    let extractor = "scoped_routes.scope_key_builder.fragments[0].header_value_extractor";
    let mut both = inline_scope("a", &["a"], 200);
    both["route_configuration_name"] = "t".into();
    let cases = [
        (json!({}), "scoped_routes.config_specifier: is required".to_owned()),
        (
            list(&[both]),
            format!(
                "{scopes}[0].route_configuration: must not be there beside route_configuration_name"
            ),
        ),
        (
            list(&[named_scope("a", &["a"], "t")]),
            format!(
                "{scopes}[0].route_configuration_name: needs rds_config_source of the connection \
                 manager's scoped_routes"
            ),
        ),
        (
            list(&[inline_scope("a", &["a"], 200), inline_scope("b", &["a"], 200)]),
            format!("{scopes}[1].key: is used twice"),
        ),
        (
            list(&[inline_scope("a", &["a"], 200), inline_scope("a", &["b"], 200)]),
            format!("{scopes}[1].name: \"a\" is used twice"),
        ),
        (
            element(json!({"index": 1})),
            format!("{extractor}.index: must be 0 where there is no element_separator"),
        ),
        (element(json!({})), format!("{extractor}.extract_type: is required")),
        (
            json!({"scoped_rds": {"scoped_rds_config_source": file("/scopes"),
                "srds_resources_locator": "xdstp://a"}}),
            "scoped_routes.scoped_rds.srds_resources_locator: not supported".to_owned(),
        ),
    ];
    for (fields, complaint) in cases {
        let text = refusal(&scoped(fields));
        assert!(text.contains(&format!("{at}.{complaint}")), "{text}\nis not\n{complaint}");
    }
}

#[test]
fn w_07_a_listener_with_scopes_waits_for_the_tables_that_they_name() {
    let mut fields = list(&[inline_scope("a", &["a"], 201), named_scope("b", &["b"], "late")]);
    fields["rds_config_source"] = file("/tables");
    let mut scene = Scene::new(&scoped(fields));
    assert!(!scene.is_served());
    assert_eq!(scene.asked(), ["RDS late"]);
    assert_eq!(scene.store.cold(), ["listener web: routes late"]);
    scene.put_table("late", 202);
    assert!(scene.is_served());
    assert_eq!((scene.status_of("a"), scene.status_of("b")), (Some(201), Some(202)));
    assert_eq!((scene.status_of("c"), scene.status(&[])), (None, None));
    scene.put_table("late", 203);
    assert_eq!(scene.status_of("b"), Some(203));
}

#[test]
fn w_07_a_listener_waits_for_its_scopes_and_for_their_tables() {
    let mut scene = Scene::new(&served());
    assert_eq!(scene.asked(), ["all SRDS"]);
    assert_eq!(scene.store.cold(), ["listener web: scopes scopes"]);
    assert_eq!(scene.put(&[named_scope("a", &["a"], "t")]), [Ok(())]);
    assert!(!scene.is_served());
    assert_eq!(scene.asked(), ["RDS t"]);
    scene.put_table("t", 201);
    assert!(scene.is_served());
    assert_eq!(scene.status_of("a"), Some(201));
    // Another with the same table asks for nothing.
    assert_eq!(scene.put(&[named_scope("b", &["b"], "t")]), [Ok(())]);
    assert_eq!(scene.asked(), [""; 0]);
    assert_eq!(scene.status_of("b"), Some(201));
    // One whose next table is late is served by its last.
    assert_eq!(scene.put(&[named_scope("a", &["a"], "late")]), [Ok(())]);
    assert_eq!(scene.asked(), ["RDS late"]);
    assert_eq!(scene.status_of("a"), Some(201));
    scene.put_table("late", 202);
    assert_eq!((scene.status_of("a"), scene.status_of("b")), (Some(202), Some(201)));
    scene.remove("b");
    assert_eq!(scene.asked(), ["no RDS t"]);
    assert_eq!((scene.status_of("a"), scene.status_of("b")), (Some(202), None));
}

#[test]
fn v_02_and_v_03_a_key_is_one_scopes() {
    let mut scene = Scene::new(&served());
    let (a, b) = (inline_scope("a", &["a"], 201), inline_scope("b", &["b"], 202));
    assert_eq!(scene.put(&[a.clone(), b.clone()]), [Ok(()), Ok(())]);
    assert!(scene.is_served());
    // One that is taken is refused, and the version before it is served.
    let taken = Err("key: is that of scope \"b\", too".to_owned());
    assert_eq!(scene.put(&[inline_scope("a", &["b"], 203)]), [taken]);
    assert_eq!((scene.status_of("a"), scene.status_of("b")), (Some(201), Some(202)));
    // Of two with one key neither is taken, and what is good beside them is.
    let is_of = |name: &str| Err(format!("key: is that of scope {name:?}, too"));
    let twice = [("c", "c", 204), ("a", "f", 203), ("d", "c", 205)]
        .map(|(name, key, status)| inline_scope(name, &[key], status));
    assert_eq!(scene.put(&twice), [is_of("d"), Ok(()), is_of("c")]);
    assert_eq!((scene.status_of("c"), scene.status_of("f")), (None, Some(203)));
    let errors = scene.store.scopes().next().unwrap().2.into_iter().map(|shown| shown.error);
    assert_eq!(errors.flatten().count(), 2);
    // Who is refused keeps its key, which those who would have it don't get, and so on.
    let chain =
        [("c", "c", 204), ("d", "c", 205), ("a", "c", 206), ("b", "f", 207), ("e", "b", 208)]
            .map(|(name, key, status)| inline_scope(name, &[key], status));
    let refused = [is_of("a"), is_of("a"), is_of("c"), is_of("a"), is_of("b")];
    assert_eq!(scene.put(&chain), refused);
    assert_eq!((scene.status_of("f"), scene.status_of("b")), (Some(203), Some(202)));
    assert_eq!(scene.status_of("c"), None);
    scene.put(std::slice::from_ref(&a));
    // Scopes change places within a response.
    let swap = [inline_scope("a", &["b"], 206), inline_scope("b", &["a"], 207)];
    assert_eq!(scene.put(&swap), [Ok(()), Ok(())]);
    assert_eq!((scene.status_of("a"), scene.status_of("b")), (Some(207), Some(206)));
    // The key of one that stays is its own, wherever it is in the response.
    for order in [[0, 1], [1, 0]] {
        let both = [inline_scope("e", &["a"], 208), swap[1].clone()];
        let outcome = scene.put(&order.map(|at| both[at].clone()));
        assert_eq!(order.map(|at| outcome[at].clone()), [is_of("b"), Ok(())]);
        assert_eq!(scene.status_of("a"), Some(207));
    }
    // A key that was given up can be taken.
    scene.remove("a");
    assert_eq!(scene.put(&[inline_scope("d", &["b"], 209)]), [Ok(())]);
    assert_eq!(scene.status_of("b"), Some(209));
}

#[test]
fn v_03_a_scope_that_is_refused_stays_as_it_was() {
    let mut scene = Scene::new(&served());
    assert_eq!(scene.put(&[inline_scope("a", &["a"], 201)]), [Ok(())]);
    let mut bad = inline_scope("a", &["a"], 202);
    bad["route_configuration"]["virtual_hosts"][0]["domains"] = json!([]);
    let [Err(text)] = &scene.put(&[bad])[..] else { panic!("was not refused") };
    assert_eq!(text, "route_configuration.virtual_hosts[0].domains: is required");
    assert_eq!(scene.status_of("a"), Some(201));
    let (name, _, all) = scene.store.scopes().next().unwrap();
    assert_eq!((name, all.len()), ("scopes", 1));
    assert!(all[0].record.is_some() && all[0].error.is_some());
    // A route of a server's may name a cluster that is not there (W-02).
    let mut unknown = inline_scope("b", &["b"], 201);
    unknown["route_configuration"]["virtual_hosts"][0]["routes"][0] =
        json!({"match": {"prefix": "/"}, "route": {"cluster": "never"}});
    assert_eq!(scene.put(&[unknown]), [Ok(())]);
}

#[test]
fn what_was_kept_is_served_again() {
    let mut scene = Scene::new(&served());
    scene.put(&[inline_scope("a", &["a"], 201), named_scope("b", &["b"], "t")]);
    scene.put_table("t", 202);
    let kept = scene.store.keep();
    let mut next = Scene::new(&served());
    assert_eq!(next.store.restore(kept.clone(), &mut Nothing), kept);
    assert!(next.is_served());
    assert_eq!((next.status_of("a"), next.status_of("b")), (Some(201), Some(202)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// A key is found by all of its fragments in their order, and by nothing else.
    #[test]
    fn a_key_is_found_and_no_other(
        keys in prop::collection::btree_set(prop::collection::vec("[ab]{0,2}", 1..4), 1..20),
        asked in prop::collection::vec("[ab]{0,2}", 1..4),
    ) {
        let tables = keys.iter().enumerate().map(|(number, key)| {
            let key: ScopeKey = key.iter().map(|text| text.as_str().into()).collect();
            (key, Arc::new(RouteTable::empty(&number.to_string())))
        });
        let map = ScopeMap::new(tables);
        prop_assert_eq!(map.len(), keys.len());
        let extractors = (0..asked.len()).map(|index| HeaderValueExtractor {
            header: HeaderName::new("x"),
            separator: ",".into(),
            element: ScopeElement::Index(index as u32),
        });
        let builder = ScopeKeyBuilder(extractors.collect());
        let value: &'static str = Box::leak(asked.join(",").into_boxed_str());
        let request = request::Request::to("host", "/").with(&[("x", value)]);
        let found = map.find(&builder, &request).map(|(_, table)| table.name().to_owned());
        let expected = keys.iter().position(|key| *key == asked).map(|at| at.to_string());
        prop_assert_eq!(found, expected);
    }
}

fn on_demand(mut scope: Value) -> Value {
    scope["on_demand"] = true.into();
    scope
}

impl Scene {
    /// What could be asked for, for a request of this scope.
    fn demand(&mut self, scope: &'static str) -> Option<Demand> {
        self.store.take_changes();
        let map = Arc::clone(self.store.snapshot().scopes.get(&self.scoped.key)?);
        let request = request::Request::to("host", "/").with(&[]);
        let request = request.with(&[("x-scope", scope)]);
        let (_, table) = map.find(&self.scoped.key_builder, &request)?;
        assert!(table.find(&request, 0).is_none());
        table.demand(&request)
    }

    fn settled(&mut self) -> Vec<String> {
        let settled = self.store.take_settled().into_iter().map(|demand| match demand {
            Demand::Scope { scope, .. } => scope.to_string(),
            other => panic!("{other:?}"),
        });
        settled.collect()
    }
}

#[test]
fn d_17_the_table_of_a_scope_on_demand_is_asked_for_when_a_request_needs_it() {
    let mut scene = Scene::new(&served());
    scene.asked();
    let (one, two) = (named_scope("one", &["a"], "t"), named_scope("two", &["b"], "u"));
    scene.put(&[on_demand(one.clone()), two]);
    assert_eq!(scene.asked(), ["RDS u"]);
    assert!(!scene.is_served());
    // A listener waits for the other only.
    scene.put_table("u", 201);
    assert!(scene.is_served());
    assert_eq!(scene.status_of("b"), Some(201));
    assert_eq!((scene.status_of("a"), scene.demand("c")), (None, None));
    assert_eq!(scene.asked(), [""; 0]);
    let demand = scene.demand("a").unwrap();
    scene.store.demand(demand.clone()).unwrap();
    scene.store.demand(demand.clone()).unwrap();
    assert_eq!(scene.asked(), ["RDS t"]);
    assert_eq!(scene.settled(), [""; 0]);
    assert_eq!(scene.demand("a"), Some(demand.clone()));
    scene.put_table("t", 202);
    assert_eq!(scene.settled(), ["one"]);
    assert_eq!((scene.status_of("a"), scene.demand("c")), (Some(202), None));
    // What comes later is in effect, and so is another table.
    scene.put_table("t", 203);
    assert_eq!(scene.status_of("a"), Some(203));
    scene.put(&[on_demand(named_scope("one", &["a"], "v"))]);
    assert_eq!(scene.asked(), ["RDS v"]);
    assert_eq!(scene.status_of("a"), Some(203));
    scene.put_table("v", 204);
    assert_eq!((scene.status_of("a"), scene.asked()), (Some(204), vec!["no RDS t".to_owned()]));
    // A demand that comes late is settled at once.
    scene.settled();
    scene.store.demand(demand.clone()).unwrap();
    assert_eq!(scene.settled(), ["one"]);
    scene.remove("one");
    assert_eq!(scene.asked(), ["no RDS v"]);
    scene.settled();
    scene.store.demand(demand).unwrap();
    assert_eq!((scene.settled(), scene.demand("a")), (vec!["one".to_owned()], None));
}

#[test]
fn d_17_a_demand_ends_when_the_table_does_not_come_or_its_scope_goes() {
    let ends: [fn(&mut Scene); 3] = [
        |scene| {
            let kind = ResourceType::RouteConfiguration;
            scene.store.never_came(kind, &place("/tables"), "t");
        },
        |scene| scene.remove("one"),
        |scene| scene.store.remove(ResourceType::RouteConfiguration, &place("/tables"), "t"),
    ];
    for (at, end) in ends.into_iter().enumerate() {
        let mut scene = Scene::new(&served());
        scene.put(&[on_demand(named_scope("one", &["a"], "t"))]);
        let demand = scene.demand("a").unwrap();
        scene.store.demand(demand).unwrap();
        assert_eq!(scene.settled(), [""; 0]);
        end(&mut scene);
        assert_eq!(scene.settled(), ["one"], "{at}");
        // There is nothing to ask for any more.
        assert_eq!((scene.status_of("a"), scene.demand("a")), (None, None));
    }
    // Without need of a server, there is nothing to demand.
    let mut scene = Scene::new(&scoped(list(&[on_demand(inline_scope("a", &["a"], 201))])));
    assert_eq!(scene.status_of("a"), Some(201));
}

#[test]
fn scopes_are_counted_and_what_servers_say_of_them() {
    let mut scene = Scene::new(&served());
    let outcomes = |scene: &mut Scene| -> Vec<Outcome> {
        let all = scene.store.take_outcomes().into_iter();
        let mine = all.filter(|(watched, _)| {
            matches!(watched, Watched::Scopes(prefix, name) if (&**prefix, &**name) == ("web", "scopes"))
        });
        mine.map(|(_, outcome)| outcome).collect()
    };
    let counts = |scene: &mut Scene| {
        scene.store.take_changes();
        let all: Vec<_> = scene.store.scope_counts().collect();
        assert_eq!((all.len(), all[0].0, all[0].1), (1, "web", "scopes"));
        let ScopeCounts { all, active, on_demand } = all[0].2;
        (all, active, on_demand)
    };
    assert_eq!(outcomes(&mut scene), [Outcome::Asked]);
    let (one, two) = (named_scope("one", &["a"], "t"), named_scope("two", &["b"], "u"));
    scene.put(&[on_demand(one.clone()), two]);
    assert_eq!(outcomes(&mut scene), [Outcome::Accepted, Outcome::Reloaded]);
    assert_eq!(counts(&mut scene), (2, 1, 1));
    let demand = Demand::Scope { set: (&*scene.scoped.key).into(), scope: "one".into() };
    scene.store.demand(demand).unwrap();
    assert_eq!(counts(&mut scene), (2, 2, 1));
    // What is refused is none.
    scene.put(&[named_scope("three", &["b"], "u")]);
    assert_eq!(outcomes(&mut scene), [Outcome::Refused]);
    assert_eq!(counts(&mut scene), (2, 2, 1));
    scene.remove("one");
    assert_eq!(counts(&mut scene), (1, 1, 0));
    assert_eq!(outcomes(&mut scene), []);
    scene.put(&[]);
    assert_eq!(outcomes(&mut scene), [Outcome::Accepted, Outcome::Empty]);
    scene.store.answered(ResourceType::ScopedRouteConfiguration, &place("/scopes"));
    assert_eq!(outcomes(&mut scene), [Outcome::TimedOut]);
}
