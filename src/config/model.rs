//! One agent's components, as the file lists them.

use super::ComponentSettings;

/// The components of one agent, in the order they are listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// Name of the agent.
    pub name: String,
    /// `<agent>.sources`
    pub sources: Vec<ComponentSettings>,
    /// `<agent>.channels`
    pub channels: Vec<ComponentSettings>,
    /// `<agent>.sinks`
    pub sinks: Vec<ComponentSettings>,
    /// `<agent>.sinkgroups`
    pub sink_groups: Vec<ComponentSettings>,
}
