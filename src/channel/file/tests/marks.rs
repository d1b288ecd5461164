//! Marks of sources: they survive with the events, and a deleted one stays deleted whichever shard knew it.

use super::*;

suite!(marks_survive, a_deleted_mark_stays_deleted, a_mark_deleted_on_another_shard_stays_deleted,);

async fn marks_survive(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    for i in 0..50 {
        let mut batch = lines(i, i + 1);
        batch.set_mark(source_mark("a", &i.to_string()));
        batch.set_mark(SourceMark { source: "r2".into(), ..source_mark("a", "x") });
        put(&channel, batch).await.unwrap();
    }
    let mut nothing = EventBatch::default();
    nothing.set_mark(source_mark("b", "7"));
    nothing.set_mark(source_mark("c", "8"));
    put(&channel, nothing).await.unwrap();
    let mut nothing = EventBatch::default();
    nothing.set_mark(source_mark("c", ""));
    put(&channel, nothing).await.unwrap();
    let sorted = |channel: &FileChannel| {
        let mut marks = channel.marks("r1");
        marks.sort_by(|a, b| a.key.cmp(&b.key));
        marks
    };
    let marks = [source_mark("a", "49"), source_mark("b", "7")];
    assert_eq!(sorted(&channel), marks);
    crash(&io, channel).await;
    for _ in 0..3 {
        let channel = open(&io, &directory, "").await;
        assert_eq!(sorted(&channel), marks);
        assert_eq!(channel.marks("r2").len(), 1);
        testing::drain(&*channel).await;
        put(&channel, lines(0, 1)).await.unwrap();
        testing::drain(&*channel).await;
        channel.close().await;
    }
}

async fn a_deleted_mark_stays_deleted(io: Io, directory: PathBuf) {
    let channel = open(&io, &directory, "").await;
    let mut batch = lines(0, 1);
    batch.set_mark(source_mark("a", "1"));
    batch.set_mark(source_mark("b", "1"));
    put(&channel, batch).await.unwrap();
    channel.close().await;
    // Found at the start, shared by all shards, and deleted now.
    let channel = open(&io, &directory, "").await;
    assert_eq!(channel.marks("r1").len(), 2);
    let mut nothing = EventBatch::default();
    nothing.set_mark(source_mark("a", ""));
    put(&channel, nothing).await.unwrap();
    assert_eq!(channel.marks("r1"), [source_mark("b", "1")]);
    crash(&io, channel).await;
    assert_eq!(open(&io, &directory, "").await.marks("r1"), [source_mark("b", "1")]);
}

/// The value is in the log of a shard that no longer runs, or of one that runs; the deletion in another's.
async fn a_mark_deleted_on_another_shard_stays_deleted(io: Io, directory: PathBuf) {
    for (count, name) in [(1, "left over"), (2, "running")] {
        let directory = directory.join(name);
        let open_all = async |count: usize| {
            let shared = config(&directory, "");
            let mut shards = Vec::new();
            for index in 0..count {
                shards.push(open_shard(&io, shared.clone(), index, count).await);
            }
            shards
        };
        let remembered =
            |c: &FileChannel| c.own_log().with_marks(|t| t.all().filter(|(_, v, _)| v.is_empty()).count());
        let shards = open_all(2).await;
        let mut batch = lines(0, 5);
        batch.set_mark(source_mark("a", "1"));
        put(&shards[1], batch).await.unwrap();
        for shard in shards {
            shard.close().await;
        }
        // Killed at once, so that only the frame with the deletion tells.
        let shards = open_all(count).await;
        assert_eq!(shards[0].marks("r1"), [source_mark("a", "1")], "{name}");
        let mut nothing = EventBatch::default();
        nothing.set_mark(source_mark("a", ""));
        put(&shards[0], nothing).await.unwrap();
        for shard in &shards {
            assert_eq!(shard.marks("r1"), [], "{name}");
        }
        for shard in shards {
            crash(&io, shard).await;
        }
        for _ in 0..2 {
            let shards = open_all(count).await;
            for shard in &shards {
                assert_eq!(shard.marks("r1"), [], "{name}");
            }
            for shard in shards {
                shard.close().await;
            }
        }
        // A later value of the same key counts.
        let shards = open_all(count).await;
        let mut nothing = EventBatch::default();
        nothing.set_mark(source_mark("a", "2"));
        put(&shards[0], nothing).await.unwrap();
        assert_eq!(shards[count - 1].marks("r1").len(), usize::from(count == 1), "{name}");
        let mut nothing = EventBatch::default();
        nothing.set_mark(source_mark("a", ""));
        put(&shards[0], nothing).await.unwrap();
        // With the last log that had the value goes the memory of its deletion.
        let mut taken = 0;
        for shard in &shards {
            taken += testing::drain_bodies(&**shard).await.len();
        }
        assert_eq!(taken, 5, "{name}");
        if count == 1 {
            testing::expect(&io, || !directory.join("data/shard-1").exists()).await;
        }
        for shard in shards {
            // Whoever writes again writes the marks as they stand.
            put(&shard, lines(0, 1)).await.unwrap();
            shard.close().await;
        }
        for last in [false, true] {
            let shards = open_all(count).await;
            for shard in &shards {
                assert_eq!(shard.marks("r1"), [], "{name}");
                assert!(!last || remembered(shard) == 0, "{name}");
            }
            for shard in shards {
                shard.close().await;
            }
        }
    }
}
