//! What is asked for and what is made of the answers, message by message.

use super::*;
use crate::control::services::provider::Offer;

struct Rig {
    keeper: Keeper,
    stats: Arc<ServiceRegistryStats>,
    now: Instant,
}

const SESSION: i64 = 7;

impl Rig {
    fn new(wanted: &Wanted) -> Rig {
        let stats: Arc<ServiceRegistryStats> = Arc::default();
        let mut keeper =
            Keeper::new("/dubbo".to_owned(), Acl::Open, "zk".into(), Arc::clone(&stats));
        keeper.want(wanted, "1.2.3.4");
        keeper.connected(SESSION);
        Rig { keeper, stats, now: Instant::now() }
    }

    /// What is asked now, as `operation path`.
    fn asked(&mut self) -> Vec<(i32, String)> {
        let mut out = Vec::new();
        self.keeper.put_requests(&mut out);
        let mut asked = Vec::new();
        let mut rest = &out[..];
        while let Some((length, after)) = rest.split_first_chunk() {
            let (message, after) = after.split_at(wire::message_length(*length).unwrap());
            rest = after;
            let number = |at: usize| i32::from_be_bytes(message[at..at + 4].try_into().unwrap());
            let path = match number(4) {
                -11 => String::new(),
                14 => String::from_utf8(message[21..21 + number(17) as usize].to_vec()).unwrap(),
                _ => String::from_utf8(message[12..12 + number(8) as usize].to_vec()).unwrap(),
            };
            let kind = match number(4) {
                1 => "create",
                2 => "delete",
                3 => "exists",
                8 => "children",
                14 => "replace",
                -11 => "close",
                other => panic!("{other}"),
            };
            asked.push((number(0), format!("{kind} {}", layout::decode(&path))));
        }
        asked
    }

    fn answer(&mut self, xid: i32, error: i32, body: &[u8]) -> Result<Option<i64>, Lost> {
        let mut message = xid.to_be_bytes().to_vec();
        message.extend_from_slice(&5i64.to_be_bytes());
        message.extend_from_slice(&error.to_be_bytes());
        message.extend_from_slice(body);
        self.keeper.take(&message, self.now)
    }

    /// Answers everything with success, directories with `children`, nodes with owner `owner`.
    fn answer_all(&mut self, children: &[&str], owner: i64) -> Vec<String> {
        let mut all = Vec::new();
        loop {
            let asked = self.asked();
            if asked.is_empty() {
                return all;
            }
            for (xid, what) in asked {
                let body = match what.split(' ').next().unwrap() {
                    "children" => list(children),
                    "exists" => stat(owner),
                    "replace" => REPLACED.to_vec(),
                    _ => Vec::new(),
                };
                self.answer(xid, 0, &body).unwrap();
                all.push(what);
            }
        }
    }

    fn event(&mut self, kind: i32, state: i32, path: &str) -> Result<Option<i64>, Lost> {
        let mut body = kind.to_be_bytes().to_vec();
        body.extend_from_slice(&state.to_be_bytes());
        body.extend_from_slice(&(path.len() as i32).to_be_bytes());
        body.extend_from_slice(path.as_bytes());
        self.answer(wire::XID_EVENT, 0, &body)
    }
}

fn list(children: &[&str]) -> Vec<u8> {
    let mut body = (children.len() as i32).to_be_bytes().to_vec();
    for child in children {
        let child = layout::encode(child);
        body.extend_from_slice(&(child.len() as i32).to_be_bytes());
        body.extend_from_slice(child.as_bytes());
    }
    body
}

/// A node was removed, and the head of what follows.
const REPLACED: [u8; 9] = [0, 0, 0, 2, 0, 0, 0, 0, 0];

fn stat(owner: i64) -> Vec<u8> {
    let mut stat = vec![0; 68];
    stat[44..52].copy_from_slice(&owner.to_be_bytes());
    stat
}

fn lookup(group: &str, version: &str) -> Arc<ServiceName> {
    Arc::new(ServiceName::dubbo("I", group, version).unwrap())
}

fn offer() -> Arc<Offer> {
    Arc::new(Offer {
        name: ServiceName::dubbo("I", "", "").unwrap(),
        address: "1.2.3.4:5".parse().unwrap(),
        parameters: BTreeMap::new(),
        since_ms: 1,
    })
}

fn looking(lookups: &[Arc<ServiceName>]) -> Wanted {
    Wanted { lookups: lookups.iter().cloned().collect(), ..Wanted::default() }
}

fn offering() -> Wanted {
    Wanted { offers: [offer()].into(), ..Wanted::default() }
}

#[test]
fn directories_are_made_once_read_and_watched() {
    let mut rig = Rig::new(&looking(&[lookup("", "")]));
    assert!(!rig.keeper.is_up_to_date());
    let providers = ["dubbo://9.9.9.9:1/I?weight=3", "dubbo://name:1/I", "tri://9.9.9.9:2/I"];
    let asked = rig.answer_all(&providers, 0);
    assert_eq!(asked[..3], ["create /dubbo", "create /dubbo/I", "create /dubbo/I/consumers"]);
    assert!(asked[3].starts_with("create /dubbo/I/consumers/consumer://1.2.3.4/I?"), "{asked:?}");
    assert_eq!(asked[4..], ["create /dubbo/I/providers", "children /dubbo/I/providers"]);
    let reports = rig.keeper.take_reports();
    assert_eq!((reports.len(), reports[0].1.len()), (1, 1));
    assert_eq!(rig.stats.provider_ignored.value(), 1, "other protocols are nothing unusual");
    assert!(rig.keeper.is_up_to_date() && rig.keeper.deadline().is_none());
}

#[test]
fn events_that_come_together_are_one_reading() {
    let mut rig = Rig::new(&looking(&[lookup("", "")]));
    rig.answer_all(&[], 0);
    rig.keeper.take_reports();
    rig.event(4, 3, "/dubbo/I/providers").unwrap();
    rig.event(4, 3, "/dubbo/I/providers").unwrap();
    rig.event(4, 3, "/dubbo/other/providers").unwrap();
    assert!(rig.asked().is_empty());
    let at = rig.keeper.deadline().unwrap();
    assert_eq!(at, rig.now + SETTLE);
    rig.keeper.tick(at);
    assert_eq!(rig.answer_all(&["dubbo://9.9.9.9:1/I"], 0), ["children /dubbo/I/providers"]);
    assert_eq!(rig.keeper.take_reports()[0].1.len(), 1);
    assert!(rig.keeper.deadline().is_none());
}

#[test]
fn one_reading_serves_all_lookups_of_an_interface() {
    let mut rig = Rig::new(&looking(&[lookup("", ""), lookup("*", "*")]));
    let asked = rig.answer_all(&["dubbo://1.1.1.1:1/I", "dubbo://2.2.2.2:2/I?version=1"], 0);
    assert_eq!(asked.iter().filter(|what| what.starts_with("children")).count(), 1);
    let counts: Vec<_> = rig.keeper.take_reports().iter().map(|(_, all)| all.len()).collect();
    assert_eq!(counts, [1, 2]);
    // For one that comes later it is read again.
    rig.keeper.want(&looking(&[lookup("", ""), lookup("*", "*"), lookup("", "1")]), "1.2.3.4");
    let asked = rig.answer_all(&["dubbo://2.2.2.2:2/I?version=1"], 0);
    assert_eq!(asked.iter().filter(|what| what.starts_with("children")).count(), 1);
    let counts: Vec<_> = rig.keeper.take_reports().iter().map(|(_, all)| all.len()).collect();
    assert_eq!(counts, [0, 1, 1]);
}

#[test]
fn nodes_are_ours_in_every_session() {
    let mut rig = Rig::new(&offering());
    assert_eq!(rig.answer_all(&[], 0).len(), 4);
    assert_eq!(rig.stats.register.value(), 1);
    // The same session again: they are still there.
    rig.keeper.connected(SESSION);
    assert!(rig.asked().is_empty());
    // Another one: they are not.
    rig.keeper.connected(SESSION + 1);
    let asked = rig.answer_all(&[], 0);
    assert!(asked.last().unwrap().starts_with("create /dubbo/I/providers/dubbo://1.2.3.4:5/I?"));
    assert_eq!(rig.stats.session.value(), 2);
}

/// Answers until the node is asked for, and gives the id of that.
fn until_the_node(rig: &mut Rig) -> i32 {
    let asked = rig.asked();
    let (parents, node) = asked.split_at(3);
    for (xid, _) in parents {
        rig.answer(*xid, wire::NODE_EXISTS, &[]).unwrap();
    }
    node[0].0
}

#[test]
fn a_node_of_an_earlier_session_is_replaced() {
    let mut rig = Rig::new(&offering());
    let node = until_the_node(&mut rig);
    rig.answer(node, wire::NODE_EXISTS, &[]).unwrap();
    let (exists, what) = rig.asked().remove(0);
    assert!(what.starts_with("exists "));
    rig.answer(exists, 0, &stat(SESSION - 1)).unwrap();
    let asked = rig.answer_all(&[], SESSION);
    // In one go: nobody finds the service gone.
    assert_eq!(asked.len(), 1);
    assert!(asked[0].starts_with("replace "), "{asked:?}");
    assert_eq!(rig.stats.register.value(), 1);
}

#[test]
fn a_node_that_cannot_be_replaced_is_tried_again_later() {
    let mut rig = Rig::new(&offering());
    let node = until_the_node(&mut rig);
    rig.answer(node, wire::NODE_EXISTS, &[]).unwrap();
    let exists = rig.asked()[0].0;
    rig.answer(exists, 0, &stat(SESSION - 1)).unwrap();
    let replace = rig.asked()[0].0;
    assert!(!rig.keeper.is_registered());
    // An error for each of the two, and the end.
    rig.answer(replace, 0, &[0xff, 0xff, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0x9b]).unwrap();
    assert!(rig.keeper.is_registered() && rig.asked().is_empty());
    assert_eq!((rig.stats.register.value(), rig.stats.register_fail.value()), (0, 1));
    rig.keeper.tick(rig.now + RETRY_PAUSE);
    assert!(rig.asked().iter().any(|(_, what)| what.starts_with("create ")));
}

#[test]
fn a_node_that_is_ours_already_is_left() {
    let mut rig = Rig::new(&offering());
    let node = until_the_node(&mut rig);
    rig.answer(node, wire::NODE_EXISTS, &[]).unwrap();
    let exists = rig.asked()[0].0;
    rig.answer(exists, 0, &stat(SESSION)).unwrap();
    assert!(rig.asked().is_empty());
    assert_eq!(rig.stats.register.value(), 1);
}

#[test]
fn what_is_not_wanted_is_removed_if_it_is_ours() {
    let mut rig = Rig::new(&offering());
    rig.answer_all(&[], 0);
    rig.keeper.want(&Wanted::default(), "1.2.3.4");
    let asked = rig.answer_all(&[], SESSION);
    assert!(asked[0].starts_with("exists ") && asked[1].starts_with("delete "), "{asked:?}");
    // Somebody else has made it anew, such as a process that takes over from us.
    rig.keeper.want(&offering(), "1.2.3.4");
    rig.answer_all(&[], 0);
    rig.keeper.want(&Wanted::default(), "1.2.3.4");
    let asked = rig.answer_all(&[], SESSION + 1);
    assert_eq!(asked.len(), 1);
    // Wanted again while it is being removed: it ends up there.
    rig.keeper.want(&offering(), "1.2.3.4");
    rig.answer_all(&[], 0);
    rig.keeper.want(&Wanted::default(), "1.2.3.4");
    let exists = rig.asked()[0].0;
    rig.answer(exists, 0, &stat(SESSION)).unwrap();
    rig.keeper.want(&offering(), "1.2.3.4");
    let asked = rig.answer_all(&[], SESSION);
    assert!(asked[0].starts_with("delete ") && asked[1].starts_with("create "), "{asked:?}");
}

#[test]
fn what_fails_is_tried_again_later() {
    let mut rig = Rig::new(&offering());
    let node = until_the_node(&mut rig);
    rig.answer(node, wire::NO_AUTH, &[]).unwrap();
    assert!(rig.asked().is_empty());
    assert_eq!(rig.stats.register_fail.value(), 1);
    let at = rig.keeper.deadline().unwrap();
    rig.keeper.tick(at - Duration::from_millis(1));
    assert!(rig.asked().is_empty());
    rig.keeper.tick(at);
    assert!(rig.answer_all(&[], 0).last().unwrap().starts_with("create /dubbo/I/providers/"));
    assert_eq!(rig.stats.register.value(), 1);
}

#[test]
fn answers_must_answer() {
    let mut rig = Rig::new(&offering());
    assert_eq!(rig.answer(1, 0, &[]), Err(Lost::Answer));
    let asked = rig.asked();
    assert_eq!(rig.answer(asked[1].0, 0, &[]), Err(Lost::Answer));
    let mut rig = Rig::new(&offering());
    rig.asked();
    assert_eq!(rig.answer(wire::XID_PING, 0, &[]), Ok(Some(5)));
    assert_eq!(rig.answer(wire::XID_AUTH, 0, &[]), Ok(Some(5)));
    assert_eq!(rig.answer(wire::XID_AUTH, wire::AUTH_FAILED, &[]), Err(Lost::AuthFailed));
    assert_eq!(rig.event(-1, -112, ""), Err(Lost::Expired));
    assert_eq!(rig.event(-1, 3, ""), Ok(None));
    assert!(rig.keeper.take(&[0; 15], rig.now).is_err());
}

#[test]
fn so_many_requests_are_under_way_and_no_more() {
    let lookups: Vec<_> = (0..UNDER_WAY_MAX)
        .map(|number| Arc::new(ServiceName::dubbo(&format!("I{number}"), "", "").unwrap()))
        .collect();
    let mut rig = Rig::new(&looking(&lookups));
    assert_eq!(rig.asked().len(), UNDER_WAY_MAX);
    assert!(rig.asked().is_empty());
    rig.answer(1, 0, &[]).unwrap();
    assert_eq!(rig.asked().len(), 1);
}

#[test]
fn the_end_is_said_after_everything_else() {
    let mut rig = Rig::new(&offering());
    rig.answer_all(&[], 0);
    rig.keeper.close();
    let asked = rig.asked();
    assert_eq!(asked[0].1, "close ");
    assert_eq!(rig.answer(asked[0].0, 0, &[]), Err(Lost::Closed));
}
