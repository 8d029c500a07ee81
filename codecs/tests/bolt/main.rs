//! The Bolt codec: the vectors of bolt.md, and properties of any frames.

mod answers;
mod builder;
mod frames;
mod headers;
mod properties;
mod vectors;

use outrigger_codecs::rpc::{Bolt, Frame, Progress, RpcCodec, Splices};

/// As a proxy before Java peers has it.
const BOLT: Bolt = Bolt { crc_by_switch_only: false, goaway: true, max_frame_bytes: 1 << 20 };

/// The frame that `bytes` are.
#[track_caller]
fn frame(codec: &Bolt, bytes: &[u8]) -> Frame {
    match codec.frame(bytes) {
        Ok(Progress::Frame(frame)) => {
            assert_eq!(frame.len, bytes.len());
            frame
        }
        other => panic!("{other:?}"),
    }
}

/// The frame that the splices make of another, sealed as an engine would; with what it has become.
fn spliced(codec: &Bolt, old: &Frame, bytes: &[u8], splices: &Splices) -> (Frame, Vec<u8>) {
    let new = Frame { len: splices.new_len(old.len), ..*old };
    let bytes = splices.apply(bytes);
    (new, sealed(codec, &new, bytes))
}

fn sealed(codec: &Bolt, frame: &Frame, mut bytes: Vec<u8>) -> Vec<u8> {
    assert_eq!(bytes.len(), frame.len);
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let sum = codec.seal(frame, &mut [first, second].into_iter());
    if let Some(sum) = sum {
        let at = bytes.len() - sum.len();
        bytes[at..].copy_from_slice(&sum);
    }
    bytes
}
