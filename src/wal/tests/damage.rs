//! Damage by name: whatever happens to the files, nothing is lost in silence, and `skip` loses no more than
//! what was hit.

use super::*;
use crate::io::sim::Outcome;
use crate::wal::inspect::{FooterSums, Problem, Step, View, Walk};
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
fn sample(options: &LogOptions, reopened: bool) -> World {
    let world = world(7);
    world.run(|io| async move {
        let mut transaction = 0;
        for life in 0..=u64::from(reopened) {
            let (log, _) = Log::open(&io, options.clone()).await.unwrap();
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

fn read(world: &World, options: &LogOptions, on_damage: OnDamage) -> Read {
    let life = world.run(|io| async move {
        let (log, _) = match Log::open(&io, LogOptions { on_damage, ..options.clone() }).await {
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
fn append(world: &World, options: &LogOptions) {
    world.run(|io| async move {
        let (log, _) =
            Log::open(&io, LogOptions { on_damage: OnDamage::Skip, ..options.clone() }).await.unwrap();
        let record = Numbers { ids: vec![id(9, 1, 0)], filler: 0 };
        log.append(&[record], &[]).await.unwrap().await.unwrap();
        log.close().await;
    });
}

/// What `channel fsck` finds, which changes nothing.
struct Verdict {
    problems: Vec<Problem>,
    /// What waits and cannot be read, in order; without places at which no event is lost.
    holes: Vec<Damage>,
}

impl Verdict {
    /// Where an agent must stop: at once, or when its takes get there.
    fn stops_at(&self) -> Option<&Damage> {
        let lost = self.problems.iter().find_map(|problem| match problem {
            Problem::Lost(damage) => Some(damage),
            _ => None,
        });
        lost.or(self.holes.first())
    }
}

fn inspect(world: &World, options: &LogOptions) -> Verdict {
    let before: Vec<_> = world.disk.files().iter().map(|f| world.disk.read(f)).collect();
    let life = world.run(|io| async move {
        let mut view = View::open(&io, Path::new(DIRECTORY)).await.unwrap();
        view.set_keys(&options.keys);
        let (mut sums, mut walk) = (FooterSums::new(&view), Walk::all(&view, &io));
        let mut holes = Vec::new();
        while let Some(step) = walk.next().await.unwrap() {
            sums.step(&step);
            if let Step::Damage(damage) = step
                && (damage.size == 0 || walk.position() > view.low_position)
                && damage.events != Some(0)
            {
                holes.push(damage);
            }
        }
        let mut problems = view.problems();
        problems.extend(sums.problems());
        Verdict { problems, holes }
    });
    let after: Vec<_> = world.disk.files().iter().map(|f| world.disk.read(f)).collect();
    assert!(before == after, "looking changed a file");
    let Outcome::Finished(verdict) = life else { unreachable!("nobody stops this life") };
    verdict
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
        for case in 0..5 {
            let (reopened, same_boot) = (case & 1 != 0, case & 2 != 0);
            let options = if case == 4 { encrypted() } else { options() };
            let name = format!("{name}, reopened {reopened}, same boot {same_boot}, encrypted {}", case == 4);
            let world = sample(&options, reopened);
            if !same_boot {
                reboot(&world);
            }
            let files = segments(&world);
            assert!(files.len() >= 4, "{files:?}");
            damage(&world, &files);

            // Without permission to lose anything: all of it, or a report, and the very one that fsck gives.
            let verdict = inspect(&world, &options);
            let stopped = read(&world, &options, OnDamage::Stop);
            check_order(&name, &all, &stopped.ids);
            let missing = all.len() - EVENTS as usize - stopped.ids.len().min(all.len() - EVENTS as usize);
            match &stopped.error {
                None => {
                    assert_eq!(missing, 0, "{name}: lost in silence");
                    assert_eq!(verdict.stops_at(), None, "{name}: fsck reports what an agent reads");
                }
                Some(WalError::Damaged(damage)) => {
                    assert_ne!(*lost_max, Some(0), "{name}: {damage}");
                    let text = damage.to_string();
                    assert!(text.contains(".seg") && text.contains("onDamage = skip"), "{name}: {text}");
                    assert_eq!(verdict.stops_at(), Some(damage), "{name}: fsck and agent disagree");
                }
                Some(error) => panic!("{name}: {error}"),
            }
            if name.starts_with("nothing") {
                assert_eq!(verdict.problems, []);
            }

            // With it: everything but what was hit, and that is counted.
            append(&world, &options);
            let skipped = read(&world, &options, OnDamage::Skip);
            assert!(skipped.error.is_none(), "{name}: {:?}", skipped.error);
            assert_eq!(skipped.ids.last(), Some(&id(9, 1, 0)), "{name}");
            let ids = &skipped.ids[..skipped.ids.len() - 1];
            check_order(&name, &all, ids);
            let missing = (all.len() - EVENTS as usize).saturating_sub(ids.len()) as u64;
            let segment_max = 128 / 7 * EVENTS;
            let most = lost_max.map_or(segment_max, |transactions| transactions * EVENTS);
            assert!(missing <= most, "{name}: {missing} events are missing");
            assert_eq!(skipped.skipped, missing, "{name}: counted as skipped");
            if verdict.holes.iter().all(|d| d.events.is_some()) {
                let told: u64 = verdict.holes.iter().filter_map(|d| d.events).sum();
                assert_eq!(told, missing, "{name}: events lost by fsck's count");
            }
        }
    }
}

/// Footers are held against the frames, number by number.
#[test]
fn a_wrong_footer_is_found() {
    let world = sample(&options(), true);
    let file = segments(&world).remove(0);
    let sound = inspect(&world, &options());
    assert_eq!(sound.problems, []);
    for (field, what) in [
        (32, "frames end"),
        (40, "events end"),
        (48, "bytes of records"),
        (56, "snapshot"),
        (64, "first frame"),
        (72, "last frame"),
    ] {
        let change = |by: u8| {
            assert!(world.disk.damage(&file, |bytes| {
                let at = bytes.len() - BLOCK_SIZE as usize;
                let footer = &mut bytes[at..at + 256];
                footer[field] = footer[field].wrapping_add(by);
                footer[8..12].fill(0);
                let sum = crc32fast::hash(footer);
                footer[8..12].copy_from_slice(&sum.to_le_bytes());
            }));
        };
        change(8);
        let problems = inspect(&world, &options()).problems;
        let found = problems.iter().find(|p| matches!(p, Problem::FooterSum(path, ..) if *path == file));
        let found = found.unwrap_or_else(|| panic!("{what}: {problems:?}"));
        assert!(found.to_string().contains(what), "{what}: {found}");
        change(0_u8.wrapping_sub(8));
    }
}

/// In order, nothing invented, nothing twice.
fn check_order(name: &str, all: &[u64], ids: &[u64]) {
    assert!(ids.windows(2).all(|w| w[0] < w[1]), "{name}: order");
    assert!(ids.iter().all(|id| all.contains(id)), "{name}: invented");
}
