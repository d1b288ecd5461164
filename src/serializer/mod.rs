//! Event bodies to and from files.
