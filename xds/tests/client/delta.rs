//! A4: delta.

use outrigger_xds::client::SubscribeError;
use outrigger_xds::client::message::ResourceName;

use super::*;

#[test]
fn d_01_a_streams_first_request_has_everything_that_is_asked_for_and_held() {
    let mut driven = Driven::new(Delta);
    driven.client.connected();
    driven.ask(Cluster, &[]);
    driven.ask(Endpoints, &["x", "y"]);
    let said = driven.requests();
    assert!(said.iter().all(|said| said.held.is_empty() && said.nonce.is_empty()));
    let names: Vec<_> = (0..50).map(|at| format!("c{at:02}")).collect();
    let names: Vec<_> = names.iter().map(|name| &**name).collect();
    driven.accept(response(Delta, Cluster, "1", &names));
    driven.accept(response(Delta, Endpoints, "1", &["x"]));
    driven.reconnect();
    let [clusters, endpoints] = &driven.requests()[..] else { panic!("two requests") };
    assert_eq!(clusters.held.len(), 50);
    assert_eq!((&clusters.names, &clusters.nonce[..]), (&vec![], ""));
    assert_eq!(endpoints.held, pairs(&[("x", "1")]));
    assert_eq!(endpoints.names, ["x", "y"]);
}

#[test]
fn d_02_what_a_response_does_not_mention_stays() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    driven.accept(response(Delta, Cluster, "1", &["a", "b"]));
    driven.reconnect();
    driven.request();
    // Nothing changed meanwhile.
    let update = driven.update(delta_of(Cluster, "2", vec![]));
    assert_eq!((update.resources.len(), update.removed.len()), (0, 0));
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.held_names(Cluster), ["a", "b"]);
    driven.accept(response(Delta, Cluster, "3", &["b"]));
    let update = driven.update(gone(Cluster, "4", &["a"]));
    assert_eq!(removed(&update), ["a"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.held(Cluster), pairs(&[("b", "3")]));
}

#[test]
fn d_03_an_ack_has_the_nonce_and_a_nack_an_error_too() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    driven.accept(response(Delta, Cluster, "1", &["a"]));
    let said = driven.request();
    assert_eq!((&said.nonce[..], said.error), ("n1", None));
    driven.reject(response(Delta, Cluster, "2", &["a"]), &["a"]);
    let said = driven.request();
    assert_eq!((&said.nonce[..], said.error.unwrap()), ("n2", "Cluster a: field: is bad".into()));
}

#[test]
fn d_04_and_d_05_names_never_go_with_a_nonce() {
    let mut driven = Driven::asking(Delta, Endpoints, &["a", "b"]);
    let update = driven.update(response(Delta, Endpoints, "1", &["a"]));
    driven.ask(Endpoints, &["c"]);
    driven.client.unsubscribe(Endpoints, "b");
    let said = driven.request();
    assert_eq!((said.names, said.unsubscribe), (texts(&["c"]), texts(&["b"])));
    assert_eq!(said.nonce, "", "it does not wait for the verdict either");
    driven.ask(Endpoints, &["d"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    let [ack, change] = &driven.requests()[..] else { panic!("two requests") };
    assert!(ack.is_ack("n1") && ack.names.is_empty() && ack.unsubscribe.is_empty());
    assert_eq!((&change.names, &change.nonce[..]), (&texts(&["d"]), ""));
    assert!(change.held.is_empty(), "which is only for a stream's first request");
}

#[test]
fn d_06_asking_again_is_a_request_of_its_own() {
    let mut driven = Driven::asking(Delta, Endpoints, &["a", "b"]);
    driven.accept(response(Delta, Endpoints, "1", &["a", "b"]));
    driven.requests();
    driven.client.resubscribe(Endpoints, "b", None, driven.now);
    let said = driven.request();
    assert_eq!((said.names, said.unsubscribe, said.nonce), (texts(&["b"]), vec![], String::new()));
    assert_eq!(driven.accept(response(Delta, Endpoints, "1", &["b"])), ["b"], "unchanged");
}

#[test]
fn d_07_the_wildcard_is_implied_alone_and_said_beside_names() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    driven.ask(Cluster, &["a"]);
    assert_eq!(driven.request().names, ["a"], "the wildcard is on");
    driven.client.unsubscribe_all(Cluster);
    let said = driven.request();
    assert_eq!((said.names, said.unsubscribe), (vec![], texts(&["*"])));
    driven.ask(Cluster, &[]);
    assert_eq!(driven.request().names, ["*"]);
    driven.reconnect();
    assert_eq!(driven.request().names, ["*", "a"]);
}

#[test]
fn d_08_removal_deletes_or_says_that_there_is_nothing_and_never_fails() {
    let mut driven = Driven::asking(Delta, Endpoints, &["held", "awaited"]);
    driven.accept(response(Delta, Endpoints, "1", &["held"]));
    let update = driven.update(gone(Endpoints, "2", &["held", "awaited", "stranger", "held", ""]));
    assert_eq!(removed(&update), ["held", "awaited"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert!(driven.requests().iter().all(|said| said.error.is_none()));
    assert_eq!(driven.held(Endpoints), []);
    assert_eq!(driven.after(10 * FETCH), [], "that was the answer");
    // The newer form of the same.
    driven.accept(response(Delta, Endpoints, "3", &["held"]));
    let name = ResourceName { name: "held".to_owned() };
    let update = driven.update(DeltaDiscoveryResponse {
        removed_resource_names: vec![name],
        ..delta_of(Endpoints, "4", vec![])
    });
    assert_eq!(removed(&update), ["held"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
}

#[test]
fn d_09_under_the_wildcard_the_server_says_what_becomes_of_a_name() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    driven.ask(Cluster, &["a", "b"]);
    driven.request();
    driven.accept(response(Delta, Cluster, "1", &["a", "b"]));
    driven.requests();
    driven.client.unsubscribe(Cluster, "a");
    driven.client.unsubscribe(Cluster, "b");
    assert_eq!(driven.request().unsubscribe, ["a", "b"]);
    assert_eq!(driven.held_names(Cluster), ["a", "b"]);
    let answer = DeltaDiscoveryResponse {
        removed_resources: texts(&["b"]),
        ..delta_of(Cluster, "2", vec![resource(Cluster, "a", "1")])
    };
    let update = driven.update(answer);
    assert_eq!((update.resources.len(), removed(&update)), (1, texts(&["b"])));
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.held_names(Cluster), ["a"]);
}

#[test]
fn d_10_without_a_name_a_type_is_idle() {
    let mut driven = Driven::asking(Delta, Endpoints, &["a"]);
    driven.accept(response(Delta, Endpoints, "1", &["a"]));
    driven.requests();
    driven.client.unsubscribe(Endpoints, "a");
    assert_eq!(driven.request().unsubscribe, ["a"]);
    assert_eq!((driven.held(Endpoints), driven.client.next_deadline()), (vec![], None));
    driven.reconnect();
    assert_eq!(driven.requests(), []);
    // What was on its way is nobody's.
    driven.ask(Endpoints, &["b"]);
    driven.request();
    assert!(driven.accept(response(Delta, Endpoints, "2", &["a"])).is_empty());
}

#[test]
fn d_11_every_resource_has_its_own_version() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    let resources = vec![resource(Cluster, "a", "5"), resource(Cluster, "b", "6")];
    driven.accept(delta_of(Cluster, "system", resources));
    driven.accept(delta_of(Cluster, "system2", vec![resource(Cluster, "b", "7")]));
    assert_eq!(driven.held(Cluster), pairs(&[("a", "5"), ("b", "7")]));
    assert_eq!(driven.client.status(Cluster).version, "system2");
}

#[test]
fn d_12_after_a_nack_the_versions_held_are_those_of_what_was_accepted() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    driven.accept(response(Delta, Cluster, "v1", &["a", "b"]));
    driven.reject(response(Delta, Cluster, "v2", &["a", "b"]), &["a"]);
    driven.reconnect();
    assert_eq!(driven.request().held, pairs(&[("a", "v1"), ("b", "v2")]));
}

#[test]
fn d_13_a_resource_is_matched_by_its_aliases() {
    let mut driven = Driven::asking(Delta, VirtualHost, &["r/one", "r/two"]);
    let host =
        Resource { aliases: texts(&["r/one", "r/other"]), ..resource(VirtualHost, "r/vhost", "1") };
    let update = driven.update(delta_of(VirtualHost, "1", vec![host]));
    assert_eq!(&*update.resources[0].name, "r/vhost");
    assert_eq!(update.resources[0].aliases.len(), 2);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.after(FETCH), [expired(VirtualHost, "r/two", Why::NeverCame)]);
    driven.reconnect();
    assert_eq!(driven.request().held, pairs(&[("r/vhost", "1")]));
    // One name of it is enough to keep it.
    driven.ask(VirtualHost, &["r/other"]);
    assert_eq!(driven.after(FETCH), [], "it is there already");
    driven.client.unsubscribe(VirtualHost, "r/one");
    assert_eq!(driven.held_names(VirtualHost), ["r/vhost"]);
    driven.client.unsubscribe(VirtualHost, "r/other");
    assert_eq!(driven.held(VirtualHost), []);
}

#[test]
fn d_13_virtual_hosts_are_asked_for_by_the_name_of_their_table() {
    let mut driven = Driven::asking(Delta, VirtualHost, &["r", "s", "a/b"]);
    let names = ["r/one", "r/two", "t/one", "a/b/one", "a/one", "r"];
    let hosts = names.map(|name| resource(VirtualHost, name, "1")).to_vec();
    let update = driven.update(delta_of(VirtualHost, "1", hosts));
    let taken: Vec<&str> = update.resources.iter().map(|resource| &*resource.name).collect();
    assert_eq!(taken, ["r/one", "r/two", "a/b/one", "r"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.after(FETCH), [expired(VirtualHost, "s", Why::NeverCame)]);
    let update = driven.update(gone(VirtualHost, "2", &["r/two", "t/one"]));
    assert_eq!(removed(&update), ["r/two"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    driven.reconnect();
    let request = driven.request();
    assert_eq!(request.held, pairs(&[("a/b/one", "1"), ("r", "1"), ("r/one", "1")]));
    driven.client.unsubscribe(VirtualHost, "r");
    assert_eq!(driven.held_names(VirtualHost), ["a/b/one"]);
}

#[test]
fn d_13_what_is_held_by_an_alias_is_forgotten_with_the_last_name_for_it() {
    let mut driven = Driven::asking(Delta, VirtualHost, &["r/a", "r/b", "s/a"]);
    let held = |name: &str, aliases: &[&str]| Resource {
        aliases: texts(aliases),
        ..resource(VirtualHost, name, "1")
    };
    let hosts = vec![held("wild", &["r/a", "r/b"]), held("r/ab", &["r/b"]), held("s/a", &[])];
    driven.accept(delta_of(VirtualHost, "1", hosts));
    driven.client.unsubscribe(VirtualHost, "r/a");
    assert_eq!(driven.held_names(VirtualHost), ["r/ab", "s/a", "wild"]);
    driven.client.unsubscribe(VirtualHost, "r/b");
    assert_eq!(driven.held_names(VirtualHost), ["s/a"]);
    // It is there no more, so that it is waited for.
    driven.requests();
    driven.client.subscribe(VirtualHost, "r/b", Some(FETCH), driven.now).unwrap();
    driven.requests();
    assert_eq!(driven.after(FETCH), [expired(VirtualHost, "r/b", Why::NeverCame)]);
}

#[test]
fn d_15_a_bare_response_says_that_there_are_no_virtual_hosts() {
    let mut driven = Driven::asking(Delta, VirtualHost, &["r"]);
    let update = driven.update(delta_of(VirtualHost, "1", Vec::new()));
    assert!(update.resources.is_empty());
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.after(FETCH), []);
}

#[test]
fn d_17_a_bare_response_says_nothing_of_a_host_that_was_asked_for_by_its_name() {
    let mut driven = Driven::asking(Delta, VirtualHost, &["r", "r/one"]);
    let update = driven.update(delta_of(VirtualHost, "1", Vec::new()));
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.after(FETCH), [expired(VirtualHost, "r/one", Why::NeverCame)]);
}

#[test]
fn d_14_what_is_both_there_and_removed_is_refused() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    driven.accept(response(Delta, Cluster, "1", &["a", "c"]));
    driven.requests();
    let response = DeltaDiscoveryResponse {
        removed_resources: texts(&["a", "c"]),
        ..delta_of(Cluster, "2", vec![resource(Cluster, "a", "2"), resource(Cluster, "b", "2")])
    };
    let update = driven.update(response);
    assert_eq!((update.resources.len(), removed(&update)), (1, texts(&["c"])));
    let refusal = driven.client.answer(update.token, Vec::new(), driven.now).unwrap();
    assert_eq!(refusal.text, "Cluster a: is both among resources and among removed_resources");
    assert!(driven.request().is_nack("n2"));
    assert_eq!(driven.held(Cluster), pairs(&[("a", "1"), ("b", "2")]));
}

#[test]
fn d_15_empty_responses_are_answered_any_number_of_them() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    for version in ["1", "2", "3"] {
        driven.accept(delta_of(Cluster, version, vec![]));
    }
    let nonces: Vec<_> = driven.requests().into_iter().map(|said| said.nonce).collect();
    assert_eq!(nonces, ["n1", "n2", "n3"]);
}

#[test]
fn d_16_names_are_waited_for_unless_a_removal_comes_first() {
    for kind in [Endpoints, Cluster] {
        let mut driven = Driven::asking(Delta, kind, &["a", "b", "c"]);
        driven.accept(response(Delta, kind, "1", &["a"]));
        driven.accept(gone(kind, "2", &["b"]));
        assert_eq!(driven.after(FETCH), [expired(kind, "c", Why::NeverCame)]);
    }
    // Of what a wildcard covers nothing is waited for by name.
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    driven.accept(delta_of(Cluster, "1", vec![]));
    assert_eq!(driven.after(FETCH), []);
}

#[test]
fn w_08_the_wait_for_a_first_response_is_bounded_too() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let nothing = |why| Expired { kind: Cluster, name: None, why };
        assert_eq!(driven.after(FETCH), [nothing(Why::NeverCame)]);
        assert_eq!(driven.client.status(Cluster).stats.init_fetch_timeout, 1);
        // And if there never was a stream.
        let mut driven = Driven::new(variant);
        driven.ask(Cluster, &[]);
        driven.client.subscribe_all(Listener, None, driven.now);
        assert_eq!(driven.after(FETCH), [nothing(Why::Unreachable)]);
        assert_eq!(driven.client.next_deadline(), None, "0 waits for ever");
        assert_eq!(driven.client.waiting(Cluster).count(), 0);
        // Streams that come and go do not put it off for ever.
        let mut driven = Driven::new(variant);
        driven.ask(Endpoints, &["a"]);
        for _ in 0..3 {
            driven.client.connected();
            driven.requests();
            assert_eq!(driven.after(4 * SECOND), []);
            driven.client.disconnected(0);
        }
        assert_eq!(driven.client.waiting(Endpoints).collect::<Vec<_>>(), ["a"]);
        assert_eq!(driven.after(3 * SECOND), [expired(Endpoints, "a", Why::Unreachable)]);
    }
}

#[test]
fn d_17_a_virtual_host_is_asked_for_by_name_and_may_not_exist() {
    let mut driven = Driven::asking(Delta, VirtualHost, &["r/a", "r/b"]);
    // How servers say that nothing answers to a host: a resource without content.
    let nothing = Resource {
        name: "r/a".to_owned(),
        version: "1".to_owned(),
        aliases: texts(&["r/a"]),
        ..Resource::default()
    };
    let update = driven.update(delta_of(VirtualHost, "1", vec![nothing]));
    assert_eq!(removed(&update), ["r/a"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert!(driven.request().is_ack("n1"));
    let update = driven.update(gone(VirtualHost, "2", &["r/b"]));
    assert_eq!(removed(&update), ["r/b"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.after(FETCH), []);
    // The other variant has no such service.
    let mut driven = Driven::new(Sotw);
    let asked = driven.client.subscribe(VirtualHost, "r/a", None, driven.now);
    assert_eq!(asked, Err(SubscribeError::DeltaOnly));
}

#[test]
fn i_06_what_is_pushed_while_its_request_is_on_its_way_is_taken() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Endpoints, &["a"]);
        driven.ask(Endpoints, &["b"]);
        assert_eq!(driven.accept(response(variant, Endpoints, "1", &["a", "b"])), ["a", "b"]);
        assert_eq!(driven.after(10 * FETCH), []);
    }
}
