//! A network of a test's own: a network namespace, in which it may have any address, any port and any
//! netfilter rule.
//!
//! A namespace is a thread's, and that of the threads and processes which it starts. So a test's body
//! runs on a thread that is made for it, and the namespace ends with that. It takes root.

use std::process::Command;
use std::thread;

/// The network of the calling thread.
#[derive(Debug)]
pub struct Namespace(());

impl Namespace {
    /// Runs `body` in a network that has nothing but a loopback interface.
    ///
    /// # Panics
    /// If `body` does, or if the namespace can't be made.
    #[track_caller]
    pub fn run(body: impl FnOnce(&Namespace) + Send + 'static) {
        let thread = thread::spawn(|| {
            // SAFETY: a plain system call, which changes this thread alone.
            let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            let error = std::io::Error::last_os_error();
            assert!(result == 0, "no network namespace can be made, which takes root: {error}");
            let namespace = Namespace(());
            namespace.command("ip link set lo up");
            body(&namespace);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    }

    /// One more address of the loopback interface.
    ///
    /// # Panics
    /// If the system refuses it.
    #[track_caller]
    pub fn address(&self, address: &str) {
        let family = if address.contains(':') { "-6" } else { "-4" };
        // Without duplicate address detection an IPv6 address can be used at once.
        let flags = if address.contains(':') { " nodad" } else { "" };
        self.command(&format!("ip {family} address add {address} dev lo{flags}"));
    }

    /// Runs `iptables` with these arguments.
    ///
    /// # Panics
    /// If it refuses them.
    #[track_caller]
    pub fn iptables(&self, arguments: &str) {
        self.command(&format!("iptables {arguments}"));
    }

    /// Runs `ip6tables` with these arguments.
    ///
    /// # Panics
    /// If it refuses them.
    #[track_caller]
    pub fn ip6tables(&self, arguments: &str) {
        self.command(&format!("ip6tables {arguments}"));
    }

    #[track_caller]
    fn command(&self, line: &str) {
        let mut words = line.split_whitespace();
        let mut command = Command::new(words.next().unwrap());
        let path = std::env::var("PATH").unwrap_or_default();
        // Where administrators' programs are, which not every user has on the path.
        command.args(words).env("PATH", format!("{path}:/usr/sbin:/sbin"));
        let output = command.output().unwrap_or_else(|error| panic!("{line}: {error}"));
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {words}");
    }
}
