//! Writing a new file channel, for salvage and import.
//!
//! It is built under another name and renamed when it is complete, so that no agent ever finds half of it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Stopped, fail, refuse};
use crate::channel::file::payload::Part;
use crate::event::EventBatch;
use crate::io::Io;
use crate::wal::cipher::Keys;
use crate::wal::repair::Raw;
use crate::wal::{
    Commit, Durability, Log, LogOptions, Mark, MarkTable, OnDamage, Record, SEGMENT_SIZE_MAX, WalError,
};

/// Flume's largest log file, a multiple of the block.
const TRANSACTION_SIZE_MAX: u64 = 1_623_195_647 / 4096 * 4096;
/// So much stays free on the disk.
const SPACE_MIN: u64 = 1 << 20;

/// A new log of one shard.
pub struct NewLog {
    io: Io,
    log: Log,
    building: PathBuf,
    directory: PathBuf,
    last: Option<Commit>,
    /// Events written.
    pub events: u64,
}

impl NewLog {
    /// Begins the log of a shard below a dataDir.
    pub async fn create(io: &Io, data_dir: &Path, name: &str, keys: &Arc<Keys>) -> Result<Self, Stopped> {
        let directory = data_dir.join(name);
        let building = data_dir.join(format!("{name}.incomplete"));
        for path in [&directory, &building] {
            if io.metadata(path).await.is_ok() {
                return Err(refuse(
                    path.display().to_string(),
                    "exists already",
                    "name a new directory behind --to, or remove this one",
                ));
            }
        }
        let options = LogOptions {
            directory: building.clone(),
            channel: name.into(),
            shard: name.strip_prefix("shard-").and_then(|n| n.parse().ok()).unwrap_or(0),
            segment_size_max: SEGMENT_SIZE_MAX,
            transaction_size_max: TRANSACTION_SIZE_MAX,
            minimum_space: SPACE_MIN,
            durability: Durability::Commit,
            state_interval: std::time::Duration::from_secs(30),
            copies: Vec::new(),
            on_damage: OnDamage::Stop,
            take_only: false,
            keys: keys.clone(),
        };
        let (log, _) = Log::open(io, options).await.map_err(|error| failed(&building, &error))?;
        Ok(Self { io: io.clone(), log, building, directory, last: None, events: 0 })
    }

    async fn append<R: Record>(&mut self, records: &[R], marks: &[Mark]) -> Result<(), Stopped> {
        let commit = self.log.append(records, marks).await.map_err(|error| failed(&self.building, &error))?;
        self.events += records.iter().map(|r| u64::from(r.events())).sum::<u64>();
        // Commits complete in order: the last one stands for all.
        self.last = Some(commit);
        Ok(())
    }

    /// Adds a record as it is.
    pub async fn raw(&mut self, record: Raw) -> Result<(), Stopped> {
        self.append(&[record], &[]).await
    }

    /// Adds events.
    pub async fn events(&mut self, batch: &EventBatch) -> Result<(), Stopped> {
        let mut parts = Vec::new();
        Part::split(batch, &mut parts);
        if parts.is_empty() { Ok(()) } else { self.append(&parts, &[]).await }
    }

    /// Adds the positions of sources, with their times: of two logs with the same key the later one counts.
    pub async fn marks(&mut self, table: &MarkTable) -> Result<(), Stopped> {
        table
            .all()
            .for_each(|(key, value, time_ms)| self.log.adopt_mark(key.clone(), value.clone(), time_ms));
        self.log.save_marks().await.map_err(|error| failed(&self.building, &error))
    }

    /// Removes what was written so far; the complaint passes through.
    pub async fn abandon(self, stopped: Stopped) -> Stopped {
        let _ = self.log.remove().await;
        stopped
    }

    /// Makes everything durable and gives the directory its name.
    pub async fn finish(self) -> Result<u64, Stopped> {
        if let Some(commit) = self.last {
            commit.await.map_err(|error| failed(&self.building, &error))?;
        }
        self.log.close().await;
        let wrap = |error: std::io::Error| {
            fail(
                self.directory.display().to_string(),
                error.to_string(),
                "check the permissions and the disk",
            )
        };
        self.io.rename(&self.building, &self.directory).await.map_err(wrap)?;
        if let Some(parent) = self.directory.parent() {
            self.io.sync_dir(parent).await.map_err(wrap)?;
        }
        Ok(self.events)
    }
}

fn failed(directory: &Path, error: &WalError) -> Stopped {
    let hint = format!("when that is put right, remove {} and start again", directory.display());
    fail(directory.display().to_string(), error.to_string(), hint)
}
