//! What a server cannot make us keep: each bound at its value and one past it.

use outrigger_xds::client::{Limits, StreamError, SubscribeError};

use super::*;

fn limited(variant: Variant, limits: Limits) -> Driven {
    let mut driven = Driven::with(variant, Options { limits, ..Options::default() });
    driven.client.connected();
    driven.client.subscribe_all(Cluster, None, driven.now);
    driven.request();
    driven
}

#[test]
fn responses_without_an_answer() {
    for variant in BOTH {
        let mut driven = limited(variant, Limits { unanswered: 2, ..Limits::default() });
        let first = driven.update(response(variant, Cluster, "1", &["a"]));
        assert!(driven.client.can_receive());
        let second = driven.update(response(variant, Cluster, "2", &["a"]));
        assert!(!driven.client.can_receive());
        let third = response(variant, Cluster, "3", &["a"]);
        let error = driven.client.receive(third.clone(), driven.now).unwrap_err();
        assert_eq!(error, StreamError::Unanswered(2));
        // A verdict is not enough: the answer has to be written.
        driven.client.answer(first.token, Vec::new(), driven.now);
        assert!(!driven.client.can_receive());
        driven.request();
        assert!(driven.client.can_receive());
        driven.accept(third);
        driven.client.answer(second.token, Vec::new(), driven.now);
        assert_eq!(driven.requests().len(), 2);
        // Of a stream that is gone, verdicts are still awaited.
        let late = driven.update(response(variant, Cluster, "4", &["a"]));
        let later = driven.update(response(variant, Cluster, "5", &["a"]));
        driven.reconnect();
        assert!(!driven.client.can_receive());
        for update in [late, later] {
            driven.client.answer(update.token, Vec::new(), driven.now);
        }
        assert!(driven.client.can_receive());
    }
}

#[test]
fn resources() {
    for variant in BOTH {
        let mut driven = limited(variant, Limits { resources: 3, ..Limits::default() });
        let refusal = driven.reject(response(variant, Cluster, "1", &["a", "b", "c", "d"]), &[]);
        assert_eq!(refusal.text, "Cluster d: is one resource too many");
        assert_eq!(driven.held_names(Cluster), ["a", "b", "c"]);
        // Those that are there can change.
        driven.accept(response(variant, Cluster, "2", &["a", "b", "c"]));
        assert_eq!(driven.held_names(Cluster), ["a", "b", "c"]);
    }
}

#[test]
fn names() {
    for variant in BOTH {
        let mut driven = limited(variant, Limits { names: 2, name_bytes: 8, ..Limits::default() });
        driven.ask(Endpoints, &["a", "12345678"]);
        let mut ask = |name| driven.client.subscribe(Endpoints, name, None, driven.now);
        assert_eq!(ask("b"), Err(SubscribeError::TooMany));
        assert_eq!(ask("a"), Ok(()), "it is asked for already");
        assert_eq!(ask("123456789").unwrap_err().to_string(), "is too long");
        driven.client.unsubscribe(Endpoints, "a");
        driven.ask(Endpoints, &["b"]);
        let refusal =
            driven.reject(response(variant, Cluster, "1", &["12345678", "123456789"]), &[]);
        assert_eq!(refusal.text, "Cluster resources[1]: name: is too long");
        assert_eq!(driven.held_names(Cluster), ["12345678"]);
    }
}

#[test]
fn nonces_and_versions() {
    for variant in BOTH {
        let limits = Limits { nonce_bytes: 5, version_bytes: 4, ..Limits::default() };
        let mut driven = limited(variant, limits);
        driven.accept(response(variant, Cluster, "1234", &["a"]));
        driven.requests();
        // A nonce is "n" and the version.
        let error = driven.client.receive(response(variant, Cluster, "12345", &[]), driven.now);
        assert_eq!(error.unwrap_err(), StreamError::Nonce(6));
        let limits = Limits { version_bytes: 4, ..Limits::default() };
        let mut driven = limited(variant, limits);
        let refusal = driven.refused(response(variant, Cluster, "12345", &["a"]));
        assert_eq!(refusal.text, "Cluster: version_info: is too long");
        assert_eq!(&*refusal.version, "1234");
        assert!(driven.request().is_nack("n12345"));
    }
    let mut driven = limited(Delta, Limits { version_bytes: 4, ..Limits::default() });
    let resources = vec![resource(Cluster, "a", "1234"), resource(Cluster, "b", "12345")];
    let refusal = driven.reject(delta_of(Cluster, "1", resources), &[]);
    assert_eq!(refusal.text, "Cluster b: version: is too long");
}

#[test]
fn aliases() {
    let mut driven = limited(Delta, Limits { aliases: 2, ..Limits::default() });
    let aliased = |name, count: usize| Resource {
        aliases: (0..count).map(|at| format!("{name}{at}")).collect(),
        ..resource(Cluster, name, "1")
    };
    let refusal =
        driven.reject(delta_of(Cluster, "1", vec![aliased("a", 2), aliased("b", 3)]), &[]);
    assert_eq!(refusal.text, "Cluster b: aliases: are too many, or not names");
    assert_eq!(driven.held_names(Cluster), ["a"]);
}

#[test]
fn a_saved_state_that_is_too_large_is_cut() {
    let mut driven = limited(Delta, Limits { resources: 2, name_bytes: 2, ..Limits::default() });
    let mut saved = driven.client.saved(Cluster);
    for name in ["a", "b", "c"] {
        saved.resources.push(outrigger_xds::client::SavedResource {
            name: name.into(),
            version: "1".into(),
            aliases: Box::default(),
        });
    }
    saved.resources[0].name = "too long".into();
    driven.client.restore(Cluster, saved);
    assert_eq!(driven.held_names(Cluster), ["b"]);
}
