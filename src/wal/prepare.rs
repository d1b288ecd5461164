//! The next segment: made or recycled before it is needed, and taken into use when the one being
//! written is full.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use super::segment::{self, BLOCK_SIZE, Segment, SegmentHeader};
use super::writer::{Active, Writer};
use super::{Durability, Inner, SEGMENT_SIZE_FIRST, WalError};
use crate::io::buffer::PooledBuf;
use crate::io::{self, File, OpenOptions};

/// Zeros are written in pieces of this size, one at a time, so that commits keep most of the disk.
const FILL_SIZE: u64 = 1 << 20;
/// A segment that is half full within this time is followed by one four times as large.
const QUICK: Duration = Duration::from_secs(5);
/// From this size on only while more than [`ROUND_SEGMENTS`] wait for their consumer. A log whose consumer keeps
/// up goes round in two or three segments; every one of a larger size would cost that size in zeros first, as much
/// again as the events. At 1 GB/s a segment of this size lasts 60 ms, hundreds of times what a change costs.
const ROUND_SIZE: u64 = 64 << 20;
const ROUND_SEGMENTS: usize = 4;
/// How old the knowledge of the free space may be, and how often it is looked up again while there is
/// too little.
const SPACE_EVERY: Duration = Duration::from_millis(200);

/// A file ready to become the next segment: it has its name, its size and no valid header.
pub(super) struct Prepared {
    pub(super) number: u64,
    pub(super) size: u64,
    pub(super) file: Rc<dyn File>,
}

impl Inner {
    /// Starts preparing the next segment when the one being written is half full.
    pub(super) fn prepare_ahead(self: &Rc<Self>, writer: &mut Writer) {
        let Some(active) = &writer.active else { return };
        let used = writer.next - active.segment.base;
        if used * 2 < active.segment.size
            || writer.prepared.is_some()
            || self.preparing.available_permits() == 0
        {
            return;
        }
        self.grow(writer);
        let (inner, size) = (self.clone(), writer.segment_size);
        io::spawn(async move {
            // An error comes again, to an appender, when the segment is needed.
            if let Err(error) = inner.prepare(size).await {
                tracing::debug!(channel = %inner.options.channel, %error, "cannot prepare the next log file yet");
            }
        });
    }

    /// Makes the next segment larger if the one being written fills quickly.
    fn grow(&self, writer: &mut Writer) {
        let Some(active) = &writer.active else { return };
        let goes_round = active.segment.size >= ROUND_SIZE && self.segments.borrow().len() <= ROUND_SEGMENTS;
        if !goes_round && self.io.now().saturating_sub(active.opened) < QUICK {
            let grown = active.segment.size.saturating_mul(4).min(self.options.segment_size_max);
            writer.segment_size = writer.segment_size.max(grown);
        }
    }

    /// Leaves the full segment and takes the next one into use; it has room for `room` bytes of frames.
    pub(super) async fn roll(self: &Rc<Self>, room: u64) -> Result<(), WalError> {
        loop {
            let (ready, needed, usual) = {
                let mut writer = self.writer.borrow_mut();
                if room > 0 {
                    // It may have filled before the first write of it was complete.
                    self.grow(&mut writer);
                }
                let needed = 2 * BLOCK_SIZE + room + writer.snapshot_size();
                let ready = writer.prepared.as_ref().map(|p| p.size);
                (ready, needed, writer.segment_size)
            };
            if needed > self.options.transaction_size_max {
                let max = self.options.transaction_size_max;
                return Err(WalError::TooLarge { size: needed, max });
            }
            match ready {
                Some(size) if size >= needed => break,
                Some(_) => self.discard_prepared().await?,
                None => {}
            }
            self.prepare(usual.max(needed.next_multiple_of(BLOCK_SIZE))).await?;
        }
        if let Durability::Interval(_) = self.options.durability {
            // Nobody syncs the segment after it is left.
            self.flush(&mut self.writer.borrow_mut());
            self.sync_mapped().await;
        }
        let mut writer = self.writer.borrow_mut();
        let writer = &mut *writer;
        self.check_open()?;
        self.flush(writer);
        if writer.active.is_some() {
            self.queue_footer(writer);
            if let Some(active) = &writer.active {
                writer.previous = (active.segment.number, writer.next);
            }
        }
        let Some(prepared) = writer.prepared.take() else { return Err(WalError::Closed) };
        let header = {
            let consumer = self.consumer.borrow();
            SegmentHeader {
                log_id: self.log_id,
                number: prepared.number,
                base: writer.next_base,
                size: prepared.size,
                start_seq: writer.next_seq,
                start_bytes: writer.total_bytes,
                previous: writer.previous.0,
                previous_end: writer.previous.1,
                reopened: std::mem::take(&mut writer.reopened),
                mapped: self.options.durability.is_mapped(),
                shard: self.options.shard,
                time_ms: self.io.unix_time().as_millis() as u64,
                low_seq: consumer.tracker.low_seq,
                low_position: consumer.tracker.low_position,
            }
        };
        let map = if header.mapped {
            let path = self.options.directory.join(segment::file_name(prepared.number));
            let map = prepared.file.map_mut(prepared.size as usize).map_err(WalError::io(&path))?;
            Some(Rc::new(RefCell::new(map)))
        } else {
            None
        };
        let path = self.options.directory.join(segment::file_name(prepared.number));
        let segment = Rc::new(Segment::new(&header, path, Some(prepared.file.clone())));
        // Until its opening snapshot is durable the segments before it are needed for the marks.
        segment.opening_end.set(u64::MAX);
        writer.next_base = header.base + header.size;
        writer.active = Some(Active {
            segment: segment.clone(),
            file: prepared.file,
            map,
            opened: self.io.now(),
            oldest_ms: 0,
            newest_ms: 0,
            has_data: false,
        });
        self.segments.borrow_mut().push_back(segment);
        self.queue_header(writer, header.encode());
        self.snapshot(writer);
        self.flush(writer);
        Ok(())
    }

    /// Makes a file of this size the next segment, unless one is ready.
    pub(super) async fn prepare(self: &Rc<Self>, size: u64) -> Result<(), WalError> {
        let _turn = self.preparing.acquire().await.map_err(|_| WalError::Closed)?;
        let number = {
            let writer = self.writer.borrow();
            if writer.prepared.is_some() {
                return Ok(());
            }
            writer.next_number
        };
        let directory = &self.options.directory;
        let path = directory.join(segment::file_name(number));
        let spare = segment::spare_path(directory);
        let temporary = directory.join("next.tmp");
        let (file, from) = match self.spare.take() {
            Some(kept) if kept == size => {
                (self.io.open(&spare, OpenOptions::DIRECT).await.map_err(WalError::io(&spare))?, spare)
            }
            kept => {
                if kept.is_some() {
                    let removed = self.io.remove_file(&spare).await;
                    removed.map_err(WalError::io(&spare))?;
                }
                self.check_space_for(size).await?;
                let result = self.fill(&temporary, size).await;
                match result {
                    Ok(file) => (file, temporary),
                    Err(error) => {
                        let _ = self.io.remove_file(&temporary).await;
                        if error.kind() == std::io::ErrorKind::StorageFull {
                            return Err(self.no_space(size).await);
                        }
                        return Err(WalError::io(&temporary)(error));
                    }
                }
            }
        };
        self.io.rename(&from, &path).await.map_err(WalError::io(&path))?;
        self.io.sync_dir(directory).await.map_err(WalError::io(directory))?;
        let mut writer = self.writer.borrow_mut();
        writer.next_number = number + 1;
        writer.prepared = Some(Prepared { number, size, file });
        Ok(())
    }

    /// Writes a new file full of zeros: only then do later direct writes change nothing but data. One that is
    /// stored to through a mapping need only have its room: pages of it that were never written are not read
    /// from the disk before they are stored to.
    async fn fill(&self, path: &std::path::Path, size: u64) -> std::io::Result<Rc<dyn File>> {
        let options = OpenOptions { truncate: true, ..OpenOptions::DIRECT };
        let file = self.io.open(path, options).await?;
        file.allocate(size).await?;
        if self.options.durability.is_mapped() {
            file.sync_data().await?;
            return Ok(file);
        }
        let zeros = PooledBuf::unpooled(FILL_SIZE.min(size) as usize).freeze();
        let mut offset = 0;
        while offset < size {
            let count = FILL_SIZE.min(size - offset);
            file.write_at(zeros.slice(..count as usize), offset).await?;
            offset += count;
        }
        file.sync_data().await?;
        Ok(file)
    }

    async fn discard_prepared(self: &Rc<Self>) -> Result<(), WalError> {
        let Some(prepared) = self.writer.borrow_mut().prepared.take() else { return Ok(()) };
        let path = self.options.directory.join(segment::file_name(prepared.number));
        self.io.remove_file(&path).await.map_err(WalError::io(&path))
    }

    async fn no_space(&self, size: u64) -> WalError {
        let directory = self.options.directory.clone();
        let available = self.io.space(&directory).await.map_or(0, |s| s.available_bytes);
        WalError::NoSpace { directory, available, required: size + self.options.minimum_space }
    }

    async fn check_space_for(&self, size: u64) -> Result<(), WalError> {
        let directory = &self.options.directory;
        let space = self.io.space(directory).await.map_err(WalError::io(directory))?;
        let required = size + self.options.minimum_space;
        if space.available_bytes < required {
            let available = space.available_bytes;
            return Err(WalError::NoSpace { directory: directory.clone(), available, required });
        }
        Ok(())
    }

    /// Looks up the free space; called by the housekeeper while appends come in.
    pub(super) async fn measure_space(&self) {
        let Ok(space) = self.io.space(&self.options.directory).await else { return };
        let mut writer = self.writer.borrow_mut();
        writer.space_checked = self.io.now();
        let required = self.options.minimum_space;
        let short = (space.available_bytes < required).then_some((space.available_bytes, required));
        if short.is_some() != writer.short_of_space.is_some() {
            let (channel, directory) = (&self.options.channel, self.options.directory.display());
            match short {
                Some((available, required)) => tracing::error!(
                    %channel, %directory, available, required,
                    "disk full: the channel takes nothing more until there is space again; sinks go on"
                ),
                None => {
                    tracing::info!(%channel, %directory, "there is space again: the channel takes events")
                }
            }
        }
        writer.short_of_space = short;
    }

    /// Refuses an append while less than the minimum is free.
    pub(super) async fn check_space(&self, size: u64) -> Result<(), WalError> {
        let Some(_) = self.writer.borrow().short_of_space else { return Ok(()) };
        if self.io.now().saturating_sub(self.writer.borrow().space_checked) >= SPACE_EVERY {
            self.measure_space().await;
        }
        match self.writer.borrow().short_of_space {
            None => Ok(()),
            Some((available, required)) => Err(WalError::NoSpace {
                directory: self.options.directory.clone(),
                available,
                required: required + size,
            }),
        }
    }

    /// Size of the first segment under these settings.
    pub(super) fn first_size(segment_size_max: u64) -> u64 {
        SEGMENT_SIZE_FIRST.min(segment_size_max / BLOCK_SIZE * BLOCK_SIZE)
    }
}
