//! Peers that lie, swell, stall and crowd: one clear line in the log with their address, their connection
//! closed, memory bounded, and the flow next door goes on.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use millrace::codec::avro::protocol::Offer;
use millrace::codec::avro::session::AvroClient;
use millrace::event::{BatchBuilder, EventBatch};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::util::{Agent, Client, Start, connect, eventually, free_port, lines, scratch};

/// What the agent may need at its worst: 256 MiB of unfinished calls on a shard, the buffers they grow out of,
/// one call that is put, and the program itself. A bomb that went off would be 768 MiB and more.
const MEMORY_MAX: u64 = 512 << 20;

fn high_water(agent: &Agent) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", agent.pid())).expect("status");
    let line = status.lines().find(|l| l.starts_with("VmHWM:")).expect("VmHWM");
    line.split_whitespace().nth(1).and_then(|n| n.parse::<u64>().ok()).expect("a number") * 1024
}

/// Sends bytes and reads until the agent closes; the own address.
fn offend(port: u16, bytes: &[u8]) -> SocketAddr {
    let mut stream = connect(port);
    let address = stream.local_addr().expect("an address");
    // The agent may close while we still write.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "not closed");
    }
    address
}

/// The line of the log about a peer that was shown the door.
fn complaint(agent: &Agent, peer: SocketAddr) -> String {
    let peer = format!("peer={peer} ");
    let about = || -> Vec<String> {
        let log = agent.log();
        let found = log.lines().filter(|l| l.contains(&peer) && l.contains("connection closed"));
        found.map(str::to_owned).collect()
    };
    eventually(&format!("a line about {peer}"), || (!about().is_empty()).then_some(()));
    let found = about();
    assert_eq!(found.len(), 1, "{found:?}");
    found.into_iter().next().unwrap_or_default()
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

fn batch(body: &[u8]) -> EventBatch {
    let mut batch = BatchBuilder::default();
    batch.push(body);
    batch.finish()
}

/// Shakes hands and delivers one event.
fn shake_hands(stream: &mut TcpStream, offer: Offer) -> AvroClient {
    let mut client = AvroClient::new(offer);
    let mut out = BytesMut::new();
    client.put_call(&mut out, &batch(b"hello"), false).expect("a call");
    stream.write_all(&out).expect("send");
    let mut buffer = [0; 4096];
    loop {
        let count = stream.read(&mut buffer).expect("an answer");
        assert!(count > 0, "closed");
        if client.feed(&mut &buffer[..count]).expect("an answer").is_some() {
            return client;
        }
    }
}

/// Bytes the size of a frame's start and zeros, deflated: a hundredth of the `size` they unfold to.
fn deflate_bomb(size: u32) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&words(&[1, 1, size])).expect("deflate");
    let zeros = vec![0; 1 << 20];
    // The last byte is missing: the call stays unfinished.
    let mut left = size as usize - 1;
    while left > 0 {
        let piece = left.min(zeros.len());
        encoder.write_all(&zeros[..piece]).expect("deflate");
        left -= piece;
    }
    encoder.flush().expect("deflate");
    encoder.get_ref().clone()
}

/// A client that sends calls and never reads an answer.
struct Silent {
    stream: TcpStream,
    calls: BytesMut,
    /// What of the calls is sent; they repeat without end.
    at: usize,
}

impl Silent {
    fn connect(port: u16) -> Self {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.connect(&SocketAddr::from(([127, 0, 0, 1], port)).into()).expect("connect");
        let mut stream = TcpStream::from(socket);
        let mut client = shake_hands(&mut stream, Offer::default());
        let mut calls = BytesMut::new();
        (0..1000).for_each(|_| client.put_call(&mut calls, &batch(b"x"), true).expect("a call"));
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a limit");
        Self { stream, calls, at: 0 }
    }
    /// Sends until nothing more is taken for two seconds, or it is closed.
    fn press(&mut self) -> std::io::ErrorKind {
        let start = Instant::now();
        loop {
            match self.stream.write(&self.calls[self.at..]) {
                Ok(written) => {
                    assert!(
                        written > 0 && start.elapsed() < crate::util::PATIENCE,
                        "the agent reads without end"
                    );
                    self.at = (self.at + written) % self.calls.len();
                }
                Err(error) => return error.kind(),
            }
        }
    }
}

#[test]
fn hostile_peers_harm_themselves_only() {
    // 5,000 connections, both ends.
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).expect("files");
    let dir = scratch();
    let out = dir.path().join("out");
    std::fs::create_dir(&out).expect("a directory");
    let [avro, deflate, thrift, netcat] = [(); 4].map(|()| free_port());
    let flow = format!(
        "a1.sources = avro deflate thrift good\na1.channels = c1 c2\na1.sinks = k1 k2\n\
         a1.sources.avro.type = avro\na1.sources.avro.bind = 127.0.0.1\na1.sources.avro.port = {avro}\na1.sources.avro.channels = c1\n\
         a1.sources.deflate.type = avro\na1.sources.deflate.bind = 127.0.0.1\na1.sources.deflate.port = {deflate}\n\
         a1.sources.deflate.channels = c1\na1.sources.deflate.compression-type = deflate\n\
         a1.sources.thrift.type = thrift\na1.sources.thrift.bind = 127.0.0.1\na1.sources.thrift.port = {thrift}\na1.sources.thrift.channels = c1\n\
         a1.channels.c1.type = memory\na1.channels.c1.capacity = 10000\na1.channels.c1.byteCapacity = 100000000\n\
         a1.sinks.k1.type = null\na1.sinks.k1.channel = c1\n\
         a1.sources.good.type = netcat\na1.sources.good.bind = 127.0.0.1\na1.sources.good.port = {netcat}\na1.sources.good.channels = c2\n\
         a1.channels.c2.type = memory\na1.sinks.k2.type = file_roll\na1.sinks.k2.channel = c2\n\
         a1.sinks.k2.sink.directory = {}\na1.sinks.k2.sink.rollInterval = 0\n",
        out.display()
    );
    let agent = Start::new(dir.path(), flow).arg("--shards").arg("1").started();
    let mut good = Client::connect(netcat);
    let mut sent = Vec::new();
    let mut goes_on = |after: &str| {
        assert_eq!(good.send(format!("{after}\n")).answer(), "OK", "after {after}");
        sent.push(after.to_owned());
        let memory = high_water(&agent);
        assert!(memory < MEMORY_MAX, "{} MiB after {after}", memory >> 20);
        eprintln!("{:4} MiB after {after}", memory >> 20);
    };

    // Lies about sizes, and other protocols.
    for (port, bytes, reason) in [
        (avro, words(&[1, 0x7fff_ffff]), "2147483647 buffers"),
        (avro, words(&[1, 0x8000_0000]), "-2147483648 buffers"),
        (avro, words(&[1, 1, 0x7fff_ffff]), "a buffer of 2147483647 bytes"),
        (avro, [words(&[1, 1, 2]), vec![1, 2]].concat(), "not an Avro handshake"),
        (avro, b"GET / HTTP/1.1\r\n\r\n".to_vec(), "HTTP"),
        (deflate, words(&[1, 1, 0x7fff_ffff]), "compression-type"),
        (thrift, words(&[0x7fff_ffff]), "2147483647"),
        (thrift, vec![0x16, 3, 1, 2, 0], "TLS"),
    ] {
        let line = complaint(&agent, offend(port, &bytes));
        assert!(line.contains(reason) && line.contains("WARN"), "{reason}: {line}");
    }
    goes_on("lies");

    // A handshake that ends in the middle.
    let mut half = connect(avro);
    half.write_all(&[words(&[1, 1, 60]), vec![7; 20]].concat()).expect("send");
    let peer = half.local_addr().expect("an address");
    half.shutdown(std::net::Shutdown::Write).expect("half");
    let line = complaint(&agent, peer);
    assert!(line.contains("left in the middle of a call"), "{line}");
    goes_on("a truncated handshake");

    // A row of zstd bombs in one breath: 16 times 48 MiB.
    let mut stream = connect(avro);
    let mut client = shake_hands(&mut stream, Offer { columns: true, zstd: true });
    let (bomb, mut out_bytes) = (batch(&vec![0; 48 << 20]), BytesMut::new());
    (0..16).for_each(|_| client.put_call(&mut out_bytes, &bomb, false).expect("a call"));
    assert!(out_bytes.len() < 256 * 1024, "no bombs: {} bytes", out_bytes.len());
    drop(bomb);
    stream.write_all(&out_bytes).expect("send");
    let (mut answers, mut buffer) = (0, [0; 4096]);
    while answers < 16 {
        let count = stream.read(&mut buffer).expect("an answer");
        assert!(count > 0, "closed");
        let mut rest = &buffer[..count];
        while client.feed(&mut rest).expect("an answer").is_some() {
            answers += 1;
        }
    }
    goes_on("zstd bombs");

    // Deflate bombs that stay unfinished: the ones that would exceed what a shard holds are closed.
    let bomb = deflate_bomb(60 << 20);
    assert!(bomb.len() < 1 << 20, "no bomb: {} bytes", bomb.len());
    let bombs: Vec<TcpStream> = (0..6)
        .map(|_| {
            let mut stream = connect(deflate);
            let _ = stream.write_all(&bomb);
            stream
        })
        .collect();
    agent.wait_log("bytes of unfinished calls are in memory on this shard");
    goes_on("deflate bombs");
    drop(bombs);

    // A client that never reads its answers: nothing more is read from it.
    let mut silent = Silent::connect(avro);
    assert_eq!(silent.press(), std::io::ErrorKind::WouldBlock);
    goes_on("a client that does not read");
    drop(silent);

    // A crowd. Every one of them is served.
    let mut crowd: Vec<TcpStream> = (0..5000).map(|_| connect(avro)).collect();
    goes_on("5,000 connections");
    for stream in crowd.iter_mut().step_by(500) {
        shake_hands(stream, Offer::default());
    }
    drop(crowd);
    goes_on("the crowd has left");

    eventually("the other flow's lines are in its file", || (lines(&out) == sent).then_some(()));
    assert_eq!(agent.stop().code(), Some(0));
}

/// Thousands of calls in one breath, whose answers are more than the agent keeps for one client: a client that
/// reads gets them all.
#[test]
fn a_breathless_client_gets_every_answer() {
    const CALLS: usize = 20_000;
    let dir = scratch();
    let port = free_port();
    let flow = format!(
        "a1.sources = avro\na1.channels = c1\na1.sinks = k1\na1.sources.avro.type = avro\na1.sources.avro.bind = 127.0.0.1\n\
         a1.sources.avro.port = {port}\na1.sources.avro.channels = c1\n\
         a1.channels.c1.type = memory\na1.channels.c1.capacity = 10000\na1.sinks.k1.type = null\na1.sinks.k1.channel = c1\n"
    );
    let agent = Start::new(dir.path(), flow).started();
    let mut stream = connect(port);
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
    let mut client = shake_hands(&mut stream, Offer::default());
    let mut calls = BytesMut::new();
    (0..CALLS).for_each(|_| client.put_call(&mut calls, &batch(b"x"), true).expect("a call"));
    let mut writer = stream.try_clone().expect("a second handle");
    let sender = std::thread::spawn(move || writer.write_all(&calls).expect("send"));
    let (mut answers, mut input, mut buffer) = (0, Vec::new(), [0; 65536]);
    while answers < CALLS {
        let count = stream.read(&mut buffer);
        let count = count.unwrap_or_else(|e| panic!("{answers} of {CALLS} answers, then {e}"));
        assert!(count > 0, "closed after {answers} answers");
        input.extend_from_slice(&buffer[..count]);
        let mut rest = &input[..];
        while client.feed(&mut rest).expect("an answer").is_some() {
            answers += 1;
        }
        let left = rest.len();
        input.drain(..input.len() - left);
    }
    sender.join().expect("the sender");
    assert_eq!(agent.stop().code(), Some(0));
}

/// After a minute without progress it is shown the door. No property shortens that, so the proof is one of
/// `scripts/nightly hostile`.
#[test]
fn a_client_that_never_reads_its_answers_is_closed_after_a_minute() {
    if !std::env::var("HOSTILE").is_ok_and(|h| h == "full") {
        return eprintln!("skipped: takes a minute; HOSTILE=full runs it");
    }
    let dir = scratch();
    let (avro, netcat) = (free_port(), free_port());
    let flow = format!(
        "a1.sources = avro good\na1.channels = c1\na1.sinks = k1\n\
         a1.sources.avro.type = avro\na1.sources.avro.bind = 127.0.0.1\na1.sources.avro.port = {avro}\na1.sources.avro.channels = c1\n\
         a1.sources.good.type = netcat\na1.sources.good.bind = 127.0.0.1\na1.sources.good.port = {netcat}\na1.sources.good.channels = c1\n\
         a1.channels.c1.type = memory\na1.channels.c1.capacity = 10000\na1.sinks.k1.type = null\na1.sinks.k1.channel = c1\n"
    );
    let agent = Start::new(dir.path(), flow).arg("--shards").arg("1").started();
    let mut silent = Silent::connect(avro);
    let peer = silent.stream.local_addr().expect("an address");
    let mut good = Client::connect(netcat);
    // A busy agent may take more after a pause: then its minute begins anew.
    let (deadline, mut pressed) = (Instant::now() + Duration::from_secs(300), Instant::now());
    loop {
        let at = silent.at;
        let end = silent.press();
        assert_eq!(good.send("meanwhile\n").answer(), "OK");
        match end {
            std::io::ErrorKind::WouldBlock if silent.at != at => pressed = Instant::now(),
            std::io::ErrorKind::WouldBlock => assert!(Instant::now() < deadline, "it is not closed"),
            _ => break,
        }
    }
    assert!(pressed.elapsed() > Duration::from_secs(50), "closed after {:?}", pressed.elapsed());
    let line = complaint(&agent, peer);
    assert!(line.contains("does not read its answers") && line.contains("WARN"), "{line}");
    assert_eq!(agent.stop().code(), Some(0));
}
