//! Where log lines go: `flume.root.logger=LEVEL,APPENDER`.

use std::fs::OpenOptions;
use std::path::Path;
use std::sync::Mutex;

use tracing_subscriber::filter::LevelFilter;

/// Sets up logging from the `-D` properties: `console` (standard error, the default) or `LOGFILE` and
/// `DAILY`, which append to `flume.log.dir`/`flume.log.file`.
///
/// # Errors
/// The log file cannot be opened.
pub fn start(properties: &[(String, String)]) -> Result<(), String> {
    let get = |key: &str| properties.iter().rev().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let (level, appender) =
        match get("flume.root.logger").map(|v| v.split_once(',').unwrap_or((v, "console"))) {
            Some((level, appender)) => (level.trim(), appender.trim()),
            None => ("INFO", "console"),
        };
    let level = match level.to_ascii_uppercase().as_str() {
        "OFF" => LevelFilter::OFF,
        "FATAL" | "ERROR" => LevelFilter::ERROR,
        "WARN" => LevelFilter::WARN,
        "DEBUG" => LevelFilter::DEBUG,
        "TRACE" | "ALL" => LevelFilter::TRACE,
        _ => LevelFilter::INFO,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_target(false);
    if ["LOGFILE", "DAILY"].iter().any(|name| appender.eq_ignore_ascii_case(name)) {
        let dir = Path::new(get("flume.log.dir").unwrap_or("./logs"));
        let path = dir.join(get("flume.log.file").unwrap_or("flume.log"));
        let opened = std::fs::create_dir_all(dir)
            .and_then(|()| OpenOptions::new().create(true).append(true).open(&path));
        let file = opened.map_err(|e| {
            format!("-Dflume.log.dir = {:?}: cannot open {}: {e}", dir.display(), path.display())
        })?;
        builder.with_ansi(false).with_writer(Mutex::new(file)).init();
    } else {
        let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
        builder.with_ansi(ansi).with_writer(std::io::stderr).init();
    }
    Ok(())
}
