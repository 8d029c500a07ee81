//! Who has which socket, by what the kernel says.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;

/// The sockets of a process, by their inodes.
pub(super) fn of_process(pid: u32) -> HashSet<u64> {
    let mut sockets = HashSet::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
        let Ok(link) = fs::read_link(entry.path()) else { continue };
        let link = link.to_string_lossy();
        let inode = link.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        sockets.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    sockets
}

/// An IPv4 TCP socket.
pub(super) struct Row {
    pub(super) local: u16,
    pub(super) remote: u16,
    pub(super) listens: bool,
    /// 0 while nobody has accepted it.
    pub(super) inode: u64,
}

/// All of them.
pub(super) fn rows() -> Vec<Row> {
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().skip(1).filter_map(row).collect()
}

fn row(line: &str) -> Option<Row> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let port = |at: usize| u16::from_str_radix(words.get(at)?.rsplit(':').next()?, 16).ok();
    Some(Row {
        local: port(1)?,
        remote: port(2)?,
        listens: *words.get(3)? == "0A",
        inode: words.get(9)?.parse().ok()?,
    })
}

/// What dies with a process.
pub(super) struct Estate {
    /// Ports of clients whose connections it has.
    pub(super) clients: HashSet<u16>,
    /// Some listening socket is nobody else's: who waits for it to accept, or comes before there is
    /// another, is not served.
    pub(super) listeners: bool,
}

/// Ports of clients whose connections a process has.
pub(super) fn clients(pid: u32, listeners: &[SocketAddr]) -> HashSet<u16> {
    let own = of_process(pid);
    let is_ours = |row: &Row| listeners.iter().any(|address| address.port() == row.local);
    let rows = rows().into_iter().filter(|row| is_ours(row) && own.contains(&row.inode));
    rows.map(|row| row.remote).collect()
}

impl Estate {
    /// Of a process that stands still, beside the others that live.
    pub(super) fn of(pid: u32, others: &[u32], listeners: &[SocketAddr]) -> Estate {
        let shared: HashSet<u64> = others.iter().flat_map(|other| of_process(*other)).collect();
        let is_ours = |row: &Row| listeners.iter().any(|address| address.port() == row.local);
        let mut listening = rows().into_iter().filter(|row| row.listens && is_ours(row));
        Estate {
            clients: clients(pid, listeners),
            listeners: listening.any(|row| !shared.contains(&row.inode)),
        }
    }
}

/// Descriptors of a process, but for connections to an origin, of which it may keep some.
pub(super) fn files(pid: u32, origins: &[SocketAddr]) -> usize {
    let to_origins: HashSet<u64> = rows()
        .into_iter()
        .filter(|row| origins.iter().any(|origin| origin.port() == row.remote))
        .map(|row| row.inode)
        .collect();
    let all = fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
    all - of_process(pid).intersection(&to_origins).count()
}
