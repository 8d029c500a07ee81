//! What edits of attachments leave, in both serializations.

use outrigger_codecs::rpc::{Dubbo, EditError, HeaderEdit, RpcCodec, Splices};
use proptest::prelude::*;

use super::hessian2::{Decoder, Encoder, Value, any_value};
use super::vectors::{bytes, vector};
use super::{DUBBO, fastjson2_with, frame, framed, headers, request};

use HeaderEdit::{Remove, Replace, Set, SetIfAbsent};

/// The frame after the edits; it must be as it was when there are no splices.
fn edited(
    bytes: &[u8],
    edits: &[HeaderEdit<'_>],
    timeout_ms: Option<u32>,
) -> Result<Vec<u8>, EditError> {
    let mut splices = Splices::default();
    let done = DUBBO.edit(&frame(bytes), bytes, edits, timeout_ms, &mut splices);
    if done.is_err() {
        assert!(splices.is_empty());
    }
    done?;
    let out = splices.apply(bytes);
    assert_eq!(splices.is_empty(), out == bytes);
    assert_eq!(frame(&out).len, out.len());
    Ok(out)
}

/// The attachments, without the names that come behind them.
fn attachments(bytes: &[u8]) -> Vec<(String, String)> {
    let mut all = headers(bytes);
    let names = all.iter().rposition(|(name, _)| name == "dubbo").expect("names");
    all.truncate(names);
    all
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn strings_are_appended() {
    for (name, before) in [("D12", vec![]), ("D13", pairs(&[("group", "g1")]))] {
        let edits = [Set(b"trace", b"abc"), Set("ö".as_bytes(), "中".as_bytes())];
        let out = edited(&vector(name), &edits, None).expect("edited");
        let expected = [before, pairs(&[("trace", "abc"), ("ö", "中")])].concat();
        assert_eq!(attachments(&out), expected, "{name}");
    }
    // Byte for byte: null becomes a map.
    let out = edited(&vector("D12"), &[Set(b"a", b"b")], None).expect("edited");
    let mut expected = vector("D12");
    expected.truncate(expected.len() - 1);
    expected.extend_from_slice(b"\x48\x01a\x01b\x5a");
    expected[15] += 5;
    assert_eq!(out, expected);

    let before = fastjson2_with(b"\xaf");
    let out = edited(&before, &[Set(b"a", b"b")], None).expect("edited");
    assert_eq!(out, fastjson2_with(b"\xa6\x4aa\x4ab\xa5"));
    let typed = fastjson2_with(&bytes("9250547265654d617000a64e67726f75704b6731a5"));
    let out = edited(&typed, &[Set(b"a", b"b"), Remove(b"group")], None).expect("edited");
    assert_eq!(out, fastjson2_with(&bytes("9250547265654d617000a64a614a62a5")));
}

#[test]
fn long_strings_are_appended() {
    for len in [31, 32, 47, 48, 1023, 1024, 3000, 0x8000, 0x8001, 300_000] {
        let value = "v".repeat(len);
        for name in ["D1", "D12", "D13"] {
            let out = edited(&vector(name), &[Set(b"k", value.as_bytes())], None).expect("edited");
            let found = attachments(&out);
            // More than one chunk can't be shown.
            let shown = found.iter().find(|(key, _)| key == "k").map(|(_, value)| value.len());
            let expected = if len > 0x8000 && name != "D13" { None } else { Some(len) };
            assert_eq!(shown, expected, "{name} and {len}");
        }
    }
}

#[test]
fn d11_keeps_its_references() {
    let d11 = vector("D11");
    let edits = [Set(b"group", b"g3"), Set(b"trace", b"t"), Remove(b"none")];
    let out = edited(&d11, &edits, None).expect("edited");
    assert_eq!(attachments(&out), pairs(&[("group", "g3"), ("trace", "t")]));
    let arguments = |bytes: &[u8]| {
        let mut decoder = Decoder::new(&bytes[16..]);
        (0..9).map(|_| decoder.value()).collect::<Vec<Value>>()
    };
    assert_eq!(arguments(&out), arguments(&d11));
    let mut decoder = Decoder::new(&out[16..]);
    (0..9).for_each(|_| drop(decoder.value()));
    let text = Value::text;
    let map = vec![
        (text("user"), Value::Reference(0)),
        (text("group"), text("g3")),
        (text("trace"), text("t")),
    ];
    assert_eq!(decoder.value(), Value::Map(Some("java.util.HashMap".to_owned()), map));
    // A reference is nothing that others could point to.
    assert!(edited(&d11, &[Remove(b"user")], None).is_ok());
}

#[test]
fn edits_mean_what_they_say() {
    let bytes = request("m", "", &[], &Value::map(&[("a", "1"), ("b", "2"), ("a", "3")]));
    let after = |edits: &[HeaderEdit<'_>]| attachments(&edited(&bytes, edits, None).expect("ok"));
    let before = pairs(&[("a", "1"), ("b", "2"), ("a", "3")]);
    assert_eq!(after(&[]), before);
    assert_eq!(after(&[Remove(b"c"), Replace(b"c", b"x"), SetIfAbsent(b"a", b"x")]), before);
    assert_eq!(after(&[Remove(b"a")]), pairs(&[("b", "2")]));
    assert_eq!(after(&[Set(b"a", b"x")]), pairs(&[("b", "2"), ("a", "x")]));
    assert_eq!(after(&[Replace(b"a", b"x")]), pairs(&[("b", "2"), ("a", "x")]));
    let appended = pairs(&[("a", "1"), ("b", "2"), ("a", "3"), ("c", "x")]);
    assert_eq!(after(&[SetIfAbsent(b"c", b"x")]), appended);
    assert_eq!(after(&[Set(b"c", b"y"), Replace(b"c", b"x")]), appended);
    assert_eq!(after(&[Set(b"c", b"x"), SetIfAbsent(b"c", b"y")]), appended);
    assert_eq!(after(&[Set(b"c", b"y"), Remove(b"c"), SetIfAbsent(b"c", b"x")]), appended);
    assert_eq!(after(&[Set(b"c", b"y"), Remove(b"c")]), before);
    assert_eq!(after(&[Remove(b"a"), Remove(b"b")]), []);
    // However many there are.
    let names: Vec<String> = (0..100).map(|n| format!("n{n}")).collect();
    let mut many: Vec<_> = names.iter().map(|name| Replace(name.as_bytes(), b"x")).collect();
    many.extend([Replace(b"b", b"x"), SetIfAbsent(b"a", b"x"), SetIfAbsent(b"c", b"x")]);
    assert_eq!(after(&many), pairs(&[("a", "1"), ("a", "3"), ("b", "x"), ("c", "x")]));
}

#[test]
fn timeouts_are_written_where_there_is_one() {
    let with = |timeout| {
        let entries = vec![(Value::text("timeout"), timeout), (Value::text("x"), Value::text("y"))];
        request("m", "", &[], &Value::Map(None, entries))
    };
    for timeout in [Value::text("3000"), Value::Int(3000), Value::Long(3000)] {
        let out = edited(&with(timeout), &[], Some(250)).expect("edited");
        assert_eq!(attachments(&out), pairs(&[("x", "y"), ("timeout", "250")]));
    }
    let none = request("m", "", &[], &Value::map(&[("x", "y")]));
    assert_eq!(edited(&none, &[], Some(250)), Ok(none));
    let d12 = vector("D12");
    assert_eq!(edited(&d12, &[], Some(250)), Ok(d12));
}

#[test]
fn values_that_others_may_point_to_stay() {
    let with = |value| request("m", "", &[], &Value::Map(None, vec![(Value::text("a"), value)]));
    let object = Value::Object("A".to_owned(), vec![("x".to_owned(), Value::Null)]);
    for value in [Value::List(None, Vec::new()), Value::Map(None, Vec::new()), object] {
        let bytes = with(value);
        for edit in [Remove(b"a"), Set(b"a", b"x"), Replace(b"a", b"x")] {
            assert_eq!(edited(&bytes, &[edit], None), Err(EditError::Unsupported));
        }
        assert!(edited(&bytes, &[Set(b"b", b"x"), SetIfAbsent(b"a", b"x")], None).is_ok());
    }
    for value in [Value::Null, Value::Bool(true), Value::Double(1), Value::Binary(vec![1])] {
        let out = edited(&with(value), &[Set(b"a", b"x")], None).expect("edited");
        assert_eq!(attachments(&out), pairs(&[("a", "x")]));
    }

    // fastjson2: a list; a number.
    let list = fastjson2_with(b"\xa6\x4aa\x96\x01\x02\xa5");
    assert_eq!(edited(&list, &[Remove(b"a")], None), Err(EditError::Unsupported));
    assert!(edited(&list, &[Set(b"b", b"x")], None).is_ok());
    for scalar in
        ["01", "440bb8", "b1", "af", "b53ff8000000000000", "7c022d4e", "be0000010000000000"]
    {
        let number = [b"\xa6\x4aa", &bytes(scalar)[..], b"\xa5"].concat();
        let out = edited(&fastjson2_with(&number), &[Remove(b"a")], None);
        assert_eq!(out, Ok(fastjson2_with(b"\xa6\xa5")), "{scalar}");
    }
}

#[test]
fn responses_with_attachments_can_be_edited() {
    let out = edited(&vector("D2"), &[Set(b"a", b"b"), Remove(b"dubbo")], None).expect("edited");
    assert_eq!(out, framed(0x02, 20, 1, b"\x94\x05hello\x48\x01a\x01b\x5a"));
    let out = edited(&framed(0x02, 20, 1, b"\x95\x4e"), &[Set(b"a", b"b")], None).expect("edited");
    assert_eq!(out, framed(0x02, 20, 1, b"\x95\x48\x01a\x01b\x5a"));
    for name in ["D3", "D7", "DM6"] {
        let edits = [Set(b"a", b"b")];
        assert_eq!(edited(&vector(name), &edits, None), Err(EditError::Unsupported), "{name}");
    }
}

#[test]
fn what_cannot_be_edited_is_said() {
    let edits = [Set(b"a", b"b")];
    let edit = |bytes: &[u8]| edited(bytes, &edits, None);
    for name in ["D4", "D5", "D6", "D14"] {
        assert_eq!(edit(&vector(name)), Err(EditError::Unsupported), "{name}");
    }
    assert_eq!(edit(&framed(0xc3, 0, 1, b"\x4e")), Err(EditError::Unsupported));
    for name in ["DM4", "DM5"] {
        assert_eq!(edit(&vector(name)), Err(EditError::Unreadable), "{name}");
    }
    assert_eq!(edit(&fastjson2_with(b"\xa6\x4aa\x80\xa5")), Err(EditError::Unreadable));
    assert_eq!(edited(&vector("D1"), &[Set(b"a", b"\xff")], None), Err(EditError::Unsupported));

    let d1 = vector("D1");
    let mut splices = Splices::default();
    let partial = DUBBO.edit(&frame(&d1), &d1[..153], &edits, None, &mut splices);
    assert_eq!(partial, Err(EditError::Unreadable));
    for (max_frame_bytes, expected) in [(157, Err(EditError::TooLong)), (158, Ok(()))] {
        let small = Dubbo { max_frame_bytes };
        let mut splices = Splices::default();
        assert_eq!(small.edit(&frame(&d1), &d1, &edits, None, &mut splices), expected);
    }
}

#[derive(Clone, Debug)]
enum AnyEdit {
    Remove(String),
    Set(String, String),
    SetIfAbsent(String, String),
    Replace(String, String),
}

impl AnyEdit {
    fn borrowed(&self) -> HeaderEdit<'_> {
        match self {
            AnyEdit::Remove(name) => Remove(name.as_bytes()),
            AnyEdit::Set(name, value) => Set(name.as_bytes(), value.as_bytes()),
            AnyEdit::SetIfAbsent(name, value) => SetIfAbsent(name.as_bytes(), value.as_bytes()),
            AnyEdit::Replace(name, value) => Replace(name.as_bytes(), value.as_bytes()),
        }
    }

    /// The plain meaning; true when entries have gone.
    fn apply(&self, entries: &mut Vec<(String, Value)>) -> Vec<Value> {
        let (name, value, if_present, if_absent) = match self {
            AnyEdit::Remove(name) => (name, None, true, true),
            AnyEdit::Set(name, value) => (name, Some(value), true, true),
            AnyEdit::SetIfAbsent(name, value) => (name, Some(value), false, true),
            AnyEdit::Replace(name, value) => (name, Some(value), true, false),
        };
        let is_present = entries.iter().any(|(known, _)| known == name);
        if !(if is_present { if_present } else { if_absent }) {
            return Vec::new();
        }
        let gone = entries.extract_if(.., |(known, _)| known == name).map(|(_, value)| value);
        let gone = gone.collect();
        entries.extend(value.map(|value| (name.clone(), Value::text(value))));
        gone
    }
}

fn any_name() -> impl Strategy<Value = String> {
    prop_oneof!["[abcd]", Just("timeout".to_owned()), Just("中".to_owned())]
}

fn any_edit() -> impl Strategy<Value = AnyEdit> {
    let value = || prop_oneof!["[a-z]{0,3}", "[aé中\u{1f600}]{0,40}"];
    prop_oneof![
        any_name().prop_map(AnyEdit::Remove),
        (any_name(), value()).prop_map(|(name, value)| AnyEdit::Set(name, value)),
        (any_name(), value()).prop_map(|(name, value)| AnyEdit::SetIfAbsent(name, value)),
        (any_name(), value()).prop_map(|(name, value)| AnyEdit::Replace(name, value)),
    ]
}

/// Entries by name; those of one name in their order.
fn sorted(mut entries: Vec<(String, Value)>) -> Vec<(String, Value)> {
    entries.sort_by(|(a, _), (b, _)| a.cmp(b));
    entries
}

fn is_simple(value: &Value) -> bool {
    !matches!(value, Value::List(..) | Value::Map(..) | Value::Object(..))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn edits_change_attachments_and_nothing_else(
        arguments in prop::collection::vec(any_value(), 0..4),
        entries in prop::collection::vec((any_name(), any_value()), 0..6),
        type_name in prop::option::of("[ab]"),
        edits in prop::collection::vec(any_edit(), 0..6),
        timeout_ms in prop::option::of(1_u32..100_000),
        seed: u64,
    ) {
        let mut encoder = Encoder::new(seed);
        let descriptor = "Ljava/lang/Object;".repeat(arguments.len());
        for name in ["2.0.2", "a.B", "1.0.0", "m", &descriptor] {
            encoder.name(name);
        }
        let arguments: Vec<Value> = arguments.iter().map(|value| encoder.put(value)).collect();
        let arguments_end = 16 + encoder.out.len();
        let mut expected = encoder.attachments(type_name.as_deref(), &entries);
        let bytes = framed(0xc2, 0, 1, &encoder.out);

        let all = edits.iter().map(AnyEdit::borrowed).collect::<Vec<_>>();
        let timeout =
            timeout_ms.map(|ms| AnyEdit::Replace("timeout".to_owned(), ms.to_string()));
        let gone: Vec<Value> =
            edits.iter().chain(&timeout).flat_map(|edit| edit.apply(&mut expected)).collect();
        let out = edited(&bytes, &all, timeout_ms);
        if !gone.iter().all(is_simple) {
            prop_assert_eq!(out, Err(EditError::Unsupported));
            return Ok(());
        }
        let out = out.expect("edited");
        prop_assert_eq!(&out[16..arguments_end], &bytes[16..arguments_end]);
        let mut decoder = Decoder::new(&out[16..]);
        (0..5).for_each(|_| drop(decoder.value()));
        for argument in &arguments {
            prop_assert_eq!(&decoder.value(), argument);
        }
        let Value::Map(name, found) = decoder.value() else { panic!("a map") };
        prop_assert_eq!(name, type_name);
        let found = found.into_iter().map(|(key, value)| {
            let Value::Text(key) = key else { panic!("a name") };
            (String::from_utf16(&key).expect("a name"), value)
        });
        prop_assert_eq!(sorted(found.collect()), sorted(expected));
        prop_assert!(decoder.rest.is_empty());
    }

    #[test]
    fn edits_of_fastjson2_do_the_same(
        entries in prop::collection::vec((any_name(), "[a-zé中]{0,60}"), 0..6),
        is_null: bool,
        edits in prop::collection::vec(any_edit(), 0..6),
    ) {
        let mut map = vec![0xa6];
        for text in entries.iter().flat_map(|(key, value)| [key, value]) {
            map.extend([0x7a, 0x38, text.len() as u8]);
            map.extend_from_slice(text.as_bytes());
        }
        map.push(0xa5);
        let is_null = is_null && entries.is_empty();
        let bytes = fastjson2_with(if is_null { b"\xaf" } else { &map });
        let entries = entries.into_iter().map(|(key, value)| (key, Value::text(&value)));
        let mut expected: Vec<_> = entries.collect();
        edits.iter().for_each(|edit| drop(edit.apply(&mut expected)));
        let all = edits.iter().map(AnyEdit::borrowed).collect::<Vec<_>>();
        let out = edited(&bytes, &all, None).expect("edited");
        let found = attachments(&out);
        let found = found.into_iter().map(|(key, value)| (key, Value::text(&value)));
        prop_assert_eq!(sorted(found.collect()), sorted(expected));
        let end = if is_null && out == bytes { 0xaf } else { 0xa5 };
        prop_assert_eq!(out.last(), Some(&end));
    }
}
