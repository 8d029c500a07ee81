//! Which endpoints a request may go to: health, priorities and localities (contract section 10.1).

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod common;

use std::sync::Arc;

use common::*;
use outrigger_xds::snapshot::Health::{Degraded, Healthy, Unhealthy};
use outrigger_xds::snapshot::*;
use serde_json::{Value, json};

const POLICY: PanicPolicy = PanicPolicy {
    threshold_percent: 50.0,
    fail_traffic: false,
    overprovisioning_factor: 140,
    locality_weighted: false,
};

/// An endpoint of a priority.
fn endpoint(priority: u32, health: Health) -> Endpoint {
    Endpoint { priority, health, ..Endpoint::at(Address::Ip("10.0.0.1:1".parse().unwrap())) }
}

/// The endpoints of one priority.
fn flat(healths: &[Health], policy: PanicPolicy) -> EndpointSet {
    EndpointSet::new(healths.iter().map(|health| endpoint(0, *health)).collect(), policy)
}

/// `count` endpoints of each priority, of which so many are healthy.
fn levels(count: usize, healthy: &[usize], policy: PanicPolicy) -> EndpointSet {
    let mut endpoints = Vec::new();
    for (priority, healthy) in (0u32..).zip(healthy) {
        for index in 0..count {
            let health = if index < *healthy { Healthy } else { Unhealthy };
            endpoints.push(endpoint(priority, health));
        }
    }
    EndpointSet::new(endpoints, policy)
}

/// Of 1000 requests that are spread evenly: how many have which candidates, and whether in panic.
fn spread(set: &EndpointSet) -> Vec<(Vec<u32>, bool, u32)> {
    let mut counts: Vec<(Vec<u32>, bool, u32)> = Vec::new();
    for request in 0..1000u64 {
        // The middle of each thousandth.
        let candidates = set.candidates(request * (u64::MAX / 1000) + u64::MAX / 2000);
        let members: Vec<u32> = candidates.iter().collect();
        match counts.iter_mut().find(|(known, ..)| *known == members) {
            Some((.., count)) => *count += 1,
            None => counts.push((members, candidates.panic, 1)),
        }
    }
    counts
}

/// What share of 1000 requests each priority of `count` endpoints has.
fn by_priority(set: &EndpointSet, count: u32, priorities: u32) -> Vec<u32> {
    let mut shares = vec![0; priorities as usize];
    for (members, _, requests) in spread(set) {
        if let Some(first) = members.first() {
            shares[(first / count) as usize] += requests;
        }
    }
    shares
}

#[test]
fn section_10_1_panic_and_degraded() {
    let policy =
        |threshold_percent, fail_traffic| PanicPolicy { threshold_percent, fail_traffic, ..POLICY };
    assert_eq!(spread(&flat(&[Healthy, Healthy], POLICY)), [(vec![0, 1], false, 1000)]);
    assert_eq!(spread(&flat(&[], POLICY)), [(vec![], false, 1000)]);
    assert_eq!(spread(&flat(&[Healthy, Unhealthy], POLICY)), [(vec![0], false, 1000)]);
    let third = [Healthy, Unhealthy, Unhealthy];
    assert_eq!(spread(&flat(&third, POLICY)), [(vec![0, 1, 2], true, 1000)]);
    assert_eq!(spread(&flat(&third, policy(0.0, false))), [(vec![0], false, 1000)]);
    assert_eq!(spread(&flat(&[Unhealthy], policy(0.0, false))), [(vec![], false, 1000)]);
    assert_eq!(spread(&flat(&third, policy(50.0, true))), [(vec![], true, 1000)]);
    // Half of the endpoints carry 70 % at a factor of 140; degraded ones take the rest.
    let mixed = flat(&[Healthy, Degraded], POLICY);
    assert_eq!(spread(&mixed), [(vec![0], false, 700), (vec![1], false, 300)]);
    assert_eq!(spread(&flat(&[Degraded], POLICY)), [(vec![0], false, 1000)]);
    // No panic while the healthy ones can carry all, whatever the threshold.
    let most = flat(&[Healthy, Healthy, Healthy, Unhealthy], policy(90.0, false));
    assert_eq!(spread(&most), [(vec![0, 1, 2], false, 1000)]);
}

#[test]
fn section_10_1_what_a_priority_cannot_carry_spills_to_the_next() {
    // Rows of Envoy's documentation of priority levels: healthy percent of each, load of each.
    for (healthy, expected) in [
        (&[100, 100][..], &[1000, 0][..]),
        (&[72, 72], &[1000, 0]),
        (&[71, 71], &[990, 10]),
        (&[50, 60], &[700, 300]),
        (&[25, 100], &[350, 650]),
        // Together they are below 100, and are scaled up.
        (&[25, 25], &[500, 500]),
        (&[100, 100, 100], &[1000, 0, 0]),
        (&[72, 72, 100], &[1000, 0, 0]),
        (&[50, 50, 50], &[700, 300, 0]),
        (&[25, 100, 100], &[350, 650, 0]),
        (&[25, 25, 100], &[350, 350, 300]),
    ] {
        let policy = PanicPolicy { threshold_percent: 0.0, ..POLICY };
        let set = levels(100, healthy, policy);
        assert_eq!(by_priority(&set, 100, healthy.len() as u32), expected, "{healthy:?}");
    }
    let factor = PanicPolicy { overprovisioning_factor: 100, ..POLICY };
    assert_eq!(by_priority(&levels(100, &[72, 72], factor), 100, 2), [720, 280]);
}

#[test]
fn section_10_1_each_priority_panics_by_itself() {
    // 20 % and 30 % healthy: 28 + 42 = 70 percent of the load could be carried, both are in panic.
    let spilled = spread(&levels(10, &[2, 3], POLICY));
    let all = |priority: u32| (priority * 10..priority * 10 + 10).collect::<Vec<u32>>();
    assert_eq!(spilled, [(all(0), true, 500), (all(1), true, 500)]);
    // Only the first is: its part of the load goes to all of it.
    let policy = PanicPolicy { overprovisioning_factor: 100, ..POLICY };
    let one = spread(&levels(10, &[2, 6], policy));
    assert_eq!(one, [(all(0), true, 250), ((10..16).collect(), false, 750)]);
    // Of no priority is anybody healthy: by size, without panic to nobody.
    let sizes = vec![endpoint(0, Unhealthy), endpoint(1, Unhealthy), endpoint(1, Unhealthy)];
    let set = EndpointSet::new(sizes.clone(), POLICY);
    assert_eq!(spread(&set), [(vec![0], true, 340), (vec![1, 2], true, 660)]);
    let set = EndpointSet::new(sizes, PanicPolicy { threshold_percent: 0.0, ..POLICY });
    assert_eq!(spread(&set), [(vec![], false, 1000)]);
}

#[test]
fn section_10_1_healthy_endpoints_of_any_priority_come_before_degraded_ones() {
    let set = EndpointSet::new(
        vec![
            endpoint(0, Degraded),
            endpoint(0, Unhealthy),
            endpoint(1, Healthy),
            endpoint(1, Unhealthy),
        ],
        PanicPolicy { threshold_percent: 0.0, ..POLICY },
    );
    assert_eq!(spread(&set), [(vec![0], false, 300), (vec![2], false, 700)]);
}

/// Endpoints in localities: weight, healthy ones, all.
fn localities(places: &[(Option<u32>, usize, usize)]) -> EndpointSet {
    let mut endpoints = Vec::new();
    for (index, (weight, healthy, all)) in places.iter().enumerate() {
        let name = ["r".into(), format!("z{index}").into(), "".into()];
        let place = Arc::new(Locality { name, weight: *weight, metadata: None });
        for number in 0..*all {
            endpoints.push(Endpoint {
                locality: Some(Arc::clone(&place)),
                ..endpoint(0, if number < *healthy { Healthy } else { Unhealthy })
            });
        }
    }
    let policy = PanicPolicy { threshold_percent: 0.0, locality_weighted: true, ..POLICY };
    EndpointSet::new(endpoints, policy)
}

#[test]
fn section_10_1_localities_share_by_weight_and_availability() {
    let both = localities(&[(Some(1), 1, 1), (Some(3), 2, 2)]);
    assert_eq!(spread(&both), [(vec![0], false, 250), (vec![1, 2], false, 750)]);
    // Half of the second is healthy: 3 x 0.7 against 1.
    let half = localities(&[(Some(1), 1, 1), (Some(3), 1, 2)]);
    assert_eq!(spread(&half), [(vec![0], false, 323), (vec![1], false, 677)]);
    // A locality without weight has no traffic.
    let unset = localities(&[(None, 1, 1), (Some(3), 1, 1)]);
    assert_eq!(spread(&unset), [(vec![1], false, 1000)]);
    // Without any weight there is nothing to go by.
    let none = localities(&[(None, 1, 1), (None, 1, 1)]);
    assert_eq!(spread(&none), [(vec![0, 1], false, 1000)]);
}

fn with_endpoints(endpoints: Value) -> Value {
    set(&http(), &format!("{CLUSTER}/load_assignment/endpoints"), endpoints)
}

fn group(priority: u32, more: Value) -> Value {
    let mut group = json!({ "priority": priority, "lb_endpoints": [
        { "endpoint": { "address": { "socket_address": {
            "address": "10.0.0.1", "port_value": 80 } } } } ] });
    let Value::Object(more) = more else { panic!("{more}") };
    group.as_object_mut().unwrap().extend(more);
    group
}

#[test]
fn section_11_priorities_and_localities_of_an_assignment() {
    let locality = json!({ "region": "r", "zone": "z", "sub_zone": "s" });
    let bootstrap = with_endpoints(json!([
        group(
            0,
            json!({ "locality": locality, "load_balancing_weight": 7,
            "metadata": { "filter_metadata": { "f": { "a": "b" } } } })
        ),
        group(1, json!({ "locality": locality })),
        group(1, json!({})),
    ]));
    let loaded = loaded(&bootstrap);
    let member = loaded.snapshot.clusters.iter().next().unwrap();
    assert!(!member.cluster.panic.locality_weighted);
    let [first, second, third] = member.endpoints.all() else { panic!() };
    let place = first.locality.as_ref().unwrap();
    assert_eq!((first.priority, place.weight), (0, Some(7)));
    assert_eq!(place.name, ["r", "z", "s"].map(Box::from));
    assert_eq!(place.metadata.as_deref(), Some(&json!({ "f": { "a": "b" } })));
    assert_eq!((second.priority, second.locality.as_ref().unwrap().weight), (1, None));
    assert_eq!((third.priority, &third.locality), (1, &None));

    let weighted = set(
        &bootstrap,
        &format!("{CLUSTER}/common_lb_config"),
        json!({ "locality_weighted_lb_config": {} }),
    );
    assert!(first_cluster(&common::loaded(&weighted)).panic.locality_weighted);
}

#[test]
fn section_11_constraints_of_priorities_and_localities() {
    let locality = json!({ "locality": { "zone": "z" } });
    for (endpoints, expected) in [
        (
            json!([group(0, json!({})), group(2, json!({}))]),
            "endpoints: there is priority 2, but no priority 1",
        ),
        (json!([group(1, json!({}))]), "endpoints: there is priority 1, but no priority 0"),
        (json!([group(129, json!({}))]), "endpoints[0].priority: must be at most 128"),
        (
            json!([group(0, locality.clone()), group(0, locality.clone())]),
            "endpoints[1].locality: is used twice",
        ),
        (
            json!([
                group(0, json!({ "load_balancing_weight": u32::MAX })),
                group(0, json!({ "load_balancing_weight": 1 })),
            ]),
            "endpoints: locality weights must add up to at most 4294967295",
        ),
    ] {
        let refusal = refusal(&with_endpoints(endpoints));
        assert_eq!(refusal, format!("Cluster app: load_assignment.{expected}"));
    }
}

#[test]
fn section_9_1_retries_pass_over_priorities_that_had_the_request() {
    let beyond = |set: &EndpointSet, tried: &[u32], step: u32| {
        let step = std::num::NonZeroU32::new(step).unwrap();
        set.beyond(tried.iter().copied(), step, 0).map(Vec::from)
    };
    // Three priorities of two, all well: requests go to the first.
    let set = levels(2, &[2, 2, 2], POLICY);
    assert_eq!(beyond(&set, &[], 1), None);
    assert_eq!(beyond(&set, &[0], 1), Some(vec![2, 3]));
    assert_eq!(beyond(&set, &[0, 1], 1), Some(vec![4, 5]));
    // All had it: it begins anew.
    assert_eq!(beyond(&set, &[0, 1, 2], 1), None);
    assert_eq!(beyond(&set, &[0, 1, 2, 0], 1), Some(vec![2, 3]));
    // Looked at after every second try.
    assert_eq!(beyond(&set, &[0], 2), None);
    assert_eq!(beyond(&set, &[0, 0, 1], 2), Some(vec![2, 3]));
    // Nothing is left where nobody is well, and there is nothing to pass over among equals.
    assert_eq!(beyond(&levels(2, &[2, 0], POLICY), &[0], 1), None);
    assert_eq!(beyond(&flat(&[Healthy, Healthy], POLICY), &[0], 1), None);
    assert_eq!(beyond(&set, &[u32::MAX], 1), Some(vec![0, 1]));
}
