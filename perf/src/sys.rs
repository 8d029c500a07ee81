//! What the harness asks of Linux: cores, clocks, memory of processes, limits, the machine's name.
//!
//! CPU time is read from the process's own CPU clock (`clock_getcpuclockid(3)`): user plus system
//! time of every thread, living or gone, in nanoseconds. `/proc/PID/stat` counts in ticks of 10 ms,
//! too coarse for a window of a second.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsRawFd,
    time::Duration,
};

use socket2::{Domain, Socket, Type};

/// CPU numbers this process may run on, ascending (`sched_getaffinity(2)`).
///
/// # Errors
///
/// What the kernel says.
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    let size = std::mem::size_of::<libc::cpu_set_t>();
    // SAFETY: `set` is writable for `size` bytes.
    if unsafe { libc::sched_getaffinity(0, size, &raw mut set) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let most = usize::try_from(libc::CPU_SETSIZE).unwrap_or(0);
    // SAFETY: `cpu` is below CPU_SETSIZE.
    Ok((0..most).filter(|&cpu| unsafe { libc::CPU_ISSET(cpu, &set) }).collect())
}

/// Pins the calling thread, and what it later spawns, to one CPU.
///
/// Does nothing but one system call, so it may run between fork and exec.
///
/// # Errors
///
/// What `sched_setaffinity(2)` says, for example for a CPU outside the allowed set.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= usize::try_from(libc::CPU_SETSIZE).unwrap_or(0) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: an all-zero cpu_set_t is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: `cpu` is below CPU_SETSIZE.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: `set` is readable for its size.
    let done = unsafe { libc::sched_setaffinity(0, std::mem::size_of_val(&set), &raw const set) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Lets timers of this thread fire when asked for, not up to 50 us later.
pub fn precise_timers() {
    // SAFETY: PR_SET_TIMERSLACK takes one integer and touches no memory of ours.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_u64) };
}

/// Lets the calling thread run only while nothing else wants its CPU (`SCHED_IDLE`).
///
/// # Errors
///
/// What `sched_setscheduler(2)` says; going down needs no privilege.
pub fn run_in_background() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: `parameters` is readable; 0 is the calling thread.
    let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Raises the limit of open files of this process and its children to at least `wanted`, or as far as
/// allowed, and returns what holds afterwards.
///
/// # Errors
///
/// What `getrlimit(2)` says. Not reaching `wanted` is no error: the caller compares.
pub fn raise_open_files(wanted: u64) -> io::Result<u64> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is writable.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // Beyond the hard limit only with the privilege to raise that.
    for most in [limit.rlim_max.max(wanted), limit.rlim_max] {
        let raised = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: `raised` is readable.
        if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) } == 0 {
            return Ok(most);
        }
    }
    Ok(limit.rlim_cur)
}

/// Ends this process by SIGALRM after `lifetime`, whatever it is doing: the bound for a child whose
/// parent forgot it.
pub fn end_after(lifetime: Duration) {
    let seconds = u32::try_from(lifetime.as_secs().max(1)).unwrap_or(u32::MAX);
    // SAFETY: alarm takes one integer.
    unsafe { libc::alarm(seconds) };
}

/// The CPU clock of one process.
#[derive(Debug, Clone, Copy)]
pub struct CpuClock(libc::clockid_t);

impl CpuClock {
    /// Opens the clock of `pid`.
    ///
    /// # Errors
    ///
    /// `NotFound` when there is no such process.
    pub fn of(pid: u32) -> io::Result<Self> {
        let pid = libc::pid_t::try_from(pid).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut clock = 0;
        // SAFETY: `clock` is writable.
        match unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) } {
            0 => Ok(Self(clock)),
            error => Err(io::Error::from_raw_os_error(error)),
        }
    }

    /// User plus system time so far, of all threads.
    ///
    /// # Errors
    ///
    /// `InvalidInput` once the process is gone.
    pub fn now(self) -> io::Result<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: `time` is writable.
        if unsafe { libc::clock_gettime(self.0, &raw mut time) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Ok(Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0)))
    }
}

/// `pid` and everything it has forked, parents first.
///
/// # Errors
///
/// When `/proc` can't be listed.
pub fn process_tree(pid: u32) -> io::Result<Vec<u32>> {
    let mut parents = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // A process may end between the listing and this read; then it is not part of the tree.
        let Ok(stat) = fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        if let Some(parent) = parent_of(&stat) {
            parents.push((child, parent));
        }
    }
    let mut tree = vec![pid];
    let mut next = 0;
    while next < tree.len() {
        let parent = tree[next];
        tree.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        next += 1;
    }
    Ok(tree)
}

/// The parent in a `/proc/PID/stat` line. The name in parentheses may hold anything, so count from
/// the last closing one.
fn parent_of(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// Memory of one or more processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Memory {
    /// Resident bytes, shared pages counted in every process.
    pub rss_bytes: u64,
    /// Proportional set size: shared pages divided among those who map them.
    pub pss_bytes: u64,
}

impl Memory {
    /// Reads and sums the memory of `pids`.
    ///
    /// # Errors
    ///
    /// When one of them is gone or is not ours to look at.
    pub fn of(pids: &[u32]) -> io::Result<Self> {
        let mut sum = Self::default();
        for pid in pids {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            sum.rss_bytes += kilobytes(&rollup, "Rss:");
            sum.pss_bytes += kilobytes(&rollup, "Pss:");
        }
        Ok(sum)
    }
}

fn kilobytes(text: &str, key: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(key))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<u64>().ok())
        .unwrap_or(0)
        * 1024
}

/// First port tried by [`free_port`]: below the range that the kernel gives to outgoing connections,
/// so that nothing takes the port between the test and its use.
const PORT_FIRST: u16 = 20_000;
/// Ports in the range.
const PORT_COUNT: u16 = 12_000;

/// A loopback TCP port on which nobody listens.
///
/// # Errors
///
/// `AddrInUse` when the whole range is taken.
pub fn free_port() -> io::Result<u16> {
    let start = rand::random_range(0..PORT_COUNT);
    (0..PORT_COUNT)
        .map(|step| PORT_FIRST + (start + step) % PORT_COUNT)
        .find(|&port| TcpListener::bind(("127.0.0.1", port)).is_ok())
        .ok_or_else(|| io::ErrorKind::AddrInUse.into())
}

/// A listening socket with a deep backlog and no Nagle delay, which accepted sockets inherit.
///
/// # Errors
///
/// What `bind(2)` and its companions say.
pub fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_on(address, None)
}

/// The same at all addresses of the loopback device and at no others: 127.0.0.0/8.
///
/// # Errors
///
/// As [`listen`]; kernels before 5.7 also ask for a privilege.
pub fn listen_on_loopback(port: u16) -> io::Result<TcpListener> {
    listen_on((Ipv4Addr::UNSPECIFIED, port).into(), Some(b"lo"))
}

fn listen_on(address: SocketAddr, device: Option<&[u8]>) -> io::Result<TcpListener> {
    const BACKLOG: i32 = 4096;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind_device(device)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// A socket for a connection to `target`, from `source` if given.
///
/// Closing it resets the connection. A run leaves thousands of connections behind, and in TIME_WAIT
/// their ports would be lacking to the next run for a minute.
///
/// # Errors
///
/// What the kernel says, in practice only descriptor exhaustion.
pub fn client_socket(target: SocketAddr, source: Option<IpAddr>) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    socket.set_linger(Some(Duration::ZERO))?;
    if let Some(source) = source {
        // Leaves the choice of the port to connect, which can take one that is in use to another
        // destination.
        let on: libc::c_int = 1;
        // SAFETY: the option value is a live integer of the given size.
        let done = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const on).cast(),
                std::mem::size_of_val(&on) as libc::socklen_t,
            )
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

/// Model name of the first CPU, or "unknown".
#[must_use]
pub fn cpu_model() -> String {
    fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|info| {
            let line = info.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        })
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Kernel release, or "unknown".
#[must_use]
pub fn kernel() -> String {
    setting("kernel/osrelease")
}

/// Default TCP congestion control, or "unknown".
#[must_use]
pub fn congestion_control() -> String {
    setting("net/ipv4/tcp_congestion_control")
}

fn setting(name: &str) -> String {
    fs::read_to_string(format!("/proc/sys/{name}"))
        .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned())
}

/// This moment as `YYYY-MM-DDTHH:MM:SSZ`.
#[must_use]
pub fn utc_now() -> String {
    let seconds = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or(0));
    // SAFETY: an all-zero tm is a valid value.
    let mut tm: libc::tm = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live values of the right type.
    unsafe { libc::gmtime_r(&raw const seconds, &raw mut tm) };
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        tm.tm_year + 1900,
        tm.tm_mon + 1,
        tm.tm_mday,
        tm.tm_hour,
        tm.tm_min,
        tm.tm_sec
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_parent_behind_a_hostile_name() {
        assert_eq!(parent_of("12 (a) S (b) R 7 12 12 0"), Some(7));
        assert_eq!(parent_of("nonsense"), None);
    }

    #[test]
    fn own_clock_advances_and_memory_is_positive() {
        let pid = std::process::id();
        let clock = CpuClock::of(pid).unwrap();
        let before = clock.now().unwrap();
        let mut sum = 0_u64;
        while clock.now().unwrap() <= before {
            sum = sum.wrapping_add(1);
        }
        assert!(Memory::of(&[pid]).unwrap().rss_bytes > 0);
        assert_eq!(process_tree(pid).unwrap()[0], pid);
    }

    #[test]
    fn reads_kilobytes() {
        assert_eq!(kilobytes("Rss:   12 kB\nPss: 5 kB\n", "Pss:"), 5 * 1024);
        assert_eq!(kilobytes("", "Pss:"), 0);
    }
}
