//! The check in the background: it finds what takes will find, and nothing else, and gets out of the way.

use super::*;
use crate::io::sim::Outcome;
use crate::wal::segment::BLOCK_SIZE;

const TRANSACTIONS: u64 = 200;

/// A log with much waiting, killed.
fn sample() -> World {
    let world = world(11);
    world.run(|io| async move {
        let (log, _) = Log::open(&io, options()).await.unwrap();
        for transaction in 1..=TRANSACTIONS {
            let record = Numbers { ids: vec![id(1, transaction, 0), id(1, transaction, 1)], filler: 20_000 };
            log.append(&[record], &[]).await.unwrap().await.unwrap();
        }
    });
    world
}

/// Runs a check to its end.
async fn run(mut verification: Verification) -> (Vec<Damage>, Checked) {
    let mut found = Vec::new();
    loop {
        match verification.step().await {
            Checked::Bytes(_) => {}
            Checked::Damage(damage, known) => {
                assert!(!known);
                found.push(damage);
            }
            end => {
                assert_eq!(verification.left(), 0, "{end:?}");
                return (found, end);
            }
        }
    }
}

fn finished<T: std::fmt::Debug>(outcome: Outcome<T>) -> T {
    let Outcome::Finished(value) = outcome else { panic!("{outcome:?}") };
    value
}

#[test]
fn damage_is_reported_before_a_take_gets_there() {
    let world = sample();
    let file = Path::new(DIRECTORY).join(segment::file_name(5));
    let mut offset = 0;
    assert!(world.disk.damage(&file, |bytes| {
        offset = BLOCK_SIZE as usize + frame::u32_at(bytes, BLOCK_SIZE as usize + 8) as usize;
        bytes[offset + 500] ^= 1;
    }));
    finished(world.run(|io| async move {
        let (log, found) = Log::open(&io, options()).await.unwrap();
        assert_eq!(found.events, 2 * TRANSACTIONS);
        let verification = log.verification();
        let (bytes, before) = (verification.left(), io.now());
        assert!(bytes > TRANSACTIONS * 20_000, "{bytes}");
        let (damage, end) = run(verification).await;
        assert!(matches!(end, Checked::Done), "{end:?}");
        let took = io.now() - before;
        assert!(took >= Duration::from_micros(bytes * 1_000_000 / (256 << 20)), "{took:?} for {bytes} bytes");
        assert_eq!(damage.len(), 1, "{damage:?}");
        assert_eq!((&damage[0].path, damage[0].offset, damage[0].events), (&file, offset as u64, Some(2)));
        // The very same that a take then stops at.
        let error = loop {
            if let Err(error) = log.next().await {
                break error;
            }
        };
        assert!(matches!(&error, WalError::Damaged(d) if *d == damage[0]), "{error}");
        log.close().await;
    }));
}

/// Files are given back and written again under the check: whatever it reads there is no damage.
#[test]
fn takes_and_puts_go_on_beside_it() {
    let world = sample();
    finished(world.run(|io| async move {
        let (log, _) = Log::open(&io, options()).await.unwrap();
        let check = seam::spawn(run(log.verification()));
        let mut taken = 0;
        for transaction in TRANSACTIONS + 1..=2 * TRANSACTIONS {
            let record = Numbers { ids: vec![id(1, transaction, 0)], filler: 20_000 };
            log.append(&[record], &[]).await.unwrap().await.unwrap();
            while let Some(entry) = log.next().await.unwrap() {
                taken += u64::from(entry.events);
                log.ack(entry.first_seq, entry.first_seq + u64::from(entry.events));
                log.acked();
                if transaction % 3 == 0 {
                    break;
                }
            }
        }
        let (damage, end) = check.await.unwrap();
        assert!(damage.is_empty() && matches!(end, Checked::Done), "{damage:?} {end:?}");
        assert!(taken > 2 * TRANSACTIONS, "{taken}");
        log.close().await;
    }));
}

#[test]
fn it_yields_to_traffic() {
    let world = sample();
    finished(world.run(|io| async move {
        let (log, _) = Log::open(&io, options()).await.unwrap();
        let (before, verification) = (io.now(), log.verification());
        let bytes = verification.left();
        let check = seam::spawn(run(verification));
        let mut transaction = TRANSACTIONS;
        while !check.is_finished() {
            transaction += 1;
            let record = Numbers { ids: vec![id(1, transaction, 0)], filler: 100 };
            log.append(&[record], &[]).await.unwrap().await.unwrap();
            io.sleep(Duration::from_millis(5)).await;
        }
        let took = io.now() - before;
        assert!(took >= Duration::from_micros(bytes * 1_000_000 / (64 << 20)), "{took:?} for {bytes} bytes");
        log.close().await;
    }));
}

#[test]
fn it_ends_with_the_log() {
    let world = sample();
    for close in [true, false] {
        finished(world.run(|io| async move {
            let (log, _) = Log::open(&io, options()).await.unwrap();
            let mut verification = log.verification();
            assert!(matches!(verification.step().await, Checked::Bytes(count) if count > 0));
            if close {
                log.close().await;
            }
            let lock = Path::new(DIRECTORY).join(LOCK_FILE);
            drop(log);
            // It does not hold the directory either.
            while io.lock(&lock).is_err() {
                io.sleep(Duration::from_millis(10)).await;
            }
            assert!(matches!(verification.step().await, Checked::Closed));
        }));
    }
}
