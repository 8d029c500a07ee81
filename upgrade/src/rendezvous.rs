//! Where processes find each other: a Unix socket under a path that the one which serves listens on.
//!
//! The path may be on a volume that two containers share. Starting processes that look at it at the same
//! time take turns by a lock next to it, which the kernel releases with its holder. Who has listened holds
//! another, shared one to its end: a process whose successor fails comes back to the path, and whoever looks
//! between the two waits for it. Invariant: the path of a living process is replaced only by one that has
//! taken over from it; a dead one's is replaced by whoever comes next; and a process removes the path only
//! while it is its own.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use socket2::{Domain, SockAddr, Socket, Type};

use crate::channel::Channel;
use crate::peer::{Peer, peer};

/// What was found at a path.
#[derive(Debug)]
pub enum Found {
    /// A process that serves, which is now waited upon.
    Living(Channel, Peer),
    /// Nobody; the path is now ours.
    Nobody(Rendezvous),
}

/// A path that this process listens on. Dropping it removes the path, if it is still its own.
#[derive(Debug)]
pub struct Rendezvous {
    socket: Socket,
    path: PathBuf,
    /// Device and inode of the path as it was made.
    identity: (u64, u64),
    /// Locked, with all others that live.
    _life: File,
}

/// Why there is no way to other processes.
#[derive(Debug, thiserror::Error)]
pub enum RendezvousError {
    /// The path's directory lets others put their own socket there.
    #[error(
        "{0} belongs to, or may be written by, another user: let it be this user's own (chmod 700)"
    )]
    Directory(PathBuf),
    /// Something else is at the path.
    #[error("{0} is there and is no socket: remove it, or choose another path")]
    Occupied(PathBuf),
    /// Another process looks at it, for too long.
    #[error("{0} is locked by another process that starts")]
    Locked(PathBuf),
    /// The system.
    #[error("{path}: {source}")]
    Io {
        /// What was used.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Rendezvous {
    /// Connects to the process that listens on `path`, or listens on it.
    ///
    /// # Errors
    /// See [`RendezvousError`].
    pub fn find(path: &Path) -> Result<Found, RendezvousError> {
        check_directory(path)?;
        let deadline = Instant::now() + RETURN_PATIENCE;
        loop {
            let lock = lock(path)?;
            if let Some((channel, peer)) = look(path)? {
                return Ok(Found::Living(channel, peer));
            }
            if Instant::now() >= deadline || !somebody_lives(path)? {
                return listen(path).map(Found::Nobody);
            }
            drop(lock);
            thread::sleep(LOCK_PAUSE);
        }
    }

    /// Listens on the path of a process that this one has taken over from.
    ///
    /// # Errors
    /// See [`RendezvousError`].
    pub fn succeed(path: &Path) -> Result<Self, RendezvousError> {
        check_directory(path)?;
        let _lock = lock(path)?;
        listen(path)
    }

    /// Connects to the process that listens on `path`; nothing when there is none. For tools, which change
    /// nothing there.
    ///
    /// # Errors
    /// See [`RendezvousError`].
    pub fn call(path: &Path) -> Result<Option<(Channel, Peer)>, RendezvousError> {
        check_directory(path)?;
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io_error(path, error)),
            Ok(_) => connect(path),
        }
    }

    /// Whether the path is still this one's.
    #[must_use]
    pub fn is_in_place(&self) -> bool {
        identity(&self.path).is_ok_and(|identity| identity == self.identity)
    }

    /// Whether a living process listens on `path`. None is waited for.
    #[must_use]
    pub fn is_taken(path: &Path) -> bool {
        let knock = || {
            let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
            socket.set_nonblocking(true)?;
            socket.connect(&SockAddr::unix(path)?)
        };
        // One whose backlog is full lives.
        knock().map_or_else(|error: io::Error| error.kind() == io::ErrorKind::WouldBlock, |()| true)
    }

    /// The next process that has connected, if there is one.
    ///
    /// # Errors
    /// What the system says.
    pub fn accept(&self) -> io::Result<Option<(Channel, Peer)>> {
        loop {
            match self.socket.accept() {
                Ok((socket, _)) => {
                    let peer = peer(&socket)?;
                    return Ok(Some((Channel::new(OwnedFd::from(socket))?, peer)));
                }
                Err(error) => match error.kind() {
                    io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted => {}
                    io::ErrorKind::WouldBlock => return Ok(None),
                    _ => return Err(error),
                },
            }
        }
    }
}

impl AsFd for Rendezvous {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Rendezvous {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        // Without the lock a successor could put its own there between the look and the removal.
        let Ok(_lock) = lock(&self.path) else { return };
        if self.is_in_place() {
            // It is gone either way for whoever looks.
            let _removed = fs::remove_file(&self.path);
        }
    }
}

/// Connects to whoever listens there, if somebody does.
fn look(path: &Path) -> Result<Option<(Channel, Peer)>, RendezvousError> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error(path, error)),
        Ok(known) if (known.mode() & libc::S_IFMT) != libc::S_IFSOCK => {
            Err(RendezvousError::Occupied(path.to_owned()))
        }
        Ok(_) => connect(path),
    }
}

/// Whether a process lives that has listened there.
fn somebody_lives(path: &Path) -> Result<bool, RendezvousError> {
    match open_beside(path, LIFE)?.try_lock() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(io_error(path, error)),
    }
}

fn connect(path: &Path) -> Result<Option<(Channel, Peer)>, RendezvousError> {
    let whole = || {
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        // A living process whose backlog is full is not asked for longer than this.
        socket.set_write_timeout(Some(CONNECT_PATIENCE))?;
        match socket.connect(&SockAddr::unix(path)?) {
            Ok(()) => {
                let peer = peer(&socket)?;
                Ok(Some((Channel::new(OwnedFd::from(socket))?, peer)))
            }
            // Nobody has had the socket open since its process died.
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Ok(None),
            Err(error) => Err(error),
        }
    };
    whole().map_err(|error| io_error(path, error))
}

/// Listens, under another name first, so that there is always a socket under the path.
fn listen(path: &Path) -> Result<Rendezvous, RendezvousError> {
    let draft = beside(path, "new");
    // Others hold it for a moment, if at all, and not while this one has the other lock.
    let life = open_beside(path, LIFE)?;
    life.lock_shared().map_err(|error| io_error(path, error))?;
    let whole = || {
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let socket = Socket::new(Domain::UNIX, Type::SEQPACKET, None)?;
        socket.set_nonblocking(true)?;
        socket.bind(&SockAddr::unix(&draft)?)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(OWNER_ONLY))?;
        socket.listen(BACKLOG)?;
        let identity = identity(&draft)?;
        fs::rename(&draft, path)?;
        Ok(Rendezvous { socket, path: path.to_owned(), identity, _life: life })
    };
    whole().map_err(|error| io_error(path, error))
}

/// Nobody but this user (or root) may put a socket where ours is looked for.
fn check_directory(path: &Path) -> Result<(), RendezvousError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let known = fs::metadata(directory).map_err(|error| io_error(directory, error))?;
    // SAFETY: geteuid has no preconditions.
    let own = unsafe { libc::geteuid() };
    let is_owned = known.uid() == own || known.uid() == 0;
    let others = libc::S_IWGRP | libc::S_IWOTH;
    let is_private = known.mode() & others == 0 || known.mode() & libc::S_ISVTX != 0;
    if is_owned && is_private {
        return Ok(());
    }
    Err(RendezvousError::Directory(directory.to_owned()))
}

/// Holds the lock for as long as the file is open.
fn lock(path: &Path) -> Result<File, RendezvousError> {
    let file = open_beside(path, "lock")?;
    let deadline = Instant::now() + LOCK_PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::Error(error)) => return Err(io_error(path, error)),
            Err(TryLockError::WouldBlock) if Instant::now() >= deadline => {
                return Err(RendezvousError::Locked(beside(path, "lock")));
            }
            Err(TryLockError::WouldBlock) => thread::sleep(LOCK_PAUSE),
        }
    }
}

/// A file to be locked.
fn open_beside(path: &Path, ending: &str) -> Result<File, RendezvousError> {
    let path = beside(path, ending);
    let open = OpenOptions::new().create(true).write(true).mode(OWNER_ONLY).open(&path);
    open.map_err(|error| io_error(&path, error))
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    let known = fs::symlink_metadata(path)?;
    Ok((known.dev(), known.ino()))
}

fn io_error(path: &Path, source: io::Error) -> RendezvousError {
    RendezvousError::Io { path: path.to_owned(), source }
}

/// Only this user talks to its processes.
const OWNER_ONLY: u32 = 0o600;

/// Processes that have connected and are not looked at yet: one hand-over, and some that ask for the status.
const BACKLOG: i32 = 16;

/// A living process takes a connection at once.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// The lock is held for the time of a few system calls.
const LOCK_PATIENCE: Duration = Duration::from_secs(10);

/// How long a process is waited for that lives and does not listen. One that serves again does so at once;
/// one that only drains never does.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);

/// What living processes have locked.
const LIFE: &str = "life";

/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channel::Incoming;
    use crate::message::Message;

    /// A directory of its own for each test.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let path =
                std::env::temp_dir().join(format!("rendezvous-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
            Scratch(path)
        }

        fn path(&self) -> PathBuf {
            self.0.join("control")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn nobody(path: &Path) -> Rendezvous {
        match Rendezvous::find(path).unwrap() {
            Found::Nobody(rendezvous) => rendezvous,
            Found::Living(..) => panic!("somebody listens"),
        }
    }

    fn living(path: &Path) -> Channel {
        match Rendezvous::find(path).unwrap() {
            Found::Living(channel, peer) => {
                assert_eq!(peer.pid, std::process::id() as i32);
                channel
            }
            Found::Nobody(_) => panic!("nobody listens"),
        }
    }

    #[test]
    fn the_first_listens_and_the_second_finds_it() {
        let scratch = Scratch::new("first");
        let path = scratch.path();
        let first = nobody(&path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, OWNER_ONLY);
        assert!(first.accept().unwrap().is_none());
        let mut second = living(&path);
        second.send(Message::ListenersTaken(1), Vec::new()).unwrap();
        assert!(second.flush().unwrap());
        let (mut channel, peer) = first.accept().unwrap().unwrap();
        assert_eq!(peer.pid, std::process::id() as i32);
        let Incoming::Message(message, _) = channel.receive().unwrap() else { panic!() };
        assert_eq!(message, Message::ListenersTaken(1));
    }

    #[test]
    fn a_dead_ones_socket_is_replaced_and_removed_at_the_end() {
        let scratch = Scratch::new("dead");
        let path = scratch.path();
        let mut first = nobody(&path);
        // As a crash leaves it.
        first.identity = (0, 0);
        drop(first);
        assert!(path.exists());
        let second = nobody(&path);
        drop(living(&path));
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_successor_takes_the_path_and_keeps_it_when_the_predecessor_goes() {
        let scratch = Scratch::new("successor");
        let path = scratch.path();
        let first = nobody(&path);
        assert!(first.is_in_place());
        let second = Rendezvous::succeed(&path).unwrap();
        assert!(second.is_in_place() && !first.is_in_place());
        drop(first);
        drop(living(&path));
        assert!(second.accept().unwrap().is_some());
    }

    #[test]
    fn a_path_is_taken_while_somebody_lives_who_listens_there() {
        let scratch = Scratch::new("taken");
        let path = scratch.path();
        assert!(!Rendezvous::is_taken(&path));
        let mut first = nobody(&path);
        // However many have not been looked at.
        for _ in 0..2 * BACKLOG {
            assert!(Rendezvous::is_taken(&path));
        }
        // As a crash leaves it.
        first.identity = (0, 0);
        drop(first);
        assert!(path.exists() && !Rendezvous::is_taken(&path));
    }

    #[test]
    fn one_that_comes_back_when_its_successor_is_gone_is_found() {
        let scratch = Scratch::new("back");
        let path = scratch.path();
        let first = nobody(&path);
        let second = Rendezvous::succeed(&path).unwrap();
        drop(second);
        assert!(!path.exists());
        let looking = thread::spawn({
            let path = path.clone();
            move || drop(living(&path))
        });
        let again = Rendezvous::succeed(&path).unwrap();
        drop(first);
        looking.join().unwrap();
        assert!(again.accept().unwrap().is_some());
    }

    #[test]
    fn one_that_does_not_come_back_is_not_waited_for_long() {
        let scratch = Scratch::new("away");
        let path = scratch.path();
        let first = nobody(&path);
        drop(Rendezvous::succeed(&path).unwrap());
        let begun = Instant::now();
        let next = nobody(&path);
        assert!(begun.elapsed() >= RETURN_PATIENCE);
        // Nor one that is dead.
        drop((first, next));
        let begun = Instant::now();
        drop(nobody(&path));
        assert!(begun.elapsed() < RETURN_PATIENCE);
    }

    #[test]
    fn a_tool_finds_who_serves_and_changes_nothing() {
        let scratch = Scratch::new("tool");
        let path = scratch.path();
        assert!(Rendezvous::call(&path).unwrap().is_none());
        assert!(!path.exists());
        let first = nobody(&path);
        assert!(Rendezvous::call(&path).unwrap().is_some());
        assert!(first.accept().unwrap().is_some());
    }

    #[test]
    fn of_many_that_start_at_once_one_listens() {
        let scratch = Scratch::new("many");
        let path = scratch.path();
        let found: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Rendezvous::find(&path).unwrap())).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
        let nobodies = found.iter().filter(|found| matches!(found, Found::Nobody(_)));
        assert_eq!(nobodies.count(), 1);
    }

    #[test]
    fn nothing_but_a_socket_is_replaced() {
        let scratch = Scratch::new("file");
        let path = scratch.path();
        fs::write(&path, "precious").unwrap();
        let error = Rendezvous::find(&path).unwrap_err();
        assert!(matches!(error, RendezvousError::Occupied(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_directory_that_others_may_write_is_refused() {
        let scratch = Scratch::new("open");
        fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o770)).unwrap();
        let error = Rendezvous::find(&scratch.path()).unwrap_err();
        assert!(matches!(error, RendezvousError::Directory(_)), "{error}");
    }
}
