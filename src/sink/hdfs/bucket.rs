//! Buckets: one open file per path and prefix.
//!
//! Flume: `org.apache.flume.sink.hdfs.BucketWriter`. A file is made when its first events are flushed, so
//! there are no empty ones. Whether it is to be rolled is asked before an append, as in Flume.

use std::rc::Rc;
use std::time::Duration;

use super::format::Encoder;
use super::journal::{Entry, Journal, Name};
use crate::client::hdfs::{FileSystem, FileWriter, FsError, FsErrorKind};
use crate::event::EventBatch;
use crate::io::Io;
use crate::metrics::SinkCounters;
use crate::serializer::output::Output;

/// How long a sync is repeated in safe mode before the file is given up.
const SAFE_MODE_LIMIT: Duration = Duration::from_secs(30);
const SAFE_MODE_PAUSE: Duration = Duration::from_millis(300);
/// Numbers tried for a new file if others of this name are there.
const NAMES_MAX: usize = 1000;

/// The files of one path and prefix, one at a time.
pub(super) struct Bucket {
    pub directory: String,
    pub prefix: String,
    /// Number of the last file.
    pub counter: u64,
    /// Order of use, for `hdfs.maxOpenFiles`.
    pub used: u64,
    pub file: Option<OpenFile>,
}

/// A file that takes events.
pub(super) struct OpenFile {
    pub id: u64,
    pub name: Name,
    pub in_use: String,
    /// `None` until its first flush.
    pub writer: Option<Box<dyn FileWriter>>,
    pub encoder: Encoder,
    pub out: Output,
    pub events: u64,
    pub body_bytes: u64,
    pub opened: Duration,
    pub last_event: Duration,
    /// Bytes handed to the writer, and of them those for which takes were committed.
    pub size: u64,
    pub committed: u64,
    /// Holds events of the takes under way.
    pub touched: bool,
    /// Its last flush failed.
    pub failed: bool,
}

/// What a flush needs of the lane.
pub(super) struct Flusher<'a> {
    pub io: &'a Io,
    pub fs: &'a Rc<dyn FileSystem>,
    pub journal: &'a Journal,
    pub counters: &'a SinkCounters,
    pub in_use: (&'a str, &'a str),
    /// Make data durable now, not when the file is closed.
    pub sync: bool,
}

impl OpenFile {
    /// What the journal knows of it.
    pub fn entry(&self, uri: &str) -> Entry {
        Entry {
            uri: uri.to_owned(),
            in_use: self.in_use.clone(),
            name: self.name.clone(),
            committed: self.committed,
            exact: true,
        }
    }

    /// Appends events `from..to`.
    pub fn append(&mut self, batch: &EventBatch, from: usize, to: usize, now: Duration, unix_ms: i64) {
        self.touched = true;
        self.last_event = now;
        self.events += (to - from) as u64;
        self.body_bytes += bytes_between(batch, from, to);
        self.encoder.append(batch, from, to, unix_ms, &mut self.out);
    }

    /// Writes what is buffered; creates the file first if need be.
    pub async fn flush(&mut self, lane: &Flusher<'_>) -> Result<(), FsError> {
        self.encoder.flush(&mut self.out);
        let result = self.write(lane).await;
        self.failed = result.is_err();
        result
    }

    async fn write(&mut self, lane: &Flusher<'_>) -> Result<(), FsError> {
        if self.writer.is_none() {
            self.create(lane).await?;
        }
        let pieces = self.out.take();
        self.size += pieces.iter().map(|p| p.len() as u64).sum::<u64>();
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let began = lane.io.now();
        let mut told = false;
        let mut result = writer.write(pieces, lane.sync).await;
        while let Err(error) = &result {
            if error.kind != FsErrorKind::Wait || lane.io.now() - began > SAFE_MODE_LIMIT {
                break;
            }
            if !told {
                told = true;
                tracing::warn!(file = %self.in_use, %error, "waiting for the end of safe mode");
            }
            lane.io.sleep(SAFE_MODE_PAUSE).await;
            result = writer.write(Vec::new(), true).await;
        }
        result
    }

    async fn create(&mut self, lane: &Flusher<'_>) -> Result<(), FsError> {
        let mut taken = 0;
        loop {
            match lane.fs.create(&self.in_use).await {
                Ok(writer) => {
                    tracing::debug!(file = %self.in_use, "created");
                    lane.counters.connection_created.add(1);
                    self.writer = Some(writer);
                    return Ok(());
                }
                Err(error) if error.kind == FsErrorKind::Exists && taken < NAMES_MAX => {
                    taken += 1;
                    self.name.counter += 1;
                    self.in_use = self.name.within(lane.in_use.0, lane.in_use.1);
                    // The journal must not point at somebody else's file.
                    let entry = self.entry(lane.fs.uri());
                    lane.journal.opened(vec![(self.id, entry)]).await.map_err(journal_error)?;
                }
                Err(error) => {
                    lane.counters.connection_failed.add(1);
                    return Err(error);
                }
            }
        }
    }
}

/// The journal's disk does not work: as bad as the destination's.
pub(super) fn journal_error(error: std::io::Error) -> FsError {
    let message = format!("cannot write the journal of open files (hdfs.journalDir): {error}");
    FsError { kind: FsErrorKind::Connection, message }
}

/// Body bytes of events `from..to`.
pub(super) fn bytes_between(batch: &EventBatch, from: usize, to: usize) -> u64 {
    let (_, ends, separator) = batch.area();
    if from == to {
        return 0;
    }
    let start = from.checked_sub(1).map_or(0, |last| ends[last] as usize + separator.size());
    (ends[to - 1] as usize - start - (to - 1 - from) * separator.size()) as u64
}

/// How many of the events `from..to` go into a file before its next roll check says yes, at least one:
/// as many as keep the count below `count_left` and the bytes of all but the last below `bytes_left`.
pub(super) fn fitting(
    batch: &EventBatch,
    from: usize,
    to: usize,
    count_left: Option<u64>,
    bytes_left: Option<u64>,
) -> usize {
    let mut to = to;
    if let Some(count) = count_left {
        to = to.min(from.saturating_add(count.max(1) as usize));
    }
    if let Some(bytes) = bytes_left {
        // The first end with which the limit is reached; found by halving, since sums rise.
        let (mut low, mut high) = (from + 1, to);
        while low < high {
            let middle = low + (high - low) / 2;
            if bytes_between(batch, from, middle) >= bytes {
                high = middle;
            } else {
                low = middle + 1;
            }
        }
        to = low.min(to);
    }
    to - from
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{BatchBuilder, Separator};

    #[test]
    fn events_up_to_the_next_roll() {
        for separator in [Separator::None, Separator::Newline] {
            let mut builder = BatchBuilder::new(separator);
            ["aaaa", "bb", "", "cccc", "d"].iter().for_each(|b| builder.push(b.as_bytes()));
            let batch = builder.finish();
            assert_eq!(
                (bytes_between(&batch, 0, 5), bytes_between(&batch, 1, 3), bytes_between(&batch, 3, 3)),
                (11, 2, 0)
            );
            let table = [
                (0, 5, None, None, 5),
                (0, 5, Some(2), None, 2),
                (1, 5, Some(9), None, 4),
                (0, 5, None, Some(1), 1),
                (0, 5, None, Some(4), 1),
                (0, 5, None, Some(5), 2),
                (0, 5, None, Some(7), 4),
                (0, 5, None, Some(100), 5),
                (0, 5, Some(2), Some(100), 2),
                (0, 5, Some(5), Some(6), 2),
            ];
            for (from, to, count, bytes, expected) in table {
                assert_eq!(fitting(&batch, from, to, count, bytes), expected, "{count:?} {bytes:?}");
            }
        }
    }
}
