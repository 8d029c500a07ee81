//! What is remembered of an exchange for counters and the access log.

use std::rc::Rc;

use crate::access_log::{ByteCounts, Capture, ResponseFlags, Times};
use crate::tls::TlsSession;

/// The facts of one exchange. Its buffers keep their memory from one exchange to the next.
#[derive(Default)]
pub(super) struct Facts {
    pub(super) times: Times,
    pub(super) bytes: ByteCounts,
    pub(super) flags: ResponseFlags,
    /// The status sent downstream; 0 when none was.
    pub(super) code: u16,
    pub(super) details: &'static str,
    pub(super) attempts: u32,
    pub(super) upstream_connection_id: u64,
    /// What was agreed with upstream in TLS.
    pub(super) upstream_tls: Option<Rc<TlsSession>>,
    /// Why no TLS with upstream could be had; empty when nothing failed.
    pub(super) upstream_transport_failure: String,
    pub(super) stream_id: u128,
    pub(super) is_traced: bool,
    /// Header values that the access log asks for.
    pub(super) capture: Capture,
}

impl Facts {
    /// Forgets everything but the memory.
    pub(super) fn clear(&mut self) {
        let Self {
            times,
            bytes,
            flags,
            code,
            details,
            attempts,
            upstream_connection_id,
            upstream_tls,
            upstream_transport_failure,
            stream_id,
            is_traced,
            capture,
        } = self;
        capture.clear();
        *upstream_transport_failure = String::new();
        *times = Times::default();
        *bytes = ByteCounts::default();
        *flags = ResponseFlags::default();
        (*code, *details, *attempts) = (0, "", 0);
        (*upstream_connection_id, *upstream_tls) = (0, None);
        (*stream_id, *is_traced) = (0, false);
    }
}
