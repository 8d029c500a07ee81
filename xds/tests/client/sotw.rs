//! A3: state of the world.

use super::*;

#[test]
fn s_01_the_first_request_of_a_cold_start_has_no_version_and_no_nonce() {
    let mut driven = Driven::new(Sotw);
    driven.ask(Cluster, &[]);
    assert_eq!(driven.requests(), [], "there is no stream");
    driven.client.connected();
    let said = driven.request();
    assert_eq!((&said.version[..], &said.nonce[..], said.error), ("", "", None));
}

#[test]
fn s_02_the_first_request_after_a_reconnect_has_the_accepted_version_and_all_names() {
    let mut driven = Driven::asking(Sotw, Endpoints, &["a"]);
    driven.accept(response(Sotw, Endpoints, "1", &["a"]));
    driven.reject(response(Sotw, Endpoints, "2", &["a"]), &["a"]);
    driven.client.disconnected(0);
    driven.ask(Endpoints, &["b"]);
    driven.client.connected();
    let said = driven.request();
    assert_eq!((&said.version[..], &said.nonce[..]), ("1", ""));
    assert_eq!((said.names, said.error), (texts(&["a", "b"]), None));
}

#[test]
fn s_03_an_ack_has_the_version_and_the_nonce_of_the_response() {
    let mut driven = Driven::asking(Sotw, Cluster, &[]);
    driven.accept(response(Sotw, Cluster, "7", &["a"]));
    let said = driven.request();
    assert_eq!((&said.version[..], &said.nonce[..], said.error), ("7", "n7", None));
}

#[test]
fn s_04_a_nack_has_the_nonce_of_the_response_and_the_version_accepted_last() {
    let mut driven = Driven::asking(Sotw, Cluster, &[]);
    driven.reject(response(Sotw, Cluster, "1", &["a"]), &["a"]);
    let said = driven.request();
    assert_eq!((&said.version[..], &said.nonce[..]), ("", "n1"));
    assert_eq!(said.error.unwrap(), "Cluster a: field: is bad");
    driven.accept(response(Sotw, Cluster, "2", &["a"]));
    driven.reject(response(Sotw, Cluster, "3", &["a"]), &["a"]);
    let said: Vec<_> =
        driven.requests().into_iter().map(|said| (said.version, said.error.is_some())).collect();
    assert_eq!(said, [("2".to_owned(), false), ("2".to_owned(), true)]);
    // The same version once more, because only what is newly asked for is bad.
    driven.reject(response(Sotw, Cluster, "2", &["new"]), &["new"]);
    assert_eq!(driven.request().version, "2");
}

#[test]
fn s_05_a_change_of_names_has_the_present_version_and_the_latest_nonce() {
    let mut driven = Driven::asking(Sotw, Endpoints, &["a"]);
    driven.accept(response(Sotw, Endpoints, "1", &["a"]));
    driven.requests();
    driven.ask(Endpoints, &["b"]);
    let said = driven.request();
    assert_eq!((said.names, &said.version[..], &said.nonce[..]), (texts(&["a", "b"]), "1", "n1"));
    driven.reject(response(Sotw, Endpoints, "2", &["b"]), &["b"]);
    driven.requests();
    driven.client.unsubscribe(Endpoints, "a");
    let said = driven.request();
    assert_eq!((said.names, &said.version[..], &said.nonce[..]), (texts(&["b"]), "1", "n2"));
    assert_eq!(said.error, None);
}

#[test]
fn s_06_every_answer_has_the_present_names() {
    let mut driven = Driven::asking(Sotw, Endpoints, &["a"]);
    driven.accept(response(Sotw, Endpoints, "1", &["a"]));
    driven.requests();
    // This request crosses a response, and the server drops it for its nonce.
    driven.ask(Endpoints, &["b"]);
    driven.request();
    driven.accept(response(Sotw, Endpoints, "2", &["a"]));
    let said = driven.request();
    assert!(said.is_ack("n2"));
    assert_eq!(said.names, ["a", "b"]);
    driven.reject(response(Sotw, Endpoints, "3", &["a"]), &["a"]);
    let said = driven.request();
    assert!(said.is_nack("n3"));
    assert_eq!(said.names, ["a", "b"]);
    // A change while a response waits for its verdict rides on the answer; nothing else is sent.
    let update = driven.update(response(Sotw, Endpoints, "4", &["a"]));
    driven.ask(Endpoints, &["c"]);
    assert_eq!(driven.requests(), []);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.request().names, ["a", "b", "c"]);
}

#[test]
fn s_06_a_name_whose_end_may_have_crossed_a_response_is_seen_to_go_before_it_comes_back() {
    let mut driven = Driven::asking(Sotw, Endpoints, &["a", "b"]);
    driven.accept(response(Sotw, Endpoints, "1", &["a", "b"]));
    driven.requests();
    driven.client.unsubscribe(Endpoints, "a");
    assert_eq!(driven.request().names, ["b"]);
    // For its nonce, the server drops that: it has just sent this, and thinks that we have a.
    assert_eq!(driven.accept(response(Sotw, Endpoints, "2", &["a", "b"])), ["b"]);
    driven.ask(Endpoints, &["a"]);
    let said = |driven: &mut Driven| -> Vec<_> {
        driven.requests().into_iter().map(|said| (said.names, said.nonce)).collect()
    };
    let twice =
        |nonce: &str| [(texts(&["b"]), nonce.to_owned()), (texts(&["a", "b"]), nonce.into())];
    assert_eq!(said(&mut driven), twice("n2"));
    // These may have crossed something as well.
    driven.accept(response(Sotw, Endpoints, "3", &["b"]));
    assert_eq!(said(&mut driven), twice("n3"));
    driven.accept(response(Sotw, Endpoints, "4", &["b"]));
    driven.accept(response(Sotw, Endpoints, "5", &["b"]));
    let [first, last @ ..] = &said(&mut driven)[..] else { panic!("three requests") };
    assert_eq!(first.1, "n4", "which the server drops");
    assert_eq!(last, twice("n5"));
    driven.accept(response(Sotw, Endpoints, "6", &["a"]));
    assert_eq!(said(&mut driven), [(texts(&["a", "b"]), "n6".to_owned())]);
    // What came unasked for does not come by being asked for either.
    driven.accept(response(Sotw, Endpoints, "7", &["early"]));
    driven.requests();
    driven.ask(Endpoints, &["early"]);
    assert_eq!(driven.requests().len(), 2);
    // It ends, also if there is no such thing.
    let rounds = (8..100).take_while(|version| {
        driven.accept(response(Sotw, Endpoints, &version.to_string(), &["a"]));
        driven.requests().len() > 1
    });
    assert_eq!(rounds.count(), 7);
}

#[test]
fn s_07_requests_wait_for_no_response() {
    let mut driven = Driven::new(Sotw);
    driven.client.connected();
    for name in ["a", "b", "c"] {
        driven.client.subscribe(Endpoints, name, None, driven.now).unwrap();
        assert!(driven.request().names.contains(&name.to_owned()));
    }
    assert_eq!(driven.client.next_deadline(), None);
}

#[test]
fn s_08_what_is_absent_from_a_response_of_listeners_or_clusters_is_gone() {
    for kind in [Cluster, Listener] {
        let mut driven = Driven::asking(Sotw, kind, &[]);
        driven.accept(response(Sotw, kind, "1", &["a", "b", "c"]));
        let update = driven.update(response(Sotw, kind, "2", &["b", "d"]));
        assert_eq!(removed(&update), ["a", "c"]);
        // Also what has come and is not yet judged.
        let next = driven.update(response(Sotw, kind, "3", &["b"]));
        assert_eq!(removed(&next), ["d"]);
        driven.client.answer(update.token, Vec::new(), driven.now);
        assert_eq!(driven.held_names(kind), ["b", "d"]);
        driven.client.answer(next.token, Vec::new(), driven.now);
        assert_eq!(driven.held_names(kind), ["b"]);
        let update = driven.update(response(Sotw, kind, "4", &[]));
        assert_eq!(removed(&update), ["b"]);
        driven.client.answer(update.token, Vec::new(), driven.now);
        // V-03: what is rejected is not absent.
        driven.accept(response(Sotw, kind, "5", &["a", "b"]));
        driven.reject(response(Sotw, kind, "6", &["a"]), &["a"]);
        assert_eq!(driven.held_names(kind), ["a"]);
    }
}

#[test]
fn s_08_while_something_cannot_be_read_nothing_counts_as_absent() {
    let mut driven = Driven::asking(Sotw, Cluster, &[]);
    driven.accept(response(Sotw, Cluster, "1", &["a", "b"]));
    let mut broken = any(Cluster, "b");
    broken.value = Bytes::from_static(b"\x0a\x05b");
    let update = driven.update(sotw_of(Cluster, "2", vec![any(Cluster, "a"), broken]));
    assert_eq!(removed(&update), texts(&[]));
    let refusal = driven.client.answer(update.token, Vec::new(), driven.now).unwrap();
    assert_eq!(refusal.text, "Cluster resources[1]: is a malformed message");
    assert_eq!(driven.held_names(Cluster), ["a", "b"]);
}

#[test]
fn s_09_absence_from_any_other_response_deletes_nothing() {
    for kind in [Endpoints, Routes, Secret] {
        let mut driven = Driven::asking(Sotw, kind, &["a", "b"]);
        driven.accept(response(Sotw, kind, "1", &["a", "b"]));
        for names in [&["a"][..], &[]] {
            let update = driven.update(response(Sotw, kind, "2", names));
            assert_eq!(removed(&update), texts(&[]));
            driven.client.answer(update.token, Vec::new(), driven.now);
        }
        assert!(driven.requests().iter().all(|said| said.is_ack("n1") || said.is_ack("n2")));
        assert_eq!(driven.held_names(kind), ["a", "b"]);
        // It dies with its last referrer.
        driven.client.unsubscribe(kind, "a");
        assert_eq!(driven.held_names(kind), ["b"]);
    }
}

#[test]
fn s_10_the_wildcard_is_an_empty_list_until_a_name_has_been_sent() {
    let mut driven = Driven::asking(Sotw, Listener, &[]);
    driven.accept(response(Sotw, Listener, "1", &["a"]));
    assert_eq!(driven.request().names, texts(&[]));
    driven.ask(Listener, &["b"]);
    assert_eq!(driven.request().names, ["*", "b"]);
    driven.client.unsubscribe(Listener, "b");
    assert_eq!(driven.request().names, ["*"]);
    driven.client.unsubscribe_all(Listener);
    assert_eq!(driven.request().names, texts(&[]), "of everything");
    // A new stream has seen no name.
    driven.ask(Listener, &[]);
    driven.reconnect();
    assert_eq!(driven.request().names, texts(&[]));
    // By names alone, the wildcard is off.
    let mut driven = Driven::asking(Sotw, Cluster, &["only"]);
    driven.ask(Cluster, &[]);
    assert_eq!(driven.request().names, ["*", "only"]);
}

#[test]
fn s_10_a_wildcard_that_was_only_implied_cannot_be_taken_back_by_an_empty_list() {
    let mut driven = Driven::asking(Sotw, Cluster, &[]);
    driven.client.unsubscribe_all(Cluster);
    assert_eq!(driven.requests(), [], "it would ask for everything once more");
    assert!(driven.accept(response(Sotw, Cluster, "1", &["a"])).is_empty());
    assert_eq!(driven.held(Cluster), []);
}

#[test]
fn s_11_other_types_are_not_asked_for_before_there_is_a_name() {
    let mut driven = Driven::new(Sotw);
    driven.client.connected();
    driven.ask(Cluster, &[]);
    driven.ask(Endpoints, &["a"]);
    driven.client.unsubscribe(Endpoints, "a");
    assert_eq!(driven.request().kind, Cluster);
    driven.ask(Endpoints, &["a"]);
    assert_eq!(driven.request().names, ["a"]);
    driven.client.unsubscribe(Endpoints, "a");
    assert_eq!(driven.request().names, texts(&[]), "which takes back everything");
    driven.reconnect();
    assert_eq!(driven.request().kind, Cluster);
}

#[test]
fn s_12_what_does_not_come_in_time_does_not_exist() {
    let mut driven = Driven::new(Sotw);
    driven.client.connected();
    driven.ask(Endpoints, &["a", "b"]);
    assert_eq!(driven.after(SECOND), []);
    // The timer starts with the request, and ends with what comes.
    driven.request();
    driven.accept(response(Sotw, Endpoints, "1", &["b"]));
    driven.request();
    assert_eq!(driven.after(FETCH - SECOND), []);
    assert_eq!(driven.client.next_deadline(), Some(driven.now + SECOND));
    assert_eq!(driven.after(SECOND), [expired(Endpoints, "a", Why::NeverCame)]);
    assert_eq!(driven.client.status(Endpoints).stats.init_fetch_timeout, 1);
    assert_eq!(driven.client.next_deadline(), None);
    // It may still come.
    assert_eq!(driven.accept(response(Sotw, Endpoints, "2", &["a", "b"])), ["a", "b"]);
}

#[test]
fn s_12_the_timer_does_not_run_while_the_stream_is_down() {
    let mut driven = Driven::asking(Sotw, Endpoints, &["a"]);
    driven.after(SECOND);
    driven.client.disconnected(0);
    // W-08: but who waits is let go, and told why.
    assert_eq!(driven.after(FETCH - SECOND), [expired(Endpoints, "a", Why::Unreachable)]);
    assert_eq!(driven.after(10 * FETCH), []);
    driven.client.connected();
    driven.request();
    assert_eq!(driven.after(FETCH - SECOND), []);
    assert_eq!(driven.after(SECOND), [expired(Endpoints, "a", Why::NeverCame)]);
}

#[test]
fn s_12_the_timer_does_not_run_for_what_is_held() {
    let mut driven = Driven::asking(Sotw, Endpoints, &["a"]);
    driven.accept(response(Sotw, Endpoints, "1", &["a"]));
    driven.reconnect();
    driven.request();
    assert_eq!(driven.after(10 * FETCH), []);
}

#[test]
fn s_12_for_listeners_and_clusters_absence_is_the_answer() {
    let mut driven = Driven::asking(Sotw, Cluster, &["a", "b"]);
    let update = driven.update(response(Sotw, Cluster, "1", &["a"]));
    assert_eq!(removed(&update), ["b"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert_eq!(driven.after(10 * FETCH), []);
    let update = driven.update(response(Sotw, Cluster, "2", &["a"]));
    assert_eq!(removed(&update), texts(&[]), "that is known");
    driven.client.answer(update.token, Vec::new(), driven.now);
}

#[test]
fn s_13_wrapped_resources_are_unwrapped() {
    let mut driven = Driven::asking(Sotw, Cluster, &[]);
    let wrapped = resource(Cluster, "w", "w1");
    let nameless = Resource { name: String::new(), ..resource(Cluster, "n", "") };
    let resources = vec![any(Cluster, "a"), wrap(&wrapped), wrap(&nameless)];
    let update = driven.update(sotw_of(Cluster, "1", resources));
    let seen: Vec<_> = update
        .resources
        .iter()
        .map(|resource| (&*resource.name, &*resource.version, resource.body.clone()))
        .collect();
    let body = |name| any(Cluster, name).value;
    assert_eq!(seen, [("a", "1", body("a")), ("w", "w1", body("w")), ("n", "1", body("n"))]);
    driven.client.answer(update.token, Vec::new(), driven.now);
    assert!(driven.request().is_ack("n1"));
}

#[test]
fn s_14_one_version_covers_the_type() {
    let mut driven = Driven::asking(Sotw, Endpoints, &["a", "b"]);
    driven.accept(response(Sotw, Endpoints, "1", &["a"]));
    driven.accept(response(Sotw, Endpoints, "2", &["b"]));
    assert_eq!(driven.requests().last().unwrap().version, "2");
    assert_eq!(driven.held(Endpoints), pairs(&[("a", ""), ("b", "")]));
}
