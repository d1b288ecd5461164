//! The file systems an HDFS path can mean: a cluster, or the local disk.
//!
//! Flume goes through `org.apache.hadoop.fs.FileSystem`. A path with a scheme says which; one without uses
//! `fs.defaultFS` of the Hadoop configuration, and without a configuration the local file system, as Hadoop
//! itself does. All calls are made on the shard; the cluster's client runs on a thread of its own.

use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;

use crate::io::{Io, LocalBoxFuture};

pub mod conf;
mod local;
mod remote;

pub use conf::HadoopConf;

/// What kind of failure: decides what is done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FsErrorKind {
    /// Safe mode while syncing: the data lies on the DataNodes already; the same writer is asked again.
    Wait,
    /// The cluster or the disk did not do it: another file, later.
    Connection,
    /// The time limit of a call has run out.
    Expired,
    /// No DataNode, no space, a quota: as [`Self::Connection`], and the operator has to make room.
    NoRoom,
    /// Permissions, a name in the way, no ticket: goes on failing until somebody changes something.
    Settings,
    /// The name is taken: another name.
    Exists,
    /// No such file.
    Missing,
}

/// Why a call failed. The message is one line: what the NameNode says without its stack trace.
#[derive(Clone, Debug)]
pub struct FsError {
    /// What kind.
    pub kind: FsErrorKind,
    /// What to tell the operator.
    pub message: String,
}

impl FsError {
    fn new(kind: FsErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }
}
impl fmt::Display for FsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// A file system. Paths are absolute and without scheme.
pub trait FileSystem {
    /// For messages and the journal: `hdfs://host:8020`, `file://`.
    fn uri(&self) -> &str;
    /// Creates a file and its directories.
    fn create(&self, path: &str) -> LocalBoxFuture<'static, Result<Box<dyn FileWriter>, FsError>>;
    /// Renames; never over an existing file ([`FsErrorKind::Exists`]).
    fn rename(&self, from: &str, to: &str) -> LocalBoxFuture<'static, Result<(), FsError>>;
    /// Deletes a file.
    fn remove(&self, path: &str) -> LocalBoxFuture<'static, Result<(), FsError>>;
    /// Size of a file, `None` if there is none.
    fn size(&self, path: &str) -> LocalBoxFuture<'static, Result<Option<u64>, FsError>>;
    /// Reads a file of at most `bytes_max` bytes.
    fn read(&self, path: &str, bytes_max: u64) -> LocalBoxFuture<'static, Result<Bytes, FsError>>;
    /// Takes a file away from a writer that is gone and completes it; false = not yet, ask again.
    fn recover(&self, path: &str) -> LocalBoxFuture<'static, Result<bool, FsError>>;
    /// True if [`Self::truncate`] works.
    fn can_truncate(&self) -> bool;
    /// Cuts a file off.
    fn truncate(&self, path: &str, size_bytes: u64) -> LocalBoxFuture<'static, Result<(), FsError>>;
}

/// A file being written. After any error but [`FsErrorKind::Wait`] it must only be dropped: an `Ok` after an
/// error proves nothing.
pub trait FileWriter {
    /// Appends the pieces and, if asked, makes everything written so far durable.
    fn write(&mut self, pieces: Vec<Bytes>, sync: bool) -> LocalBoxFuture<'_, Result<(), FsError>>;
    /// Completes the file.
    fn close(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), FsError>>;
}

/// How to reach a file system.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Access {
    /// Limit of each call but syncs; `None` = wait for ever.
    pub call_timeout: Option<Duration>,
    /// Kerberos principal; `_HOST` is replaced.
    pub principal: Option<String>,
    /// Kerberos keytab.
    pub keytab: Option<String>,
    /// User to act as.
    pub proxy_user: Option<String>,
}

/// A path as configured, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// `file://`, `hdfs://host:8020`, `viewfs://name`.
    pub uri: String,
    /// The rest, absolute; may still have escapes.
    pub path: String,
}

impl Location {
    /// Takes a path apart; without scheme it belongs to `fs.defaultFS`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn new(text: &str, conf: &HadoopConf, home: &str) -> Result<Self, String> {
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest))
                if !scheme.is_empty()
                    && rest.starts_with('/')
                    && scheme
                        .chars()
                        .all(|c| c.is_ascii_alphanumeric() || c == '+' || c == '-' || c == '.') =>
            {
                (scheme.to_ascii_lowercase(), rest)
            }
            _ => {
                let default = conf.get("fs.defaultFS").or_else(|| conf.get("fs.default.name"));
                let default = default.unwrap_or("file:///").trim_end_matches('/');
                let uri = match default.split_once(':') {
                    Some((scheme, _)) if scheme.eq_ignore_ascii_case("file") => "file://".to_owned(),
                    Some(("hdfs" | "viewfs", _)) => default.to_owned(),
                    _ => {
                        return Err(format!(
                            "belongs to fs.defaultFS = {default}, which this program cannot write to; only hdfs, viewfs and file can"
                        ));
                    }
                };
                let path = match text.starts_with('/') {
                    true => text.to_owned(),
                    false if uri == "file://" => text.to_owned(),
                    false => format!("{home}/{text}"),
                };
                return Ok(Self { uri, path });
            }
        };
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let path = if path.is_empty() { "/".to_owned() } else { path.to_owned() };
        match scheme.as_str() {
            "file" => Ok(Self { uri: "file://".to_owned(), path }),
            "hdfs" | "viewfs" if authority.is_empty() => {
                let default = conf.get("fs.defaultFS").filter(|d| d.starts_with(&format!("{scheme}://")));
                let Some(default) = default else {
                    return Err(format!("has no host, and fs.defaultFS is no {scheme} file system"));
                };
                Ok(Self { uri: default.trim_end_matches('/').to_owned(), path })
            }
            "hdfs" | "viewfs" => Ok(Self { uri: format!("{scheme}://{authority}"), path }),
            _ => Err(format!("has the scheme {scheme}; only hdfs, viewfs and file can be written to")),
        }
    }
}

/// Reads a small file of any of these file systems, named by its full address.
///
/// # Errors
/// It cannot be read, or has more than `bytes_max` bytes.
pub async fn read(
    address: &str,
    conf: &HadoopConf,
    access: &Access,
    io: &Io,
    bytes_max: u64,
) -> Result<Bytes, FsError> {
    let location = Location::new(address, conf, "/")
        .map_err(|e| FsError::new(FsErrorKind::Settings, format!("{address} {e}")))?;
    open(&location.uri, conf, access, io)?.read(&location.path, bytes_max).await
}

/// Too long to be read as a whole.
fn too_long(shown: &str, size_bytes: u64, bytes_max: u64) -> FsError {
    FsError::new(FsErrorKind::Settings, format!("{shown} has {size_bytes} bytes, more than {bytes_max}"))
}

/// The file system with this URI.
///
/// # Errors
/// [`FsErrorKind::Settings`] if it cannot even be addressed. Nothing is connected to yet.
pub fn open(uri: &str, conf: &HadoopConf, access: &Access, io: &Io) -> Result<Rc<dyn FileSystem>, FsError> {
    if uri == "file://" {
        return Ok(Rc::new(local::LocalFs::new(io.clone())));
    }
    Ok(Rc::new(remote::RemoteFs::new(uri, conf, access, io.clone())?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let cluster = HadoopConf::from_pairs([("fs.defaultFS", "hdfs://nn:9000/")]);
        let none = HadoopConf::default();
        let table = [
            ("/a/%Y", &none, "file://", "/a/%Y"),
            ("a/b", &none, "file://", "a/b"),
            ("/a/b", &cluster, "hdfs://nn:9000", "/a/b"),
            ("a/b", &cluster, "hdfs://nn:9000", "/user/me/a/b"),
            ("hdfs://x:1/a", &none, "hdfs://x:1", "/a"),
            ("hdfs://x", &none, "hdfs://x", "/"),
            ("hdfs:///a", &cluster, "hdfs://nn:9000", "/a"),
            ("file:///a", &cluster, "file://", "/a"),
            ("file:/a", &cluster, "file://", "/a"),
            ("/a:b/%H", &cluster, "hdfs://nn:9000", "/a:b/%H"),
        ];
        for (text, conf, uri, path) in table {
            let found = Location::new(text, conf, "/user/me").unwrap();
            assert_eq!((found.uri.as_str(), found.path.as_str()), (uri, path), "{text}");
        }
        let s3 = HadoopConf::from_pairs([("fs.defaultFS", "s3a://bucket")]);
        for (text, conf) in [("s3a://b/x", &none), ("hdfs:///a", &none), ("/a", &s3)] {
            assert!(Location::new(text, conf, "/user/me").is_err(), "{text}");
        }
    }
}
