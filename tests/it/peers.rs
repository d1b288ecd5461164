//! Other systems the tests talk to: started by the scripts below `tests/peers`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

/// The start script of a peer after its software was fetched. Without Java or Maven the test is skipped
/// with the reason, unless `REQUIRE_PEERS=1` asks for a failure.
pub fn require_peer(name: &str) -> Option<PathBuf> {
    fetched(name, "", missing_java())
}

fn missing_java() -> Option<String> {
    let runs = |program: &str, argument: &str| {
        let status = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
        status.is_ok_and(|s| s.success())
    };
    if !runs("java", "-version") {
        Some("java is not installed".to_owned())
    } else if !runs("mvn", "--version") {
        Some("mvn is not installed".to_owned())
    } else {
        None
    }
}

/// The start script of a release of Flume, as [`require_peer`]; it is told the release again in `FLUME_RELEASE`.
pub fn require_flume(release: &str) -> Option<PathBuf> {
    fetched("flume", release, missing_java())
}

/// The script of a key distribution centre, as [`require_peer`].
pub fn require_kerberos() -> Option<PathBuf> {
    fetched("kerberos", "", None)
}

/// The start script of nginx, as [`require_peer`]; Debian's package is fetched if nginx is not installed.
pub fn require_nginx() -> Option<PathBuf> {
    fetched("nginx", "", None)
}

fn fetched(name: &str, release: &str, missing: Option<String>) -> Option<PathBuf> {
    /// Peers are fetched one at a time: several tests may want the same.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers").join(name).join(name);
    let release = (!release.is_empty()).then_some(("FLUME_RELEASE", release));
    let missing = missing.or_else(|| match Command::new(&script).arg("fetch").envs(release).output() {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!("fetching failed: {}", String::from_utf8_lossy(&output.stderr))),
        Err(error) => Some(format!("{}: {error}", script.display())),
    });
    let Some(reason) = missing else { return Some(script) };
    assert!(std::env::var("REQUIRE_PEERS").is_err(), "peer {name} is required: {reason}");
    eprintln!("skipped: peer {name}: {reason}");
    None
}
