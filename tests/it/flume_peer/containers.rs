//! Avro containers of our serializers, read by the library Flume's users read them with.

use std::collections::HashMap;
use std::io::{Read, Write};

use super::*;
use crate::util::scratch;

/// Answers every request with this text.
fn answering(text: &'static str) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                if stream.read(&mut byte).unwrap_or(0) == 0 {
                    break;
                }
                request.push(byte[0]);
            }
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
            let _ = stream.write_all((head + text).as_bytes());
        }
    });
    port
}

/// Bodies that are Avro data, under schemas from a header, from its address and from a fixed address, and
/// whole events: in every codec, to the disk and below `hdfs`, read by the library Flume's users read them with.
#[test]
fn avros_own_library_reads_our_containers() {
    let Some(flume) = require_flume("1.11.0") else { return };
    let dir = scratch();
    let schema = dir.path().join("string.avsc");
    fs::write(&schema, "{ \"type\" : \"string\" }").unwrap();
    let codecs = ["null", "deflate", "snappy", "bzip2", "xz", "zstandard"];
    let fixed = answering(
        r#"{"type":"record","name":"Line","namespace":"x.y","doc":"d","fields":[{"name":"text","type":"string"}]}"#,
    );
    let port = free_port();
    let mut flow = format!(
        "a1.sources = r1\na1.sources.r1.type = http\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\n"
    );
    let mut list = |kind: &str, codec: &str, index: usize| {
        let name = format!("{kind}{codec}");
        let out = dir.path().join(&name);
        fs::create_dir(&out).unwrap();
        let sink = format!("a1.sinks.{name}");
        let (key, options) = match index % 2 {
            0 => (
                "sink.serializer",
                format!(
                    "{sink}.type = file_roll\n{sink}.sink.directory = {}\n{sink}.sink.rollInterval = 0\n",
                    out.display()
                ),
            ),
            _ => (
                "serializer",
                format!(
                    "{sink}.type = hdfs\n{sink}.hdfs.path = file://{}\n{sink}.hdfs.fileType = DataStream\n{sink}.hdfs.journalDir = {}\n\
                 {sink}.hdfs.rollInterval = 0\n{sink}.hdfs.rollSize = 0\n{sink}.hdfs.rollCount = 0\n",
                    out.display(),
                    dir.path().join("journal").display()
                ),
            ),
        };
        let class = match kind {
            "body" => format!(
                "org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\n{sink}.{key}.schemaURL = http://127.0.0.1:{fixed}/s"
            ),
            _ => "avro_event".to_owned(),
        };
        flow.push_str(&format!(
            "{sink}.channel = c{name}\na1.channels.c{name}.type = memory\n{options}{sink}.{key} = {class}\n\
             {sink}.{key}.compressionCodec = {codec}\n{sink}.{key}.syncIntervalBytes = 100\n"
        ));
        name
    };
    let mut names = Vec::new();
    for (index, codec) in codecs.iter().enumerate() {
        names.push(list("body", codec, index));
        names.push(list("event", codec, index + 1));
    }
    let channels: Vec<String> = names.iter().map(|n| format!("c{n}")).collect();
    flow.push_str(&format!(
        "a1.sinks = {}\na1.channels = {1}\na1.sources.r1.channels = {1}\n",
        names.join(" "),
        channels.join(" ")
    ));
    let agent = Start::new(dir.path(), flow).started();
    let url = format!("file://{}", schema.display());
    let mut events: Vec<String> = Vec::new();
    for _ in 0..25 {
        events.push(
            r#"{"headers":{"flume.avro.schema.literal":"[\"null\",\"string\"]"},"body":"\u0002\u0006one"}"#
                .to_owned(),
        );
        events.push(format!(r#"{{"headers":{{"flume.avro.schema.url":"{url}"}},"body":"\u0006two"}}"#));
        events.push(r#"{"headers":{"k":"v"},"body":"\nthree"}"#.to_owned());
    }
    let body = format!("[{}]", events.join(","));
    let mut client = TcpStream::connect(("127.0.0.1", port)).unwrap();
    write!(
        client,
        "POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let log = agent.log();
    assert!(agent.stop().success(), "{log}");
    let files: Vec<PathBuf> =
        names.iter().flat_map(|name| crate::util::files(&dir.path().join(name))).collect();
    let read = Command::new(&flume).arg("read-avro").args(&files).output().unwrap();
    assert!(read.status.success(), "{}\n{log}", String::from_utf8_lossy(&read.stderr));
    let text = String::from_utf8(read.stdout).unwrap();
    for name in names {
        let below = format!("{}/", dir.path().join(&name).display());
        let mut counts: HashMap<&str, usize> = HashMap::new();
        let mut ours = false;
        for line in text.lines() {
            match files.iter().any(|f| f.as_os_str() == line) {
                true => ours = line.starts_with(&below),
                false if ours => *counts.entry(line).or_default() += 1,
                false => {}
            }
        }
        let codec = name.trim_start_matches("body").trim_start_matches("event");
        let mut expected: Vec<(String, usize)> = match name.starts_with("body") {
            true => vec![
                (format!("{codec} [\"null\",\"string\"]"), 1),
                (format!("{codec} \"string\""), 1),
                (format!("{codec} {{\"type\":\"record\",\"name\":\"Line\",\"namespace\":\"x.y\",\"doc\":\"d\",\"fields\":[{{\"name\":\"text\",\"type\":\"string\"}}]}}"), 1),
                ("one".to_owned(), 25),
                ("two".to_owned(), 25),
                ("{\"text\": \"three\"}".to_owned(), 25),
            ],
            false => vec![
                (format!("{codec} {{\"type\":\"record\",\"name\":\"Event\",\"fields\":[{{\"name\":\"headers\",\"type\":{{\"type\":\"map\",\"values\":\"string\"}}}},{{\"name\":\"body\",\"type\":\"bytes\"}}]}}"), 1),
                ("{\"headers\": {\"flume.avro.schema.literal\": \"[\\\"null\\\",\\\"string\\\"]\"}, \"body\": \"\\u0002\\u0006one\"}".to_owned(), 25),
                (format!("{{\"headers\": {{\"flume.avro.schema.url\": \"{url}\"}}, \"body\": \"\\u0006two\"}}"), 25),
                ("{\"headers\": {\"k\": \"v\"}, \"body\": \"\\nthree\"}".to_owned(), 25),
            ],
        };
        let mut found: Vec<(String, usize)> =
            counts.into_iter().map(|(line, n)| (line.to_owned(), n)).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{name}");
    }
}
