//! What Dubbo costs the heap: nothing per message once the buffers of edits and answers have grown.

#[path = "dubbo/vectors.rs"]
mod vectors;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::hint::black_box;

use outrigger_codecs::rpc::{
    Detail, Dubbo, Failure, HeaderEdit, Outcome, Progress, RpcCodec, Splices,
};
use vectors::vector;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the allocations of each thread.
struct Counting;

// SAFETY: every call is passed on to the system allocator with the arguments unchanged, and counting
// in a const-initialised thread-local of a type without destructor neither allocates nor unwinds.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is that of `System`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `System` with this layout, by `alloc` above.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const DUBBO: Dubbo = Dubbo { max_frame_bytes: 1 << 20 };

/// Everything that a message goes through.
fn pass(request: &mut [u8], response: &[u8], splices: &mut Splices, out: &mut Vec<u8>) {
    let Ok(Progress::Frame(frame)) = DUBBO.frame(request) else { panic!("no frame") };
    for detail in [Detail::Names, Detail::All] {
        assert!(!DUBBO.call(&frame, request, detail).expect("well-formed").service.is_empty());
    }
    let mut seen = 0;
    DUBBO.headers(&frame, request, &mut |_, _| {
        seen += 1;
        true
    });
    assert!(seen > 3);
    let edits = [HeaderEdit::Set(b"trace", b"abc"), HeaderEdit::Remove(b"group")];
    splices.clear();
    DUBBO.edit(&frame, request, &edits, Some(500), splices).expect("edited");
    DUBBO.set_id(&frame, request, 7);

    out.clear();
    DUBBO.put_failure(&frame.tag, frame.id, Failure::NoRoute, "no route for it", out);
    DUBBO.put_heartbeat(&frame.tag, frame.id, out);
    DUBBO.put_goodbye(&frame.tag, frame.id, out);

    let Ok(Progress::Frame(frame)) = DUBBO.frame(response) else { panic!("no frame") };
    assert_eq!(DUBBO.outcome(&frame, response), Outcome::Success);
}

#[test]
fn messages_allocate_nothing() {
    let (mut splices, mut out) = (Splices::default(), Vec::new());
    let response = vector("D2");
    for name in ["D1", "D11", "D13"] {
        let mut request = vector(name);
        pass(&mut request, &response, &mut splices, &mut out);
        let before = ALLOCATIONS.get();
        for _ in 0..100 {
            pass(black_box(&mut request), black_box(&response), &mut splices, &mut out);
        }
        assert_eq!(ALLOCATIONS.get() - before, 0, "{name}");
    }
    // The counter does count.
    let before = ALLOCATIONS.get();
    drop(black_box(vec![1_u8]));
    assert_eq!(ALLOCATIONS.get() - before, 1);
}
