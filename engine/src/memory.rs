//! Giving memory back to the system at the moments when much of it has just come free.

/// Returns what the allocator keeps of freed memory, of this thread and of those that ended. Takes
/// milliseconds: for the end of a start or of an update, never for a shard.
pub fn give_back() {
    // SAFETY: the allocator's own function, safe to call from any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
