//! The http source over real sockets.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::config::Kind;
use crate::io::stop::{self, Phase, StopHandle};
use crate::io::{EngineKind, Io, Stream, run_local, spawn};
use crate::metrics::SourceCounters;
use crate::testing;

struct Fixture {
    io: Io,
    channel: Rc<crate::channel::memory::MemoryChannel>,
    counters: Arc<SourceCounters>,
    address: std::net::SocketAddr,
    handle: StopHandle,
    running: tokio::task::JoinHandle<Result<(), SourceError>>,
}

impl Fixture {
    async fn start(io: &Io, lines: &str, capacity: usize) -> Self {
        let lines = format!("bind = 127.0.0.1\nport = 0\n{lines}");
        let (config, complaints) = testing::parse(Kind::Source, &lines, read);
        assert_eq!(complaints, Vec::<String>::new());
        let channel = testing::memory_channel(io, capacity);
        let cx = testing::source_context(io, channel.clone());
        let counters = cx.counters.clone();
        let source = Arc::new(config.unwrap()).open(cx).await.unwrap();
        let address = source.describe().rsplit('/').next().unwrap().parse().unwrap();
        let (handle, stop) = stop::channel();
        let running = spawn(source.run(stop));
        Self { io: io.clone(), channel, counters, address, handle, running }
    }

    async fn connect(&self) -> Box<dyn Stream> {
        self.io.connect(self.address).await.unwrap()
    }

    /// Sends a request as it is; the answer's status line, head and body.
    async fn send(&self, request: &[u8]) -> String {
        let mut stream = self.connect().await;
        // The source may answer and close before it has read everything.
        let _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    async fn post(&self, body: &str) -> String {
        let size = body.len();
        self.send(
            format!(
                "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n{body}"
            )
            .as_bytes(),
        )
        .await
    }

    async fn bodies(&self) -> Vec<String> {
        testing::drain_bodies(&*self.channel).await
    }
}

fn run<F: Future<Output = ()>>(test: impl FnOnce(Io) -> F) {
    run_local(EngineKind::Portable, test).unwrap();
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or("no answer")
}

#[test]
fn events_are_in_the_channel_before_the_answer() {
    run(|io| async move {
        let source = Fixture::start(&io, "", 10).await;
        let answer = source.post(r#"[{"headers":{"k1":"v"},"body":"666 is http"},{"body":"two"}]"#).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("\r\n\r\n"), "no body");
        assert_eq!(source.bodies().await, ["666 is http", "two"]);
        let counters = &source.counters;
        let values = [
            &counters.event_received,
            &counters.event_accepted,
            &counters.append_batch_received,
            &counters.append_batch_accepted,
        ];
        assert_eq!(values.map(crate::metrics::Counter::value), [2, 2, 1, 1]);
    });
}

#[test]
fn status_codes_are_flumes() {
    run(|io| async move {
        let source = Fixture::start(&io, "", 2).await;
        let bad = source.post("[{").await;
        assert_eq!(status(&bad), "400");
        assert!(bad.contains("Bad request from client. Request has invalid JSON Syntax"), "{bad}");
        let empty = source.post("").await;
        assert_eq!(status(&empty), "500");
        assert!(empty.contains("Deserializer threw unexpected exception. "), "{empty}");
        assert_eq!(source.counters.event_read_fail.value(), 2);
        let latin = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json; charset=latin1\r\n\
                     Content-Length: 2\r\n\r\n[]";
        assert_eq!(status(&source.send(latin.as_bytes()).await), "500");
        assert_eq!(status(&source.post("[]").await), "200");
        let full = source.post("[{},{},{}]").await;
        assert_eq!(status(&full), "503");
        assert!(full.contains("Error appending event to channel. Channel might be full."), "{full}");
        assert_eq!(source.counters.channel_write_fail.value(), 1);
        for (method, expected) in [("TRACE", "403"), ("OPTIONS", "403"), ("PUT", "405"), ("DELETE", "405")] {
            let request = format!("{method} /any HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
            assert_eq!(status(&source.send(request.as_bytes()).await), expected, "{method}");
        }
        let get = "GET /p?x=y HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 15\r\n\r\n[{\"body\":\"got\"}]";
        assert_eq!(status(&source.send(get.replace("15", "16").as_bytes()).await), "200");
        assert_eq!(source.bodies().await, ["got"]);
    });
}

#[test]
fn connections_are_kept_and_chunks_put_together() {
    run(|io| async move {
        let source = Fixture::start(&io, "", 10).await;
        let mut stream = source.connect().await;
        let chunked = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n[{\"b\r\n10\r\nody\":\"a\"},{\"body\r\n6\r\n\":\"b\"}\r\n1\r\n]\r\n0\r\n\r\n";
        for _ in 0..2 {
            stream.write_all(chunked.as_bytes()).await.unwrap();
            let mut answer = vec![0; 1024];
            let count = stream.read(&mut answer).await.unwrap();
            assert!(answer[..count].starts_with(b"HTTP/1.1 200"));
        }
        assert_eq!(source.bodies().await, ["a", "b", "a", "b"]);
    });
}

#[test]
fn a_body_too_large_is_refused_in_bounded_memory() {
    run(|io| async move {
        let source = Fixture::start(&io, "maxRequestBytes = 1000", 10).await;
        let announced = source.post(&"x".repeat(1001)).await;
        assert_eq!(status(&announced), "413");
        assert!(
            announced.contains("larger than 1000 bytes")
                && announced.contains("maxRequestBytes of source r1"),
            "{announced}"
        );
        let chunk = format!("{:x}\r\n{}\r\n", 600, "x".repeat(600));
        let chunked = format!(
            "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}{chunk}0\r\n\r\n"
        );
        assert_eq!(status(&source.send(chunked.as_bytes()).await), "413");
        let asked = "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nExpect: 100-continue\r\nContent-Length: 2000000000\r\n\r\n";
        assert!(source.send(asked.as_bytes()).await.starts_with("HTTP/1.1 413"), "before anything is sent");
        assert_eq!(status(&source.post("[{\"body\":\"fits\"}]").await), "200", "others are not affected");
    });
}

#[test]
fn a_head_too_large_is_refused() {
    run(|io| async move {
        let source = Fixture::start(&io, "HttpConfiguration.requestHeaderSize = 8192", 10).await;
        let many: String = (0..1000).map(|i| format!("h{i}: v\r\n")).collect();
        for head in [format!("x: {}\r\n", "y".repeat(20_000)), many] {
            let answer = source.send(format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n").as_bytes()).await;
            assert_eq!(status(&answer), "431");
        }
    });
}

#[test]
fn silent_clients_are_cut_off() {
    run(|io| async move {
        let source = Fixture::start(&io, "ServerConnector.idleTimeout = 100", 10).await;
        let starts = ["", "POST / HT", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n[{"];
        for start in starts {
            let mut stream = source.connect().await;
            stream.write_all(start.as_bytes()).await.unwrap();
            let mut answer = String::new();
            // Ends only because the source closes the connection.
            let _ = stream.read_to_string(&mut answer).await;
            assert!(answer.is_empty() || status(&answer) == "408", "{start:?}: {answer}");
        }
        assert_eq!(source.bodies().await, Vec::<String>::new());
    });
}

#[test]
fn blobs() {
    run(|io| async move {
        let lines = "handler = org.apache.flume.sink.solr.morphline.BlobHandler\nhandler.maxBlobLength = 5";
        let source = Fixture::start(&io, lines, 10).await;
        let request =
            "POST /?a=1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 8\r\n\r\n12345678";
        assert_eq!(status(&source.send(request.as_bytes()).await), "200");
        let batches = testing::drain(&*source.channel).await;
        assert_eq!((batches[0].body(0), batches[0].header(0, "a")), (&b"12345"[..], Some("1")));
    });
}

#[test]
fn the_stop_lets_the_request_under_way_finish() {
    run(|io| async move {
        let source = Fixture::start(&io, "", 10).await;
        let idle = source.connect().await;
        let mut stream = source.connect().await;
        let body = r#"[{"body":"last"}]"#;
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        while source.counters.open_connection.value() < 2 {
            io.sleep(Duration::from_millis(1)).await;
        }
        stream.write_all(&body.as_bytes()[..3]).await.unwrap();
        io.sleep(Duration::from_millis(20)).await;
        source.handle.request(Phase::Stopping);
        io.sleep(Duration::from_millis(20)).await;
        stream.write_all(&body.as_bytes()[3..]).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let Fixture { running, channel, counters, .. } = source;
        running.await.unwrap().unwrap();
        drop(idle);
        assert_eq!(counters.open_connection.value(), 0);
        assert_eq!(testing::drain_bodies(&*channel).await, ["last"]);
    });
}

#[test]
fn properties_are_checked() {
    let table = [
        ("port = 1", None),
        ("", Some("x1.port: is required")),
        ("port = http", Some("not a port")),
        ("port = 1\nhandler = com.example.Mine", Some("not a handler this program has")),
        ("port = 1\nmaxRequestBytes = 0", Some("not a whole number above 0")),
        ("port = 1\nServerConnector.idleTimeout = 30s", Some("not a whole number")),
        (
            "port = 1\nQueuedThreadPool.maxThreads = 50",
            Some("warning: a1.sources.x1.QueuedThreadPool.maxThreads = \"50\": has no counterpart"),
        ),
    ];
    for (lines, part) in table {
        let (config, complaints) = testing::parse(Kind::Source, lines, read);
        match part {
            None => assert!(config.is_some() && complaints.is_empty(), "{complaints:?}"),
            Some(part) => assert!(complaints.iter().any(|c| c.contains(part)), "{lines}: {complaints:?}"),
        }
    }
}
