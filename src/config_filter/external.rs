//! `external` config filter: what a command prints.
//!
//! Flume: `org.apache.flume.configfilter.ExternalProcessConfigFilter`. The command is split at blanks, without a
//! shell, and gets the key as its last argument; the first line it prints is the value.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt;

use super::{ConfigFilter, FilterEntry, World};
use crate::codec::charset::Charset;
use crate::config::{ParseContext, Property, PropertySpec, Words};
use crate::io::{LocalBoxFuture, spawn_process};

const COMMAND: Property<Words> = Property::required(
    "command",
    "Program and arguments, separated by blanks; the key follows as the last argument. Ended after 30 seconds.",
)
.example("/etc/flume/secret.sh");
const CHARSET: Property<Charset> =
    Property::optional("charset", "UTF-8", "Character set of what the command prints.");

/// Row of the registry.
pub const ENTRY: FilterEntry = FilterEntry {
    name: "external",
    class: "org.apache.flume.configfilter.ExternalProcessConfigFilter",
    summary: "`${f1['key']}` is the first line that a command prints for the key.",
    properties: PROPERTIES,
    parse,
};

/// Every property the filter reads.
pub const PROPERTIES: &[&dyn PropertySpec] = &[&COMMAND, &CHARSET];

/// Time a command gets; a vault answers within a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes that are read of what it prints, and of its errors: a value is a line, a message a paragraph.
const OUTPUT_BYTES_MAX: u64 = 64 << 10;

struct External {
    program: String,
    arguments: Vec<String>,
    charset: Charset,
}

fn parse(cx: &mut ParseContext<'_>) -> Option<Arc<dyn ConfigFilter>> {
    let (command, charset) = (cx.get(&COMMAND), cx.get(&CHARSET));
    let mut words = command?.0.into_iter();
    Some(Arc::new(External { program: words.next()?, arguments: words.collect(), charset: charset? }))
}

impl External {
    async fn run(&self, key: &str) -> Result<Option<String>, String> {
        let mut arguments = self.arguments.clone();
        arguments.push(key.to_owned());
        let program = &self.program;
        let mut child =
            spawn_process(program, &arguments).map_err(|e| format!("cannot start {program}: {e}"))?;
        let (out, err) = (child.stdout(), child.stderr());
        // Both pipes are read to their ends, so that the command never waits for us; only the beginning is kept.
        let (printed, complained, status) = tokio::join!(beginning(out), beginning(err), child.wait());
        let status = status.map_err(|e| format!("{program}: {e}"))?;
        if !status.success() {
            let complained = String::from_utf8_lossy(&complained);
            let said = complained.lines().next().unwrap_or_default();
            return Err(format!("{program} ended with {status} {said}").trim_end().to_owned());
        }
        let line = printed.split(|b| *b == b'\n').next().unwrap_or_default();
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        Ok((!printed.is_empty()).then(|| self.charset.decode(line).into_owned()))
    }
}

async fn beginning(pipe: Option<impl tokio::io::AsyncRead + Unpin>) -> Vec<u8> {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        let _ = (&mut pipe).take(OUTPUT_BYTES_MAX).read_to_end(&mut kept).await;
        let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
    }
    kept
}

impl ConfigFilter for External {
    fn look_up<'a>(
        &'a self,
        key: &'a str,
        world: &'a World<'a>,
    ) -> LocalBoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async move {
            tokio::select! {
                value = self.run(key) => value,
                // The dropped child is killed with all it started.
                () = world.io.sleep(PATIENCE) => {
                    Err(format!("{} gives no answer within {} s", self.program, PATIENCE.as_secs()))
                }
            }
        })
    }
}
