//! The monitoring pages: Flume's JSON and the Prometheus text format (version 0.0.4).

use std::fmt::Write as _;

use super::ValueKind;
use super::directory::{Group, Snapshot};

/// Flume's value of `ChannelFillPercentage` for a channel without capacity (`Double.MAX_VALUE`).
const FILL_UNKNOWN: &str = "1.7976931348623157E308";

/// One component as Flume shows it: key and text, `Type`, `StartTime` and `StopTime` included.
pub fn flume_values(component: &Snapshot) -> Vec<(&'static str, String)> {
    let stopped = component.stopped.map_or(0, |t| t.as_millis());
    let mut values: Vec<(&'static str, String)> = Vec::with_capacity(component.values.len() + 4);
    for (info, value) in &component.values {
        let text = match info.kind {
            ValueKind::Flag => (*value != 0).to_string(),
            ValueKind::Count | ValueKind::Gauge => value.to_string(),
        };
        values.push((info.key, text));
    }
    if let Some(fill) = fill_percentage(component) {
        let at = values.iter().position(|(key, _)| *key == "ChannelCapacity").map_or(0, |at| at + 1);
        let text = fill.map_or_else(|| FILL_UNKNOWN.to_owned(), |fill| format!("{fill:?}"));
        values.insert(at, ("ChannelFillPercentage", text));
    }
    values.push(("Type", component.group.word().to_owned()));
    values.push(("StartTime", component.started.as_millis().to_string()));
    values.push(("StopTime", stopped.to_string()));
    values
}

/// Outer `None` if it is no channel, inner if its capacity is unknown.
fn fill_percentage(component: &Snapshot) -> Option<Option<f64>> {
    let value = |key: &str| component.values.iter().find(|(i, _)| i.key == key).map(|(_, v)| *v);
    let (size, capacity) = (value("ChannelSize")?, value("ChannelCapacity")?);
    Some((capacity > 0).then(|| size as f64 / capacity as f64 * 100.0))
}

/// Flume's `/metrics`: an object per component, all values texts.
pub fn json(components: &[Snapshot]) -> String {
    let mut page = String::with_capacity(components.len() * 512 + 2);
    page.push('{');
    for (index, component) in components.iter().enumerate() {
        if index > 0 {
            page.push(',');
        }
        quote(&mut page, &format!("{}.{}", component.group.word(), component.name));
        page.push_str(":{");
        for (index, (key, text)) in flume_values(component).iter().enumerate() {
            if index > 0 {
                page.push(',');
            }
            quote(&mut page, key);
            page.push(':');
            quote(&mut page, text);
        }
        page.push('}');
    }
    page.push('}');
    page
}

fn quote(page: &mut String, text: &str) {
    page.push('"');
    for c in text.chars() {
        match c {
            '"' => page.push_str("\\\""),
            '\\' => page.push_str("\\\\"),
            c if (c as u32) < 0x20 => {
                let _ = write!(page, "\\u{:04x}", c as u32);
            }
            c => page.push(c),
        }
    }
    page.push('"');
}

/// `/metrics/prometheus`. A name is the group's word and Flume's key: `EventReceivedCount` of a source is
/// `millrace_source_event_received_total{source="r1"}`.
pub fn prometheus(components: &[Snapshot]) -> String {
    let mut page = String::with_capacity(components.len() * 1024);
    for group in [Group::Source, Group::Channel, Group::Sink] {
        let label = group.word().to_ascii_lowercase();
        let members: Vec<&Snapshot> = components.iter().filter(|c| c.group == group).collect();
        // All samples of one name stand together, as the format asks for.
        let mut keys: Vec<super::ValueInfo> = Vec::new();
        for (info, _) in members.iter().flat_map(|m| &m.values) {
            if !keys.iter().any(|k| k.key == info.key) {
                keys.push(*info);
            }
        }
        for info in keys {
            let name = format!("millrace_{label}_{}", snake(info.key, info.kind));
            let kind = if info.kind == ValueKind::Count { "counter" } else { "gauge" };
            let _ = writeln!(page, "# HELP {name} {}\n# TYPE {name} {kind}", info.doc.replace('\n', " "));
            for member in &members {
                if let Some((_, value)) = member.values.iter().find(|(i, _)| i.key == info.key) {
                    sample(&mut page, &name, &label, &member.name, *value);
                }
            }
        }
        if group == Group::Channel && !members.is_empty() {
            let name = "millrace_channel_fill_ratio";
            let _ = writeln!(
                page,
                "# HELP {name} Events waiting as a part of the capacity, 0 to 1.\n# TYPE {name} gauge"
            );
            for member in &members {
                if let Some(Some(fill)) = fill_percentage(member) {
                    sample(&mut page, name, &label, &member.name, fill / 100.0);
                }
            }
        }
        if !members.is_empty() {
            let name = format!("millrace_{label}_start_time_seconds");
            let _ = writeln!(
                page,
                "# HELP {name} When the component started, seconds since 1970.\n# TYPE {name} gauge"
            );
            members.iter().for_each(|m| sample(&mut page, &name, &label, &m.name, m.started.as_secs_f64()));
        }
    }
    page
}

fn sample(page: &mut String, name: &str, label: &str, component: &str, value: impl std::fmt::Display) {
    let component = component.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let _ = writeln!(page, "{name}{{{label}=\"{component}\"}} {value}");
}

/// `EventReceivedCount` → `event_received_total`; a gauge keeps no suffix.
fn snake(key: &str, kind: ValueKind) -> String {
    let stem = key.strip_suffix("Count").unwrap_or(key);
    let stem =
        stem.strip_prefix("Channel").filter(|rest| *rest == "Size" || *rest == "Capacity").unwrap_or(stem);
    let mut name = String::with_capacity(key.len() + 8);
    for c in stem.chars() {
        if c.is_ascii_uppercase() && !name.is_empty() {
            name.push('_');
        }
        name.push(c.to_ascii_lowercase());
    }
    if kind == ValueKind::Count {
        name.push_str("_total");
    }
    name
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::metrics::directory::Directory;
    use crate::metrics::{ChannelCounters, SinkCounters, SourceCounters, ValueInfo};

    fn directory() -> Directory {
        let directory = Directory::default();
        let at = Duration::from_millis(1_350_586_020_123);
        let source = Arc::<SourceCounters>::default();
        source.event_received.add(7);
        directory.register_source("r1", source, at);
        let channel = Arc::<ChannelCounters>::default();
        channel.channel_capacity.set(200);
        channel.channel_size.set(25);
        let open = ValueInfo { key: "Open", doc: "The channel is open.", kind: ValueKind::Flag };
        channel.extras.value(open).set(1);
        directory.register_channel("c1", channel, at);
        directory.register_channel("c\"2", Arc::default(), at);
        directory.register_sink("k1", Arc::<SinkCounters>::default(), at);
        directory.stopped(Group::Sink, "k1", at + Duration::from_secs(1));
        directory
    }

    #[test]
    fn json_has_flumes_keys_and_texts() {
        let page: serde_json::Value = serde_json::from_str(&json(&directory().snapshot())).unwrap();
        let source = &page["SOURCE.r1"];
        let keys = [
            "EventReceivedCount",
            "EventAcceptedCount",
            "AppendReceivedCount",
            "AppendAcceptedCount",
            "AppendBatchReceivedCount",
            "AppendBatchAcceptedCount",
            "OpenConnectionCount",
            "EventReadFail",
            "ChannelWriteFail",
            "GenericProcessingFail",
            "Type",
            "StartTime",
            "StopTime",
        ];
        let mut found: Vec<&str> = source.as_object().unwrap().keys().map(String::as_str).collect();
        let mut keys = keys.to_vec();
        keys.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, keys);
        assert_eq!(source["EventReceivedCount"], "7");
        assert_eq!(source["Type"], "SOURCE");
        assert_eq!(source["StartTime"], "1350586020123");
        assert_eq!(source["StopTime"], "0");
        assert_eq!(page["CHANNEL.c1"]["ChannelFillPercentage"], "12.5");
        assert_eq!(page["CHANNEL.c1"]["Open"], "true");
        assert_eq!(page["CHANNEL.c\"2"]["ChannelFillPercentage"], FILL_UNKNOWN);
        assert_eq!(page["SINK.k1"]["StopTime"], "1350586021123");
    }

    #[test]
    fn an_empty_channel_is_0_0_full() {
        let directory = Directory::default();
        let channel = Arc::<ChannelCounters>::default();
        channel.channel_capacity.set(100);
        directory.register_channel("c1", channel, Duration::ZERO);
        assert!(json(&directory.snapshot()).contains(r#""ChannelFillPercentage":"0.0""#));
    }

    #[test]
    fn prometheus_names_and_labels() {
        let page = prometheus(&directory().snapshot());
        for line in [
            "# TYPE millrace_source_event_received_total counter",
            "millrace_source_event_received_total{source=\"r1\"} 7",
            "# TYPE millrace_source_open_connection gauge",
            "millrace_channel_size{channel=\"c1\"} 25",
            "millrace_channel_capacity{channel=\"c1\"} 200",
            "millrace_channel_open{channel=\"c1\"} 1",
            "millrace_channel_fill_ratio{channel=\"c1\"} 0.125",
            "millrace_channel_size{channel=\"c\\\"2\"} 0",
            "millrace_sink_event_drain_success_total{sink=\"k1\"} 0",
            "# HELP millrace_sink_event_write_fail_total Failed deliveries.",
            "millrace_source_start_time_seconds{source=\"r1\"} 1350586020.123",
        ] {
            assert!(page.lines().any(|l| l == line), "{line}\n{page}");
        }
        // Each name is declared once, and its samples follow at once.
        let mut names: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
