//! Listening sockets of sources.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;

use tokio::sync::Notify;

use crate::io::{Io, ListenOptions, Listener, Udp};

use super::OpenError;

/// Connections the kernel keeps before they are accepted; Linux cuts it to `net.core.somaxconn` (4096).
const BACKLOG: u32 = 4096;

/// Resolves what the operator wrote; IPv4 is preferred, as Java does.
///
/// # Errors
/// Blames `bind`.
pub async fn resolve(io: &Io, bind: &str, port: u16) -> Result<SocketAddr, OpenError> {
    let hint = "use an address of this host, or 0.0.0.0 for all";
    let addresses = io.resolve(bind, port).await.map_err(|e| {
        OpenError::new("bind", bind, format!("this host name cannot be resolved: {e}")).hint(hint)
    })?;
    let first = addresses.iter().find(|a| a.is_ipv4()).or(addresses.first());
    first.copied().ok_or_else(|| OpenError::new("bind", bind, "this host name has no address").hint(hint))
}

/// Listens on a TCP port that the shards share.
///
/// # Errors
/// Blames `bind` or `port`.
pub async fn listen(io: &Io, bind: &str, port: u16) -> Result<Rc<dyn Listener>, OpenError> {
    let address = resolve(io, bind, port).await?;
    io.listen(address, ListenOptions { shared: true, backlog: BACKLOG })
        .map_err(|e| refused(bind, address, &e))
}

/// Binds a UDP port that the shards share.
///
/// # Errors
/// Blames `bind` or `port`.
pub async fn bind_udp(io: &Io, bind: &str, port: u16) -> Result<Rc<dyn Udp>, OpenError> {
    let address = resolve(io, bind, port).await?;
    io.bind_udp(address, true).map_err(|e| refused(bind, address, &e))
}

fn refused(bind: &str, address: SocketAddr, error: &std::io::Error) -> OpenError {
    use std::io::ErrorKind;
    let port = address.port();
    match error.kind() {
        ErrorKind::AddrInUse => {
            OpenError::new("port", port.to_string(), format!("another process listens on {address}"))
                .hint(format!("choose another port, or find the owner with: ss -lntup 'sport = :{port}'"))
        }
        ErrorKind::AddrNotAvailable => {
            OpenError::new("bind", bind, format!("this host has no address {}", address.ip()))
                .hint("use an address of this host, or 0.0.0.0 for all")
        }
        ErrorKind::PermissionDenied => {
            OpenError::new("port", port.to_string(), format!("this user may not listen on {address}"))
                .hint("use a port above 1023, or give the program CAP_NET_BIND_SERVICE")
        }
        _ => OpenError::new("port", port.to_string(), format!("cannot listen on {address}: {error}")),
    }
}

/// Counts what is under way (connections, bytes) on one shard, and lets others wait until it is less.
#[derive(Debug, Default)]
pub struct Gauge {
    value: Cell<usize>,
    lowered: Notify,
}

/// A share of a [`Gauge`], given back when dropped.
#[derive(Debug)]
pub struct Share {
    gauge: Rc<Gauge>,
    amount: usize,
}

impl Gauge {
    /// Adds to it.
    pub fn add(self: &Rc<Self>, amount: usize) -> Share {
        self.value.set(self.value.get() + amount);
        Share { gauge: self.clone(), amount }
    }
    /// Its value.
    pub fn value(&self) -> usize {
        self.value.get()
    }
    /// Waits until it is below `limit`. Cancel-safe.
    pub async fn below(&self, limit: usize) {
        loop {
            let lowered = self.lowered.notified();
            if self.value.get() < limit {
                return;
            }
            lowered.await;
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.gauge.value.set(self.gauge.value.get() - self.amount);
        self.gauge.lowered.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{EngineKind, run_local};

    #[test]
    fn errors_name_the_property_and_what_to_do() {
        run_local(EngineKind::Portable, |io| async move {
            let unknown = listen(&io, "no.such.host.invalid", 1).await.map(drop).unwrap_err();
            assert_eq!((unknown.property, unknown.value.as_str()), ("bind", "no.such.host.invalid"));
            let foreign = listen(&io, "192.0.2.1", 44444).await.map(drop).unwrap_err();
            assert_eq!((foreign.property, foreign.value.as_str()), ("bind", "192.0.2.1"));
            let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let port = taken.local_addr().unwrap().port();
            let in_use = listen(&io, "127.0.0.1", port).await.map(drop).unwrap_err();
            assert_eq!((in_use.property, in_use.value), ("port", port.to_string()));
            assert!(in_use.hint.unwrap().contains(&format!("ss -lntup 'sport = :{port}'")));
        })
        .unwrap();
    }

    #[test]
    fn a_gauge_lets_wait() {
        run_local(EngineKind::Portable, |_| async move {
            let gauge = Rc::new(Gauge::default());
            let share = gauge.add(10);
            let waiting = crate::io::spawn({
                let gauge = gauge.clone();
                async move { gauge.below(10).await }
            });
            tokio::task::yield_now().await;
            assert!(!waiting.is_finished());
            drop(share);
            waiting.await.unwrap();
            assert_eq!(gauge.value(), 0);
        })
        .unwrap();
    }
}
