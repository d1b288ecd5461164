//! The keys of an encrypted channel, for the tools.

use std::path::PathBuf;
use std::sync::Arc;

use super::{Stopped, refuse};
use crate::channel::file::encryption::{self, Source};
use crate::cli::load::{self, Flow};
use crate::cli::report;
use crate::config::ParseContext;
use crate::io::Io;
use crate::wal::cipher::Keys;

/// Where the keys are.
#[derive(clap::Args, Debug)]
pub struct KeyArgs {
    /// File with a key of an encrypted channel; repeat it for older keys
    #[arg(long = "key-file", value_name = "FILE", conflicts_with = "keys_of")]
    key_files: Vec<PathBuf>,
    /// Take the keys from the settings of this channel in the flow behind --flow, for example a1.c1
    #[arg(long = "keys-of", value_name = "AGENT.CHANNEL", requires = "flow")]
    keys_of: Option<String>,
    /// Flow with the channel of --keys-of
    #[arg(long, value_name = "FILE", requires = "keys_of")]
    flow: Option<PathBuf>,
}

impl KeyArgs {
    /// Reads them; empty if none are named.
    pub async fn load(&self, io: &Io) -> Result<Arc<Keys>, Stopped> {
        let source = match (&self.keys_of, &self.flow) {
            (Some(channel), Some(flow)) => of_channel(channel, flow)?,
            _ if self.key_files.is_empty() => Source::None,
            _ => Source::Files(self.key_files.clone()),
        };
        read(io, &source).await
    }
}

async fn read(io: &Io, source: &Source) -> Result<Arc<Keys>, Stopped> {
    let keys = encryption::load(io, source).await.map_err(|error| {
        let hint = error.hint.unwrap_or_default();
        refuse(error.value, error.message, hint)
    })?;
    Ok(Arc::new(keys))
}

/// The keys of a channel of a flow.
pub async fn of_flow(io: &Io, name: &str, flow: &std::path::Path) -> Result<Arc<Keys>, Stopped> {
    read(io, &of_channel(name, flow)?).await
}

fn of_channel(name: &str, flow: &std::path::Path) -> Result<Source, Stopped> {
    let (agent, channel) = name.split_once('.').ok_or_else(|| {
        refuse(
            format!("--keys-of {name}"),
            "is not the name of an agent and a channel",
            "for example: --keys-of a1.c1",
        )
    })?;
    let flow = Flow::file(agent, flow.to_owned());
    let texts = flow.reader().texts().map_err(|problem| {
        report::diagnostics(&[problem]);
        Stopped(crate::cli::BAD_CONFIG)
    })?;
    // Config filters need a runtime, and this thread is inside of one.
    let config = std::thread::scope(|scope| {
        let load = || {
            let mut diagnostics = Vec::new();
            (load::load(&flow, &texts, &mut diagnostics), diagnostics)
        };
        scope.spawn(load).join()
    });
    let (config, mut diagnostics) = config.unwrap_or_default();
    let settings = config.as_ref().and_then(|c| c.channels.iter().find(|c| c.name == channel));
    let Some(settings) = settings else {
        report::diagnostics(&diagnostics);
        return Err(refuse(
            format!("--keys-of {name}"),
            "the flow has no such channel",
            "check the names in the flow",
        ));
    };
    diagnostics.clear();
    let source = encryption::parse(&mut ParseContext::new(settings, &mut diagnostics));
    report::diagnostics(&diagnostics);
    source.ok_or(Stopped(crate::cli::BAD_CONFIG))
}
