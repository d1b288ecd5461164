//! Thrift with Kerberos, between us and Flume and between two of us, with a key distribution centre of its own.

use super::*;
use crate::peers::require_kerberos;
use crate::util::{output, scratch};

const FLUME: &str = "1.11.0";
const REALM: &str = "MILLRACE.TEST";

/// A running realm; ended when dropped.
struct Realm {
    dir: PathBuf,
    script: PathBuf,
    child: Child,
}

impl Drop for Realm {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Realm {
    /// With a service `thrift/localhost` and a client `flume`.
    fn start(script: &Path, dir: &Path, life: &str) -> Self {
        let (dir, port) = (dir.join("krb5"), free_port());
        let mut make = Command::new(script);
        make.arg("make").arg(&dir).arg(port.to_string()).args(["thrift/localhost", "flume", "other"]);
        let (code, _, text) = output({
            make.env("TICKET_LIFE", life);
            make
        });
        assert_eq!(code, 0, "{text}");
        let child = serve(script, &dir);
        within(PATIENCE, "the KDC listens", || TcpStream::connect(("127.0.0.1", port)).ok());
        Self { dir, script: script.to_owned(), child }
    }
    fn conf(&self) -> String {
        self.dir.join("krb5.conf").display().to_string()
    }
    fn keytab(&self, name: &str) -> String {
        self.dir.join(format!("{name}.keytab")).display().to_string()
    }
    /// Properties of a source.
    fn server(&self) -> String {
        let keytab = self.keytab("thrift-localhost");
        format!("kerberos = true\nagent-principal = thrift/localhost@{REALM}\nagent-keytab = {keytab}")
    }
    /// Properties of a sink.
    fn client(&self) -> String {
        let keytab = self.keytab("flume");
        format!(
            "kerberos = true\nclient-principal = flume@{REALM}\nclient-keytab = {keytab}\nserver-principal = thrift/localhost@{REALM}"
        )
    }
}

fn serve(script: &Path, dir: &Path) -> Child {
    Command::new(script)
        .arg("run")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(dir.join("kdc.log")).unwrap())
        .spawn()
        .unwrap()
}

#[test]
fn flume_and_we_deliver_to_each_other_with_kerberos() {
    let Some(kdc) = require_kerberos() else { return };
    let Some(script) = require_flume(FLUME) else { return };
    let dir = scratch();
    let realm = Realm::start(&kdc, dir.path(), "24h");
    let conf = realm.conf();
    let hops = |trust: &str| {
        let (server, client) = (realm.server(), realm.client());
        vec![
            hop("compact", "thrift", &*server, &*client),
            hop(
                "binary",
                "thrift",
                format!("{server}\nprotocol = binary"),
                format!("{client}\nprotocol = binary"),
            ),
            hop(
                "tls",
                "thrift",
                format!("{server}\n{}", server_tls()),
                format!("{client}\n{}", client_tls(trust)),
            ),
        ]
    };
    let (to_us, mut to_them) = (hops("trust.jks"), hops("trust.p12"));
    // One Flume process logs in as one principal only, so its source and its sink are the same.
    let own = realm.client().replace("client-principal = flume@", "client-principal = thrift/localhost@");
    let own = own.replace(&realm.keytab("flume"), &realm.keytab("thrift-localhost"));
    let to_us: Vec<_> =
        to_us.into_iter().map(|h| Hop { sink: h.sink.replace(&realm.client(), &own), ..h }).collect();
    to_them.push(hop(
        "host",
        "thrift",
        realm.server(),
        realm.client().replace("server-principal = thrift/localhost@", "server-principal = thrift/_HOST@"),
    ));
    let run = Run { env: &[("KRB5_CONFIG", &conf)], kerberos: Some(&conf) };
    let exchange = Exchange::start(&script, FLUME, dir.path(), &to_us, &to_them, &run);
    exchange.check(&to_us, &to_them);
    exchange.ours.wait_log(&format!("principal=thrift/localhost@{REALM}"));
}

/// A hop between two of ours in one agent: netcat, thrift sink, thrift source, file_roll.
fn loop_flow(dir: &Path, source: &str, sink: &str) -> (String, u16, PathBuf) {
    let (netcat, thrift, out) = (free_port(), free_port(), dir.join("out"));
    let mut flow = Flow::new("a1");
    flow.files_from("in", &listening("thrift", thrift, source), &out);
    flow.channel("out");
    flow.source("r1", &["out".to_owned()], &listening("netcat", netcat, ""));
    let to = format!("type = thrift\nhostname = localhost\nport = {thrift}\nbatch-size = 10\n{sink}");
    flow.sink("out", "out", &to);
    (flow.text(), netcat, out)
}

fn send(netcat: u16, label: &str) {
    let mut client = Client::connect(netcat);
    for i in 0..20 {
        client.send(format!("{label} {i}\n"));
    }
    (0..20).for_each(|_| assert_eq!(client.answer(), "OK"));
}

/// Tickets that live for seconds are got again; a key server that is down for a while only delays.
#[test]
fn tickets_are_renewed() {
    let Some(kdc) = require_kerberos() else { return };
    let dir = scratch();
    let mut realm = Realm::start(&kdc, dir.path(), "4s");
    // Every second a new connection, and so a look at the tickets.
    let sink = format!("{}\nreset-connection-interval = 1", realm.client());
    let (flow, netcat, out) = loop_flow(dir.path(), &realm.server(), &sink);
    let agent = Start::new(dir.path(), flow).env("KRB5_CONFIG", &realm.conf()).started();
    let connections = || agent.log().matches("connected sink=out").count();
    let mut all = Vec::new();
    let start = Instant::now();
    for round in 0.. {
        let (label, before) = (format!("r{round}"), connections());
        send(netcat, &label);
        all.extend(events("", &label, 20));
        expect(&out, &all, || agent.log());
        // Well past the life of the first ticket.
        if start.elapsed() > Duration::from_secs(9) {
            break;
        }
        within(PATIENCE, "a new connection", || {
            send(netcat, &format!("more {}", all.len()));
            all.extend(events("", &format!("more {}", all.len()), 20));
            (connections() > before).then_some(())
        });
    }
    // Without the key server, until every ticket has ended.
    realm.child.kill().unwrap();
    realm.child.wait().unwrap();
    let (mut number, text) = (0, "unable to deliver events");
    within(PATIENCE, "no ticket", || {
        number += 1;
        send(netcat, &format!("down{number}"));
        all.extend(events("", &format!("down{number}"), 20));
        std::thread::park_timeout(Duration::from_millis(300));
        agent.log().contains(text).then_some(())
    });
    assert!(agent.log().contains("Kerberos: "), "{}", agent.log());
    realm.child = serve(&realm.script, &realm.dir);
    expect(&out, &all, || agent.log());
}

/// What is wrong is told apart: at the start, or at the connection where only then it shows.
#[test]
fn wrong_keys_and_names_are_refused() {
    let Some(kdc) = require_kerberos() else { return };
    let dir = scratch();
    let realm = Realm::start(&kdc, dir.path(), "24h");
    let (server, client, conf) = (realm.server(), realm.client(), realm.conf());
    let missing = client.replace("flume.keytab", "none.keytab");
    let stranger = client.replace("client-principal = flume@", "client-principal = nobody@");
    let removed = client
        .replace("client-principal = flume@", "client-principal = other@")
        .replace("flume.keytab", "other.keytab");
    let (code, _, text) = output({
        let mut command = Command::new(&realm.script);
        command.arg("remove").arg(&realm.dir).arg("other");
        command
    });
    assert_eq!(code, 0, "{text}");
    let wrong_server =
        server.replace("agent-principal = thrift/localhost", "agent-principal = thrift/elsewhere");
    for (source, sink, words) in [
        (&server, &missing, ["client-keytab", "cannot be read"]),
        (&server, &stranger, ["client-keytab", "nobody@MILLRACE.TEST"]),
        (&server, &removed, ["client-principal", "not found in Kerberos database"]),
        (&wrong_server, &client, ["agent-keytab", "thrift/elsewhere"]),
    ] {
        let (flow, ..) = loop_flow(dir.path(), source, sink);
        let _ = fs::remove_file(dir.path().join("agent.log"));
        let mut agent = Start::new(dir.path(), flow).env("KRB5_CONFIG", &conf).spawn();
        assert_eq!(agent.wait().code(), Some(1), "{sink}\n{}", agent.log());
        let log = agent.log();
        assert!(words.iter().all(|w| log.contains(w)), "{words:?}\n{log}");
        assert!(log.contains("klist -k") || log.contains("let the user"), "what to do\n{log}");
    }
    // A server the key server does not know; a peer without Kerberos; a peer of another mechanism.
    let unknown =
        client.replace("server-principal = thrift/localhost", "server-principal = thrift/elsewhere");
    for (source, sink, words) in [
        (&*server, &*unknown, "thrift/elsewhere@MILLRACE.TEST: "),
        (&*server, "connect-timeout = 2000", "SASL"),
        ("", &*client, "cannot connect"),
    ] {
        let (flow, netcat, out) = loop_flow(dir.path(), source, &format!("{sink}\nconnect-timeout = 3000"));
        let _ = fs::remove_file(dir.path().join("agent.log"));
        let agent = Start::new(dir.path(), flow).env("KRB5_CONFIG", &conf).started();
        send(netcat, "never");
        agent.wait_log("unable to deliver events");
        agent.wait_log(words);
        assert!(arrived(&out).is_empty());
        assert!(agent.log().contains("unable to deliver events"));
    }
}

/// Whoever speaks no SASL, or only its beginning, is shown the door, and the next client is served.
#[test]
fn a_source_with_kerberos_shuts_out_what_is_none() {
    use std::io::{Read, Write};
    let Some(kdc) = require_kerberos() else { return };
    let dir = scratch();
    let realm = Realm::start(&kdc, dir.path(), "24h");
    let (flow, netcat, out) = loop_flow(dir.path(), &realm.server(), &realm.client());
    let port: u16 = flow
        .lines()
        .find_map(|l| l.strip_prefix("a1.sources.in.port = "))
        .and_then(|p| p.parse().ok())
        .unwrap();
    let agent = Start::new(dir.path(), flow).env("KRB5_CONFIG", &realm.conf()).started();
    for (bytes, words, answered) in [
        (&b"\x00\x00\x00\x10 a thrift frame"[..], "status 0", false),
        (b"\x02\x7f\xff\xff\xff", "2147483647 bytes", false),
        (b"\x01\x00\x00\x00\x05PLAIN", "only GSSAPI", true),
        (b"\x01\x00\x00\x00\x06GSSAPI\x02\x00\x00\x00\x05token", "Kerberos: ", true),
        (b"\x01\x00\x00\x00\x06GSSAPI\x02\x00\x00\x00\x00", "Kerberos: ", true),
    ] {
        let mut stream = crate::util::connect(port);
        let peer = stream.local_addr().unwrap();
        stream.write_all(bytes).unwrap();
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        // 3: the token is not accepted.
        assert_eq!(answer.first() == Some(&3), answered, "{words}: {answer:?}");
        let about = format!("peer={peer} ");
        let line = within(PATIENCE, words, || {
            agent.log().lines().find(|l| l.contains(&about) && l.contains("closed")).map(str::to_owned)
        });
        assert!(line.contains(words), "{line}");
    }
    send(netcat, "good");
    expect(&out, &events("", "good", 20), || agent.log());
}
