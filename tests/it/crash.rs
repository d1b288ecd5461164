//! `kill -9` at random moments: what was answered by OK must arrive, whatever else happens.
//!
//! `MILLRACE_CRASH_ROUNDS` and `MILLRACE_CRASH_SECONDS` make it longer, `MILLRACE_CRASH_RATE` (lines per second
//! and connection) keeps the files of a long run small enough to be compared (`scripts/crash-test`).

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::util::{Agent, Start, eventually, files, free_port, lines, scratch};

pub const LINE_BYTES: usize = 200;
const CONNECTIONS: usize = 8;

pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default)
}

fn flow(dir: &Path, port: u16) -> String {
    let dir = dir.display();
    format!(
        "a1.sources = r1\na1.channels = c1\na1.sinks = k1\n\
         a1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\na1.sources.r1.channels = c1\n\
         a1.channels.c1.type = file\na1.channels.c1.checkpointDir = {dir}/checkpoint\na1.channels.c1.dataDirs = {dir}/data\n\
         a1.channels.c1.capacity = 10000000\na1.channels.c1.transactionCapacity = 10000\na1.channels.c1.minimumRequiredSpace = 1048576\n\
         a1.sinks.k1.type = hdfs\na1.sinks.k1.channel = c1\na1.sinks.k1.hdfs.path = {dir}/out\na1.sinks.k1.hdfs.fileType = DataStream\n\
         a1.sinks.k1.hdfs.rollInterval = 0\na1.sinks.k1.hdfs.rollCount = 0\na1.sinks.k1.hdfs.rollSize = 20000000\na1.sinks.k1.hdfs.batchSize = 1000\n"
    )
}

/// One line of a connection: `<connection> <number> xxx…`, 200 bytes with its end.
pub fn line(connection: &str, number: u64) -> String {
    let mut line = format!("{connection} {number:010} ");
    line.extend(std::iter::repeat_n('x', LINE_BYTES - 1 - line.len()));
    line.push('\n');
    line
}

/// Sends lines until the connection breaks; returns how many were answered by OK.
fn send_until_broken(mut stream: TcpStream, connection: String, until: Instant) -> u64 {
    let mut answers = stream.try_clone().expect("a second handle");
    let reader = thread::spawn(move || {
        let (mut bytes, mut buffer) = (0, [0; 65536]);
        loop {
            match answers.read(&mut buffer) {
                Ok(0) | Err(_) => return bytes / 3,
                Ok(count) => {
                    let shift = (bytes % 3) as usize;
                    let wrong =
                        buffer[..count].iter().enumerate().find(|(i, b)| **b != b"OK\n"[(i + shift) % 3]);
                    assert!(
                        wrong.is_none(),
                        "not an OK: {:?}",
                        String::from_utf8_lossy(&buffer[..count.min(300)])
                    );
                    bytes += count as u64;
                }
            }
        }
    });
    let mut number = 0u64;
    let rate = setting("MILLRACE_CRASH_RATE", u64::MAX);
    let start = Instant::now();
    while Instant::now() < until {
        let due = start + Duration::from_millis(number.saturating_mul(1000) / rate);
        thread::park_timeout(due.saturating_duration_since(Instant::now()));
        let chunk: String = (0..50).map(|i| line(&connection, number + i)).collect();
        if stream.write_all(chunk.as_bytes()).is_err() {
            break;
        }
        number += 50;
    }
    reader.join().expect("the answers")
}

/// A small generator, so that a failure can be repeated: the seed is printed.
pub struct Random(pub u64);
impl Random {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

#[test]
fn what_was_answered_by_ok_survives_kill_9() {
    let rounds = setting("MILLRACE_CRASH_ROUNDS", 10);
    let millis = 1000 * setting("MILLRACE_CRASH_SECONDS", 1);
    let seed = setting("MILLRACE_CRASH_SEED", u64::from(std::process::id()));
    eprintln!("repeat with MILLRACE_CRASH_SEED={seed}");
    let mut random = Random(seed);
    let dir = scratch();
    let port = free_port();
    let mut answered: HashMap<String, u64> = HashMap::new();

    for round in 0..rounds {
        let agent = start(dir.path(), port);
        let kill_at = Instant::now() + Duration::from_millis(millis / 5 + random.below(millis));
        let until = kill_at + Duration::from_secs(30);
        let senders: Vec<_> = (0..CONNECTIONS)
            .map(|index| {
                let connection = format!("r{round}c{index}");
                let stream = crate::util::connect(port);
                (connection.clone(), thread::spawn(move || send_until_broken(stream, connection, until)))
            })
            .collect();
        thread::park_timeout(kill_at.saturating_duration_since(Instant::now()));
        agent.kill();
        for (connection, sender) in senders {
            answered.insert(connection, sender.join().expect("a sender"));
        }
    }
    let total: u64 = answered.values().sum();
    assert!(total > 0, "nothing was answered: the test shows nothing");

    let agent = start(dir.path(), port);
    let out = dir.path().join("out");
    let missing = |arrived: &[String]| -> Option<String> {
        let mut seen: HashMap<&str, Vec<bool>> =
            answered.iter().map(|(c, n)| (c.as_str(), vec![false; *n as usize])).collect();
        for (connection, number) in arrived.iter().filter_map(|l| parse(l)) {
            if let Some(slot) = seen.get_mut(connection).and_then(|s| s.get_mut(number as usize)) {
                *slot = true;
            }
        }
        seen.iter().find_map(|(c, s)| s.iter().position(|seen| !seen).map(|n| format!("{c} line {n}")))
    };
    let mut last = String::new();
    eventually(&format!("{total} answered lines are in the sink's files"), || match missing(&lines(&out)) {
        None => Some(()),
        Some(lost) => {
            if last != lost {
                last.clone_from(&lost);
            }
            thread::park_timeout(Duration::from_millis(200));
            None
        }
    });
    assert_eq!(agent.stop().code(), Some(0), "a clean stop");

    let arrived = lines(&out);
    assert_eq!(missing(&arrived), None);
    // Order: the first time each line of a connection arrives, its number is higher than all before.
    let mut highest: HashMap<&str, i64> = HashMap::new();
    let mut seen = std::collections::HashSet::new();
    for arrived in &arrived {
        let Some((connection, number)) = parse(arrived) else { panic!("a line nobody sent: {arrived:?}") };
        assert_eq!(arrived.len() + 1, LINE_BYTES, "a torn line: {arrived:?}");
        if seen.insert((connection, number)) {
            let highest = highest.entry(connection).or_insert(-1);
            assert!(number as i64 > *highest, "{connection}: line {number} after line {highest}");
            *highest = number as i64;
        }
    }
    let open: Vec<_> =
        files(&out).into_iter().filter(|f| f.extension().is_some_and(|e| e == "tmp")).collect();
    assert!(open.is_empty(), "files left open: {open:?}");
    let duplicates = arrived.len() - seen.len();
    eprintln!(
        "{total} lines answered, {} arrived, {duplicates} of them twice, {rounds} kills",
        arrived.len()
    );
}

fn start(dir: &Path, port: u16) -> Agent {
    Start::new(dir, flow(dir, port)).started()
}

/// Connection and number of a line.
pub fn parse(line: &str) -> Option<(&str, u64)> {
    let mut words = line.split(' ');
    Some((words.next()?, words.next()?.parse().ok()?))
}
