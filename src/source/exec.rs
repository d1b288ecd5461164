//! `exec` source: one event per line a command prints.
//!
//! Flume: `org.apache.flume.source.ExecSource`. Runs on one shard. A full channel stops the reading, so that
//! the command waits at its pipe; Flume kills it and loses what it had read. What a command printed while
//! the agent was down nobody can give back: for files that grow, TAILDIR loses nothing.
//!
//! The command runs in a process group of its own, which is ended with the source.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::deliver::{Backoff, Deliver, Unmarked};
use super::{OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, SourceError};
use crate::codec::charset::Charset;
use crate::codec::charset_lines::OnMalformed;
use crate::config::{Millis, ParseContext, Positive, Property, PropertySpec};
use crate::event::{BatchBuilder, Separator};
use crate::io::stop::Stop;
use crate::io::{Child, FileType, Io, LocalBoxFuture, spawn_process};

const COMMAND: Property<String> = Property::required(
    "command",
    "Command to run. Without `shell` it is split at white space, and nothing is quoted.",
)
.example("tail -F /var/log/messages");
const SHELL: Property<String> = Property::absent(
    "shell",
    "Shell to run the command in, for example `/bin/sh -c`: split at white space, the command is its last \
     argument.",
);
const RESTART: Property<bool> =
    Property::optional("restart", "false", "Start the command again when it ends.");
const RESTART_THROTTLE: Property<Millis> =
    Property::optional("restartThrottle", "10000", "How long to wait before that.");
const LOG_STD_ERR: Property<bool> =
    Property::optional("logStdErr", "false", "Log what the command prints as errors.");
const BATCH_SIZE: Property<Positive> = Property::optional("batchSize", "20", "Lines of one transaction.");
const BATCH_TIMEOUT: Property<Millis> =
    Property::optional("batchTimeout", "3000", "How long lines wait for a batch to fill.");
const CHARSET: Property<Charset> =
    Property::optional("charset", "UTF-8", "Character set of what is printed.");

/// Every property the exec source reads.
pub const PROPERTIES: &[&dyn PropertySpec] =
    &[&COMMAND, &SHELL, &RESTART, &RESTART_THROTTLE, &LOG_STD_ERR, &BATCH_SIZE, &BATCH_TIMEOUT, &CHARSET];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "exec",
    class: "org.apache.flume.source.ExecSource",
    summary: "One event per line a command prints.",
    placement: Placement::OneShard,
    properties: PROPERTIES,
    parse,
};

/// Bytes of one read.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of lines gathered before they are put, however few they are.
const BATCH_BYTES_MAX: usize = 256 * 1024;
/// A longer line becomes several events of this size; Flume has no limit but its heap.
const LINE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Longest line of errors that is logged; the rest of it follows as another line.
const ERROR_LINE_BYTES_MAX: usize = 8 * 1024;
/// How long the command may take to end when asked, within the time the agent gives a stop.
const END_PATIENCE: Duration = Duration::from_secs(2);

struct ExecConfig {
    argv: Vec<String>,
    has_shell: bool,
    shown: String,
    restart: Option<Duration>,
    log_errors: bool,
    batch_size: usize,
    batch_timeout: Duration,
    charset: Charset,
}

/// Reads the settings of an exec source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let command = cx.get(&COMMAND);
    let shell = cx.get_opt(&SHELL);
    let restart = cx.get(&RESTART);
    let throttle = cx.get(&RESTART_THROTTLE);
    let log_errors = cx.get(&LOG_STD_ERR);
    let batch_size = cx.get(&BATCH_SIZE);
    let batch_timeout = cx.get(&BATCH_TIMEOUT);
    let charset = cx.get(&CHARSET);
    let command = command?;
    if let Some(file) = tailed_file(&command) {
        let source = cx.component().subject();
        cx.warning(
            COMMAND.name(),
            "lines written while the agent is down, or twice after a rotation, are lost or repeated; TAILDIR keeps its place",
            Some(format!(
                "use: {source}.type = TAILDIR, {source}.filegroups = f1, {source}.filegroups.f1 = {}",
                as_file_pattern(file),
            )),
        );
    }
    let words = |text: &str| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    let shell = shell?;
    let has_shell = shell.is_some();
    let argv = match shell {
        Some(shell) => words(&shell).into_iter().chain([command.clone()]).collect(),
        None => words(&command),
    };
    Some(Arc::new(ExecConfig {
        argv,
        has_shell,
        shown: command,
        restart: restart?.then_some(throttle?.0),
        log_errors: log_errors?,
        batch_size: batch_size?.0,
        batch_timeout: batch_timeout?.0,
        charset: charset?,
    }))
}

/// The file a `tail -f`, `-F` or `--follow` reads, if the command is one.
fn tailed_file(command: &str) -> Option<&str> {
    let mut words = command.split_whitespace();
    let program = Path::new(words.next()?).file_name()?;
    let (options, others): (Vec<&str>, Vec<&str>) = words.partition(|w| w.starts_with('-'));
    let follows = |o: &&str| o.starts_with("--follow") || (!o.starts_with("--") && o.contains(['f', 'F']));
    (program == "tail" && options.iter().any(follows)).then_some(())?;
    others.into_iter().rfind(|w| w.starts_with('/') && !w.contains(['|', '>', ';']))
}

/// The last element of a TAILDIR path is a regular expression, and a properties file halves backslashes.
fn as_file_pattern(path: &str) -> String {
    let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
    format!("{directory}/{}", name.replace('.', r"\\."))
}

impl SourceConfig for ExecConfig {
    fn headers_set(&self) -> Option<Vec<String>> {
        Some(Vec::new())
    }
    fn batch_size(&self) -> Option<usize> {
        Some(self.batch_size)
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let program = self.argv.first().map(String::as_str).unwrap_or_default();
            if !is_there(&cx.io, program).await {
                let property = if self.has_shell { SHELL.name() } else { COMMAND.name() };
                return Err(OpenError::new(property, program, "there is no such program")
                    .hint("give its full path, or set shell = /bin/sh -c for what a shell understands"));
            }
            Ok(Box::new(Exec { config: self, cx }) as Box<dyn Source>)
        })
    }
}

/// True if the kernel would find the program.
async fn is_there(io: &Io, program: &str) -> bool {
    let is_file = async |path: &Path| match io.metadata(path).await {
        Ok(metadata) => metadata.file_type == FileType::File,
        Err(_) => false,
    };
    if program.contains('/') {
        return is_file(Path::new(program)).await;
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for directory in std::env::split_paths(&path) {
        if is_file(&directory.join(program)).await {
            return true;
        }
    }
    false
}

struct Exec {
    config: Arc<ExecConfig>,
    cx: SourceContext,
}

impl Source for Exec {
    fn run(self: Box<Self>, stop: Stop) -> LocalBoxFuture<'static, Result<(), SourceError>> {
        Box::pin(async move {
            let name = &self.cx.name;
            let backoff = Backoff::new(Duration::from_millis(5), Duration::from_secs(4));
            let limit = self.config.batch_size.max(self.cx.channels.transaction_capacity());
            let deliver = Deliver::new(&self.cx, limit, backoff);
            loop {
                let (program, arguments) =
                    self.config.argv.split_first().map_or(("", &[][..]), |(p, a)| (p, a));
                match spawn_process(program, arguments) {
                    Ok(child) => self.follow(child, &deliver, &stop).await,
                    Err(error) => {
                        tracing::error!(source = %name, command = %self.config.shown, %error, "cannot start the command");
                    }
                }
                if stop.is_requested() {
                    return Ok(());
                }
                let Some(throttle) = self.config.restart else { return Ok(()) };
                tracing::info!(source = %name, wait_ms = throttle.as_millis() as u64, "starting the command again");
                if stop.or(self.cx.io.sleep(throttle)).await.is_none() {
                    return Ok(());
                }
            }
        })
    }
    fn describe(&self) -> String {
        format!("reads what `{}` prints", self.config.shown)
    }
}

impl Exec {
    /// Reads what a command prints until it ends or the stop is requested.
    async fn follow(&self, mut child: Child, deliver: &Deliver, stop: &Stop) {
        let name = &self.cx.name;
        let errors = child.stderr().map(|stderr| {
            crate::io::spawn(drain_errors(stderr, self.config.log_errors.then(|| name.clone())))
        });
        if let Some(stdout) = child.stdout() {
            let read = self.read_lines(stdout, deliver, stop).await;
            let lost = *read.as_ref().unwrap_or(&0) + deliver.settle(stop).await.events;
            if lost > 0 {
                tracing::error!(source = %name, lost, "stopped while the channel was full; lines the command had printed are lost");
            }
            if let Err(error) = read {
                self.cx.counters.event_read_fail.add(1);
                tracing::error!(source = %name, %error, "cannot read what the command prints");
            }
        }
        // At the end of its output it may live on; then it is asked to end, as Flume's does.
        let ended = if stop.is_requested() {
            None
        } else {
            let io = &self.cx.io;
            tokio::select! {
                status = child.wait() => status.ok(),
                () = io.sleep(END_PATIENCE) => None,
                () = stop.requested() => None,
            }
        };
        match ended {
            Some(status) if status.success() => {
                tracing::info!(source = %name, command = %self.config.shown, "command has ended");
            }
            Some(status) => {
                tracing::warn!(source = %name, command = %self.config.shown, %status, "command has failed");
            }
            None => {}
        }
        child.end(END_PATIENCE).await;
        if let Some(errors) = errors {
            errors.abort();
        }
    }

    /// Gives how many lines the channels had no room for before the stop.
    async fn read_lines(
        &self,
        mut stdout: impl AsyncRead + Unpin,
        deliver: &Deliver,
        stop: &Stop,
    ) -> std::io::Result<usize> {
        let config = &self.config;
        let io = &self.cx.io;
        let batch_size = config.batch_size.min(deliver.limit_max());
        let mut lines = Lines::new(config.charset);
        let mut buffer = BytesMut::with_capacity(READ_BYTES);
        let mut last_put = io.now();
        loop {
            let waited = io.now().saturating_sub(last_put);
            let flush = pin!(io.sleep(config.batch_timeout.saturating_sub(waited)));
            buffer.reserve(READ_BYTES);
            let ended = tokio::select! {
                biased;
                () = stop.requested() => true,
                read = stdout.read_buf(&mut buffer) => read? == 0,
                () = flush, if !lines.batch.is_empty() => false,
            };
            lines.take_from(&mut buffer, ended);
            let due = io.now().saturating_sub(last_put) >= config.batch_timeout;
            if !lines.batch.is_empty()
                && (ended
                    || due
                    || lines.batch.len() >= batch_size
                    || lines.batch.area_bytes() >= BATCH_BYTES_MAX)
            {
                let batch =
                    std::mem::replace(&mut lines.batch, BatchBuilder::new(Separator::Newline)).finish();
                let events = batch.len();
                last_put = io.now();
                if !deliver.push(batch, Unmarked, stop).await {
                    return Ok(events);
                }
            }
            if ended {
                return Ok(0);
            }
        }
    }
}

/// Cuts lines as Java's `BufferedReader` does: at `\n`, `\r` and `\r\n`.
struct Lines {
    charset: Charset,
    settled: bool,
    /// The last line ended with a carriage return: a line feed that follows belongs to it.
    after_return: bool,
    /// Bytes at the front of the buffer in which no line ends.
    searched: usize,
    text: String,
    encoded: BytesMut,
    batch: BatchBuilder,
}

impl Lines {
    fn new(charset: Charset) -> Self {
        Self {
            charset,
            settled: false,
            after_return: false,
            searched: 0,
            text: String::new(),
            encoded: BytesMut::new(),
            batch: BatchBuilder::new(Separator::Newline),
        }
    }

    /// Takes complete lines off the front of the buffer; at the end the rest is a line, too.
    fn take_from(&mut self, buffer: &mut BytesMut, ended: bool) {
        if !self.settled && (buffer.len() >= 4 || ended) {
            let (charset, skip) = self.charset.resolve(buffer);
            self.charset = charset;
            self.settled = true;
            let _ = buffer.split_to(skip);
        }
        if !self.settled {
            return;
        }
        let unit = self.charset.unit_bytes();
        while let Some(end) = self.charset.find_line_end(buffer, self.searched) {
            let line = buffer.split_to(end.at + unit);
            self.searched = 0;
            let is_rest_of_return = self.after_return && end.at == 0 && !end.is_return;
            self.after_return = end.is_return;
            if !is_rest_of_return {
                self.push(line.get(..end.at).unwrap_or_default());
            }
        }
        if !buffer.is_empty() && buffer.len() >= unit {
            self.after_return = false;
        }
        self.searched = buffer.len() - buffer.len() % unit;
        if self.searched >= LINE_BYTES_MAX || (ended && !buffer.is_empty()) {
            let line = buffer.split();
            self.searched = 0;
            self.push(&line);
        }
    }

    fn push(&mut self, line: &[u8]) {
        if self.charset.is_utf8(line) {
            self.batch.push(line);
            return;
        }
        self.text.clear();
        let _ = self.charset.decode_into(line, OnMalformed::Replace, &mut self.text);
        self.encoded.clear();
        self.charset.encode(&self.text, &mut self.encoded);
        self.batch.push(&self.encoded);
    }
}

/// Reads what a command prints as errors, so that it never waits there; logs it if there is a name.
async fn drain_errors(stderr: impl AsyncRead + Unpin, log_as: Option<Arc<str>>) {
    let mut stderr = stderr;
    let mut buffer = BytesMut::with_capacity(ERROR_LINE_BYTES_MAX);
    loop {
        buffer.reserve(ERROR_LINE_BYTES_MAX);
        let ended = !matches!(stderr.read_buf(&mut buffer).await, Ok(size) if size > 0);
        loop {
            let end = match memchr::memchr(b'\n', &buffer) {
                Some(end) => end + 1,
                None if buffer.len() >= ERROR_LINE_BYTES_MAX || (ended && !buffer.is_empty()) => buffer.len(),
                None => break,
            };
            let line = buffer.split_to(end);
            if let Some(source) = &log_as {
                tracing::info!(%source, "stderr: {}", String::from_utf8_lossy(line.trim_ascii_end()));
            }
        }
        if ended {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::stop::Phase;
    use crate::io::{EngineKind, run_local, stop};
    use crate::testing;

    fn exec(lines: &'static str, capacity: usize, expected: usize) -> Vec<String> {
        run_local(EngineKind::Portable, |io| async move {
            let (config, complaints) = testing::parse(Kind::Source, lines, parse);
            let config = config.unwrap_or_else(|| panic!("{complaints:?}"));
            let channel = testing::memory_channel(&io, capacity);
            let source = config.open(testing::source_context(&io, channel.clone())).await;
            let (handle, stop) = stop::channel();
            let task = crate::io::spawn(source.map_err(|e| e.message).unwrap().run(stop));
            let bodies = testing::expect_bodies(&io, &*channel, expected).await;
            handle.request(Phase::Stopping);
            task.await.unwrap().unwrap();
            bodies
        })
        .unwrap()
    }

    #[test]
    fn a_line_is_an_event() {
        assert_eq!(
            exec("command = printf a\\nb\\r\\nc\\rd\\n\\nlast", 100, 6),
            ["a", "b", "c", "d", "", "last"]
        );
    }

    #[test]
    fn a_shell_gets_the_command_as_one_argument() {
        assert_eq!(
            exec("shell = /bin/sh -c\ncommand = for i in 1 2; do echo \"n $i\"; done", 100, 2),
            ["n 1", "n 2"]
        );
    }

    #[test]
    fn it_is_started_again() {
        let lines = "command = echo again\nrestart = true\nrestartThrottle = 5\nbatchTimeout = 1";
        assert!(exec(lines, 100, 3).len() >= 3);
    }

    #[test]
    fn few_lines_do_not_wait_for_more() {
        let lines = "shell = /bin/sh -c\ncommand = echo one; sleep 600\nbatchTimeout = 10\nbatchSize = 50";
        assert_eq!(exec(lines, 100, 1), ["one"]);
    }

    #[test]
    fn a_full_channel_makes_the_command_wait() {
        let bodies = exec("command = seq 1 3000", 50, 3000);
        assert!(bodies.iter().enumerate().all(|(i, b)| *b == (i + 1).to_string()));
    }

    #[test]
    fn text_is_decoded_and_encoded_again() {
        assert_eq!(exec("command = printf caf\\303\\251\\nb\\377d\\n", 100, 2), ["café", "b\u{FFFD}d"]);
    }

    #[test]
    fn lines_are_cut_anywhere() {
        let mut lines = Lines::new(Charset::Utf8);
        let mut buffer = BytesMut::new();
        for piece in ["a\r", "\nb", "c\r", "d\n", "\n", "e"] {
            buffer.extend_from_slice(piece.as_bytes());
            lines.settled = true;
            lines.take_from(&mut buffer, false);
        }
        lines.take_from(&mut buffer, true);
        let batch = lines.batch.finish();
        let bodies: Vec<_> = batch.bodies().map(|b| std::str::from_utf8(b).unwrap()).collect();
        assert_eq!(bodies, ["a", "bc", "d", "", "e"]);
    }

    #[test]
    fn the_stop_ends_the_whole_group() {
        run_local(EngineKind::Portable, |io| async move {
            let lines = "shell = /bin/sh -c\nbatchTimeout = 10\ncommand = sleep 600 & echo $!; wait";
            let (config, _) = testing::parse(Kind::Source, lines, parse);
            let channel = testing::memory_channel(&io, 10);
            let source = config.unwrap().open(testing::source_context(&io, channel.clone())).await;
            let (handle, stop) = stop::channel();
            let task = crate::io::spawn(source.map_err(|e| e.message).unwrap().run(stop));
            let pid = testing::expect_bodies(&io, &*channel, 1).await.remove(0);
            let process = std::path::PathBuf::from(format!("/proc/{pid}/stat"));
            assert!(process.exists());
            handle.request(Phase::Stopping);
            task.await.unwrap().unwrap();
            let deadline = io.now() + Duration::from_secs(10);
            // Gone, or a zombie that init has not collected.
            while std::fs::read_to_string(&process).is_ok_and(|stat| !stat.contains(") Z ")) {
                assert!(io.now() < deadline, "process {pid} lives on");
                io.sleep(Duration::from_millis(5)).await;
            }
        })
        .unwrap();
    }

    #[test]
    fn a_missing_program_is_an_error() {
        run_local(EngineKind::Portable, |io| async move {
            for (lines, property) in [
                ("command = no-such-program -x", "command"),
                ("command = echo x\nshell = /no/such/shell -c", "shell"),
            ] {
                let (config, _) = testing::parse(Kind::Source, lines, parse);
                let cx = testing::source_context(&io, testing::memory_channel(&io, 1));
                let error = config.unwrap().open(cx).await.map(drop).unwrap_err();
                assert_eq!(error.property, property);
            }
        })
        .unwrap();
    }

    #[test]
    fn properties() {
        let (config, complaints) = testing::parse(Kind::Source, "batchSize = x\ncharset = klingon", parse);
        assert!(config.is_none());
        assert_eq!(complaints.len(), 3, "{complaints:?}");
        for (command, hint) in [
            ("tail -F /var/log/app.log", Some(r"/var/log/app\\.log")),
            ("/usr/bin/tail -n0 --follow=name /a", Some("/a")),
            ("tail -n 5 /var/log/app.log", None),
            ("vmstat 1", None),
        ] {
            let (_, complaints) = testing::parse(Kind::Source, &format!("command = {command}"), parse);
            match hint {
                Some(hint) => {
                    assert!(complaints[0].ends_with(&format!("filegroups.f1 = {hint}")), "{complaints:?}")
                }
                None => assert!(complaints.is_empty(), "{complaints:?}"),
            }
        }
    }
}
