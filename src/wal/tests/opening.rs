//! What opening a log costs: a count of what is read, so that no clock is needed.

use super::*;
use crate::io::sim::Outcome;

/// Bytes read from the opening to the first event, after a kill with this much waiting; events and segments found.
fn first_take(backlog: u64, same_boot: bool) -> (u64, Recovered) {
    let world = world(3);
    world.run(|io| async move {
        let options = LogOptions { segment_size_max: 4 << 20, ..options() };
        let (log, _) = Log::open(&io, options).await.unwrap();
        let mut written = 0;
        let mut last = None;
        while written < backlog {
            let record = Numbers { ids: (0..100).collect(), filler: 200_000 };
            last = Some(log.append(&[record], &[mark(1, written + 1)]).await.unwrap());
            written += 200_800;
        }
        last.unwrap().await.unwrap();
        // Killed: nothing is closed.
        let lock = Path::new(DIRECTORY).join(LOCK_FILE);
        drop(log);
        while io.lock(&lock).is_err() {
            io.sleep(Duration::from_millis(10)).await;
        }
    });
    if !same_boot {
        reboot(&world);
    }
    let before = world.disk.stats().bytes_read;
    let outcome = world.run(|io| async move {
        let options = LogOptions { segment_size_max: 4 << 20, ..options() };
        let (log, found) = Log::open(&io, options).await.unwrap();
        let entry = log.next().await.unwrap().expect("the first events");
        assert_eq!((entry.first_seq, entry.events), (0, 100));
        found
    });
    let Outcome::Finished(found) = outcome else { unreachable!("nobody stops this life") };
    (world.disk.stats().bytes_read - before, found)
}

/// What is read before the first take does not grow with the backlog, except by the header and footer of each
/// file: three blocks of 4 KiB for up to 256 MiB.
#[test]
fn what_is_read_before_the_first_take_does_not_depend_on_the_backlog() {
    for same_boot in [true, false] {
        let (small, of_small) = first_take(24 << 20, same_boot);
        let (large, of_large) = first_take(192 << 20, same_boot);
        assert!(of_large.events > 7 * of_small.events, "{of_small:?} {of_large:?}");
        let more = (of_large.segments - of_small.segments) as u64;
        assert!(more >= 40, "{of_small:?} {of_large:?}");
        // The end of the last segment lies anywhere: up to one segment of 4 MiB more, read twice, for the end
        // and for the marks, and searched once after a reboot.
        let most = small + more * 3 * 4096 + 3 * (4 << 20);
        assert!(large <= most, "{small} bytes read for 24 MiB, {large} for 192 MiB, at most {most}");
        assert!(large < 16 << 20, "{large} bytes read for 192 MiB");
    }
}
