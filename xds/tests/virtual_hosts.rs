//! Virtual hosts that come by themselves (contract section 6; xds.md D-13, V-02, V-03, W-07).

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
use outrigger_xds::store::{Incoming, Interest, Outcome, Shown, Store, TooManyDemands, Watched};
use serde_json::{Value, json};

const HOST_TYPE: &str = "envoy.config.route.v3.VirtualHost";
const TABLES: &str = "envoy.config.route.v3.RouteConfiguration";

/// Answers requests for these domains with that status.
fn host(name: &str, domains: &[&str], status: u32) -> Value {
    json!({"name": name, "domains": domains, "routes": [
        {"match": {"prefix": "/"}, "direct_response": {"status": status}}]})
}

fn table(hosts: &[Value]) -> Value {
    json!({"name": "t", "vhds": {"config_source": ads()}, "virtual_hosts": hosts})
}

struct Scene(Store);

impl Scene {
    fn new(bootstrap: &Value) -> Scene {
        let loaded = loaded(bootstrap);
        Scene(Store::new(loaded.ground, &loaded.snapshot, false))
    }

    /// With this table, and what was asked for taken.
    #[track_caller]
    fn with(hosts: &[Value]) -> Scene {
        let mut scene = Scene::new(&with_rds("DELTA_GRPC"));
        scene.put_table(&table(hosts)).unwrap();
        assert_eq!(scene.asked(), ["RDS t", "VHDS t"]);
        scene
    }

    fn incoming(&self, kind: &str, name: &str, resource: &Value) -> Incoming {
        let content = json!({"version_info": resource.to_string(),
            "resources": [any_with(kind, resource.clone())]});
        let path = std::env::temp_dir().join(format!(
            "outrigger-hosts-{}-{:?}.json",
            std::process::id(),
            std::thread::current().id()
        ));
        fs::write(&path, content.to_string()).unwrap();
        let mut read = self.0.read_file(&path).unwrap();
        fs::remove_file(&path).unwrap();
        Incoming { name: name.into(), ..read.resources.remove(0).1 }
    }

    fn put_table(&mut self, table: &Value) -> Result<(), String> {
        let incoming = self.incoming(TABLES, "t", table);
        let kind = ResourceType::RouteConfiguration;
        self.0.put(kind, &ConfigPlace::Ads, &incoming, &mut Nothing)
    }

    /// Takes a response with these virtual hosts in, each with the name of its resource, and those that
    /// are gone.
    fn put(&mut self, hosts: &[(&str, Value)], gone: &[&str]) -> Vec<Result<(), String>> {
        let all = hosts.iter().map(|(name, host)| self.incoming(HOST_TYPE, name, host));
        let all: Vec<_> = all.collect();
        self.take(&all, gone)
    }

    fn take(&mut self, all: &[Incoming], gone: &[&str]) -> Vec<Result<(), String>> {
        let (kind, place) = (ResourceType::VirtualHost, ConfigPlace::Ads);
        gone.iter().for_each(|name| self.0.remove(kind, &place, name));
        self.0.expect(kind, &place, all.iter().map(|incoming| &*incoming.name));
        let put = all.iter().map(|it| self.0.put(kind, &place, it, &mut Nothing));
        let outcome = put.collect();
        self.0.answered(kind, &place);
        outcome
    }

    fn asked(&mut self) -> Vec<String> {
        let interests = self.0.take_interests().into_iter().map(|interest| match interest {
            Interest::One(kind, _, name) => format!("{} {name}", kind.service()),
            Interest::None(kind, _, name) => format!("no {} {name}", kind.service()),
            other => format!("{other:?}"),
        });
        interests.collect()
    }

    fn is_served(&self) -> bool {
        self.0.snapshot().listener("web").is_some()
    }

    fn status(&mut self, authority: &str) -> Option<u16> {
        self.0.take_changes();
        let table = Arc::clone(self.0.snapshot().route_tables.get("t")?);
        let request = request::Request::to(authority, "/").with(&[]);
        match &table.find(&request, 0)?.action {
            RouteAction::DirectResponse(direct) => Some(direct.status),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn w_07_a_table_is_served_when_its_virtual_hosts_are_there() {
    let mut scene = Scene::with(&[host("own", &["own.test"], 201)]);
    assert!(!scene.is_served());
    assert_eq!(scene.0.cold(), ["listener web: routes t"]);
    let two = [("t/a", host("a", &["a.test"], 202)), ("t/b", host("b", &["b.test"], 203))];
    assert_eq!(scene.put(&two, &[]), [Ok(()), Ok(())]);
    assert!(scene.is_served());
    let all = ["own.test", "a.test", "b.test", "c.test"].map(|host| scene.status(host));
    assert_eq!(all, [Some(201), Some(202), Some(203), None]);
    // One changes, one goes, one comes.
    let more = [("t/b", host("b", &["b.test"], 204)), ("t/c", host("c", &["c.test"], 205))];
    assert_eq!(scene.put(&more, &["t/a"]), [Ok(()), Ok(())]);
    let all = ["own.test", "a.test", "b.test", "c.test"].map(|host| scene.status(host));
    assert_eq!(all, [Some(201), None, Some(204), Some(205)]);
    // What the table says of all its hosts is said of these, too, and its own may change.
    scene.put_table(&table(&[host("own", &["new.test"], 206)])).unwrap();
    let all = ["own.test", "new.test", "b.test"].map(|host| scene.status(host));
    assert_eq!(all, [None, Some(206), Some(204)]);
    assert_eq!(scene.asked(), [""; 0]);
    // Without a source of them, it has its own.
    let mut alone = table(&[host("own", &["own.test"], 207)]);
    alone.as_object_mut().unwrap().remove("vhds");
    scene.put_table(&alone).unwrap();
    assert_eq!(scene.asked(), ["no VHDS t"]);
    assert_eq!(["own.test", "b.test"].map(|host| scene.status(host)), [Some(207), None]);
}

#[test]
fn w_08_nobody_waits_for_virtual_hosts_that_do_not_come() {
    // An empty response, none at all, and the removal of the name that was asked for.
    let answers: [fn(&mut Scene); 3] = [
        |scene| drop(scene.put(&[], &[])),
        |scene| scene.0.never_came(ResourceType::VirtualHost, &ConfigPlace::Ads, "t"),
        |scene| drop(scene.put(&[], &["t"])),
    ];
    for answer in answers {
        let mut scene = Scene::with(&[host("own", &["own.test"], 201)]);
        assert!(!scene.is_served());
        answer(&mut scene);
        assert!(scene.is_served());
        assert_eq!(scene.status("own.test"), Some(201));
        // What comes late is as good.
        scene.put(&[("t/a", host("a", &["a.test"], 202))], &[]);
        assert_eq!(scene.status("a.test"), Some(202));
    }
}

#[test]
fn d_13_a_virtual_host_is_known_by_its_aliases() {
    let mut scene = Scene::with(&[]);
    let aliased = |scene: &Scene, alias: &str, status| Incoming {
        aliases: [alias.into()].into(),
        ..scene.incoming(HOST_TYPE, "a", &host("a", &["a.test"], status))
    };
    // Of another table.
    let other = aliased(&scene, "u/a.test", 201);
    assert_eq!(scene.take(&[other], &[]), [Ok(())]);
    assert!(!scene.is_served());
    let mine = aliased(&scene, "t/a.test", 202);
    assert_eq!(scene.take(&[mine], &[]), [Ok(())]);
    assert!(scene.is_served());
    assert_eq!(scene.status("a.test"), Some(202));
    scene.put(&[], &["a"]);
    assert_eq!(scene.status("a.test"), None);
}

#[test]
fn v_02_and_v_03_a_domain_is_one_virtual_hosts() {
    let mut scene = Scene::with(&[host("own", &["own.test"], 201)]);
    let a = ("t/a", host("a", &["a.test"], 202));
    let b = ("t/b", host("b", &["b.test"], 203));
    scene.put(&[a.clone(), b.clone()], &[]);
    let cases = [
        (host("a", &["own.test"], 204), "domains: \"own.test\" is in its route configuration, too"),
        (host("a", &["x", "b.test"], 204), "domains: \"b.test\" is in \"t/b\", too"),
        (host("own", &["a.test"], 204), "name: \"own\" is in its route configuration, too"),
        (
            host("a", &["*.*"], 204),
            "domains: domain \"*.*\": a wildcard may only be the first or the last character",
        ),
        (host("", &["a.test"], 204), "name: is required"),
        (host("a", &[], 204), "domains: is required"),
    ];
    for (bad, complaint) in cases {
        assert_eq!(scene.put(&[("t/a", bad)], &[]), [Err(complaint.to_owned())]);
        let all = ["own.test", "a.test", "b.test"].map(|host| scene.status(host));
        assert_eq!(all, [Some(201), Some(202), Some(203)]);
    }
    // They change places within a response, and what was given up can be had.
    let swap = [("t/a", host("a", &["b.test"], 205)), ("t/b", host("b", &["a.test"], 206))];
    assert_eq!(scene.put(&swap, &[]), [Ok(()), Ok(())]);
    assert_eq!(["a.test", "b.test"].map(|host| scene.status(host)), [Some(206), Some(205)]);
    assert_eq!(scene.put(&[("t/c", host("a", &["b.test"], 207))], &["t/a"]), [Ok(())]);
    assert_eq!(["a.test", "b.test"].map(|host| scene.status(host)), [Some(206), Some(207)]);
    // One that loses its own to another and is refused is gone.
    let robbed = [("t/c", host("c", &["a.test"], 208)), ("t/b", host("b", &[], 209))];
    assert_eq!(scene.put(&robbed, &[])[0], Ok(()));
    assert_eq!(["a.test", "b.test"].map(|host| scene.status(host)), [Some(208), None]);
    // A table that claims what came from elsewhere is refused.
    let text = scene.put_table(&table(&[host("own", &["a.test"], 210)])).unwrap_err();
    assert_eq!(text, "VirtualHost t/c: domains: \"a.test\" is in its route configuration, too");
    assert_eq!(["a.test", "own.test"].map(|host| scene.status(host)), [Some(208), Some(201)]);
}

#[test]
fn v_02_hosts_change_places_in_a_response_of_which_a_part_is_served_before_the_rest() {
    let mut scene = Scene::with(&[]);
    let hosts = [("t/a", host("a", &["a.test"], 201)), ("t/b", host("b", &["b.test"], 202))];
    scene.put(&hosts, &[]);
    assert_eq!(scene.status("a.test"), Some(201));
    let swap = [("t/b", host("b", &["a.test"], 203)), ("t/a", host("a", &["b.test"], 204))];
    let swap = swap.map(|(name, host)| scene.incoming(HOST_TYPE, name, &host));
    let (kind, place) = (ResourceType::VirtualHost, ConfigPlace::Ads);
    scene.0.expect(kind, &place, swap.iter().map(|incoming| &*incoming.name));
    scene.0.put(kind, &place, &swap[0], &mut Nothing).unwrap();
    assert_eq!(["a.test", "b.test"].map(|host| scene.status(host)), [Some(203), None]);
    scene.0.put(kind, &place, &swap[1], &mut Nothing).unwrap();
    scene.0.answered(kind, &place);
    assert_eq!(["a.test", "b.test"].map(|host| scene.status(host)), [Some(203), Some(204)]);
    assert_eq!(scene.0.take_remarks(), [""; 0]);
}

#[test]
fn section_6_vhds_is_for_delta_and_for_rds() {
    let mut scene = Scene::new(&with_rds("GRPC"));
    let text = scene.put_table(&table(&[])).unwrap_err();
    assert_eq!(text, "vhds.config_source: virtual hosts come by DELTA_GRPC only");
    let mut inline = table(&[]);
    inline["vhds"]["config_source"] = json!({"path_config_source": {"path": "/x"}});
    let text = refusal(&set(&http(), TABLE, inline));
    assert!(text.ends_with("route_config.vhds: is for routes that come by RDS"), "{text}");
}

#[test]
fn what_was_kept_is_served_again() {
    let mut scene = Scene::with(&[host("own", &["own.test"], 201)]);
    scene.put(&[("t/a", host("a", &["a.test"], 202))], &[]);
    let kept = scene.0.keep();
    let mut next = Scene::new(&with_rds("DELTA_GRPC"));
    assert_eq!(next.0.restore(kept.clone(), &mut Nothing), kept);
    assert!(next.is_served());
    assert_eq!(["own.test", "a.test"].map(|host| next.status(host)), [Some(201), Some(202)]);
}

#[test]
fn virtual_hosts_are_counted_and_shown_with_their_table() {
    let mut scene = Scene::with(&[host("own", &["own.test"], 201)]);
    let outcomes = |scene: &mut Scene| -> Vec<Outcome> {
        let all = scene.0.take_outcomes().into_iter();
        let mine =
            all.filter(|(watched, _)| *watched == Watched::VirtualHosts("web".into(), "t".into()));
        mine.map(|(_, outcome)| outcome).collect()
    };
    assert_eq!(outcomes(&mut scene), [Outcome::Asked]);
    let two = [("t/b", host("b", &["b.test"], 203)), ("t/a", host("a", &["a.test"], 202))];
    scene.put(&two, &[]);
    assert_eq!(outcomes(&mut scene), [Outcome::Accepted, Outcome::Reloaded]);
    // What is for another table is not counted.
    scene.put(&[("u/a", host("a", &["x.test"], 202))], &[]);
    assert_eq!(outcomes(&mut scene), []);
    scene.put(&[("t/a", host("a", &["own.test"], 204))], &[]);
    assert_eq!(outcomes(&mut scene), [Outcome::Refused]);
    scene.0.take_changes();
    scene.put(&[], &[]);
    assert_eq!(outcomes(&mut scene), [Outcome::Accepted, Outcome::Empty]);
    let shown: Vec<Shown> = scene.0.whole_route_tables().collect();
    let json = scene.0.show(ResourceType::RouteConfiguration, shown[0].record.as_ref().unwrap());
    let hosts = json["virtual_hosts"].as_array().unwrap();
    let names: Vec<_> = hosts.iter().map(|host| host["name"].as_str().unwrap()).collect();
    assert_eq!((&json["name"], names), (&json!("t"), vec!["own", "a", "b"]));
    let error = shown[0].error.as_ref().unwrap();
    let complaint = "domains: \"own.test\" is in its route configuration, too";
    assert_eq!(*error.text, *format!("VirtualHost t/a: {complaint}"));
}

/// Asks for a host that a request names which has no route.
fn demand(scene: &mut Scene, authority: &str) -> Result<bool, TooManyDemands> {
    scene.0.take_changes();
    let table = Arc::clone(&scene.0.snapshot().route_tables["t"]);
    let request = request::Request::to(authority, "/").with(&[]);
    let demand = table.demand(&request).filter(|_| table.find(&request, 0).is_none());
    let Some(demand) = demand else { return Ok(false) };
    scene.0.demand(demand).map(|()| true)
}

/// The hosts for which nobody waits any more.
fn settled(scene: &mut Scene) -> Vec<String> {
    let settled = scene.0.take_settled().into_iter().map(|demand| match demand {
        Demand::VirtualHost { table, host } => {
            assert_eq!(&*table, "t");
            host.into()
        }
        other => panic!("{other:?}"),
    });
    settled.collect()
}

#[test]
fn d_17_a_virtual_host_is_asked_for_when_a_request_needs_it() {
    let mut scene = Scene::with(&[host("own", &["own.test"], 201)]);
    scene.put(&[], &[]);
    // What is there is not asked for, nor is what is not the name of a host.
    let long = "x".repeat(260);
    for authority in ["own.test", "OWN.test", "", "a/b", "*", "\u{e9}.test", &long] {
        assert_eq!(demand(&mut scene, authority), Ok(false), "{authority}");
    }
    // In lower case, with its port, and once.
    for authority in ["A.test", "a.Test", "a.test:81"] {
        assert_eq!(demand(&mut scene, authority), Ok(true));
    }
    assert_eq!(scene.asked(), ["VHDS t/a.test", "VHDS t/a.test:81"]);
    assert_eq!(settled(&mut scene), [""; 0]);
    // An answer to others is none.
    scene.put(&[("t/b", host("b", &["b.test"], 202))], &[]);
    scene.put(&[], &[]);
    assert_eq!(settled(&mut scene), [""; 0]);
    scene.put(&[("t/a.test", host("a", &["a.test"], 203))], &[]);
    assert_eq!(settled(&mut scene), ["a.test"]);
    assert_eq!(scene.status("a.test"), Some(203));
    assert_eq!(demand(&mut scene, "a.test"), Ok(false));
    // Its next version is for others only.
    scene.put(&[("t/a.test", host("a", &["x.test"], 204))], &[]);
    assert_eq!(settled(&mut scene), [""; 0]);
    assert_eq!(demand(&mut scene, "a.test"), Ok(true));
    assert_eq!(settled(&mut scene), ["a.test"]);
    assert_eq!(scene.asked(), [""; 0]);
    // What was removed, or never came, is not asked for any more, until it is needed again.
    scene.put(&[], &["t/a.test:81"]);
    assert_eq!(settled(&mut scene), ["a.test:81"]);
    scene.put(&[], &["t/a.test"]);
    assert_eq!(settled(&mut scene), [""; 0]);
    assert_eq!(scene.asked(), ["no VHDS t/a.test:81", "no VHDS t/a.test"]);
    assert_eq!(scene.0.demands(), 0);
    assert_eq!(demand(&mut scene, "a.test"), Ok(true));
    scene.0.never_came(ResourceType::VirtualHost, &ConfigPlace::Ads, "t/a.test");
    assert_eq!(settled(&mut scene), ["a.test"]);
    assert_eq!(scene.asked(), ["VHDS t/a.test", "no VHDS t/a.test"]);
}

#[test]
fn d_17_a_virtual_host_without_a_route_may_give_way_to_another() {
    let bare = |name: &str, domains: &[&str]| json!({"name": name, "domains": domains});
    let mut scene = Scene::with(&[bare("own", &["*"])]);
    scene.put(&[("t/b.test", bare("b", &["b.test"]))], &[]);
    // It is asked for by its own name, whether or not a wildcard stands for it.
    assert_eq!(demand(&mut scene, "a.test"), Ok(true));
    assert_eq!(scene.asked(), ["VHDS t/a.test"]);
    scene.put(&[("t/a.test", bare("a", &["a.test"]))], &[]);
    assert_eq!(settled(&mut scene), ["a.test"]);
    // What is here by that name, asked for or not, is all that there is: its changes come by themselves.
    for host in ["a.test", "b.test", "a.test"] {
        assert_eq!(demand(&mut scene, host), Ok(true));
        assert_eq!((settled(&mut scene), scene.asked()), (vec![host.to_owned()], Vec::new()));
    }
    scene.put(&[("t/a.test", host("a", &["a.test"], 202))], &[]);
    assert_eq!(demand(&mut scene, "a.test"), Ok(false));
}

#[test]
fn d_13_and_d_17_an_answer_may_come_by_an_alias() {
    let mut scene = Scene::with(&[]);
    scene.put(&[], &[]);
    let aliased = |scene: &Scene, alias: &str| Incoming {
        aliases: [alias.into()].into(),
        ..scene.incoming(HOST_TYPE, "wild", &host("wild", &["*.test"], 202))
    };
    demand(&mut scene, "a.test").unwrap();
    demand(&mut scene, "b.test").unwrap();
    let first = aliased(&scene, "t/a.test");
    scene.take(&[first], &[]);
    assert_eq!(settled(&mut scene), ["a.test"]);
    assert_eq!(scene.status("b.test"), Some(202));
    let again = aliased(&scene, "t/b.test");
    scene.take(&[again], &[]);
    assert_eq!(settled(&mut scene), ["b.test"]);
    scene.asked();
    // It goes by its own name, or by one by which it was asked for.
    scene.put(&[], &["t/a.test"]);
    assert_eq!(scene.status("b.test"), None);
    let mut asked = scene.asked();
    asked.sort();
    assert_eq!(asked, ["no VHDS t/a.test", "no VHDS t/b.test"]);
}

#[test]
fn d_17_a_refused_answer_and_the_end_of_a_table_are_answers() {
    let mut scene = Scene::with(&[host("own", &["own.test"], 201)]);
    scene.put(&[], &[]);
    demand(&mut scene, "a.test").unwrap();
    assert!(scene.put(&[("t/a.test", host("a", &["own.test"], 202))], &[])[0].is_err());
    assert_eq!(settled(&mut scene), ["a.test"]);
    // It is still asked for, so that a better one comes.
    scene.put(&[("t/a.test", host("a", &["a.test"], 203))], &[]);
    assert_eq!(scene.status("a.test"), Some(203));
    demand(&mut scene, "b.test").unwrap();
    scene.asked();
    // The table changes around them, and goes.
    scene.put_table(&table(&[host("own", &["new.test"], 204)])).unwrap();
    assert_eq!(scene.asked(), [""; 0]);
    assert_eq!(settled(&mut scene), [""; 0]);
    scene.0.absent(ResourceType::RouteConfiguration, &ConfigPlace::Ads, "t");
    assert_eq!(settled(&mut scene), ["b.test"]);
    assert_eq!(scene.asked(), ["no VHDS t/a.test", "no VHDS t/b.test", "no VHDS t"]);
}

#[test]
fn d_17_clients_can_not_have_more_asked_for_than_a_bound() {
    let mut scene = Scene::with(&[]);
    scene.put(&[], &[]);
    let mut asked = 0;
    while demand(&mut scene, &format!("{asked}.test")).is_ok() {
        asked += 1;
    }
    assert_eq!((asked, scene.0.demands()), (1024, 1024));
    // Whoever waits for the same joins, and an answer makes room for another.
    assert_eq!(demand(&mut scene, "0.test"), Ok(true));
    scene.put(&[], &["t/0.test"]);
    assert_eq!(demand(&mut scene, "more.test"), Ok(true));
    assert_eq!(demand(&mut scene, "most.test"), Err(TooManyDemands));
    assert_eq!(scene.0.demands(), 1024);
}

#[test]
fn what_came_on_demand_is_not_kept() {
    let mut scene = Scene::with(&[]);
    scene.put(&[("t/a", host("a", &["a.test"], 202))], &[]);
    demand(&mut scene, "b.test").unwrap();
    scene.put(&[("t/b.test", host("b", &["b.test"], 203))], &[]);
    let kept = scene.0.keep();
    let hosts = kept.iter().filter(|kept| kept.kind == ResourceType::VirtualHost);
    assert_eq!(hosts.map(|kept| &*kept.name).collect::<Vec<_>>(), ["t/a"]);
}

#[test]
fn d_17_a_cluster_is_asked_for_when_a_request_needs_it() {
    let mut scene = Scene::with(&[]);
    scene.put(&[], &[]);
    let timeout = std::time::Duration::from_secs(3);
    let source = |place| Arc::new(ConfigSource { place, initial_fetch_timeout: Some(timeout) });
    let source = source(ConfigPlace::Ads);
    let ask = |scene: &mut Scene, name: &str| {
        scene.0.demand(Demand::cluster(&source, name).unwrap()).unwrap();
    };
    let settled = |scene: &mut Scene| -> Vec<String> {
        let settled = scene.0.take_settled().into_iter().map(|demand| match demand {
            Demand::Cluster { cluster, .. } => cluster.into(),
            other => panic!("{other:?}"),
        });
        settled.collect()
    };
    for name in ["", "*", "a b", "xdstp://x", &"x".repeat(1025)] {
        assert_eq!(Demand::cluster(&source, name), None, "{name}");
    }
    // What the bootstrap has is not asked for.
    ask(&mut scene, "app");
    assert_eq!((settled(&mut scene), scene.asked()), (vec!["app".to_owned()], Vec::new()));
    ask(&mut scene, "new");
    ask(&mut scene, "new");
    assert_eq!(settled(&mut scene), [""; 0]);
    let asked = scene.0.take_interests();
    let name = Arc::from("new");
    let kind = ResourceType::Cluster;
    assert_eq!(asked, [Interest::One(kind, ConfigSource::clone(&source), name)]);
    // It is waited for until its endpoints are there.
    let new = json!({"name": "new", "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": {"eds_config": ads()}});
    let incoming = scene.incoming("envoy.config.cluster.v3.Cluster", "new", &new);
    scene.0.put(kind, &ConfigPlace::Ads, &incoming, &mut Nothing).unwrap();
    assert_eq!((settled(&mut scene), scene.asked()), (Vec::new(), vec!["EDS new".to_owned()]));
    let eds = ResourceType::ClusterLoadAssignment;
    scene.0.never_came(eds, &ConfigPlace::Ads, "new");
    assert_eq!(settled(&mut scene), ["new"]);
    assert!(scene.0.snapshot().clusters.id("new").is_some());
    // It goes, and is asked for again; and is given up where there is none.
    scene.0.remove(kind, &ConfigPlace::Ads, "new");
    assert_eq!(scene.asked(), ["no CDS new", "no EDS new"]);
    ask(&mut scene, "new");
    scene.0.never_came(kind, &ConfigPlace::Ads, "new");
    assert_eq!(settled(&mut scene), ["new"]);
    assert_eq!(scene.asked(), ["CDS new", "no CDS new"]);
    // A refused one is an answer, and stays asked for.
    ask(&mut scene, "new");
    let bad = json!({"name": "new", "connect_timeout": "-1s"});
    let incoming = scene.incoming("envoy.config.cluster.v3.Cluster", "new", &bad);
    scene.0.put(kind, &ConfigPlace::Ads, &incoming, &mut Nothing).unwrap_err();
    assert_eq!((settled(&mut scene), scene.0.cluster_demands()), (vec!["new".to_owned()], 1));
}
