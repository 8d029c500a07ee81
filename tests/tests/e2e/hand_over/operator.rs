//! What an operator does to a running process: look, have it start its successor, and call that off.

use std::path::PathBuf;
use std::process::{Command, Output};

use outrigger_tests::process::{Scratch, run};
use outrigger_tests::{Client, Launch, Origin, PATIENCE, binary, eventually};
use outrigger_upgrade::message::{Hello, Message, Ready};
use outrigger_upgrade::{Channel, Found, Incoming, Rendezvous, version};
use serde_json::Value;

use super::{begin_slow, begin_slow_behind, config, expect_end, slow_origin, state, succeed};

/// The tool's socket.
pub(super) struct Control(PathBuf);

impl Control {
    pub(super) fn of(scratch: &Scratch) -> Control {
        Control(scratch.file("control"))
    }

    /// Calls the tool.
    fn tool(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(binary::outrigger());
        command.args(arguments).arg("--socket").arg(&self.0);
        run(command)
    }

    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.tool(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }

    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let output = self.tool(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    #[track_caller]
    pub(super) fn status(&self) -> Value {
        serde_json::from_str(&self.done(&["status", "--json"])).unwrap()
    }
}

/// A process that none of ours has started; it ends with its test.
struct Stray(i32);

impl Stray {
    /// The one that serves once `pid` does not.
    #[track_caller]
    fn after(control: &Control, pid: u32) -> Stray {
        eventually("another process that serves", || {
            let now = control.status()["pid"].as_u64()?;
            // Not made before it is wanted: it kills.
            (now != u64::from(pid)).then(|| Stray(i32::try_from(now).unwrap()))
        })
    }

    fn proc(&self, name: &str) -> String {
        std::fs::read_to_string(format!("/proc/{}/{name}", self.0)).unwrap()
    }

    fn status_line(&self, name: &str) -> String {
        let status = self.proc("status");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim_start_matches(':').trim().to_owned()
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        // SAFETY: takes two integers. The process was started in this test, and ends only by it.
        unsafe { libc::kill(self.0, libc::SIGKILL) };
    }
}

/// A successor of which a test is the head.
struct Puppet {
    channel: Channel,
    /// Descriptors that it was sent.
    listeners: u32,
}

impl Puppet {
    /// Connects, and takes everything.
    #[track_caller]
    fn prepared(control: &Control) -> Puppet {
        let Ok(Found::Living(mut channel, _)) = Rendezvous::find(&control.0) else {
            panic!("nobody serves");
        };
        let hello = Hello { major: version::MAJOR, pid: 1, ..Hello::default() };
        channel.send(Message::Hello(hello), Vec::new()).unwrap();
        assert!(channel.flush().unwrap());
        let mut puppet = Puppet { channel, listeners: 0 };
        loop {
            match puppet.next() {
                Message::Listeners(listeners) => puppet.listeners += listeners.records.len() as u32,
                Message::Prepared(_) => break,
                _ => {}
            }
        }
        assert!(puppet.listeners > 0);
        puppet
    }

    fn say(&mut self, message: Message) {
        self.channel.send(message, Vec::new()).unwrap();
        assert!(self.channel.flush().unwrap());
    }

    fn next(&mut self) -> Message {
        eventually("the next message", || match self.channel.receive().unwrap() {
            Incoming::Message(message, _) => Some(message),
            Incoming::Nothing => None,
            Incoming::End => panic!("it has ended"),
        })
    }
}

#[test]
fn an_operator_sees_who_serves() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let config = config(origin.address(), &scratch);
    let control = Control::of(&scratch);
    assert!(control.refused(&["status"]).contains("no process serves there"));
    let mut first = Launch::outrigger(&config).start();
    let pid = first.process().pid();
    let status = control.status();
    assert_eq!((&status["pid"], &status["generation"]), (&pid.into(), &0.into()));
    assert_eq!((&status["state"], &status["max_processes"]), (&"LIVE".into(), &3.into()));
    assert_eq!(status["predecessors"], Value::Array(Vec::new()));
    let table = control.done(&["status"]);
    assert!(table.contains("serves") && table.contains(&pid.to_string()), "{table}");
    // The same by the configuration, and in the admin interface.
    let file = scratch.file("bootstrap.json");
    std::fs::write(&file, config.json().to_string()).unwrap();
    let mut command = Command::new(binary::outrigger());
    let output = run({
        command.args(["status", "--json", "-c"]).arg(&file);
        command
    });
    let by_file: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(by_file["pid"], pid);
    let page: Value = serde_json::from_str(&first.admin_get("/upgrade").text()).unwrap();
    assert_eq!(page["pid"], pid);
    first.stop();
    assert!(control.refused(&["upgrade"]).contains("no process serves there"));
}

#[test]
fn sighup_starts_a_successor_that_is_no_zombie_and_outlives_its_parent() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let control = Control::of(&scratch);
    let mut first = Launch::outrigger(&config).start();
    let (address, pid) = (first.address().clone(), first.process().pid());
    let mut slow = begin_slow(&first, &origin);
    first.process().signal(libc::SIGHUP);
    let second = Stray::after(&control, pid);
    let old = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap();
    assert_eq!(second.proc("cmdline"), old);
    assert_eq!(Client::connect(&address).get("/fast").status, 200);
    release.send(()).unwrap();
    assert_eq!(slow.response().status, 200);
    let status = eventually("the old one's end", || first.process().ended());
    assert_eq!(status.code(), Some(0));
    assert_eq!(Client::connect(&address).get("/fast").status, 200);
    assert_eq!(control.status()["generation"], 1);
    assert_ne!(second.status_line("PPid"), pid.to_string());
    assert!(!second.status_line("State").starts_with('Z'));
}

#[test]
fn upgrade_starts_a_binary_and_tells_how_that_went() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let control = Control::of(&scratch);
    let mut first = Launch::outrigger(&config(origin.address(), &scratch)).start();
    let (address, pid) = (first.address().clone(), first.process().pid());
    // HU-05, HU-27: whatever is wrong with the new one, the old one serves on.
    let said = control.refused(&["upgrade", "--binary", "/bin/false"]);
    assert!(said.contains("did not take over: exit status: 1"), "{said}");
    let said = control.refused(&["upgrade", "--binary", "/no/such/binary"]);
    assert!(said.contains("/no/such/binary"), "{said}");
    assert_eq!(first.client().get("/").status, 200);
    assert_eq!((state(&first), &control.status()["pid"]), ("LIVE".into(), &pid.into()));
    // No zombie is left of the one that ended.
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let children = std::fs::read_to_string(task.unwrap().path().join("children"));
        assert_eq!(children.unwrap_or_default(), "");
    }

    let binary = scratch.file("outrigger-next");
    std::os::unix::fs::symlink(binary::outrigger(), &binary).unwrap();
    let said = control.done(&["upgrade", "--binary", binary.to_str().unwrap()]);
    let second = Stray::after(&control, pid);
    assert!(said.contains(&format!("process {} serves", second.0)), "{said}");
    assert!(second.proc("cmdline").starts_with(binary.to_str().unwrap()));
    assert_eq!(Client::connect(&address).get("/").status, 200);
    eventually("the old one's end", || first.process().ended());
}

#[test]
fn a_hand_over_is_called_off_before_the_commit() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let control = Control::of(&scratch);
    let first = Launch::outrigger(&config(origin.address(), &scratch)).start();
    assert!(control.refused(&["upgrade", "--abort"]).contains("no hand-over is under way"));
    let mut puppet = Puppet::prepared(&control);
    // There is one at a time.
    assert_eq!(first.stat("upgrade.preparing"), 1);
    let said = control.refused(&["upgrade"]);
    assert!(said.contains("is taking over already"), "{said}");
    assert!(control.done(&["upgrade", "--abort"]).contains("serves on"));
    let Message::Abort(abort) = puppet.next() else { panic!("not aborted") };
    assert!(abort.reason.contains("operator"), "{}", abort.reason);
    assert_eq!(first.client().get("/").status, 200);
    assert_eq!((first.stat("upgrade.failed"), first.stat("upgrade.preparing")), (1, 0));
    // One that never connects is ended.
    let sleeper = scratch.file("sleeper");
    std::fs::write(&sleeper, "#!/bin/sh\nexec sleep 100\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o700);
    std::fs::set_permissions(&sleeper, mode).unwrap();
    let path = sleeper.to_str().unwrap().to_owned();
    let other = Control(scratch.file("control"));
    let starting = std::thread::spawn(move || other.refused(&["upgrade", "--binary", &path]));
    eventually("an end of the new process", || {
        control.tool(&["upgrade", "--abort"]).status.success().then_some(())
    });
    let said = starting.join().unwrap();
    assert!(said.contains("operator"), "{said}");
    let third = succeed(&config(origin.address(), &scratch), 1);
    expect_end(first);
    third.stop();
}

#[test]
fn a_hand_over_is_taken_back_while_no_connection_has_moved() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let control = Control::of(&scratch);
    let mut first = Launch::outrigger(&config).start();
    let (address, pid) = (first.address().clone(), first.process().pid());
    let mut slow = begin_slow(&first, &origin);
    let mut second = succeed(&config, 1);
    // HU-24: how far it is, wherever one looks.
    let own = second.process().pid();
    let status = eventually("a predecessor that says how far it is", || {
        Some(control.status()).filter(|status| status["predecessors"][0]["left"] == 1)
    });
    assert_eq!(status["pid"], own);
    let predecessor = &status["predecessors"][0];
    assert_eq!((&predecessor["pid"], &predecessor["moved"]), (&pid.into(), &0.into()));
    assert_eq!(predecessor["phase"], "draining");
    assert!(predecessor["seconds_left"].as_u64().unwrap() > 500, "{predecessor}");
    second.await_stat("upgrade.predecessor_left", |left| left == 1);
    assert_eq!((second.stat("upgrade.predecessors"), second.stat("upgrade.generation")), (1, 1));
    // HU-07: until a connection has moved, there is a way back.
    assert!(control.done(&["upgrade", "--abort"]).contains("the predecessor serves again"));
    assert_eq!(second.process().wait(PATIENCE).unwrap().code(), Some(0));
    eventually("the first one again", || (control.status()["pid"] == pid).then_some(()));
    assert_eq!(state(&first), "LIVE");
    assert_eq!(Client::connect(&address).get("/fast").status, 200);
    release.send(()).unwrap();
    assert_eq!(slow.response().status, 200);
    let third = succeed(&config, 1);
    expect_end(first);
    eventually("an end of the draining", || {
        (control.status()["predecessors"] == Value::Array(Vec::new())).then_some(())
    });
    third.stop();
}

#[test]
fn who_serves_again_is_found_again() {
    let scratch = Scratch::new();
    let origin = Origin::ok();
    let config = config(origin.address(), &scratch);
    let control = Control::of(&scratch);
    let mut first = Launch::outrigger(&config).start();
    let pid = first.process().pid();
    // A successor takes the path as it begins to accept, and dies before it has said that it does; or it
    // does so later still.
    for (failed, is_late) in [(1, false), (2, true)] {
        let mut puppet = Puppet::prepared(&control);
        puppet.say(Message::ListenersTaken(puppet.listeners));
        puppet.say(Message::Ready(Ready {}));
        while !matches!(puppet.next(), Message::Commit(_)) {}
        let take_path = || Rendezvous::succeed(&control.0).unwrap();
        let early = (!is_late).then(take_path);
        drop(puppet);
        first.await_stat("upgrade.failed", |count| count == failed);
        drop(early.unwrap_or_else(take_path));
        eventually("the first one where it was", || {
            let output = control.tool(&["status", "--json"]);
            let status: Value = serde_json::from_slice(&output.stdout).ok()?;
            (status["pid"] == pid).then_some(())
        });
    }
    let next = succeed(&config, 1);
    expect_end(first);
    next.stop();
}

#[test]
fn a_hand_over_is_not_taken_back_once_a_connection_has_moved() {
    let scratch = Scratch::new();
    let (origin, release) = slow_origin();
    let config = config(origin.address(), &scratch);
    let control = Control::of(&scratch);
    let first = Launch::outrigger(&config).start();
    // One moves, and one keeps the first process.
    let mut moves = first.client();
    assert_eq!(moves.get("/fast").status, 200);
    let mut slow = begin_slow_behind(&first, &origin, 1);
    let mut second = succeed(&config, 1);
    eventually("a connection that has moved", || {
        (control.status()["predecessors"][0]["moved"] == 1).then_some(())
    });
    let said = control.refused(&["upgrade", "--abort"]);
    assert!(said.contains("1 connections have moved"), "{said}");
    // Nothing has changed by that.
    assert_eq!(moves.get("/fast").status, 200);
    release.send(()).unwrap();
    assert_eq!(slow.response().status, 200);
    expect_end(first);
    assert_eq!(control.status()["pid"], second.process().pid());
    second.stop();
}
