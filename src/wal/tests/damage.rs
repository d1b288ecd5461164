//! Damage by name: whatever happens to the files, nothing is lost in silence, and `skip` loses no more than
//! what was hit.

use super::*;
use crate::io::sim::Outcome;
use crate::wal::segment::BLOCK_SIZE;

const TRANSACTIONS: u64 = 60;
const EVENTS: u64 = 4;

/// Paths of the segments, in order, without those that are prepared.
fn segments(world: &World) -> Vec<PathBuf> {
    let mut files = world.disk.files();
    files.retain(|f| f.extension().is_some_and(|e| e == "seg"));
    files.retain(|f| world.disk.read(f).is_some_and(|bytes| !frames(&bytes).is_empty()));
    files
}

/// A log over several segments that was killed, or closed and opened in between.
fn sample(reopened: bool) -> World {
    let world = world(7);
    world.run(|io| async move {
        let mut transaction = 0;
        for life in 0..=u64::from(reopened) {
            let (log, _) = Log::open(&io, options()).await.unwrap();
            let until = if reopened { (life + 1) * TRANSACTIONS / 2 } else { TRANSACTIONS };
            while transaction < until {
                let ids = (0..EVENTS).map(|event| id(1, transaction + 1, event)).collect();
                let record = Numbers { ids, filler: 7_000 };
                log.append(&[record], &[mark(1, transaction + 1)]).await.unwrap().await.unwrap();
                transaction += 1;
            }
            // A little is delivered, so that the first segment is in use and not whole.
            if life == 0 {
                let entry = log.next().await.unwrap().unwrap();
                log.ack(entry.first_seq, entry.first_seq + EVENTS);
                log.acked();
            }
            // No footer for the last segment: as after a kill.
            let lock = Path::new(DIRECTORY).join(LOCK_FILE);
            drop(log);
            while io.lock(&lock).is_err() {
                io.sleep(Duration::from_millis(10)).await;
            }
        }
    });
    world
}

/// Offset and size of the frames of a segment.
fn frames(bytes: &[u8]) -> Vec<(usize, usize)> {
    let mut at = BLOCK_SIZE as usize;
    let mut frames = Vec::new();
    while bytes.get(at..at + 4) == Some(&frame::MAGIC) {
        let size = frame::u32_at(bytes, at + 8) as usize;
        frames.push((at, size));
        at += size;
    }
    frames
}

/// What is read in one life, the error that ended it, and what was counted as skipped.
struct Read {
    ids: Vec<u64>,
    error: Option<WalError>,
    skipped: u64,
}

fn read(world: &World, on_damage: OnDamage) -> Read {
    let life = world.run(|io| async move {
        let (log, _) = match Log::open(&io, LogOptions { on_damage, ..options() }).await {
            Ok(opened) => opened,
            Err(error) => return Read { ids: Vec::new(), error: Some(error), skipped: 0 },
        };
        let (mut ids, mut error) = (Vec::new(), None);
        loop {
            match log.next().await {
                Ok(Some(entry)) => ids.extend(open_ids(&log, &entry)),
                Ok(None) => break,
                Err(e) => {
                    error = Some(e);
                    break;
                }
            }
        }
        Read { ids, error, skipped: log.skipped() }
    });
    let Outcome::Finished(read) = life else { unreachable!("nobody stops this life") };
    read
}

/// Appends one more event, which must come out of the next life as the last.
fn append(world: &World) {
    world.run(|io| async move {
        let (log, _) = Log::open(&io, LogOptions { on_damage: OnDamage::Skip, ..options() }).await.unwrap();
        let record = Numbers { ids: vec![id(9, 1, 0)], filler: 0 };
        log.append(&[record], &[]).await.unwrap().await.unwrap();
        log.close().await;
    });
}

type Damaging = fn(&World, &[PathBuf]);

fn at_middle(world: &World, files: &[PathBuf], damage: impl FnOnce(&mut Vec<u8>, Vec<(usize, usize)>)) {
    assert!(world.disk.damage(&files[files.len() / 2], |bytes| {
        let frames = frames(bytes);
        damage(bytes, frames);
    }));
}

/// Name, what is done, and how many transactions may be lost by it at most; `None` if all of a segment.
const TABLE: &[(&str, Option<u64>, Damaging)] = &[
    ("nothing", Some(0), |_, _| {}),
    ("header of the first flipped", Some(0), |w, f| assert!(w.disk.flip_bit(&f[0], 30, 2))),
    ("header of a middle one flipped", Some(0), |w, f| assert!(w.disk.flip_bit(&f[1], 30, 2))),
    ("header of the last flipped", Some(0), |w, f| assert!(w.disk.flip_bit(&f[f.len() - 1], 30, 2))),
    ("every header flipped", Some(0), |w, f| f.iter().for_each(|f| assert!(w.disk.flip_bit(f, 30, 2)))),
    ("header zeroed", Some(0), |w, f| at_middle(w, f, |b, _| b[..4096].fill(0))),
    ("header of the last zeroed", Some(0), |w, f| {
        assert!(w.disk.damage(&f[f.len() - 1], |b| b[..4096].fill(0)));
    }),
    ("header of an earlier segment", Some(0), |w, f| {
        let stale = w.disk.read(&f[0]).unwrap();
        at_middle(w, f, |b, _| b[..4096].copy_from_slice(&stale[..4096]));
    }),
    ("snapshot flipped", Some(0), |w, f| at_middle(w, f, |b, frames| b[frames[0].0 + 80] ^= 1)),
    ("header and snapshot flipped", Some(0), |w, f| {
        at_middle(w, f, |b, frames| {
            b[30] ^= 1;
            b[frames[0].0 + 80] ^= 1;
        });
    }),
    ("header and two frames flipped", Some(1), |w, f| {
        at_middle(w, f, |b, frames| {
            b[30] ^= 1;
            b[frames[0].0 + 80] ^= 1;
            b[frames[1].0 + 80] ^= 1;
        });
    }),
    ("frame flipped", Some(1), |w, f| at_middle(w, f, |b, frames| b[frames[3].0 + 500] ^= 16)),
    ("frame of the last segment flipped", Some(1), |w, f| {
        assert!(w.disk.damage(&f[f.len() - 1], |b| {
            let at = frames(b)[1].0;
            b[at + 500] ^= 16;
        }));
    }),
    ("last frame of a segment flipped", Some(1), |w, f| {
        at_middle(w, f, |b, frames| b[frames[frames.len() - 1].0 + 500] ^= 16);
    }),
    ("length of a frame flipped", Some(1), |w, f| at_middle(w, f, |b, frames| b[frames[3].0 + 9] ^= 16)),
    ("frame zeroed", Some(1), |w, f| at_middle(w, f, |b, frames| b[frames[3].0..][..frames[3].1].fill(0))),
    ("sector zeroed", Some(2), |w, f| at_middle(w, f, |b, frames| b[frames[3].0 + 4096..][..512].fill(0))),
    ("frame duplicated", Some(2), |w, f| {
        at_middle(w, f, |b, frames| b.copy_within(frames[3].0..frames[4].0, frames[4].0));
    }),
    ("frames swapped", Some(2), |w, f| {
        at_middle(w, f, |b, frames| {
            let (a, size) = frames[3];
            assert_eq!(frames[4].1, size);
            b[a..a + 2 * size].rotate_left(size);
        });
    }),
    ("prepared file flipped", Some(0), |w, f| {
        w.disk.flip_bit(f[f.len() - 1].with_file_name(segment::file_name(f.len() as u64 + 1)), 30, 2);
    }),
    ("footer flipped", Some(0), |w, f| {
        let size = w.disk.read(&f[0]).unwrap().len();
        f.iter().for_each(|f| assert!(w.disk.flip_bit(f, size - 4096 + 40, 1)));
    }),
    ("footers zeroed and a frame flipped", Some(1), |w, f| {
        for file in f {
            w.disk.damage(file, |b| {
                let at = b.len() - 4096;
                b[at..].fill(0);
            });
        }
        at_middle(w, f, |b, frames| b[frames[3].0 + 500] ^= 16);
    }),
    ("segment cut to a half", None, |w, f| at_middle(w, f, |b, _| b.truncate(b.len() / 2))),
    ("last segment cut behind its frames", Some(0), |w, f| {
        assert!(w.disk.damage(&f[f.len() - 1], |b| {
            let end = frames(b).last().map_or(4096, |(at, size)| at + size);
            b.truncate(end);
        }));
    }),
    ("segment zeroed", None, |w, f| at_middle(w, f, |b, _| b.fill(0))),
    ("segment of garbage", None, |w, f| at_middle(w, f, |b, _| b.fill(0x5a))),
    ("segments swapped", Some(0), |w, f| {
        let (a, b) = (w.disk.read(&f[0]).unwrap(), w.disk.read(&f[1]).unwrap());
        w.disk.damage(&f[0], |bytes| *bytes = b);
        w.disk.damage(&f[1], |bytes| *bytes = a);
    }),
    ("segment twice", Some(0), |w, f| {
        let copy = w.disk.read(&f[1]).unwrap();
        new_file(w, "0000000099.seg", copy);
    }),
    ("segment of another log", Some(0), |w, f| {
        let mut copy = w.disk.read(&f[1]).unwrap();
        copy[16] ^= 1;
        copy[24..32].copy_from_slice(&99_u64.to_le_bytes());
        copy[8..12].fill(0);
        let crc = crc32fast::hash(&copy[..256]);
        copy[8..12].copy_from_slice(&crc.to_le_bytes());
        new_file(w, "0000000099.seg", copy);
    }),
    ("state zeroed", Some(0), |w, _| {
        assert!(w.disk.damage(Path::new(DIRECTORY).join(STATE_FILE), |b| b.fill(0)));
    }),
    ("state and every header flipped", Some(0), |w, f| {
        assert!(w.disk.damage(Path::new(DIRECTORY).join(STATE_FILE), |b| b.fill(0)));
        f.iter().for_each(|f| assert!(w.disk.flip_bit(f, 30, 2)));
    }),
];

fn new_file(world: &World, name: &'static str, content: Vec<u8>) {
    world.run(|io| async move {
        let path = Path::new(DIRECTORY).join(name);
        let file = io.open(&path, OpenOptions::CREATE_NEW).await.unwrap();
        file.write_at(content.into(), 0).await.unwrap();
        file.sync_data().await.unwrap();
        io.sync_dir(Path::new(DIRECTORY)).await.unwrap();
    });
}

#[test]
fn nothing_is_lost_in_silence() {
    let all: Vec<u64> =
        (1..=TRANSACTIONS).flat_map(|t| (0..EVENTS).map(move |event| id(1, t, event))).collect();
    for (name, lost_max, damage) in TABLE {
        for case in 0..4 {
            let (reopened, same_boot) = (case & 1 != 0, case & 2 != 0);
            let name = format!("{name}, reopened {reopened}, same boot {same_boot}");
            let world = sample(reopened);
            if !same_boot {
                reboot(&world);
            }
            let files = segments(&world);
            assert!(files.len() >= 4, "{files:?}");
            damage(&world, &files);

            // Without permission to lose anything: all of it, or a report.
            let stopped = read(&world, OnDamage::Stop);
            check_order(&name, &all, &stopped.ids);
            let missing = all.len() - EVENTS as usize - stopped.ids.len().min(all.len() - EVENTS as usize);
            match &stopped.error {
                None => assert_eq!(missing, 0, "{name}: lost in silence"),
                Some(WalError::Damaged(damage)) => {
                    assert_ne!(*lost_max, Some(0), "{name}: {damage}");
                    let text = damage.to_string();
                    assert!(text.contains(".seg") && text.contains("onDamage = skip"), "{name}: {text}");
                }
                Some(error) => panic!("{name}: {error}"),
            }

            // With it: everything but what was hit, and that is counted.
            append(&world);
            let skipped = read(&world, OnDamage::Skip);
            assert!(skipped.error.is_none(), "{name}: {:?}", skipped.error);
            assert_eq!(skipped.ids.last(), Some(&id(9, 1, 0)), "{name}");
            let ids = &skipped.ids[..skipped.ids.len() - 1];
            check_order(&name, &all, ids);
            let missing = (all.len() - EVENTS as usize).saturating_sub(ids.len()) as u64;
            let segment_max = 128 / 7 * EVENTS;
            let most = lost_max.map_or(segment_max, |transactions| transactions * EVENTS);
            assert!(missing <= most, "{name}: {missing} events are missing");
            assert_eq!(skipped.skipped, missing, "{name}: counted as skipped");
        }
    }
}

/// In order, nothing invented, nothing twice.
fn check_order(name: &str, all: &[u64], ids: &[u64]) {
    assert!(ids.windows(2).all(|w| w[0] < w[1]), "{name}: order");
    assert!(ids.iter().all(|id| all.contains(id)), "{name}: invented");
}
