//! Reading what waits in the background, after an opening: damage is reported now and not in the night in
//! which a sink gets there.
//!
//! Every frame between the consumer and the end that the opening found is read and its checksum verified, once,
//! in order. What is appended later was checksummed by this process, and what a take has read is verified
//! already. Nothing is decided here: what to do at a damaged place is decided, by `onDamage`, when a take gets
//! there.

use std::rc::{Rc, Weak};
use std::time::Duration;

use bytes::Bytes;

use super::frame::FrameKind;
use super::frames::{Frames, WINDOW};
use super::segment::Segment;
use super::{Damage, Inner, Log, WalError};
use crate::io::Io;

/// Bytes a second while nobody else needs the disk: 40 s for 10 GiB, and a few hundredths of a core.
const QUICK: u64 = 256 << 20;
/// Bytes a second while events come in or go out.
const SLOW: u64 = 32 << 20;
/// Traffic counts as traffic for this long.
const QUIET: Duration = Duration::from_millis(100);
/// Pages further ahead of the consumer than this are given back to the system at once.
const NEAR: u64 = 8 << 20;

/// What one step of a [`Verification`] did.
#[derive(Debug)]
pub enum Checked {
    /// Read so many bytes of good frames, or found that a take has done it.
    Bytes(u64),
    /// Found a place that cannot be read. `true`: a take got there first, and it is reported already.
    Damage(Damage, bool),
    /// The rest of a file cannot be read at all.
    Failed(WalError),
    /// There is nothing left.
    Done,
    /// The log was closed.
    Closed,
}

/// Reads what waited when it was made. Does not keep the log alive.
pub struct Verification {
    io: Io,
    log: Weak<Inner>,
    /// Everything before it is done with.
    position: u64,
    end: u64,
    next_seq: u64,
    open: Option<(Rc<Segment>, Frames)>,
    /// Bytes from `position` to `end`.
    left: u64,
    /// Where writer and consumer were, and until when that counts as traffic.
    seen: (u64, u64),
    busy_until: Duration,
}

impl Log {
    /// A verification of what waits now.
    pub fn verification(&self) -> Verification {
        let inner = &self.0;
        let (position, next_seq) = {
            let reader = inner.reader.borrow();
            (reader.cursor, reader.next_seq)
        };
        let end = inner.visible.get();
        let mut verification = Verification {
            io: inner.io.clone(),
            log: Rc::downgrade(inner),
            position,
            end,
            next_seq,
            open: None,
            left: 0,
            seen: (end, position),
            busy_until: Duration::ZERO,
        };
        verification.left = inner.bytes_between(position, end);
        verification
    }
}

impl Inner {
    /// Bytes of frames between two positions.
    fn bytes_between(&self, from: u64, to: u64) -> u64 {
        let segments = self.segments.borrow();
        let part = |s: &Rc<Segment>| s.end.get().min(to).saturating_sub(s.first_frame().max(from));
        segments.iter().map(part).sum()
    }
}

impl Verification {
    /// Bytes still to be read.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Reads a little, after a pause that keeps it below its bandwidth.
    pub async fn step(&mut self) -> Checked {
        let before = self.left;
        let checked = self.read().await;
        let rate = if self.is_busy() { SLOW } else { QUICK };
        let count = before.saturating_sub(self.left).min(2 * WINDOW);
        if !matches!(checked, Checked::Done | Checked::Closed) {
            self.io.sleep(Duration::from_micros(count * 1_000_000 / rate)).await;
        }
        checked
    }

    fn is_busy(&mut self) -> bool {
        let now = self.io.now();
        if let Some(inner) = self.log.upgrade() {
            let seen = (inner.writer.borrow().next, inner.reader.borrow().cursor);
            if std::mem::replace(&mut self.seen, seen) != seen {
                self.busy_until = now + QUIET;
            }
        }
        now < self.busy_until
    }

    /// The log, unless it is closed.
    fn log(&self) -> Option<Rc<Inner>> {
        self.log.upgrade().filter(|inner| !inner.closed.get())
    }

    async fn read(&mut self) -> Checked {
        let Some(inner) = self.log() else { return Checked::Closed };
        let segment = match self.place(&inner) {
            Ok(segment) => segment,
            Err(done) => return done,
        };
        // Nothing that waits below may keep the log alive.
        drop(inner);
        let reached = self.position;
        match self.read_window(&segment).await {
            Ok(checked) => checked,
            Err(error) => {
                let Some(inner) = self.log() else { return Checked::Closed };
                self.open = None;
                if !inner.is_live(&segment) {
                    return Checked::Bytes(0);
                }
                self.advance(segment.end.get());
                tracing::debug!(file = %segment.path.display(), reached, "gave up on the rest of a log file");
                Checked::Failed(error)
            }
        }
    }

    /// The segment to read in, past what takes have read; otherwise what to answer.
    fn place(&mut self, inner: &Inner) -> Result<Rc<Segment>, Checked> {
        {
            let reader = inner.reader.borrow();
            if reader.cursor > self.position {
                self.position = reader.cursor;
                self.next_seq = reader.next_seq;
            }
        }
        let left = self.left;
        self.left = inner.bytes_between(self.position, self.end).min(left);
        if self.position >= self.end {
            self.left = 0;
            return Err(Checked::Done);
        }
        if left > self.left {
            return Err(Checked::Bytes(left - self.left));
        }
        let segments = inner.segments.borrow();
        let found = segments.iter().find(|s| s.end.get() > self.position && s.first_frame() < self.end);
        let Some(segment) = found else {
            self.left = 0;
            self.position = self.end;
            return Err(Checked::Done);
        };
        self.position = self.position.max(segment.first_frame());
        Ok(segment.clone())
    }

    fn advance(&mut self, position: u64) {
        self.left = self.left.saturating_sub(position.saturating_sub(self.position));
        self.position = position;
    }

    async fn read_window(&mut self, segment: &Rc<Segment>) -> Result<Checked, WalError> {
        let limit = segment.end.get().min(self.end);
        let mut frames = match self.open.take() {
            Some((open, frames)) if Rc::ptr_eq(&open, segment) => frames,
            _ => {
                let Some(inner) = self.log() else { return Ok(Checked::Closed) };
                let log_id = inner.log_id;
                drop(inner);
                Frames::open(&self.io, segment, log_id, limit).await?
            }
        };
        let start = self.position;
        let mut bad = None;
        while self.position < limit && self.position - start < WINDOW {
            match frames.read(self.position).await? {
                Some((header, _)) => {
                    let missing = header.first_seq.saturating_sub(self.next_seq);
                    if header.kind == FrameKind::Data && missing > 0 {
                        bad = Some((self.position, self.position, Some(header.first_seq)));
                        break;
                    }
                    if header.kind == FrameKind::Data {
                        self.next_seq = header.first_seq + u64::from(header.events);
                    }
                    self.advance(header.end());
                }
                None => {
                    let found = frames.find(self.position + 1).await?;
                    let resume = found.as_ref().map_or(limit, |f| f.position);
                    bad = Some((self.position, resume, found.map(|f| f.first_seq)));
                    break;
                }
            }
        }
        let Some(inner) = self.log() else { return Ok(Checked::Closed) };
        if start > inner.reader.borrow().cursor + NEAR {
            frames.forget(start..self.position);
        }
        self.open = Some((segment.clone(), frames));
        let Some((position, resume, resume_seq)) = bad else {
            return Ok(Checked::Bytes(self.position - start));
        };
        if !inner.is_live(segment) || inner.reader.borrow().cursor > position {
            // Delivered, given back and perhaps written again meanwhile: what was read means nothing.
            return Ok(Checked::Bytes(0));
        }
        let resume_seq = resume_seq.or_else(|| inner.seq_behind(segment));
        let damage = Damage {
            path: segment.path.clone(),
            offset: segment.offset(position),
            size: resume - position,
            events: resume_seq.map(|seq| seq.saturating_sub(self.next_seq)),
        };
        self.next_seq = self.next_seq.max(resume_seq.unwrap_or(0));
        self.advance(resume);
        let known = inner.reader.borrow().damaged.as_ref() == Some(&damage);
        Ok(Checked::Damage(damage, known))
    }
}

impl Inner {
    /// True if the segment was not given back.
    fn is_live(&self, segment: &Rc<Segment>) -> bool {
        self.segments.borrow().iter().any(|s| Rc::ptr_eq(s, segment))
    }
}

impl Frames {
    /// Gives pages of the system's cache back that were only read to be verified.
    fn forget(&self, positions: std::ops::Range<u64>) {
        self.file().forget(&Bytes::new(), self.offset(positions.start)..self.offset(positions.end));
    }
}
