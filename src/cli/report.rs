//! What is printed for people: diagnostics and pages.

use std::io::{IsTerminal, Write};

use crate::config::{Diagnostic, Severity};

/// A line on standard output. A closed pipe is not an error.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line on standard error.
pub fn error(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Prints complaints on standard error, sorted by place, with a summary. Returns (errors, warnings).
pub fn diagnostics(diagnostics: &[Diagnostic]) -> (usize, usize) {
    let mut sorted: Vec<&Diagnostic> = diagnostics.iter().collect();
    sorted.sort_by(|a, b| (&a.location, &a.subject).cmp(&(&b.location, &b.subject)));
    let mut out = std::io::stderr().lock();
    let colour = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    for diagnostic in &sorted {
        let text = diagnostic.to_string();
        let text = match (colour, diagnostic.severity) {
            (false, _) => text,
            (true, Severity::Error) => text.replacen("error:", "\x1b[1;31merror:\x1b[0m", 1),
            (true, Severity::Warning) => text.replacen("warning:", "\x1b[1;33mwarning:\x1b[0m", 1),
        };
        let _ = writeln!(out, "{text}\n");
    }
    let errors = sorted.iter().filter(|d| d.severity == Severity::Error).count();
    let warnings = sorted.len() - errors;
    if !sorted.is_empty() {
        let _ = writeln!(out, "{}, {}", count(errors, "error"), count(warnings, "warning"));
    }
    (errors, warnings)
}

/// `1 error`, `2 errors`.
pub fn count(number: usize, word: &str) -> String {
    format!("{number} {word}{}", if number == 1 { "" } else { "s" })
}
