//! More than two processes at once: a third may start while the first still drains (HU-21, T-08).

use outrigger_tests::process::Scratch;
use outrigger_tests::{Client, Launch, PATIENCE, eventually};

use super::operator::Control;
use super::{begin_slow, config, expect_end, slow_origin, state, succeed};

#[test]
fn a_third_starts_while_the_first_drains_and_a_fourth_is_refused() {
    let scratch = Scratch::new();
    let control = Control::of(&scratch);
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let mut first = Launch::outrigger(&config).start();
    let address = first.address().clone();
    let mut slow = begin_slow(&first, &origin);
    let mut second = succeed(&config, 1);
    let third = succeed(&config, 1);
    let pids = [second.process().pid(), first.process().pid()];
    let status = eventually("both predecessors", || {
        Some(control.status()).filter(|status| status["predecessors"][1]["left"] == 1)
    });
    for (predecessor, pid) in status["predecessors"].as_array().unwrap().iter().zip(pids) {
        assert_eq!(predecessor["pid"], pid);
    }
    third.expect_stat("upgrade.predecessors", 2);

    let mut fourth = Launch::outrigger(&config).spawn();
    assert_eq!(fourth.process.wait(PATIENCE).unwrap().code(), Some(1));
    let said = fourth.process.stderr();
    assert!(said.contains("3 processes run, and engine.upgrade.max_processes is 3"), "{said}");
    assert_eq!(third.stat("upgrade.refused"), 1);
    // Everybody else serves on.
    assert_eq!(state(&third), "LIVE");
    assert_eq!(Client::connect(&address).get("/fast").status, 200);
    // The second has nothing left, but its end would look like a death to the first.
    assert!(second.process().ended().is_none());
    release.send(()).unwrap();
    assert_eq!(slow.response().status, 200);
    expect_end(first);
    expect_end(second);
    third.expect_stat("upgrade.predecessors", 0);
    let fourth = succeed(&config, 1);
    expect_end(third);
    fourth.stop();
}

#[test]
fn the_death_of_one_in_the_middle_brings_nobody_back() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let mut first = Launch::outrigger(&config).start();
    let address = first.address().clone();
    let mut slow = begin_slow(&first, &origin);
    let mut second = succeed(&config, 1);
    let third = succeed(&config, 1);
    second.process().signal(libc::SIGKILL);
    second.process().wait(PATIENCE).unwrap();
    eventually("the first one's word", || {
        first.process().stderr().contains("the successor's own successor serves").then_some(())
    });
    assert_eq!(Client::connect(&address).get("/fast").status, 200);
    assert_eq!(state(&third), "LIVE");
    release.send(()).unwrap();
    assert_eq!(slow.response().status, 200);
    expect_end(first);
    third.stop();
}
