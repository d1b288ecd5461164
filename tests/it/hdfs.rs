//! The `hdfs` sink against a real NameNode and DataNodes, read back with Hadoop's own shell.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use crate::flows::published;
use crate::http::post;
use crate::peers::require_peer;
use crate::util::{Agent, Client, Start, connect, free_port, scratch, within};

/// Each look at the cluster is a JVM, of which a loaded machine starts one in some seconds.
const SETTLE: Duration = Duration::from_secs(90);

struct Bench {
    // Dropped first: the cluster is stopped by files in the directory.
    hdfs: Hdfs,
    dir: tempfile::TempDir,
    port: u16,
}

impl Drop for Bench {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read(self.dir.path().join("agent.log")).unwrap_or_default();
            eprintln!("---- log of all agents\n{}----", String::from_utf8_lossy(&log));
        }
    }
}

/// A sink of a flow: path, type of its channel, its settings.
struct Branch<'a> {
    path: &'a str,
    channel: &'a str,
    settings: &'a str,
}

impl Bench {
    /// An agent from a socket through a channel each to several sinks.
    fn branches(&self, branches: &[Branch<'_>]) -> Agent {
        let (dir, port) = (self.dir.path().display(), self.port);
        let names = |letter: &str| {
            let names = (0..branches.len()).map(|i| format!("{letter}{i}")).collect::<Vec<_>>();
            names.join(" ")
        };
        let (sinks, channels) = (names("k"), names("c"));
        let mut flow = format!(
            "a1.sources = r1\na1.sinks = {sinks}\na1.channels = {channels}\n\
             a1.sources.r1.type = netcat\na1.sources.r1.bind = 127.0.0.1\na1.sources.r1.port = {port}\n\
             a1.sources.r1.channels = {channels}\n"
        );
        for (i, branch) in branches.iter().enumerate() {
            let Branch { path, channel, settings } = branch;
            flow += &match *channel {
                "file" => format!(
                    "a1.channels.c{i}.type = file\na1.channels.c{i}.checkpointDir = {dir}/checkpoint\n\
                     a1.channels.c{i}.dataDirs = {dir}/data\na1.channels.c{i}.minimumRequiredSpace = 1048576\n"
                ),
                channel => format!("a1.channels.c{i}.type = {channel}\na1.channels.c{i}.capacity = 20000\n"),
            };
            flow += &format!("a1.sinks.k{i}.type = hdfs\na1.sinks.k{i}.channel = c{i}\n");
            let never = "rollInterval = 0\nrollSize = 0\nrollCount = 0\n";
            for line in format!("path = {path}\n{never}{settings}").lines() {
                let prefix = if line.starts_with("serializer") { "" } else { "hdfs." };
                flow += &format!("a1.sinks.k{i}.{prefix}{line}\n");
            }
        }
        Start::new(self.dir.path(), flow).env("HADOOP_CONF_DIR", &self.hdfs.conf()).started()
    }
    /// An agent from a socket through a file channel to lines in files below `path`.
    fn agent(&self, path: &str, settings: &str) -> Agent {
        let settings = &format!("fileType = DataStream\n{settings}");
        self.branches(&[Branch { path, channel: "file", settings }])
    }
    /// Sends lines over a new connection and waits until each is answered.
    fn send(&self, lines: &[String]) {
        send(&mut Client::connect(self.port), lines);
    }
    /// Waits until every line is in a file below `path`; they may be there twice, and parts of them too.
    fn expect_each(&self, path: &str, lines: &[String]) {
        within(SETTLE, &format!("every line is below {path}"), || {
            let text = self.hdfs.merged(path)?;
            let found: HashSet<&str> = text.lines().collect();
            lines.iter().all(|line| found.contains(line.as_str())).then_some(())
        });
    }
    /// Waits until at most so many files are not complete.
    fn expect_open(&self, path: &str, max: usize) {
        within(SETTLE, &format!("at most {max} files below {path} are open"), || {
            let files = self.hdfs.files(path);
            let open = files.iter().filter(|f| f.ends_with(".tmp")).count();
            (!files.is_empty() && open <= max).then_some(())
        });
    }
}

fn lines(name: &str, count: usize) -> Vec<String> {
    let filler = "x".repeat(100);
    (0..count).map(|i| format!("{name} line {i} {filler}")).collect()
}

fn send(client: &mut Client, lines: &[String]) {
    client.send(text(lines));
    expect_answers(client, lines);
}

fn expect_answers(client: &mut Client, lines: &[String]) {
    lines.iter().for_each(|line| assert_eq!(client.answer(), "OK", "{line}"));
}

fn text(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// One test, because the cluster is started once and its failures change it for what follows.
#[test]
fn a_real_cluster() {
    let Some(script) = require_peer("hdfs") else { return };
    let dir = scratch();
    let hdfs = Hdfs::start(script, dir.path(), 2);
    let bench = Bench { hdfs, dir, port: free_port() };
    files_of_all_types_are_read_by_hadoops_shell(&bench);
    schemas_and_credentials_are_read_from_the_cluster(&bench);
    the_published_flows(&bench);
    a_killed_agent_leaves_no_open_file_and_loses_nothing_answered(&bench);
    safe_mode_is_waited_out(&bench);
    a_killed_datanode_loses_nothing(&bench);
}

fn files_of_all_types_are_read_by_hadoops_shell(b: &Bench) {
    // Zstandard is missing: Hadoop reads it only with its native library, which Maven does not have.
    let codecs = ["gzip", "bzip2", "deflate", "default", "snappy", "lz4"];
    let (streams, blocks): (Vec<_>, Vec<_>) = codecs
        .iter()
        .map(|codec| {
            let stream = format!("fileType = CompressedStream\ncodeC = {codec}\n");
            let block = format!("writeFormat = Text\ncodeC = {codec}\n");
            ((format!("/stream-{codec}"), stream), (format!("/block-{codec}"), block))
        })
        .unzip();
    let avro = ("/avro".to_owned(), "fileType = DataStream\nserializer = avro_event\n".to_owned());
    let records = ("/records".to_owned(), String::new());
    let mut branches = vec![Branch { path: "/plain", channel: "file", settings: "fileType = DataStream\n" }];
    for (path, settings) in streams.iter().chain(&blocks).chain([&avro, &records]) {
        branches.push(Branch { path, channel: "memory", settings });
    }
    let agent = b.branches(&branches);
    // Over one connection, since order holds within one; in two parts, so that files are flushed more than once; more than one block of Snappy and LZ4.
    let sent = lines("plain", 4000);
    let (first, second) = sent.split_at(1000);
    let mut client = Client::connect(b.port);
    send(&mut client, first);
    send(&mut client, second);
    assert_eq!(agent.stop().code(), Some(0));
    b.expect_open("/", 0);

    let expected = text(&sent);
    let plain = b.hdfs.must("fs", &["-cat", "/plain/*"]);
    assert!(plain == expected.as_bytes(), "byte for byte: {} bytes of {}", plain.len(), expected.len());
    let shown = |branches: &[(String, String)]| {
        let files = branches.iter().map(|(path, _)| format!("{path}/*")).collect::<Vec<_>>();
        let mut args = vec!["-text"];
        args.extend(files.iter().map(String::as_str));
        String::from_utf8(b.hdfs.must("fs", &args)).expect("text")
    };
    let text = shown(&streams);
    assert_eq!(text.len(), expected.len() * codecs.len());
    for ((path, _), text) in streams.iter().zip(text.as_bytes().chunks(expected.len())) {
        assert!(text == expected.as_bytes(), "{path}: {:.300}", String::from_utf8_lossy(text));
    }
    // Of a SequenceFile the shell prints key, tab, value.
    let values = |text: &str| {
        let values = text.lines().filter_map(|line| line.split_once('\t'));
        values.map(|(_, value)| value.to_owned()).collect::<Vec<_>>()
    };
    let text = values(&shown(&blocks));
    assert_eq!(text.len(), sent.len() * codecs.len());
    for ((path, _), text) in blocks.iter().zip(text.chunks(sent.len())) {
        assert!(text == sent, "{path}: {:?}", &text[..3]);
    }
    // And of bytes, which values are unless told otherwise, hexadecimal numbers.
    let bytes = |text: &String| {
        let bytes = text.split(' ').map(|byte| u8::from_str_radix(byte, 16).expect("a byte"));
        String::from_utf8(bytes.collect()).expect("text")
    };
    assert!(values(&shown(&[records])).iter().map(bytes).collect::<Vec<_>>() == sent, "/records");
    let events = shown(&[avro]);
    let events = events.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
    let bodies: Vec<String> = events.map(|e| e["body"].as_str().expect("a body").to_owned()).collect();
    assert!(bodies == sent, "/avro: {:?}", &bodies[..3]);
}

/// A serializer's schema and a config filter's store, both on the cluster.
fn schemas_and_credentials_are_read_from_the_cluster(b: &Bench) {
    let schema = b.dir.path().join("line.avsc");
    fs::write(&schema, "\"string\"").expect("a schema");
    let store = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/keystore/credentials.jceks");
    b.hdfs.must("fs", &["-mkdir", "-p", "/conf"]);
    b.hdfs.must("fs", &["-put", schema.to_str().expect("UTF-8"), store, "/conf/"]);
    let site = fs::read_to_string(Path::new(&b.hdfs.conf()).join("core-site.xml")).expect("core-site.xml");
    let cluster = site.split("hdfs://").nth(1).and_then(|rest| rest.split('<').next()).expect("fs.defaultFS");
    let address = format!("hdfs://{cluster}/conf/line.avsc");
    let agent = b.branches(&[
        Branch {
            path: "/bodies",
            channel: "memory",
            settings: &format!(
                "fileType = DataStream\nserializer = org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\n\
                 serializer.schemaURL = {address}\nserializer.compressionCodec = deflate\n"
            ),
        },
        // Without a host: that of HADOOP_CONF_DIR.
        Branch {
            path: "/bodies2",
            channel: "memory",
            settings: "fileType = DataStream\nserializer = org.apache.flume.sink.hdfs.AvroEventSerializer$Builder\n\
                 serializer.schemaURL = hdfs:///conf/line.avsc\n",
        },
    ]);
    // The first byte of each line is its size, as Avro writes it.
    let sent: Vec<String> = (0..100).map(|i| format!("\u{10}line {i:03}")).collect();
    b.send(&sent);
    assert_eq!(agent.stop().code(), Some(0));
    for path in ["/bodies/*", "/bodies2/*"] {
        let text = String::from_utf8(b.hdfs.must("fs", &["-text", path])).expect("text");
        let lines: Vec<String> = text.lines().map(|l| format!("\u{10}{}", l.trim_matches('"'))).collect();
        assert_eq!(lines, sent, "{path}");
    }

    // The password of a key store, out of a credential store on the cluster.
    let keys = format!("{}/tests/fixtures/keystore/server.p12", env!("CARGO_MANIFEST_DIR"));
    for (provider, found) in [
        (format!("jceks://hdfs@{cluster}/conf/credentials.jceks"), true),
        ("jceks://hdfs/conf/credentials.jceks".to_owned(), true),
        ("jceks://hdfs/conf/nosuch.jceks".to_owned(), false),
    ] {
        let flow = format!(
            "a1.configfilters = f1\na1.configfilters.f1.type = hadoop\na1.configfilters.f1.credential.provider.path = {provider}\n\
             a1.sources = r1\na1.channels = c1\na1.sinks = k1\na1.sources.r1.type = avro\na1.sources.r1.bind = 127.0.0.1\n\
             a1.sources.r1.port = {}\na1.sources.r1.ssl = true\na1.sources.r1.keystore = {keys}\n\
             a1.sources.r1.keystore-password = ${{f1['sink-token']}}\na1.sources.r1.channels = c1\n\
             a1.channels.c1.type = memory\na1.sinks.k1.type = null\na1.sinks.k1.channel = c1\n",
            b.port
        );
        let start = Start::new(b.dir.path(), flow).env("HADOOP_CONF_DIR", &b.hdfs.conf());
        if found {
            assert_eq!(start.started().stop().code(), Some(0));
            continue;
        }
        let mut agent = start.spawn();
        assert_ne!(agent.wait().code(), Some(0));
        let log = agent.log();
        assert!(log.contains("config filter f1 fails") && log.contains("/conf/nosuch.jceks"), "{log}");
    }
}

/// The three flows that write to HDFS, side by side: a spool directory, a replicating and a multiplexing
/// selector, the latter with its three mistakes corrected.
fn the_published_flows(b: &Bench) {
    let hosts = [scratch(), scratch(), scratch()];
    let spool = hosts[0].path().join("logs");
    fs::create_dir(&spool).expect("the spool directory");
    let ports = [free_port(), free_port()];
    let flows = [
        published(
            "2-spooling-memory-hdfs.properties",
            &[("/var/log/nginx/", &format!("{}/", spool.display()))],
        ),
        published("5-http-memory-hdfs-logger.properties", &[("10003", &ports[0].to_string())]),
        published(
            "6-http-memory-multiplexing-logger-hdfs.properties",
            &[
                ("10004", &ports[1].to_string()),
                ("selector.head ", "selector.header "),
                ("s1.mapping.READ", "s1.selector.mapping.READ"),
                ("s1.mapping.WRITE", "s1.selector.mapping.WRITE"),
                ("selector.default = c\n", "selector.default = c1\n"),
            ],
        ),
    ];
    let agents: Vec<Agent> = hosts
        .iter()
        .zip(flows)
        .map(|(host, flow)| {
            let start = Start::new(host.path(), flow).env("HADOOP_CONF_DIR", &b.hdfs.conf());
            start.arg("-Dflume.root.logger=INFO,console").started()
        })
        .collect();

    let spooled = lines("spooled", 25);
    // A file that is still written does not belong into a spool directory; it is moved there whole.
    let aside = hosts[0].path().join("access.log.1");
    fs::write(&aside, text(&spooled)).expect("a file");
    fs::rename(&aside, spool.join("access.log.1")).expect("a finished file");

    let mut curl = connect(ports[0]);
    assert_eq!(post(&mut curl, r#"[{"headers":{"k1":"param1","k2":"parm2"},"body":"666 is http"}]"#), "200");
    agents[1].wait_log("666 is http");
    let mut curl = connect(ports[1]);
    for (state, body) in [("READ", "099 is http"), ("WRITE", "098 is http"), ("ELSE", "097 is http")] {
        let event = format!(r#"[{{"headers":{{"state":"{state}"}},"body":"{body}"}}]"#);
        assert_eq!(post(&mut curl, &event), "200");
    }
    agents[2].wait_log("099 is http");
    agents[2].wait_log("097 is http");
    within(SETTLE, "the file is spooled", || spool.join("access.log.1.COMPLETED").is_file().then_some(()));
    for agent in agents {
        assert!(!agent.log().contains("098 is http"), "WRITE goes to HDFS only:\n{}", agent.log());
        // Stopping drains the channels and closes the files.
        assert_eq!(agent.stop().code(), Some(0));
    }

    let files = b.hdfs.files("/flume/events");
    assert!(files.iter().all(|file| !file.ends_with(".tmp")), "{files:?}");
    let below = |directory: &str| -> Vec<&String> {
        files.iter().filter(|file| file.starts_with(&format!("/flume/events/{directory}"))).collect()
    };
    // Ten events a file, since nothing says otherwise; %{fileName} is always empty, so names begin with a dot.
    let spooled_files = below("20");
    assert!(spooled_files.len() >= 3, "{files:?}");
    for file in &spooled_files {
        let parts: Vec<&str> = file.split('/').collect();
        let (day, hour) = (parts[3], parts[4]);
        assert!(day.len() == 10 && day.matches('-').count() == 2 && hour.len() == 2, "{file}");
        assert!(parts[5].starts_with('.'), "{file}");
    }
    let read = |files: &[&String]| -> Vec<String> {
        let args: Vec<&str> = std::iter::once("-cat").chain(files.iter().map(|file| file.as_str())).collect();
        String::from_utf8_lossy(&b.hdfs.must("fs", &args)).lines().map(str::to_owned).collect()
    };
    assert_eq!(read(&spooled_files), spooled);
    assert_eq!(read(&below("replicating/")), ["666 is http"]);
    let written = below("multiplexing/");
    assert!(
        written.iter().all(|file| file.starts_with("/flume/events/multiplexing/events-.")),
        "{written:?}"
    );
    assert_eq!(read(&written), ["098 is http"]);
}

fn a_killed_agent_leaves_no_open_file_and_loses_nothing_answered(b: &Bench) {
    let (before, during, after) = (lines("before", 300), lines("during", 20_000), lines("after", 300));
    let agent = b.agent("/killed", "");
    b.send(&before);
    within(SETTLE, "the file is open", || {
        b.hdfs.files("/killed").iter().any(|f| f.ends_with(".tmp")).then_some(())
    });
    let mut client = Client::connect(b.port);
    client.send(text(&during));
    let answered = &during[..9_000];
    expect_answers(&mut client, answered);
    agent.kill();
    let agent = b.agent("/killed", "");
    b.send(&after);
    b.expect_each("/killed", &[&before, answered, &after].concat());
    // The file of the first run is completed beside that of the second.
    b.expect_open("/killed", 1);
    assert_eq!(agent.stop().code(), Some(0));
    b.expect_open("/killed", 0);
}

fn safe_mode_is_waited_out(b: &Bench) {
    let (first, second) = (lines("first", 50), lines("second", 50));
    let agent = b.agent("/safe", "");
    b.send(&first);
    b.expect_each("/safe", &first);
    b.hdfs.must("dfsadmin", &["-safemode", "enter"]);
    b.send(&second);
    agent.wait_log("Name node is in safe mode");
    b.hdfs.must("dfsadmin", &["-safemode", "leave"]);
    b.expect_each("/safe", &second);
    assert_eq!(agent.stop().code(), Some(0));
    b.expect_open("/safe", 0);
    // The writer was kept: one file, and nothing in it twice.
    assert_eq!(b.hdfs.files("/safe").len(), 1);
    assert_eq!(b.hdfs.must("fs", &["-cat", "/safe/*"]), text(&[first, second].concat()).as_bytes());
}

fn a_killed_datanode_loses_nothing(b: &Bench) {
    let (first, second) = (lines("both", 200), lines("one", 200));
    // Short, so that a sync that hangs is given up soon.
    let agent = b.agent("/datanode", "callTimeout = 8000\n");
    b.send(&first);
    b.expect_each("/datanode", &first);
    b.hdfs.must("kill-dn", &["1"]);
    b.send(&second);
    b.expect_each("/datanode", &[first, second].concat());
    b.hdfs.must("start-dn", &["1"]);
    b.expect_open("/datanode", 1);
    assert_eq!(agent.stop().code(), Some(0));
    b.expect_open("/datanode", 0);
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
        let listed = self.run("fs", &["-ls", "-R", path]);
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let files = listed.lines().filter(|line| line.starts_with('-'));
        files.filter_map(|line| Some(line[line.find(" /")? + 1..].to_owned())).collect()
    }
    /// What the files of a directory hold, each ended by a line feed, so that a file that ends within a line
    /// does not spoil the first one of the next. `None` if one was renamed meanwhile.
    fn merged(&self, path: &str) -> Option<String> {
        let local = self.dir.join("merged");
        let _ = fs::remove_file(&local);
        let done = self.run("fs", &["-getmerge", "-nl", path, local.to_str()?]);
        done.status
            .success()
            .then(|| String::from_utf8_lossy(&fs::read(&local).unwrap_or_default()).into_owned())
    }
}

impl Drop for Hdfs {
    fn drop(&mut self) {
        let stopped = self.run("stop", &[]);
        if !stopped.status.success() {
            eprintln!("the cluster is not stopped: {}", String::from_utf8_lossy(&stopped.stderr));
        }
    }
}
