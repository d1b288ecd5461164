//! Scribe source: log entries from Scribe clients and servers.
//!
//! Flume: `org.apache.flume.source.scribe.ScribeSource`. Each shard listens on the same port; it listens on
//! all addresses, as Flume's. Each call is one batch; `TRY_LATER` if a channel refuses it.

use std::sync::Arc;

use super::rpc::{Layers, RpcSource};
use super::{Claim, OpenError, Placement, Source, SourceConfig, SourceContext, SourceEntry, net};
use crate::codec::thrift::scribe::ScribeServer;
use crate::config::{ParseContext, Port, Property, PropertySpec};
use crate::io::LocalBoxFuture;

const PORT: Property<Port> = Property::optional("port", "1499", "TCP port to listen on.");
const WORKER_THREADS: Property<i64> = Property::optional(
    "workerThreads",
    "5",
    "Accepted and not needed: every shard serves its connections on its own core.",
);
const MAX_READ_BUFFER_BYTES: Property<i64> = Property::optional(
    "maxReadBufferBytes",
    "16384000",
    "Largest call in bytes; 0 or less counts as 16384000.",
);
/// Flume's default of `maxReadBufferBytes`.
const READ_BUFFER_DEFAULT: usize = 16_384_000;

/// Every property the Scribe source reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&PORT, &WORKER_THREADS, &MAX_READ_BUFFER_BYTES];

/// Row of the registry.
pub const ENTRY: SourceEntry = SourceEntry {
    name: "",
    class: "org.apache.flume.source.scribe.ScribeSource",
    summary: "Log entries from Scribe; the category becomes a header.",
    placement: Placement::EveryShard,
    properties: PROPERTIES,
    parse,
};

/// All addresses, as Flume's source.
const BIND: &str = "0.0.0.0";

struct ScribeConfig {
    port: u16,
    frame_bytes_max: usize,
}

/// Reads the settings of a Scribe source.
pub fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn SourceConfig>> {
    let port = cx.get(&PORT);
    let workers = cx.get(&WORKER_THREADS);
    let limit = cx.get(&MAX_READ_BUFFER_BYTES)?;
    // 2^31 - 1 is the largest size Scribe's framing can say.
    let limit =
        usize::try_from(limit).ok().filter(|l| *l > 0).unwrap_or(READ_BUFFER_DEFAULT).min(i32::MAX as usize);
    workers?;
    Some(Arc::new(ScribeConfig { port: port?.0, frame_bytes_max: limit }))
}

impl SourceConfig for ScribeConfig {
    fn claims(&self) -> Vec<Claim> {
        vec![Claim::Tcp(BIND.to_owned(), self.port)]
    }
    fn open(
        self: Arc<Self>,
        cx: SourceContext,
    ) -> LocalBoxFuture<'static, Result<Box<dyn Source>, OpenError>> {
        Box::pin(async move {
            let listener = net::listen(&cx.io, BIND, self.port).await?;
            let limit = self.frame_bytes_max;
            let session = Box::new(move || Box::new(ScribeServer::new(limit)) as _);
            let layers = Layers { tls: None, zlib: false, kerberos: None };
            Ok(Box::new(RpcSource::new(cx, listener, layers, None, session)) as Box<dyn Source>)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;
    use crate::io::stop::{self, Phase};
    use crate::io::{EngineKind, run_local};
    use crate::testing;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[test]
    fn properties() {
        for (lines, fine) in [
            ("", true),
            ("port = 1500\nworkerThreads = 0\nmaxReadBufferBytes = -1", true),
            ("port = x", false),
            ("workerThreads = x", false),
        ] {
            assert_eq!(testing::parse(Kind::Source, lines, parse).0.is_some(), fine, "{lines}");
        }
    }

    #[test]
    fn entries_become_events_and_a_full_channel_is_told() {
        run_local(EngineKind::Portable, |io| async move {
            let config = testing::parse(Kind::Source, "port = 0", parse).0.unwrap();
            let channel = testing::memory_channel(&io, 1);
            let source = config.open(testing::source_context(&io, channel.clone())).await.unwrap();
            let port: u16 = source.describe().rsplit(':').next().unwrap().parse().unwrap();
            let (handle, stop) = stop::channel();
            crate::io::spawn(source.run(stop));
            let mut stream = io.connect(([127, 0, 0, 1], port).into()).await.unwrap();
            // Log([LogEntry("web", "hello")]) as Scribe's clients write it.
            let mut call = b"\0\0\0\x03Log\x01\0\0\0\x05\x0f\0\x01\x0c\0\0\0\x01".to_vec();
            call.extend_from_slice(b"\x0b\0\x01\0\0\0\x03web\x0b\0\x02\0\0\0\x05hello\0\0");
            let call = [&(call.len() as u32).to_be_bytes()[..], &call].concat();
            for code in [0, 1] {
                stream.write_all(&call).await.unwrap();
                let mut answer = [0; 24];
                stream.read_exact(&mut answer).await.unwrap();
                assert_eq!(
                    &answer[4..],
                    [&b"\0\0\0\x03Log\x02\0\0\0\x05\x08\0\0\0\0\0"[..], &[code, 0]].concat()
                );
            }
            let batches = testing::drain(&*channel).await;
            assert_eq!((batches[0].body(0), batches[0].header(0, "category")), (&b"hello"[..], Some("web")));
            handle.request(Phase::Now);
        })
        .unwrap();
    }
}
