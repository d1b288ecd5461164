//! What sources, channels and sinks have in common: the shard they run on, what they claim for themselves,
//! and why they could not be opened.

/// Which shard of how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shard {
    /// From 0.
    pub index: usize,
    /// Number of shards of the agent.
    pub count: usize,
}

impl Shard {
    /// True if the thing with this stable hash belongs here. Exactly one shard owns it.
    pub fn owns(self, hash: u64) -> bool {
        hash % self.count as u64 == self.index as u64
    }
}

/// A hash that is the same in every process and release (FNV-1a), for placing files and components.
pub fn stable_hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x0000_0100_0000_01b3))
}

/// What a component claims for itself alone; two owners of one thing are refused before the start.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Claim {
    /// A TCP address, as written.
    Tcp(String, u16),
    /// A UDP address, as written.
    Udp(String, u16),
    /// A directory or file this component alone writes to or consumes.
    Path(std::path::PathBuf),
}

/// Why a component could not be opened. Names the property and what to do; the caller adds the component.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct OpenError {
    /// Key of the property to change, below the component; empty if none is to blame.
    pub property: &'static str,
    /// The value as written; empty if none.
    pub value: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl OpenError {
    /// An error to blame on a property.
    pub fn new(property: &'static str, value: impl Into<String>, message: impl Into<String>) -> Self {
        Self { property, value: value.into(), message: message.into(), hint: None }
    }
    /// Adds what to do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}
