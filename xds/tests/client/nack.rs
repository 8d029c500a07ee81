//! A6: validation and NACK.

use super::*;

#[test]
fn v_01_a_nack_names_every_rejected_resource_the_first_20_in_full() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let names: Vec<_> = (0..25).map(|at| format!("c{at:02}")).collect();
        let names: Vec<_> = names.iter().map(|name| &**name).collect();
        let update = driven.update(response(variant, Cluster, "1", &names));
        let rejections: Vec<_> = names
            .iter()
            .map(|name| Rejection::new(*name, "connect_timeout: must be above zero"))
            .collect();
        let refusal = driven.client.answer(update.token, rejections, driven.now).unwrap();
        let lines: Vec<_> = refusal.text.lines().collect();
        assert_eq!(lines.len(), 21);
        assert_eq!(lines[0], "Cluster c00: connect_timeout: must be above zero");
        assert_eq!(lines[19], "Cluster c19: connect_timeout: must be above zero");
        assert_eq!(lines[20], "and 5 more");
        let said = driven.request();
        assert_eq!(said.error, Some(refusal.text));
        // 20 are no more than 20, and a long reason has an end.
        let update = driven.update(response(variant, Cluster, "2", &names));
        let long = "é".repeat(10_000);
        let rejections = names[..20].iter().map(|name| Rejection::new(*name, &*long)).collect();
        let text = driven.client.answer(update.token, rejections, driven.now).unwrap().text;
        assert_eq!(text.lines().count(), 20);
        assert!(text.lines().all(|line| line.len() < 2100 && line.ends_with("é...")));
    }
}

#[test]
fn v_02_the_good_part_of_a_response_is_taken() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.reject(response(variant, Cluster, "1", &["a", "bad", "c"]), &["bad"]);
        let said = driven.request();
        assert_eq!(said.error.unwrap(), "Cluster bad: field: is bad");
        assert_eq!(driven.held_names(Cluster), ["a", "c"]);
        driven.reconnect();
        let said = driven.request();
        match variant {
            Sotw => assert_eq!(said.version, "", "the version as a whole is not"),
            Delta => assert_eq!(said.held, pairs(&[("a", "1"), ("c", "1")])),
        }
    }
}

#[test]
fn v_03_a_rejected_update_leaves_the_version_before_it() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Endpoints, &["a"]);
        driven.accept(response(variant, Endpoints, "1", &["a"]));
        let held = driven.held(Endpoints);
        driven.reject(response(variant, Endpoints, "2", &["a"]), &["a"]);
        assert_eq!(driven.held(Endpoints), held);
    }
}

#[test]
fn v_05_after_a_nack_nothing_is_asked_for_again() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Endpoints, &["a"]);
        driven.reject(response(variant, Endpoints, "1", &["a"]), &["a"]);
        assert!(driven.request().is_nack("n1"));
        assert_eq!(driven.after(10 * FETCH), []);
        assert_eq!((driven.requests(), driven.client.next_deadline()), (vec![], None));
        driven.accept(response(variant, Endpoints, "2", &["a"]));
        assert!(driven.request().is_ack("n2"));
    }
}

#[test]
fn v_05_a_server_that_answers_every_nack_with_the_same_is_slowed_down() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let mut waits = Vec::new();
        for round in 0..7 {
            let refusal = driven.reject(response(variant, Cluster, "1", &["a"]), &["a"]);
            assert_eq!(refusal.repeated, round > 0);
            let start = driven.now;
            let said = driven.requests();
            if said.is_empty() {
                driven.now = driven.client.next_deadline().unwrap();
                assert!(driven.request().is_nack("n1"));
            }
            waits.push((driven.now - start).as_millis());
        }
        assert_eq!(waits, [0, 500, 1000, 2000, 4000, 5000, 5000]);
        // Another version is answered at once, and so is one behind which another waits.
        driven.reject(response(variant, Cluster, "2", &["a"]), &["a"]);
        assert!(driven.request().is_nack("n2"));
        driven.reject(response(variant, Cluster, "2", &["a"]), &["a"]);
        assert_eq!(driven.requests(), []);
        let next = driven.update(response(variant, Cluster, "3", &["a"]));
        assert!(driven.request().is_nack("n2"));
        driven.client.answer(next.token, Vec::new(), driven.now);
        assert!(driven.request().is_ack("n3"));
    }
}

#[test]
fn v_05_a_slowed_nack_holds_up_nothing_else() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Endpoints, &["a"]);
        driven.ask(Cluster, &[]);
        driven.requests();
        for _ in 0..2 {
            driven.reject(response(variant, Endpoints, "1", &["a"]), &["a"]);
            driven.requests();
        }
        driven.accept(response(variant, Cluster, "1", &["c"]));
        assert_eq!(driven.request().kind, Cluster);
        // Names have no time to lose: in the state-of-the-world variant the NACK takes them along.
        driven.ask(Endpoints, &["b"]);
        let said = driven.request();
        match variant {
            Sotw => assert!(said.is_nack("n1") && said.names == ["a", "b"]),
            Delta => assert!(said.nonce.is_empty() && said.names == ["b"]),
        }
    }
}

#[test]
fn f_06_a_refusal_is_news_once_per_version_and_text() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let mut refuse = |version, names: &[&str]| {
            driven.reject(response(variant, Cluster, version, &["a", "b"]), names).repeated
        };
        assert!(!refuse("1", &["a"]));
        assert!(refuse("1", &["a"]));
        assert!(!refuse("1", &["a", "b"]));
        assert!(!refuse("2", &["a", "b"]));
        driven.accept(response(variant, Cluster, "3", &["a"]));
        let refusal = driven.reject(response(variant, Cluster, "2", &["a"]), &["a"]);
        assert!(!refusal.repeated);
    }
}
