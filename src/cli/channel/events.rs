//! The events of a log, in order, as a tool sees them.

use std::collections::VecDeque;

use crate::channel::file::payload;
use crate::event::EventBatch;
use crate::io::Io;
use crate::wal::inspect::{Frame, Step, View, Walk};
use crate::wal::state::Tracker;
use crate::wal::{Damage, WalError};

/// What stands next in a log.
#[expect(clippy::large_enum_variant, reason = "one at a time, and nearly always the large one")]
pub enum Item {
    /// Events of one frame; the first has this number.
    Events { first_seq: u64, frame: Frame, batch: EventBatch },
    /// A place that cannot be read.
    Damage(Damage),
    /// The running agent delivered what was here and gave the file back.
    Gone,
}

/// Reads events in order.
pub struct Events<'a> {
    view: &'a View,
    walk: Walk<'a>,
    /// `None`: acknowledged events too.
    tracker: Option<Tracker>,
    pending: VecDeque<Item>,
}

impl<'a> Events<'a> {
    /// Events that wait, or all that are on disk.
    pub fn new(view: &'a View, io: &'a Io, all: bool) -> Self {
        let walk = if all { Walk::all(view, io) } else { Walk::from(view, io, view.low_position) };
        Self { view, walk, tracker: (!all).then(|| view.tracker()), pending: VecDeque::new() }
    }

    /// Where it reads.
    pub fn position(&self) -> u64 {
        self.walk.position()
    }

    /// The next item; `None` at the end.
    ///
    /// # Errors
    /// A file cannot be read.
    pub async fn next(&mut self) -> Result<Option<Item>, WalError> {
        loop {
            if let Some(item) = self.pending.pop_front() {
                return Ok(Some(item));
            }
            match self.walk.next().await? {
                None => return Ok(None),
                Some(Step::Damage(damage)) => return Ok(Some(Item::Damage(damage))),
                Some(Step::Gone) => return Ok(Some(Item::Gone)),
                Some(Step::Frame(frame)) => self.add(frame),
            }
        }
    }

    /// Queues the events of a frame, those that are acknowledged left out.
    fn add(&mut self, frame: Frame) {
        let (start, end) = (frame.header.first_seq, frame.end_seq());
        let record = frame.record();
        let mut from = start;
        while from < end {
            let run = match &self.tracker {
                Some(tracker) => tracker.first_open(from, end),
                None => Some((from, end)),
            };
            let Some((first, last)) = run else { return };
            let batch = payload::decode(&record, (first - start) as usize, (last - start) as usize);
            self.pending.push_back(match batch {
                Some(batch) => Item::Events { first_seq: first, frame: frame.clone(), batch },
                None => Item::Damage(undecodable(self.view, &frame)),
            });
            from = last;
        }
    }
}

/// A frame whose checksum is right and whose record is not one of the file channel's.
pub fn undecodable(view: &View, frame: &Frame) -> Damage {
    let segment = view.segments.get(frame.segment);
    Damage {
        path: segment.map_or_else(|| view.directory.clone(), |s| s.path.clone()),
        offset: segment.map_or(0, |s| s.offset(frame.header.position)),
        size: u64::from(frame.header.length),
        events: Some(u64::from(frame.header.events)),
    }
}
