//! Frames of any parts, against the builder and its naive model of edits.

use outrigger_codecs::rpc::{
    Bolt, Detail, FRONT_BYTES_MAX, Frame, HeaderEdit, Kind, Progress, RpcCodec, Splices, Tag,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::builder::{Header, Message, edited};
use crate::{BOLT, frame, sealed, spliced};

/// Few keys, so that they meet; now and then a null or what is no text.
fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "service", "sofa_head_target_service"])
            .prop_map(|key| key.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..12),
    ]
}

fn headers() -> impl Strategy<Value = Vec<Header>> {
    let value =
        prop_oneof![4 => "[ -~]{0,20}".prop_map(String::into_bytes), 1 => vec(any::<u8>(), 0..9)];
    vec((option::weighted(0.95, key()), option::weighted(0.9, value)), 0..12)
}

fn message() -> impl Strategy<Value = Message> {
    let v2 = option::of((1_u8..=2, 0_u8..=0x7f));
    let parts = (0_u8..=2, any::<u16>(), any::<u8>(), any::<u32>(), any::<u8>(), any::<i32>());
    let command = prop_oneof![Just(None), Just(Some(0)), Just(Some(1)), Just(Some(2))];
    let rest = (vec(any::<u8>(), 0..40), headers(), vec(any::<u8>(), 0..200));
    (v2, parts, command, rest).prop_map(|(v2, parts, command, rest)| {
        let (kind, any_command, ver2, id, codec, timeout) = parts;
        let (class, headers, content) = rest;
        let command = command.unwrap_or(any_command);
        let status = timeout as u16;
        Message { v2, kind, command, ver2, id, codec, timeout, status, class, headers, content }
    })
}

#[derive(Clone, Debug)]
struct Edit(u8, Vec<u8>, Vec<u8>);

impl Edit {
    fn of(&self) -> HeaderEdit<'_> {
        match self {
            Edit(0, key, _) => HeaderEdit::Remove(key),
            Edit(1, key, value) => HeaderEdit::Set(key, value),
            Edit(2, key, value) => HeaderEdit::SetIfAbsent(key, value),
            Edit(_, key, value) => HeaderEdit::Replace(key, value),
        }
    }
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    vec((0_u8..4, key(), vec(any::<u8>(), 0..9)).prop_map(|(op, k, v)| Edit(op, k, v)), 0..6)
}

fn codec() -> impl Strategy<Value = Bolt> {
    any::<bool>().prop_map(|crc_by_switch_only| Bolt { crc_by_switch_only, ..BOLT })
}

fn tag() -> impl Strategy<Value = Tag> {
    prop_oneof![
        any::<u8>().prop_map(|codec| Tag([1, 0, 0, codec])),
        (1_u8..=2, 0_u8..=0x7f, any::<u8>())
            .prop_map(|(ver1, switch, codec)| Tag([2, ver1, switch, codec])),
    ]
}

fn expected_kind(message: &Message) -> Kind {
    match (message.kind, message.command) {
        (0, 0) => Kind::HeartbeatReply,
        (0, 2) => Kind::Response,
        (0, _) => Kind::Opaque,
        (_, 0) => Kind::Heartbeat,
        (_, 100) => Kind::Goodbye,
        (1, _) => Kind::Request,
        (_, _) => Kind::Oneway,
    }
}

fn text(pair: &Header) -> Option<(&[u8], &[u8])> {
    let (key, value) = (pair.0.as_deref()?, pair.1.as_deref()?);
    (str::from_utf8(key).is_ok() && str::from_utf8(value).is_ok()).then_some((key, value))
}

proptest! {
    #[test]
    fn a_frame_reads_as_it_was_built(message in message(), codec in codec()) {
        let bytes = message.bytes(codec.crc_by_switch_only);
        let is = frame(&codec, &bytes);
        let (ver1, switch) = message.v2.unwrap_or((0, 0));
        let protocol = 1 + u8::from(message.v2.is_some());
        prop_assert_eq!(is.tag, Tag([protocol, ver1, switch, message.codec]));
        prop_assert_eq!((is.kind, is.id), (expected_kind(&message), u64::from(message.id)));
        let is_request = message.kind > 0;
        prop_assert_eq!(is.status, if is_request { 0 } else { message.status });
        let timeout = Some(message.timeout as u32).filter(|_| is_request && message.timeout > 0);
        prop_assert_eq!(is.timeout_ms, timeout);
        prop_assert_eq!(codec.verify(&is, &mut bytes.chunks(7)), Ok(()));
        prop_assert!(is.id_end <= is.head_len && is.head_len <= is.len);
        prop_assert_eq!(&bytes[is.head_len..][..message.content.len()], &message.content);

        let shown: Vec<_> = message.headers.iter().filter_map(text).collect();
        let mut seen = Vec::new();
        codec.headers(&is, &bytes, &mut |key, value| {
            seen.push((key, value));
            true
        });
        prop_assert_eq!(&seen, &shown);
        let call = codec.call(&is, &bytes[..is.head_len], Detail::Names).unwrap();
        let last = |name: &[u8]| shown.iter().rev().find(|(key, _)| *key == name).map(|it| it.1);
        let service = last(b"service").filter(|service| !service.is_empty());
        let service = service.or(last(b"sofa_head_target_service"));
        prop_assert_eq!(call.service, service.unwrap_or_default());
        prop_assert_eq!(call.timeout_ms, timeout);
    }

    #[test]
    fn a_frame_is_the_same_at_every_split(message in message(), codec in codec()) {
        let bytes = message.bytes(codec.crc_by_switch_only);
        let whole = frame(&codec, &bytes);
        for cut in 0..bytes.len() {
            match codec.frame(&bytes[..cut]).unwrap() {
                Progress::Frame(early) => prop_assert_eq!(early, whole),
                Progress::NeedMore(more) => {
                    prop_assert!(cut < more && more <= bytes.len().min(FRONT_BYTES_MAX));
                }
            }
        }
    }

    #[test]
    fn edits_are_those_of_the_model(
        message in message(),
        edits in edits(),
        timeout_ms in option::of(any::<u32>()),
        codec in codec(),
    ) {
        let edits: Vec<_> = edits.iter().map(Edit::of).collect();
        let bytes = message.bytes(codec.crc_by_switch_only);
        let is = frame(&codec, &bytes);
        let mut splices = Splices::default();
        let head = &bytes[..is.head_len];
        prop_assert_eq!(codec.edit(&is, head, &edits, timeout_ms, &mut splices), Ok(()));
        let (_, new) = spliced(&codec, &is, &bytes, &splices);
        let mut model = Message { headers: edited(message.headers.clone(), &edits), ..message };
        if let (true, Some(timeout_ms)) = (model.kind > 0 && model.timeout > 0, timeout_ms) {
            model.timeout = timeout_ms.clamp(1, i32::MAX as u32) as i32;
        }
        prop_assert_eq!(new, model.bytes(codec.crc_by_switch_only));
    }

    #[test]
    fn a_response_comes_back_from_any_form(
        message in message(),
        id in any::<u32>(),
        other in tag(),
        codec in codec(),
    ) {
        let message = Message { kind: 0, command: 2, ..message };
        let bytes = message.bytes(codec.crc_by_switch_only);
        let is = frame(&codec, &bytes);
        let mut there = bytes.clone();
        codec.set_id(&is, &mut there, u64::from(id));
        let mut splices = Splices::default();
        let head = &there[..is.head_len];
        prop_assume!(codec.convert(&is, head, &other, &mut splices));
        let (_, there) = spliced(&codec, &Frame { tag: other, ..is }, &there, &splices);
        let v2 = Some((other.0[1], other.0[2])).filter(|_| other.0[0] == 2);
        let model = Message { v2, id, ..message.clone() };
        prop_assert_eq!(&there, &model.bytes(codec.crc_by_switch_only));

        let mut back = there;
        let then = frame(&codec, &back);
        codec.set_id(&then, &mut back, is.id);
        splices.clear();
        prop_assert!(codec.convert(&then, &back[..then.head_len], &is.tag, &mut splices));
        let (_, back) = spliced(&codec, &Frame { tag: is.tag, ..then }, &back, &splices);
        prop_assert_eq!(back, bytes);
    }

    #[test]
    fn ids_change_nothing_else(message in message(), id in any::<u32>(), codec in codec()) {
        let mut bytes = message.bytes(codec.crc_by_switch_only);
        let is = frame(&codec, &bytes);
        codec.set_id(&is, &mut bytes[..is.id_end], u64::from(id));
        let bytes = sealed(&codec, &is, bytes);
        prop_assert_eq!(bytes, Message { id, ..message }.bytes(codec.crc_by_switch_only));
    }
}
