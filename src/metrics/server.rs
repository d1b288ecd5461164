//! Serves the monitoring pages: `flume.monitoring.type = http`, and sends them: `ganglia`.
//!
//! Flume: `org.apache.flume.instrumentation.http.HTTPMetricsServer`, `GangliaServer`. Runs on the control
//! thread, away from events. Answers `GET /metrics` (Flume's JSON), `/metrics/prometheus` and `/` with a
//! pointer to them; 403 to TRACE and OPTIONS, 404 to the rest, as Flume's does.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::directory::Directory;
use super::ganglia::{self, Version};
use super::render;
use crate::io::stop::Stop;
use crate::io::{Io, ListenOptions, Listener, Stream, spawn};

/// Flume's default of `flume.monitoring.port`.
pub const PORT_DEFAULT: u16 = 41414;
/// Longest request head, in bytes. The pages take none, so this is for clients' headers.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Bytes read and thrown away behind a head that was too large.
const REST_BYTES_MAX: u64 = 1 << 20;
/// Connections served at once: 64 × (16 KiB head + a page of some 10 KiB) is under 2 MiB.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take for its request, and for taking the answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after `accept` failed (out of file descriptors).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The HTTP server of the monitoring pages.
pub struct Server {
    io: Io,
    listener: Rc<dyn Listener>,
    directory: Arc<Directory>,
}

impl Server {
    /// Listens. The address may have port 0.
    ///
    /// # Errors
    /// The port is taken, or the address is not of this host.
    pub fn bind(io: &Io, address: SocketAddr, directory: Arc<Directory>) -> std::io::Result<Self> {
        let listener = io.listen(address, ListenOptions { shared: false, backlog: 64 })?;
        Ok(Self { io: io.clone(), listener, directory })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The system's.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until the stop.
    pub async fn run(self, stop: Stop) {
        let open = Rc::new(Cell::new(0));
        while let Some(accepted) = stop.or(self.listener.accept()).await {
            match accepted {
                // Beyond the limit the connection is closed at once; a scraper comes again.
                Ok(_) if open.get() >= CONNECTIONS_MAX => {}
                Ok((stream, _)) => {
                    open.set(open.get() + 1);
                    let (io, directory, open) =
                        (self.io.clone(), Arc::clone(&self.directory), Rc::clone(&open));
                    spawn(async move {
                        tokio::select! {
                            () = answer(stream, &directory) => {}
                            () = io.sleep(PATIENCE) => {}
                        }
                        open.set(open.get() - 1);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the monitoring server cannot accept a connection");
                    self.io.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Reads one request and answers it; one request per connection.
async fn answer(mut stream: Box<dyn Stream>, directory: &Directory) {
    let mut head = Vec::with_capacity(1024);
    while memchr::memmem::find(&head, b"\r\n\r\n").is_none() {
        if head.len() >= HEAD_BYTES_MAX {
            let refusal = page(431, "text/plain", "request head too large\n", false);
            if stream.write_all(&refusal).await.is_ok() && stream.shutdown().await.is_ok() {
                // What was sent meanwhile is read, or the reset it causes would overtake the answer.
                let mut rest = stream.take(REST_BYTES_MAX);
                while rest.read(&mut head[..]).await.is_ok_and(|count| count > 0) {}
            }
            return;
        }
        match stream.read_buf(&mut head).await {
            Ok(count) if count > 0 => {}
            _ => return,
        }
    }
    let answer = respond(&head, directory);
    if stream.write_all(&answer).await.is_ok() {
        let _ = stream.shutdown().await;
    }
}

fn respond(head: &[u8], directory: &Directory) -> Bytes {
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(['?', '#']).next().unwrap_or_default();
    let is_head = method == "HEAD";
    match (method, path) {
        ("TRACE" | "OPTIONS", _) => page(403, "text/plain", "this server answers GET only\n", false),
        ("GET" | "HEAD", "/metrics") => {
            page(200, "application/json;charset=utf-8", &render::json(&directory.snapshot()), is_head)
        }
        ("GET" | "HEAD", "/metrics/prometheus") => {
            let text = render::prometheus(&directory.snapshot());
            page(200, "text/plain; version=0.0.4; charset=utf-8", &text, is_head)
        }
        ("GET" | "HEAD", "/" | "") => page(200, "text/html;charset=utf-8", INDEX, is_head),
        ("GET" | "HEAD", _) => {
            page(404, "text/plain", "not here; try /metrics or /metrics/prometheus\n", is_head)
        }
        _ => page(400, "text/plain", "this server answers GET only\n", false),
    }
}

const INDEX: &str = "<!doctype html><title>Millrace</title><p>Counters: <a href=\"/metrics\">/metrics</a> (JSON), \
                     <a href=\"/metrics/prometheus\">/metrics/prometheus</a>.\n";

fn page(status: u16, content_type: &str, body: &str, head_only: bool) -> Bytes {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        _ => "Request Header Fields Too Large",
    };
    let length = body.len();
    let body = if head_only { "" } else { body };
    Bytes::from(format!(
        "HTTP/1.1 {status} {reason}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{body}"
    ))
}

/// Where and how often Ganglia is told.
#[derive(Clone, Debug)]
pub struct GangliaOptions {
    /// `flume.monitoring.hosts`, resolved.
    pub hosts: Vec<SocketAddr>,
    /// `flume.monitoring.pollFrequency`.
    pub every: Duration,
    /// `flume.monitoring.isGanglia3`.
    pub version: Version,
    /// Name of this host in the metrics.
    pub host_name: String,
}

/// Tells Ganglia until the stop.
pub async fn run_ganglia(io: Io, options: GangliaOptions, directory: Arc<Directory>, stop: Stop) {
    let unspecified = |v6: bool| {
        SocketAddr::from(match v6 {
            true => (std::net::Ipv6Addr::UNSPECIFIED.into(), 0),
            false => (std::net::IpAddr::from(std::net::Ipv4Addr::UNSPECIFIED), 0),
        })
    };
    while stop.or(io.sleep(options.every)).await.is_some() {
        let packets = ganglia::packets(&directory.snapshot(), &options.host_name, options.version);
        for host in &options.hosts {
            let sent = async {
                let socket = io.bind_udp(unspecified(host.is_ipv6()), false)?;
                for packet in &packets {
                    socket.send_to(packet.clone(), *host).await?;
                }
                std::io::Result::Ok(())
            };
            if let Err(error) = sent.await {
                tracing::warn!(%host, %error, "cannot send the counters to Ganglia; trying again in {} s", options.every.as_secs());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::stop::{self, Phase};
    use crate::io::{EngineKind, run_local};
    use crate::metrics::SourceCounters;

    async fn get(io: &Io, address: SocketAddr, request: &str) -> String {
        let mut stream = io.connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text).await;
        text
    }

    #[test]
    fn pages_are_served_until_the_stop() {
        run_local(EngineKind::Portable, |io| async move {
            let directory = Arc::<Directory>::default();
            let counters = Arc::<SourceCounters>::default();
            directory.register_source("r1", Arc::clone(&counters), io.unix_time());
            let server = Server::bind(&io, "127.0.0.1:0".parse().unwrap(), directory).unwrap();
            let address = server.local_addr().unwrap();
            let (handle, stop) = stop::channel();
            let running = spawn(server.run(stop));

            counters.event_received.add(3);
            let page = get(&io, address, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert!(
                page.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/json;charset=utf-8\r\n"),
                "{page}"
            );
            let body = page.split("\r\n\r\n").nth(1).unwrap();
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            assert_eq!(json["SOURCE.r1"]["EventReceivedCount"], "3");
            let page = get(&io, address, "GET /metrics/prometheus?x=y HTTP/1.0\r\n\r\n").await;
            assert!(page.contains("millrace_source_event_received_total{source=\"r1\"} 3\n"), "{page}");
            assert!(get(&io, address, "GET / HTTP/1.1\r\n\r\n").await.contains("/metrics/prometheus"));
            for (request, status) in [
                ("GET /other HTTP/1.1\r\n\r\n", "404"),
                ("TRACE /metrics HTTP/1.1\r\n\r\n", "403"),
                ("OPTIONS /metrics HTTP/1.1\r\n\r\n", "403"),
                ("POST /metrics HTTP/1.1\r\n\r\n", "400"),
                ("\u{fffd}\u{0}\r\n\r\n", "400"),
            ] {
                let page = get(&io, address, request).await;
                assert!(page.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {page}");
            }
            let endless = format!("GET / HTTP/1.1\r\n{}", "x".repeat(HEAD_BYTES_MAX));
            assert!(get(&io, address, &endless).await.starts_with("HTTP/1.1 431 "));
            handle.request(Phase::Stopping);
            running.await.unwrap();
            assert!(io.connect(address).await.is_err());
        })
        .unwrap();
    }

    #[test]
    fn ganglia_is_told() {
        run_local(EngineKind::Portable, |io| async move {
            let directory = Arc::<Directory>::default();
            directory.register_source("r1", Arc::default(), io.unix_time());
            let gmond = io.bind_udp("127.0.0.1:0".parse().unwrap(), false).unwrap();
            let options = GangliaOptions {
                hosts: vec![gmond.local_addr().unwrap()],
                every: Duration::from_millis(10),
                version: Version::V31,
                host_name: "web1".to_owned(),
            };
            let (_handle, stop) = stop::channel();
            let running = spawn(run_ganglia(io.clone(), options, directory, stop));
            let (from, packet) = gmond.recv_from(Vec::with_capacity(2048)).await;
            from.unwrap();
            assert!(memchr::memmem::find(&packet, b"flume.SOURCE.r1.EventReceivedCount").is_some());
            running.abort();
        })
        .unwrap();
    }
}
