//! Listeners that only one of the two processes has.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;

use outrigger_tests::load::FastOrigin;
use outrigger_tests::process::Scratch;
use outrigger_tests::{Address, Client, Launch, eventually};
use serde_json::json;

use super::{config, expect_end, succeed};

/// HU-09: who waits for a listener that the successor lacks is served by the old process, and only then it
/// closes.
#[test]
fn a_listener_that_the_successor_lacks_closes_with_an_empty_backlog() {
    let scratch = Scratch::new();
    let origin = FastOrigin::start();
    let next = config(origin.address(), &scratch);
    let mut other = next.json()["static_resources"]["listeners"][0].clone();
    other["name"] = json!("other");
    let both = next.clone().raw_listener(other);
    let mut first = Launch::outrigger(&both).start();
    let main = first.address().clone();
    let Address::Tcp(address) = first.listener("other").clone() else { panic!("no port") };
    let (served, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let second = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                // Whoever is let in is answered, until nobody is.
                while !over.load(Ordering::Relaxed)
                    && let Ok(mut client) = Client::try_connect(&Address::Tcp(address))
                {
                    assert_eq!(client.get("/").status, 200);
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let second = succeed(&next, 1);
        eventually("the end of the other listener", || {
            first.process().stderr().contains("other: closes").then_some(())
        });
        over.store(true, Ordering::Relaxed);
        second
    });
    assert!(served.load(Ordering::Relaxed) > 0);
    expect_end(first);
    assert!(TcpStream::connect(address).is_err(), "it is closed");
    assert_eq!(Client::connect(&main).get("/").status, 200);
    second.stop();
}
