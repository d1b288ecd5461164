//! The flows over HTTP as they were published.

use std::io::{Read, Write};
use std::net::TcpStream;

use crate::util::{PATIENCE, Start, connect, eventually, free_port, millrace, output, scratch};

const REGEX_FILTER: &str = include_str!("../../conf/examples/4-http-memory-logger.properties");
const MULTIPLEXING: &str =
    include_str!("../../conf/examples/6-http-memory-multiplexing-logger-hdfs.properties");

/// Posts as curl does; the answer's status.
pub fn post(stream: &mut TcpStream, body: &str) -> String {
    let size = body.len();
    write!(
        stream,
        "POST / HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/7.29.0\r\nAccept: */*\r\nContent-Length: {size}\r\n\
         Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}"
    )
    .expect("the request");
    let mut answer = [0; 4096];
    let count = stream.read(&mut answer).expect("the answer");
    String::from_utf8_lossy(&answer[..count]).split(' ').nth(1).unwrap_or_default().to_owned()
}

pub fn get(port: u16, path: &str) -> String {
    let mut stream = connect(port);
    stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").expect("the request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the answer");
    answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
}

#[test]
fn only_what_begins_with_a_digit_passes() {
    let (dir, port, monitoring) = (scratch(), free_port(), free_port());
    let flow = REGEX_FILTER.replace("10002", &port.to_string());
    let agent = Start::new(dir.path(), flow)
        .arg("-Dflume.root.logger=INFO,console")
        .arg("-Dflume.monitoring.type=http")
        .arg(format!("-Dflume.monitoring.port={monitoring}"))
        .started();
    // One connection, so that the order in the log is that of the requests.
    let mut curl = connect(port);
    let event = |body: &str| format!(r#"[{{"headers":{{"k1":"param1","k2":"parm2"}},"body":"{body}"}}]"#);
    assert_eq!(post(&mut curl, &event("this is http")), "200");
    assert_eq!(post(&mut curl, &event("666 is http")), "200");
    agent.wait_log("666 is http");
    let log = agent.log();
    assert!(
        log.contains("headers:{k1=param1, k2=parm2}") || log.contains("headers:{k2=parm2, k1=param1}"),
        "{log}"
    );
    assert!(!log.contains("this is http"), "{log}");

    let json: serde_json::Value = serde_json::from_str(&get(monitoring, "/metrics")).expect("JSON");
    assert_eq!(json["SOURCE.s1"]["EventReceivedCount"], "2");
    assert_eq!(json["SOURCE.s1"]["AppendBatchAcceptedCount"], "2");
    assert_eq!(json["CHANNEL.c1"]["ChannelCapacity"], "10000");
    eventually("the sink's count is shown", || {
        get(monitoring, "/metrics/prometheus")
            .contains("millrace_channel_event_take_success_total{channel=\"c1\"} 1\n")
            .then_some(())
    });
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn the_mistakes_of_the_multiplexing_flow_are_pointed_at() {
    let dir = scratch();
    let flow = dir.path().join("flow.properties");
    std::fs::write(&flow, MULTIPLEXING).expect("the flow");
    let mut check = millrace();
    check.args(["check", "-n", "a1", "-f"]).arg(&flow);
    let (code, out, err) = output(check);
    let text = format!("{out}{err}");
    assert_eq!(code, 2, "{text}");
    for part in
        ["selector.head", "selector.header", "mapping.READ", "selector.mapping.READ", "selector.default"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
}
