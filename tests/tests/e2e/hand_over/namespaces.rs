//! Two containers: processes that share the network and the socket's directory, and can't see each other
//! (T-07).

use std::process::Command;

use outrigger_tests::process::{Scratch, run};
use outrigger_tests::{Client, Launch, Origin, eventually};

use super::operator::Control;
use super::{config, expect_end};

const UNSHARE: [&str; 3] = ["--pid", "--fork", "--kill-child"];

#[test]
fn a_process_takes_over_from_one_in_another_pid_namespace() {
    let mut command = Command::new("unshare");
    command.args(UNSHARE).arg("true");
    if !run(command).status.success() {
        eprintln!("skipped: this machine does not permit namespaces of process ids");
        return;
    }
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let config = config(origin.address(), &scratch);
    let control = Control::of(&scratch);
    let start = || Launch::outrigger(&config).under("unshare", &UNSHARE);
    let first = start().start();
    let address = first.address().clone();
    assert_eq!(control.status()["pid"], 1);
    let mut second = start().begin();
    eventually("a successor that serves", || {
        second.process().stderr().contains("[main] serving").then_some(())
    });
    expect_end(first);
    assert_eq!(Client::connect(&address).get("/").status, 200);
    let status = control.status();
    assert_eq!((&status["pid"], &status["generation"]), (&1.into(), &1.into()));
    drop(second);
}
