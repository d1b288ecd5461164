//! The simulated network: connections and datagrams between the tasks of one life.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::Notify;

use super::rng::Rng;
use crate::io::{ListenOptions, Listener, LocalBoxFuture, Lock, Stream, Transport, Udp, claim, spawn};

/// Bytes a direction of a connection holds before its writer waits.
const WINDOW: usize = 64 * 1024;
/// Datagrams a socket holds before more are lost.
const DATAGRAMS_MAX: usize = 1024;

/// A network. Cheap to clone; every clone is the same network.
#[derive(Clone)]
pub struct Network {
    shared: Rc<RefCell<State>>,
    rng: Rc<Rng>,
}

/// Who is bound to an address; several where they share.
type Bound<T> = BTreeMap<SocketAddr, Vec<Rc<Queue<T>>>>;

struct State {
    claims: Vec<(SocketAddr, Transport)>,
    listeners: Bound<(End, SocketAddr)>,
    sockets: Bound<(Bytes, SocketAddr)>,
    links: Vec<Weak<Link>>,
    hosts: BTreeMap<String, IpAddr>,
    port_last: u16,
    latency: std::ops::RangeInclusive<u64>,
    loss_percent: u64,
    partitioned: bool,
}

/// What waits to be accepted or received.
struct Queue<T> {
    items: RefCell<VecDeque<T>>,
    max: usize,
    shared: bool,
    notify: Notify,
}

impl<T> Queue<T> {
    fn new(max: usize, shared: bool) -> Rc<Self> {
        Rc::new(Self { items: RefCell::default(), max, shared, notify: Notify::new() })
    }
    fn push(&self, item: T) -> bool {
        let mut items = self.items.borrow_mut();
        let fits = items.len() < self.max;
        if fits {
            items.push_back(item);
            self.notify.notify_one();
        }
        fits
    }
    async fn next(&self) -> T {
        loop {
            if let Some(item) = self.items.borrow_mut().pop_front() {
                return item;
            }
            self.notify.notified().await;
        }
    }
}

/// A connection as both ends see it.
#[derive(Default)]
struct Link {
    cut: Cell<bool>,
    notify: Notify,
}

impl Link {
    fn cut(&self) {
        self.cut.set(true);
        self.notify.notify_waiters();
    }
}

/// One end of a connection.
struct End {
    stream: DuplexStream,
    link: Rc<Link>,
}

impl End {
    fn check(&self) -> io::Result<()> {
        if self.link.cut.get() { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) }
    }
}

impl AsyncRead for End {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        match self.check() {
            Ok(()) => polled,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

impl AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check()?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

fn refused() -> io::Error {
    io::Error::from_raw_os_error(libc::ECONNREFUSED)
}
fn in_use() -> io::Error {
    io::Error::from_raw_os_error(libc::EADDRINUSE)
}

impl Network {
    /// A network with a latency of up to 3 ms and no losses.
    pub(super) fn new(seed: u64) -> Self {
        let state = State {
            claims: Vec::new(),
            listeners: BTreeMap::new(),
            sockets: BTreeMap::new(),
            links: Vec::new(),
            hosts: BTreeMap::from([("localhost".to_owned(), Ipv4Addr::LOCALHOST.into())]),
            port_last: 40_000,
            latency: 0..=3,
            loss_percent: 0,
            partitioned: false,
        };
        Self { shared: Rc::new(RefCell::new(state)), rng: Rc::new(Rng::new(seed)) }
    }

    /// Sets how long a piece of data travels, in milliseconds.
    pub fn set_latency(&self, milliseconds: std::ops::RangeInclusive<u64>) {
        self.shared.borrow_mut().latency = milliseconds;
    }
    /// Sets how many of a hundred datagrams get lost.
    pub fn set_loss(&self, percent: u64) {
        self.shared.borrow_mut().loss_percent = percent;
    }
    /// Gives a host name an address.
    pub fn add_host(&self, name: &str, address: IpAddr) {
        self.shared.borrow_mut().hosts.insert(name.to_owned(), address);
    }
    /// Resets every open connection; what was on its way is lost.
    pub fn cut_all(&self) {
        let links = std::mem::take(&mut self.shared.borrow_mut().links);
        links.iter().filter_map(Weak::upgrade).for_each(|link| link.cut());
    }
    /// With `true`, resets every connection, refuses new ones and loses datagrams until `false`.
    pub fn partition(&self, partitioned: bool) {
        self.shared.borrow_mut().partitioned = partitioned;
        if partitioned {
            self.cut_all();
        }
    }

    /// Sockets die with the process.
    pub(super) fn forget_everything(&self) {
        let mut state = self.shared.borrow_mut();
        state.claims.clear();
        state.listeners.clear();
        state.sockets.clear();
        state.links.clear();
    }

    pub(super) fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        let known = self.shared.borrow().hosts.get(host).copied();
        match known.or_else(|| host.parse().ok()) {
            Some(ip) => Ok(vec![SocketAddr::new(ip, port)]),
            None => Err(io::Error::new(io::ErrorKind::NotFound, format!("no such host: {host}"))),
        }
    }

    pub(super) fn claim(&self, address: SocketAddr, transport: Transport) -> io::Result<Box<dyn Lock>> {
        let mut state = self.shared.borrow_mut();
        let taken = state.claims.iter().any(|(other, t)| *t == transport && claim::overlap(*other, address));
        let listening = match transport {
            Transport::Tcp => state.listeners.keys().any(|other| claim::overlap(*other, address)),
            Transport::Udp => state.sockets.keys().any(|other| claim::overlap(*other, address)),
        };
        if address.port() != 0 && (taken || listening) {
            return Err(in_use());
        }
        state.claims.push((address, transport));
        Ok(Box::new(SimClaim { network: self.clone(), claim: (address, transport) }))
    }

    fn free_port(state: &mut State, address: SocketAddr) -> SocketAddr {
        if address.port() != 0 {
            return address;
        }
        state.port_last = state.port_last.checked_add(1).unwrap_or(40_001);
        SocketAddr::new(address.ip(), state.port_last)
    }

    pub(super) fn listen(&self, address: SocketAddr, options: ListenOptions) -> io::Result<Rc<dyn Listener>> {
        let queue = Queue::new(options.backlog as usize, options.shared);
        let state = &mut *self.shared.borrow_mut();
        let address = Self::free_port(state, address);
        bind(&mut state.listeners, address, &queue)?;
        Ok(Rc::new(SimListener { network: self.clone(), address, queue }))
    }

    pub(super) fn bind_udp(&self, address: SocketAddr, shared: bool) -> io::Result<Rc<dyn Udp>> {
        let queue = Queue::new(DATAGRAMS_MAX, shared);
        let state = &mut *self.shared.borrow_mut();
        let address = Self::free_port(state, address);
        bind(&mut state.sockets, address, &queue)?;
        Ok(Rc::new(SimUdp { network: self.clone(), address, queue }))
    }

    async fn travel(&self) {
        let time = self.rng.within(&self.shared.borrow().latency);
        if time > 0 {
            tokio::time::sleep(Duration::from_millis(time)).await;
        }
    }

    pub(super) async fn connect(self, address: SocketAddr) -> io::Result<Box<dyn Stream>> {
        self.travel().await;
        let local = Self::free_port(&mut self.shared.borrow_mut(), (Ipv4Addr::LOCALHOST, 0).into());
        let queue = {
            let state = self.shared.borrow();
            if state.partitioned {
                return Err(io::Error::from_raw_os_error(libc::EHOSTUNREACH));
            }
            pick(&state.listeners, address, &self.rng).ok_or_else(refused)?
        };
        let link = Rc::new(Link::default());
        let (near, far) = (tokio::io::duplex(WINDOW), tokio::io::duplex(WINDOW));
        if !queue.push((End { stream: far.0, link: link.clone() }, local)) {
            // The backlog is full; a real client would try for a minute or more and give up.
            return Err(io::Error::from_raw_os_error(libc::ETIMEDOUT));
        }
        let (near_read, near_write) = tokio::io::split(near.1);
        let (far_read, far_write) = tokio::io::split(far.1);
        spawn(self.clone().carry(near_read, far_write, link.clone()));
        spawn(self.clone().carry(far_read, near_write, link.clone()));
        let mut state = self.shared.borrow_mut();
        state.links.retain(|l| l.strong_count() > 0);
        state.links.push(Rc::downgrade(&link));
        Ok(Box::new(End { stream: near.0, link }))
    }

    /// One direction of a connection, until its writer is done, its reader is gone, or it is cut.
    async fn carry(self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, link: Rc<Link>) {
        let mut buf = Vec::with_capacity(16 * 1024);
        let journey = async {
            loop {
                buf.clear();
                if !matches!(from.read_buf(&mut buf).await, Ok(1..)) {
                    self.travel().await;
                    let _ = to.shutdown().await;
                    return;
                }
                self.travel().await;
                if to.write_all(&buf).await.is_err() {
                    return;
                }
            }
        };
        // The waiter is registered before the flag is looked at, so that no cut is missed.
        let cut = link.notify.notified();
        tokio::pin!(cut);
        cut.as_mut().enable();
        if !link.cut.get() {
            tokio::select! { biased; () = cut => {} () = journey => {} }
        }
    }
}

fn bind<T>(bound: &mut Bound<T>, address: SocketAddr, queue: &Rc<Queue<T>>) -> io::Result<()> {
    let mut others = bound.iter().filter(|(other, _)| claim::overlap(**other, address)).flat_map(|(_, q)| q);
    if others.any(|other| !other.shared || !queue.shared) {
        return Err(in_use());
    }
    bound.entry(address).or_default().push(queue.clone());
    Ok(())
}

fn unbind<T>(bound: &mut Bound<T>, address: SocketAddr, queue: &Rc<Queue<T>>) {
    if let Some(queues) = bound.get_mut(&address) {
        queues.retain(|q| !Rc::ptr_eq(q, queue));
        if queues.is_empty() {
            bound.remove(&address);
        }
    }
}

/// One of those who wait for packets to an address.
fn pick<T>(bound: &Bound<T>, address: SocketAddr, rng: &Rng) -> Option<Rc<Queue<T>>> {
    let queues = bound.get(&address).or_else(|| {
        bound.iter().find(|(a, _)| a.ip().is_unspecified() && claim::overlap(**a, address)).map(|(_, q)| q)
    })?;
    queues.get(rng.below(queues.len())).cloned()
}

struct SimClaim {
    network: Network,
    claim: (SocketAddr, Transport),
}

impl std::fmt::Debug for SimClaim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimClaim{:?}", self.claim)
    }
}

impl Lock for SimClaim {}

impl Drop for SimClaim {
    fn drop(&mut self) {
        let claims = &mut self.network.shared.borrow_mut().claims;
        if let Some(index) = claims.iter().position(|c| *c == self.claim) {
            claims.swap_remove(index);
        }
    }
}

struct SimListener {
    network: Network,
    address: SocketAddr,
    queue: Rc<Queue<(End, SocketAddr)>>,
}

impl Listener for SimListener {
    fn accept(&self) -> LocalBoxFuture<'_, io::Result<(Box<dyn Stream>, SocketAddr)>> {
        Box::pin(async move {
            let (end, peer) = self.queue.next().await;
            Ok((Box::new(end) as Box<dyn Stream>, peer))
        })
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        unbind(&mut self.network.shared.borrow_mut().listeners, self.address, &self.queue);
        // Nobody will accept them any more.
        for (end, _) in self.queue.items.borrow_mut().drain(..) {
            end.link.cut();
        }
    }
}

struct SimUdp {
    network: Network,
    address: SocketAddr,
    queue: Rc<Queue<(Bytes, SocketAddr)>>,
}

impl Udp for SimUdp {
    fn recv_from(&self, mut buf: Vec<u8>) -> LocalBoxFuture<'_, (io::Result<SocketAddr>, Vec<u8>)> {
        Box::pin(async move {
            let (data, from) = self.queue.next().await;
            buf.clear();
            let room = buf.capacity();
            buf.extend(data.iter().take(room));
            (Ok(from), buf)
        })
    }
    fn send_to(&self, data: Bytes, to: SocketAddr) -> LocalBoxFuture<'_, io::Result<()>> {
        let (network, from) = (self.network.clone(), self.address);
        Box::pin(async move {
            let lost = {
                let state = network.shared.borrow();
                state.partitioned || network.rng.next() % 100 < state.loss_percent
            };
            if !lost {
                // Between two sockets of one machine datagrams keep their order.
                let queue = pick(&network.shared.borrow().sockets, to, &network.rng);
                // A full queue and an unbound port both lose it, as in real life.
                let _arrived = queue.is_some_and(|queue| queue.push((data, from)));
            }
            Ok(())
        })
    }
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for SimUdp {
    fn drop(&mut self) {
        unbind(&mut self.network.shared.borrow_mut().sockets, self.address, &self.queue);
    }
}
