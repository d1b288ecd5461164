//! `env` config filter: environment variables.
//!
//! Flume: `org.apache.flume.configfilter.EnvironmentVariableConfigFilter`. The variables of `flume-env.sh` count
//! as well.

use std::sync::Arc;

use super::{ConfigFilter, FilterEntry, World};
use crate::config::ParseContext;
use crate::io::LocalBoxFuture;

/// Row of the registry.
pub const ENTRY: FilterEntry = FilterEntry {
    name: "env",
    class: "org.apache.flume.configfilter.EnvironmentVariableConfigFilter",
    summary: "`${f1['NAME']}` is the environment variable NAME.",
    properties: &[],
    parse,
};

struct Env;

fn parse(_: &mut ParseContext<'_>) -> Option<Arc<dyn ConfigFilter>> {
    Some(Arc::new(Env))
}

impl ConfigFilter for Env {
    fn look_up<'a>(
        &'a self,
        key: &'a str,
        world: &'a World<'a>,
    ) -> LocalBoxFuture<'a, Result<Option<String>, String>> {
        Box::pin(async move { Ok((world.env)(key)) })
    }
}
