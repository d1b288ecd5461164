//! `flume-ng`: the same program under the name that operators' scripts call.

use std::process::ExitCode;

fn main() -> ExitCode {
    millrace::cli::main()
}
