//! What is said when a component cannot be opened: one text for all, to be read as an operator reads it.

use std::fs;
use std::net::{TcpListener, UdpSocket};

use crate::util::{millrace, output, scratch};

/// A source or sink in a flow that is sound otherwise.
fn flow(kind: &str, lines: &str) -> String {
    let (source, channel, sink) =
        ("a1.sources.r1.type = seq\n", "a1.channels.c1.type = memory\n", "a1.sinks.k1.type = null\n");
    let part = |mine: &str, prefix: &str, default: &str| match mine == kind {
        true => lines.lines().map(|line| format!("{prefix}{line}\n")).collect::<String>(),
        false => default.to_owned(),
    };
    format!(
        "a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.sources.r1.channels = c1\na1.sinks.k1.channel = c1\n{}{}{}",
        part("source", "a1.sources.r1.", source),
        part("channel", "a1.channels.c1.", channel),
        part("sink", "a1.sinks.k1.", sink),
    )
}

#[test]
fn every_component_says_why_it_cannot_be_opened() {
    let dir = scratch();
    let root = dir.path().display().to_string();
    fs::write(dir.path().join("file"), "x\n").expect("a file");
    fs::create_dir(dir.path().join("directory")).expect("a directory");
    let (tcp, udp) = (TcpListener::bind("127.0.0.1:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
    let tcp_port = tcp.local_addr().unwrap().port().to_string();
    let udp_port = udp.local_addr().unwrap().port().to_string();
    let stores = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keystore");
    let avro = |tls: &str| format!("type = avro\nbind = 127.0.0.1\nport = 0\nssl = true\n{tls}");
    let file = "type = file\nminimumRequiredSpace = 1048576\n";
    let cases: Vec<(&str, &str, String)> = vec![
        ("a port in use", "source", "type = netcat\nbind = 127.0.0.1\nport = {tcp}".into()),
        ("a UDP port in use", "source", "type = syslogudp\nhost = 127.0.0.1\nport = {udp}".into()),
        ("one port of several in use", "source", "type = multiport_syslogtcp\nhost = 127.0.0.1\nports = 0 {tcp}".into()),
        ("an address of another machine", "source", "type = http\nbind = 203.0.113.1\nport = 0".into()),
        ("no key store", "source", avro("keystore = {dir}/none.jks\nkeystore-password = hunter2")),
        ("a wrong password", "source", avro("keystore = {stores}/server.p12\nkeystore-password = hunter2")),
        ("a store without a key", "source", avro("keystore = {stores}/trust.jks\nkeystore-password = changeit")),
        (
            "cipher suites nobody has",
            "source",
            avro("keystore = {stores}/server.jks\nkeystore-password = changeit\ninclude-cipher-suites = TLS_NULL"),
        ),
        ("no spool directory", "source", "type = spooldir\nspoolDir = {dir}/none".into()),
        (
            "a position file that is a directory",
            "source",
            "type = TAILDIR\nfilegroups = f\nfilegroups.f = {dir}/file\npositionFile = {dir}/directory".into(),
        ),
        ("a data directory below a file", "channel", format!("{file}dataDirs = {{dir}}/file/data\ncheckpointDir = {{dir}}/c")),
        ("a checkpoint directory that is a file", "channel", format!("{file}dataDirs = {{dir}}/d\ncheckpointDir = {{dir}}/file")),
        (
            "no key file",
            "channel",
            format!("{file}dataDirs = {{dir}}/d\ncheckpointDir = {{dir}}/c\nencryption.keyFile = {{dir}}/none.key"),
        ),
        (
            "an overflow below a file",
            "channel",
            "type = spillablememory\ndataDirs = {dir}/file/data\ncheckpointDir = {dir}/c".into(),
        ),
        ("no directory for the files", "sink", "type = file_roll\nsink.directory = {dir}/none".into()),
        (
            "an HDFS path below a file",
            "sink",
            "type = hdfs\nhdfs.path = file:///{dir}/file/x\nhdfs.rollInterval = 3600\nhdfs.rollSize = 0\nhdfs.rollCount = 0".into(),
        ),
        (
            "no trust store",
            "sink",
            "type = avro\nhostname = localhost\nport = 1\nssl = true\ntruststore = {dir}/none.jks".into(),
        ),
        (
            "a trust store that is none",
            "sink",
            "type = thrift\nhostname = localhost\nport = 1\nssl = true\ntruststore = {dir}/file".into(),
        ),
    ];
    let mut said = String::new();
    for (what, kind, lines) in cases {
        let lines = lines.replace("{dir}", &root).replace("{stores}", stores);
        let lines = lines.replace("{tcp}", &tcp_port).replace("{udp}", &udp_port);
        let path = dir.path().join("flow.properties");
        fs::write(&path, flow(kind, &lines)).expect("the flow");
        let mut command = millrace();
        command.current_dir(dir.path()).env("HOME", dir.path());
        command.args(["agent", "-n", "a1", "--shards", "1", "-f"]).arg(&path);
        let (code, _, error) = output(command);
        let complaint = error.lines().filter(|line| line.starts_with("error: ") || line.starts_with("  "));
        let complaint = complaint.map(|line| format!("{line}\n")).collect::<String>();
        assert!(complaint.starts_with("error: "), "{what}: nothing is said:\n{error}");
        assert!(!error.contains("hunter2") && !error.contains("panicked"), "{what}: {error}");
        said += &format!("== {what}: exit code {code}\n{complaint}");
    }
    let said = said.replace(&root, "{dir}").replace(stores, "{stores}");
    insta::assert_snapshot!(said.replace(&tcp_port, "{tcp}").replace(&udp_port, "{udp}"));
}
