//! Claiming a port for this process alone.
//!
//! Shards share a port by `SO_REUSEPORT`, and the kernel lets any process of the same user join them
//! silently: two collectors would each get part of the traffic. So a port is claimed first, in two steps.
//!
//! 1. Hold the abstract Unix socket `millrace/<uid>/<tcp|udp>/<address>`; the kernel frees it with the
//!    process, and it belongs to the network namespace as the port does. Then look for a claim on an
//!    address that overlaps (`0.0.0.0` and `127.0.0.1`) in `/proc/net/unix`. Two processes that start in
//!    the same instant may refuse each other, but never both succeed.
//! 2. Bind the port once *without* `SO_REUSEPORT`, which the kernel refuses while anybody listens there.
//!    That finds listeners of any kind. Done after step 1, so that no other claimant is between its own
//!    check and its first listener.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixListener};

use socket2::{Protocol, Type};

use super::{Lock, Transport, net};

/// A claimed port.
#[derive(Debug)]
struct PortClaim {
    _name: Option<UnixListener>,
}

impl Lock for PortClaim {}

/// See the module.
pub(super) fn claim_port(address: SocketAddr, transport: Transport) -> io::Result<Box<dyn Lock>> {
    // The kernel will choose a port nobody has.
    if address.port() == 0 {
        return Ok(Box::new(PortClaim { _name: None }));
    }
    let prefix = prefix(transport);
    let name = format!("{prefix}{address}");
    let held =
        UnixListener::bind_addr(&UnixAddr::from_abstract_name(&name)?).map_err(|error| match error {
            e if e.kind() == io::ErrorKind::AddrInUse => claimed(address, address),
            e => e,
        })?;
    // Without /proc there is still step 2, which misses only a rival that starts in the same instant.
    if let Ok(sockets) = std::fs::read("/proc/net/unix")
        && let Some(other) = overlapping(&sockets, &prefix, address)
    {
        return Err(claimed(address, other));
    }
    probe(address, transport)?;
    Ok(Box::new(PortClaim { _name: Some(held) }))
}

fn prefix(transport: Transport) -> String {
    let transport = match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    };
    // The kernel keeps other users' sockets off a shared port by itself, and other users must not be able
    // to keep us off ours by taking its name.
    format!("millrace/{}/{transport}/", rustix::process::geteuid().as_raw())
}

fn claimed(address: SocketAddr, other: SocketAddr) -> io::Error {
    let overlap = if address == other { String::new() } else { format!(", which overlaps {other}") };
    io::Error::new(
        io::ErrorKind::AddrInUse,
        format!("{address}{overlap} is claimed by another component or another Millrace process"),
    )
}

/// A claim in the kernel's list of Unix sockets that overlaps `address`, other than `address` itself.
fn overlapping(sockets: &[u8], prefix: &str, address: SocketAddr) -> Option<SocketAddr> {
    // Each line ends with the path; `@` stands for the zero byte of an abstract name.
    String::from_utf8_lossy(sockets)
        .lines()
        .filter_map(|line| line.rsplit_once('@')?.1.strip_prefix(prefix)?.parse().ok())
        .find(|other| *other != address && overlap(*other, address))
}

/// True if one socket bound to `a` and another bound to `b` would fight for the same packets.
pub(super) fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
    a.port() == b.port() && (x == y || covers(x, y) || covers(y, x))
}

/// True if a socket on `wide` also receives for `narrow`: `::` receives for everything, `0.0.0.0` for IPv4.
fn covers(wide: IpAddr, narrow: IpAddr) -> bool {
    wide.is_unspecified() && (wide.is_ipv6() || narrow.is_ipv4())
}

/// Fails if anybody has the port.
fn probe(address: SocketAddr, transport: Transport) -> io::Result<()> {
    let (kind, protocol) = match transport {
        Transport::Tcp => (Type::STREAM, Protocol::TCP),
        Transport::Udp => (Type::DGRAM, Protocol::UDP),
    };
    let socket = net::socket(address, kind, protocol)?;
    if transport == Transport::Tcp {
        // Past connections in TIME_WAIT do not count. With UDP the option would let two servers share.
        socket.set_reuse_address(true)?;
    }
    socket.bind(&address.into()).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            io::Error::new(io::ErrorKind::AddrInUse, format!("another program already uses {address}"))
        }
        _ => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps() {
        let table = [
            ("1.2.3.4:80", "1.2.3.4:80", true),
            ("1.2.3.4:80", "1.2.3.4:81", false),
            ("1.2.3.4:80", "1.2.3.5:80", false),
            ("0.0.0.0:80", "1.2.3.4:80", true),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::]:80", "1.2.3.4:80", true),
            ("[::]:80", "0.0.0.0:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::ffff:1.2.3.4]:80", "1.2.3.4:80", true),
            ("[::1]:80", "[::2]:80", false),
        ];
        for (a, b, expected) in table {
            let (a, b): (SocketAddr, SocketAddr) = (a.parse().unwrap(), b.parse().unwrap());
            assert_eq!(overlap(a, b), expected, "{a} {b}");
            assert_eq!(overlap(b, a), expected, "{b} {a}");
        }
    }

    #[test]
    fn reads_the_kernels_list() {
        let list = b"Num RefCount Protocol Flags Type St Inode Path\n\
            0000: 00000002 00000000 00010000 0001 01 4711 @millrace/7/tcp/0.0.0.0:80\n\
            0000: 00000002 00000000 00010000 0001 01 4712 @millrace/7/udp/0.0.0.0:81\n\
            0000: 00000002 00000000 00010000 0001 01 4713 /run/@millrace/7/tcp\n\
            0000: 00000003 00000000 00000000 0001 03 4714\n\xff\n";
        let find = |address: &str| overlapping(list, "millrace/7/tcp/", address.parse().unwrap());
        assert_eq!(find("127.0.0.1:80"), Some("0.0.0.0:80".parse().unwrap()));
        assert_eq!(find("127.0.0.1:81"), None);
        assert_eq!(find("0.0.0.0:80"), None, "one's own");
    }
}
