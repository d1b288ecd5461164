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

/// A certificate must be for the host that was asked for: the http sink and `-u` refuse another's, say whose it
/// is and what to do.
#[test]
fn a_certificate_for_another_name_is_refused() {
    let (theirs, ours, port, lines) = (scratch(), scratch(), free_port(), free_port());
    let store = |name: &str| format!("{}/tests/fixtures/keystore/{name}", env!("CARGO_MANIFEST_DIR"));
    let server = format!(
        "a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.sources.r1.type = http\na1.sources.r1.bind = 0.0.0.0\n\
         a1.sources.r1.port = {port}\na1.sources.r1.channels = c1\na1.sources.r1.ssl = true\n\
         a1.sources.r1.handler = org.apache.flume.source.http.BLOBHandler\n\
         a1.sources.r1.keystore = {}\na1.sources.r1.keystore-password = changeit\n\
         a1.channels.c1.type = memory\na1.sinks.k1.type = logger\na1.sinks.k1.channel = c1\n",
        store("server.p12")
    );
    let server = Start::new(theirs.path(), server).arg("-Dflume.root.logger=INFO,console").started();
    let trust = [
        format!("-Djavax.net.ssl.trustStore={}", store("trust.jks")),
        "-Djavax.net.ssl.trustStorePassword=changeit".to_owned(),
    ];
    let refused = "the certificate it shows is for localhost, 127.0.0.1 and not for 127.0.0.2; use one of these names, or give \
        the server a certificate for 127.0.0.2";

    let sink = |host: &str| {
        format!(
            "a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\n\
             a1.sources.r1.port = {lines}\na1.sources.r1.channels = c1\na1.channels.c1.type = memory\n\
             a1.sinks.k1.type = http\na1.sinks.k1.endpoint = https://{host}:{port}/\na1.sinks.k1.defaultRollback = false\na1.sinks.k1.defaultBackoff = false\na1.sinks.k1.channel = c1\n"
        )
    };
    let start = |host: &str| {
        trust.iter().fold(Start::new(ours.path(), sink(host)), |start, o| start.arg(o)).arg("-i").arg("1")
    };
    let agent = start("127.0.0.2").started();
    let mut client = crate::util::Client::connect(lines);
    assert_eq!(client.send("right host\n").answer(), "OK");
    agent.wait_log(refused);
    // Corrected while it runs, the event arrives.
    std::fs::write(ours.path().join("flow.properties"), sink("localhost")).expect("the flow");
    server.wait_log("right host");
    drop(agent);

    let page = |host: &str, trust: &[String]| {
        let mut command = millrace();
        command.args(["agent", "-n", "a1", "-u", &format!("https://{host}:{port}/x")]).args(trust);
        let (code, _, err) = output(command);
        assert_eq!(code, 2, "{err}");
        err
    };
    let told = page("127.0.0.2", &trust);
    assert!(told.contains(refused) && told.contains(&format!("https://127.0.0.2:{port}/x")), "{told}");
    // The right name gets through to the server, which has an answer but no flow.
    let told = page("localhost", &trust);
    assert!(!told.contains("certificate"), "{told}");
    let told = page("localhost", &[]);
    assert!(told.contains("nobody who is trusted here has signed the certificate of localhost"), "{told}");
    assert!(told.contains("-Djavax.net.ssl.trustStore"), "{told}");
}
