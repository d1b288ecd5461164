//! Verifying, after a start, what an earlier run left in the logs: beside everything else, one shard at a time.

use std::sync::Arc;
use std::time::Duration;

use super::FileConfig;
use crate::io::{self, Io};
use crate::metrics::{Counter, Extras, ValueInfo, ValueKind};
use crate::wal::{Checked, Damage, OnDamage, Verification};

const UNVERIFIED: ValueInfo = ValueInfo {
    key: "UnverifiedBytes",
    doc: "Bytes of events from before the last start that the check in the background has not read yet.",
    kind: ValueKind::Gauge,
};
const DAMAGED: ValueInfo = ValueInfo {
    key: "DamagedPlaceCount",
    doc: "Places that the check in the background found unreadable since the last start; the log names them.",
    kind: ValueKind::Count,
};

/// Sources and sinks come first.
const START_AFTER: Duration = Duration::from_secs(1);
/// How often the log says how far it is.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Less than this is read within a second, and only the end is told.
const MUCH: u64 = 256 << 20;

/// Counts down what is left, also when the check ends early.
struct Left {
    counter: Arc<Counter>,
    bytes: u64,
}

impl Left {
    fn set(&mut self, bytes: u64) {
        self.counter.subtract(self.bytes.saturating_sub(bytes));
        self.bytes = self.bytes.min(bytes);
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// Starts the check of a shard's logs. It ends with them.
pub(super) fn start(
    io: &Io,
    config: &Arc<FileConfig>,
    channel: &Arc<str>,
    shard: usize,
    extras: &Extras,
    mut logs: Vec<Verification>,
) {
    let (unverified, damaged) = (extras.value(UNVERIFIED), extras.value(DAMAGED));
    logs.retain(|log| log.left() > 0);
    let total: u64 = logs.iter().map(Verification::left).sum();
    if total == 0 {
        return;
    }
    unverified.add(total);
    let mut left = Left { counter: unverified, bytes: total };
    let (io, config, channel) = (io.clone(), config.clone(), channel.clone());
    io::spawn(async move {
        io.sleep(START_AFTER).await;
        // One shard at a time: together they would take the disks from those who write.
        let Ok(_turn) = config.verifying.acquire().await else { return };
        let mut report = Report::new(&io, &config, channel, shard, total);
        for index in 0..logs.len() {
            while let Some(log) = logs.get_mut(index) {
                let checked = log.step().await;
                let rest: u64 = logs.iter().map(Verification::left).sum();
                left.set(rest);
                match checked {
                    Checked::Bytes(_) => {}
                    Checked::Damage(damage, known) => {
                        damaged.add(1);
                        report.damage(&damage, known);
                    }
                    Checked::Failed(error) => {
                        damaged.add(1);
                        report.failed(&error);
                    }
                    Checked::Done => break,
                    Checked::Closed => return report.end(rest, "stopped verifying: the channel is closed"),
                }
                report.progress(rest);
            }
        }
        report.end(0, "verified what waited at the start");
    });
}

struct Report<'a> {
    io: &'a Io,
    config: &'a FileConfig,
    channel: Arc<str>,
    shard: usize,
    total: u64,
    places: u64,
    started: Duration,
    told: Duration,
}

impl<'a> Report<'a> {
    fn new(io: &'a Io, config: &'a FileConfig, channel: Arc<str>, shard: usize, total: u64) -> Self {
        if total >= MUCH {
            tracing::info!(%channel, shard, bytes = total, "verifying in the background what waited at the start");
        }
        let now = io.now();
        Self { io, config, channel, shard, total, places: 0, started: now, told: now }
    }

    /// GB a second since the start.
    fn rate(&self, left: u64) -> String {
        let seconds = self.io.now().saturating_sub(self.started).as_secs_f64().max(0.001);
        format!("{:.2} GB/s", (self.total - left) as f64 / seconds / 1e9)
    }

    fn progress(&mut self, left: u64) {
        let now = self.io.now();
        if now.saturating_sub(self.told) < TELL_EVERY {
            return;
        }
        self.told = now;
        let (channel, shard, rate) = (&self.channel, self.shard, self.rate(left));
        let percent = (self.total - left) * 100 / self.total.max(1);
        tracing::info!(%channel, shard, percent, rate, damaged = self.places, "verifying in the background");
    }

    fn damage(&mut self, damage: &Damage, known: bool) {
        self.places += 1;
        if known || damage.events == Some(0) {
            return;
        }
        let Damage { path, offset, size, events } = damage;
        let (channel, file) = (&self.channel, path.display());
        let events = events.map_or("an unknown number".to_owned(), |n| n.to_string());
        match self.config.on_damage {
            OnDamage::Stop => tracing::error!(
                %channel, %file, offset, bytes = size, events,
                "damage ahead of the sinks: they will stop there. Restore the file from a copy while the agent is \
                 stopped, or set onDamage = skip to go on without these events"
            ),
            OnDamage::Skip => tracing::error!(
                %channel, %file, offset, bytes = size, events,
                "damage ahead of the sinks: onDamage = skip, so these events will be skipped and counted. To save them, \
                 stop the agent and restore the file from a copy"
            ),
        }
    }

    fn failed(&mut self, error: &crate::wal::WalError) {
        self.places += 1;
        let channel = &self.channel;
        tracing::error!(
            %channel, %error,
            "the rest of a log file cannot be read: the disk fails. Copy the file away while that is possible; sinks \
             will stop there"
        );
    }

    fn end(&self, left: u64, what: &str) {
        let (channel, shard, rate) = (&self.channel, self.shard, self.rate(left));
        let bytes = self.total - left;
        tracing::info!(%channel, shard, bytes, rate, damaged = self.places, "{what}");
    }
}
