//! The published flows as they stand in `conf/examples`, each driven the way its author did. Only ports and
//! paths are changed here. Those that write to HDFS run in [`crate::hdfs`]; the mistakes of the multiplexing
//! flow are in [`crate::http`].

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::http::post;
use crate::peers::require_nginx;
use crate::util::{Agent, Client, PATIENCE, Start, connect, eventually, free_port, scratch};

/// A flow of `conf/examples` with some of its words replaced; each must be there.
pub fn published(name: &str, replace: &[(&str, &str)]) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conf/examples").join(name);
    let mut flow = fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    for (from, to) in replace {
        assert!(flow.contains(from), "{name} does not say {from:?}");
        flow = flow.replace(from, to);
    }
    flow
}

/// An agent with a directory of its own, started as the authors did.
struct Host {
    dir: TempDir,
    agent: Agent,
}

impl Host {
    fn start(flow: &str) -> Self {
        let dir = scratch();
        let agent = Self::agent(dir.path(), flow);
        Self { dir, agent }
    }
    fn agent(dir: &Path, flow: &str) -> Agent {
        Start::new(dir, flow).arg("-Dflume.root.logger=INFO,console").started()
    }
    /// How many events its console has shown with this text at their start.
    fn shown(&self, text: &str) -> usize {
        let log = self.agent.log();
        log.lines().filter(|line| line.contains("Event: { headers:{") && line.contains(text)).count()
    }
    fn expect(&self, text: &str, count: usize) {
        eventually(&format!("{count} times {text:?}:\n{}", self.agent.log()), || {
            (self.shown(text) >= count).then_some(())
        });
        assert_eq!(self.shown(text), count, "{}", self.agent.log());
    }
    fn stop(self) {
        assert_eq!(self.agent.stop().code(), Some(0));
    }
}

/// A real web server, whose pages are reloaded in a browser.
struct Nginx {
    script: PathBuf,
    dir: TempDir,
    port: u16,
}

impl Nginx {
    fn start() -> Option<Self> {
        let script = require_nginx()?;
        let (dir, port) = (scratch(), free_port());
        let started = Command::new(&script).arg("start").arg(dir.path()).arg(port.to_string()).output();
        let started = started.expect("the script");
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        Some(Self { script, dir, port })
    }
    fn log(&self) -> String {
        self.dir.path().join("access.log").display().to_string()
    }
    fn reload_page(&self) {
        let mut stream = connect(self.port);
        stream.set_read_timeout(Some(PATIENCE)).expect("a limit");
        write!(stream, "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").expect("a request");
        let mut page = String::new();
        stream.read_to_string(&mut page).expect("a page");
        assert!(page.contains("here"), "{page}");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = Command::new(&self.script).arg("stop").arg(self.dir.path()).status();
    }
}

/// What the logger shows of a line of the access log: its first 16 bytes.
const VISIT: &str = "127.0.0.1 - - [";

#[test]
fn telnet_to_the_console() {
    let port = free_port();
    let host = Host::start(&published("0-netcat-memory-logger.properties", &[("44444", &port.to_string())]));
    let mut telnet = Client::connect(port);
    assert_eq!(telnet.send("hello_world\r\n").answer(), "OK");
    assert_eq!(telnet.send("are you ready?\r\n").answer(), "OK");
    host.expect("{ headers:{} body: 68 65 6C 6C 6F 5F 77 6F 72 6C 64 0D             hello_world. }", 1);
    host.expect("{ headers:{} body: 61 72 65 20 79 6F 75 20 72 65 61 64 79 3F 0D    are you ready?. }", 1);
    host.stop();
}

#[test]
fn nginxs_log_to_the_console_and_to_another_agent() {
    let Some(nginx) = Nginx::start() else { return };
    let log = ("/var/log/nginx/access.log", &*nginx.log());
    let here = Host::start(&published("1-exec-memory-logger.properties", &[log]));
    let port = free_port().to_string();
    let there = Host::start(&published("3b-avro-memory-logger.properties", &[("10001", &port)]));
    let sender = Host::start(&published("3a-net-memory-avro.properties", &[log, ("10001", &port)]));
    for _ in 0..3 {
        nginx.reload_page();
    }
    here.expect(VISIT, 3);
    there.expect(VISIT, 3);
    assert_eq!(sender.shown(VISIT), 0);
    for host in [here, sender, there] {
        host.stop();
    }
}

/// These are no published flows but show the components that none of those has.
#[test]
fn netcat_over_thrift_to_the_console() {
    let (netcat, thrift) = (free_port(), free_port().to_string());
    let there = Host::start(&published("9b-thrift-memory-logger.properties", &[("10011", &thrift)]));
    let dir = scratch();
    let state = dir.path().display().to_string();
    let replace = [("10010", &*netcat.to_string()), ("10011", &*thrift), ("/var/lib/millrace", &*state)];
    let here = Host::start(&published("9a-netcat-file-thrift.properties", &replace));
    assert_eq!(Client::connect(netcat).send("over thrift\n").answer(), "OK");
    there.expect("over thrift }", 1);
    for host in [here, there] {
        host.stop();
    }
}

#[test]
fn scribe_and_the_old_flume_are_listened_to() {
    let ports: Vec<String> = (0..3).map(|_| free_port().to_string()).collect();
    let scribe = published("10-scribe-memory-logger.properties", &[("1499", &ports[0])]);
    let old = published("11-legacy-memory-logger.properties", &[("10012", &ports[1]), ("10013", &ports[2])]);
    let hosts = [Host::start(&scribe), Host::start(&old)];
    ports.iter().for_each(|port| drop(connect(port.parse().expect("a port"))));
    for host in hosts {
        host.stop();
    }
}

#[test]
fn an_optional_channel_that_is_full_is_no_error() {
    let port = free_port();
    let replace = [
        ("10003", &*port.to_string()),
        // Nobody answers there, and few fit.
        ("/flume/events/replicating/", "hdfs://127.0.0.1:1/flume/events/replicating/"),
        ("a1.channels.c2.capacity = 10000", "a1.channels.c2.capacity = 100"),
        ("a1.channels.c2.transactionCapacity = 10000", "a1.channels.c2.transactionCapacity = 100"),
    ];
    let host = Host::start(&published("5-http-memory-hdfs-logger.properties", &replace));
    let mut curl = connect(port);
    for number in 100..120 {
        let event = format!(r#"{{"headers":{{"k1":"param1","k2":"parm2"}},"body":"{number} is http"}}"#);
        let ten = vec![event; 10].join(",");
        assert_eq!(post(&mut curl, &format!("[{ten}]")), "200");
    }
    host.expect(" is http }", 200);
    // The sink that cannot deliver is given up after the time to drain.
    drop(host);
}

#[test]
fn two_agents_consolidate_into_a_third() {
    let port = free_port().to_string();
    let master = Host::start(&published("7c-avro-memory-logger.properties", &[("10006", &port)]));
    let http = [free_port(), free_port()];
    let slave = |name: &str, http: u16| {
        Host::start(&published(name, &[("10006", &port), ("10005", &http.to_string())]))
    };
    let slaves = [
        slave("7a-http-memory-avro-slave1.properties", http[0]),
        slave("7b-http-memory-avro-slave2.properties", http[1]),
    ];
    for (index, body) in ["099 is http", "000 is http"].into_iter().enumerate() {
        let address = format!("127.0.0.{}:{}", index + 2, http[index]);
        let mut curl = eventually("somebody listens", || std::net::TcpStream::connect(&*address).ok());
        curl.set_read_timeout(Some(PATIENCE)).expect("a limit");
        assert_eq!(post(&mut curl, &format!(r#"[{{"headers":{{}},"body":"{body}"}}]"#)), "200");
        master.expect(body, 1);
    }
    for host in slaves {
        host.stop();
    }
    master.stop();
}

#[test]
fn the_lower_priority_takes_over_and_gives_back() {
    let Some(nginx) = Nginx::start() else { return };
    let port = free_port().to_string();
    let flow = |name: &str| published(name, &[("10004", &port)]);
    let lower = Host::start(&flow("8b-avro-memory-logger-slave1.properties"));
    let higher = Host::start(&flow("8c-avro-memory-logger-slave2.properties"));
    let log = ("/var/log/nginx/access.log", &*nginx.log());
    let sender =
        Host::start(&published("8a-exec-memory-sinkgroups-avro.properties", &[log, ("10004", &port)]));
    nginx.reload_page();
    higher.expect(VISIT, 1);
    assert_eq!(lower.shown(VISIT), 0);

    let Host { dir, agent } = higher;
    agent.kill();
    nginx.reload_page();
    lower.expect(VISIT, 1);

    let higher =
        Host { agent: Host::agent(dir.path(), &flow("8c-avro-memory-logger-slave2.properties")), dir };
    let back = Instant::now();
    // Its log goes on behind that of its first life.
    eventually("the higher priority is back", || {
        nginx.reload_page();
        std::thread::park_timeout(Duration::from_millis(200));
        (higher.shown(VISIT) > 1).then_some(())
    });
    // maxpenalty = 10000, and a busy machine.
    assert!(back.elapsed() < Duration::from_secs(40), "{:?}", back.elapsed());
    let until_now = lower.shown(VISIT);
    let before = higher.shown(VISIT);
    nginx.reload_page();
    eventually("the lines go on there", || (higher.shown(VISIT) > before).then_some(()));
    assert_eq!(lower.shown(VISIT), until_now);
    for host in [sender, lower, higher] {
        host.stop();
    }
}
