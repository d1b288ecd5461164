//! The local disk behind the interface of HDFS: the embedded default.
//!
//! What is synced was written with `fdatasync`; names are made durable by syncing their directories.

use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;

use super::{FileSystem, FileWriter, FsError, FsErrorKind};
use crate::io::{File, Io, LocalBoxFuture, OpenOptions};

/// The local disk.
pub(super) struct LocalFs {
    io: Io,
}

impl LocalFs {
    pub(super) fn new(io: Io) -> Self {
        Self { io }
    }
}

fn failed(what: &str, path: &Path, error: &io::Error) -> FsError {
    let kind = match error.kind() {
        io::ErrorKind::AlreadyExists => FsErrorKind::Exists,
        io::ErrorKind::NotFound => FsErrorKind::Missing,
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => FsErrorKind::NoRoom,
        io::ErrorKind::PermissionDenied
        | io::ErrorKind::NotADirectory
        | io::ErrorKind::IsADirectory
        | io::ErrorKind::InvalidFilename
        | io::ErrorKind::ReadOnlyFilesystem => FsErrorKind::Settings,
        _ => FsErrorKind::Connection,
    };
    FsError::new(kind, format!("cannot {what} {}: {error}", path.display()))
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Creates a directory with its parents and makes their names durable.
async fn make_directory(io: &Io, directory: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = directory;
    while io.metadata(at).await.is_err_and(|e| e.kind() == io::ErrorKind::NotFound) {
        missing.push(at.to_owned());
        match at.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => at = parent,
            _ => break,
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    io.create_dir_all(directory).await?;
    for made in missing {
        io.sync_dir(&parent(&made)).await?;
    }
    Ok(())
}

impl FileSystem for LocalFs {
    fn uri(&self) -> &str {
        "file://"
    }
    fn create(&self, path: &str) -> LocalBoxFuture<'static, Result<Box<dyn FileWriter>, FsError>> {
        let (io, path) = (self.io.clone(), PathBuf::from(path));
        Box::pin(async move {
            let directory = parent(&path);
            let made = make_directory(&io, &directory).await;
            made.map_err(|e| match e.kind() {
                // The directory's name belongs to a file.
                io::ErrorKind::AlreadyExists => FsError::new(
                    FsErrorKind::Settings,
                    format!("cannot create directory {}: {e}", directory.display()),
                ),
                _ => failed("create directory", &directory, &e),
            })?;
            let file = io.open(&path, OpenOptions::CREATE_NEW).await;
            let file = file.map_err(|e| failed("create", &path, &e))?;
            io.sync_dir(&directory).await.map_err(|e| failed("sync directory", &directory, &e))?;
            Ok(Box::new(LocalWriter { file, path, size_bytes: 0 }) as Box<dyn FileWriter>)
        })
    }
    fn rename(&self, from: &str, to: &str) -> LocalBoxFuture<'static, Result<(), FsError>> {
        let (io, from, to) = (self.io.clone(), PathBuf::from(from), PathBuf::from(to));
        Box::pin(async move {
            let (here, there) = (parent(&from), parent(&to));
            make_directory(&io, &there).await.map_err(|e| failed("create directory", &there, &e))?;
            io.rename_new(&from, &to).await.map_err(|e| failed("rename", &from, &e))?;
            io.sync_dir(&there).await.map_err(|e| failed("sync directory", &there, &e))?;
            if here != there {
                io.sync_dir(&here).await.map_err(|e| failed("sync directory", &here, &e))?;
            }
            Ok(())
        })
    }
    fn remove(&self, path: &str) -> LocalBoxFuture<'static, Result<(), FsError>> {
        let (io, path) = (self.io.clone(), PathBuf::from(path));
        Box::pin(async move {
            io.remove_file(&path).await.map_err(|e| failed("remove", &path, &e))?;
            let directory = parent(&path);
            io.sync_dir(&directory).await.map_err(|e| failed("sync directory", &directory, &e))
        })
    }
    fn size(&self, path: &str) -> LocalBoxFuture<'static, Result<Option<u64>, FsError>> {
        let (io, path) = (self.io.clone(), PathBuf::from(path));
        Box::pin(async move {
            match io.metadata(&path).await {
                Ok(found) => Ok(Some(found.size_bytes)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(error) => Err(failed("look at", &path, &error)),
            }
        })
    }
    fn read(&self, path: &str, bytes_max: u64) -> LocalBoxFuture<'static, Result<Bytes, FsError>> {
        let (io, path) = (self.io.clone(), PathBuf::from(path));
        Box::pin(async move {
            let fail = |e| failed("read", &path, &e);
            let file = io.open(&path, OpenOptions::READ).await.map_err(fail)?;
            let size = file.metadata().await.map_err(fail)?.size_bytes;
            if size > bytes_max {
                return Err(super::too_long(&path.display().to_string(), size, bytes_max));
            }
            let mut bytes = Vec::new();
            while (bytes.len() as u64) < size {
                let room = Vec::with_capacity(size as usize - bytes.len());
                let (read, piece) = file.read_at(room, bytes.len() as u64).await;
                if read.map_err(fail)? == 0 {
                    break;
                }
                bytes.extend_from_slice(&piece);
            }
            Ok(bytes.into())
        })
    }
    fn recover(&self, _path: &str) -> LocalBoxFuture<'static, Result<bool, FsError>> {
        Box::pin(std::future::ready(Ok(true)))
    }
    fn can_truncate(&self) -> bool {
        true
    }
    fn truncate(&self, path: &str, size_bytes: u64) -> LocalBoxFuture<'static, Result<(), FsError>> {
        let (io, path) = (self.io.clone(), PathBuf::from(path));
        Box::pin(async move {
            let cut = async {
                let file = io.open(&path, OpenOptions { create: false, ..OpenOptions::WRITE }).await?;
                file.set_len(size_bytes).await?;
                file.sync_data().await
            };
            cut.await.map_err(|e| failed("cut off", &path, &e))
        })
    }
}

struct LocalWriter {
    file: Rc<dyn File>,
    path: PathBuf,
    size_bytes: u64,
}

impl FileWriter for LocalWriter {
    fn write(&mut self, pieces: Vec<Bytes>, sync: bool) -> LocalBoxFuture<'_, Result<(), FsError>> {
        Box::pin(async move {
            for piece in pieces {
                let size = piece.len() as u64;
                let written = self.file.write_at(piece, self.size_bytes).await;
                written.map_err(|e| failed("write to", &self.path, &e))?;
                self.size_bytes += size;
            }
            if sync {
                self.file.sync_data().await.map_err(|e| failed("sync", &self.path, &e))?;
            }
            Ok(())
        })
    }
    fn close(self: Box<Self>) -> LocalBoxFuture<'static, Result<(), FsError>> {
        Box::pin(async move { self.file.sync_data().await.map_err(|e| failed("sync", &self.path, &e)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{EngineKind, run_local};

    #[test]
    fn files_come_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let name = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let names = (name("a/b/x.tmp"), name("a/b/x"), name("a/b/x/y"));
        run_local(EngineKind::Portable, |io| async move {
            let (tmp, done, below_file) = names;
            let fs = LocalFs::new(io);
            let mut writer = fs.create(&tmp).await.unwrap();
            assert_eq!(fs.create(&tmp).await.err().unwrap().kind, FsErrorKind::Exists);
            writer.write(vec![Bytes::from_static(b"ab"), Bytes::from_static(b"cd")], true).await.unwrap();
            writer.write(vec![Bytes::from_static(b"ef")], false).await.unwrap();
            writer.close().await.unwrap();
            assert_eq!(fs.size(&tmp).await.unwrap(), Some(6));
            fs.truncate(&tmp, 4).await.unwrap();
            fs.rename(&tmp, &done).await.unwrap();
            assert_eq!(std::fs::read(&done).unwrap(), b"abcd");
            assert_eq!(fs.rename(&tmp, &done).await.err().unwrap().kind, FsErrorKind::Missing);
            fs.create(&tmp).await.unwrap().close().await.unwrap();
            assert_eq!(fs.rename(&tmp, &done).await.err().unwrap().kind, FsErrorKind::Exists);
            let refused = fs.create(&below_file).await.err().unwrap();
            assert_eq!(refused.kind, FsErrorKind::Settings, "{refused}");
            assert_eq!(fs.read(&done, 4).await.unwrap(), "abcd");
            assert!(fs.read(&done, 3).await.unwrap_err().message.contains("4 bytes, more than 3"));
            assert_eq!(fs.read(&tmp, 3).await.unwrap(), "");
            fs.remove(&done).await.unwrap();
            assert_eq!(fs.read(&done, 4).await.unwrap_err().kind, FsErrorKind::Missing);
            assert_eq!(fs.size(&done).await.unwrap(), None);
        })
        .unwrap();
    }
}
