//! Other systems the tests talk to: started by the scripts below `tests/peers`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The start script of a peer after its software was fetched. Without Java or Maven the test is skipped
/// with the reason, unless `REQUIRE_PEERS=1` asks for a failure.
pub fn require_peer(name: &str) -> Option<PathBuf> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name).join(name);
    let runs = |program: &str, argument: &str| {
        let status = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success())
    };
    let missing = if !runs("java", "-version") {
        Some("java is not installed".to_owned())
    } else if !runs("mvn", "--version") {
        Some("mvn is not installed".to_owned())
    } else {
        let fetched = Command::new(&script).arg("fetch").output();
        match fetched {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!("fetching failed: {}", String::from_utf8_lossy(&output.stderr))),
            Err(error) => Some(format!("{}: {error}", script.display())),
        }
    };
    let Some(reason) = missing else { return Some(script) };
    assert!(std::env::var("REQUIRE_PEERS").is_err(), "peer {name} is required: {reason}");
    eprintln!("skipped: peer {name}: {reason}");
    None
}
