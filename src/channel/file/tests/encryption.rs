//! Encryption: switched on over a backlog, rotated, and never without its key.

use super::*;

suite!(encrypted_logs_need_their_key,);

async fn encrypted_logs_need_their_key(io: Io, directory: PathBuf) {
    for (name, digit) in [("old.key", "1"), ("new.key", "2")] {
        std::fs::write(directory.join(name), digit.repeat(64)).unwrap();
    }
    let with = |names: &[&str]| {
        let files: Vec<String> = names.iter().map(|n| directory.join(n).display().to_string()).collect();
        format!("encryption.keyFile = {}", files.join(","))
    };
    // Plain events first: encryption can be switched on over a backlog.
    let channel = open(&io, &directory, "").await;
    put(&channel, lines(0, 5)).await.unwrap();
    channel.close().await;
    drop(channel);
    for (keys, from) in [(&["old.key"][..], 5), (&["new.key", "old.key"], 10)] {
        let channel = open(&io, &directory, &with(keys)).await;
        let mut transaction = channel.begin_put().unwrap();
        let mut batch = lines(from, from + 5);
        let key = format!("secret {from}").into_bytes().into();
        batch.set_mark(SourceMark { source: "r1".into(), key, value: "1".into() });
        transaction.put(batch).await.unwrap();
        transaction.commit().await.unwrap();
        channel.close().await;
        drop(channel);
    }
    for file in segments(&directory, 0).iter().skip(1) {
        let bytes = std::fs::read(file).unwrap();
        for text in [&b"line "[..], b"secret"] {
            assert!(
                !bytes.windows(text.len()).any(|w| w == text),
                "{} in {}",
                text.escape_ascii(),
                file.display()
            );
        }
    }
    for keys in ["", "new.key", "old.key"] {
        let lines = if keys.is_empty() { String::new() } else { with(&[keys]) };
        let refused = FileChannel::open(config(&directory, &lines), testing::channel_context(&io)).await;
        let error = refused.err().unwrap();
        assert!(error.message.contains("is encrypted with a key that is not among"), "{keys}: {error:?}");
    }
    // After a crash too, and in whichever order.
    let channel = open(&io, &directory, &with(&["old.key", "new.key"])).await;
    let (transaction, batch) = take(&channel, 100).await;
    assert_eq!(bodies(&batch), expected(0, batch.len()));
    drop(transaction);
    crash(&io, channel).await;
    let channel = open(&io, &directory, &with(&["new.key", "old.key"])).await;
    assert_eq!(channel.marks("r1").len(), 2);
    assert_eq!(testing::drain_bodies(&*channel).await, expected(0, 15));
    channel.close().await;
}
