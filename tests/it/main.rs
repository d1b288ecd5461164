//! One integration binary: real processes, real sockets.
