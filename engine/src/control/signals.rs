//! Signals, as commands to the server loop.
//!
//! | signal | effect |
//! |---|---|
//! | SIGTERM, SIGINT | first: drain and exit; again: exit at once; a third time: killed by the kernel |
//! | SIGUSR1 | log files are opened again |
//! | SIGHUP | a successor is started, if `engine.upgrade` says where it finds this process |
//!
//! The process blocks them before it starts any thread ([`block`]), and only the control thread
//! lets them through, so that no shard's system call is ever interrupted by one.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use super::state::{Command, ControlState};

/// Blocks the signals this module handles, in the calling thread and those it starts later.
pub fn block() -> io::Result<()> {
    mask(libc::SIG_BLOCK)
}

/// The signals of the process.
pub(super) struct Signals {
    state: Arc<ControlState>,
    terminate: Signal,
    interrupt: Signal,
    user_1: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Handlers in place, and signals let through in the calling thread. Needs a tokio runtime.
    pub(super) fn new(state: Arc<ControlState>) -> io::Result<Signals> {
        let signals = Signals {
            state,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user_1: signal(SignalKind::user_defined1())?,
            hang_up: signal(SignalKind::hangup())?,
        };
        mask(libc::SIG_UNBLOCK)?;
        Ok(signals)
    }

    /// Follows signals for ever.
    pub(super) async fn run(mut self, hang_ups: mpsc::Sender<()>) {
        let mut terminations = 0u32;
        loop {
            tokio::select! {
                _ = self.terminate.recv() => self.terminate("SIGTERM", &mut terminations),
                _ = self.interrupt.recv() => self.terminate("SIGINT", &mut terminations),
                _ = self.user_1.recv() => {
                    log::info!("SIGUSR1: opening log files again");
                    self.state.reopen_logs();
                }
                _ = self.hang_up.recv() => {
                    // One that waits to be heard is enough.
                    if let Err(mpsc::error::TrySendError::Closed(())) = hang_ups.try_send(()) {
                        log::warn!("SIGHUP: ignored, as engine.upgrade.socket is not set");
                    }
                }
            }
        }
    }

    fn terminate(&self, name: &str, terminations: &mut u32) {
        *terminations += 1;
        let at_once = *terminations > 1;
        log::warn!("{name}: {}", if at_once { "exiting at once" } else { "draining" });
        let taken = self.state.command(Command::Terminate { at_once });
        if at_once || taken.is_err() {
            // Should the server loop be stuck, the next signal ends the process by itself.
            restore_default(libc::SIGTERM);
            restore_default(libc::SIGINT);
        }
    }
}

fn mask(how: libc::c_int) -> io::Result<()> {
    let mut set = MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset initialises the set it is given, and only then is it read; the third
    // argument of pthread_sigmask may be null.
    let error = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1, libc::SIGHUP] {
            libc::sigaddset(set.as_mut_ptr(), signal);
        }
        libc::pthread_sigmask(how, set.as_ptr(), ptr::null_mut())
    };
    if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
}

fn restore_default(signal: libc::c_int) {
    // SAFETY: SIG_DFL is a valid disposition and no handler of ours depends on being called again.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::access_log::LogWriter;
    use crate::cli::Invocation;
    use crate::control::{Control, ControlOptions};
    use crate::stats::Registry;

    /// Handlers belong to the process, so everything about signals is this one test.
    #[test]
    fn signals_become_commands() {
        const LIMIT: Duration = Duration::from_secs(10);
        block().unwrap();
        let directory = std::env::temp_dir().join(format!("outrigger-sig-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("log");
        let log = Arc::<crate::stats::AccessLogStats>::default();
        let writer = LogWriter::start("test", 1, Arc::clone(&log), Arc::default()).unwrap();
        let target = outrigger_xds::snapshot::access_log::Sink::File(path.as_path().into());
        let _open = writer.queue().open(&target).unwrap();

        let process = Invocation::parse_from(["outrigger"]).unwrap().process().clone();
        let logs = vec![writer.queue()];
        let (state, commands) = ControlState::new(Arc::new(Registry::new(1)), process, logs);
        let options = ControlOptions { admin: None, signals: true, ..ControlOptions::idle(&state) };
        let control = Control::start(state, options).unwrap();
        let raise = |signal| {
            // SAFETY: sends a signal to this process, which the control thread handles.
            assert_eq!(unsafe { libc::kill(libc::getpid(), signal) }, 0);
        };

        raise(libc::SIGHUP);
        raise(libc::SIGUSR1);
        let deadline = std::time::Instant::now() + LIMIT;
        while log.reopened.value() == 0 {
            assert!(std::time::Instant::now() < deadline, "log files were not opened again");
            std::thread::yield_now();
        }
        raise(libc::SIGTERM);
        let first = commands.recv_timeout(LIMIT);
        assert_eq!(first, Ok(Command::Terminate { at_once: false }));
        raise(libc::SIGINT);
        let second = commands.recv_timeout(LIMIT);
        assert_eq!(second, Ok(Command::Terminate { at_once: true }));

        assert!(control.stop(LIMIT));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
