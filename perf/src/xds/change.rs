//! How long one change of endpoints takes to be in effect.
//!
//! With everything loaded, one cluster after the other has all its endpoints moved to the other
//! origin. Several connections for each worker ask for its virtual host over and over, all of them at
//! once, and the change is in effect when each has had an answer of the new origin: no worker serves the
//! old endpoints any more. The time counts from the moment at which the management server hands the
//! response over, and ends with an answer, so it holds the way of a request, a connect to the new
//! endpoint and the pause between rounds.

use std::{
    io,
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use super::{
    ANSWER_TIME, BODY_BYTES, Bench, Programs, Served, Variant, XdsError,
    ads::Place,
    http::Connection,
    proxy::Setup,
    report::{ChangeCase, Quantiles, Spread},
    scattered, world,
    world::Extent,
};
use crate::{compare::CompareError, target::Target};

/// Connections that ask, for each worker: so many that none is without one, though the kernel or the
/// proxy deals them out.
const PROBES_PER_WORKER: usize = 8;
/// Between two rounds of questions.
const ROUND_PAUSE: Duration = Duration::from_micros(100);
/// Between two changes.
const CHANGE_PAUSE: Duration = Duration::from_millis(10);
/// Time for a change to be in effect.
const EFFECT_TIME: Duration = Duration::from_secs(30);
/// Outrigger's own histogram of times from a change's receipt to its service on every shard.
const METRIC: &str = "config.apply_time_us";

/// Times of one change.
#[derive(Debug, Clone, Copy)]
struct Sample {
    answered: Duration,
    applied: Duration,
    /// Questions that had an answer other than 200 meanwhile.
    failed: u64,
}

/// Measures all targets in all variants.
pub(super) fn measure(bench: &Bench<'_>, programs: &Programs) -> Result<Vec<ChangeCase>, XdsError> {
    let mut cases = Vec::new();
    let cells = bench.options.variants.len() * programs.len();
    bench.progress.inc_length((cells * bench.options.changes) as u64);
    for variant in &bench.options.variants {
        for (target, program) in programs {
            bench.progress.set_message(format!("change, {target}, {variant}"));
            let setup = Setup { target: *target, program, cpus: bench.workers(), pin: None };
            cases.push(changes(bench, &setup, *variant)?);
        }
    }
    Ok(cases)
}

fn changes(bench: &Bench<'_>, setup: &Setup<'_>, variant: Variant) -> Result<ChangeCase, XdsError> {
    let size = bench.options.size;
    let mut served = bench.serve(setup, variant, Place::default())?;
    let questions = served.questions(size);
    served.proxy.wait_until_ready(&questions, Some(&served.ads), bench.stop)?;
    served.settle()?;
    // The clusters that have a virtual host of their own number.
    let clusters = size.clusters.min(size.virtual_hosts);
    let mut samples = Vec::new();
    for turn in 0..bench.options.changes {
        if bench.stop.load(Ordering::Relaxed) {
            return Err(CompareError::Interrupted.into());
        }
        samples.push(change(&served, scattered(turn, clusters), setup)?);
        bench.progress.inc(1);
        thread::sleep(CHANGE_PAUSE);
    }
    let named = |value: fn(&Sample) -> Duration| Spread::of(samples.iter().map(value));
    let own = served.proxy.histogram(METRIC);
    Ok(ChangeCase {
        target: setup.target.name().to_owned(),
        variant: variant.name().to_owned(),
        shards: setup.cpus.len(),
        changes: samples.len(),
        answered_ms: named(|sample| sample.answered),
        applied_ms: named(|sample| sample.applied),
        own_apply_us: own.map(|(p50, p99)| Quantiles { p50, p99 }),
        failed: samples.iter().map(|sample| sample.failed).sum(),
        streams: served.ads.log().streams,
    })
}

fn change(served: &Served, cluster: usize, setup: &Setup<'_>) -> Result<Sample, XdsError> {
    let target = setup.target;
    let failed = |source| XdsError::Probe { target, source };
    let mut probes = Probes::open(served, cluster, setup.cpus.len()).map_err(failed)?;
    let old = probes.settled_body(target)?;
    let Some(new) = BODY_BYTES.into_iter().find(|body| *body != old) else {
        unreachable!("the two origins answer in different lengths")
    };
    let Some(nonce) = served.ads.change(cluster, Extent::All) else {
        return Err(failed(io::Error::other("the proxy has not subscribed to its endpoints")));
    };
    let (arrived, failures) = probes.wait_for(new, target)?;
    let answered = |log: &super::ads::Log| {
        log.exchange(nonce).is_some_and(|exchange| exchange.answered.is_some())
    };
    if !served.ads.wait(ANSWER_TIME, |log| log.complaint.is_some() || answered(log)) {
        return Err(XdsError::Late { target, what: "answer to a push", waited: ANSWER_TIME });
    }
    let log = served.ads.log();
    if let Some(words) = log.complaint.clone() {
        return Err(XdsError::Refused { target, words });
    }
    let exchange = log.exchange(nonce);
    let Some((sent, answered)) = exchange.and_then(|one| Some((one.sent, one.answered?))) else {
        unreachable!("it has just been waited for")
    };
    Ok(Sample {
        answered: answered.saturating_duration_since(sent),
        applied: arrived.saturating_duration_since(sent),
        failed: failures,
    })
}

/// Connections that ask for one virtual host.
struct Probes {
    authority: String,
    connections: Vec<Connection>,
}

impl Probes {
    fn open(served: &Served, virtual_host: usize, workers: usize) -> io::Result<Self> {
        let address = served.listener(virtual_host);
        let connections =
            (0..workers * PROBES_PER_WORKER).map(|_| Connection::open(address, EFFECT_TIME));
        Ok(Self {
            authority: world::authority(virtual_host),
            connections: connections.collect::<io::Result<_>>()?,
        })
    }

    /// Asks on all connections until they agree, so that every worker has what it needs for the
    /// virtual host; the length of the body.
    fn settled_body(&mut self, target: Target) -> Result<u64, XdsError> {
        let begun = Instant::now();
        let mut all = vec![true; self.connections.len()];
        while begun.elapsed() < EFFECT_TIME {
            let mut bodies = Vec::new();
            self.round(&mut all, |_, body| {
                bodies.push(body);
                true
            })
            .map_err(|source| XdsError::Probe { target, source })?;
            if let [Some(first), rest @ ..] = &bodies[..]
                && rest.iter().all(|body| *body == Some(*first))
            {
                return Ok(*first);
            }
        }
        Err(XdsError::Late { target, what: "agreement of all connections", waited: EFFECT_TIME })
    }

    /// Asks until each connection has had a body of this length: when the last one had, and how many
    /// answers were none.
    fn wait_for(&mut self, body: u64, target: Target) -> Result<(Instant, u64), XdsError> {
        let begun = Instant::now();
        let mut waiting = vec![true; self.connections.len()];
        let mut last = begun;
        let mut failed = 0;
        while waiting.contains(&true) {
            if begun.elapsed() > EFFECT_TIME {
                return Err(XdsError::Late { target, what: "new endpoints", waited: EFFECT_TIME });
            }
            self.round(&mut waiting, |at, answer| {
                failed += u64::from(answer.is_none());
                if answer == Some(body) {
                    last = at;
                }
                answer != Some(body)
            })
            .map_err(|source| XdsError::Probe { target, source })?;
            thread::sleep(ROUND_PAUSE);
        }
        Ok((last, failed))
    }

    /// Asks on those that still wait, all at once; `on_answer` gets the time and the body's length,
    /// `None` for an answer other than 200, and says whether the connection waits on.
    fn round(
        &mut self,
        waiting: &mut [bool],
        mut on_answer: impl FnMut(Instant, Option<u64>) -> bool,
    ) -> io::Result<()> {
        let Self { authority, connections } = self;
        for (connection, _) in connections.iter_mut().zip(&*waiting).filter(|(_, waits)| **waits) {
            connection.send(authority, "/")?;
        }
        let asked = connections.iter_mut().zip(waiting).filter(|(_, waits)| **waits);
        for (connection, waits) in asked {
            let answer = connection.receive()?;
            let body = (answer.status == 200).then_some(answer.body.len() as u64);
            *waits = on_answer(Instant::now(), body);
        }
        Ok(())
    }
}
