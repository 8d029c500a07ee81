//! Services that applications have published go on through a hand-over, and so do the interfaces for it.

use std::fs;

use outrigger_tests::process::Scratch;
use outrigger_tests::{Client, Config, Origin, Proxy};
use serde_json::{Value, json};

use super::{expect_end, succeed};
use crate::services::{Apis, as_json, clusters};

/// A configuration with both interfaces, and `more` in `engine.services`.
fn config(apis: &Apis, origin: &Origin, scratch: &Scratch, more: Value) -> Config {
    apis.config(super::config(origin.address(), scratch), more)
}

fn start(apis: &mut Apis, origin: &Origin, scratch: &Scratch, more: Value) -> Proxy {
    apis.start_on(super::config(origin.address(), scratch), more)
}

const HELLO: &str = "published|bolt|com.foo.Hello:1.0: 127.0.0.1:12200*1";

#[test]
fn the_successor_answers_applications_and_has_what_they_published() {
    // Once with a state file, and once without anything on disk.
    for more in [json!({}), json!({"state_file": null})] {
        let (scratch, origin) = (Scratch::new(), Origin::ok());
        let mut apis = Apis::new();
        let first = start(&mut apis, &origin, &scratch, more.clone());
        apis.begin();
        apis.publish("com.foo.Hello:1.0");
        apis.subscribe("com.foo.Bye:1.0");
        let before = clusters(&first);
        assert!(before.contains(&HELLO.to_owned()), "{before:?}");
        let second = succeed(&config(&apis, &origin, &scratch, more.clone()), 1);
        expect_end(first);
        assert_eq!(clusters(&second), before);
        // At the same address.
        assert_eq!(apis.publish("com.foo.More:1.0")["success"], true);
        assert_eq!(second.stat("services.published"), 2);
        assert_eq!(second.stat("services.api.sofa.rq_failed"), 0);
        let third = succeed(&config(&apis, &origin, &scratch, more), 1);
        expect_end(second);
        assert_eq!(clusters(&third).len(), 3);
        third.stop();
    }
}

#[test]
fn the_old_one_neither_answers_nor_writes_once_it_has_handed_over() {
    let scratch = Scratch::new();
    let (origin, release) = super::slow_origin();
    let mut apis = Apis::new();
    let first = start(&mut apis, &origin, &scratch, json!({}));
    apis.begin();
    apis.publish("com.foo.Hello:1.0");
    // Connections of an application that stay open.
    let mut kept = Client::connect(apis.sofa_address());
    assert_eq!(kept.get("/services").status, 200);
    let mut slow = super::begin_slow(&first, &origin);
    let second = succeed(&config(&apis, &origin, &scratch, json!({})), 1);
    // A call on one is answered by who serves, and is the last on it.
    let body = json!({"serviceName": "com.foo.Kept:1.0", "protocolType": "bolt",
        "onlyPublishInCloud": false, "providerMetaInfo": {"protocol": "bolt"}});
    let answer = kept.post("/services/publish", body.to_string());
    assert_eq!(answer.header("connection"), Some("close"));
    assert_eq!(as_json(&answer)["success"], true, "{}", answer.text());
    assert!(clusters(&second).iter().any(|line| line.contains("com.foo.Kept")));
    release.send(()).unwrap();
    assert_eq!(slow.response().status, 200);
    expect_end(first);
    let state = fs::read_to_string(apis.state_file()).unwrap();
    assert!(state.contains("com.foo.Kept") && state.contains("com.foo.Hello"), "{state}");
    second.stop();
}

#[test]
fn a_predecessor_that_serves_again_goes_on_with_what_its_successor_was_told() {
    let (scratch, origin) = (Scratch::new(), Origin::ok());
    let mut apis = Apis::new();
    let first = start(&mut apis, &origin, &scratch, json!({}));
    apis.begin();
    // Keeps the first one alive.
    let mut held = first.client();
    held.send("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    origin.wait_for("the head", |log| log.accepted > 0);
    let mut second = succeed(&config(&apis, &origin, &scratch, json!({})), 1);
    apis.publish("com.foo.Hello:1.0");
    second.process().signal(libc::SIGKILL);
    second.process().wait(outrigger_tests::PATIENCE).unwrap();
    first.expect_stat("server.state", 0);
    first.await_stat("services.published", |published| published == 1);
    assert_eq!(apis.publish("com.foo.More:1.0")["success"], true);
    held.send("x");
    assert_eq!(held.response().status, 200);
    first.stop();
}
