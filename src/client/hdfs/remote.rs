//! A cluster through hdfs-native, with its known faults contained.
//!
//! One thread of its own serves all clusters of the process, so that leases and heartbeats go on while a
//! shard is busy. Every call has a time limit here, because the crate has none for a frozen NameNode and can
//! wait for ever in a sync whose DataNode died. After any error but safe mode during a sync the writer is
//! gone: its next sync would answer Ok although the failed data is missing.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use hdfs_native::client::{FileStatus, WriteOptions};
use hdfs_native::file::FileWriter as NativeWriter;
use hdfs_native::{Client, ClientBuilder, HdfsError};
use tokio::runtime::{Builder, Handle, Runtime};

use super::{Access, FileSystem, FileWriter, FsError, FsErrorKind, HadoopConf};
use crate::io::{Io, LocalBoxFuture, leave_core, machine};

/// A sync that takes longer than this is taken for dead unless syncs are slow anyway: the slowest healthy
/// one measured took 0.2 s, one across a failover of the NameNode 13 s.
const SYNC_LIMIT_MIN: Duration = Duration::from_secs(15);
/// Never longer than this, whatever `hdfs.callTimeout` says: a hang does not end by itself.
const SYNC_LIMIT_MAX: Duration = Duration::from_secs(60);
/// How many times the slowest recent sync is waited for.
const SYNC_LIMIT_FACTOR: u32 = 20;

/// The thread of all clusters.
fn runtime() -> Result<&'static Handle, FsError> {
    static RUNTIME: OnceLock<Result<Runtime, String>> = OnceLock::new();
    let built = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(1).thread_name("hdfs").on_thread_start(leave_core).enable_all();
        builder.build().map_err(|e| e.to_string())
    });
    match built {
        Ok(runtime) => Ok(runtime.handle()),
        Err(error) => {
            Err(FsError::new(FsErrorKind::Connection, format!("cannot start a thread for HDFS: {error}")))
        }
    }
}

/// One client per cluster and user for the life of the process: one that has written is never freed anyway.
fn client(uri: &str, conf: &HadoopConf, access: &Access) -> Result<Client, FsError> {
    type Key = (String, Access, Option<String>);
    static CLIENTS: OnceLock<Mutex<HashMap<Key, Client>>> = OnceLock::new();
    let key = (
        uri.to_owned(),
        Access { call_timeout: None, ..access.clone() },
        conf.directory().map(str::to_owned),
    );
    let mut clients = CLIENTS.get_or_init(Mutex::default).lock().unwrap_or_else(|e| e.into_inner());
    if let Some(client) = clients.get(&key) {
        return Ok(client.clone());
    }
    const BEST_EFFORT: &str = "dfs.client.block.write.replace-datanode-on-failure.best-effort";
    let mut settings: HashMap<String, String> =
        conf.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    // With as many DataNodes as replicas the death of one must not fail every writer.
    settings.entry(BEST_EFFORT.to_owned()).or_insert_with(|| "true".to_owned());
    let mut builder =
        ClientBuilder::new().with_url(uri).with_config(settings).with_io_runtime(runtime()?.clone());
    if let Some(directory) = conf.directory() {
        builder = builder.with_config_dir(directory);
    }
    if let Some(user) = &access.proxy_user {
        builder = builder.with_user(user);
    }
    if let Some(principal) = &access.principal {
        builder = builder.with_kerberos_principal(principal.replace("_HOST", &machine::host_name()));
    }
    if let Some(keytab) = &access.keytab {
        builder = builder.with_kerberos_keytab(keytab);
    }
    let client = builder.build().map_err(|e| explain(&format!("address {uri}"), e))?;
    clients.insert(key, client.clone());
    Ok(client)
}

/// A cluster.
pub(super) struct RemoteFs {
    uri: String,
    client: Client,
    options: WriteOptions,
    shared: Rc<Limits>,
}

struct Limits {
    io: Io,
    call: Option<Duration>,
    /// The slowest recent sync; sinks slowly.
    slowest_sync: Cell<Duration>,
}

impl Limits {
    fn sync(&self) -> Duration {
        let ceiling = self.call.unwrap_or(SYNC_LIMIT_MAX).min(SYNC_LIMIT_MAX);
        (self.slowest_sync.get() * SYNC_LIMIT_FACTOR).clamp(SYNC_LIMIT_MIN.min(ceiling), ceiling)
    }
    fn note_sync(&self, took: Duration) {
        self.slowest_sync.set((self.slowest_sync.get() * 99 / 100).max(took));
    }
    /// Runs a call on the clusters' thread, at most this long.
    async fn run<T: Send + 'static>(
        &self,
        what: &str,
        limit: Option<Duration>,
        call: impl Future<Output = Result<T, FsError>> + Send + 'static,
    ) -> Result<T, FsError> {
        let mut task = runtime()?.spawn(call);
        let answer = match limit {
            None => (&mut task).await,
            Some(limit) => tokio::select! {
                answer = &mut task => answer,
                () = self.io.sleep(limit) => {
                    task.abort();
                    let message = format!("cannot {what}: no answer after {} ms", limit.as_millis());
                    return Err(FsError::new(FsErrorKind::Expired, message));
                }
            },
        };
        answer.unwrap_or_else(|e| {
            Err(FsError::new(FsErrorKind::Connection, format!("cannot {what}: the HDFS client failed: {e}")))
        })
    }
}

impl RemoteFs {
    pub(super) fn new(uri: &str, conf: &HadoopConf, access: &Access, io: Io) -> Result<Self, FsError> {
        let client = client(uri, conf, access)?;
        // What the client's own files say goes before the servers' defaults, as with Java's client.
        let mut options = WriteOptions::default();
        if let Some(size_bytes) = conf.size("dfs.blocksize").or_else(|| conf.size("dfs.block.size")) {
            options = options.block_size(size_bytes);
        }
        if let Some(replication) = conf.get("dfs.replication").and_then(|r| r.trim().parse().ok()) {
            options = options.replication(replication);
        }
        let shared = Rc::new(Limits { io, call: access.call_timeout, slowest_sync: Cell::default() });
        Ok(Self { uri: uri.to_owned(), client, options, shared })
    }

    fn call<T: Send + 'static, F>(
        &self,
        what: String,
        call: impl FnOnce(Client) -> F,
    ) -> LocalBoxFuture<'static, Result<T, FsError>>
    where
        F: Future<Output = Result<T, HdfsError>> + Send + 'static,
    {
        let (shared, future, text) = (self.shared.clone(), call(self.client.clone()), what.clone());
        Box::pin(async move {
            let call = async move { future.await.map_err(|e| explain(&text, e)) };
            shared.run(&what, shared.call, call).await
        })
    }
}

impl FileSystem for RemoteFs {
    fn uri(&self) -> &str {
        &self.uri
    }
    fn create(&self, path: &str) -> LocalBoxFuture<'static, Result<Box<dyn FileWriter>, FsError>> {
        let (path, options) = (path.to_owned(), self.options.clone());
        let shown = format!("{}{path}", self.uri);
        let shared = self.shared.clone();
        let created =
            self.call(
                format!("create {shown}"),
                move |client| async move { client.create(&path, options).await },
            );
        Box::pin(async move {
            let native = created.await?;
            Ok(Box::new(RemoteWriter { native: Some(native), shared, shown }) as Box<dyn FileWriter>)
        })
    }
    fn rename(&self, from: &str, to: &str) -> LocalBoxFuture<'static, Result<(), FsError>> {
        let (from, to) = (from.to_owned(), to.to_owned());
        self.call(format!("rename {}{from} to {to}", self.uri), move |client| async move {
            client.rename(&from, &to, false).await
        })
    }
    fn remove(&self, path: &str) -> LocalBoxFuture<'static, Result<(), FsError>> {
        let path = path.to_owned();
        self.call(format!("delete {}{path}", self.uri), move |client| async move {
            client.delete(&path, false).await.map(drop)
        })
    }
    fn size(&self, path: &str) -> LocalBoxFuture<'static, Result<Option<u64>, FsError>> {
        let path = path.to_owned();
        let call = self.call(format!("look at {}{path}", self.uri), move |client| async move {
            client.get_file_info(&path).await
        });
        Box::pin(async move {
            match call.await {
                Ok::<FileStatus, _>(status) => Ok(Some(status.length as u64)),
                Err(error) if error.kind == FsErrorKind::Missing => Ok(None),
                Err(error) => Err(error),
            }
        })
    }
    fn read(&self, path: &str, bytes_max: u64) -> LocalBoxFuture<'static, Result<Bytes, FsError>> {
        let (path, shown) = (path.to_owned(), format!("{}{path}", self.uri));
        let call = self.call(format!("read {shown}"), move |client| async move {
            let mut reader = client.read(&path).await?;
            let size = reader.file_length();
            match size as u64 <= bytes_max {
                true => reader.read_bytes(size).await.map(Ok),
                false => Ok(Err(size)),
            }
        });
        Box::pin(async move { call.await?.map_err(|size| super::too_long(&shown, size as u64, bytes_max)) })
    }
    fn recover(&self, path: &str) -> LocalBoxFuture<'static, Result<bool, FsError>> {
        let path = path.to_owned();
        self.call(format!("recover the lease of {}{path}", self.uri), move |client| async move {
            client.recover_lease(&path).await
        })
    }
    fn can_truncate(&self) -> bool {
        false
    }
    fn truncate(&self, path: &str, _size_bytes: u64) -> LocalBoxFuture<'static, Result<(), FsError>> {
        let message = format!("cannot cut off {}{path}: not possible on HDFS", self.uri);
        Box::pin(std::future::ready(Err(FsError::new(FsErrorKind::Settings, message))))
    }
}

struct RemoteWriter {
    /// `None` while a call is under way and for good after an error.
    native: Option<NativeWriter>,
    shared: Rc<Limits>,
    shown: String,
}

impl RemoteWriter {
    async fn run(&mut self, pieces: Vec<Bytes>, sync: bool) -> Result<(), FsError> {
        let gone = || FsError::new(FsErrorKind::Connection, format!("{}: the writer is gone", self.shown));
        let mut native = self.native.take().ok_or_else(gone)?;
        let size: usize = pieces.iter().map(Bytes::len).sum();
        let what = format!("write {size} bytes to {}", self.shown);
        let text = what.clone();
        let call = async move {
            for piece in pieces {
                // An error here ends the writer: the file may end inside a record.
                native.write_bytes(piece).await.map_err(|e| explain(&text, e))?;
            }
            if !sync {
                return Ok((Some(native), None));
            }
            match native.hsync().await.map_err(|e| explain(&text, e)) {
                Ok(()) => Ok((Some(native), None)),
                Err(error) if error.kind == FsErrorKind::Wait => Ok((Some(native), Some(error))),
                Err(error) => Err(error),
            }
        };
        let began = self.shared.io.now();
        let limit = if sync { Some(self.shared.sync()) } else { self.shared.call };
        let (native, wait) = match self.shared.run(&what, limit, call).await {
            // Only a sync of the same writer may be told to wait.
            Err(error) if error.kind == FsErrorKind::Wait => {
                return Err(FsError { kind: FsErrorKind::Connection, ..error });
            }
            other => other?,
        };
        self.native = native;
        match wait {
            Some(error) => Err(error),
            None => {
                if sync {
                    self.shared.note_sync(self.shared.io.now() - began);
                }
                Ok(())
            }
        }
    }
}

impl FileWriter for RemoteWriter {
    fn write(&mut self, pieces: Vec<Bytes>, sync: bool) -> LocalBoxFuture<'_, Result<(), FsError>> {
        Box::pin(self.run(pieces, sync))
    }
    fn close(mut self: Box<Self>) -> LocalBoxFuture<'static, Result<(), FsError>> {
        Box::pin(async move {
            let gone =
                || FsError::new(FsErrorKind::Connection, format!("{}: the writer is gone", self.shown));
            let mut native = self.native.take().ok_or_else(gone)?;
            let what = format!("close {}", self.shown);
            let text = what.clone();
            let call = async move { native.close().await.map_err(|e| explain(&text, e)) };
            self.shared.run(&what, self.shared.call, call).await
        })
    }
}

/// Sorts an error by what can be done about it; keeps its first line.
fn explain(what: &str, error: HdfsError) -> FsError {
    let kind = match &error {
        HdfsError::RPCError(class, text) | HdfsError::FatalRPCError(class, text) => of_exception(class, text),
        HdfsError::AlreadyExists(_) => FsErrorKind::Exists,
        HdfsError::FileNotFound(_) => FsErrorKind::Missing,
        HdfsError::InvalidPath(_)
        | HdfsError::InvalidArgument(_)
        | HdfsError::UrlParseError(_)
        | HdfsError::IsADirectoryError(_)
        | HdfsError::UnsupportedErasureCodingPolicy(_)
        | HdfsError::UnsupportedFeature(_)
        | HdfsError::SASLError(_)
        | HdfsError::GSSAPIError(..)
        | HdfsError::NoSASLMechanism
        | HdfsError::XmlParseError(_) => FsErrorKind::Settings,
        _ => FsErrorKind::Connection,
    };
    let text = match &error {
        HdfsError::RPCError(class, text) | HdfsError::FatalRPCError(class, text) => {
            format!("{}: {text}", class.rsplit('.').next().unwrap_or(class))
        }
        other => other.to_string(),
    };
    let first = text.split("\n\tat").next().unwrap_or_default().replace('\n', " ");
    let advice = match kind {
        FsErrorKind::NoRoom => "; make room, raise the quota, or see that DataNodes are up",
        FsErrorKind::Settings => "; this does not pass by itself",
        _ => "",
    };
    FsError::new(kind, format!("cannot {what}: {}{advice}", first.trim()))
}

fn of_exception(class: &str, text: &str) -> FsErrorKind {
    match class.rsplit('.').next().unwrap_or(class) {
        "SafeModeException" => FsErrorKind::Wait,
        "DSQuotaExceededException" | "NSQuotaExceededException" | "QuotaExceededException" => {
            FsErrorKind::NoRoom
        }
        "AccessControlException" | "ParentNotDirectoryException" | "InvalidPathException" => {
            FsErrorKind::Settings
        }
        "FSLimitException$PathComponentTooLongException" | "PathComponentTooLongException" => {
            FsErrorKind::Settings
        }
        "FileAlreadyExistsException" | "AlreadyBeingCreatedException" => FsErrorKind::Exists,
        "FileNotFoundException" => FsErrorKind::Missing,
        _ if text.contains("could only be written to") => FsErrorKind::NoRoom,
        _ if text.contains("Name node is in safe mode") => FsErrorKind::Wait,
        _ => FsErrorKind::Connection,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sorted_and_cut() {
        let rpc = |class: &str, text: &str| HdfsError::RPCError(class.to_owned(), text.to_owned());
        let table = [
            (
                rpc(
                    "org.apache.hadoop.hdfs.server.namenode.SafeModeException",
                    "Cannot fsync file /safe. Name node is in safe mode.\nIt was turned on manually.\n\tat org.apache.x(X.java:1)",
                ),
                FsErrorKind::Wait,
                "SafeModeException: Cannot fsync file /safe. Name node is in safe mode. It was turned on manually.",
            ),
            (
                rpc(
                    "java.io.IOException",
                    "File /f could only be written to 0 of the 1 minReplication nodes.\n\tat x",
                ),
                FsErrorKind::NoRoom,
                "IOException: File /f could only be written to 0 of the 1 minReplication nodes.",
            ),
            (
                rpc(
                    "org.apache.hadoop.hdfs.protocol.DSQuotaExceededException",
                    "The DiskSpace quota of /q is exceeded",
                ),
                FsErrorKind::NoRoom,
                "DSQuotaExceededException: The DiskSpace quota",
            ),
            (
                rpc("java.io.FileNotFoundException", "rename source /nope is not found.\n\tat x"),
                FsErrorKind::Missing,
                "FileNotFoundException: rename source /nope is not found.",
            ),
            (
                rpc("org.apache.hadoop.security.AccessControlException", "Permission denied"),
                FsErrorKind::Settings,
                "AccessControlException: Permission denied",
            ),
            (HdfsError::AlreadyExists("/k1\n\tat x".into()), FsErrorKind::Exists, "/k1"),
            (
                HdfsError::DataTransferError("Block writer is closed".into()),
                FsErrorKind::Connection,
                "Block writer",
            ),
            (rpc("java.io.IOException", "something else"), FsErrorKind::Connection, "something else"),
        ];
        for (error, kind, text) in table {
            let found = explain("do it", error);
            assert_eq!(found.kind, kind, "{found}");
            assert!(found.message.starts_with("cannot do it: ") && found.message.contains(text), "{found}");
            assert!(!found.message.contains("\n") && !found.message.contains("\tat"), "{found}");
        }
    }
}
