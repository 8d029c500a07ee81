//! The endpoints of a cluster at one moment, and which of them a request may go to (contract sections
//! 10.1 and 11).
//!
//! Load goes to priority 0 as far as its health allows, and what it can't carry to the next ones;
//! within a priority to healthy endpoints before degraded ones; and where localities are weighted to
//! each by its weight and health. All of that is worked out once, as a table of groups of endpoints and
//! the share of requests that each has. Invariant: the shares of a set add up to all requests.

use std::collections::HashMap;
use std::num::NonZeroU32;

use super::cluster::{Endpoint, Health, PanicPolicy};

/// The endpoints of a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointSet {
    endpoints: Box<[Endpoint]>,
    healthy: u32,
    degraded: u32,
    policy: PanicPolicy,
    /// Nothing in it: one group, which is all endpoints, has all requests.
    table: Table,
}

/// What requests may choose from.
#[derive(Debug, Clone, PartialEq, Default)]
struct Table {
    /// Indexes into the endpoints.
    groups: Vec<Box<[u32]>>,
    /// Ascending; the last ends at [`REQUESTS`].
    shares: Vec<Share>,
}

/// A range of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Share {
    /// The first request behind it.
    end: u32,
    group: u32,
    panic: bool,
}

/// What a load balancer may choose from for one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidates<'a> {
    /// Which group it is, of [`EndpointSet::groups`].
    pub group: usize,
    /// So few endpoints are healthy that health is not looked at: `lb_healthy_panic`.
    pub panic: bool,
    /// `None`: every endpoint of the set.
    members: Option<&'a [u32]>,
    len: usize,
}

impl Candidates<'_> {
    /// How many there are; with none the request has nowhere to go.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One of them, as an index into [`EndpointSet::all`]; `position` is below [`Candidates::len`].
    #[must_use]
    pub fn member(&self, position: usize) -> u32 {
        self.members.map_or(position as u32, |members| members[position])
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = u32> {
        (0..self.len).map(|position| self.member(position))
    }
}

impl EndpointSet {
    /// Works out what goes where.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, policy: PanicPolicy) -> EndpointSet {
        let count = |health| endpoints.iter().filter(|endpoint| endpoint.health == health).count();
        let (healthy, degraded) = (count(Health::Healthy), count(Health::Degraded));
        let simple = healthy == endpoints.len()
            && endpoints.iter().all(|endpoint| endpoint.priority == 0)
            && !policy.locality_weighted;
        let table = if simple { Table::default() } else { Table::new(&endpoints, policy) };
        EndpointSet {
            endpoints: endpoints.into(),
            healthy: healthy as u32,
            degraded: degraded as u32,
            policy,
            table,
        }
    }

    /// Every endpoint, whatever its health.
    #[must_use]
    pub fn all(&self) -> &[Endpoint] {
        &self.endpoints
    }

    /// How many are healthy.
    #[must_use]
    pub fn healthy(&self) -> u32 {
        self.healthy
    }

    /// How many are degraded.
    #[must_use]
    pub fn degraded(&self) -> u32 {
        self.degraded
    }

    /// Every group of endpoints that [`EndpointSet::candidates`] may give, by number; at least one.
    pub fn groups(&self) -> impl Iterator<Item = Candidates<'_>> {
        (0..self.table.groups.len().max(1)).map(|group| self.group(group, false))
    }

    /// What one request may choose from; `random` is uniform over u64.
    #[must_use]
    pub fn candidates(&self, random: u64) -> Candidates<'_> {
        match self.table.share(random) {
            Some(share) => self.group(share.group as usize, share.panic),
            None => self.group(0, false),
        }
    }

    /// What a try may choose from after others that went to endpoints of the priorities `tried`, which
    /// are passed over: see [`RetryPolicy::previous_priorities`](super::RetryPolicy::previous_priorities).
    /// Nothing: it chooses as any request. This is worked out anew, for tries are few.
    #[must_use]
    pub fn beyond(
        &self,
        tried: impl Iterator<Item = u32>,
        step: NonZeroU32,
        random: u64,
    ) -> Option<Box<[u32]>> {
        if self.table.groups.is_empty() {
            return None;
        }
        let (mut passed_over, mut waiting) = (Vec::new(), Vec::new());
        for (count, priority) in (1u32..).zip(tried) {
            waiting.push(priority.min(PRIORITY_MAX));
            if count % step == 0 {
                passed_over.append(&mut waiting);
                let is_left = |endpoint: &Endpoint| {
                    matches!(endpoint.health, Health::Healthy | Health::Degraded)
                        && !passed_over.contains(&endpoint.priority.min(PRIORITY_MAX))
                };
                if !self.endpoints.iter().any(is_left) {
                    passed_over.clear();
                }
            }
        }
        if passed_over.is_empty() {
            return None;
        }
        let mut levels = levels(&self.endpoints);
        for priority in passed_over {
            if let Some(level) = levels.get_mut(priority as usize) {
                *level = Level::default();
            }
        }
        let mut table = Table::of(levels, &self.endpoints, self.policy);
        let share = table.share(random)?;
        Some(table.groups.swap_remove(share.group as usize))
    }

    fn group(&self, group: usize, panic: bool) -> Candidates<'_> {
        let members = self.table.groups.get(group).map(|members| &**members);
        let len = members.map_or(self.endpoints.len(), <[u32]>::len);
        Candidates { group, panic, members, len }
    }
}

/// The endpoints of one priority.
#[derive(Default)]
struct Level {
    all: Vec<u32>,
    healthy: Vec<u32>,
    degraded: Vec<u32>,
    /// Requests of 100.
    healthy_load: u32,
    degraded_load: u32,
    panic: bool,
}

impl Level {
    /// Of 100, as far as the endpoints counted could carry it all.
    fn availability(&self, usable: usize, policy: PanicPolicy) -> u32 {
        let percent = u64::from(policy.overprovisioning_factor) * usable as u64;
        percent.checked_div(self.all.len() as u64).map_or(0, |percent| percent.min(100)) as u32
    }

    fn is_below(&self, threshold_percent: f64) -> bool {
        let usable = self.healthy.len() + self.degraded.len();
        let percent = 100.0 * usable as f64 / self.all.len().max(1) as f64;
        percent < threshold_percent
    }
}

impl Table {
    fn new(endpoints: &[Endpoint], policy: PanicPolicy) -> Table {
        Table::of(levels(endpoints), endpoints, policy)
    }

    fn of(mut levels: Vec<Level>, endpoints: &[Endpoint], policy: PanicPolicy) -> Table {
        spread(&mut levels, policy);
        let mut table = Table::default();
        for level in &levels {
            if level.panic {
                // Nobody is served by an empty group.
                let members = if policy.fail_traffic { &[][..] } else { &level.all };
                table.add(members, (level.healthy_load + level.degraded_load) * PARTS, true);
                continue;
            }
            let classes =
                [(&level.healthy, level.healthy_load), (&level.degraded, level.degraded_load)];
            for (members, load) in classes.into_iter().filter(|(_, load)| *load > 0) {
                if !(policy.locality_weighted
                    && table.add_localities(endpoints, &level.all, members, load, policy))
                {
                    table.add(members, load * PARTS, false);
                }
            }
        }
        table
    }

    /// Where one request goes; `random` is uniform over u64.
    fn share(&self, random: u64) -> Option<Share> {
        let request = ((u128::from(random) * u128::from(REQUESTS)) >> 64) as u32;
        let at = match self.shares.len() {
            0 | 1 => 0,
            _ => self.shares.partition_point(|share| share.end <= request),
        };
        self.shares.get(at).copied()
    }

    /// Gives so many of the requests to a group.
    fn add(&mut self, members: &[u32], requests: u32, panic: bool) {
        if requests == 0 {
            return;
        }
        let end = self.shares.last().map_or(0, |share| share.end) + requests;
        self.shares.push(Share { end, group: self.groups.len() as u32, panic });
        self.groups.push(members.into());
    }

    /// Gives the requests of a class to its localities. False when none of them has a weight.
    fn add_localities(
        &mut self,
        endpoints: &[Endpoint],
        all: &[u32],
        class: &[u32],
        load: u32,
        policy: PanicPolicy,
    ) -> bool {
        let place = |index: u32| endpoints[index as usize].locality.as_deref();
        let name = |index: u32| place(index).map(|place| &place.name);
        let mut totals: HashMap<_, u32> = HashMap::new();
        all.iter().for_each(|index| *totals.entry(name(*index)).or_default() += 1);
        let mut numbers = HashMap::new();
        let mut localities: Vec<Vec<u32>> = Vec::new();
        for index in class {
            let number = *numbers.entry(name(*index)).or_insert(localities.len());
            if number == localities.len() {
                localities.push(Vec::new());
            }
            localities[number].push(*index);
        }
        let factor = f64::from(policy.overprovisioning_factor) / 100.0;
        let weigh = |members: &Vec<u32>| {
            let total = totals.get(&name(members[0])).map_or(1.0, |total| f64::from(*total));
            let weight = place(members[0]).and_then(|place| place.weight).unwrap_or(0);
            f64::from(weight) * (factor * members.len() as f64 / total).min(1.0)
        };
        let weights: Vec<f64> = localities.iter().map(weigh).collect();
        let total: f64 = weights.iter().sum();
        if total <= 0.0 {
            return false;
        }
        let (requests, mut given, mut sum) = (load * PARTS, 0, 0.0);
        for (weight, members) in weights.iter().zip(&localities) {
            sum += weight;
            // The last one ends where all do, whatever the rounding.
            let end = ((f64::from(requests) * sum / total).round() as u32).min(requests);
            self.add(members, end - given, false);
            given = end;
        }
        true
    }
}

/// At least one.
fn levels(endpoints: &[Endpoint]) -> Vec<Level> {
    let mut levels = vec![Level::default()];
    for (index, endpoint) in (0u32..).zip(endpoints) {
        let priority = endpoint.priority.min(PRIORITY_MAX) as usize;
        while levels.len() <= priority {
            levels.push(Level::default());
        }
        let level = &mut levels[priority];
        level.all.push(index);
        match endpoint.health {
            Health::Healthy => level.healthy.push(index),
            Health::Degraded => level.degraded.push(index),
            Health::Unhealthy | Health::Draining => {}
        }
    }
    levels
}

/// Gives each priority its part of 100 requests.
fn spread(levels: &mut [Level], policy: PanicPolicy) {
    let healthy: Vec<u32> =
        levels.iter().map(|level| level.availability(level.healthy.len(), policy)).collect();
    let degraded: Vec<u32> =
        levels.iter().map(|level| level.availability(level.degraded.len(), policy)).collect();
    let available = healthy.iter().chain(&degraded).sum::<u32>().min(100);
    let mut left = 100;
    for (level, health) in levels.iter_mut().zip(&healthy) {
        level.healthy_load = (health * 100).checked_div(available).unwrap_or(0).min(left);
        left -= level.healthy_load;
    }
    for (level, health) in levels.iter_mut().zip(&degraded) {
        level.degraded_load = (health * 100).checked_div(available).unwrap_or(0).min(left);
        left -= level.degraded_load;
    }
    // What rounding leaves over goes to the first that takes anything, and if none does to the first.
    if let Some(level) = levels.iter_mut().find(|level| level.healthy_load > 0) {
        level.healthy_load += left;
    } else if let Some(level) = levels.iter_mut().find(|level| level.degraded_load > 0) {
        level.degraded_load += left;
    } else {
        levels[0].healthy_load = left;
    }
    if available == 100 {
        return;
    }
    for level in levels.iter_mut() {
        level.panic = level.is_below(policy.threshold_percent);
    }
    if levels.iter().all(|level| level.panic) {
        spread_by_size(levels);
    }
}

/// With all priorities in panic, health says nothing of who can carry how much.
fn spread_by_size(levels: &mut [Level]) {
    let total: usize = levels.iter().map(|level| level.all.len()).sum();
    let mut left = 100;
    for level in levels.iter_mut() {
        let load = (100 * level.all.len() as u64).checked_div(total as u64).unwrap_or(0) as u32;
        level.healthy_load = load;
        level.degraded_load = 0;
        left -= load;
    }
    let first = levels.iter().position(|level| !level.all.is_empty()).unwrap_or(0);
    levels[first].healthy_load += left;
}

/// The highest priority number that is told apart (Envoy's bound).
pub const PRIORITY_MAX: u32 = 128;

/// What shares are counted in: parts of a percent, so that localities are told apart within one.
const REQUESTS: u32 = 100 * PARTS;
const PARTS: u32 = 10_000;
