//! Starting a successor: this process's own command line again, with its binary or another.
//!
//! The path is the one that this process was started by, since what is there now may be another file than the
//! one that runs (which the kernel then calls deleted). A thread of its own does it, whose niceness is that
//! of whoever started this process: a successor inherits it, and must serve as this process did.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How this process was started.
#[derive(Clone, Debug)]
pub struct Launch {
    program: PathBuf,
    arguments: Vec<OsString>,
    starter: Sender<Start>,
}

/// Something to start, and where its process is told.
#[derive(Debug)]
struct Start {
    command: Command,
    child: Sender<io::Result<Child>>,
}

/// A successor that was started. It lives on when this is dropped.
#[derive(Debug)]
pub(super) struct Started {
    child: Child,
    /// Which process that is, for as long as this is open.
    descriptor: Arc<OwnedFd>,
}

/// The way to end one.
#[derive(Clone, Debug)]
pub(super) struct Handle(Arc<OwnedFd>);

impl Launch {
    /// As it was, for a process that has not changed its working directory, from a thread that gives way to
    /// none ([`background`](crate::background)).
    ///
    /// # Errors
    ///
    /// There is no thread.
    pub fn of_process() -> io::Result<Self> {
        let mut arguments = env::args_os();
        let name = arguments.next().unwrap_or_default();
        let search = env::var_os("PATH").unwrap_or_default();
        Self::of(program(&name, &search), arguments.collect())
    }

    fn of(program: PathBuf, arguments: Vec<OsString>) -> io::Result<Self> {
        // One at a time asks, and waits.
        let (starter, starts) = bounded(1);
        thread::Builder::new().name("starter".to_owned()).spawn(move || start_all(&starts))?;
        Ok(Self { program, arguments, starter })
    }

    /// Starts another one. It is in no terminal's foreground, so that the end of this one is none of its
    /// business.
    pub(super) fn start(&self, binary: Option<&Path>) -> io::Result<Started> {
        let program = binary.unwrap_or(&self.program);
        let mut command = Command::new(program);
        command.args(&self.arguments).process_group(0);
        let (child, started) = bounded(1);
        // Nobody takes it only if its thread is gone, and then nobody answers.
        let _gone = self.starter.send(Start { command, child });
        let child = started.recv().unwrap_or_else(|_| Err(io::Error::other("its thread is gone")));
        let child = child.map_err(|error| {
            io::Error::new(error.kind(), format!("{}: {error}", program.display()))
        })?;
        // SAFETY: it takes two numbers; the result is checked, and owned by nobody else.
        let descriptor = unsafe {
            let descriptor = libc::syscall(libc::SYS_pidfd_open, child.id(), 0);
            if descriptor < 0 {
                return Err(io::Error::last_os_error());
            }
            OwnedFd::from_raw_fd(descriptor as i32)
        };
        Ok(Started { child, descriptor: Arc::new(descriptor) })
    }
}

/// Until nobody is left who could ask.
fn start_all(starts: &Receiver<Start>) {
    for Start { mut command, child } in starts {
        // Whoever asks waits.
        let _heard = child.send(command.spawn());
    }
}

impl Started {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.descriptor))
    }

    /// Waits until it ends; so it is no zombie.
    pub(super) async fn ended(mut self) -> io::Result<ExitStatus> {
        // SAFETY: the descriptor is open for as long as the `Arc` in the registration.
        let watched =
            unsafe { AsyncFd::register_with_interest(self.descriptor, Interest::READABLE) };
        let watched = watched.map_err(|error| io::Error::other(error.to_string()))?;
        let _ended = watched.readable().await?;
        self.child.wait()
    }
}

impl Handle {
    /// Ends it at once, if it has not ended.
    pub(super) fn kill(&self) {
        // SAFETY: takes numbers and a null pointer; a process that has ended is no concern.
        unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            );
        }
    }
}

/// Where a shell found `name`.
fn program(name: &OsStr, search: &OsStr) -> PathBuf {
    let path = Path::new(name);
    if path.components().count() > 1 || name.as_encoded_bytes().contains(&b'/') {
        return std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    }
    let found = env::split_paths(search).map(|directory| directory.join(path));
    let found = found.filter_map(|path| std::path::absolute(path).ok()).find(|path| path.is_file());
    // Some start programs under names of their own.
    found.or_else(|| env::current_exe().ok()).unwrap_or_else(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::background::{self, Share};

    #[test]
    fn a_program_is_found_as_it_was_started() {
        assert_eq!(program("/bin/sh".as_ref(), "".as_ref()), Path::new("/bin/sh"));
        let here = env::current_dir().unwrap();
        assert_eq!(program("./x/y".as_ref(), "".as_ref()), here.join("x/y"));
        assert_eq!(program("sh".as_ref(), "/nowhere:/bin".as_ref()), Path::new("/bin/sh"));
        let own = env::current_exe().unwrap();
        assert_eq!(program("no such name".as_ref(), "/bin".as_ref()), own);
    }

    fn launch(program: &str, arguments: &[&str]) -> Launch {
        Launch::of(program.into(), arguments.iter().map(Into::into).collect()).unwrap()
    }

    #[tokio::test]
    async fn one_that_ends_is_noticed_and_reaped() {
        let started = launch("/bin/sh", &["-c", "exit 3"]).start(None).unwrap();
        let pid = started.pid();
        assert_eq!(started.ended().await.unwrap().code(), Some(3));
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
        let sleeping = launch("/bin/sleep", &["60"]);
        let started = sleeping.start(None).unwrap();
        started.handle().kill();
        assert_eq!(started.ended().await.unwrap().code(), None);
        assert!(sleeping.start(Some(Path::new("/no/such/binary"))).is_err());
    }

    #[tokio::test]
    async fn it_is_as_nice_as_this_process() {
        let launch = launch("/bin/sh", &["-c", "exit $(nice)"]);
        let niceness = launch.start(None).unwrap().ended().await.unwrap();
        // From a thread that gave way, as the control thread does.
        let asks = move || {
            background::give_way(Share::Tenth);
            launch.start(None).unwrap()
        };
        let started = thread::spawn(asks).join().unwrap();
        assert_eq!(started.ended().await.unwrap(), niceness);
    }
}
