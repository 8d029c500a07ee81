//! A8: failure and reconnect.

use super::*;

#[test]
fn f_01_a_lost_stream_forgets_nothing() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        driven.accept(response(variant, Cluster, "1", &["a", "b"]));
        let held = driven.held(Cluster);
        for _ in 0..100 {
            driven.client.disconnected(0);
            assert_eq!(driven.after(Duration::from_secs(3600)), []);
        }
        assert_eq!(driven.held(Cluster), held);
    }
}

#[test]
fn f_02_waits_double_with_full_jitter_and_begin_anew_after_the_first_response() {
    for variant in BOTH {
        let mut driven = Driven::new(variant);
        driven.ask(Cluster, &[]);
        let fail = |driven: &mut Driven| {
            // One nanosecond less than each bound is the most there can be.
            let bounds = [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000];
            for bound in bounds {
                let longest = Duration::from_millis(bound) - Duration::from_nanos(1);
                let wait = driven.client.disconnected(longest.as_nanos() as u64);
                assert_eq!(wait, longest, "of {bound} ms");
            }
            assert_eq!(driven.client.disconnected(0), Duration::ZERO);
        };
        fail(&mut driven);
        // A stream alone is no success.
        driven.client.connected();
        driven.requests();
        let longest = Duration::from_secs(30) - Duration::from_nanos(1);
        assert_eq!(driven.client.disconnected(longest.as_nanos() as u64), longest);
        driven.client.connected();
        driven.requests();
        driven.accept(response(variant, Cluster, "1", &["a"]));
        fail(&mut driven);
    }
}

#[test]
fn f_02_the_bounds_are_configurable() {
    let options = Options { backoff: (SECOND, Duration::from_millis(1500)), ..Options::default() };
    let mut driven = Driven::with(Delta, options);
    let most = |driven: &mut Driven, nanos| driven.client.disconnected(nanos).as_nanos() as u64;
    assert_eq!(most(&mut driven, 999_999_999), 999_999_999);
    assert_eq!(most(&mut driven, 1_499_999_999), 1_499_999_999);
    assert_eq!(most(&mut driven, 1_500_000_000), 0);
}

#[test]
fn f_06_nothing_is_acked_before_it_is_accepted() {
    for variant in BOTH {
        let mut driven = Driven::asking(variant, Cluster, &[]);
        let update = driven.update(response(variant, Cluster, "1", &["a"]));
        driven.after(10 * FETCH);
        assert_eq!(driven.requests(), []);
        let rejection = vec![Rejection::new("a", "no")];
        driven.client.answer(update.token, rejection, driven.now);
        assert!(driven.request().is_nack("n1"));
    }
}
