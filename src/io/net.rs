//! Sockets: tokio's, on the shard's own thread, in every engine over a real kernel.
//!
//! tokio-uring has sockets too, but they wait on the ring for every receive where tokio tries a plain one
//! first. `benches/sockets.rs` compares: 1.1, 1.6 and 1.3 times the CPU at 1, 8 and 64 connections, 1.4
//! times with an answer per line.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

use super::deal::{Counted, Place};
use super::{ListenOptions, Listener, LocalBoxFuture, Stream, Udp};

/// Idle time before the first keep-alive probe; a peer that is gone is noticed after about two minutes.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(60);
/// Time between keep-alive probes.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Pause of a listener that ran out of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Accept failures between two warnings: one in about ten seconds.
const ACCEPT_WARNING_EVERY: u32 = 100;

/// A new socket for an address, close-on-exec and non-blocking.
pub(super) fn socket(address: SocketAddr, kind: Type, protocol: Protocol) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking().cloexec(), Some(protocol))?;
    if let IpAddr::V6(ip) = address.ip() {
        // `::` listens for IPv4 too, as in Java, whatever the system's default.
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    Ok(socket)
}

/// Binds and listens.
pub(super) fn listen(address: SocketAddr, options: ListenOptions) -> io::Result<Rc<dyn Listener>> {
    let socket = socket(address, Type::STREAM, Protocol::TCP)?;
    // Connections of an earlier process that wait out TIME_WAIT must not keep the port.
    socket.set_reuse_address(true)?;
    if options.shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(i32::try_from(options.backlog).unwrap_or(i32::MAX))?;
    let listener = TcpListener::from_std(socket.into())?;
    let deal = if options.shared { Some(Place::take(listener.local_addr()?)) } else { None };
    Ok(Rc::new(TcpPort { listener, deal }))
}

struct TcpPort {
    listener: TcpListener,
    deal: Option<Place>,
}

impl TcpPort {
    /// The next connection, of the kernel's queue or from another shard.
    async fn next(&self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let Some(deal) = &self.deal else {
            let (stream, peer) = self.listener.accept().await?;
            prepare(&stream);
            return Ok((Box::new(stream), peer));
        };
        loop {
            let (stream, peer, share) = tokio::select! {
                (stream, peer, share) = deal.handed() => (TcpStream::from_std(stream)?, peer, share),
                accepted = self.listener.accept() => {
                    let (stream, peer) = accepted?;
                    match deal.hand_over(stream, peer)? {
                        Some((stream, share)) => (stream, peer, share),
                        None => continue,
                    }
                }
            };
            prepare(&stream);
            return Ok((Box::new(Counted { stream, _share: share }), peer));
        }
    }
}

impl Listener for TcpPort {
    fn accept(&self) -> LocalBoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let mut failures = 0_u32;
            loop {
                match self.next().await {
                    Ok(accepted) => return Ok(accepted),
                    Err(error) if is_the_peers(&error) => {}
                    Err(error) if is_shortage(&error) => {
                        if failures.is_multiple_of(ACCEPT_WARNING_EVERY) {
                            let address = self.local_addr().map(|a| a.to_string()).unwrap_or_default();
                            tracing::warn!(%address, %error, "cannot accept connections; raise the limit on open files (LimitNOFILE, ulimit -n)");
                        }
                        failures = failures.wrapping_add(1);
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                    Err(error) => return Err(error),
                }
            }
        })
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// accept(2): errors of a connection that died while it waited are reported on the listening socket and
/// mean nothing for the next one.
fn is_the_peers(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::EINTR
                | libc::ENETDOWN
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
                | libc::EPERM
        )
    )
}

/// Out of descriptors or memory: the connection stays in the queue and can be accepted later.
fn is_shortage(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Small answers leave at once; a dead peer is noticed. Neither is worth failing a connection for.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE_IDLE).with_interval(KEEP_ALIVE_INTERVAL);
    let _ = SockRef::from(stream).set_tcp_keepalive(&keep_alive.with_retries(4));
}

/// Connects.
pub(super) async fn connect(address: SocketAddr) -> io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(address).await?;
    prepare(&stream);
    Ok(Box::new(stream))
}

/// Binds a UDP address.
pub(super) fn bind_udp(address: SocketAddr, shared: bool) -> io::Result<Rc<dyn Udp>> {
    let socket = socket(address, Type::DGRAM, Protocol::UDP)?;
    if shared {
        socket.set_reuse_port(true)?;
    }
    socket.bind(&address.into())?;
    Ok(Rc::new(UdpPort(UdpSocket::from_std(socket.into())?)))
}

struct UdpPort(UdpSocket);

impl Udp for UdpPort {
    fn recv_from(&self, mut buf: Vec<u8>) -> LocalBoxFuture<'_, (io::Result<SocketAddr>, Vec<u8>)> {
        Box::pin(async move {
            buf.clear();
            let received = self.0.recv_buf_from(&mut buf).await;
            (received.map(|(_, from)| from), buf)
        })
    }
    fn send_to(&self, data: Bytes, to: SocketAddr) -> LocalBoxFuture<'_, io::Result<()>> {
        Box::pin(async move { self.0.send_to(&data, to).await.map(drop) })
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }
}
