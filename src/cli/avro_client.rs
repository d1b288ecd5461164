//! The command `avro-client`: lines of files or of standard input to the avro source of an agent.
//!
//! Flume: `org.apache.flume.client.avro.AvroCLIClient`. Exit code 0 only if the other side committed
//! everything.

use std::collections::VecDeque;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use bytes::BytesMut;

use super::{BAD_CONFIG, FAILED, load, report};
use crate::client::rpc::RpcClient;
use crate::config::{ComponentSettings, Diagnostic, Kind, Location, ParseContext, Setting, properties};
use crate::event::{BatchBuilder, EventBatch, Headers, Separator};
use crate::io::{EngineKind, FileType, Io, OpenOptions, off_core, run_local};
use crate::metrics::SinkCounters;
use crate::sink::avro;

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;
/// Longest line: what an avro source accepts by default, less some room for its headers.
const LINE_BYTES_MAX: usize = 63 << 20;
/// Bytes of lines in one call, whatever the batch size.
const BATCH_BYTES_MAX: usize = 512 * 1024;
/// What a file is called when it was sent, with `--dirname`.
const SENT_SUFFIX: &str = ".COMPLETED";

/// What follows the options in the help.
pub const HELP: &str = "\
Examples:
  millrace avro-client -H collector1 -p 4141 -F access.log      each line becomes an event
  journalctl -o cat | millrace avro-client -H collector1 -p 4141
  millrace avro-client -P rpc.properties -F access.log          several hosts, TLS, compression

The file of -P has the properties of an avro sink (`millrace describe avro`) without a prefix, for example:
  hosts = h1 h2
  hosts.h1 = collector1:4141
  hosts.h2 = collector2:4141
  client.type = default_failover";

/// Options of `avro-client`.
#[derive(clap::Args, Debug)]
pub struct AvroClientArgs {
    /// Host of the avro source
    #[arg(short = 'H', long)]
    host: Option<String>,
    /// Port of the avro source
    #[arg(short, long)]
    port: Option<u16>,
    /// File whose lines are sent; standard input if neither this nor --dirname is given
    #[arg(short = 'F', long, conflicts_with = "dirname")]
    filename: Option<PathBuf>,
    /// Directory whose files are sent; each is renamed to *.COMPLETED afterwards
    #[arg(long)]
    dirname: Option<PathBuf>,
    /// Properties file with headers for every event
    #[arg(short = 'R', long = "headerFile")]
    header_file: Option<PathBuf>,
    /// Properties file with the client's settings
    #[arg(short = 'P', long = "rpcProps")]
    rpc_props: Option<PathBuf>,
}

/// Runs `avro-client`.
pub fn run(args: AvroClientArgs) -> ExitCode {
    let done = run_local(EngineKind::Portable, |io| async move { send_all(io, args).await });
    match done {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(Problem { message, code })) => {
            if !message.is_empty() {
                report::error(&format!("error: {message}"));
            }
            ExitCode::from(code)
        }
        Err(error) => {
            report::error(&format!("error: cannot start: {error}"));
            ExitCode::from(FAILED)
        }
    }
}

struct Problem {
    message: String,
    code: u8,
}

fn failed(message: impl Into<String>) -> Problem {
    Problem { message: message.into(), code: FAILED }
}

async fn send_all(io: Io, args: AvroClientArgs) -> Result<(), Problem> {
    let settings = settings(&io, &args).await?;
    let mut diagnostics: Vec<Diagnostic> = Vec::new();
    let config = avro::parse_client(&mut ParseContext::new(&settings, &mut diagnostics));
    report::diagnostics(&diagnostics);
    let config = match config {
        Some(config) if !load::has_errors(&diagnostics) => Arc::new(config),
        _ => return Err(Problem { message: String::new(), code: BAD_CONFIG }),
    };
    let headers = match &args.header_file {
        Some(path) => entries(&io, path).await?.into_iter().map(|(k, v, _)| (k, v)).collect(),
        None => Headers::new(),
    };
    let counters = Arc::<SinkCounters>::default();
    let batch_size = config.batch_size;
    let attempts = config.max_attempts;
    let client = RpcClient::open(io.clone(), "avro-client".into(), config, counters).await;
    let client = client.map_err(|e| Problem { message: format!("{}: {e}", e.property), code: BAD_CONFIG })?;
    let mut sender = Sender { client, headers, batch_size, attempts, unanswered: VecDeque::new() };
    match (&args.filename, &args.dirname) {
        (None, None) => sender.send_lines(&mut Input::Standard).await?,
        (Some(path), _) => sender.send_file(&io, path).await?,
        (None, Some(directory)) => {
            for path in files(&io, directory).await? {
                sender.send_file(&io, &path).await?;
                let mut name = path.clone().into_os_string();
                name.push(SENT_SUFFIX);
                let renamed = io.rename_new(&path, Path::new(&name)).await;
                renamed
                    .map_err(|e| failed(format!("{} was sent but cannot be renamed: {e}", path.display())))?;
            }
        }
    }
    sender.client.close().await;
    Ok(())
}

/// Regular files that were not sent yet, by name.
async fn files(io: &Io, directory: &Path) -> Result<Vec<PathBuf>, Problem> {
    let listed = io.read_dir(directory).await;
    let listed =
        listed.map_err(|e| failed(format!("cannot read the directory {}: {e}", directory.display())))?;
    let waiting = listed.into_iter().filter(|(name, kind)| {
        let name = name.to_string_lossy();
        *kind == FileType::File && !name.ends_with(SENT_SUFFIX) && !name.starts_with('.')
    });
    let mut paths: Vec<_> = waiting.map(|(name, _)| directory.join(name)).collect();
    paths.sort();
    Ok(paths)
}

/// Key, value and line of a properties file.
async fn entries(io: &Io, path: &Path) -> Result<Vec<(String, String, u32)>, Problem> {
    let wrong = |e: String| Problem { message: format!("{}: {e}", path.display()), code: BAD_CONFIG };
    let file = io.open(path, OpenOptions::READ).await.map_err(|e| wrong(e.to_string()))?;
    let mut bytes = Vec::new();
    loop {
        let (read, piece) = file.read_at(Vec::with_capacity(READ_BYTES), bytes.len() as u64).await;
        if read.map_err(|e| wrong(e.to_string()))? == 0 {
            break;
        }
        bytes.extend_from_slice(&piece);
    }
    let entries = properties::parse(&path.display().to_string(), &bytes);
    let entries = entries.map_err(|(at, message)| wrong(format!("line {}: {message}", at.line)))?;
    Ok(entries.into_iter().map(|e| (e.key, e.value, e.location.line)).collect())
}

/// The client's settings, as if they were an avro sink's.
async fn settings(io: &Io, args: &AvroClientArgs) -> Result<ComponentSettings, Problem> {
    let mut settings = std::collections::BTreeMap::new();
    if let Some(path) = &args.rpc_props {
        for (key, value, line) in entries(io, path).await? {
            let location = Location { file: path.display().to_string().into(), line };
            if !value.trim().is_empty() {
                settings.insert(key, Setting { value: value.trim().to_owned(), location, is_secret: false });
            }
        }
    }
    let mut option = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            let location = Location { file: "command line".into(), line: 0 };
            settings.insert(key.to_owned(), Setting { value, location, is_secret: false });
        }
    };
    option("hostname", args.host.clone());
    option("port", args.port.map(|p| p.to_string()));
    if !settings.contains_key("hosts") && (args.host.is_none() || args.port.is_none()) {
        let message = "whom to send to? Use --host and --port, or --rpcProps with a file that sets `hosts`";
        return Err(Problem { message: message.to_owned(), code: BAD_CONFIG });
    }
    let (agent, name) = ("avro-client".into(), "rpc".into());
    Ok(ComponentSettings {
        agent,
        kind: Kind::Sink,
        name,
        settings,
        listed: None,
        globals: Default::default(),
    })
}

enum Input {
    Standard,
    File(Rc<dyn crate::io::File>, u64),
}

impl Input {
    /// The next bytes; none at the end.
    async fn read(&mut self) -> std::io::Result<Vec<u8>> {
        match self {
            Self::Standard => {
                off_core(|| {
                    let mut piece = vec![0; READ_BYTES];
                    let size = std::io::stdin().lock().read(&mut piece)?;
                    piece.truncate(size);
                    Ok(piece)
                })
                .await
            }
            Self::File(file, offset) => {
                let (read, piece) = file.read_at(Vec::with_capacity(READ_BYTES), *offset).await;
                *offset += read? as u64;
                Ok(piece)
            }
        }
    }
}

struct Sender {
    client: RpcClient,
    headers: Headers,
    batch_size: usize,
    attempts: usize,
    /// Sent and not answered; sent again if the connection breaks.
    unanswered: VecDeque<EventBatch>,
}

impl Sender {
    async fn send_file(&mut self, io: &Io, path: &Path) -> Result<(), Problem> {
        let opened = io.open(path, OpenOptions::READ).await;
        let file = opened.map_err(|e| failed(format!("cannot open {}: {e}", path.display())))?;
        self.send_lines(&mut Input::File(file, 0)).await
    }

    /// Sends each line as an event, the last one also without its end, and waits for all answers.
    async fn send_lines(&mut self, input: &mut Input) -> Result<(), Problem> {
        let mut buffer = BytesMut::new();
        let mut batch = BatchBuilder::new(Separator::None);
        loop {
            let piece = input.read().await.map_err(|e| failed(format!("cannot read: {e}")))?;
            let end = piece.is_empty();
            buffer.extend_from_slice(&piece);
            let mut at = 0;
            while let Some(size) = buffer.get(at..).and_then(|rest| memchr::memchr(b'\n', rest)) {
                push(&mut batch, buffer.get(at..at + size).unwrap_or_default());
                at += size + 1;
                if batch.len() >= self.batch_size || batch.area_bytes() >= BATCH_BYTES_MAX {
                    self.send(std::mem::take(&mut batch)).await?;
                }
            }
            let _ = buffer.split_to(at);
            if buffer.len() > LINE_BYTES_MAX {
                return Err(failed(format!("a line of more than {LINE_BYTES_MAX} bytes")));
            }
            if end {
                if !buffer.is_empty() {
                    push(&mut batch, &buffer);
                }
                if !batch.is_empty() {
                    self.send(batch).await?;
                }
                while !self.unanswered.is_empty() {
                    self.answer().await?;
                }
                return Ok(());
            }
        }
    }

    async fn send(&mut self, builder: BatchBuilder) -> Result<(), Problem> {
        let mut batch = builder.finish();
        *batch.common_mut() = self.headers.clone();
        while self.unanswered.len() >= self.client.window() {
            self.answer().await?;
        }
        if self.unanswered.is_empty() {
            self.client.connect().await.map_err(|e| failed(e.to_string()))?;
        }
        let sent = self.client.send(&batch).await;
        self.unanswered.push_back(batch);
        match sent {
            Ok(()) => Ok(()),
            Err(error) => self.recover(error.to_string()).await,
        }
    }

    async fn answer(&mut self) -> Result<(), Problem> {
        match self.client.answer().await {
            Ok(()) => {
                self.unanswered.pop_front();
                Ok(())
            }
            Err(error) => self.recover(error.to_string()).await,
        }
    }

    /// Another host, or a new connection, gets what has no answer: one batch after the other.
    async fn recover(&mut self, mut reason: String) -> Result<(), Problem> {
        for _ in 1..self.attempts {
            report::error(&format!("warning: {reason}; trying the next host"));
            self.client.fail();
            loop {
                let Some(batch) = self.unanswered.front() else { return Ok(()) };
                let repeated = async {
                    self.client.connect().await?;
                    self.client.send(batch).await?;
                    self.client.answer().await
                };
                match repeated.await {
                    Ok(()) => drop(self.unanswered.pop_front()),
                    Err(error) => {
                        reason = error.to_string();
                        break;
                    }
                }
            }
        }
        Err(failed(reason))
    }
}

/// A line without its end, as Java's `readLine` has it.
fn push(batch: &mut BatchBuilder, line: &[u8]) {
    batch.push(line.strip_suffix(b"\r").unwrap_or(line));
}
