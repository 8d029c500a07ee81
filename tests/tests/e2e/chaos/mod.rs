//! Processes take over from one another while one of them is killed or stopped at any time.
//!
//! Each round starts a successor under load, and harms one of the two at a random moment: SIGKILL, or SIGSTOP with
//! SIGCONT or SIGKILL later. Whatever happens, no connection ends that the killed process did not have, whoever
//! connects is answered within a bound, and in the end there is one process, with the descriptors
//! that it needs and no more.
//!
//! `OUTRIGGER_CHAOS_ROUNDS` is how many rounds there are, 10 if it is not given; `OUTRIGGER_CHAOS_SEED` the seed, which every failure names.

mod clients;
mod sockets;

use std::collections::BTreeMap;
use std::env;
use std::net::{SocketAddr, TcpListener};
use std::ops::Range;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use outrigger_tests::config::{Config, TCP_PROXY};
use outrigger_tests::net::Address;
use outrigger_tests::process::{Process, Scratch};
use outrigger_tests::proxy::{Launch, Started};
use outrigger_tests::{PATIENCE, eventually};
use serde_json::{Value, json};

use crate::hand_over::LONGER_THAN_PATIENCE;

use clients::{ANSWER_TIME, Clients, Event, PROTOCOLS, Protocol, SERVICE};
use sockets::Estate;

#[test]
fn no_moment_is_a_bad_one_to_die() {
    let number = |name: &str| env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let rounds = number("OUTRIGGER_CHAOS_ROUNDS").unwrap_or(10);
    let seed = number("OUTRIGGER_CHAOS_SEED").unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        u64::from(now.subsec_nanos())
    });
    println!("OUTRIGGER_CHAOS_SEED={seed}");
    let mut chaos = Chaos::start(seed);
    for round in 1..=rounds {
        let harm = chaos.random.harm();
        chaos.round(round, harm);
    }
    chaos.end();
}

#[test]
fn one_that_stood_still_does_not_take_the_other_for_dead() {
    let mut chaos = Chaos::start(0);
    for after in [0, 1, 2] {
        let harm = Harm {
            after: Duration::from_millis(after),
            moment: Moment::Serving,
            victim: Victim::Predecessor,
            stops_for: LONGER_THAN_PATIENCE,
            is_killed: false,
        };
        chaos.round(after, harm);
    }
    chaos.end();
}

/// Everything there is in a run.
struct Chaos {
    seed: u64,
    random: Random,
    config: Config,
    _scratch: Scratch,
    listeners: [SocketAddr; PROTOCOLS.len()],
    origins: [SocketAddr; PROTOCOLS.len()],
    clients: Clients,
    serving: Started,
    /// Descriptors of a process at rest.
    files_max: usize,
}

/// What is done in a round.
#[derive(Clone, Copy, Debug)]
struct Harm {
    /// So long after that.
    after: Duration,
    moment: Moment,
    victim: Victim,
    /// How long it stands still.
    stops_for: Duration,
    is_killed: bool,
}

/// What begins at the successor.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Moment {
    Start,
    TakingOver,
    Serving,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Victim {
    Predecessor,
    Successor,
}

impl Chaos {
    fn start(seed: u64) -> Chaos {
        let scratch = Scratch::new();
        let origins = clients::origins();
        // A process that has to begin anew must find the same ports.
        let held = PROTOCOLS.map(|_| bind_beside());
        let listeners = held.each_ref().map(|listener| listener.local_addr().unwrap());
        drop(held);
        let config = config(&scratch, listeners, origins);
        let mut serving = Launch::outrigger(&config).spawn();
        wait_until_serving(&mut serving.process);
        let clients = Clients::start(CLIENTS, listeners);
        clients.wait_for_more(20).unwrap();
        let random = Random(seed);
        let _scratch = scratch;
        let files_max = 0;
        let mut chaos = Chaos {
            seed,
            random,
            config,
            _scratch,
            listeners,
            origins,
            clients,
            serving,
            files_max,
        };
        // What a process has that was the first, and one that was not, when nothing happens to it.
        chaos.clients.pause().unwrap();
        chaos.files_max = chaos.files();
        let next = Launch::outrigger(&chaos.config).spawn();
        let mut old = std::mem::replace(&mut chaos.serving, next);
        wait_until_serving(&mut chaos.serving.process);
        let status = old.process.wait(PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "{}", old.process.stderr());
        chaos.files_max = chaos.files_max.max(chaos.files());
        chaos.clients.go_on();
        chaos.clients.wait_for_more(5).unwrap();
        let events = chaos.clients.take_events();
        assert!(events.is_empty(), "{events:?}");
        chaos
    }

    fn round(&mut self, round: u64, harm: Harm) {
        println!("round {round}: {harm:?}");
        let mut next = Launch::outrigger(&self.config).spawn();
        wait_for(harm.moment, &mut next.process);
        thread::sleep(harm.after);
        let estate = self.harm(harm, &mut next);
        self.probe(round, harm, estate.is_some());
        let answered = self.clients.wait_for_more(CLIENTS as u64);
        self.expect_answers(answered, round, harm, Some(&next));
        let answered = self.clients.pause();
        self.expect_answers(answered, round, harm, Some(&next));
        self.settle(round, harm, next);
        let events = self.clients.take_events();
        // A predecessor owes answers also on connections that it has given away. It is known then that
        // they will not come.
        let is_owed =
            |event: &Event| harm.victim == Victim::Predecessor && event.protocol == Protocol::Bolt;
        let is_excused = |event: &Event| {
            estate.as_ref().is_some_and(|estate| {
                estate.listeners || estate.clients.contains(&event.port) || is_owed(event)
            })
        };
        let unexpected: Vec<_> = events.iter().filter(|event| !is_excused(event)).collect();
        assert!(
            unexpected.is_empty(),
            "{}: {unexpected:#?}\n{}",
            self.name(round, harm),
            self.serving.process.stderr()
        );
        let most = self.files_max;
        let is_lean = settles(|| self.files() <= most);
        assert!(
            is_lean,
            "{}: {} descriptors instead of {most}: {:?}",
            self.name(round, harm),
            self.files(),
            listing(self.serving.process.pid())
        );
        self.clients.go_on();
        let answered = self.clients.wait_for_more(5);
        self.expect_answers(answered, round, harm, None);
    }

    /// Does it; what dies, if something does.
    fn harm(&mut self, harm: Harm, begun: &mut Started) -> Option<Estate> {
        let (old, next) = (&mut self.serving.process, &mut begun.process);
        let resumed = resumptions(old);
        // Who has left everything to the other can't take it back, so the other is not to be killed.
        old.signal(libc::SIGSTOP);
        let has_left = old.ended().is_some() || old.stderr().contains("handed over");
        let (victim, other) = match harm.victim {
            Victim::Predecessor => (old, next),
            Victim::Successor if has_left && harm.is_killed => {
                old.signal(libc::SIGCONT);
                println!("  spared: it is the only one");
                return None;
            }
            Victim::Successor => (next, old),
        };
        victim.signal(libc::SIGSTOP);
        other.signal(libc::SIGCONT);
        if victim.ended().is_none() {
            wait_until_still(victim);
        }
        thread::sleep(harm.stops_for);
        // Nor is one that has become the only one meanwhile.
        if !harm.is_killed || victim.ended().is_some() || other.ended().is_some() {
            victim.signal(libc::SIGCONT);
            return None;
        }
        let estate = Estate::of(victim.pid(), &[other.pid()], &self.listeners);
        victim.signal(libc::SIGKILL);
        victim.wait(PATIENCE).unwrap();
        // Nothing is left to one that did not accept yet.
        if harm.victim == Victim::Predecessor || !victim.stderr().contains("[main] serving") {
            return Some(estate);
        }
        let old = &mut self.serving.process;
        eventually("a predecessor that resumes, or has left", || {
            (old.ended().is_some() || resumptions(old) > resumed).then_some(())
        });
        if old.ended().is_none() {
            return Some(estate);
        }
        // It had left everything to the one that died. Whoever watches over both begins anew.
        *begun = Launch::outrigger(&self.config).spawn();
        wait_until_serving(&mut begun.process);
        Some(Estate { listeners: true, ..estate })
    }

    /// Whoever comes now is answered.
    fn probe(&self, round: u64, harm: Harm, is_killed: bool) {
        for (protocol, address) in PROTOCOLS.into_iter().zip(self.listeners) {
            let begun = Instant::now();
            loop {
                match clients::ask_once(protocol, address) {
                    Ok(_) if begun.elapsed() < ANSWER_TIME => break,
                    // Until another process has bound anew what only the dead one had.
                    Err(_) if is_killed && begun.elapsed() < ANSWER_TIME => thread::yield_now(),
                    result => panic!(
                        "{}: {protocol:?}: {result:?} after {:?}\n{}",
                        self.name(round, harm),
                        begun.elapsed(),
                        self.serving.process.stderr()
                    ),
                }
            }
        }
    }

    /// All who ask are answered, by this process and the next.
    fn expect_answers(
        &self,
        answered: Result<(), BTreeMap<u16, String>>,
        round: u64,
        harm: Harm,
        next: Option<&Started>,
    ) {
        let Err(asking) = answered else { return };
        println!("{}: not answered: {asking:?}", self.name(round, harm));
        for process in [Some(&self.serving), next].into_iter().flatten().map(|one| &one.process) {
            let clients = sockets::clients(process.pid(), &self.listeners);
            println!("clients of {}: {clients:?}\n{}", process.pid(), process.stderr());
        }
        panic!("not answered, and meanwhile: {:#?}", self.clients.take_events());
    }

    /// One of the two stays, and serves.
    fn settle(&mut self, round: u64, harm: Harm, mut next: Started) {
        let begun = Instant::now();
        loop {
            let old_has_ended = self.serving.process.ended().is_some();
            let next_has_ended = next.process.ended().is_some();
            match (old_has_ended, next_has_ended) {
                (false, true) => return,
                (true, false) => {
                    self.serving = next;
                    return;
                }
                (true, true) => {}
                (false, false) if begun.elapsed() < PATIENCE => {
                    thread::sleep(GLANCE);
                    continue;
                }
                (false, false) => {}
            }
            panic!(
                "{}: {}\nthe old one:\n{}\nthe new one:\n{}",
                self.name(round, harm),
                if old_has_ended { "nobody is left" } else { "both stay" },
                self.serving.process.stderr(),
                next.process.stderr()
            );
        }
    }

    fn files(&self) -> usize {
        sockets::files(self.serving.process.pid(), &self.origins)
    }

    fn name(&self, round: u64, harm: Harm) -> String {
        format!("OUTRIGGER_CHAOS_SEED={}, round {round}, {harm:?}", self.seed)
    }

    fn end(mut self) {
        self.clients.pause().unwrap();
        self.serving.process.signal(libc::SIGTERM);
        let status = self.serving.process.wait(PATIENCE);
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
    }
}

/// Listens on a port that is given to nobody who asks for any, so that it is free again later.
fn bind_beside() -> TcpListener {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // By another way than the other processes that test here.
    let first = (std::process::id() % 997) as u16 * 10;
    loop {
        let port =
            PORTS.start + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % PORTS.len() as u16;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener;
        }
    }
}

/// Below those that Linux gives away by itself.
const PORTS: Range<u16> = 20_000..32_000;

fn config(
    scratch: &Scratch,
    listeners: [SocketAddr; PROTOCOLS.len()],
    origins: [SocketAddr; PROTOCOLS.len()],
) -> Config {
    let [http1, bolt, tcp] = listeners.map(|address| Address::Tcp(address).to_json());
    let [to_http1, to_bolt, to_tcp] = origins.map(Address::Tcp);
    let listener = |name: &str, address: Value, filter: Value| {
        json!({
            "name": name,
            "address": address,
            "filter_chains": [{"filters": [{"name": name, "typed_config": filter}]}],
        })
    };
    let routes = json!([
        {"match": {"service": {"exact": SERVICE}}, "route": {"cluster": "bolt"}},
    ]);
    let rpc = Config::rpc("bolt", routes);
    let rpc = &rpc.json()["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0];
    let proxy = json!({"@type": TCP_PROXY, "stat_prefix": "tcp", "cluster": "tcp"});
    Config::to(&to_http1)
        .listener(json!({"address": http1}))
        .raw_listener(listener("bolt", bolt, rpc["typed_config"].clone()))
        .raw_listener(listener("tcp", tcp, proxy))
        .cluster("bolt", &[&to_bolt])
        .cluster("tcp", &[&to_tcp])
        .engine(json!({"upgrade": {"socket": scratch.file("control")}}))
}

/// How often a process has said that it goes on without its successor.
fn resumptions(process: &Process) -> usize {
    process.stderr().matches("this process serves on").count()
}

#[track_caller]
fn wait_until_serving(process: &mut Process) {
    eventually("a process that serves", || {
        let said = process.stderr();
        assert!(process.ended().is_none(), "{said}");
        said.contains("[main] serving").then_some(())
    });
}

#[track_caller]
fn wait_for(moment: Moment, process: &mut Process) {
    let words = match moment {
        Moment::Start => return,
        Moment::TakingOver => "taking over from",
        Moment::Serving => "[main] serving",
    };
    eventually("that moment", || {
        (process.stderr().contains(words) || process.ended().is_some()).then_some(())
    });
}

#[track_caller]
fn wait_until_still(process: &mut Process) {
    let stat = format!("/proc/{}/stat", process.pid());
    eventually("a process that stands still", || {
        let stat = std::fs::read_to_string(&stat).unwrap();
        (stat.contains(") T ") || process.ended().is_some()).then_some(())
    });
}

/// Whether it comes to be so.
fn settles(mut is_so: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < SETTLE_TIME {
        if is_so() {
            return true;
        }
        thread::sleep(GLANCE);
    }
    false
}

fn listing(pid: u32) -> Vec<String> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.path()).ok());
    links.map(|link| link.display().to_string()).collect()
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }

    fn harm(&mut self) -> Harm {
        // What takes longest is the beginning; what happens most is within milliseconds.
        let (moment, after_us) = match self.below(6) {
            0 => (Moment::Start, self.below(200_000)),
            1 => (Moment::TakingOver, self.below(50_000)),
            2 => (Moment::Serving, self.below(300_000)),
            _ => (Moment::Serving, self.below(8_000)),
        };
        let victim = if self.below(2) == 0 { Victim::Predecessor } else { Victim::Successor };
        // Long ones are beyond the other's patience.
        let stops_for = match self.below(8) {
            0..4 => 0,
            4..7 => self.below(400),
            _ => LONGER_THAN_PATIENCE.as_millis() as u64 + self.below(700),
        };
        let is_killed = stops_for == 0 || self.below(3) == 0;
        let after = Duration::from_micros(after_us);
        let stops_for = Duration::from_millis(stops_for);
        Harm { after, moment, victim, stops_for, is_killed }
    }
}

/// Clients of each protocol.
const CLIENTS: usize = 16;

/// Descriptors are closed soon after what they were for has ended.
const SETTLE_TIME: Duration = Duration::from_secs(5);

const GLANCE: Duration = Duration::from_millis(5);
