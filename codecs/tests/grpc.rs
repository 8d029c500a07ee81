//! gRPC-Web bodies mean the same however they are split.

use outrigger_codecs::grpc::{Base64Decoder, Base64Error, MessageWalk, TextEncoder, put_trailers};
use outrigger_codecs::http::FieldBlock;
use proptest::collection::vec;
use proptest::prelude::*;

fn messages() -> impl Strategy<Value = Vec<Vec<u8>>> {
    vec(prop_oneof![vec(any::<u8>(), 0..20), vec(any::<u8>(), 700..2000)], 0..6)
}

fn body(messages: &[Vec<u8>]) -> Vec<u8> {
    let mut body = Vec::new();
    for message in messages {
        body.push(0);
        body.extend((message.len() as u32).to_be_bytes());
        body.extend(message);
    }
    body
}

/// Cuts `bytes` into pieces at `cuts`, each a share of the length.
fn pieces<'b>(bytes: &'b [u8], cuts: &[prop::sample::Index]) -> Vec<&'b [u8]> {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    at.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect()
}

fn decode(text: &[&[u8]]) -> Result<Vec<u8>, Base64Error> {
    let mut decoder = Base64Decoder::default();
    let mut out = Vec::new();
    for piece in text {
        decoder.decode(piece, &mut out)?;
    }
    decoder.finish().map(|()| out)
}

fn encode(body: &[&[u8]], trailers: Option<&FieldBlock>) -> Vec<u8> {
    let mut encoder = TextEncoder::default();
    let mut out = Vec::new();
    for piece in body {
        encoder.encode(piece, &mut out);
    }
    match trailers {
        Some(trailers) => encoder.trailers(trailers, &mut out),
        None => encoder.finish(&mut out),
    }
    out
}

proptest! {
    #[test]
    fn any_split_has_the_same_messages(
        messages in messages(),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let body = body(&messages);
        let mut walk = MessageWalk::default();
        let counted: u64 = pieces(&body, &cuts).iter().map(|piece| walk.count(piece)).sum();
        prop_assert_eq!(counted, messages.len() as u64);
        prop_assert_eq!(walk, MessageWalk::default());
    }

    #[test]
    fn any_split_encodes_to_the_same_text_and_back(
        messages in messages(),
        trailer in "[ -~]{0,40}",
        cuts in vec(any::<prop::sample::Index>(), 0..12),
        text_cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let mut plain = body(&messages);
        let mut trailers = FieldBlock::default();
        trailers.push("grpc-status", b"0");
        trailers.push("x", trailer.as_bytes());
        let text = encode(&pieces(&plain, &cuts), Some(&trailers));
        prop_assert_eq!(&text, &encode(&[&plain], Some(&trailers)));
        put_trailers(&trailers, &mut plain);
        prop_assert_eq!(decode(&pieces(&text, &text_cuts)), Ok(plain));
    }

    /// Whatever a body is, all of it comes out.
    #[test]
    fn any_bytes_survive(
        bytes in vec(any::<u8>(), 0..3000),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let text = encode(&pieces(&bytes, &cuts), None);
        prop_assert_eq!(decode(&[&text]), Ok(bytes));
    }

    /// Whatever comes, it is decoded or refused alike for every split.
    #[test]
    fn any_text_has_one_reading(
        text in "[A-D+/=#]{0,40}",
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let whole = decode(&[text.as_bytes()]);
        prop_assert_eq!(decode(&pieces(text.as_bytes(), &cuts)), whole);
    }
}
