//! Blocking operations on paths and open files that both kernel engines share.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FlockOperation, RenameFlags};

use super::buffer::BLOCK;
use super::{FileType, Lock, Metadata, OpenOptions, Space};

/// Flags of the descriptor that direct writes go through.
pub(super) const DIRECT_FLAGS: i32 = libc::O_DIRECT | libc::O_DSYNC;

/// The ordinary descriptor of a file: reads, metadata, mappings, and writes unless they are direct.
pub(super) fn open(path: &Path, options: OpenOptions) -> io::Result<std::fs::File> {
    std::fs::OpenOptions::new()
        .read(true)
        .write(options.write)
        .create(options.create && !options.create_new)
        .create_new(options.create_new)
        .truncate(options.truncate)
        .open(path)
}

/// The descriptor for direct writes to a file that is already open. `None` where the file system refuses
/// `O_DIRECT`.
pub(super) fn open_direct(path: &Path, plain: &impl AsFd) -> io::Result<Option<std::fs::File>> {
    match std::fs::OpenOptions::new().read(true).write(true).custom_flags(DIRECT_FLAGS).open(path) {
        Ok(direct) => same_file(path, plain, &direct).map(|()| Some(direct)),
        Err(error) if refuses_direct(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// True for the error of a file system without `O_DIRECT`.
pub(super) fn refuses_direct(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

/// Checks that two descriptors opened one after the other by one name are one file.
pub(super) fn same_file(path: &Path, a: &impl AsFd, b: &impl AsFd) -> io::Result<()> {
    let (a, b) = (rustix::fs::fstat(a)?, rustix::fs::fstat(b)?);
    if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino) {
        return Ok(());
    }
    Err(io::Error::other(format!("{} was replaced while it was opened", path.display())))
}

/// Checks a direct write against the rule that all engines share, so that a mistake shows in all of them.
pub(super) fn check_direct(data: &[u8], offset: u64) -> io::Result<()> {
    let address = data.as_ptr() as usize as u64;
    if [address, data.len() as u64, offset].iter().all(|n| n.is_multiple_of(BLOCK as u64)) {
        return Ok(());
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "direct write of {} bytes at {offset}: buffer, size and offset must be multiples of {BLOCK}",
            data.len()
        ),
    ))
}

/// `renameat2(2)` with `RENAME_NOREPLACE`, or link and unlink where the file system has not got it.
pub(super) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS | rustix::io::Errno::OPNOTSUPP) => {
            std::fs::hard_link(from, to)?;
            std::fs::remove_file(from)
        }
        result => Ok(result?),
    }
}

/// Names and kinds in a directory.
pub(super) fn read_dir(path: &Path) -> io::Result<Vec<(OsString, FileType)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let file_type = match entry.file_type() {
            Ok(t) if t.is_file() => FileType::File,
            Ok(t) if t.is_dir() => FileType::Directory,
            Ok(t) if t.is_symlink() => FileType::Symlink,
            Ok(_) => FileType::Other,
            // Removed between the listing and the look at it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        entries.push((entry.file_name(), file_type));
    }
    Ok(entries)
}

/// `stat(2)`.
pub(super) fn metadata(path: &Path) -> io::Result<Metadata> {
    Ok(from_stat(&rustix::fs::stat(path)?))
}

/// `fstat(2)`. Quick enough for a shard's own thread: an open file's inode is in memory.
pub(super) fn file_metadata(file: impl AsFd) -> io::Result<Metadata> {
    Ok(from_stat(&rustix::fs::fstat(file)?))
}

#[allow(
    clippy::unnecessary_cast,
    clippy::useless_conversion,
    reason = "the widths of these fields differ between architectures"
)]
fn from_stat(stat: &rustix::fs::Stat) -> Metadata {
    let file_type = match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
        rustix::fs::FileType::RegularFile => FileType::File,
        rustix::fs::FileType::Directory => FileType::Directory,
        rustix::fs::FileType::Symlink => FileType::Symlink,
        _ => FileType::Other,
    };
    Metadata {
        device: stat.st_dev as u64,
        inode: stat.st_ino as u64,
        size_bytes: stat.st_size as u64,
        // `stat(2)`: always in units of 512 bytes, whatever the block size.
        allocated_bytes: stat.st_blocks as u64 * 512,
        modified: system_time(stat.st_mtime as i64, stat.st_mtime_nsec as u64),
        links: stat.st_nlink as u64,
        file_type,
    }
}

fn system_time(seconds: i64, nanoseconds: u64) -> SystemTime {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let base = if seconds < 0 { UNIX_EPOCH.checked_sub(whole) } else { UNIX_EPOCH.checked_add(whole) };
    base.and_then(|t| t.checked_add(Duration::from_nanos(nanoseconds))).unwrap_or(UNIX_EPOCH)
}

/// Space of the file system a path lies on.
pub(super) fn space(path: &Path) -> io::Result<Space> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(Space {
        available_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
    })
}

/// Makes the names in a directory durable.
pub(super) fn sync_dir(path: &Path) -> io::Result<()> {
    std::fs::OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY).open(path)?.sync_all()
}

/// `fallocate(2)`, or zeros where the file system has not got it.
pub(super) fn allocate(file: &std::fs::File, size_bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, size_bytes) {
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => allocate_by_writing(file, size_bytes),
        result => Ok(result?),
    }
}

/// Reserves room by writing zeros, where the file system has no `fallocate`. Holes below the present end
/// stay holes.
pub(super) fn allocate_by_writing(file: &std::fs::File, size_bytes: u64) -> io::Result<()> {
    const CHUNK: usize = 1 << 20;
    let zeros = vec![0; CHUNK];
    let mut offset = file.metadata()?.len();
    while offset < size_bytes {
        let part = usize::try_from(size_bytes - offset).unwrap_or(CHUNK).min(CHUNK);
        file.write_all_at(&zeros[..part], offset)?;
        offset += part as u64;
    }
    Ok(())
}

/// A file held by `flock(2)`.
#[derive(Debug)]
struct FileLock(std::fs::File);

impl Lock for FileLock {}

impl Drop for FileLock {
    fn drop(&mut self) {
        // Not by closing alone: a child being started holds a copy of every open file until it has become
        // its program.
        let _ = rustix::fs::flock(&self.0, FlockOperation::Unlock);
    }
}

/// Takes the exclusive lock on a file. Another open of the same file conflicts even in this process.
pub(super) fn lock(path: &Path) -> io::Result<Box<dyn Lock>> {
    lock_file(path).map(|lock| Box::new(lock) as Box<dyn Lock>)
}

fn lock_file(path: &Path) -> io::Result<FileLock> {
    let file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(FileLock(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            format!("{} is locked by another owner", path.display()),
        )),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_given_back_although_a_child_being_started_has_a_copy_of_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock_file(&path).unwrap();
        let copy = held.0.try_clone().unwrap();
        assert_eq!(lock(&path).err().map(|e| e.kind()), Some(io::ErrorKind::WouldBlock));
        drop(held);
        assert!(lock(&path).is_ok());
        drop(copy);
    }
}
