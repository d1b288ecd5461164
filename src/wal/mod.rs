//! The write-ahead log behind the file channel.
