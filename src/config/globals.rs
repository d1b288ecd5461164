//! What a flow's components fall back on: `-D` properties and environment variables.
//!
//! Flume: `SSLUtil` seeds the Java system properties from the environment, and components read those.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// `-D` properties and variables of `flume-env.sh`, before those of the process. May hold passwords: never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Globals(Arc<Inner>);

#[derive(Default, PartialEq, Eq)]
struct Inner {
    system: HashMap<String, String>,
    variables: HashMap<String, String>,
}

impl Globals {
    /// Globals of an agent.
    pub fn new(system: HashMap<String, String>, variables: HashMap<String, String>) -> Self {
        Self(Arc::new(Inner { system, variables }))
    }
    /// The property, else the variable of `flume-env.sh`, else that of the process. Empty ones do not count.
    pub fn get(&self, property: &str, variable: &str) -> Option<String> {
        let written = self.0.system.get(property).or_else(|| self.0.variables.get(variable)).cloned();
        written.or_else(|| std::env::var(variable).ok()).filter(|value| !value.is_empty())
    }
}

impl fmt::Debug for Globals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Globals([secret])")
    }
}
