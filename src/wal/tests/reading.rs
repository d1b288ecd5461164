//! The consumer of a log and whoever fills it: reading ahead, and keeping pace.

use super::*;
use crate::io::sim::{Fault, Latency, Operation, Outcome};

fn large() -> LogOptions {
    LogOptions { segment_size_max: 16 << 20, ..options() }
}

/// Appends transactions of 256 KiB and waits for them.
async fn fill(log: &Log, transactions: std::ops::Range<u64>) {
    for transaction in transactions {
        let record = Numbers { ids: vec![id(1, transaction, 0)], filler: 256 << 10 };
        log.append(&[record], &[]).await.unwrap().await.unwrap();
    }
}

/// Takes what waits, up to so many entries.
async fn take(log: &Log, most: usize) -> Vec<u64> {
    let mut ids = Vec::new();
    while ids.len() < most
        && let Some(entry) = log.next().await.unwrap()
    {
        ids.extend(open_ids(log, &entry));
    }
    ids
}

fn finished<T: std::fmt::Debug>(outcome: Outcome<T>) -> T {
    let Outcome::Finished(value) = outcome else { panic!("{outcome:?}") };
    value
}

#[test]
fn a_backlog_is_read_with_several_reads_at_once() {
    let world = world(5);
    finished(world.run(|io| async move {
        let (log, _) = Log::open(&io, large()).await.unwrap();
        fill(&log, 0..128).await;
        log.close().await;
    }));
    world.disk.set_latency(Latency { usual_ms: 10..=10, slow_ms: 10..=10, slow_percent: 0 });
    let before = world.disk.stats().bytes_read;
    let took = finished(world.run(|io| async move {
        let (log, _) = Log::open(&io, large()).await.unwrap();
        let start = io.now();
        let expected: Vec<u64> = (0..128).map(|transaction| id(1, transaction, 0)).collect();
        assert_eq!(take(&log, 128).await, expected);
        let took = io.now() - start;
        log.close().await;
        took
    }));
    // 33 reads of 1 MiB, and some at the ends of the files; one after the other they would take 330 ms.
    assert!(took < Duration::from_millis(260), "{took:?}");
    let read = world.disk.stats().bytes_read - before;
    assert!(read < 40 << 20, "{read} bytes read for 32 MiB");
}

#[test]
fn a_read_ahead_that_fails_is_an_error_only_to_who_needs_it() {
    for after in 0..12 {
        let world = world(6);
        let disk = world.disk.clone();
        finished(world.run(|io| async move {
            let (log, _) = Log::open(&io, large()).await.unwrap();
            fill(&log, 0..64).await;
            log.close().await;
            let (log, _) = Log::open(&io, large()).await.unwrap();
            disk.add_fault(Fault { after, ..Fault::next(Operation::Read) });
            let (mut ids, mut errors) = (Vec::new(), 0);
            while ids.len() < 64 {
                match log.next().await {
                    Ok(entry) => ids.extend(open_ids(&log, &entry.expect("an entry"))),
                    Err(WalError::Io { .. }) => errors += 1,
                    Err(error) => panic!("{error}"),
                }
            }
            assert_eq!(ids, (0..64).map(|transaction| id(1, transaction, 0)).collect::<Vec<_>>(), "{after}");
            // Once, and not at all if it was read again in time.
            assert!(errors <= 1, "{errors} errors for one");
            log.close().await;
        }));
    }
}

#[test]
fn whoever_can_wait_keeps_pace_with_a_consumer_that_moves() {
    let world = world(7);
    world.disk.set_latency(Latency { usual_ms: 0..=0, slow_ms: 0..=0, slow_percent: 0 });
    finished(world.run(|io| async move {
        let (log, _) = Log::open(&io, large()).await.unwrap();
        let timed = async |log: &Log| {
            let start = io.now();
            log.keep_pace().await;
            io.now() - start
        };
        fill(&log, 0..8).await;
        assert_eq!(timed(&log).await, Duration::ZERO, "2 MiB are no distance");
        fill(&log, 8..40).await;
        assert_eq!(timed(&log).await.as_millis(), 2);
        // Nobody takes: no more waiting for that.
        assert_eq!(timed(&log).await, Duration::ZERO);
        fill(&log, 40..60).await;
        assert_eq!(timed(&log).await, Duration::ZERO);
        // Somebody takes, but little.
        take(&log, 2).await;
        assert_eq!(timed(&log).await.as_millis(), 2);
        take(&log, 2).await;
        let (waited, _) = tokio::join!(timed(&log), async {
            io.sleep(Duration::from_millis(1)).await;
            take(&log, 56).await
        });
        assert_eq!(waited.as_millis(), 1, "it is close again");
        log.close().await;
    }));
}
