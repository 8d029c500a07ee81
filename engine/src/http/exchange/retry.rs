//! Sending a request again: whether, when, and to which endpoint (contract section 9.1).
//!
//! Between two tries there is no upstream, and nothing of the request is read. Invariant: a request is
//! sent again only while nothing of a response has gone downstream and all that was sent of it is kept.

use std::rc::Rc;
use std::time::Duration;

use outrigger_codecs::http::{FieldKind, RequestHead, ResponseHead, decimal};
use outrigger_xds::snapshot::{
    Address, AvoidHosts, BackOff, Forward, HostRewrite, RequestView, Route, RouteAction, Target,
};

use crate::access_log::ResponseFlags;
use crate::buffers::Chunk;
use crate::cluster::{ClusterRuntime, Host};
use crate::shard::Shard;

use super::super::after;
use super::super::reply::{Reply, UpstreamFailure};
use super::super::retry::{Steer, asked_wait, is_avoided};
use super::super::upgrade::Tunnel;
use super::{Downstream, Exchange, ResponsePhase, ResponseSide, Upstream};

impl Exchange {
    /// Notes how the request is to be retried, and what it says itself of its time, as internal callers
    /// may (contract section 8.1).
    pub(in crate::http) fn limit_by_request<R: RequestView>(
        &mut self,
        head: &RequestHead<'_, '_>,
        request: &R,
        route: &Route,
        forward: &Forward,
    ) {
        if self.tunnel != Tunnel::None {
            return;
        }
        let fields = request.is_internal().then_some(head.fields);
        for field in fields.unwrap_or_default() {
            if field.kind == FieldKind::XEnvoyUpstreamRqTimeoutMs
                && let Some(ms) = number(field.value)
            {
                self.deadlines.timeout = Some(Duration::from_millis(ms)).filter(|it| !it.is_zero());
            }
            self.mute_timeout |= field.kind == FieldKind::XEnvoy
                && Steer::of(field.name) == Some(Steer::AltResponse);
        }
        self.retries.begin(forward.retry.as_deref(), request, fields);
        if let (Some(whole), Some(one)) = (self.deadlines.timeout, self.retries.per_try_timeout)
            && one >= whole
        {
            self.retries.per_try_timeout = None;
        }
        let limit = route.body_buffer_bytes;
        self.outbound.body_limit = limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX));
    }

    /// What upstream is told of the time it has for this try, in milliseconds; 0 without a limit.
    pub(in crate::http) fn expected_timeout_ms(&self, elapsed: Duration) -> u64 {
        let whole = self.deadlines.timeout;
        let Some(expected) = self.retries.per_try_timeout.or(whole) else { return 0 };
        let left = whole.map_or(expected, |whole| whole.saturating_sub(elapsed));
        // Zero would be no limit at all.
        (expected.min(left).as_millis() as u64).max(1)
    }

    // ---- the time of a try -----------------------------------------------------------------------

    /// The try has the whole request, so that its time begins.
    pub(super) fn begin_try_deadlines(&mut self, shard: &Shard) {
        if self.request.complete && self.response.phase == ResponsePhase::Head {
            let now = shard.clock.now();
            self.deadlines.one_try = after(now, self.retries.per_try_timeout);
            self.deadlines.try_idle = after(now, self.retries.per_try_idle_timeout);
        }
    }

    /// Upstream gave a sign of life.
    pub(super) fn touch_try(&mut self, shard: &Shard) {
        if self.deadlines.try_idle.is_some() {
            let limit = self.retries.per_try_idle_timeout;
            self.deadlines.try_idle = after(shard.clock.now(), limit);
        }
    }

    /// The try took too long: another one, or the answer that says so.
    pub(super) fn try_timed_out(&mut self, down: &mut Downstream<'_>, idle: bool) {
        (self.deadlines.one_try, self.deadlines.try_idle) = (None, None);
        let failure = if idle { UpstreamFailure::TryIdle } else { UpstreamFailure::TryTimeout };
        if let Some((cluster, _)) = &self.destination {
            let stats = &cluster.stats;
            let counter = if idle {
                &stats.upstream_rq_per_try_idle_timeout
            } else {
                &stats.upstream_rq_per_try_timeout
            };
            counter.inc();
        }
        self.failed(down, failure);
    }

    // ---- whether ---------------------------------------------------------------------------------

    /// The try ended without a response: another one, or the answer that says so.
    pub(super) fn failed(&mut self, down: &mut Downstream<'_>, failure: UpstreamFailure) {
        if !self.retries_failure(down, failure) {
            let mut reply = Reply::upstream_failure(failure);
            if reply.status == 504 && self.mute_timeout {
                reply.status = 204;
            }
            self.reply(down, &reply);
        }
    }

    /// True when another try follows on one that ended without a response.
    pub(super) fn retries_failure(
        &mut self,
        down: &Downstream<'_>,
        failure: UpstreamFailure,
    ) -> bool {
        self.may_retry()
            && self.retries.after_failure(failure, self.sent)
            && self.schedule(down.shard, None)
    }

    /// True when another try follows on a response, which then is nobody's.
    pub(super) fn retries_response(
        &mut self,
        down: &Downstream<'_>,
        head: &ResponseHead<'_, '_>,
    ) -> bool {
        if !self.may_retry() {
            return false;
        }
        let policy = self.route().and_then(policy_of);
        if !self.retries.after_response(policy, head) {
            return false;
        }
        let asked = policy.and_then(|policy| policy.rate_limited.as_ref()).and_then(|rules| {
            asked_wait(rules, head, down.shard.clock.unix_ns() / NANOS_PER_SECOND)
        });
        self.facts.code = head.status;
        let retries = self.schedule(down.shard, asked);
        self.retries.gave_up = !retries;
        if retries && let Some((cluster, _)) = &self.destination {
            cluster.stats.response(head.status);
        }
        retries
    }

    /// The response goes downstream: there are no more tries.
    pub(super) fn settle(&mut self) {
        self.retries.disarm();
        self.deadlines.one_try = None;
        self.outbound.spend();
    }

    fn may_retry(&self) -> bool {
        self.retries.is_armed()
            && self.response.phase == ResponsePhase::Head
            && !self.outbound.spent
            && self.tunnel == Tunnel::None
    }

    // ---- when ------------------------------------------------------------------------------------

    /// Ends the try and has another one follow after a while. False when there may be none.
    fn schedule(&mut self, shard: &Shard, asked: Option<Duration>) -> bool {
        let Some((cluster, host)) = self.destination.clone() else { return false };
        let stats = &cluster.stats;
        if self.retries.left == 0 {
            stats.upstream_rq_retry_limit_exceeded.inc();
            self.facts.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
            return false;
        }
        self.retries.left -= 1;
        // The place of the try that has just ended comes free first.
        self.retries.admission = None;
        let limit = cluster.config.circuit_breakers.max_retries;
        let Some(admission) = cluster.breakers.admit(|all| &all.retries, limit) else {
            stats.upstream_rq_retry_overflow.inc();
            self.facts.flags.insert(ResponseFlags::UPSTREAM_OVERFLOW);
            return false;
        };
        self.retries.admission = Some(admission);
        self.retries.done += 1;
        stats.upstream_rq_retry.inc();
        let wait = match asked {
            Some(asked) => {
                stats.upstream_rq_retry_backoff_ratelimited.inc();
                asked
            }
            None => {
                stats.upstream_rq_retry_backoff_exponential.inc();
                let policy = self.route().and_then(policy_of);
                let back_off = policy.map_or(BACK_OFF, |policy| policy.back_off);
                back_off.wait(self.retries.done, shard.random())
            }
        };
        self.end_try(shard);
        self.retries.tried.push(host);
        self.deadlines.retry = after(shard.clock.now(), Some(wait));
        true
    }

    /// Forgets what came of a try.
    fn end_try(&mut self, shard: &Shard) {
        self.release_upstream(shard);
        self.upstream = Upstream::Idle;
        let mut partial = std::mem::take(&mut self.response.partial);
        partial.clear();
        let block = std::mem::take(&mut self.response.block);
        self.response = ResponseSide { partial, block, ..ResponseSide::default() };
        self.deadlines.connect = None;
        (self.deadlines.one_try, self.deadlines.try_idle) = (None, None);
        self.facts.code = 0;
        self.facts.upstream_transport_failure.clear();
    }

    /// True while the next try is waited for.
    pub(super) fn is_between_tries(&self) -> bool {
        self.deadlines.retry.is_some()
    }

    // ---- to which endpoint -----------------------------------------------------------------------

    /// The wait is over: the next try.
    pub(super) fn try_again(&mut self, down: &mut Downstream<'_>) {
        self.deadlines.retry = None;
        let Some((before, _)) = &self.destination else { return };
        // There may be other endpoints by now.
        let cluster = down.shard.serving.cluster_by_name(&before.config.name);
        let cluster = cluster.unwrap_or_else(|| Rc::clone(before));
        let Some(host) = self.choose_again(down.shard, &cluster) else {
            let flags = ResponseFlags::NO_HEALTHY_UPSTREAM;
            let reply = Reply::text(503, "no healthy upstream", flags, "no_healthy_upstream");
            return self.reply(down, &reply);
        };
        self.destination = Some((cluster, host));
        self.replays = 0;
        self.renew_head(down);
        self.touch(down.shard);
        self.acquire(down);
    }

    /// An endpoint that is not to be avoided, if one is found in so many attempts.
    fn choose_again(&self, shard: &Shard, cluster: &Rc<ClusterRuntime>) -> Option<Rc<Host>> {
        let policy = self.route().and_then(policy_of);
        let (avoid, attempts) = match policy {
            Some(policy) => (&policy.avoid, policy.host_attempts),
            None => (&NOBODY, 0),
        };
        // Where the client means to go is what it was.
        let meant = || match self.destination.as_ref()?.1.endpoint.address {
            Address::Ip(address) => Some(address),
            _ => None,
        };
        let choose = || {
            let step = policy.and_then(|policy| policy.previous_priorities);
            let beyond =
                step.and_then(|step| cluster.choose_beyond(shard, &self.retries.tried, step));
            beyond.or_else(|| cluster.choose(shard, |_| meant()))
        };
        let mut host = choose()?;
        if avoid.is_empty() {
            return Some(host);
        }
        for _ in 0..attempts.min(HOST_ATTEMPTS_MAX) {
            if !is_avoided(avoid, &host, &self.retries.tried) {
                break;
            }
            host = choose()?;
        }
        Some(host)
    }

    /// Says in the head what is no longer as it was.
    fn renew_head(&mut self, down: &Downstream<'_>) {
        let Some(route) = self.route() else { return };
        let counts = route.include_request_attempt_count;
        let follows_host = match &route.action {
            RouteAction::Forward(forward) => {
                matches!(forward.host_rewrite, Some(HostRewrite::Auto))
                    && !matches!(forward.target, Target::Weighted(_))
            }
            _ => false,
        };
        let mut digits = [0; 20];
        if counts {
            let attempts = decimal(u64::from(self.facts.attempts) + 1, &mut digits);
            self.outbound.replace(&down.shard.arena, "x-envoy-attempt-count", attempts);
        }
        let began_at = self.facts.times.downstream_rx_end;
        let elapsed = if self.request.complete { down.shard.clock.now() - began_at } else { 0 };
        let expected = self.expected_timeout_ms(Duration::from_nanos(elapsed));
        if expected > 0 && !down.http.config.router.suppress_envoy_headers {
            let expected = decimal(expected, &mut digits);
            self.outbound.replace(&down.shard.arena, "x-envoy-expected-rq-timeout-ms", expected);
        }
        if follows_host
            && let Some((_, host)) = &self.destination
            && !host.endpoint.hostname.is_empty()
        {
            let name = host.endpoint.hostname.as_bytes();
            self.outbound.replace(&down.shard.arena, "host", name);
        }
    }

    // ---- the body --------------------------------------------------------------------------------

    /// Keeps what is sent of the body, while it may have to be sent again.
    pub(super) fn keep_body(&mut self, down: &Downstream<'_>, chunk: &Chunk) {
        if self.response.phase != ResponsePhase::Head || self.outbound.spent {
            return;
        }
        let limit = match self.outbound.body_limit {
            _ if !self.retries.is_armed() => REPLAYED_BODY_BYTES,
            Some(limit) => limit,
            // As much as a connection may buffer.
            None => down.marks.high,
        };
        if !self.outbound.keep(down.shard, chunk, limit) && self.retries.is_armed() {
            self.retries.disarm();
            if let Some((cluster, _)) = &self.destination {
                cluster.stats.retry_or_shadow_abandoned.inc();
            }
        }
    }
}

/// The policy of a route that forwards.
fn policy_of(route: &Route) -> Option<&outrigger_xds::snapshot::RetryPolicy> {
    match &route.action {
        RouteAction::Forward(forward) => forward.retry.as_deref(),
        _ => None,
    }
}

fn number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// Where requests ask for retries themselves: Envoy's defaults.
const BACK_OFF: BackOff =
    BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) };

const NOBODY: AvoidHosts = AvoidHosts { previous: false, canary: false, metadata: None };

/// What is kept of a body where no retries are configured, because a connection may turn out to be dead.
const REPLAYED_BODY_BYTES: usize = 64 * 1024;

/// More choices than this find no other endpoint either.
const HOST_ATTEMPTS_MAX: u32 = 100;

const NANOS_PER_SECOND: u64 = 1_000_000_000;
