//! Giving memory back to the system at the moments when much of it has just come free.

use std::time::Duration;

use tokio::sync::Notify;

/// Keeps huge pages away from this process: a shard touches a little of many pages, and each huge
/// one would count in full. To be called before anything else.
pub fn prefer_small_pages() {
    // SAFETY: PR_SET_THP_DISABLE takes plain numbers. A kernel that lacks it only uses more memory.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Gives memory back a moment after much of it came free, once for all that did so meanwhile.
#[derive(Debug, Default)]
pub struct Reclaim(Notify);

impl Reclaim {
    /// Much memory of this thread is coming free.
    pub fn due(&self) {
        self.0.notify_one();
    }

    /// Gives it back, for ever. To be run where the memory was allocated.
    pub async fn run(&self) {
        loop {
            self.0.notified().await;
            tokio::time::sleep(PAUSE).await;
            give_back();
        }
    }
}

/// Returns what the allocator keeps of freed memory, of this thread and of those that ended. Takes
/// milliseconds: for the end of a start or of an update, never for a shard.
pub fn give_back() {
    // SAFETY: the allocator's own function, safe to call from any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}

/// Long enough for an answer to be sent and for shards to let go of what they served before; short
/// enough that nobody sees the process at its largest for long.
const PAUSE: Duration = Duration::from_secs(1);
