//! That the simulator is as nasty as it claims, and no nastier.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Mutex;

use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::io::buffer::{BLOCK, PooledBuf};
use crate::io::spawn;

const NOTHING: CrashPolicy = CrashPolicy { keep: Keep::Nothing, names: Names::Ordered, atom_bytes: BLOCK };

fn path(name: &str) -> &Path {
    Path::new(name)
}

fn blocks(count: usize, byte: u8) -> Bytes {
    let mut buf = PooledBuf::unpooled(count * BLOCK);
    buf.as_mut().fill(byte);
    buf.freeze()
}

/// A world with a durable, empty file `/f`.
fn with_file(seed: u64) -> World {
    let world = World::new(seed);
    world.run(|io| async move {
        io.open(path("/f"), OpenOptions::CREATE_NEW).await.unwrap();
        io.sync_dir(path("/")).await.unwrap();
    });
    world
}

/// Runs to the end and then loses power.
fn then_power_loss<F: Future<Output = ()>>(world: &World, main: impl FnOnce(Io) -> F) {
    assert_eq!(world.run(main), Outcome::Finished(()));
    world.disk.lose_power();
}

#[test]
fn only_what_was_made_durable_survives() {
    let world = with_file(1);
    world.disk.set_policy(NOTHING);
    then_power_loss(&world, |io| async move {
        let file = io.open(path("/f"), OpenOptions::WRITE).await.unwrap();
        file.write_at("synced".into(), 0).await.unwrap();
        file.sync_data().await.unwrap();
        file.write_at("lost, and longer".into(), 0).await.unwrap();
        let direct = io.open(path("/direct"), OpenOptions::DIRECT).await.unwrap();
        io.sync_dir(path("/")).await.unwrap();
        direct.write_at(blocks(2, 7), 0).await.unwrap();
        let nameless = io.open(path("/nameless"), OpenOptions::CREATE_NEW).await.unwrap();
        nameless.write_at("durable but nowhere".into(), 0).await.unwrap();
        nameless.sync_data().await.unwrap();
        io.rename(path("/f"), path("/g")).await.unwrap();
    });
    assert_eq!(world.disk.files(), [path("/direct"), path("/f")]);
    assert_eq!(world.disk.read("/f").unwrap(), b"synced");
    assert_eq!(world.disk.read("/direct").unwrap(), vec![7; 2 * BLOCK]);
}

#[test]
fn a_sync_covers_what_was_complete_when_it_was_called() {
    let world = with_file(1);
    world.disk.set_policy(NOTHING);
    world.disk.set_latency(Latency { usual_ms: 5..=5, slow_ms: 5..=5, slow_percent: 0 });
    then_power_loss(&world, |io| async move {
        let file = io.open(path("/f"), OpenOptions::WRITE).await.unwrap();
        file.write_at("a".into(), 0).await.unwrap();
        let (other, syncing) = (file.clone(), file.clone());
        // The write is older than the sync and done before it, but was not complete when it was called.
        let late = spawn(async move { other.write_at("b".into(), BLOCK as u64).await });
        let sync = spawn(async move { syncing.sync_data().await });
        late.await.unwrap().unwrap();
        sync.await.unwrap().unwrap();
    });
    assert_eq!(world.disk.read("/f").unwrap(), b"a");
}

#[test]
fn a_write_in_flight_is_torn_at_atoms() {
    for (atom_bytes, pieces) in [(BLOCK, 16), (512, 128)] {
        let mut kept = BTreeSet::new();
        for seed in 0..50 {
            let world = with_file(seed);
            world.disk.set_policy(CrashPolicy { atom_bytes, ..CrashPolicy::default() });
            let life = world.run(|io| {
                let disk = world.disk.clone();
                async move {
                    let file = io.open(path("/f"), OpenOptions::DIRECT).await.unwrap();
                    file.write_at(blocks(16, 1), 0).await.unwrap();
                    disk.stop_at(0, StopKind::PowerLoss);
                    file.write_at(blocks(16, 2), 0).await.unwrap();
                }
            });
            assert_eq!(life, Outcome::PowerLost);
            let content = world.disk.read("/f").unwrap();
            assert_eq!(content.len(), 16 * BLOCK);
            let atoms: Vec<u8> = content.chunks(atom_bytes).map(|a| a[0]).collect();
            assert!(content.chunks(atom_bytes).all(|a| a.iter().all(|b| *b == a[0] && [1, 2].contains(b))));
            assert_eq!(atoms.len(), pieces);
            kept.insert(atoms);
        }
        assert!(kept.len() > 40, "the seed decides");
        assert!(kept.iter().any(|atoms| atoms.windows(2).any(|w| w == [1, 2])), "not a prefix");
    }
}

#[test]
fn stores_into_a_mapping_survive_a_kill_and_pages_of_them_a_loss_of_power() {
    let store = |world: &World, end: StopKind| {
        let button = world.stop_button();
        let life = world.run(|io| async move {
            let file = io.open(path("/f"), OpenOptions::WRITE).await.unwrap();
            file.set_len(8 * BLOCK as u64).await.unwrap();
            file.sync_data().await.unwrap();
            let mut map = file.map_mut(8 * BLOCK).unwrap();
            map.write(0, &[1; 8 * BLOCK]);
            map.flush(0..2 * BLOCK).await.unwrap();
            map.write(BLOCK, &[2; BLOCK]);
            button.press(end);
            map.write(0, &[9]);
            io.sleep(Duration::from_secs(1)).await;
        });
        assert_eq!(life.finished(), None);
        world.disk.read("/f").unwrap().chunks(BLOCK).map(|page| page[0]).collect::<Vec<_>>()
    };
    assert_eq!(store(&with_file(1), StopKind::Kill), [1, 2, 1, 1, 1, 1, 1, 1]);
    let left: BTreeSet<_> = (0..50).map(|seed| store(&with_file(seed), StopKind::PowerLoss)).collect();
    assert!(left.iter().all(|pages| pages[0] == 1 && [1, 2].contains(&pages[1])));
    assert!(
        left.iter().any(|pages| pages[2..].contains(&0)) && left.iter().any(|pages| pages[2..].contains(&1))
    );
}

#[test]
fn a_kill_leaves_completed_writes_and_parts_of_others() {
    let mut parts = BTreeSet::new();
    for seed in 0..30 {
        let world = with_file(seed);
        let button = world.stop_button();
        let life = world.run(|io| async move {
            let file = io.open(path("/f"), OpenOptions::WRITE).await.unwrap();
            file.write_at(blocks(4, 1), 0).await.unwrap();
            let writing = file.clone();
            spawn(async move { writing.write_at(blocks(4, 2), 0).await });
            tokio::task::yield_now().await;
            button.press(StopKind::Kill);
            std::future::pending::<()>().await;
        });
        assert_eq!(life, Outcome::Killed);
        parts.insert(world.disk.read("/f").unwrap());
    }
    assert!(parts.len() > 5 && parts.iter().all(|p| p.len() == 4 * BLOCK && p.iter().all(|b| *b > 0)));
}

#[test]
fn a_failed_sync_is_not_made_good_by_the_next() {
    let (mut lost, mut kept) = (0, 0);
    for seed in 0..40 {
        let world = with_file(seed);
        world.disk.set_policy(NOTHING);
        world.disk.add_fault(Fault::next(Operation::Sync));
        then_power_loss(&world, |io| async move {
            let file = io.open(path("/f"), OpenOptions::WRITE).await.unwrap();
            file.write_at("x".into(), 0).await.unwrap();
            assert_eq!(file.sync_data().await.unwrap_err().raw_os_error(), Some(libc::EIO));
            file.sync_data().await.unwrap();
        });
        match world.disk.read("/f").unwrap().as_slice() {
            b"x" => kept += 1,
            _ => lost += 1,
        }
    }
    assert!(lost > 0 && kept > 0, "{lost} lost, {kept} kept");
}

#[test]
fn faults_hit_what_they_are_meant_for() {
    let world = with_file(3);
    let fault = Fault {
        operation: Operation::Write,
        path_contains: "/f".into(),
        after: 1,
        count: 2,
        errno: libc::EROFS,
    };
    world.disk.add_fault(fault);
    let disk = world.disk.clone();
    world.run(|io| async move {
        let (f, other) = (
            io.open(path("/f"), OpenOptions::WRITE).await.unwrap(),
            io.open(path("/other"), OpenOptions::WRITE).await.unwrap(),
        );
        other.write_at("a".into(), 0).await.unwrap();
        let mut results = Vec::new();
        for _ in 0..4 {
            results.push(f.write_at("a".into(), 0).await.map_err(|e| e.kind()));
            other.write_at("a".into(), 0).await.unwrap();
        }
        let refused = Err(ErrorKind::ReadOnlyFilesystem);
        assert_eq!(results, [Ok(()), refused, refused, Ok(())]);
        for operation in [Operation::Open, Operation::Read, Operation::Rename, Operation::Remove] {
            disk.add_fault(Fault::next(operation));
        }
        for operation in [Operation::Allocate, Operation::SyncDir] {
            disk.add_fault(Fault { count: u64::MAX, ..Fault::next(operation) });
        }
        assert!(io.open(path("/f"), OpenOptions::READ).await.is_err());
        assert!(f.read_at(Vec::with_capacity(1), 0).await.0.is_err());
        assert!(io.rename(path("/f"), path("/g")).await.is_err());
        assert!(io.remove_file(path("/f")).await.is_err());
        assert!(f.set_len(1).await.is_err() && f.allocate(1).await.is_err());
        assert!(io.sync_dir(path("/")).await.is_err() && io.sync_dir(path("/")).await.is_err());
        disk.clear_faults();
        io.sync_dir(path("/")).await.unwrap();
        io.remove_file(path("/f")).await.unwrap();
    });
}

#[test]
fn a_full_disk_takes_no_more_until_something_goes() {
    let world = World::new(4);
    world.disk.set_capacity(10 * BLOCK as u64);
    world.run(|io| async move {
        let full = |r: io::Result<()>| assert_eq!(r.unwrap_err().kind(), ErrorKind::StorageFull);
        let reserved = io.open(path("/reserved"), OpenOptions::WRITE).await.unwrap();
        reserved.allocate(4 * BLOCK as u64).await.unwrap();
        let file = io.open(path("/f"), OpenOptions::WRITE).await.unwrap();
        full(file.write_at(blocks(7, 1), 0).await);
        assert_eq!(io.space(path("/")).await.unwrap().available_bytes, 0, "what fitted is there");
        full(file.allocate(7 * BLOCK as u64).await);
        // Room that is had already can be written to.
        file.write_at(blocks(6, 2), 0).await.unwrap();
        reserved.write_at(blocks(4, 3), 0).await.unwrap();
        io.remove_file(path("/f")).await.unwrap();
        full(io.open(path("/g"), OpenOptions::WRITE).await.unwrap().write_at("x".into(), 0).await);
        drop(file);
        io.sleep(Duration::from_secs(1)).await;
        io.sync_dir(path("/")).await.unwrap();
        io.remove_file(path("/g")).await.unwrap();
        let space = io.space(path("/")).await.unwrap();
        assert_eq!(space.available_bytes, 6 * BLOCK as u64);
    });
}

#[test]
fn damage_is_durable() {
    let world = with_file(5);
    then_power_loss(&world, |io| async move {
        let file = io.open(path("/f"), OpenOptions::WRITE).await.unwrap();
        file.write_at("abc".into(), 0).await.unwrap();
        file.sync_data().await.unwrap();
    });
    assert!(world.disk.flip_bit("/f", 1, 0));
    assert!(!world.disk.flip_bit("/f", 3, 0) && !world.disk.flip_bit("/g", 0, 0));
    assert_eq!(world.disk.read("/f").unwrap(), b"acc");
    assert!(world.disk.damage("/f", |bytes| bytes.truncate(1)));
    world.disk.lose_power();
    assert_eq!(
        (world.disk.read("/f"), world.disk.read_durable("/f")),
        (Some(b"a".into()), Some(b"a".into()))
    );
}

/// The pattern of a crash test: a small log, stopped at every durability point, in both ways.
#[test]
fn every_durability_point_can_be_the_last() {
    const RECORDS: u8 = 6;
    /// Appends records, each acknowledged once it is durable.
    async fn append(io: Io, acknowledged: Rc<Cell<u8>>) {
        let file = io.open(path("/log"), OpenOptions::DIRECT).await.unwrap();
        io.sync_dir(path("/")).await.unwrap();
        for record in 1..=RECORDS {
            file.write_at(blocks(1, record), u64::from(record - 1) * BLOCK as u64).await.unwrap();
            acknowledged.set(record);
        }
    }
    let count = Rc::new(Cell::new(0));
    let well = World::new(6);
    assert_eq!(well.run(|io| append(io, count.clone())), Outcome::Finished(()));
    let points = well.disk.stats().durability_points;
    assert_eq!((points, count.get()), (u64::from(RECORDS) + 1, RECORDS));
    let mut unacknowledged = 0;
    for (point, kind, seed) in (0..points).flat_map(|p| {
        let kinds = [StopKind::Kill, StopKind::PowerLoss];
        kinds.into_iter().flat_map(move |k| (0..8).map(move |seed| (p, k, seed)))
    }) {
        let world = World::new(seed);
        world.disk.stop_at(point, kind);
        let acknowledged = Rc::new(Cell::new(0));
        let life = world.run(|io| append(io, acknowledged.clone()));
        assert_eq!(life.finished(), None, "stopped at {point}");
        assert_eq!(u64::from(acknowledged.get()), point.saturating_sub(1));
        let log = world.disk.read("/log").unwrap_or_default();
        let found = log.chunks(BLOCK).zip(1..).take_while(|(b, r)| b.iter().all(|byte| byte == r)).count();
        assert!(found >= usize::from(acknowledged.get()), "{found} of {} at {point}", acknowledged.get());
        unacknowledged += usize::from(found > usize::from(acknowledged.get()));
        assert_eq!(world.disk.stats().durability_points, point);
    }
    assert!(unacknowledged > 0, "what is in flight may survive too");
}

#[test]
fn names_survive_in_order_or_in_any_subset() {
    let survivors = |seed, names| {
        let world = World::new(seed);
        world.disk.set_policy(CrashPolicy { names, ..CrashPolicy::default() });
        then_power_loss(&world, |io| async move {
            for name in ["/a", "/b", "/c", "/d"] {
                io.open(path(name), OpenOptions::CREATE_NEW).await.unwrap();
            }
        });
        world.disk.files().iter().map(|p| p.display().to_string()).collect::<String>()
    };
    let ordered: BTreeSet<String> = (0..60).map(|seed| survivors(seed, Names::Ordered)).collect();
    assert_eq!(ordered.into_iter().collect::<Vec<_>>(), ["", "/a", "/a/b", "/a/b/c", "/a/b/c/d"]);
    let any: BTreeSet<String> = (0..200).map(|seed| survivors(seed, Names::AnySubset)).collect();
    assert_eq!(any.len(), 16);
}

#[test]
fn a_directory_is_synced_by_itself() {
    let world = World::new(7);
    world.disk.set_policy(NOTHING);
    then_power_loss(&world, |io| async move {
        io.create_dir_all(path("/x/y")).await.unwrap();
        io.open(path("/x/y/f"), OpenOptions::CREATE_NEW).await.unwrap();
        io.open(path("/x/g"), OpenOptions::CREATE_NEW).await.unwrap();
        for directory in ["/x/y", "/"] {
            io.sync_dir(path(directory)).await.unwrap();
        }
    });
    // /x is durable, /x/y and /x/g are not.
    let left = world.run(|io| async move { io.read_dir(path("/x")).await.unwrap() });
    assert_eq!(left, Outcome::Finished(Vec::new()));
}

#[test]
fn the_next_life_starts_afresh() {
    let world = with_file(8);
    let held: Rc<RefCell<Vec<Box<dyn Lock>>>> = Rc::default();
    let keep = held.clone();
    let life = world.stop_after(Duration::from_secs(3600), StopKind::Kill, |io| async move {
        keep.borrow_mut().push(io.lock(path("/lock")).unwrap());
        keep.borrow_mut().push(io.claim_port("127.0.0.1:80".parse().unwrap(), Transport::Tcp).unwrap());
        std::future::pending::<()>().await;
    });
    assert_eq!(life, Outcome::Killed);
    let life = world.run(|io| async move {
        assert!(io.now() > Duration::from_secs(3600), "time goes on");
        let lock = io.lock(path("/lock")).unwrap();
        // What the dead process still held is nothing to this one.
        held.borrow_mut().clear();
        assert!(io.lock(path("/lock")).is_err());
        drop(lock);
        io.lock(path("/lock")).unwrap();
        io.listen("127.0.0.1:80".parse().unwrap(), ListenOptions { shared: false, backlog: 1 }).unwrap();
    });
    assert_eq!(life, Outcome::Finished(()));
}

#[test]
#[should_panic(expected = "stuck")]
fn a_stuck_life_is_told() {
    World::new(9).run(|_| std::future::pending::<()>());
}

#[test]
fn one_seed_is_one_story() {
    fn story(seed: u64) -> (Vec<u64>, Duration, Stats, Vec<u8>) {
        let world = with_file(seed);
        let order = Rc::new(RefCell::new(Vec::new()));
        let life = world.run(|io| {
            let order = order.clone();
            async move {
                let file = io.open(path("/f"), OpenOptions::DIRECT).await.unwrap();
                let writes: Vec<_> = (0..20)
                    .map(|index| {
                        let (file, order) = (file.clone(), order.clone());
                        spawn(async move {
                            file.write_at(blocks(1, index as u8), index * BLOCK as u64).await.unwrap();
                            order.borrow_mut().push(index);
                        })
                    })
                    .collect();
                for write in writes {
                    write.await.unwrap();
                }
                file.write_at(blocks(1, 0xff), io.random() % 20 * BLOCK as u64).await.unwrap();
                io.now()
            }
        });
        world.disk.lose_power();
        let order = order.take();
        (order, life.finished().unwrap(), world.disk.stats(), world.disk.read("/f").unwrap())
    }
    assert_eq!(story(10), story(10));
    assert_ne!(story(10), story(11));
    assert!(!story(10).0.is_sorted(), "completions come in any order");
}

#[test]
fn connections_are_cut() {
    let world = World::new(12);
    let network = world.network.clone();
    let life = world.run(|io| async move {
        let address: SocketAddr = "10.0.0.1:4141".parse().unwrap();
        let options = ListenOptions { shared: false, backlog: 2 };
        let listener = io.listen("0.0.0.0:4141".parse().unwrap(), options).unwrap();
        let mut client = io.connect(address).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"on its way").await.unwrap();
        let waiting = spawn(async move { server.read_to_end(&mut Vec::new()).await });
        tokio::task::yield_now().await;
        network.cut_all();
        assert_eq!(waiting.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
        assert_eq!(client.write(b"x").await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        network.partition(true);
        assert!(io.connect(address).await.is_err());
        network.partition(false);
        let _waiting = (io.connect(address).await.unwrap(), io.connect(address).await.unwrap());
        let full = io.connect(address).await.map(drop).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::TimedOut, "the backlog is full");
        assert!(io.claim_port(address, Transport::Tcp).is_err());
        drop(listener);
        let claim = io.claim_port(address, Transport::Tcp).unwrap();
        assert!(io.claim_port("0.0.0.0:4141".parse().unwrap(), Transport::Tcp).is_err());
        drop(claim);
        io.claim_port(address, Transport::Tcp).unwrap();
    });
    assert_eq!(life, Outcome::Finished(()));
}

#[test]
fn datagrams_get_lost() {
    let world = World::new(13);
    world.network.set_loss(50);
    world.network.add_host("collector", "10.0.0.9".parse().unwrap());
    let arrived = world.run(|io| async move {
        let to = io.resolve("collector", 514).await.unwrap()[0];
        let (receiver, sender) =
            (io.bind_udp(to, true).unwrap(), io.bind_udp("10.0.0.1:0".parse().unwrap(), false).unwrap());
        for _ in 0..100 {
            sender.send_to("x".into(), to).await.unwrap();
        }
        let mut count = 0;
        while let Ok((from, _)) =
            tokio::time::timeout(Duration::from_secs(1), receiver.recv_from(Vec::with_capacity(9))).await
        {
            assert_eq!(from.unwrap(), sender.local_addr().unwrap());
            count += 1;
        }
        count
    });
    assert!((20..80).contains(&arrived.finished().unwrap()));
}

/// The simulator in one process is one world per test; nothing is global.
#[test]
fn worlds_are_independent() {
    let results = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let world = World::new(14);
                let now = world.run(|io| async move {
                    io.open(path("/f"), OpenOptions::CREATE_NEW).await.unwrap();
                    (io.now(), io.random())
                });
                results.lock().unwrap().push(now.finished());
            });
        }
    });
    let results = results.into_inner().unwrap();
    assert_eq!(results[0], results[1]);
}
