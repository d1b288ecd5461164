//! Power that goes, and processes that die, at every moment at which something becomes durable.

use super::*;
use crate::io::sim::{CrashPolicy, Names, Outcome};
use crate::wal::segment::SegmentHeader;
use crate::wal::writer::broken;

const PRODUCERS: u64 = 3;

/// One life: opens the log and checks what is in it, delivers some of it, and lets producers and a consumer
/// work side by side.
async fn live(io: Io, options: LogOptions, book: Rc<RefCell<Book>>, seed: u64, work: u64) {
    let dice = Rc::new(Dice::new(seed));
    let log = match Log::open(&io, options).await {
        Ok((log, _)) => log,
        Err(error) => return complain(&book, format!("cannot open: {error}")),
    };
    let found = match read_all(&log).await {
        Ok(found) => found,
        Err(error) => return complain(&book, format!("cannot read: {error}")),
    };
    let ids: Vec<u64> = found.iter().flat_map(|(_, ids)| ids.iter().copied()).collect();
    let verdict = book.borrow_mut().check(&ids, &marks(&log));
    if let Err(complaint) = verdict {
        return complain(&book, complaint);
    }
    let some: Vec<_> = found.into_iter().filter(|_| dice.below(3) > 0).collect();
    deliver(&io, &log, &book, &some).await;

    let left = Rc::new(Cell::new(PRODUCERS));
    for producer in 0..PRODUCERS {
        let (io, log, book) = (io.clone(), log.clone(), book.clone());
        let (left, dice) = (left.clone(), dice.clone());
        seam::spawn(async move {
            produce(&io, &log, &book, producer, work, &dice).await;
            left.set(left.get() - 1);
        });
    }
    consume(&io, &log, &book, &left, &dice).await;
    if dice.below(2) == 0 {
        log.close().await;
    }
}

fn complain(book: &RefCell<Book>, complaint: String) {
    book.borrow_mut().complaint.get_or_insert(complaint);
}

async fn produce(io: &Io, log: &Log, book: &Rc<RefCell<Book>>, producer: u64, work: u64, dice: &Dice) {
    for _ in 0..work {
        let (transaction, ids) = book.borrow_mut().plan(producer, 1 + dice.below(9));
        let filler = || match dice.below(8) {
            0 => 20_000 + dice.below(90_000) as usize,
            _ => dice.below(700) as usize,
        };
        let middle = dice.below(ids.len() as u64 + 1) as usize;
        let (first, second) = ids.split_at(middle);
        let parts = [first, second].into_iter().filter(|ids| !ids.is_empty());
        let records: Vec<Numbers> =
            parts.map(|ids| Numbers { ids: ids.to_vec(), filler: filler() }).collect();
        let commit = match log.append(&records, &[mark(producer, transaction)]).await {
            Ok(commit) => commit,
            Err(error) => return complain(book, format!("cannot append: {error}")),
        };
        let (shared, clock, durability) = (book.clone(), io.clone(), log.0.options.durability);
        let answer = async move {
            match commit.await {
                Ok(()) => shared.borrow_mut().acknowledge(ids, clock.unix_time(), durability),
                Err(error) => complain(&shared, format!("not committed: {error}")),
            }
        };
        // Some wait for the answer, some go on.
        if dice.below(3) == 0 {
            seam::spawn(answer);
        } else {
            answer.await;
        }
        if log.0.options.durability.is_mapped() {
            // Time for what happens at intervals.
            io.sleep(Duration::from_millis(dice.below(900))).await;
        }
    }
}

async fn consume(io: &Io, log: &Log, book: &RefCell<Book>, left: &Cell<u64>, dice: &Dice) {
    let mut taken = Vec::new();
    loop {
        let ready = log.ready();
        match log.next().await {
            Ok(Some(entry)) => {
                let ids = open_ids(log, &entry);
                taken.push((entry, ids));
                if taken.len() as u64 > dice.below(4) {
                    // Out of order now and then.
                    let index = dice.below(taken.len() as u64) as usize;
                    let one = taken.swap_remove(index);
                    deliver(io, log, book, &[one]).await;
                }
            }
            Ok(None) if left.get() == 0 => return,
            Ok(None) => tokio::select! {
                biased;
                () = ready => {}
                () = io.sleep(Duration::from_millis(50)) => {}
            },
            Err(error) => return complain(book, format!("cannot take: {error}")),
        }
    }
}

/// How the logs of a story are opened, from life to life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Commit,
    Encrypted,
    Interval,
    Os,
    /// A mapped class first, and `commit` from the second life on.
    Switched,
    /// The other way round.
    Relaxed,
}

impl Kind {
    fn options(self, seed: u64, life: u64) -> LogOptions {
        let interval = Durability::Interval(Duration::from_secs(1));
        let mapped = if seed.is_multiple_of(2) { interval } else { Durability::Os };
        let durability = match self {
            Self::Commit | Self::Encrypted => Durability::Commit,
            Self::Interval => interval,
            Self::Os => Durability::Os,
            Self::Switched if life == 0 => mapped,
            Self::Relaxed if life > 0 => mapped,
            Self::Switched | Self::Relaxed => Durability::Commit,
        };
        let options = if self == Self::Encrypted { encrypted() } else { options() };
        LogOptions { durability, ..options }
    }
    /// Stopped at moments in time: a mapped log rarely waits for the disk.
    fn is_timed(self) -> bool {
        matches!(self, Self::Interval | Self::Os | Self::Switched)
    }
}

/// Moments at which a mapped log is stopped, and how far they are apart.
const MOMENTS: u64 = 24;
const MOMENT: Duration = Duration::from_millis(150);

/// A story: lives of the log on one disk, the first of which may be stopped at a durability point. Returns
/// how many of those the first life has.
fn story(kind_of_log: Kind, seed: u64, stop_at: Option<u64>) -> Result<u64, String> {
    let dice = Dice::new(seed.wrapping_mul(31).wrapping_add(stop_at.unwrap_or(0)));
    let world = world(seed);
    world.disk.set_policy(CrashPolicy {
        atom_bytes: if seed.is_multiple_of(2) { 4096 } else { 512 },
        names: if seed.is_multiple_of(3) { Names::AnySubset } else { Names::Ordered },
        ..CrashPolicy::default()
    });
    let book = Book { stop: Some(world.stop_button()), ..Book::default() };
    let book = Rc::new(RefCell::new(book));
    let kind = || if dice.below(4) == 0 { StopKind::Kill } else { StopKind::PowerLoss };
    let before = world.disk.stats().durability_points;
    let mut points = 0;
    for life in 0..4 {
        let stop = match (life, stop_at) {
            (0, Some(point)) => Some(point),
            // Also while recovery is at work, or soon after.
            (1 | 2, Some(_)) => Some(dice.below(12)),
            _ => None,
        };
        let moment = stop.filter(|_| kind_of_log.is_timed()).map(|point| MOMENT * point as u32);
        match stop {
            Some(point) if moment.is_none() => world.disk.stop_at(point, kind()),
            _ => {}
        }
        let (button, how) = (world.stop_button(), if moment.is_some() { kind() } else { StopKind::Kill });
        let options = kind_of_log.options(seed, life);
        let outcome = world.run(|io| async {
            if let Some(moment) = moment {
                let clock = io.clone();
                let shift = Duration::from_micros(dice.below(MOMENT.as_micros() as u64));
                seam::spawn(async move {
                    clock.sleep(moment + shift).await;
                    button.press(how);
                });
            }
            live(io, options, book.clone(), seed + life, 5).await;
        });
        if outcome == Outcome::PowerLost {
            reboot(&world);
            book.borrow_mut().power_lost = true;
        }
        if life == 0 {
            points = world.disk.stats().durability_points - before;
            if kind_of_log.is_timed() {
                points = MOMENTS;
            }
        }
        if std::env::var_os("MILLRACE_SIM_TRACE").is_some() {
            let page = world.disk.read(Path::new(DIRECTORY).join(STATE_FILE)).unwrap_or_default();
            for file in world.disk.files() {
                let header = SegmentHeader::decode(&world.disk.read(&file).unwrap_or_default());
                println!("  {} {header:?}", file.display());
            }
            println!(
                "seed {seed}, point {stop_at:?}, life {life}: stop at {stop:?}, {outcome:?}, {:?}",
                State::from_page(&page)
            );
        }
        if let Some(complaint) = book.borrow_mut().complaint.take() {
            return Err(format!("life {life}: {complaint}"));
        }
    }
    Ok(points)
}

/// Loses power at every durability point of a story in turn.
fn every_point(kind: Kind, seed: u64) -> Result<(), String> {
    let repeat = |complaint| {
        format!(
            "{kind:?}: {complaint}\nrepeat with: MILLRACE_SIM_SEED={seed} cargo test --lib wal::tests::power"
        )
    };
    let points = story(kind, seed, None).map_err(|c| repeat(format!("seed {seed}, no stop: {c}")))?;
    assert!(points > 10, "the story has only {points} durability points");
    for point in 0..points {
        story(kind, seed, Some(point))
            .map_err(|c| repeat(format!("seed {seed}, stopped at point {point} of {points}: {c}")))?;
    }
    Ok(())
}

fn number_of(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} = {text:?} is not a number")))
}

/// Runs a kind of log over so many seeds, or as many times more as `MILLRACE_SIM_SEEDS` is more than 100.
fn seeds(kind: Kind, usual: u64) {
    let seeds = match number_of("MILLRACE_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_of("MILLRACE_SIM_SEEDS").map_or(usual, |seeds| (seeds * usual).div_ceil(100)),
    };
    for seed in seeds {
        if let Err(complaint) = every_point(kind, seed) {
            panic!("{complaint}");
        }
    }
}

/// `MILLRACE_SIM_SEEDS=5000` for a night, `MILLRACE_SIM_SEED=17` for one of them again,
/// `MILLRACE_SIM_TRACE=1` to see how each life ended.
#[test]
fn acknowledged_events_survive_a_stop_at_every_point() {
    seeds(Kind::Commit, 100);
}

#[test]
fn encrypted_events_do_too() {
    seeds(Kind::Encrypted, 15);
}

/// A killed process loses nothing; power takes what is younger than the interval, from the end of the log.
#[test]
fn a_log_synced_at_intervals_keeps_its_promise() {
    seeds(Kind::Interval, 15);
}

/// A killed process loses nothing; power takes what it takes, from the end of the log, and the rest is in order.
#[test]
fn a_log_synced_by_the_system_keeps_its_promise() {
    seeds(Kind::Os, 15);
}

/// What a log of another class left is on the medium before anything new is promised.
#[test]
fn a_log_that_changes_its_class_keeps_its_promise() {
    seeds(Kind::Switched, 15);
    seeds(Kind::Relaxed, 30);
}

/// The tests above can fail: with a log that moves its watermark when a write is handed over instead of when
/// it is complete, the first seeds already report `… was acknowledged and is lost`.
#[test]
fn a_log_that_acknowledges_early_is_caught() {
    broken::acknowledge_early(true);
    let complaints: Vec<String> = (0..5).filter_map(|seed| every_point(Kind::Commit, seed).err()).collect();
    broken::acknowledge_early(false);
    let complaint = complaints.iter().find(|c| c.contains("was acknowledged and is lost"));
    let complaint = complaint.unwrap_or_else(|| panic!("a broken log must be noticed: {complaints:?}"));
    assert!(complaint.contains("MILLRACE_SIM_SEED="), "{complaint}");
}
