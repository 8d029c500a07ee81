//! The access log of the admin interface.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use outrigger_xds::snapshot::access_log::AccessLog;

use crate::access_log::{
    AccessLogs, Address, ByteCounts, Capture, OpenError, Protocol, Record, ShardLogger, Times,
};
use crate::control::state::ControlState;

/// Where requests are written, if anywhere. Each at once: there are few.
pub(super) struct Journal(Option<Mutex<Open>>);

struct Open {
    logs: AccessLogs,
    logger: ShardLogger,
}

/// What became of a request.
pub(super) struct Outcome {
    pub(super) status: StatusCode,
    /// Bytes of the body.
    pub(super) sent: u64,
    pub(super) peer: Option<SocketAddr>,
    pub(super) began: Instant,
}

impl Journal {
    pub(super) fn open(
        configured: &[Arc<AccessLog>],
        state: &ControlState,
    ) -> Result<Journal, OpenError> {
        let Some(queue) = state.access_log_queue().filter(|_| !configured.is_empty()) else {
            return Ok(Journal(None));
        };
        let logs = AccessLogs::open(queue, configured)?;
        let registry = state.registry();
        let logger = ShardLogger::new(queue.clone(), registry, registry.control(), 0);
        Ok(Journal(Some(Mutex::new(Open { logs, logger }))))
    }

    pub(super) fn write(
        &self,
        state: &ControlState,
        request: &Request<Incoming>,
        outcome: &Outcome,
    ) {
        let Some(open) = &self.0 else { return };
        let mut open = open.lock().unwrap_or_else(PoisonError::into_inner);
        let Open { logs, logger } = &mut *open;
        let mut capture = Capture::default();
        for (slot, name) in logs.captures().request_headers() {
            let header = |name| request.headers().get(name).map(http::HeaderValue::as_bytes);
            let value = match name {
                ":method" => Some(request.method().as_str().as_bytes()),
                ":path" => request.uri().path_and_query().map(|path| path.as_str().as_bytes()),
                ":authority" => header("host"),
                ":scheme" => Some(&b"http"[..]),
                name => header(name),
            };
            if let Some(value) = value {
                capture.put(slot, value);
            }
        }
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let wall_ns = u64::try_from(wall.as_nanos()).unwrap_or(u64::MAX);
        let since_start = |at: Instant| at.duration_since(state.started()).as_nanos() as u64;
        let (began, end) = (since_start(outcome.began), since_start(Instant::now()));
        let peer = outcome.peer.map_or(Address::Pipe(""), Address::Ip);
        let record = Record {
            start_wall_ns: wall_ns.saturating_sub(end - began),
            emit_wall_ns: wall_ns,
            times: Times {
                downstream_rx_begin: began,
                downstream_rx_end: began,
                downstream_tx_begin: end,
                downstream_tx_end: end,
                end,
                ..Times::default()
            },
            protocol: Some(Protocol::Http11),
            response_code: outcome.status.as_u16(),
            bytes: ByteCounts { sent: outcome.sent, ..ByteCounts::default() },
            downstream_remote: Some(peer),
            downstream_direct_remote: Some(peer),
            ..Record::default()
        };
        logger.log(logs, &record, &capture);
        logger.flush_all();
    }
}
