//! A2: rules for both variants.

use std::sync::Arc;

use outrigger_xds::client::{NameError, StreamError, SubscribeError};
use outrigger_xds::snapshot::RateLimit;

use super::*;

#[test]
fn c_01_the_node_is_in_a_streams_first_message_and_if_configured_in_no_other() {
    for variant in BOTH {
        for only_first in [false, true] {
            let options =
                Options { set_node_on_first_message_only: only_first, ..Options::default() };
            let mut driven = Driven::with(variant, options);
            for _ in 0..2 {
                driven.client.connected();
                driven.ask(Cluster, &[]);
                driven.ask(Endpoints, &["a"]);
                let mut said = driven.requests();
                driven.accept(response(variant, Cluster, "1", &["a"]));
                said.extend(driven.requests());
                let nodes: Vec<_> = said.iter().map(|said| &said.node[..]).collect();
                let later = if only_first { &b""[..] } else { NODE };
                assert_eq!(nodes, [NODE, later, later]);
                driven.client.disconnected(0);
            }
        }
    }
}

#[test]
fn c_02_types_on_one_stream_are_independent() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.ask(Routes, &["r"]);
        driven.requests();
        driven.reject(response(variant, Cluster, "c1", &["bad"]), &["bad"]);
        driven.accept(response(variant, Routes, "r1", &["r"]));
        let said = driven.requests();
        assert!(said[0].kind == Cluster && said[0].is_nack("nc1"));
        assert!(said[1].kind == Routes && said[1].is_ack("nr1"));
        assert_eq!(driven.held_names(Routes), ["r"]);
        assert_eq!(driven.client.status(Routes).version, "r1");
        assert_eq!(driven.client.status(Cluster).version, "");
        // Nor does a verdict wait for one on another type.
        let clusters = driven.update(response(variant, Cluster, "c2", &["a"]));
        driven.accept(response(variant, Routes, "r2", &["r"]));
        assert!(driven.request().is_ack("nr2"));
        driven.client.answer(clusters.token, Vec::new(), driven.now);
        assert!(driven.request().is_ack("nc2"));
    }
}

#[test]
fn c_03_no_nonce_outlives_its_stream_and_versions_do() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.accept(response(variant, Cluster, "1", &["a"]));
        // That is judged, and its answer is not written. This is judged when its stream is gone.
        let late = driven.update(response(variant, Cluster, "2", &["a", "b"]));
        driven.reconnect();
        assert_eq!(driven.requests(), [], "what is held is not yet known");
        driven.client.answer(late.token, Vec::new(), driven.now);
        let first = driven.request();
        assert_eq!(
            (first.nonce.as_str(), first.error),
            ("", None),
            "nobody is there to be answered"
        );
        let (version, held): (_, &[_]) = match variant {
            Sotw => ("2", &[]),
            Delta => ("", &[("a", "2"), ("b", "2")]),
        };
        assert_eq!((first.version.as_str(), first.held), (version, pairs(held)));
    }
}

#[test]
fn c_04_every_response_is_answered_once_in_order_whatever_the_order_of_verdicts() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let mut updates: Vec<_> = ["1", "2", "3"]
            .map(|version| driven.update(response(variant, Cluster, version, &["a", version])))
            .into();
        assert_eq!(driven.requests(), []);
        let last = updates.pop().unwrap();
        driven.client.answer(last.token, Vec::new(), driven.now);
        assert_eq!(driven.requests(), [], "the first verdict is not in");
        for update in updates {
            driven.client.answer(update.token, Vec::new(), driven.now);
        }
        let nonces: Vec<_> = driven.requests().into_iter().map(|said| said.nonce).collect();
        assert_eq!(nonces, ["n1", "n2", "n3"]);
        assert_eq!(driven.requests(), []);
        let expected: &[_] = match variant {
            Sotw => &["3", "a"],
            Delta => &["1", "2", "3", "a"],
        };
        assert_eq!(driven.held_names(Cluster), expected);
    }
}

#[test]
fn c_05_an_answer_waits_for_the_verdict_and_for_no_warming() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let update = driven.update(response(variant, Cluster, "1", &["a"]));
        driven.ask(Endpoints, &["a"]);
        let said = driven.request();
        assert_eq!((said.kind, &said.nonce[..]), (Endpoints, ""));
        driven.client.answer(update.token, Vec::new(), driven.now);
        assert!(driven.request().is_ack("n1"), "the endpoints of a have not come");
    }
}

#[test]
fn c_06_versions_are_opaque() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        for version in ["2", "10", "1", "", "1"] {
            let names = driven.accept(response(variant, Cluster, version, &["a"]));
            assert_eq!(names, ["a"]);
            assert!(driven.request().is_ack(&format!("n{version}")));
            assert_eq!(driven.client.status(Cluster).version, version);
        }
    }
}

#[test]
fn c_07_what_was_not_asked_for_is_ignored() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Endpoints, &["a"]);
        let names = driven.accept(response(variant, Endpoints, "1", &["a", "stranger"]));
        assert_eq!(names, ["a"]);
        assert!(driven.request().is_ack("n1"));
        assert_eq!(driven.held_names(Endpoints), ["a"]);
        assert_eq!(driven.client.status(Endpoints).stats.unsolicited, 1);
        assert!(driven.accept(response(variant, Endpoints, "2", &["stranger"])).is_empty());
        assert!(driven.request().is_ack("n2"));
        assert_eq!(driven.held_names(Endpoints), ["a"]);
        assert_eq!(driven.client.status(Endpoints).stats.unsolicited, 2);
    }
}

#[test]
fn c_08_a_resource_of_another_type_refuses_the_response() {
    let stray = || vec![any(Cluster, "a"), any(Listener, "l")];
    let wrapped = || {
        vec![any(Cluster, "a"), wrap(&Resource { name: "w".into(), ..resource(Listener, "l", "") })]
    };
    let delta = || vec![resource(Cluster, "a", "1"), resource(Listener, "l", "1")];
    let responses: [(_, Response); 3] = [
        (Sotw, sotw_of(Cluster, "1", stray()).into()),
        (Sotw, sotw_of(Cluster, "1", wrapped()).into()),
        (Delta, delta_of(Cluster, "1", delta()).into()),
    ];
    for (variant, response) in responses {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let refusal = driven.refused(response);
        assert_eq!(
            refusal.text,
            "Cluster: resources[1]: is a \"type.googleapis.com/envoy.config.listener.v3.Listener\""
        );
        let said = driven.request();
        assert!(said.is_nack("n1"));
        assert_eq!(said.error, Some(refusal.text));
        assert_eq!(driven.held(Cluster), []);
    }
}

#[test]
fn c_09_of_two_resources_with_one_name_none_is_taken() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.accept(response(variant, Cluster, "1", &["a"]));
        driven.requests();
        let update = driven.update(response(variant, Cluster, "2", &["a", "b", "a", "a"]));
        assert_eq!(update.resources.len(), 1);
        assert_eq!(removed(&update), texts(&[]), "what is there twice is not absent");
        let refusal = driven.client.answer(update.token, Vec::new(), driven.now).unwrap();
        assert_eq!(refusal.text, "Cluster a: is there more than once");
        assert!(driven.request().is_nack("n2"));
        let version = |version| if variant == Delta { version } else { "" };
        assert_eq!(driven.held(Cluster), pairs(&[("a", version("1")), ("b", version("2"))]));
    }
}

#[test]
fn c_10_a_type_never_asked_for_is_ignored_and_the_stream_goes_on() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let mut unknown = sotw_of(Cluster, "1", vec![any(Cluster, "a")]);
        unknown.type_url = "type.googleapis.com/istio.workload.Workload".to_owned();
        let unknown: Response = match variant {
            Sotw => unknown.into(),
            Delta => DeltaDiscoveryResponse {
                type_url: unknown.type_url,
                ..delta_of(Cluster, "1", vec![resource(Cluster, "a", "1")])
            }
            .into(),
        };
        for response in [unknown, response(variant, Listener, "1", &["l"])] {
            assert!(matches!(driven.receive(response), Received::Ignored { .. }));
        }
        assert_eq!((driven.requests(), driven.client.ignored()), (vec![], 2));
        driven.accept(response(variant, Cluster, "1", &["a"]));
        assert!(driven.request().is_ack("n1"));
        // Asked for on an earlier stream is not asked for on this one.
        driven.reconnect();
        let answer = response(variant, Cluster, "2", &["a"]);
        assert!(matches!(driven.receive(answer), Received::Ignored { .. }));
    }
}

#[test]
fn c_11_a_response_of_20_mb_is_taken() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let names: Vec<_> =
            (0..20_000).map(|at| format!("cluster-{at}-{}", "x".repeat(1000))).collect();
        let names: Vec<_> = names.iter().map(|name| &**name).collect();
        let bytes = match response(variant, Cluster, "1", &names) {
            Response::Sotw(response) => response.encode_to_vec(),
            Response::Delta(response) => response.encode_to_vec(),
        };
        assert!(bytes.len() > 20_000_000);
        let response = Response::decode(variant, bytes.into()).unwrap();
        assert_eq!(driven.accept(response).len(), 20_000);
        assert!(driven.request().is_ack("n1"));
    }
}

#[test]
fn c_12_changes_of_one_turn_are_one_request() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Endpoints, &["first"]);
        let names: Vec<_> = (0..1000).map(|at| format!("e{at}")).collect();
        for name in &names {
            driven.ask(Endpoints, &[name]);
        }
        driven.client.unsubscribe(Endpoints, "first");
        let said = driven.request();
        assert_eq!(said.names.len(), 1000);
        assert_eq!(said.unsubscribe, if variant == Delta { texts(&["first"]) } else { vec![] });
        // What comes and goes within a turn is no change (I-02).
        driven.ask(Endpoints, &["passing"]);
        driven.client.unsubscribe(Endpoints, "passing");
        driven.ask(Endpoints, &["e1"]);
        assert_eq!(driven.requests(), []);
    }
}

#[test]
fn c_13_a_rate_limit_delays_answers_and_drops_none() {
    for variant in BOTH {
        let limit = RateLimit { max_tokens: 1, refill: SECOND };
        let options = Options { rate_limit: Some(limit), ..Options::default() };
        let mut driven = Driven::with(variant, options);
        driven.client.connected();
        driven.client.subscribe_all(Cluster, None, driven.now);
        let start = driven.now;
        driven.request();
        for version in ["1", "2", "3", "4", "5"] {
            driven.accept(response(variant, Cluster, version, &["a"]));
            assert_eq!(driven.requests(), []);
        }
        let mut nonces = Vec::new();
        while let Some(deadline) = driven.client.next_deadline() {
            driven.now = deadline;
            nonces.push(driven.request().nonce);
        }
        assert_eq!(nonces, ["n1", "n2", "n3", "n4", "n5"]);
        assert_eq!(driven.now - start, 5 * SECOND);
    }
}

#[test]
fn c_14_the_control_planes_name_is_kept() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        assert_eq!(driven.client.control_plane(), "");
        driven.accept(response(variant, Cluster, "1", &["a"]));
        driven.client.disconnected(0);
        assert_eq!(driven.client.control_plane(), "model");
    }
}

#[test]
fn c_15_names_that_are_locators_or_no_names_are_refused() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        for (version, name, error) in [
            ("1", "xdstp://host/envoy.config.cluster.v3.Cluster/a", NameError::Locator),
            ("2", "", NameError::Empty),
            ("3", "*", NameError::Wildcard),
        ] {
            let asked = driven.client.subscribe(Endpoints, name, None, driven.now);
            assert_eq!(asked, Err(SubscribeError::Name(error)));
            let refusal = driven.reject(response(variant, Cluster, version, &["a", name]), &[]);
            assert_eq!(refusal.text, format!("Cluster resources[1]: name: {error}"));
            assert!(driven.request().error.is_some());
        }
        assert_eq!(driven.held_names(Cluster), ["a"]);
    }
}

#[test]
fn w_05_a_cluster_that_warms_again_asks_for_its_endpoints_again() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Endpoints, &["a", "b"]);
        driven.accept(response(variant, Endpoints, "1", &["a", "b"]));
        driven.requests();
        driven.client.resubscribe(Endpoints, "a", Some(FETCH), driven.now);
        let said = driven.request();
        match variant {
            Sotw => assert_eq!(
                (said.names, &said.version[..], &said.nonce[..]),
                (texts(&["a", "b"]), "1", "n1")
            ),
            Delta => assert_eq!((said.names, &said.nonce[..]), (texts(&["a"]), "")),
        }
        // It waits, although something is held; a server may not answer.
        assert_eq!(driven.after(FETCH), [expired(Endpoints, "a", Why::NeverCame)]);
        assert_eq!(driven.held_names(Endpoints), ["a", "b"]);
        driven.client.resubscribe(Endpoints, "a", Some(FETCH), driven.now);
        driven.request();
        driven.accept(response(variant, Endpoints, "1", &["a"]));
        assert_eq!(driven.after(FETCH), []);
        // To ask again for what is not asked for is nothing.
        driven.requests();
        driven.client.resubscribe(Endpoints, "c", None, driven.now);
        assert_eq!(driven.requests(), []);
    }
}

#[test]
fn a_name_given_up_and_asked_for_again_within_a_turn_is_sent_anew() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Endpoints, &["a", "b"]);
        driven.accept(response(variant, Endpoints, "1", &["a", "b"]));
        driven.requests();
        driven.client.unsubscribe(Endpoints, "a");
        assert_eq!(driven.held_names(Endpoints), ["b"], "its content is gone");
        driven.ask(Endpoints, &["a"]);
        let names: Vec<_> = driven.requests().into_iter().map(|said| said.names).collect();
        match variant {
            // A server that sees the same names again has nothing to say: it has to see them go.
            Sotw => assert_eq!(names, [texts(&["b"]), texts(&["a", "b"])]),
            Delta => assert_eq!(names, [texts(&["a"])]),
        }
        driven.client.unsubscribe(Endpoints, "a");
        driven.ask(Endpoints, &["a"]);
        driven.client.unsubscribe(Endpoints, "a");
        let said = driven.request();
        match variant {
            Sotw => assert_eq!(said.names, ["b"]),
            Delta => assert_eq!((said.names, said.unsubscribe), (vec![], texts(&["a"]))),
        }
    }
}

#[test]
fn v_07_what_is_counted() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let count = |driven: &Driven| {
            let stats = driven.client.status(Cluster).stats;
            let (good, bad) = (stats.update_success, stats.update_rejected);
            (stats.update_attempt, good, bad, stats.update_failure, stats.init_fetch_timeout)
        };
        assert_eq!(count(&driven), (1, 0, 0, 0, 0));
        assert_eq!(driven.client.status(Cluster).version_hash(), 0);
        driven.accept(response(variant, Cluster, "a", &["a"]));
        assert_eq!(count(&driven), (2, 1, 0, 0, 0));
        assert_eq!(driven.client.status(Cluster).version_hash(), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(driven.client.status(Cluster).updated_at, Some(driven.now));
        driven.reject(response(variant, Cluster, "b", &["a"]), &["a"]);
        assert_eq!(count(&driven), (3, 1, 1, 0, 0));
        let error = driven.client.status(Cluster).error.unwrap();
        assert_eq!((&*error.version, &*error.text), ("b", "Cluster a: field: is bad"));
        driven.client.disconnected(0);
        driven.client.disconnected(0);
        assert_eq!(count(&driven), (5, 1, 1, 2, 0));
        driven.client.connected();
        driven.ask(Cluster, &["never"]);
        driven.requests();
        driven.after(FETCH);
        assert_eq!(count(&driven), (6, 1, 1, 2, 1));
        driven.accept(response(variant, Cluster, "c", &["a"]));
        let status = driven.client.status(Cluster);
        assert_eq!((status.error, status.version, status.held), (None, "c", 1));
        assert_eq!(driven.client.status(Listener).stats.update_attempt, 0);
    }
}

#[test]
fn a_saved_state_goes_on_where_it_was() {
    for variant in BOTH {
        let mut before = Driven::asking(variant, Cluster, &[]);
        before.ask(Endpoints, &["a", "b"]);
        before.requests();
        before.accept(response(variant, Cluster, "c7", &["a", "b"]));
        before.accept(response(variant, Endpoints, "e3", &["a", "b"]));
        let mut after = Driven::new(variant);
        for kind in [Cluster, Endpoints] {
            after.client.restore(kind, before.client.saved(kind));
        }
        after.ask(Cluster, &[]);
        after.ask(Endpoints, &["a"]);
        after.client.connected();
        let [clusters, endpoints] = &after.requests()[..] else { panic!("two requests") };
        match variant {
            Sotw => {
                assert_eq!((&clusters.version[..], &endpoints.version[..]), ("c7", "e3"));
                assert_eq!(endpoints.names, ["a"]);
            }
            Delta => {
                assert_eq!(clusters.held, pairs(&[("a", "c7"), ("b", "c7")]));
                assert_eq!(endpoints.held, pairs(&[("a", "e3")]), "what nobody wants is not said");
            }
        }
        let late = after.after(FETCH);
        assert_eq!(late.len(), 1, "{late:?}");
        assert_eq!(late[0].name, None, "names that are held are not waited for");
    }
}

#[test]
fn a_response_without_a_stream_or_of_the_other_variant_is_an_error() {
    for (variant, other) in [(Sotw, Delta), (Delta, Sotw)] {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let answer = response(other, Cluster, "1", &["a"]);
        let error = driven.client.receive(answer, driven.now).unwrap_err();
        assert_eq!(error, StreamError::Variant);
        driven.client.disconnected(0);
        let answer = response(variant, Cluster, "1", &["a"]);
        let error = driven.client.receive(answer, driven.now).unwrap_err();
        assert_eq!(error, StreamError::Closed);
        assert_eq!(driven.requests(), []);
    }
}

#[test]
fn first_requests_go_out_in_the_order_of_a_safe_update() {
    for variant in BOTH {
        let mut driven = Driven::new(variant);
        driven.ask(Routes, &["r"]);
        driven.ask(Listener, &[]);
        driven.ask(Endpoints, &["e"]);
        driven.ask(Cluster, &[]);
        driven.client.connected();
        let kinds: Vec<_> = driven.requests().into_iter().map(|said| said.kind).collect();
        assert_eq!(kinds, [Cluster, Endpoints, Listener, Routes]);
    }
}

#[test]
fn names_of_resources_are_shared_with_the_store() {
    let mut driven = Driven::asking(Delta, Cluster, &[]);
    let first = driven.update(response(Delta, Cluster, "1", &["a"]));
    let name = Arc::clone(&first.resources[0].name);
    driven.client.answer(first.token, Vec::new(), driven.now);
    let second = driven.update(response(Delta, Cluster, "2", &["a"]));
    assert!(Arc::ptr_eq(&name, &second.resources[0].name));
    driven.client.answer(second.token, Vec::new(), driven.now);
}
