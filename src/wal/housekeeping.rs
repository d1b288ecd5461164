//! What happens beside appends and takes: syncing at intervals, giving segments and memory back, closing.

use std::rc::{Rc, Weak};
use std::time::Duration;

use super::recovery::{self, STATE_FILE};
use super::segment::{self, Segment};
use super::state::State;
use super::{Durability, Inner, WalError};
use crate::io::{self, OpenOptions};

/// How often the housekeeper looks around.
const TICK: Duration = Duration::from_secs(1);
/// A log idle and empty for this long gives large segments back.
const IDLE: Duration = Duration::from_secs(30);
/// What an idle log may keep on disk.
const IDLE_DISK_MAX: u64 = 16 << 20;

impl Inner {
    /// Starts the housekeeper. It ends with the log.
    pub(super) fn start_housekeeping(self: &Rc<Self>) {
        let (weak, io) = (Rc::downgrade(self), self.io.clone());
        io::spawn(async move {
            let (mut stored, mut synced, mut busy) = (io.now(), io.now(), io.now());
            loop {
                io.sleep(TICK).await;
                let Some(inner) = Weak::upgrade(&weak) else { return };
                if inner.closed.get() {
                    return;
                }
                let now = io.now();
                let appended = std::mem::take(&mut inner.writer.borrow_mut().appended);
                if appended {
                    busy = now;
                    inner.measure_space().await;
                } else {
                    inner.trim();
                }
                if let Durability::Interval(every) = inner.options.durability
                    && now.saturating_sub(synced) >= every
                {
                    synced = now;
                    inner.sync_mapped().await;
                }
                if now.saturating_sub(stored) >= inner.options.state_interval {
                    stored = now;
                    inner.save_state().await;
                }
                if now.saturating_sub(busy) >= IDLE {
                    busy = now;
                    inner.shrink().await;
                }
            }
        });
    }

    /// Gives memory back that a log without traffic does not need.
    fn trim(&self) {
        self.writer.borrow_mut().trim();
        self.reader.borrow_mut().trim();
    }

    /// Makes a mapped log durable up to here.
    pub(super) async fn sync_mapped(self: &Rc<Self>) {
        let Ok(_turn) = self.syncing.acquire().await else { return };
        let (flush, durable, path) = {
            let writer = self.writer.borrow();
            let Some(active) = &writer.active else { return };
            let Some(map) = &active.map else { return };
            // What the segment before this one still has dirty is synced by whoever writes its footer.
            if self.synced.get() == self.durable.get() || self.synced.get() < writer.previous.1 {
                return;
            }
            let from = active.segment.offset(self.synced.get().max(active.segment.base));
            let to = active.segment.offset(self.durable.get());
            let flush = map.borrow().flush(from as usize / 4096 * 4096..to as usize);
            (flush, self.durable.get(), active.segment.path.clone())
        };
        match flush.await {
            Ok(()) => self.note_synced(durable),
            Err(error) => self.fail(&mut self.writer.borrow_mut(), path, error),
        }
    }

    /// Makes the state page durable and writes its copies.
    pub(super) async fn save_state(&self) {
        let Ok(_turn) = self.saving.acquire().await else { return };
        let (flush, bytes) = {
            let mut consumer = self.consumer.borrow_mut();
            if !std::mem::take(&mut consumer.dirty) {
                return;
            }
            let state = State { ranges: consumer.tracker.ranges().collect(), ..consumer.state.clone() };
            (consumer.page.as_ref().map(|page| page.flush()), state.encode())
        };
        let channel = &self.options.channel;
        if let Some(flush) = flush
            && let Err(error) = flush.await
        {
            self.state_error(0);
            tracing::warn!(%channel, directory = %self.options.directory.display(), %error, "cannot sync the consumer's position; after a power loss events may come twice");
        }
        for (index, directory) in self.options.copies.iter().enumerate() {
            if let Err(error) = self.copy_state(directory, &bytes).await {
                self.state_error(index);
                tracing::warn!(%channel, directory = %directory.display(), %error, "cannot write the copy of the consumer's position");
            }
        }
    }

    fn state_error(&self, index: usize) {
        if let Some(counter) = self.state_errors.borrow().get(index) {
            counter.add(1);
        }
    }

    async fn copy_state(&self, directory: &std::path::Path, bytes: &[u8]) -> std::io::Result<()> {
        let path = recovery::copy_path(directory, self.log_id);
        let temporary = path.with_extension("tmp");
        let file = self.io.open(&temporary, OpenOptions::TRUNCATE).await?;
        file.write_at(bytes.to_vec().into(), 0).await?;
        file.sync_data().await?;
        self.io.rename(&temporary, &path).await
    }

    /// Gives back segments whose events are all acknowledged.
    pub(super) fn reclaim(self: &Rc<Self>) {
        if self.closed.get() || self.reclaiming.get() || self.reclaimable().is_none() {
            return;
        }
        self.reclaiming.set(true);
        let inner = self.clone();
        io::spawn(async move {
            while let Some(segment) = inner.reclaimable() {
                inner.save_state().await;
                if let Err(error) = inner.recycle(&segment).await {
                    let channel = &inner.options.channel;
                    tracing::warn!(%channel, file = %segment.path.display(), %error, "cannot remove a log file that is done with");
                    break;
                }
                inner.segments.borrow_mut().pop_front();
            }
            inner.reclaiming.set(false);
            inner.room.notify_waiters();
        });
    }

    fn reclaimable(&self) -> Option<Rc<Segment>> {
        let segments = self.segments.borrow();
        let first = segments.front()?;
        let done = first.end.get() <= self.consumer.borrow().tracker.low_position;
        // The marks must be on the medium further on. The next segment may have lost its snapshot with the power.
        let mut later = segments.iter().skip(1);
        (done && later.any(|s| s.opening_end.get() <= self.synced.get())).then(|| first.clone())
    }

    /// Keeps a file for the next segment if it has the size wanted then, and removes it otherwise.
    async fn recycle(&self, segment: &Rc<Segment>) -> Result<(), WalError> {
        let wanted = self.writer.borrow().segment_size;
        // Whoever prepares the next segment may be taking the spare file just now.
        let turn = self.preparing.try_acquire();
        let keep = turn.is_ok()
            && segment.size == wanted
            && segment.mapped == self.options.durability.is_mapped()
            && self.spare.get().is_none()
            && segment.is_unshared()
            && !self.options.take_only;
        segment.release();
        if keep {
            let spare = segment::spare_path(&self.options.directory);
            self.io.rename(&segment.path, &spare).await.map_err(WalError::io(&spare))?;
            self.spare.set(Some(segment.size));
            return Ok(());
        }
        self.io.remove_file(&segment.path).await.map_err(WalError::io(&segment.path))
    }

    /// A log that is idle and empty needs no large files.
    async fn shrink(self: &Rc<Self>) {
        let Ok(turn) = self.turn.try_acquire() else { return };
        let small = Self::first_size(self.options.segment_size_max);
        let (large, prepared) = {
            let mut writer = self.writer.borrow_mut();
            let empty = self.consumer.borrow().tracker.low_seq == writer.next_seq;
            let size = writer.active.as_ref().map_or(0, |a| a.segment.size);
            if !empty || !writer.is_idle() || self.failed.borrow().is_some() {
                return;
            }
            writer.segment_size = small;
            (size > IDLE_DISK_MAX, writer.prepared.take())
        };
        if let Some(prepared) = prepared {
            let path = self.options.directory.join(segment::file_name(prepared.number));
            let _ = self.io.remove_file(&path).await;
        }
        if large && self.roll(0).await.is_ok() {
            self.drained().await;
            self.reader.borrow_mut().skip_to(self.visible.get());
            self.consumer.borrow_mut().tracker.pass(self.visible.get());
        }
        if let Ok(_turn) = self.preparing.acquire().await
            && self.spare.take().is_some()
        {
            let _ = self.io.remove_file(&segment::spare_path(&self.options.directory)).await;
        }
        drop(turn);
        self.reclaim();
    }

    pub(super) async fn close(self: &Rc<Self>) {
        if self.closed.get() {
            return;
        }
        let Ok(turn) = self.turn.acquire().await else { return };
        self.drained().await;
        let footer = {
            let mut writer = self.writer.borrow_mut();
            let used = writer.active.as_ref().is_some_and(|a| a.has_data);
            if used && self.failed.borrow().is_none() {
                let limit = writer.active.as_ref().map_or(0, |a| a.segment.frames_limit());
                if writer.next + writer.snapshot_size() <= limit {
                    self.snapshot(&mut writer);
                }
            }
            used
        };
        self.drained().await;
        self.sealed().await;
        self.sync_mapped().await;
        if footer && self.failed.borrow().is_none() {
            self.close_segment().await;
        }
        self.closed.set(true);
        drop(turn);
        self.consumer.borrow_mut().store();
        self.save_state().await;
        self.room.notify_waiters();
        self.ready.notify_waiters();
        // Wait for files that are being prepared or given back: the next owner must find nothing half made.
        loop {
            let done = self.room.notified();
            if !self.reclaiming.get() {
                break;
            }
            done.await;
        }
        drop(self.preparing.acquire().await);
        *self.lock.borrow_mut() = None;
    }

    /// Writes the footer, so that the next start need not read the segment.
    async fn close_segment(self: &Rc<Self>) {
        let sealing = {
            let mut writer = self.writer.borrow_mut();
            self.queue_footer(&mut writer);
            writer.take_footer()
        };
        if let Some(sealing) = sealing {
            self.seal_segment(sealing).await;
        }
    }

    /// Waits until the segments that were left have their footers.
    async fn sealed(&self) {
        loop {
            let done = self.room.notified();
            if self.sealing.get() == 0 {
                return;
            }
            done.await;
        }
    }

    pub(super) async fn remove(self: &Rc<Self>) -> Result<(), WalError> {
        self.close().await;
        let directory = &self.options.directory;
        let entries = self.io.read_dir(directory).await.map_err(WalError::io(directory))?;
        // The state last but one: without it a half removed log would be delivered again.
        let rank = |name: &std::ffi::OsStr| match name.to_str() {
            Some(STATE_FILE) => 1,
            Some(super::LOCK_FILE) => 2,
            _ => 0,
        };
        let mut names: Vec<_> = entries.into_iter().map(|(name, _)| name).collect();
        names.sort_by_key(|name| rank(name));
        for name in names {
            let path = directory.join(name);
            self.io.remove_file(&path).await.map_err(WalError::io(&path))?;
        }
        for copies in &self.options.copies {
            let _ = self.io.remove_file(&recovery::copy_path(copies, self.log_id)).await;
        }
        self.io.remove_dir(directory).await.map_err(WalError::io(directory))
    }
}
