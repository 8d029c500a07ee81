//! Giving memory back to the system at the moments when much of it has just come free.

/// Keeps huge pages away from this process: a shard touches a little of many pages, and each huge
/// one would count in full. To be called before anything else.
pub fn prefer_small_pages() {
    // SAFETY: PR_SET_THP_DISABLE takes plain numbers. A kernel that lacks it only uses more memory.
    unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) };
}

/// Returns what the allocator keeps of freed memory, of this thread and of those that ended. Takes
/// milliseconds: for the end of a start or of an update, never for a shard.
pub fn give_back() {
    // SAFETY: the allocator's own function, safe to call from any thread at any time.
    unsafe { libmimalloc_sys::mi_collect(true) };
}
