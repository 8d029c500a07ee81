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
    /// One schedule for each class of candidates: all, healthy, degraded.
    schedules: [Schedule; 3],
}

enum Schedule {
    /// Equal weights: plain rotation.
    Rotation {
        next: usize,
    },
    /// Unequal weights: earliest deadline first.
    Deadlines {
        now: f64,
        heap: BinaryHeap<Deadline>,
        next_order: u64,
    },
    Empty,
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
        let every: Vec<u32> = (0..endpoints.all().len() as u32).collect();
        let of = |class: &[u32]| Schedule::new(policy, endpoints, class, shard);
        Self { policy, schedules: [of(&every), of(endpoints.healthy()), of(endpoints.degraded())] }
    }

    /// The index of an endpoint. `random` gives uniform numbers, `active` the requests of an
    /// endpoint.
    pub(super) fn choose(
        &mut self,
        endpoints: &EndpointSet,
        random: impl Fn() -> u64,
        active: impl Fn(u32) -> u32,
    ) -> Option<u32> {
        let (class, count, schedule) = match endpoints.candidates(random()) {
            Candidates::All { .. } => (None, endpoints.all().len(), 0),
            Candidates::Only(class) => {
                let degraded = std::ptr::eq(class, endpoints.degraded());
                (Some(class), class.len(), if degraded { 2 } else { 1 })
            }
        };
        let member = |position: usize| class.map_or(position as u32, |class| class[position]);
        match count {
            0 => return None,
            1 => return Some(member(0)),
            _ => {}
        }
        match self.policy {
            LoadBalancer::Random => Some(member(below(random(), count))),
            LoadBalancer::LeastRequest { choice_count, full_scan, .. }
                if endpoints.equal_weights() =>
            {
                let least = |best: u32, other: u32| {
                    if active(other) < active(best) { other } else { best }
                };
                if full_scan {
                    // Start anywhere, or the first of equals would get everything.
                    let start = below(random(), count);
                    return (0..count).map(|step| member((start + step) % count)).reduce(least);
                }
                (0..choice_count).map(|_| member(below(random(), count))).reduce(least)
            }
            LoadBalancer::LeastRequest { active_request_bias, .. } => self.schedules[schedule]
                .next(&member, count, |index| {
                    (f64::from(active(index)) + 1.0).powf(-active_request_bias)
                }),
            LoadBalancer::RoundRobin => self.schedules[schedule].next(&member, count, |_| 1.0),
        }
    }
}

impl Schedule {
    fn new(policy: LoadBalancer, endpoints: &EndpointSet, class: &[u32], shard: usize) -> Self {
        let scheduled =
            matches!(policy, LoadBalancer::RoundRobin | LoadBalancer::LeastRequest { .. });
        if class.is_empty() || !scheduled {
            return Self::Empty;
        }
        if endpoints.equal_weights() {
            return Self::Rotation { next: shard % class.len() };
        }
        let mut order = 0;
        let heap = class
            .iter()
            .map(|index| {
                let weight = f64::from(endpoints.all()[*index as usize].weight.max(1));
                order += 1;
                Deadline { at: 1.0 / weight, order, index: *index, weight }
            })
            .collect();
        Self::Deadlines { now: 0.0, heap, next_order: order + 1 }
    }

    fn next(
        &mut self,
        member: &impl Fn(usize) -> u32,
        count: usize,
        scale: impl Fn(u32) -> f64,
    ) -> Option<u32> {
        match self {
            Self::Empty => None,
            Self::Rotation { next } => {
                let position = *next % count;
                *next = position + 1;
                Some(member(position))
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
fn below(random: u64, count: usize) -> usize {
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
    use std::sync::Arc;

    use outrigger_xds::snapshot::{Address, Endpoint, Health, PanicPolicy};

    use super::*;

    fn endpoints(weights: &[(u32, Health)]) -> EndpointSet {
        let list = weights
            .iter()
            .enumerate()
            .map(|(index, (weight, health))| Endpoint {
                address: Address::Ip(([127, 0, 0, 1], 1000 + index as u16).into()),
                hostname: Arc::from(""),
                weight: *weight,
                health: *health,
                priority: 0,
                metadata: None,
            })
            .collect();
        let panic = PanicPolicy {
            threshold_percent: 50.0,
            fail_traffic: false,
            overprovisioning_factor: 140,
        };
        EndpointSet::new(list, panic)
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
            counts[balancer.choose(set, random, |_| 0).unwrap() as usize] += 1;
        }
        counts
    }

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
            let chosen = balancer.choose(&set, || random << 58, |index| [7, 3][index as usize]);
            assert_eq!(chosen, Some(1));
        }
    }

    #[test]
    fn weighted_least_request_leans_to_the_idle() {
        let set = endpoints(&[(1, Health::Healthy), (3, Health::Healthy)]);
        let mut balancer = Balancer::new(LEAST, &set, 0);
        let mut to_idle = 0;
        for _ in 0..100 {
            let chosen = balancer.choose(&set, || 0, |index| [0, 9][index as usize]);
            to_idle += usize::from(chosen == Some(0));
        }
        assert!(to_idle > 60, "{to_idle}");
    }

    #[test]
    fn an_empty_set_has_no_choice() {
        let set = endpoints(&[]);
        assert_eq!(Balancer::new(LEAST, &set, 0).choose(&set, || 0, |_| 0), None);
    }
}
