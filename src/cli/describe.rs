//! The command `describe`: components and properties, from the registry's tables.

use std::fmt::Write;
use std::process::ExitCode;

use super::{BAD_CONFIG, report};
use crate::agent::plan;
use crate::config::PropertySpec;
use crate::config::nearest::nearest;
use crate::{config_filter, registry};

/// Options of `describe`.
#[derive(clap::Args, Debug)]
pub struct DescribeArgs {
    /// A component's alias or class name
    component: Option<String>,
    /// Everything as one Markdown page (`conf/PROPERTIES.md`)
    #[arg(long)]
    markdown: bool,
}

/// One component of any kind, as the pages show it.
struct Entry {
    kind: &'static str,
    name: &'static str,
    class: &'static str,
    summary: &'static str,
    properties: Specs,
    /// What every component of the kind has, and the prefix below which it stands.
    common: (&'static str, Specs),
}

type Specs = &'static [&'static dyn PropertySpec];

impl Entry {
    /// What an operator writes behind `type =`.
    fn type_name(&self) -> &'static str {
        if self.name.is_empty() { self.class } else { self.name }
    }
}

fn entries() -> Vec<Entry> {
    let mut entries = Vec::new();
    macro_rules! table {
        ($kind:literal, $table:expr, $common:expr) => {
            entries.extend($table.iter().map(|e| Entry {
                kind: $kind,
                name: e.name,
                class: e.class,
                summary: e.summary,
                properties: e.properties,
                common: $common,
            }))
        };
    }
    table!("source", registry::SOURCES, ("", plan::SOURCE_PROPERTIES));
    table!("channel", registry::CHANNELS, ("", plan::INTERCEPTOR_PROPERTIES));
    table!("sink", registry::SINKS, ("", plan::SINK_PROPERTIES));
    table!("channel selector", registry::SELECTORS, ("selector.", plan::SELECTOR_PROPERTIES));
    table!("sink processor", registry::SINK_PROCESSORS, ("processor.", plan::PROCESSOR_PROPERTIES));
    table!("interceptor", registry::INTERCEPTORS, ("interceptors.<name>.", plan::INTERCEPTOR_PROPERTIES));
    table!("config filter", registry::CONFIG_FILTERS, ("", config_filter::COMMON));
    entries
}

/// Runs `describe`.
pub fn run(args: &DescribeArgs) -> ExitCode {
    let entries = entries();
    if args.markdown {
        report::line(markdown(&entries).trim_end());
        return ExitCode::SUCCESS;
    }
    let Some(wanted) = &args.component else {
        for entry in &entries {
            report::line(&format!("{:<17} {:<24} {}", entry.kind, entry.type_name(), entry.summary));
        }
        return ExitCode::SUCCESS;
    };
    let found: Vec<&Entry> = entries
        .iter()
        .filter(|e| e.type_name().eq_ignore_ascii_case(wanted) || e.class.eq_ignore_ascii_case(wanted))
        .collect();
    for entry in &found {
        report::line(text(entry).trim_end());
    }
    if found.is_empty() {
        let near = nearest(wanted, entries.iter().map(Entry::type_name));
        let complaint = crate::config::Diagnostic::error(wanted.as_str(), "no component of this name");
        let hint =
            near.map_or("millrace describe lists them all".to_owned(), |n| format!("did you mean {n} ?"));
        report::diagnostics(&[complaint.hint(hint)]);
        return ExitCode::from(BAD_CONFIG);
    }
    ExitCode::SUCCESS
}

fn key(property: &dyn PropertySpec) -> String {
    if property.is_family() { format!("{}*", property.name()) } else { property.name().to_owned() }
}

fn default(property: &dyn PropertySpec) -> String {
    match property.default() {
        Some("") => "(empty)".to_owned(),
        Some(text) => text.to_owned(),
        None if property.is_required() => "required".to_owned(),
        None => "-".to_owned(),
    }
}

fn text(entry: &Entry) -> String {
    let mut out = format!("{} {}  ({})\n{}\n", entry.kind, entry.type_name(), entry.class, entry.summary);
    list(&mut out, entry.properties);
    let (prefix, common) = entry.common;
    let below = if prefix.is_empty() { String::new() } else { format!(", below {prefix}") };
    let _ = writeln!(out, "\nEvery {} has{below}:", entry.kind);
    list(&mut out, common);
    out
}

fn list(out: &mut String, properties: Specs) {
    for property in properties {
        let _ = writeln!(out, "\n  {} = {}   [{}]", key(*property), default(*property), property.kind());
        for line in wrap(property.doc(), 100) {
            let _ = writeln!(out, "      {line}");
        }
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let last = lines.last_mut().map_or(0, |l| l.len());
        match lines.last_mut() {
            Some(line) if last + word.len() < width => {
                if last > 0 {
                    line.push(' ');
                }
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

fn markdown(entries: &[Entry]) -> String {
    let mut out = String::from(
        "# Properties\n\nEvery component and every property, generated by `millrace describe --markdown`. Names and meanings are \
         Flume's; where behaviour differs, the text says so.\n",
    );
    let mut kind = "";
    for entry in entries {
        if entry.kind != kind {
            kind = entry.kind;
            let _ = write!(out, "\n## {}{}s\n", kind[..1].to_uppercase(), &kind[1..]);
            let (prefix, common) = entry.common;
            let below = if prefix.is_empty() { String::new() } else { format!(", below `{prefix}`") };
            let _ = write!(out, "\nEvery {kind} has{below}:\n");
            table(&mut out, common);
        }
        let _ = write!(out, "\n### `{}`\n\n{} Class `{}`.\n", entry.type_name(), entry.summary, entry.class);
        if entry.properties.is_empty() {
            out.push_str("\nNo properties.\n");
            continue;
        }
        table(&mut out, entry.properties);
    }
    out
}

fn table(out: &mut String, properties: Specs) {
    let escape = |text: &str| text.replace('|', "\\|");
    out.push_str("\n| Property | Default | Value | Meaning |\n| --- | --- | --- | --- |\n");
    for property in properties {
        let default = match default(*property).as_str() {
            "required" => "**required**".to_owned(),
            "-" => "-".to_owned(),
            text => format!("`{}`", escape(text)),
        };
        let (key, kind, doc) = (key(*property), property.kind(), escape(property.doc()));
        let _ = writeln!(out, "| `{key}` | {default} | {kind} | {doc} |");
    }
}
