//! A5: time to live.

use super::*;

const TTL: Duration = Duration::from_secs(10);

/// A response with one resource that lives for `TTL`, if `ttl`; a heartbeat without `body`.
fn living(variant: Variant, version: &str, ttl: Option<Duration>, body: bool) -> Response {
    let mut lives = resource(Cluster, "a", if variant == Delta { version } else { "" });
    lives.ttl = ttl.and_then(span);
    if !body {
        lives.resource = None;
    }
    match variant {
        Sotw => sotw_of(Cluster, version, vec![wrap(&lives)]).into(),
        Delta => delta_of(Cluster, version, vec![lives]).into(),
    }
}

#[test]
fn t_01_unless_the_node_says_so_no_resource_expires() {
    for variant in BOTH {
        let options = Options { honour_ttl: false, ..Options::default() };
        let mut driven = Driven::with(variant, options);
        driven.client.connected();
        driven.client.subscribe_all(Cluster, None, driven.now);
        driven.request();
        driven.accept(living(variant, "1", Some(TTL), true));
        assert_eq!((driven.after(2 * TTL), driven.client.next_deadline()), (vec![], None));
    }
}

#[test]
fn t_02_a_copy_restarts_the_timer_and_one_without_ttl_cancels_it() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.accept(living(variant, "1", Some(TTL), true));
        assert_eq!(driven.after(TTL - SECOND), []);
        driven.accept(living(variant, "2", Some(2 * TTL), true));
        assert_eq!(driven.after(2 * TTL - SECOND), []);
        assert_eq!(driven.client.next_deadline(), None.or(Some(driven.now + SECOND)));
        driven.accept(living(variant, "3", None, true));
        assert_eq!(driven.after(10 * TTL), []);
        assert_eq!(driven.held_names(Cluster), ["a"]);
        // A copy that is rejected leaves the one before it, of which the server still speaks.
        driven.accept(living(variant, "4", Some(TTL), true));
        driven.after(TTL - SECOND);
        driven.reject(living(variant, "5", Some(TTL), true), &["a"]);
        assert_eq!(driven.after(TTL - SECOND), []);
        assert_eq!(driven.after(SECOND), [expired(Cluster, "a", Why::Ttl)]);
    }
}

#[test]
fn t_02_the_time_counts_from_receipt() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let update = driven.update(living(variant, "1", Some(TTL), true));
        driven.now += TTL - SECOND;
        driven.client.answer(update.token, Vec::new(), driven.now);
        assert_eq!(driven.after(SECOND), [expired(Cluster, "a", Why::Ttl)]);
    }
}

#[test]
fn t_03_a_heartbeat_restarts_the_timer_and_changes_nothing_else() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.accept(living(variant, "1", Some(TTL), true));
        driven.requests();
        let before = driven.client.status(Cluster).stats.clone();
        for _ in 0..3 {
            driven.now += TTL - SECOND;
            let received = driven.receive(living(variant, "1", Some(TTL), false));
            assert!(matches!(received, Received::Heartbeat(Cluster)), "{received:?}");
            assert_eq!(driven.client.expire(driven.now), []);
            assert!(driven.request().is_ack("n1"), "like any response");
        }
        let mut after = driven.client.status(Cluster).stats.clone();
        assert_eq!(std::mem::take(&mut after.heartbeat), 3);
        assert_eq!(after, before, "no update is counted");
        assert_eq!(driven.after(TTL), [expired(Cluster, "a", Why::Ttl)]);
    }
}

#[test]
fn t_03_a_heartbeat_for_what_is_not_held_is_none() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let refusal = driven.reject(living(variant, "1", Some(TTL), false), &[]);
        assert!(refusal.text.starts_with("Cluster a: resource: is required"), "{}", refusal.text);
        driven.accept(living(variant, "1", Some(TTL), true));
        driven.reject(living(variant, "2", Some(TTL), false), &[]);
        assert_eq!(driven.held_names(Cluster), ["a"]);
    }
}

#[test]
fn t_03_a_heartbeat_may_follow_before_the_verdict_on_what_it_is_for() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let update = driven.update(living(variant, "1", Some(TTL), true));
        driven.now += TTL - SECOND;
        let received = driven.receive(living(variant, "1", Some(TTL), false));
        assert!(matches!(received, Received::Heartbeat(Cluster)), "{received:?}");
        assert_eq!(driven.requests(), [], "one after the other");
        driven.client.answer(update.token, Vec::new(), driven.now);
        assert_eq!(driven.requests().len(), 2);
        assert_eq!(driven.after(TTL - SECOND), []);
        assert_eq!(driven.after(SECOND), [expired(Cluster, "a", Why::Ttl)]);
    }
}

#[test]
fn t_03_in_a_full_set_a_heartbeat_is_presence_and_heartbeats_alone_are_no_set() {
    let mut driven = Driven::asking(Sotw, Cluster, &[]);
    let beat = |name: &str| {
        wrap(&Resource { resource: None, ttl: span(TTL), ..resource(Cluster, name, "") })
    };
    let all = vec![any(Cluster, "a"), any(Cluster, "b"), any(Cluster, "c")];
    driven.accept(sotw_of(Cluster, "1", all));
    let received = driven.receive(sotw_of(Cluster, "1", vec![beat("a")]));
    assert!(matches!(received, Received::Heartbeat(Cluster)), "{received:?}");
    assert_eq!(driven.held_names(Cluster), ["a", "b", "c"]);
    let update = driven.update(sotw_of(Cluster, "1", vec![beat("a"), any(Cluster, "b")]));
    assert_eq!(removed(&update), ["c"]);
    driven.client.answer(update.token, Vec::new(), driven.now);
}

#[test]
fn t_04_expiry_is_removal() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.accept(living(variant, "1", Some(TTL), true));
        driven.requests();
        assert_eq!(driven.client.next_deadline(), Some(driven.now + TTL));
        assert_eq!(driven.after(TTL), [expired(Cluster, "a", Why::Ttl)]);
        assert_eq!(driven.client.status(Cluster).stats.expired, 1);
        assert_eq!(driven.held(Cluster), []);
        driven.reconnect();
        assert_eq!(driven.request().held, []);
        assert_eq!(driven.accept(living(variant, "1", None, true)), ["a"], "it can come back");
    }
}

#[test]
fn t_05_timers_run_while_the_stream_is_down() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.accept(living(variant, "1", Some(TTL), true));
        driven.client.disconnected(0);
        assert_eq!(driven.after(TTL), [expired(Cluster, "a", Why::Ttl)]);
    }
}

#[test]
fn a_ttl_that_is_no_time_is_refused() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let mut lives = resource(Cluster, "a", "1");
        lives.ttl = Some(Span { seconds: -1, nanos: 0 });
        let response: Response = match variant {
            Sotw => sotw_of(Cluster, "1", vec![wrap(&lives)]).into(),
            Delta => delta_of(Cluster, "1", vec![lives]).into(),
        };
        let refusal = driven.reject(response, &[]);
        assert_eq!(refusal.text, "Cluster a: ttl: is not a length of time");
        // The longest there is.
        driven.accept(living(variant, "2", Some(Duration::from_secs(315_576_000_000)), true));
        assert_eq!(driven.after(TTL), []);
    }
}
