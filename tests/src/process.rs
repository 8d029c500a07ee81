//! Processes that end with their test.
//!
//! The kernel sees to that in three ways: a process dies with the thread that started it
//! (`PR_SET_PDEATHSIG`), by its own alarm after [`LIFETIME_S`] whatever happens to the test, and by
//! SIGKILL when its [`Process`] is dropped.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// The longest that a process may live: no test takes nearly as long.
pub const LIFETIME_S: u32 = 180;

/// Bounds on a process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// File descriptors (`RLIMIT_NOFILE`).
    pub files: Option<u64>,
}

/// A running process and what it said so far.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdout: Captured,
    stderr: Captured,
    status: Option<ExitStatus>,
}

impl Process {
    /// Starts a command.
    ///
    /// # Errors
    /// What `execve(2)` says.
    pub fn spawn(mut command: Command, limits: Limits) -> io::Result<Process> {
        command.stdin(Stdio::null());
        Process::start(command, limits)
    }

    /// Starts a command that reads what is written into its standard input.
    ///
    /// # Errors
    /// What `execve(2)` says.
    pub fn spawn_reader(mut command: Command, limits: Limits) -> io::Result<(Process, ChildStdin)> {
        command.stdin(Stdio::piped());
        let mut process = Process::start(command, limits)?;
        let input = process.child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((process, input))
    }

    fn start(mut command: Command, limits: Limits) -> io::Result<Process> {
        confine(&mut command, limits);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stdout = Captured::read(child.stdout.take().unwrap());
        let stderr = Captured::read(child.stderr.take().unwrap());
        Ok(Process { child, stdout, stderr, status: None })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Standard output until now.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Standard output from that byte on, which must be the first of a character.
    #[must_use]
    pub fn stdout_from(&self, start: usize) -> String {
        self.stdout.text_from(start)
    }

    /// Standard error until now.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Sends a signal. Nothing happens if it has ended.
    pub fn signal(&mut self, signal: i32) {
        if self.status.is_some() {
            return;
        }
        let pid = libc::pid_t::try_from(self.pid()).unwrap();
        // SAFETY: takes two integers. The child has not been reaped, so the number is still its.
        unsafe { libc::kill(pid, signal) };
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().unwrap();
        }
        self.status
    }

    /// Waits for its end, for so long at most. All it said is then to be had.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let start = Instant::now();
        while self.ended().is_none() {
            let left = timeout.checked_sub(start.elapsed())?;
            wait_for_exit(self.pid(), left);
        }
        self.stdout.finish();
        self.stderr.finish();
        self.status
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn rss(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Open file descriptors.
    #[must_use]
    pub fn files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command to its end.
///
/// # Panics
/// If it cannot be started.
#[must_use]
#[track_caller]
pub fn run(mut command: Command) -> Output {
    confine(&mut command, Limits::default());
    match command.stdin(Stdio::null()).output() {
        Ok(output) => output,
        Err(error) => panic!("{command:?}: {error}"),
    }
}

fn confine(command: &mut Command, limits: Limits) {
    // SAFETY: between fork and exec only system calls are made, no allocation and no lock.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) < 0 {
                return Err(io::Error::last_os_error());
            }
            libc::alarm(LIFETIME_S);
            if let Some(files) = limits.files {
                let limit = libc::rlimit { rlim_cur: files, rlim_max: files };
                if libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) < 0 {
                    return Err(io::Error::last_os_error());
                }
            }
            Ok(())
        });
    }
}

/// Sleeps until a child ends, for so long at most.
fn wait_for_exit(pid: u32, timeout: Duration) {
    // SAFETY: takes integers; the result is a new descriptor or an error.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = i32::try_from(descriptor).unwrap();
    assert!(descriptor >= 0, "pidfd_open: {}", io::Error::last_os_error());
    let mut poll = libc::pollfd { fd: descriptor, events: libc::POLLIN, revents: 0 };
    let timeout_ms = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX).max(1);
    // SAFETY: one entry, which lives on the stack; the descriptor is closed once.
    unsafe {
        libc::poll(&raw mut poll, 1, timeout_ms);
        libc::close(descriptor);
    }
}

/// What a process says, read as it says it.
#[derive(Debug)]
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Captured {
    fn read(mut pipe: impl Read + Send + 'static) -> Captured {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(count @ 1..) = pipe.read(&mut piece) {
                shared.lock().unwrap().extend_from_slice(&piece[..count]);
            }
        });
        Captured { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        self.text_from(0)
    }

    fn text_from(&self, start: usize) -> String {
        let bytes = self.bytes.lock().unwrap();
        String::from_utf8_lossy(bytes.get(start..).unwrap_or_default()).into_owned()
    }

    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().unwrap();
        }
    }
}

/// A directory that goes away with its owner.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes one, with a path short enough for Unix sockets.
    ///
    /// # Panics
    /// If that cannot be.
    #[must_use]
    pub fn new() -> Scratch {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("outrigger-e2e-{}-{serial}", std::process::id());
        let path = std::env::temp_dir().join(name);
        // What a killed run of the same number left.
        let _ = fs::remove_dir_all(&path);
        fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A path in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch::new()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is litter in the temporary directory, no reason to fail.
        let _ = fs::remove_dir_all(&self.0);
    }
}
