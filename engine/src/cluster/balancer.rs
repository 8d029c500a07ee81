//! Choosing an endpoint (contract section 10.1).
//!
//! Invariant: a choice is always one of the candidates for this request. State is per shard;
//! shards start their rotations at different places, so that few requests on many shards do not
//! all go to the first endpoint.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

use outrigger_xds::snapshot::{Candidates, EndpointSet, LoadBalancer};

pub(super) struct Balancer {
    policy: LoadBalancer,
    /// One for each group of endpoints that a request may be given to choose from.
    schedules: Box<[Schedule]>,
}

enum Schedule {
    /// No order is kept.
    None,
    /// Equal weights: plain rotation.
    Rotation { next: usize },
    /// Unequal weights: earliest deadline first.
    Deadlines { now: f64, heap: BinaryHeap<Deadline>, next_order: u64 },
}

struct Deadline {
    at: f64,
    /// Earlier entries win ties, so that equal ones take turns.
    order: u64,
    index: u32,
    weight: f64,
}

impl Balancer {
    pub(super) fn new(policy: LoadBalancer, endpoints: &EndpointSet, shard: usize) -> Self {
        let schedules =
            endpoints.groups().map(|group| Schedule::new(policy, endpoints, group, shard));
        Self { policy, schedules: schedules.collect() }
    }

    /// The index of one of `candidates`. `random` gives uniform numbers, `active` the requests of an
    /// endpoint.
    pub(super) fn choose(
        &mut self,
        candidates: Candidates<'_>,
        random: impl Fn() -> u64,
        active: impl Fn(u32) -> u32,
    ) -> Option<u32> {
        let count = candidates.len();
        match count {
            0 => return None,
            1 => return Some(candidates.member(0)),
            _ => {}
        }
        let schedule = self.schedules.get_mut(candidates.group)?;
        match self.policy {
            LoadBalancer::LeastRequest { active_request_bias, .. }
                if matches!(schedule, Schedule::Deadlines { .. }) =>
            {
                schedule.next(candidates, |index| {
                    (f64::from(active(index)) + 1.0).powf(-active_request_bias)
                })
            }
            LoadBalancer::LeastRequest { choice_count, full_scan, .. } => {
                let least = |best: u32, other: u32| {
                    if active(other) < active(best) { other } else { best }
                };
                if full_scan {
                    // Start anywhere, or the first of equals would get everything.
                    let start = below(random(), count);
                    let all = (0..count).map(|step| candidates.member((start + step) % count));
                    return all.reduce(least);
                }
                let some = (0..choice_count).map(|_| candidates.member(below(random(), count)));
                some.reduce(least)
            }
            LoadBalancer::Random => Some(candidates.member(below(random(), count))),
            LoadBalancer::RoundRobin => schedule.next(candidates, |_| 1.0),
            // Its endpoints are made as they are asked for, and never chosen from.
            LoadBalancer::ClusterProvided => None,
        }
    }
}

impl Schedule {
    fn new(
        policy: LoadBalancer,
        endpoints: &EndpointSet,
        group: Candidates<'_>,
        shard: usize,
    ) -> Self {
        let weight = |index: u32| endpoints.all()[index as usize].weight.max(1);
        let mut weights = group.iter().map(weight);
        let first = weights.next();
        let equal = weights.all(|weight| Some(weight) == first);
        match policy {
            _ if group.len() < 2 => Self::None,
            LoadBalancer::RoundRobin if equal => Self::Rotation { next: shard % group.len() },
            LoadBalancer::RoundRobin | LoadBalancer::LeastRequest { .. } if !equal => {
                let deadline = |(order, index)| {
                    let weight = f64::from(weight(index));
                    Deadline { at: 1.0 / weight, order, index, weight }
                };
                Self::Deadlines {
                    now: 0.0,
                    heap: (1..).zip(group.iter()).map(deadline).collect(),
                    next_order: group.len() as u64 + 1,
                }
            }
            _ => Self::None,
        }
    }

    fn next(&mut self, candidates: Candidates<'_>, scale: impl Fn(u32) -> f64) -> Option<u32> {
        match self {
            Self::None => None,
            Self::Rotation { next } => {
                let position = *next % candidates.len();
                *next = position + 1;
                Some(candidates.member(position))
            }
            Self::Deadlines { now, heap, next_order } => {
                let mut first = heap.pop()?;
                let chosen = first.index;
                *now = first.at;
                first.at = *now + 1.0 / (first.weight * scale(chosen)).max(f64::MIN_POSITIVE);
                first.order = *next_order;
                *next_order += 1;
                heap.push(first);
                Some(chosen)
            }
        }
    }
}

/// A number below `count`, without the bias or the cost of a division (Lemire's reduction).
pub(super) fn below(random: u64, count: usize) -> usize {
    ((u128::from(random) * count as u128) >> 64) as usize
}

impl Ord for Deadline {
    fn cmp(&self, other: &Self) -> Ordering {
        // The heap gives the greatest first: the earliest must be the greatest.
        other.at.total_cmp(&self.at).then(other.order.cmp(&self.order))
    }
}

impl PartialOrd for Deadline {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Deadline {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Deadline {}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use outrigger_xds::snapshot::{Address, Endpoint, Health, PanicPolicy};

    use super::*;

    fn endpoints(weights: &[(u32, Health)]) -> EndpointSet {
        let list = weights
            .iter()
            .enumerate()
            .map(|(index, (weight, health))| Endpoint {
                weight: *weight,
                health: *health,
                ..Endpoint::at(Address::Ip(([127, 0, 0, 1], 1000 + index as u16).into()))
            })
            .collect();
        EndpointSet::new(list, POLICY)
    }

    fn counts(policy: LoadBalancer, set: &EndpointSet, picks: usize) -> Vec<usize> {
        let mut balancer = Balancer::new(policy, set, 0);
        let state = Cell::new(1u64);
        let random = || {
            state.set(state.get().wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
            state.get() ^ (state.get() >> 29)
        };
        let mut counts = vec![0; set.all().len()];
        for _ in 0..picks {
            let chosen = balancer.choose(set.candidates(random()), random, |_| 0).unwrap();
            counts[chosen as usize] += 1;
        }
        counts
    }

    const POLICY: PanicPolicy = PanicPolicy {
        threshold_percent: 50.0,
        fail_traffic: false,
        overprovisioning_factor: 140,
        locality_weighted: false,
    };

    const LEAST: LoadBalancer =
        LoadBalancer::LeastRequest { choice_count: 2, active_request_bias: 1.0, full_scan: false };

    #[test]
    fn equal_weights_rotate() {
        let set = endpoints(&[(1, Health::Healthy); 3]);
        assert_eq!(counts(LoadBalancer::RoundRobin, &set, 9), [3, 3, 3]);
    }

    #[test]
    fn weights_are_kept_exactly_over_a_round() {
        let set = endpoints(&[(1, Health::Healthy), (2, Health::Healthy), (5, Health::Healthy)]);
        assert_eq!(counts(LoadBalancer::RoundRobin, &set, 800), [100, 200, 500]);
    }

    #[test]
    fn unhealthy_endpoints_get_nothing_until_there_is_a_panic() {
        let healthy = (1, Health::Healthy);
        let sick = (1, Health::Unhealthy);
        for policy in [LoadBalancer::RoundRobin, LoadBalancer::Random, LEAST] {
            let counts_of = |list: &[_]| counts(policy, &endpoints(list), 1000);
            assert_eq!(counts_of(&[healthy, sick, healthy])[1], 0);
            assert!(counts_of(&[sick, sick, healthy])[0] > 0);
        }
    }

    #[test]
    fn random_is_uniform_enough() {
        let set = endpoints(&[(1, Health::Healthy); 4]);
        for count in counts(LoadBalancer::Random, &set, 40_000) {
            assert!((9_000..11_000).contains(&count), "{count}");
        }
    }

    #[test]
    fn least_request_avoids_the_busy() {
        let set = endpoints(&[(1, Health::Healthy); 2]);
        let full = LoadBalancer::LeastRequest {
            choice_count: 2,
            active_request_bias: 1.0,
            full_scan: true,
        };
        let mut balancer = Balancer::new(full, &set, 0);
        for random in 0..50u64 {
            let candidates = set.candidates(random);
            let active = |index| [7, 3][index as usize];
            let chosen = balancer.choose(candidates, || random << 58, active);
            assert_eq!(chosen, Some(1));
        }
    }

    #[test]
    fn weighted_least_request_leans_to_the_idle() {
        let set = endpoints(&[(1, Health::Healthy), (3, Health::Healthy)]);
        let mut balancer = Balancer::new(LEAST, &set, 0);
        let mut to_idle = 0;
        for _ in 0..100 {
            let active = |index| [0, 9][index as usize];
            let chosen = balancer.choose(set.candidates(0), || 0, active);
            to_idle += usize::from(chosen == Some(0));
        }
        assert!(to_idle > 60, "{to_idle}");
    }

    #[test]
    fn section_10_1_each_group_has_a_rotation_of_its_own() {
        const STEP: u64 = u64::MAX / 1000;
        let endpoint = |priority: u32, port: u16, weight: u32, health: Health| Endpoint {
            priority,
            weight,
            health,
            ..Endpoint::at(Address::Ip(([127, 0, 0, 1], port).into()))
        };
        // Half of priority 0 is healthy and carries 70 of 100; priority 1 has unequal weights.
        let set = EndpointSet::new(
            vec![
                endpoint(0, 1, 1, Health::Healthy),
                endpoint(0, 2, 1, Health::Unhealthy),
                endpoint(1, 3, 1, Health::Healthy),
                endpoint(1, 4, 2, Health::Healthy),
            ],
            POLICY,
        );
        let mut balancer = Balancer::new(LoadBalancer::RoundRobin, &set, 0);
        let mut counts = [0; 4];
        for request in 0..1000 {
            let candidates = set.candidates(request * STEP + STEP / 2);
            counts[balancer.choose(candidates, || 0, |_| 0).unwrap() as usize] += 1;
        }
        assert_eq!(counts, [700, 0, 100, 200]);
    }

    #[test]
    fn an_empty_set_has_no_choice() {
        let set = endpoints(&[]);
        let mut balancer = Balancer::new(LEAST, &set, 0);
        assert_eq!(balancer.choose(set.candidates(0), || 0, |_| 0), None);
    }
}
