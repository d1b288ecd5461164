//! Flows that are not in a file: over HTTP, in ZooKeeper, in the backup directory.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::peers::require_peer;
use crate::util::{Client, PATIENCE, Start, eventually, free_port, scratch, within};

fn flow(port: u16) -> String {
    format!(
        "a1.sources = r1\na1.channels = c1\na1.sinks = k1\n\
         a1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\n\
         a1.sources.r1.channels = c1\na1.channels.c1.type = memory\n\
         a1.sinks.k1.type = null\na1.sinks.k1.channel = c1\n"
    )
}

fn answers(port: u16) {
    assert_eq!(Client::connect(port).send("hello\n").answer(), "OK");
}

/// A web server with one page behind a password; what it was asked and how it answered.
struct Web {
    port: u16,
    page: Arc<Mutex<(String, u32)>>,
    served: Arc<Mutex<Vec<u16>>>,
}

impl Web {
    fn start(page: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (page, served) = (Arc::new(Mutex::new((page, 0))), Arc::new(Mutex::new(Vec::new())));
        let (current, log) = (Arc::clone(&page), Arc::clone(&served));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { continue };
                let lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let head: Vec<String> = lines.map_while(Result::ok).take_while(|l| !l.is_empty()).collect();
                let has = |text: &str| head.iter().any(|l| l.eq_ignore_ascii_case(text));
                let (page, version) = current.lock().unwrap().clone();
                let date = format!("Wed, 01 Jan 2025 00:00:{version:02} GMT");
                let (status, body) = if !has("authorization: Basic bWU6cHc=") {
                    (401, "")
                } else if head.first().is_none_or(|l| !l.starts_with("GET /flows/a1.properties ")) {
                    (404, "")
                } else if has(&format!("if-modified-since: {date}")) {
                    (304, "")
                } else {
                    (200, page.as_str())
                };
                let size = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {status} X\r\nLast-Modified: {date}\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n{body}"
                );
                log.lock().unwrap().push(status);
            }
        });
        Self { port, page, served }
    }
    fn change(&self, page: String) {
        let mut current = self.page.lock().unwrap();
        *current = (page, current.1 + 1);
    }
    fn served(&self, status: u16) -> usize {
        self.served.lock().unwrap().iter().filter(|s| **s == status).count()
    }
}

#[test]
fn a_flow_over_http_is_polled() {
    let (dir, port, other) = (scratch(), free_port(), free_port());
    let web = Web::start(flow(port));
    let url = format!("http://127.0.0.1:{}/flows/a1.properties", web.port);
    let agent =
        Start::new(dir.path(), "").from(&["-u", &url, "-user", "me", "-pwd", "pw", "-i", "1"]).started();
    answers(port);
    eventually("the page is asked for again", || (web.served(304) >= 2).then_some(()));
    assert_eq!(web.served(200), 1);
    web.change(flow(other));
    agent.wait_log("configuration changed");
    answers(other);
    assert!(!agent.log().contains("pw"), "no password in the log");
    assert_eq!(agent.stop().code(), Some(0));
}

#[test]
fn a_page_that_cannot_be_had_ends_with_two() {
    let web = Web::start(flow(1));
    for (path, login, part) in [("/flows/a1.properties", "no", "401"), ("/other", "pw", "404")] {
        let mut command = crate::util::millrace();
        let url = format!("http://127.0.0.1:{}{path}", web.port);
        command.args(["agent", "-n", "a1", "-u", &url, "-user", "me", "-pwd", login]);
        let (code, _, err) = crate::util::output(command);
        assert_eq!(code, 2, "{err}");
        assert!(err.contains(part) && err.contains(&url), "{err}");
    }
}

#[test]
fn the_last_good_flow_is_kept_and_used() {
    let (dir, port) = (scratch(), free_port());
    let backup = dir.path().join("kept");
    let kept = backup.join(".a1.properties");
    let options = ["-b", backup.to_str().unwrap(), "-i", "1"];
    let start = |flow: String| options.iter().fold(Start::new(dir.path(), flow), |start, o| start.arg(*o));
    let agent = start(flow(port)).started();
    let before = fs::read_to_string(&kept).unwrap();
    // A broken change is not kept, a good one is.
    let file = dir.path().join("flow.properties");
    fs::write(&file, flow(port).replace("memory", "memroy")).unwrap();
    agent.wait_log("the old flow goes on");
    assert_eq!(fs::read_to_string(&kept).unwrap(), before);
    let other = free_port();
    fs::write(&file, flow(other)).unwrap();
    eventually("the change is kept", || {
        fs::read_to_string(&kept).unwrap().contains(&other.to_string()).then_some(())
    });
    assert_eq!(agent.stop().code(), Some(0));

    let gone = dir.path().join("gone.properties");
    let mut from = vec!["-f", gone.to_str().unwrap()];
    from.extend(options);
    let agent = Start::new(dir.path(), "").from(&from).started();
    answers(other);
    agent.wait_log("starting the last good flow instead");
    let third = free_port();
    fs::write(&gone, flow(third)).unwrap();
    answers(third);
    assert_eq!(agent.stop().code(), Some(0));
}

/// A ZooKeeper server, killed when dropped.
struct Server<'a> {
    script: &'a Path,
    dir: &'a Path,
    port: u16,
    process: Child,
}

impl<'a> Server<'a> {
    fn start(script: &'a Path, dir: &'a Path, port: u16) -> Self {
        let process = Self::run(script, dir, port);
        Self { script, dir, port, process }
    }
    fn run(script: &Path, dir: &Path, port: u16) -> Child {
        let mut command = Command::new(script);
        command.arg("run").arg(dir).arg(port.to_string()).stdin(Stdio::null()).spawn().unwrap()
    }
    fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
    fn again(&mut self) {
        self.process = Self::run(self.script, self.dir, self.port);
    }
    fn node(&self, command: &str, content: &str) {
        let mut child = Command::new(self.script)
            .args([command, &self.port.to_string(), "/base/a1"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(content.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success(), "{command}");
    }
}

impl Drop for Server<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

#[test]
fn a_flow_in_zookeeper_is_watched() {
    let Some(script) = require_peer("zookeeper") else { return };
    let dir = scratch();
    let data = dir.path().join("zk");
    let mut server = Server::start(&script, &data, free_port());
    let servers = format!("127.0.0.1:{}", server.port);
    let (one, two, three) = (free_port(), free_port(), free_port());
    // No server yet, then no node: it waits.
    let agent = Start::new(dir.path(), "").from(&["-z", &servers, "-p", "/base"]).spawn();
    agent.wait_log("waiting for it");
    server.node("put", &flow(one));
    answers(one);
    agent.wait_log(" started");
    server.node("put", &flow(two));
    agent.wait_log("configuration changed");
    answers(two);
    // Neither a broken flow nor a missing node stops what runs.
    server.node("put", &flow(three).replace("memory", "memroy"));
    agent.wait_log("the old flow goes on");
    server.node("rm", "");
    agent.wait_log("was removed");
    answers(two);
    // The server goes and comes back; a change made afterwards is seen.
    server.kill();
    agent.wait_log("trying again");
    answers(two);
    server.again();
    agent.wait_log("connected again");
    server.node("put", &flow(three));
    within(PATIENCE, "the third flow runs", || std::net::TcpStream::connect(("127.0.0.1", three)).ok());
    answers(three);
    assert_eq!(agent.stop().code(), Some(0));
}
