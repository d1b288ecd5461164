//! The command `version`, in the lines of Flume's.

use std::process::ExitCode;

use sha1::{Digest, Sha1};

use super::report;

/// Prints the version, and what tells this executable from others.
pub fn run() -> ExitCode {
    let known = |text: Option<&'static str>| text.unwrap_or("unknown");
    let build = if cfg!(debug_assertions) { "debug" } else { "release" };
    report::line(&format!("Millrace {}", env!("CARGO_PKG_VERSION")));
    report::line("Runs the flows of Apache Flume 1.5 to 1.11");
    report::line(&format!("Revision: {}", known(option_env!("MILLRACE_REVISION"))));
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    report::line(&format!("Compiled for {target} as a {build} build"));
    report::line(&format!(
        "From executable with checksum {}",
        checksum().unwrap_or_else(|| "unknown".to_owned())
    ));
    ExitCode::SUCCESS
}

/// SHA-1 of this executable: the same on two machines if they run the same program.
fn checksum() -> Option<String> {
    let mut file = std::fs::File::open(std::env::current_exe().ok()?).ok()?;
    let mut digest = Sha1::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece).ok()? {
            0 => break,
            size => digest.update(&piece[..size]),
        }
    }
    Some(digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
