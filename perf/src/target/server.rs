//! A server started for a measurement, and the certainty that it ends.
//!
//! Each server leads its own process group and has a directory for its files. Dropping the
//! [`Server`] ends the group (SIGTERM, then SIGKILL after [`STOP_TIME`]) and removes the directory;
//! should the harness itself be killed, the kernel sends the server SIGTERM. Ctrl-C reaches the
//! harness only, which then drops its servers.
//!
//! The kernel's promise is tied to the *thread* that starts a server, so start them from one that
//! lives as long as the measurement.

use std::{
    fs::{self, File},
    io,
    net::SocketAddr,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use super::config::Launch;
use crate::{
    client, sys,
    variant::{Negotiated, Sides},
};

/// Time for a server to answer its first request.
pub const START_TIME: Duration = Duration::from_secs(20);
/// Time for a server to end on SIGTERM.
pub const STOP_TIME: Duration = Duration::from_millis(1500);
/// Pause between looks at a server that starts or stops.
pub const PAUSE: Duration = Duration::from_millis(5);
/// Most of a server's own words in an error.
const WORDS_MAX: usize = 2000;

/// Why a server can't be measured.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The program didn't start.
    #[error("{name}: can't start: {source}")]
    Start {
        /// The server.
        name: String,
        /// Why.
        source: io::Error,
    },
    /// It ended by itself.
    #[error("{name}: ended ({status}) before it answered: {words}")]
    Ended {
        /// The server.
        name: String,
        /// How.
        status: String,
        /// The end of its output.
        words: String,
    },
    /// It didn't answer a first request as it should, in time.
    #[error("{name}: no good answer within {} s ({refusal}): {words}", waited.as_secs())]
    Silent {
        /// The server.
        name: String,
        /// How long it was waited for.
        waited: Duration,
        /// What was wrong with the last attempt.
        refusal: String,
        /// The end of its output.
        words: String,
    },
}

/// A running server.
#[derive(Debug)]
pub struct Server {
    name: String,
    child: Child,
    directory: Scratch,
    negotiated: Option<Negotiated>,
}

impl Server {
    /// Starts a server on a CPU (on any when `None`) and waits for its first good answer at
    /// `address`, which must be in the versions that `sides` names. Standard output and error go to
    /// files in `directory`.
    ///
    /// # Errors
    ///
    /// [`ServerError`]; then nothing of it is left running.
    pub fn start(
        name: &str,
        program: &Path,
        launch: &Launch,
        directory: Scratch,
        cpu: Option<usize>,
        address: SocketAddr,
        sides: Sides,
    ) -> Result<Self, ServerError> {
        let mut server = Self::spawn(name, program, launch, directory, cpu)?;
        server.negotiated = Some(server.wait_until_ready(address, sides)?);
        Ok(server)
    }

    /// Starts a server and waits for nothing; otherwise as [`Server::start`].
    ///
    /// # Errors
    ///
    /// [`ServerError::Start`].
    pub fn spawn(
        name: &str,
        program: &Path,
        launch: &Launch,
        directory: Scratch,
        cpu: Option<usize>,
    ) -> Result<Self, ServerError> {
        let failed = |source| ServerError::Start { name: name.to_owned(), source };
        let child = spawn(program, launch, &directory, cpu).map_err(failed)?;
        Ok(Self { name: name.to_owned(), child, directory, negotiated: None })
    }

    /// That it still runs.
    ///
    /// # Errors
    ///
    /// [`ServerError::Ended`].
    pub fn check(&mut self) -> Result<(), ServerError> {
        match self.child.try_wait() {
            Ok(Some(status)) => Err(ServerError::Ended {
                name: self.name.clone(),
                status: status.to_string(),
                words: self.words(),
            }),
            _ => Ok(()),
        }
    }

    /// The error of having waited in vain.
    #[must_use]
    pub fn silent(&self, waited: Duration, refusal: String) -> ServerError {
        ServerError::Silent { name: self.name.clone(), waited, refusal, words: self.words() }
    }

    /// The process that was started.
    #[must_use]
    pub fn leader(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed, to `stdout` or to `stderr`.
    #[must_use]
    pub fn said(&self, file: &str) -> String {
        let bytes = fs::read(self.directory.path().join(file)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What the first answer came by.
    #[must_use]
    pub fn negotiated(&self) -> Option<&Negotiated> {
        self.negotiated.as_ref()
    }

    /// The server's processes, the first one first.
    ///
    /// # Errors
    ///
    /// When `/proc` can't be listed.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        sys::process_tree(self.child.id())
    }

    fn wait_until_ready(
        &mut self,
        address: SocketAddr,
        sides: Sides,
    ) -> Result<Negotiated, ServerError> {
        let start = Instant::now();
        let mut refusal = String::new();
        while start.elapsed() < START_TIME {
            self.check()?;
            match client::probe(address, sides) {
                Ok(negotiated) => return Ok(negotiated),
                Err(error) => refusal = error.to_string(),
            }
            thread::sleep(PAUSE);
        }
        Err(self.silent(START_TIME, refusal))
    }

    /// The end of what the server printed.
    fn words(&self) -> String {
        let mut words = String::new();
        for file in ["stderr", "stdout", "error.log"] {
            let bytes = fs::read(self.directory.path().join(file)).unwrap_or_default();
            words +=
                String::from_utf8_lossy(&bytes[bytes.len().saturating_sub(WORDS_MAX)..]).trim();
            words.push(' ');
        }
        words.trim().to_owned()
    }

    fn signal_group(&self, signal: i32) {
        if let Ok(group) = libc::pid_t::try_from(self.child.id()) {
            // SAFETY: takes two integers. The child leads a group of its own and is not yet reaped
            // when this is called, so the number is still its.
            unsafe { libc::kill(-group, signal) };
        }
    }

    /// Whether a process of the group still runs, the leader apart.
    fn group_lives(&self) -> bool {
        // SAFETY: signal 0 only asks.
        libc::pid_t::try_from(self.child.id())
            .is_ok_and(|group| unsafe { libc::kill(-group, 0) } == 0)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let start = Instant::now();
        self.signal_group(libc::SIGTERM);
        // The leader stays a zombie until it is waited for, which keeps its number ours.
        while start.elapsed() < STOP_TIME && !ended(self.child.id()) {
            thread::sleep(PAUSE);
        }
        self.signal_group(libc::SIGKILL);
        let _ = self.child.wait();
        while start.elapsed() < STOP_TIME * 2 && self.group_lives() {
            thread::sleep(PAUSE);
        }
    }
}

/// Whether a child is a zombie.
fn ended(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .unwrap_or(true)
}

fn spawn(
    program: &Path,
    launch: &Launch,
    directory: &Scratch,
    cpu: Option<usize>,
) -> io::Result<Child> {
    for (path, text) in &launch.files {
        if let Some(directory) = path.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(path, text)?;
    }
    let output = |name| {
        File::options().create(true).append(true).open(directory.path().join(name)).map(Stdio::from)
    };
    let mut command = Command::new(program);
    command
        .args(&launch.arguments)
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .stdout(output("stdout")?)
        .stderr(output("stderr")?)
        .process_group(0);
    // SAFETY: between fork and exec only system calls are made, no allocation and no lock.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) < 0 {
                return Err(io::Error::last_os_error());
            }
            cpu.map_or(Ok(()), sys::pin)
        });
    }
    command.spawn()
}

/// A directory that goes away with its owner.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one under the system's directory for temporary files.
    ///
    /// # Errors
    ///
    /// What `mkdir(2)` says.
    pub fn new() -> io::Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let random: u32 = rand::random();
        let name = format!("outrigger-perf-{}-{serial}-{random:08x}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What can't be removed is litter in the temporary directory, no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::variant::ProtocolName;

    fn start(program: &str, arguments: &[&str]) -> Result<Server, ServerError> {
        let launch =
            Launch { arguments: arguments.iter().map(Into::into).collect(), files: Vec::new() };
        let address = (std::net::Ipv4Addr::LOCALHOST, sys::free_port().unwrap()).into();
        let directory = Scratch::new().unwrap();
        let sides = ProtocolName::Http1.sides();
        Server::start("it", Path::new(program), &launch, directory, None, address, sides)
    }

    #[test]
    fn a_server_that_ends_is_quoted() {
        let error = start("/bin/sh", &["-c", "echo no good >&2; exit 3"]).unwrap_err();
        let ServerError::Ended { words, status, .. } = error else { panic!("{error}") };
        assert_eq!(words, "no good");
        assert!(status.contains('3'), "{status}");
    }

    #[test]
    fn a_program_that_is_not_there() {
        assert!(matches!(start("/nonexistent", &[]), Err(ServerError::Start { .. })));
    }

    #[test]
    fn the_whole_group_ends_with_the_guard() {
        let directory = Scratch::new().unwrap();
        let path = directory.path().to_owned();
        let launch = Launch {
            arguments: vec!["-c".into(), "sleep 1000 & sleep 1000".into()],
            files: Vec::new(),
        };
        let child = spawn(Path::new("/bin/sh"), &launch, &directory, None).unwrap();
        let server = Server { name: "sh".to_owned(), child, directory, negotiated: None };
        let start = Instant::now();
        while server.pids().unwrap().len() < 3 {
            assert!(start.elapsed() < START_TIME);
            thread::yield_now();
        }
        let pids = server.pids().unwrap();
        drop(server);
        assert!(pids.iter().all(|pid| ended(*pid)), "{pids:?}");
        assert!(!path.exists());
    }
}
