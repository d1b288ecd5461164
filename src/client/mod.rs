//! Speakers of other systems' protocols.
