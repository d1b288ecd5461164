//! Watching directories with inotify.

#![allow(unsafe_code, reason = "tokio wants the owner of a descriptor vouched for")]

use std::collections::HashSet;
use std::io;
use std::path::Path;

use inotify::{EventMask, Inotify, WatchMask};
use tokio::io::unix::AsyncFd;

use super::{Change, LocalBoxFuture, Watch};

/// Room for at least 60 events of the longest name (16 + 256 bytes each), over 500 of usual ones, per read.
const BUFFER_SIZE_BYTES: usize = 16 * 1024;

struct Directory {
    inotify: AsyncFd<Inotify>,
    buffer: Box<[u8]>,
    gone: bool,
}

/// Watches one directory, not what is below it.
pub(super) fn open(directory: &Path) -> io::Result<Box<dyn Watch>> {
    let inotify = Inotify::init()?;
    let names = WatchMask::CREATE | WatchMask::DELETE | WatchMask::MOVE;
    let own = WatchMask::DELETE_SELF | WatchMask::MOVE_SELF | WatchMask::ONLYDIR;
    inotify.watches().add(directory, names | own | WatchMask::MODIFY)?;
    // SAFETY: `Inotify` owns its descriptor, always gives the same one, and lives as long as the `AsyncFd`.
    let inotify = unsafe { AsyncFd::register(inotify)? };
    Ok(Box::new(Directory { inotify, buffer: vec![0; BUFFER_SIZE_BYTES].into_boxed_slice(), gone: false }))
}

impl Directory {
    /// What one read of the descriptor says, each change once.
    fn read(inotify: &mut Inotify, buffer: &mut [u8], gone: &mut bool) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        let (mut names, mut overflow) = (false, false);
        let mut written = HashSet::new();
        for event in inotify.read_events(buffer)? {
            let own = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED;
            if event.mask.contains(EventMask::Q_OVERFLOW) {
                overflow = true;
            } else if event.mask.intersects(own) {
                *gone = true;
                names = true;
            } else if event.mask.contains(EventMask::MODIFY) {
                if let Some(name) = event.name {
                    written.insert(name.to_owned());
                }
            } else {
                names = true;
            }
        }
        changes.extend(overflow.then_some(Change::Overflow));
        changes.extend(names.then_some(Change::Names));
        changes.extend(written.into_iter().map(Change::Written));
        Ok(changes)
    }
}

impl Watch for Directory {
    fn changed(&mut self) -> LocalBoxFuture<'_, io::Result<Vec<Change>>> {
        Box::pin(async move {
            if self.gone {
                return Err(io::Error::new(
                    io::ErrorKind::NotFound,
                    "the watched directory was removed or moved",
                ));
            }
            loop {
                let mut ready = self.inotify.readable_mut().await?;
                let read = ready.try_io(|i| Self::read(i.get_mut(), &mut self.buffer, &mut self.gone));
                match read {
                    Ok(Ok(changes)) if changes.is_empty() => {}
                    Ok(result) => return result,
                    // Woken for nothing; readiness is cleared.
                    Err(_would_block) => {}
                }
            }
        })
    }
}
