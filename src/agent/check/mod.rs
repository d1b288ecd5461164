//! What can be said about a flow before an event passes: keys nobody reads, parts that do not fit together.
//!
//! Pure, like the rest of the compilation. [`keys`] looks at the text alone and so works on broken flows
//! too; everything else looks at a compiled plan.

mod compat;
mod graph;
mod headers;
mod keys;
mod rolls;

pub use compat::drop_what_flume_drops;
pub use keys::keys;

use super::plan::Plan;
use crate::config::Diagnostic;

/// Checks how the parts of a plan fit together.
pub fn plan(plan: &Plan, diagnostics: &mut Vec<Diagnostic>) {
    graph::check(plan, diagnostics);
    headers::check(plan, diagnostics);
    rolls::check(plan, diagnostics);
}

#[cfg(test)]
pub(super) mod tests {
    use crate::agent::plan;
    use crate::config::model::AgentConfig;
    use crate::config::properties;

    /// Everything that is said about a flow, sorted as `check` sorts it.
    pub fn complaints(flow: &str) -> String {
        let entries = properties::parse("flow.properties", flow.as_bytes()).unwrap();
        let mut diagnostics = Vec::new();
        if let Some(config) = AgentConfig::read("a1", &entries, &mut diagnostics) {
            plan::compile(&config, &mut diagnostics);
        }
        diagnostics.sort_by(|a, b| (&a.location, &a.subject).cmp(&(&b.location, &b.subject)));
        diagnostics.iter().map(|d| format!("{d}\n\n")).collect()
    }
}
