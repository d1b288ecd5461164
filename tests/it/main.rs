//! One integration binary: real processes, real sockets.

mod crash;
mod guide;
mod util;
