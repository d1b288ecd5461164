//! Starts the real program in a directory of its own, and waits for conditions with a deadline.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long a test waits for anything before it fails; generous, since several suites share the cores.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A directory for one test; gone when the test ends.
pub fn scratch() -> TempDir {
    tempfile::Builder::new().prefix("millrace-it-").tempdir().expect("a scratch directory")
}

/// A TCP port nobody listens on at the moment.
pub fn free_port() -> u16 {
    // Below the range of outgoing connections, so that none of those takes it before the agent does.
    loop {
        let port = 10_000 + (std::process::id().wrapping_mul(31).wrapping_add(next()) % 20_000) as u16;
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return port;
        }
    }
}

fn next() -> u32 {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let time =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.subsec_nanos());
    NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed).wrapping_mul(7919).wrapping_add(time / 1000)
}

/// Waits until `check` gives a value; panics with `what` after [`PATIENCE`].
pub fn eventually<T>(what: &str, check: impl FnMut() -> Option<T>) -> T {
    within(PATIENCE, what, check)
}

/// Waits until `check` gives a value; panics with `what` after `limit`.
pub fn within<T>(limit: Duration, what: &str, mut check: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = check() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::park_timeout(Duration::from_millis(10));
    }
}

/// The program, ready to be given arguments; its environment is cleared of what could change a flow.
pub fn millrace() -> Command {
    command(env!("CARGO_BIN_EXE_millrace"))
}

/// The same under its other name.
pub fn flume_ng() -> Command {
    command(env!("CARGO_BIN_EXE_flume-ng"))
}

fn command(path: &str) -> Command {
    let mut command = Command::new(path);
    for name in ["HADOOP_CONF_DIR", "HADOOP_HOME", "FLUME_CONF_DIR", "JAVA_OPTS"] {
        command.env_remove(name);
    }
    command
}

/// A running agent; killed when dropped.
pub struct Agent {
    child: Child,
    log: PathBuf,
}

/// How to start an agent.
pub struct Start<'a> {
    /// Working directory; flow, log and state lie here.
    pub dir: &'a Path,
    /// Text of the flow; the agent is `a1`.
    pub flow: String,
    /// Further arguments.
    pub args: Vec<String>,
    /// Further environment.
    pub env: HashMap<String, String>,
    /// Options that say where the flow is; none = a file with [`Self::flow`].
    pub from: Vec<String>,
    /// A command that runs the program, itself replaced by it; none = the program as it is.
    pub within: Vec<String>,
}

impl<'a> Start<'a> {
    /// Agent `a1` of this flow.
    pub fn new(dir: &'a Path, flow: impl Into<String>) -> Self {
        Self {
            dir,
            flow: flow.into(),
            args: Vec::new(),
            env: HashMap::new(),
            from: Vec::new(),
            within: Vec::new(),
        }
    }
    /// Adds an argument.
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }
    /// Adds a variable.
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.into(), value.into());
        self
    }
    /// Takes the flow from somewhere else than a file.
    pub fn from(mut self, options: &[&str]) -> Self {
        self.from = options.iter().map(|o| (*o).to_owned()).collect();
        self
    }
    /// Runs it by another command, such as `ip netns exec`, that is replaced by the program.
    pub fn within(mut self, command: &[&str]) -> Self {
        self.within = command.iter().map(|c| (*c).to_owned()).collect();
        self
    }
    /// Starts it without waiting for anything.
    pub fn spawn(mut self) -> Agent {
        if self.from.is_empty() {
            let flow = self.dir.join("flow.properties");
            fs::write(&flow, &self.flow).expect("the flow");
            self.from = vec!["-f".to_owned(), flow.display().to_string()];
        }
        let log = self.dir.join("agent.log");
        let open = || fs::OpenOptions::new().create(true).append(true).open(&log).expect("the log");
        let mut program = millrace();
        if let Some((outer, arguments)) = self.within.split_first() {
            program = command(outer);
            program.args(arguments).arg(env!("CARGO_BIN_EXE_millrace"));
        }
        let child = program
            .current_dir(self.dir)
            .args(["agent", "-n", "a1", "-c", "."])
            .args(&self.from)
            .args(&self.args)
            .envs(&self.env)
            .env("HOME", self.dir)
            .stdin(Stdio::null())
            .stdout(open())
            .stderr(open())
            .spawn()
            .expect("the agent");
        Agent { child, log }
    }
    /// Starts it and waits until it says that it has started.
    pub fn started(self) -> Agent {
        let log = self.dir.join("agent.log");
        let before = fs::read_to_string(&log).map_or(0, |t| t.matches(STARTED).count());
        let mut agent = self.spawn();
        eventually("the agent starts", || {
            if let Ok(Some(status)) = agent.child.try_wait() {
                panic!("the agent ended with {status}:\n{}", agent.log());
            }
            (agent.log().matches(STARTED).count() > before).then_some(())
        });
        agent
    }
}

/// What the agent logs when everything is open.
const STARTED: &str = " started";

impl Agent {
    /// Everything it has logged.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }
    /// Waits until the log contains `text`.
    pub fn wait_log(&self, text: &str) {
        let deadline = Instant::now() + PATIENCE;
        while !self.log().contains(text) {
            assert!(Instant::now() < deadline, "the log never says {text:?}:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }
    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").arg(format!("-{name}")).arg(self.pid().to_string()).status();
        assert!(status.is_ok_and(|s| s.success()), "kill -{name}");
    }
    /// Asks it to stop and waits for its end.
    pub fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.wait()
    }
    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                return status;
            }
            assert!(Instant::now() < deadline, "the agent does not end:\n{}", self.log());
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
    /// `kill -9`.
    pub fn kill(mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("---- agent's log\n{}----", self.log());
        }
    }
}

/// Runs a command to its end: exit code, standard output, standard error.
pub fn output(mut command: Command) -> (i32, String, String) {
    let output = command.stdin(Stdio::null()).output().expect("the program");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Connects, waiting for the listener.
pub fn connect(port: u16) -> TcpStream {
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    let stream = eventually("somebody listens", || TcpStream::connect(address).ok());
    stream.set_read_timeout(Some(PATIENCE)).expect("a read limit");
    stream.set_nodelay(true).expect("no delay");
    stream
}

/// A connection that sends lines and reads answers.
pub struct Client {
    stream: TcpStream,
    answers: BufReader<TcpStream>,
}

impl Client {
    /// Connects to a port of this machine.
    pub fn connect(port: u16) -> Self {
        let stream = connect(port);
        let answers = BufReader::new(stream.try_clone().expect("a second handle"));
        Self { stream, answers }
    }
    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        self.stream.write_all(bytes.as_ref()).expect("send");
        self
    }
    /// Reads one line of answer, without its end.
    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        self.answers.read_line(&mut line).expect("an answer");
        line.trim_end_matches('\n').to_owned()
    }
}

/// Regular files below a directory, sorted by path.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// All lines of all regular files below a directory, in the order of [`files`].
pub fn lines(dir: &Path) -> Vec<String> {
    let texts = files(dir).into_iter().map(|f| fs::read(f).unwrap_or_default());
    texts.flat_map(|t| String::from_utf8_lossy(&t).lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}
