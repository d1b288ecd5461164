//! Keeping a source that could run ahead close in front of the consumer.
//!
//! Whoever reads files fills a log faster than a sink can empty it. What is then more than [`super::reader`]
//! keeps in memory has to be read from the disk again, beside the writes, and the sink gets slower still. The
//! lines lie safely in their file, so nothing is gained by that hurry. But a file may be truncated or removed some
//! day: a sink that is slow, or dead, must not keep it from being read. So the wait is short.

use std::time::Duration;

use super::Log;
use super::reader::KEEP_SIZE;

/// Where the consumer is close enough: with [`super::writer`]'s 3 MiB on their way to the disk, all is in memory.
const NEAR: u64 = KEEP_SIZE as u64 / 2;
/// Longest wait. With reads of 416 KiB a shard still takes more than 130 MB/s of files.
const WAIT_MAX: Duration = Duration::from_millis(2);

impl Log {
    /// Resolves when the consumer is close behind what is visible, at once if it stands still, and after
    /// 2 ms in any case.
    pub async fn keep_pace(&self) {
        let inner = &*self.0;
        let position = || inner.reader.borrow().cursor;
        let start = position();
        if inner.stands_at.get() == start {
            return;
        }
        let near = async {
            loop {
                let moved = inner.moved.notified();
                if inner.visible.get().saturating_sub(position()) <= NEAR {
                    return;
                }
                moved.await;
            }
        };
        tokio::select! {
            biased;
            () = near => {}
            () = inner.io.sleep(WAIT_MAX) => {
                if position() == start {
                    inner.stands_at.set(start);
                }
            }
        }
    }
}
