//! Parts that do not fit together: batches too large for their channel, two owners of one port or
//! directory, channels and sinks that lead nowhere.

use std::path::{Component, PathBuf};

use crate::agent::plan::{CHANNEL, CHANNELS, Plan};
use crate::component::Claim;
use crate::config::{ComponentSettings, Diagnostic, PropertySpec, Setting};

/// See the module's doc.
pub fn check(plan: &Plan, diagnostics: &mut Vec<Diagnostic>) {
    batch_sizes(plan, diagnostics);
    claims(plan, diagnostics);
    dead_ends(plan, diagnostics);
}

/// Names under which components know the size of a batch.
const BATCH_KEYS: [&str; 6] =
    ["batchSize", "batch-size", "hdfs.batchSize", "sink.batchSize", "batchsize", "flumeBatchSize"];

fn batch_sizes(plan: &Plan, diagnostics: &mut Vec<Diagnostic>) {
    let sources = plan.sources.iter().flat_map(|source| {
        let size = source.config.batch_size();
        source.channels.iter().map(move |channel| (&source.settings, *channel, size, "put"))
    });
    let sinks = plan.runners.iter().flat_map(|r| &r.sinks);
    let sinks = sinks.map(|sink| (&sink.settings, sink.channel, sink.config.batch_size(), "taken"));
    for (settings, channel, size, verb) in sources.chain(sinks) {
        let channel = &plan.channels[channel];
        let limit = channel.config.transaction_capacity();
        let Some(size) = size.filter(|size| *size > limit) else { continue };
        let written = BATCH_KEYS.iter().find_map(|key| Some((*key, settings.settings.get(*key)?)));
        let subject = written.map_or_else(|| settings.subject(), |(key, _)| settings.full_key(key));
        let message = format!(
            "a batch of {size} events cannot be {verb} in one transaction of channel {}, whose transactionCapacity is {limit}",
            channel.name
        );
        let full = |key: &str| channel.settings.full_key(key);
        let more = match size as u64 > channel.config.capacity() {
            true => format!("  and  {} = {}", full("capacity"), size * 10),
            false => String::new(),
        };
        let hint = format!(
            "add: {} = {size}{more}  or use a batch size of at most {limit}",
            full("transactionCapacity")
        );
        diagnostics.push(about(subject, message, written.map(|(_, s)| s), settings, true).hint(hint));
    }
}

/// A complaint about a setting, or about the component where the setting is not written.
fn about(
    subject: String,
    message: String,
    setting: Option<&Setting>,
    settings: &ComponentSettings,
    is_error: bool,
) -> Diagnostic {
    let location = setting.map(|s| s.location.clone()).or_else(|| settings.listed.clone());
    let diagnostic =
        if is_error { Diagnostic::error(subject, message) } else { Diagnostic::warning(subject, message) };
    let diagnostic = diagnostic.at(location);
    match setting {
        Some(setting) => diagnostic.value(&setting.value),
        None => diagnostic,
    }
}

fn claims(plan: &Plan, diagnostics: &mut Vec<Diagnostic>) {
    let sources = plan.sources.iter().map(|s| (&s.settings, s.config.claims()));
    let channels = plan.channels.iter().map(|c| (&c.settings, c.config.claims()));
    let sinks = plan.runners.iter().flat_map(|r| &r.sinks).map(|s| (&s.settings, s.config.claims()));
    let mut owners: Vec<(&ComponentSettings, Claim)> = Vec::new();
    for (settings, claims) in sources.chain(channels).chain(sinks) {
        for claim in claims {
            let Some((owner, _)) = owners.iter().find(|(_, other)| clash(other, &claim)) else {
                owners.push((settings, claim));
                continue;
            };
            let free = |taken: u16| {
                let is_taken = |port: u16| {
                    owners.iter().any(|(_, c)| matches!(c, Claim::Tcp(_, p) | Claim::Udp(_, p) if *p == port))
                };
                (taken..u16::MAX).find(|port| !is_taken(*port)).map_or(String::new(), |port| port.to_string())
            };
            let (what, needle, other) = match &claim {
                Claim::Tcp(_, port) => ("TCP port", port.to_string(), free(*port)),
                Claim::Udp(_, port) => ("UDP port", port.to_string(), free(*port)),
                Claim::Path(path) => {
                    let shown = path.display().to_string();
                    ("path", shown.clone(), format!("{}-{}", shown.trim_end_matches('/'), settings.name))
                }
            };
            let message = if std::ptr::eq(*owner, settings) {
                format!("uses the {what} {needle} twice")
            } else {
                let at =
                    owner.listed.as_ref().map_or(String::new(), |l| format!(" (listed on line {})", l.line));
                format!("{} has the {what} {needle} already{at}", owner.subject())
            };
            let written = settings.settings.iter().find(|(_, s)| s.value.contains(&needle));
            let subject = written.map_or_else(|| settings.subject(), |(key, _)| settings.full_key(key));
            let hint = match written.map(|(_, s)| s.value.replace(&needle, &other)) {
                Some(value) => format!("give each its own, for example: {subject} = {value}"),
                None => format!("give each its own, for example: {other}"),
            };
            diagnostics.push(about(subject, message, written.map(|(_, s)| s), settings, true).hint(hint));
        }
    }
}

/// True if two claims are for the same thing.
fn clash(a: &Claim, b: &Claim) -> bool {
    match (a, b) {
        (Claim::Tcp(a, p), Claim::Tcp(b, q)) | (Claim::Udp(a, p), Claim::Udp(b, q)) => {
            // Port 0 is a different one each time.
            p == q && *p != 0 && (address(a) == address(b) || is_any(a) || is_any(b))
        }
        (Claim::Path(a), Claim::Path(b)) => normal(a) == normal(b),
        _ => false,
    }
}

fn address(host: &str) -> &str {
    if host.eq_ignore_ascii_case("localhost") { "127.0.0.1" } else { host }
}

fn is_any(host: &str) -> bool {
    matches!(host, "0.0.0.0" | "::" | "[::]")
}

fn normal(path: &std::path::Path) -> PathBuf {
    path.components().filter(|c| *c != Component::CurDir).collect()
}

fn dead_ends(plan: &Plan, diagnostics: &mut Vec<Diagnostic>) {
    for (index, channel) in plan.channels.iter().enumerate() {
        let fed = plan.sources.iter().any(|s| s.channels.contains(&index));
        let mut takers = plan.runners.iter().flat_map(|r| &r.sinks).filter(|s| s.channel == index).peekable();
        let subject = channel.settings.subject();
        match (fed, takers.peek().is_some()) {
            (true, true) => {}
            (false, false) => diagnostics.push(
                about(
                    subject,
                    "no source puts into it and no sink takes from it".into(),
                    None,
                    &channel.settings,
                    false,
                )
                .hint(format!("take {} out of {}.channels", channel.name, plan.agent)),
            ),
            (true, false) => diagnostics.push(
                about(
                    subject,
                    format!(
                        "no sink takes from it; it is full after {} events, and then its sources stop",
                        channel.config.capacity()
                    ),
                    None,
                    &channel.settings,
                    false,
                )
                .hint(new_sink(plan, &channel.name)),
            ),
            (false, true) => {
                for sink in takers {
                    let key = sink.settings.full_key(CHANNEL.name());
                    let message =
                        format!("no source puts into {}, so this sink gets no new events", channel.name);
                    let setting = sink.settings.settings.get(CHANNEL.name());
                    let hint = match plan.sources.first() {
                        Some(source) => {
                            let key = source.settings.full_key(CHANNELS.name());
                            let names = source.channels.iter().filter_map(|c| plan.channels.get(*c));
                            let names: Vec<&str> = names.map(|c| &*c.name).chain([&*channel.name]).collect();
                            format!("for example: {key} = {}", names.join(" "))
                        }
                        None => format!(
                            "add: {}.sources = r1  and  {0}.sources.r1.{} = {}",
                            plan.agent,
                            CHANNELS.name(),
                            channel.name
                        ),
                    };
                    diagnostics.push(about(key, message, setting, &sink.settings, false).hint(hint));
                }
            }
        }
    }
}

/// The lines of one sink more.
fn new_sink(plan: &Plan, channel: &str) -> String {
    let taken: Vec<&str> = plan.runners.iter().flat_map(|r| &r.sinks).map(|s| &*s.name).collect();
    let name = (1..).map(|n| format!("k{n}")).find(|n| !taken.contains(&n.as_str())).unwrap_or_default();
    let list = taken.into_iter().chain([name.as_str()]).collect::<Vec<_>>().join(" ");
    let agent = &plan.agent;
    format!("add: {agent}.sinks = {list}  and  {agent}.sinks.{name}.{} = {channel}", CHANNEL.name())
}

#[cfg(test)]
mod tests {
    use super::super::tests::complaints;
    use super::*;

    #[test]
    fn which_claims_clash() {
        let tcp = |host: &str, port| Claim::Tcp(host.to_owned(), port);
        let path = |text: &str| Claim::Path(text.into());
        for (a, b, expected) in [
            (tcp("h", 1), tcp("h", 1), true),
            (tcp("h", 1), tcp("i", 1), false),
            (tcp("h", 1), tcp("0.0.0.0", 1), true),
            (tcp("localhost", 1), tcp("127.0.0.1", 1), true),
            (tcp("h", 1), tcp("h", 2), false),
            (tcp("h", 0), tcp("h", 0), false),
            (tcp("h", 1), Claim::Udp("h".into(), 1), false),
            (path("/a/b"), path("/a/./b/"), true),
            (path("/a/b"), path("/a/bc"), false),
        ] {
            assert_eq!(clash(&a, &b), expected, "{a:?} {b:?}");
        }
    }

    #[test]
    fn what_does_not_fit_together() {
        let flow = "a1.sources = r1 r2 r3\na1.channels = c1 c2 c3\na1.sinks = k1 k2\n\
            a1.channels.c1.type = memory\na1.channels.c2.type = memory\na1.channels.c3.type = memory\n\
            a1.sources.r1.type = netcat\na1.sources.r1.bind = 0.0.0.0\na1.sources.r1.port = 44\na1.sources.r1.channels = c1\n\
            a1.sources.r2.type = netcat\na1.sources.r2.bind = h\na1.sources.r2.port = 44\na1.sources.r2.channels = c1\n\
            a1.sources.r3.type = seq\na1.sources.r3.batchSize = 101\na1.sources.r3.channels = c3\n\
            a1.sinks.k1.type = logger\na1.sinks.k1.channel = c1\n\
            a1.sinks.k2.type = logger\na1.sinks.k2.channel = c2\n";
        insta::assert_snapshot!(complaints(flow));
    }
}
