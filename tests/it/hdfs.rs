//! The `hdfs` sink against a real NameNode and DataNodes, read back with Hadoop's own shell.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::peers::require_peer;
use crate::util::{Agent, Client, Start, free_port, scratch, within};

const SETTLE: Duration = Duration::from_secs(90);

struct Bench {
    dir: tempfile::TempDir,
    port: u16,
    hdfs: Hdfs,
}

impl Bench {
    /// An agent from a socket through a file channel to files below `path`.
    fn agent(&self, path: &str, more: &str) -> Agent {
        let (dir, port) = (self.dir.path().display(), self.port);
        let flow = format!(
            "a1.sources = r1\na1.sinks = k1\na1.channels = c1\n\
             a1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\n\
             a1.sources.r1.channels = c1\n\
             a1.channels.c1.type = file\na1.channels.c1.checkpointDir = {dir}/checkpoint\n\
             a1.channels.c1.dataDirs = {dir}/data\na1.channels.c1.minimumRequiredSpace = 1048576\n\
             a1.sinks.k1.type = hdfs\na1.sinks.k1.channel = c1\na1.sinks.k1.hdfs.path = {path}\n\
             a1.sinks.k1.hdfs.rollInterval = 0\na1.sinks.k1.hdfs.rollSize = 0\na1.sinks.k1.hdfs.rollCount = 0\n{more}"
        );
        Start::new(self.dir.path(), flow).env("HADOOP_CONF_DIR", &self.hdfs.conf()).started()
    }
    /// Sends lines and waits until each is answered.
    fn send(&self, lines: &[String]) {
        let mut client = Client::connect(self.port);
        for line in lines {
            client.send(format!("{line}\n"));
        }
        for line in lines {
            assert_eq!(client.answer(), "OK", "{line}");
        }
    }
    /// Waits until every line is in a file below `path`; repeats are allowed, torn lines only of them.
    fn expect_each(&self, path: &str, lines: &[String]) {
        within(SETTLE, "every line is in HDFS", || {
            let text = String::from_utf8_lossy(&self.hdfs.cat(path)).into_owned();
            let found: std::collections::HashSet<&str> = text.lines().collect();
            lines.iter().all(|line| found.contains(line.as_str())).then_some(())
        });
    }
    fn expect_complete(&self, path: &str) {
        within(SETTLE, "no file is left open", || {
            let files = self.hdfs.files(path);
            (!files.is_empty() && files.iter().all(|f| !f.ends_with(".tmp"))).then_some(())
        });
    }
}

fn lines(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|i| format!("{name} line {i}")).collect()
}

const STREAM: &str = "a1.sinks.k1.hdfs.fileType = DataStream\n";

/// One test, because the cluster is started once and its failures change it for what follows.
#[test]
fn a_real_cluster() {
    let Some(script) = require_peer("hdfs") else { return };
    let dir = scratch();
    let hdfs = Hdfs::start(script, dir.path(), 2);
    let bench = Bench { dir, port: free_port(), hdfs };
    types_of_files_are_read_by_hadoops_shell(&bench);
    a_killed_agent_leaves_no_open_file(&bench);
    safe_mode_is_waited_out(&bench);
    a_killed_datanode_loses_nothing(&bench);
}

fn types_of_files_are_read_by_hadoops_shell(b: &Bench) {
    let sent = lines("plain", 500);
    let expected = sent.iter().map(|l| format!("{l}\n")).collect::<String>();
    let agent = b.agent("/plain", STREAM);
    b.send(&sent);
    assert_eq!(agent.stop().code(), Some(0));
    b.expect_complete("/plain");
    assert_eq!(b.hdfs.cat("/plain"), expected.as_bytes(), "byte for byte");

    for codec in ["gzip", "bzip2", "deflate"] {
        let path = format!("/{codec}");
        let agent = b.agent(
            &path,
            &format!("a1.sinks.k1.hdfs.fileType = CompressedStream\na1.sinks.k1.hdfs.codeC = {codec}\n"),
        );
        b.send(&sent);
        assert_eq!(agent.stop().code(), Some(0));
        assert_eq!(b.hdfs.must("fs", &["-text", &format!("{path}/*")]), expected.as_bytes(), "{codec}");
    }
    for (path, codec) in [("/sequence", "none"), ("/sequence-gzip", "default")] {
        let agent = b
            .agent(path, &format!("a1.sinks.k1.hdfs.writeFormat = Text\na1.sinks.k1.hdfs.codeC = {codec}\n"));
        b.send(&sent);
        assert_eq!(agent.stop().code(), Some(0));
        // The shell prints key, tab, value.
        let text = String::from_utf8(b.hdfs.must("fs", &["-text", &format!("{path}/*")])).expect("text");
        let values: Vec<&str> = text.lines().filter_map(|l| l.split_once('\t')).map(|(_, v)| v).collect();
        assert_eq!(values, sent, "{path}");
    }
}

fn a_killed_agent_leaves_no_open_file(b: &Bench) {
    let (before, after) = (lines("before", 300), lines("after", 300));
    let agent = b.agent("/killed", STREAM);
    b.send(&before);
    within(SETTLE, "the file is open", || {
        b.hdfs.files("/killed").iter().any(|f| f.ends_with(".tmp")).then_some(())
    });
    agent.kill();
    let agent = b.agent("/killed", STREAM);
    b.send(&after);
    b.expect_each("/killed", &[before, after].concat());
    assert_eq!(agent.stop().code(), Some(0));
    b.expect_complete("/killed");
}

fn safe_mode_is_waited_out(b: &Bench) {
    let (first, second) = (lines("first", 50), lines("second", 50));
    let agent = b.agent("/safe", STREAM);
    b.send(&first);
    b.expect_each("/safe", &first);
    b.hdfs.must("dfsadmin", &["-safemode", "enter"]);
    b.send(&second);
    b.hdfs.must("dfsadmin", &["-safemode", "leave"]);
    b.expect_each("/safe", &second);
    assert_eq!(agent.stop().code(), Some(0));
    b.expect_complete("/safe");
    // The writer was kept: nothing was written twice.
    let expected = first.iter().chain(&second).map(|l| format!("{l}\n")).collect::<String>();
    assert_eq!(b.hdfs.cat("/safe"), expected.as_bytes());
}

fn a_killed_datanode_loses_nothing(b: &Bench) {
    let (first, second) = (lines("both", 200), lines("one", 200));
    // Tight, so that a sync that hangs is given up soon.
    let agent = b.agent("/datanode", &format!("{STREAM}a1.sinks.k1.hdfs.callTimeout = 8000\n"));
    b.send(&first);
    b.expect_each("/datanode", &first);
    b.hdfs.must("kill-dn", &["1"]);
    b.send(&second);
    b.expect_each("/datanode", &[first, second].concat());
    b.hdfs.must("start-dn", &["1"]);
    assert_eq!(agent.stop().code(), Some(0));
}

/// A NameNode and DataNodes; they end with this value.
struct Hdfs {
    script: PathBuf,
    dir: PathBuf,
}

impl Hdfs {
    /// Starts them with their data below an empty directory.
    fn start(script: PathBuf, dir: &Path, datanodes: usize) -> Self {
        let cluster = Self { script, dir: dir.join("hdfs") };
        let started = cluster.run("start", &[&datanodes.to_string()]);
        assert!(started.status.success(), "{}", String::from_utf8_lossy(&started.stderr));
        cluster
    }
    fn run(&self, command: &str, args: &[&str]) -> Output {
        Command::new(&self.script)
            .arg(command)
            .arg(&self.dir)
            .args(args)
            .output()
            .expect("the cluster script")
    }
    /// Runs a command of the script; its standard output.
    fn must(&self, command: &str, args: &[&str]) -> Vec<u8> {
        let done = self.run(command, args);
        assert!(done.status.success(), "{command} {args:?}: {}", String::from_utf8_lossy(&done.stderr));
        done.stdout
    }
    /// Directory for `HADOOP_CONF_DIR`.
    fn conf(&self) -> String {
        self.dir.join("conf-client").to_str().expect("a path in UTF-8").to_owned()
    }
    /// Paths of the files below a directory.
    fn files(&self, path: &str) -> Vec<String> {
        let listed = self.run("fs", &["-ls", "-R", "-C", path]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        listed.lines().filter(|line| line.starts_with('/')).map(str::to_owned).collect()
    }
    /// What the files below a directory hold, one after the other.
    fn cat(&self, path: &str) -> Vec<u8> {
        match self.files(path).is_empty() {
            true => Vec::new(),
            false => self.must("fs", &["-cat", &format!("{path}/*")]),
        }
    }
}

impl Drop for Hdfs {
    fn drop(&mut self) {
        let _ = self.run("stop", &[]);
    }
}
