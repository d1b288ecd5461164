//! Deals the connections of a port that several shards share out evenly.
//!
//! The kernel spreads new connections over the sockets of a port by a hash of the addresses (`SO_REUSEPORT`). That is
//! even for thousands of them; of two, both come to one shard every second time, and the other cores have nothing to do.
//! So a shard that accepts a connection hands it to the one that has the fewest, if that one has fewer than itself.
//! Nothing has been read from it by then.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// Connections on their way to one shard. Whoever finds no room keeps the connection.
const HANDED_MAX: usize = 64;

type Handed = (std::net::TcpStream, SocketAddr, Share);
type Ports = HashMap<SocketAddr, Vec<Arc<Member>>>;

/// The shards that listen, by address. Locked only for a look or a change.
static PORTS: Mutex<Option<Ports>> = Mutex::new(None);

fn ports() -> MutexGuard<'static, Option<Ports>> {
    PORTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One shard's socket of a port.
struct Member {
    /// Connections it has or is being handed.
    open: Arc<AtomicUsize>,
    hand: mpsc::Sender<Handed>,
}

/// A connection's part in its shard's number.
pub(super) struct Share(Arc<AtomicUsize>);

impl Share {
    fn of(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(open.clone())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A shard's place among those that listen on an address, until dropped.
pub(super) struct Place {
    address: SocketAddr,
    own: Arc<Member>,
    /// Borrowed only while polled.
    handed: RefCell<mpsc::Receiver<Handed>>,
}

impl Place {
    pub(super) fn take(address: SocketAddr) -> Self {
        let (hand, handed) = mpsc::channel(HANDED_MAX);
        let own = Arc::new(Member { open: Arc::default(), hand });
        ports().get_or_insert_default().entry(address).or_default().push(own.clone());
        Self { address, own, handed: RefCell::new(handed) }
    }

    /// The next connection that another shard hands over.
    pub(super) async fn handed(&self) -> Handed {
        let handed = poll_fn(|cx| self.handed.borrow_mut().poll_recv(cx)).await;
        match handed {
            Some(handed) => handed,
            // Not before this place is dropped: it holds a sender itself.
            None => std::future::pending().await,
        }
    }

    /// Gives a connection to the shard with the fewest; gives it back if that is this one.
    ///
    /// # Errors
    /// If the socket cannot be moved between threads' reactors.
    pub(super) fn hand_over(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
    ) -> io::Result<Option<(TcpStream, Share)>> {
        let (emptiest, share) = {
            let ports = ports();
            let members = ports.as_ref().and_then(|ports| ports.get(&self.address));
            let load = |member: &&Arc<Member>| member.open.load(Ordering::Relaxed);
            let emptiest = members.into_iter().flatten().min_by_key(load);
            let emptiest = emptiest.filter(|other| load(other) < load(&&self.own)).cloned();
            // Counted under the lock, so that two shards do not both choose the same one.
            let share = Share::of(&emptiest.as_ref().unwrap_or(&self.own).open);
            (emptiest, share)
        };
        let Some(other) = emptiest else { return Ok(Some((stream, share))) };
        match other.hand.try_send((stream.into_std()?, peer, share)) {
            Ok(()) => Ok(None),
            Err(
                mpsc::error::TrySendError::Full((stream, ..))
                | mpsc::error::TrySendError::Closed((stream, ..)),
            ) => Ok(Some((TcpStream::from_std(stream)?, Share::of(&self.own.open)))),
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut ports = ports();
        let Some(all) = &mut *ports else { return };
        if let Some(members) = all.get_mut(&self.address) {
            members.retain(|member| !Arc::ptr_eq(member, &self.own));
            if members.is_empty() {
                all.remove(&self.address);
            }
        }
    }
}

/// A connection that counts while it is open.
pub(super) struct Counted {
    pub(super) stream: TcpStream,
    pub(super) _share: Share,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, parts)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};
    use std::time::{Duration, Instant};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::io::{EngineKind, ListenOptions, run_local};

    const SHARDS: usize = 3;

    /// A shard that answers each connection with its number and keeps it open.
    fn shard(index: usize, port: u16, ready: Sender<u16>) {
        run_local(EngineKind::Portable, |io| async move {
            let options = ListenOptions { shared: true, backlog: 64 };
            let listener = io.listen(([127, 0, 0, 1], port).into(), options).unwrap();
            ready.send(listener.local_addr().unwrap().port()).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                crate::io::spawn(async move {
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() {
                        stream.write_all(&[index as u8]).await.unwrap();
                    }
                });
            }
        })
        .unwrap();
    }

    #[test]
    fn every_shard_gets_as_many_connections_as_the_others() {
        use std::io::{Read, Write};
        let (ready, started) = channel();
        let mut port = 0;
        for index in 0..SHARDS {
            let ready = ready.clone();
            std::thread::spawn(move || shard(index, port, ready));
            port = started.recv_timeout(Duration::from_secs(30)).unwrap();
        }
        let connect = || {
            let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
            let mut shard = [0];
            stream.write_all(b"?").unwrap();
            stream.read_exact(&mut shard).unwrap();
            (stream, usize::from(shard[0]))
        };
        let count = |open: &[(std::net::TcpStream, usize)]| {
            let mut of_each = [0; SHARDS];
            open.iter().for_each(|(_, shard)| of_each[*shard] += 1);
            of_each
        };
        let mut open: Vec<_> = (0..30).map(|_| connect()).collect();
        assert_eq!(count(&open), [10; SHARDS]);
        // When one shard's clients leave, it gets the next ones.
        open.retain(|(_, shard)| *shard != 1);
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let next = connect();
            if next.1 == 1 {
                open.push(next);
                break;
            }
            assert!(Instant::now() < deadline, "shard 1 has room and gets nothing");
        }
    }
}
