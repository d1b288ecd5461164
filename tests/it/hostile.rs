//! Clients that mean harm, against a whole agent: it stays within its memory, tells them what was wrong, and
//! its other flows go on. `HOSTILE=full` sends the whole gigabytes; otherwise a part of them is sent, which
//! every limit here stands below.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::http::get;
use crate::util::{Agent, Client, PATIENCE, Start, connect, eventually, free_port, lines, scratch};

const MIB: u64 = 1 << 20;
/// What a debug build of two shards may take on top of what it had when it started: 64 MiB of freed memory a
/// core, and what the sources' own limits allow.
const GROWTH_MAX: u64 = 384 * MIB;

/// The amount to send: the whole, or a part of it that breaks the same limits.
fn amount(part: u64, whole: u64) -> u64 {
    if std::env::var("HOSTILE").is_ok_and(|value| value == "full") { whole } else { part }
}

/// An agent with the attacked source `r1`, and a flow beside it whose clients must not notice.
struct Victim {
    dir: TempDir,
    agent: Agent,
    port: u16,
    monitoring: u16,
    resident_at_start: u64,
    clients: Vec<JoinHandle<(u64, Duration)>>,
    stop: Arc<AtomicBool>,
    /// One attack at a time: what is looked for is the agent's limits, not the machine's.
    _turn: MutexGuard<'static, ()>,
}

/// Clients of the other flow: enough that every shard serves one.
const CLIENTS: usize = 6;

impl Victim {
    /// `source`: the properties of `r1` but `port`; `channel`: those of its channel.
    fn start(source: &str, channel: &str) -> Self {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let (dir, port, quiet, monitoring) = (scratch(), free_port(), free_port(), free_port());
        let out = dir.path().join("out");
        fs::create_dir(&out).expect("a directory");
        let mut flow = format!(
            "a1.sources = r1 quiet\na1.channels = c1 c2\na1.sinks = k1 k2\n\
             a1.sources.r1.channels = c1\na1.sources.r1.port = {port}\n\
             a1.sinks.k1.type = null\na1.sinks.k1.channel = c1\n\
             a1.sources.quiet.type = netcat\na1.sources.quiet.bind = 127.0.0.1\na1.sources.quiet.port = {quiet}\n\
             a1.sources.quiet.channels = c2\na1.channels.c2.type = memory\n\
             a1.channels.c2.capacity = 10000\na1.channels.c2.keep-alive = 30\n\
             a1.sinks.k2.type = file_roll\na1.sinks.k2.channel = c2\na1.sinks.k2.sink.rollInterval = 0\n\
             a1.sinks.k2.sink.directory = {}\n",
            out.display()
        );
        for line in source.lines() {
            flow += &format!("a1.sources.r1.{}\n", line.trim());
        }
        for line in channel.lines() {
            flow += &format!(
                "a1.channels.c1.{}\n",
                line.trim().replace("{dir}", &dir.path().display().to_string())
            );
        }
        let agent = Start::new(dir.path(), flow)
            .arg("--shards")
            .arg("2")
            .arg("-Dflume.monitoring.type=http")
            .arg(format!("-Dflume.monitoring.port={monitoring}"))
            .started();
        let stop = Arc::new(AtomicBool::new(false));
        let clients = (0..CLIENTS).map(|client| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || steady(quiet, client, &stop))
        });
        let clients = clients.collect();
        let resident_at_start = high_water(&agent);
        Self { dir, agent, port, monitoring, resident_at_start, clients, stop, _turn: turn }
    }

    fn attack(&self) -> TcpStream {
        let stream = connect(self.port);
        stream.set_write_timeout(Some(PATIENCE)).expect("a limit");
        stream
    }

    fn count(&self, key: &str) -> u64 {
        let json: serde_json::Value = serde_json::from_str(&get(self.monitoring, "/metrics")).expect("JSON");
        json["SOURCE.r1"][key].as_str().expect("a count").parse().expect("a number")
    }

    /// The other flow has delivered every line in its order, and memory has stayed within its bound.
    /// Gives the longest wait of its clients.
    fn unharmed(self) -> Duration {
        let grown = high_water(&self.agent).saturating_sub(self.resident_at_start);
        assert!(grown <= GROWTH_MAX, "{} MiB more were taken", grown / MIB);
        self.stop.store(true, Ordering::Relaxed);
        let served: Vec<_> =
            self.clients.into_iter().map(|c| c.join().expect("a client of the other flow")).collect();
        assert_eq!(self.agent.stop().code(), Some(0));
        let found = lines(&self.dir.path().join("out"));
        for (client, (sent, _)) in served.iter().enumerate() {
            let of_client = format!("client {client} ");
            let found: Vec<_> = found.iter().filter_map(|line| line.strip_prefix(&of_client)).collect();
            let expected: Vec<_> = (0..*sent).map(|n| n.to_string()).collect();
            assert_eq!(found, expected, "client {client}");
        }
        let longest = served.iter().map(|(_, longest)| *longest).max().unwrap_or_default();
        let sent: u64 = served.iter().map(|(sent, _)| sent).sum();
        println!("{} MiB more, other flow: {sent} lines, longest wait {longest:?}", grown / MIB);
        assert!(longest < PATIENCE / 2, "the other flow stood still for {longest:?}");
        assert!(served.iter().all(|(sent, _)| *sent > 0));
        longest
    }
}

/// Sends a line, waits for its `OK`, and so on; how many, and the longest wait.
fn steady(port: u16, client: usize, stop: &AtomicBool) -> (u64, Duration) {
    let mut connection = Client::connect(port);
    let (mut sent, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        assert_eq!(connection.send(format!("client {client} {sent}\n")).answer(), "OK");
        longest = longest.max(asked.elapsed());
        sent += 1;
        thread::park_timeout(Duration::from_millis(2));
    }
    (sent, longest)
}

/// The most memory a process ever had, in bytes.
fn high_water(agent: &Agent) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("a running agent");
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).expect("a number") * 1024
}

/// Sends `bytes` bytes of `piece` again and again, from a thread of its own, until the other side has enough.
fn stream(to: &TcpStream, head: &str, piece: Vec<u8>, bytes: u64) -> JoinHandle<(u64, io::Result<()>)> {
    let mut to = to.try_clone().expect("a second handle");
    let head = head.to_owned();
    thread::spawn(move || {
        let mut sent = 0;
        let mut result = to.write_all(head.as_bytes());
        while result.is_ok() && sent < bytes {
            let count = piece.len().min((bytes - sent) as usize);
            result = to.write_all(&piece[..count]);
            sent += count as u64;
        }
        (sent, result)
    })
}

/// Everything the other side says until it closes, or until there was an answer and it goes on listening.
fn answer(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut part = [0; 4096];
    loop {
        match stream.read(&mut part) {
            Ok(0) => break,
            Ok(count) => text.extend_from_slice(&part[..count]),
            Err(error) if text.is_empty() => panic!("no answer: {error}"),
            Err(_) => break,
        }
        if text.ends_with(b"</html>\n") || text.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    String::from_utf8_lossy(&text).into_owned()
}

fn status(answer: &str) -> &str {
    answer.split(' ').nth(1).unwrap_or_default()
}

/// Posts a body of this size as it is; the answer.
fn post(stream: &mut TcpStream, body: &[u8]) -> String {
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let sender = self::stream(stream, &head, body.to_vec(), body.len() as u64);
    let text = answer(stream);
    let _ = sender.join().expect("the sender");
    text
}

const ROOMY: &str = "type = memory\ncapacity = 100000\ntransactionCapacity = 10000";

#[test]
fn two_gigabytes_of_json() {
    let victim = Victim::start("type = http\nbind = 127.0.0.1", ROOMY);
    let whole = 2048 * MIB;
    let sent = amount(192 * MIB, whole);
    let event = br#"{"body":"0123456789012345678901234567890123456789012345678901234567890123456789"},"#;
    let events = event.repeat(1024);

    let announced = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {whole}\r\n\r\n[");
    let mut client = victim.attack();
    let sender = stream(&client, &announced, events.clone(), sent);
    let told = answer(&mut client);
    assert_eq!(status(&told), "413", "{told}");
    assert!(
        told.contains("larger than 33554432 bytes") && told.contains("maxRequestBytes of source r1"),
        "{told}"
    );
    let _ = client.shutdown(Shutdown::Both);
    let _ = sender.join().expect("the sender");
    // Nor does it help to fall silent then.
    let mut client = victim.attack();
    client.write_all(announced.as_bytes()).expect("a head");
    assert_eq!(status(&answer(&mut client)), "413");
    client.read_to_end(&mut Vec::new()).expect("the connection is closed");

    // Who sends everything before it reads gets its answer too, and may go on.
    let mut client = victim.attack();
    let large = vec![b' '; 40 << 20];
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", large.len());
    client.write_all(head.as_bytes()).and_then(|()| client.write_all(&large)).expect("a large request");
    assert_eq!(status(&answer(&mut client)), "413");
    assert_eq!(status(&post(&mut client, br#"[{"body":"small"}]"#)), "200");

    // Not announced: it shows when the limit is reached.
    let mut chunk = format!("{:x}\r\n", events.len()).into_bytes();
    chunk.extend_from_slice(&events);
    chunk.extend_from_slice(b"\r\n");
    let unannounced = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n[\r\n";
    let mut clients: Vec<_> = (0..8)
        .map(|_| {
            let client = victim.attack();
            let sender = stream(&client, unannounced, chunk.clone(), sent / 4);
            (client, sender)
        })
        .collect();
    for (client, _) in &mut clients {
        let told = answer(client);
        // Several at once are more than the source takes into work.
        assert!(["413", "503"].contains(&status(&told)), "{told}");
        let _ = client.shutdown(Shutdown::Both);
    }
    for (_, sender) in clients {
        let _ = sender.join().expect("the sender");
    }

    // Who asks first need not send it.
    let mut client = victim.attack();
    let asking = announced.replace("\r\n\r\n[", "\r\nExpect: 100-continue\r\n\r\n");
    client.write_all(asking.as_bytes()).expect("a head");
    assert_eq!(status(&answer(&mut client)), "413");

    // And the source still takes what it can.
    assert_eq!(status(&post(&mut victim.attack(), br#"[{"body":"small"}]"#)), "200");
    victim.unharmed();
}

#[test]
fn a_million_headers_and_other_odd_json() {
    let file = "type = file\ncheckpointDir = {dir}/checkpoint\ndataDirs = {dir}/data\nminimumRequiredSpace = 1048576";
    for channel in [ROOMY, file] {
        let victim = Victim::start("type = http\nbind = 127.0.0.1", channel);
        let mut headers = String::from(r#"[{"headers":{"k":"v""#);
        let count = amount(200_000, 1_000_000);
        for n in 0..count {
            headers += &format!(r#","k{n}":"v""#);
        }
        headers += r#"},"body":"rich"}]"#;
        let told = post(&mut victim.attack(), headers.as_bytes());
        assert_eq!(status(&told), "200", "{told}");
        // One of them twice.
        let twice = headers.replace(&format!("\"k{}\"", count - 1), r#""k0""#);
        let told = post(&mut victim.attack(), twice.as_bytes());
        assert_eq!(status(&told), "400", "{told}");
        assert!(told.contains("\"k0\"") && told.contains("twice"), "{told}");
        for (body, expected) in [
            (&b"[{\"headers\":{\"\xff\":\"\xfe\"},\"body\":\"\xff\xfe\xfd\"}]"[..], "200"),
            (b"\xff\xff\xff\xff", "400"),
            (&*[&b"[{\"other\":"[..], &b"[".repeat(8 << 20)].concat(), "400"),
            (&*b"[".repeat(8 << 20), "400"),
            (&*[&b"[{\"body\":\""[..], &b"\\u0".repeat(1 << 20)].concat(), "400"),
            (&*[&b"["[..], &b"{},".repeat(1 << 20), b"{}]"].concat(), "503"),
        ] {
            let told = post(&mut victim.attack(), body);
            let shown = String::from_utf8_lossy(&body[..body.len().min(40)]).into_owned();
            assert_eq!(status(&told), expected, "{shown}: {told}");
        }
        // Whoever sent it can be found.
        let log = victim.agent.log();
        let line = log.lines().find(|line| line.contains("twice")).expect("a warning");
        assert!(line.contains("peer=127.0.0.1:"), "{line}");
        assert!(log.len() < 64 * 1024, "the log has {} bytes", log.len());
        assert_eq!(victim.count("EventAcceptedCount"), 2);
        victim.unharmed();
    }
}

#[test]
fn a_long_request_holds_nobody_up() {
    let victim = Victim::start("type = http\nbind = 127.0.0.1", ROOMY);
    let mut headers = String::from(r#"[{"headers":{"k":"v""#);
    for n in 0..amount(300_000, 1_000_000) {
        // Not in order, so that looking for repeated names takes its time.
        headers += &format!(r#","{:x}":"v""#, n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    }
    headers += r#"},"body":"rich"}]"#;
    let mut attacker = victim.attack();
    let head = format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", headers.len());
    attacker
        .write_all(head.as_bytes())
        .and_then(|()| attacker.write_all(headers.as_bytes()))
        .expect("a request");
    let sent = Instant::now();
    assert_eq!(status(&answer(&mut attacker)), "200");
    let took = sent.elapsed();
    // Every shard serves clients of the other flow all the time.
    let longest = victim.unharmed();
    println!("answered after {took:?}, others waited {longest:?}");
    assert!(longest < took / 2, "answered after {took:?}, others waited {longest:?}");
}

#[test]
fn a_gigabyte_without_a_line_feed() {
    let whole = amount(64 * MIB, 1024 * MIB);
    let junk = b"x\xff".repeat(64 * 1024);
    for (limit, told) in [
        ("", "FAILED: Event exceeds the maximum length (512 chars, including newline)"),
        (
            "\nmax-line-length = 2000000000",
            "FAILED: unfinished lines of all connections exceed 16777216 bytes",
        ),
    ] {
        let victim = Victim::start(&format!("type = netcat\nbind = 127.0.0.1{limit}"), ROOMY);
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let stream = victim.attack();
                let sender = self::stream(&stream, "", junk.clone(), whole);
                (stream, sender)
            })
            .collect();
        for (mut client, sender) in clients {
            let mut said = Vec::new();
            // The connection is closed with what was not read; what was answered has arrived.
            let _ = client.read_to_end(&mut said);
            assert!(String::from_utf8_lossy(&said).starts_with(told), "{:?}", String::from_utf8_lossy(&said));
            let (sent, result) = sender.join().expect("the sender");
            assert!(result.is_err() || sent == whole);
        }
        assert!(victim.count("EventReadFail") >= 4);
        eventually("all are gone", || (victim.count("OpenConnectionCount") == 0).then_some(()));
        victim.unharmed();
    }
    // Syslog has no answer: a message that is too long comes in pieces.
    let victim = Victim::start("type = syslogtcp\nhost = 127.0.0.1", ROOMY);
    let (_, result) = stream(&victim.attack(), "<13>", junk, whole).join().expect("the sender");
    result.expect("all is read");
    eventually("all is taken", || (victim.count("EventAcceptedCount") >= whole / 2500).then_some(()));
    victim.unharmed();
    // And many unfinished ones are too much.
    let victim = Victim::start("type = syslogtcp\nhost = 127.0.0.1\neventSize = 16777216", ROOMY);
    let unfinished = vec![b'x'; 15 << 20];
    let clients: Vec<_> = (0..6)
        .map(|_| {
            let client = victim.attack();
            let sender = stream(&client, "<13>", unfinished.clone(), unfinished.len() as u64);
            (client, sender)
        })
        .collect();
    victim.agent.wait_log("too many unfinished messages; connection closed");
    let log = victim.agent.log();
    let line = log.lines().find(|line| line.contains("too many unfinished")).expect("a warning");
    assert!(line.contains("peer=127.0.0.1:"), "{line}");
    for (client, sender) in clients {
        let _ = client.shutdown(Shutdown::Both);
        let _ = sender.join().expect("the sender");
    }
    victim.unharmed();
}

#[test]
fn clients_that_are_slow_on_purpose() {
    let victim = Victim::start("type = http\nbind = 127.0.0.1\nServerConnector.idleTimeout = 1000", ROOMY);
    let heads = "POST / HTTP/1.1\r\nHost: x\r\nX-Slow: ";
    let body = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n[";
    let mut slow: Vec<_> =
        (0..200).map(|n| (victim.attack(), if n % 2 == 0 { heads } else { body })).collect();
    for (client, start) in &mut slow {
        client.write_all(start.as_bytes()).expect("the beginning");
    }
    // One more byte now and then does not help them.
    eventually("all are closed", || {
        slow.retain_mut(|(client, _)| client.write_all(b" ").is_ok());
        thread::park_timeout(Duration::from_millis(100));
        slow.is_empty().then_some(())
    });
    // Nor may a client ask and never read.
    let client = victim.attack();
    let asks = "GET / HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000).into_bytes();
    let (_, result) = stream(&client, "", asks, 1 << 40).join().expect("the sender");
    let error = result.expect_err("it is closed");
    assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "it was never closed");
    assert_eq!(status(&post(&mut victim.attack(), br#"[{"body":"quick"}]"#)), "200");
    victim.unharmed();

    // Lines have no time limit, as with Flume; they take no room either.
    for source in ["type = netcat\nbind = 127.0.0.1", "type = syslogtcp\nhost = 127.0.0.1"] {
        let victim = Victim::start(source, ROOMY);
        let mut slow: Vec<_> = (0..200).map(|_| victim.attack()).collect();
        for byte in b"<13>a slow line\n" {
            for client in &mut slow {
                client.write_all(&[*byte]).expect("a byte");
            }
        }
        eventually("all lines are taken", || (victim.count("EventAcceptedCount") == 200).then_some(()));
        victim.unharmed();
    }
}

#[test]
fn ten_thousand_idle_connections() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).expect("the limit of open files is raised");
    // Other tests of this process want some too.
    let most = limit.maximum.map_or(10_000, |most| most.saturating_sub(1000).min(10_000)) as usize;
    let share = most / 3;
    for source in [
        "type = netcat\nbind = 127.0.0.1",
        "type = syslogtcp\nhost = 127.0.0.1",
        "type = http\nbind = 127.0.0.1",
    ] {
        let victim = Victim::start(source, ROOMY);
        let count = amount(share as u64, most as u64);
        let idle: Vec<_> = (0..count).map(|_| connect(victim.port)).collect();
        eventually("all are served", || (victim.count("OpenConnectionCount") == count).then_some(()));
        let mut client = victim.attack();
        if source.contains("http") {
            assert_eq!(status(&post(&mut client, br#"[{"body":"busy"}]"#)), "200");
        } else {
            client.write_all(b"busy\n").expect("a line");
        }
        eventually("one more is served", || (victim.count("EventAcceptedCount") == 1).then_some(()));
        let each = high_water(&victim.agent).saturating_sub(victim.resident_at_start) / count;
        println!("{count} idle connections, {each} bytes each");
        assert!(each < 16 * 1024, "{each} bytes for an idle connection");
        drop((idle, client));
        eventually("all are gone", || (victim.count("OpenConnectionCount") == 0).then_some(()));
        victim.unharmed();
    }
}

#[test]
fn floods_of_datagrams() {
    for source in ["type = netcatudp\nbind = 127.0.0.1", "type = syslogudp\nhost = 127.0.0.1"] {
        let victim = Victim::start(source, "type = memory\ncapacity = 1000\nkeep-alive = 0");
        let until = Instant::now() + Duration::from_secs(amount(2, 30));
        let floods: Vec<_> = (0..4)
            .map(|n| {
                let to = ("127.0.0.1", victim.port);
                let datagram = match n {
                    0 => Vec::new(),
                    1 => b"<13>\xff\xfe".to_vec(),
                    2 => b"<999>1 - - - - - -".repeat(70),
                    _ => b"\x00".repeat(65_507),
                };
                thread::spawn(move || {
                    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
                    let mut sent = 0u64;
                    while Instant::now() < until {
                        // Refused when the kernel has no room; that is what a flood is.
                        sent += u64::from(socket.send_to(&datagram, to).is_ok());
                    }
                    sent
                })
            })
            .collect();
        let sent: u64 = floods.into_iter().map(|f| f.join().expect("a flood")).sum();
        let mut before = victim.count("EventReceivedCount");
        assert!(before > 0 && sent > 1000, "{before} of {sent}");
        // It goes on as if nothing had been.
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        eventually("the backlog is worked off", || {
            thread::park_timeout(Duration::from_millis(100));
            let now = victim.count("EventReceivedCount");
            let is_quiet = now == before;
            before = now;
            is_quiet.then_some(())
        });
        let accepted = victim.count("EventAcceptedCount");
        socket.send_to(b"<13>after", ("127.0.0.1", victim.port)).expect("a datagram");
        eventually("the next datagram is taken", || {
            (victim.count("EventAcceptedCount") > accepted).then_some(())
        });
        let log = victim.agent.log().len();
        println!("{sent} datagrams sent, {before} received; log of {log} bytes");
        assert!(log < 1 << 20, "the log has {log} bytes");
        victim.unharmed();
    }
}
