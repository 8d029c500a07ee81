//! Socket options that the libraries have no call for.
//!
//! Every function takes an open socket; an error is what the kernel said.

use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use outrigger_xds::snapshot::{SocketOption, SocketOptionState, SocketOptionValue};
use socket2::{SockFilter, SockRef};

/// Sets a raw option.
///
/// # Errors
/// When the kernel refuses it.
pub fn set_raw(socket: &impl AsRawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and the length describe `value`, which the call only reads.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            value.len() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has a listening TCP socket ignore clients that begin to connect from now on; handshakes that have
/// begun are finished. Such a client tries again after a second, and finds who listens then.
///
/// # Errors
/// When the kernel refuses it: it is no TCP socket.
pub fn ignore_new_connections(socket: &impl AsRawFd) -> io::Result<()> {
    // The filter sees a segment from its TCP header on (RFC 9293 section 3.1).
    let drop_syn = [
        SockFilter::new((libc::BPF_LD | libc::BPF_B | libc::BPF_ABS) as u16, 0, 0, TCP_FLAGS_AT),
        SockFilter::new((libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16, 0, 0, SYN | ACK),
        SockFilter::new((libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, 0, 1, SYN),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, 0),
        SockFilter::new((libc::BPF_RET | libc::BPF_K) as u16, 0, 0, u32::MAX),
    ];
    // SAFETY: the descriptor is open for as long as `socket` lives, which outlives this use.
    let socket = unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) };
    SockRef::from(&socket).attach_filter(&drop_syn)
}

/// Sets those configured options that are due in this state of the socket's life.
///
/// # Errors
/// When the kernel refuses one of them.
pub fn set_configured(
    socket: &impl AsRawFd,
    options: &[SocketOption],
    state: SocketOptionState,
) -> io::Result<()> {
    for option in options.iter().filter(|option| option.state == state) {
        let number;
        let value = match &option.value {
            SocketOptionValue::Int(value) => {
                number = value.to_ne_bytes();
                &number[..]
            }
            SocketOptionValue::Bytes(bytes) => bytes,
        };
        set_raw(socket, option.level, option.name, value)?;
    }
    Ok(())
}

/// IP_TRANSPARENT: addresses that are not this host's may be bound and accepted on.
///
/// # Errors
/// When the kernel refuses it: it takes CAP_NET_ADMIN.
pub fn set_transparent(socket: &impl AsRawFd, is_ipv6: bool) -> io::Result<()> {
    set_on(socket, is_ipv6, libc::IP_TRANSPARENT, libc::IPV6_TRANSPARENT)
}

/// IP_FREEBIND: addresses that are not this host's yet may be bound.
///
/// # Errors
/// When the kernel refuses it.
pub fn set_freebind(socket: &impl AsRawFd, is_ipv6: bool) -> io::Result<()> {
    set_on(socket, is_ipv6, libc::IP_FREEBIND, libc::IPV6_FREEBIND)
}

/// SO_MARK, which routing and filters of this host can look at.
///
/// # Errors
/// When the kernel refuses it: it takes CAP_NET_ADMIN.
pub fn set_mark(socket: &impl AsRawFd, mark: u32) -> io::Result<()> {
    set_raw(socket, libc::SOL_SOCKET, libc::SO_MARK, &mark.to_ne_bytes())
}

/// IP_BIND_ADDRESS_NO_PORT: a bind to port 0 leaves the choice of a port to the connect, which can
/// share ports between destinations.
///
/// # Errors
/// When the kernel refuses it.
pub fn set_bind_without_port(socket: &impl AsRawFd) -> io::Result<()> {
    set_raw(socket, libc::SOL_IP, libc::IP_BIND_ADDRESS_NO_PORT, &ON)
}

/// Where the other end of an accepted connection connected to, before netfilter redirected it
/// (SO_ORIGINAL_DST). Nothing when the kernel knows nothing of it.
pub fn original_destination(socket: RawFd, accepted: SocketAddr) -> Option<SocketAddr> {
    // A dual-stack socket's IPv4 connections are known to the IPv4 tables only.
    if accepted.ip().to_canonical().is_ipv4() {
        let address: libc::sockaddr_in = get(socket, libc::SOL_IP, libc::SO_ORIGINAL_DST)?;
        let ip = Ipv4Addr::from(u32::from_be(address.sin_addr.s_addr));
        return Some(SocketAddr::new(IpAddr::V4(ip), u16::from_be(address.sin_port)));
    }
    let address: libc::sockaddr_in6 = get(socket, libc::SOL_IPV6, libc::IP6T_SO_ORIGINAL_DST)?;
    let ip = Ipv6Addr::from(address.sin6_addr.s6_addr);
    let port = u16::from_be(address.sin6_port);
    Some(SocketAddr::V6(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id)))
}

/// Switches on what each version of IP has its own option for.
fn set_on(socket: &impl AsRawFd, is_ipv6: bool, v4: i32, v6: i32) -> io::Result<()> {
    let (level, name) = if is_ipv6 { (libc::SOL_IPV6, v6) } else { (libc::SOL_IP, v4) };
    set_raw(socket, level, name, &ON)
}

/// Asks for an option whose value is a socket address.
fn get<T: SocketAddress>(socket: RawFd, level: i32, name: i32) -> Option<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the pointer and the length describe `value`, which the call writes.
    let result =
        unsafe { libc::getsockopt(socket, level, name, value.as_mut_ptr().cast(), &raw mut len) };
    // SAFETY: socket addresses are plain numbers: zeroes are one, and so is whatever was written.
    (result == 0 && len as usize == size_of::<T>()).then(|| unsafe { value.assume_init() })
}

/// A C structure that any bytes are a value of.
trait SocketAddress {}

impl SocketAddress for libc::sockaddr_in {}
impl SocketAddress for libc::sockaddr_in6 {}

const ON: [u8; 4] = 1i32.to_ne_bytes();

/// Where the flags are in a TCP header, and two of them.
const TCP_FLAGS_AT: u32 = 13;
const SYN: u32 = 0x02;
const ACK: u32 = 0x10;
