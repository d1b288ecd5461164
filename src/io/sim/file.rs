//! Open files, mappings and locks of the simulated disk.

use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::rc::Rc;

use bytes::Bytes;

use super::disk::Ino;
use super::policy::Operation;
use super::{Lock, Machine};
use crate::io::buffer::BLOCK;
use crate::io::{File, LocalBoxFuture, MapMut, Metadata, OpenOptions, path};

/// Largest file that can be mapped, because a mapping is a copy here.
const MAP_SIZE_MAX: u64 = 1 << 30;

/// All sectors of a file.
const EVERYTHING: std::ops::RangeInclusive<u64> = 0..=u64::MAX;

/// What an open file and operations on it share; closed when the last of them is done.
struct Handle {
    machine: Rc<Machine>,
    ino: Ino,
    path: PathBuf,
}

impl Drop for Handle {
    fn drop(&mut self) {
        let state = &mut *self.machine.disk.state.borrow_mut();
        if state.life == self.machine.life {
            state.close(self.ino);
            state.reap();
        }
    }
}

pub(super) struct SimFile {
    handle: Rc<Handle>,
    options: OpenOptions,
}

impl SimFile {
    pub(super) fn new(machine: Rc<Machine>, ino: Ino, path: PathBuf, options: OpenOptions) -> Self {
        Self { handle: Rc::new(Handle { machine, ino, path }), options }
    }
    fn writable(&self) -> io::Result<()> {
        if self.options.write { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::EBADF)) }
    }
}

impl Handle {
    fn fault(&self, operation: Operation) -> Option<io::Error> {
        self.machine.disk.state.borrow_mut().fault(operation, &self.path)
    }

    async fn write(self: Rc<Self>, data: Bytes, offset: u64, durable: bool) -> io::Result<()> {
        if i64::try_from(offset).is_err() {
            return Err(io::Error::from_raw_os_error(libc::EINVAL));
        }
        if data.is_empty() {
            return Ok(());
        }
        let machine = &self.machine;
        let (id, fault) = {
            let state = &mut *machine.disk.state.borrow_mut();
            (state.begin_write(self.ino, offset, data), state.fault(Operation::Write, &self.path))
        };
        machine.delay().await;
        if durable && fault.is_none() {
            machine.durability_point().await;
        }
        let now = machine.unix_time();
        machine.disk.state.borrow_mut().finish_write(id, durable, fault, now, &machine.disk.rng)
    }

    async fn sync(self: Rc<Self>, sectors: std::ops::RangeInclusive<u64>) -> io::Result<()> {
        let machine = &self.machine;
        // Covers what was complete when it was asked for, not what completes while it runs.
        let number = machine.disk.state.borrow().change_number();
        machine.delay().await;
        let fault = self.fault(Operation::Sync);
        if fault.is_none() {
            machine.durability_point().await;
        }
        let state = &mut *machine.disk.state.borrow_mut();
        let content = state.content_mut(self.ino).ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))?;
        match fault {
            None => {
                content.sync(number, sectors, || true);
                state.stats.syncs += 1;
                Ok(())
            }
            Some(error) => {
                content.sync(number, sectors, || machine.disk.rng.below(2) == 0);
                Err(error)
            }
        }
    }
}

impl File for SimFile {
    fn read_at(&self, mut buf: Vec<u8>, offset: u64) -> LocalBoxFuture<'_, (io::Result<usize>, Vec<u8>)> {
        let handle = self.handle.clone();
        self.handle.machine.submit(async move {
            handle.machine.delay().await;
            buf.clear();
            if let Some(error) = handle.fault(Operation::Read) {
                return (Err(error), buf);
            }
            let state = &mut *handle.machine.disk.state.borrow_mut();
            let Some(content) = state.content(handle.ino) else {
                return (Err(io::Error::from_raw_os_error(libc::EISDIR)), buf);
            };
            let size = buf.capacity();
            content.read(size, offset, &mut buf);
            state.stats.bytes_read += buf.len() as u64;
            (Ok(buf.len()), buf)
        })
    }
    fn write_at(&self, data: Bytes, offset: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        let direct = self.options.direct_sync;
        let refused =
            self.writable().and_then(|()| if direct { path::check_direct(&data, offset) } else { Ok(()) });
        match refused {
            Ok(()) => self.handle.machine.submit(self.handle.clone().write(data, offset, direct)),
            Err(error) => Box::pin(std::future::ready(Err(error))),
        }
    }
    fn sync_data(&self) -> LocalBoxFuture<'_, io::Result<()>> {
        self.handle.machine.submit(self.handle.clone().sync(EVERYTHING))
    }
    fn set_len(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        let (handle, writable) = (self.handle.clone(), self.writable());
        self.handle.machine.submit(async move {
            writable?;
            handle.machine.delay().await;
            if let Some(error) = handle.fault(Operation::Allocate) {
                return Err(error);
            }
            let now = handle.machine.unix_time();
            handle.machine.disk.state.borrow_mut().set_len(handle.ino, size_bytes, now);
            Ok(())
        })
    }
    fn allocate(&self, size_bytes: u64) -> LocalBoxFuture<'_, io::Result<()>> {
        let (handle, writable) = (self.handle.clone(), self.writable());
        self.handle.machine.submit(async move {
            writable?;
            handle.machine.delay().await;
            if let Some(error) = handle.fault(Operation::Allocate) {
                return Err(error);
            }
            let zero = Rc::new([0; BLOCK]);
            handle.machine.disk.state.borrow_mut().allocate(handle.ino, size_bytes, &zero)
        })
    }
    fn metadata(&self) -> LocalBoxFuture<'_, io::Result<Metadata>> {
        let metadata = self.handle.machine.disk.state.borrow().metadata(self.handle.ino);
        Box::pin(std::future::ready(metadata))
    }
    fn map(&self) -> io::Result<Bytes> {
        let state = self.handle.machine.disk.state.borrow();
        let content =
            state.content(self.handle.ino).ok_or_else(|| io::Error::from_raw_os_error(libc::EISDIR))?;
        if content.size_bytes() > MAP_SIZE_MAX {
            return Err(io::Error::from_raw_os_error(libc::ENOMEM));
        }
        Ok(Bytes::from(content.to_vec()))
    }
    fn map_mut(&self, size_bytes: usize) -> io::Result<Box<dyn MapMut>> {
        self.writable()?;
        let present = self.handle.machine.disk.state.borrow().metadata(self.handle.ino)?.size_bytes;
        if size_bytes == 0 || present < size_bytes as u64 {
            let text = format!("cannot map {size_bytes} bytes of a file of {present}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        Ok(Box::new(SimMap { handle: self.handle.clone(), size_bytes }))
    }
    fn prefetch(&self, range: Range<u64>) -> LocalBoxFuture<'_, io::Result<()>> {
        let handle = self.handle.clone();
        self.handle.machine.submit(async move {
            handle.machine.delay().await;
            handle.machine.disk.state.borrow_mut().stats.bytes_read += range.end.saturating_sub(range.start);
            handle.fault(Operation::Read).map_or(Ok(()), Err)
        })
    }
    fn forget(&self, _map: &Bytes, _range: Range<u64>) {}
}

struct SimMap {
    handle: Rc<Handle>,
    size_bytes: usize,
}

impl SimMap {
    fn check(&self, offset: usize, size: usize) {
        let inside = offset.checked_add(size).is_some_and(|end| end <= self.size_bytes);
        assert!(inside, "{size} bytes at {offset} of a mapping of {}", self.size_bytes);
    }
}

impl MapMut for SimMap {
    fn len(&self) -> usize {
        self.size_bytes
    }
    fn write(&mut self, offset: usize, bytes: &[u8]) {
        self.check(offset, bytes.len());
        let machine = &self.handle.machine;
        if !machine.is_dead() {
            let now = machine.unix_time();
            machine.disk.state.borrow_mut().store(self.handle.ino, offset as u64, bytes, now);
        }
    }
    fn read(&self, offset: usize, into: &mut [u8]) {
        self.check(offset, into.len());
        let state = self.handle.machine.disk.state.borrow();
        let mut bytes = Vec::new();
        if let Some(content) = state.content(self.handle.ino) {
            content.read(into.len(), offset as u64, &mut bytes);
        }
        // A file that was cut below its mapping is a SIGBUS in real life.
        into.copy_from_slice(&bytes);
    }
    fn flush(&self, range: Range<usize>) -> LocalBoxFuture<'static, io::Result<()>> {
        self.check(range.start, range.len());
        if range.is_empty() {
            return Box::pin(std::future::ready(Ok(())));
        }
        let block = BLOCK as u64;
        let sectors = range.start as u64 / block..=(range.end as u64 - 1) / block;
        self.handle.machine.submit(self.handle.clone().sync(sectors))
    }
}

/// A lock; the next life does not know it.
pub(super) struct SimLock {
    machine: Rc<Machine>,
    ino: Ino,
}

impl SimLock {
    pub(super) fn new(machine: Rc<Machine>, ino: Ino) -> Self {
        Self { machine, ino }
    }
}

impl std::fmt::Debug for SimLock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SimLock({})", self.ino)
    }
}

impl Lock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        let state = &mut *self.machine.disk.state.borrow_mut();
        state.unlock(self.ino, self.machine.life);
        if state.life == self.machine.life {
            state.close(self.ino);
        }
    }
}
