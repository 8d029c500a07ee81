//! Frames of our own, and responses in the form of their request.

use outrigger_codecs::rpc::{Bolt, Failure, Frame, RpcCodec, Splices, Tag};

use crate::vectors::vector;
use crate::{BOLT, frame, sealed, spliced};

const V1: Tag = Tag([1, 0, 0, 1]);
const V2_CHECKED: Tag = Tag([2, 2, 1, 1]);

fn failure(tag: Tag, id: u64, failure: Failure) -> Vec<u8> {
    let mut out = Vec::new();
    BOLT.put_failure(&tag, id, failure, "why", &mut out);
    out
}

#[test]
fn failures_are_the_vectors() {
    let tag = |name| frame(&BOLT, vector(name)).tag;
    assert_eq!(failure(tag("B3"), 42, Failure::NoRoute), vector("B6"));
    assert_eq!(failure(tag("B3"), 42, Failure::UpstreamTimeout), vector("B7"));
    assert_eq!(failure(tag("B23"), 42, Failure::NoRoute), vector("B26"));
}

#[test]
fn every_failure_has_a_status_that_peers_know() {
    for (cause, status) in [
        (Failure::NoRoute, 6),
        (Failure::NoHealthyUpstream, 6),
        (Failure::Overflow, 4),
        (Failure::RateLimited, 4),
        (Failure::Denied, 2),
        (Failure::UpstreamTimeout, 7),
        (Failure::ClientTimeout, 7),
        (Failure::ConnectionLost, 16),
        (Failure::Undecodable, 9),
        (Failure::TooLarge, 9),
        (Failure::Internal, 3),
    ] {
        for tag in [Tag([1, 0, 0, 12]), Tag([2, 1, 1, 12]), Tag([2, 2, 0, 11]), V2_CHECKED] {
            let bytes = failure(tag, 0xffff_fffe, cause);
            let is = frame(&BOLT, &bytes);
            let expected = (status, 0xffff_fffe, tag);
            assert_eq!((is.status, is.id, is.tag), expected, "{cause:?}");
            assert_eq!(BOLT.verify(&is, &mut [&bytes[..]].into_iter()), Ok(()));
        }
    }
}

#[test]
fn heartbeats_and_their_answers() {
    for (name, reply) in [("B1", "B2"), ("B20", "B21")] {
        let is = frame(&BOLT, vector(name));
        let mut out = Vec::new();
        BOLT.put_heartbeat_reply(&is, vector(name), &mut out);
        assert_eq!(out, vector(reply));
        out.clear();
        BOLT.put_heartbeat(&is.tag, is.id, &mut out);
        assert_eq!(out, vector(name));
    }
    // With checksums, in the form of the peer's own.
    let mut out = Vec::new();
    BOLT.put_heartbeat(&Tag([2, 2, 1, 12]), 7, &mut out);
    let is = frame(&BOLT, &out);
    assert_eq!((is.len, is.id, is.tag, is.timeout_ms), (28, 7, V2_CHECKED, None));
    assert_eq!(BOLT.verify(&is, &mut [&out[..]].into_iter()), Ok(()));
    let mut reply = Vec::new();
    BOLT.put_heartbeat_reply(&is, &out, &mut reply);
    let answer = frame(&BOLT, &reply);
    assert_eq!((answer.len, answer.id, answer.tag, answer.status), (26, 7, V2_CHECKED, 0));
    assert_eq!(BOLT.verify(&answer, &mut [&reply[..]].into_iter()), Ok(()));
    // Where nothing is known of the peer yet, it is version 1.
    out.clear();
    BOLT.put_heartbeat(&Tag::default(), 1, &mut out);
    assert_eq!(out, vector("B1"));
}

#[test]
fn the_highest_bit_of_a_switch_is_never_sent() {
    let bytes = failure(Tag([2, 2, 0x81, 1]), 42, Failure::NoRoute);
    assert_eq!(bytes, vector("B26"));
}

#[test]
fn goodbye_is_said_in_version_1_to_those_who_know_it() {
    let silent = Bolt { goaway: false, ..BOLT };
    let mut out = Vec::new();
    assert!(!silent.put_goodbye(&V1, 44, &mut out));
    assert!(!BOLT.put_goodbye(&Tag([2, 1, 0, 1]), 44, &mut out));
    assert!(out.is_empty());
    assert!(BOLT.put_goodbye(&V1, 44, &mut out));
    assert_eq!(out, vector("B8"));
}

#[test]
fn a_connection_is_of_one_version() {
    let of = |name| BOLT.flavour(&frame(&BOLT, vector(name)).tag);
    let flavours = ["B1", "B20", "B26"].map(of);
    assert!(flavours.is_sorted_by(|one, other| one < other), "{flavours:?}");
    assert_eq!(["B3", "B4", "B5"].map(of), [flavours[0]; 3]);
    assert_eq!([of("B22"), of("B23"), of("B24")], [flavours[1], flavours[2], flavours[2]]);
}

/// As an engine does it: the id first, then the form, then the checksum.
fn answered(response: &[u8], id: u64, request: Tag) -> (bool, Vec<u8>) {
    let old = frame(&BOLT, response);
    let mut bytes = response.to_vec();
    BOLT.set_id(&old, &mut bytes[..old.id_end], id);
    let mut splices = Splices::default();
    if !BOLT.convert(&old, &bytes[..old.head_len], &request, &mut splices) {
        assert!(splices.is_empty());
        return (false, sealed(&BOLT, &old, bytes));
    }
    let converted = Frame { tag: request, ..old };
    (true, spliced(&BOLT, &converted, &bytes, &splices).1)
}

#[test]
fn a_response_takes_the_form_of_its_request() {
    // The same message in both versions.
    assert_eq!(answered(vector("B5"), 42, V2_CHECKED), (true, vector("B25").to_vec()));
    assert_eq!(answered(vector("B25"), 42, V1), (true, vector("B5").to_vec()));
    assert_eq!(answered(vector("B6"), 42, V2_CHECKED), (true, vector("B26").to_vec()));
    let (_, bytes) = answered(vector("B25"), 7, V1);
    assert_eq!((frame(&BOLT, &bytes).id, &bytes[20..]), (7, &vector("B5")[20..]));
    // The codec is the response's own, an unknown status goes through, and so do headers.
    let (_, bytes) = answered(vector("B10"), 43, Tag([2, 1, 1, 99]));
    let is = frame(&BOLT, &bytes);
    assert_eq!((is.tag, &bytes[22..]), (Tag([2, 1, 1, 12]), &vector("B10")[20..]));
    let (_, bytes) = answered(vector("BM9"), 1, Tag([2, 2, 0, 1]));
    assert_eq!((frame(&BOLT, &bytes).status, bytes.len()), (10, 22));
}

#[test]
fn a_response_of_the_requests_form_stays_as_it_is() {
    assert_eq!(answered(vector("B5"), 42, Tag([1, 0, 0, 12])), (false, vector("B5").to_vec()));
    for switch in [0, 1] {
        let request = Tag([2, 2, switch, 1]);
        assert_eq!(answered(vector("B25"), 42, request), (false, vector("B25").to_vec()));
    }
    // What is no response has no request.
    for name in ["B2", "B3"] {
        let is = frame(&BOLT, vector(name));
        let mut splices = Splices::default();
        assert!(!BOLT.convert(&is, vector(name), &V2_CHECKED, &mut splices));
    }
}

#[test]
fn a_checksum_moves_with_the_form() {
    let by_switch = Bolt { crc_by_switch_only: true, ..BOLT };
    let bytes = vector("B25");
    let old = frame(&by_switch, bytes);
    for tag in [Tag([2, 1, 1, 1]), Tag([2, 1, 0, 1]), V1] {
        let mut splices = Splices::default();
        assert!(by_switch.convert(&old, bytes, &tag, &mut splices));
        let converted = Frame { tag, ..old };
        let (_, bytes) = spliced(&by_switch, &converted, bytes, &splices);
        let is = frame(&by_switch, &bytes);
        assert_eq!(by_switch.verify(&is, &mut [&bytes[..]].into_iter()), Ok(()));
        let rest_at = is.head_len - (old.head_len - 22);
        assert_eq!((is.tag, &bytes[rest_at..][..149]), (tag, &vector("B25")[22..171]));
    }
}
