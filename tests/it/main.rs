//! One integration binary: real processes, real sockets.

mod crash;
mod fuzz_corpus;
mod guide;
mod layers;
mod registry;
mod util;
