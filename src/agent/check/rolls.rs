//! Roll settings of the HDFS sink that will make more files than a name node is happy with.
//!
//! Flume's defaults (a file per 30 seconds, 10 events or 1,024 bytes, whichever comes first) do.

use crate::agent::plan::{Plan, PlannedSink};
use crate::config::Diagnostic;

/// More files than this a day are worth a warning: each costs the name node memory and every later job a
/// task.
const FILES_PER_DAY_MAX: u64 = 1_000;
const SECONDS_PER_DAY: u64 = 86_400;
/// The traffic the estimate assumes, modest for a collector: 10 events a second of 200 bytes.
const EVENTS_PER_DAY: u64 = 10 * SECONDS_PER_DAY;
const EVENT_BYTES: u64 = 200;

/// See the module's doc.
pub fn check(plan: &Plan, diagnostics: &mut Vec<Diagnostic>) {
    for sink in plan.runners.iter().flat_map(|r| &r.sinks) {
        let declares = |name: &str| sink.entry.properties.iter().any(|p| p.name() == name);
        if declares("hdfs.rollInterval") {
            estimate(sink, diagnostics);
        }
    }
}

fn estimate(sink: &PlannedSink, diagnostics: &mut Vec<Diagnostic>) {
    let number = |key: &str| -> Option<u64> {
        let written = sink.settings.settings.get(key).map(|s| s.value.as_str());
        let declared = || sink.entry.properties.iter().find(|p| p.name() == key)?.default();
        written.or_else(declared)?.trim().parse().ok()
    };
    let per_day = |key: &str, files: &dyn Fn(u64) -> u64| match number(key) {
        None | Some(0) => (0, key.to_owned()),
        Some(limit) => (files(limit), key.to_owned()),
    };
    let causes = [
        per_day("hdfs.rollCount", &|events| EVENTS_PER_DAY / events),
        per_day("hdfs.rollSize", &|bytes| EVENTS_PER_DAY * EVENT_BYTES / bytes),
        per_day("hdfs.rollInterval", &|seconds| SECONDS_PER_DAY / seconds),
    ];
    let (files, key) = causes.iter().max_by_key(|(files, _)| *files).cloned().unwrap_or_default();
    let buckets = buckets_per_day(sink);
    let (files, key) = if buckets > files { (buckets, "hdfs.path".to_owned()) } else { (files, key) };
    if files <= FILES_PER_DAY_MAX {
        return;
    }
    let setting = sink.settings.settings.get(&key);
    let how = match setting {
        _ if key == "hdfs.path" => "a new directory so often".to_owned(),
        Some(_) => "a new file so often".to_owned(),
        None => format!("not set, so {} counts", number(&key).unwrap_or_default()),
    };
    let full = |key: &str| sink.settings.full_key(key);
    let hint = if key == "hdfs.path" {
        format!("leave minutes and seconds out of the path, or add: {} = true", full("hdfs.round"))
    } else {
        format!(
            "for a file an hour or per 128 MB: {} = 3600  and  {} = 134217728  and  {} = 0",
            full("hdfs.rollInterval"),
            full("hdfs.rollSize"),
            full("hdfs.rollCount")
        )
    };
    let message = format!("{how}: about {} files a day at 10 events of 200 bytes a second", grouped(files));
    let mut warning = Diagnostic::warning(full(&key), message)
        .at(setting.map(|s| s.location.clone()).or_else(|| sink.settings.listed.clone()))
        .hint(hint);
    warning.value = setting.map(|s| s.value.clone());
    diagnostics.push(warning);
}

/// How many directories or prefixes a day the time in the path makes.
fn buckets_per_day(sink: &PlannedSink) -> u64 {
    let text = |key: &str| sink.settings.settings.get(key).map_or("", |s| s.value.as_str());
    let template = format!("{}/{}", text("hdfs.path"), text("hdfs.filePrefix"));
    let letters = template.as_bytes().windows(2).filter(|w| w[0] == b'%').map(|w| w[1]);
    let period = letters
        .map(|letter| match letter {
            b'S' | b's' | b't' | b'c' => 1,
            b'M' => 60,
            b'H' | b'I' | b'k' | b'l' => 3_600,
            _ => SECONDS_PER_DAY,
        })
        .min()
        .unwrap_or(SECONDS_PER_DAY);
    let rounded = if text("hdfs.round").eq_ignore_ascii_case("true") {
        let value: u64 = text("hdfs.roundValue").trim().parse().unwrap_or(1).max(1);
        value
            * match text("hdfs.roundUnit").to_ascii_lowercase().as_str() {
                "minute" => 60,
                "hour" => 3_600,
                _ => 1,
            }
    } else {
        1
    };
    SECONDS_PER_DAY / period.max(rounded).min(SECONDS_PER_DAY)
}

/// `86400` as `86,400`.
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        assert_eq!(
            [1, 999, 1000, 86_400, 1_234_567].map(grouped),
            ["1", "999", "1,000", "86,400", "1,234,567"]
        );
    }
}
